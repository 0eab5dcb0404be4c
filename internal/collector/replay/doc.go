// Package replay plays agents' log files, and files of IPFIX messages: it merges any number of them in the
// order of their times and gives out records as fast as they were captured, or
// faster. It knows no flows and no screens.
//
// Memory does not depend on the length of a log: each file has a buffer and,
// for going back, a mark of 24 bytes for each MiB read. Each file is read from
// its beginning to its end in its own order; a line that is older than the one
// before it (a clock was set back) comes at once.
//
// What is no log line is counted and told, and so is a last line without its
// end: the writer may be at it still, or may have been killed.
package replay
