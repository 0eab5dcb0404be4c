// Package replay plays agents' log files, and files of IPFIX messages. It merges any
// number of them by time and passes on records as fast as they were captured, or
// faster. It knows nothing about flows or displays.
//
// Memory does not depend on the length of a log: each file has a buffer and, for
// rewinding, a mark of 24 bytes per MiB read. Each file is read from beginning to end
// in its own order; a line that is older than the previous one (because a clock was set
// back) is played immediately.
//
// Lines that are not log lines are counted and reported, and so is an incomplete last
// line: the writer may still be writing it, or may have been killed.
package replay
