// Package sink writes records as text, to a file or a pipe. A sink owns its buffer and
// reports what it could not write; it neither reads from a hub nor starts goroutines.
package sink
