// Package sink is where records end as text: a file or a pipe. A sink owns its
// buffer and says what it could not write; it neither reads a hub nor starts
// goroutines.
package sink
