package sink

import (
	"bytes"
	"fmt"
	"io"

	"github.com/pcapper/pcapper/wire"
)

// grapherBuffer is when a Grapher writes by itself: a pipe holds 64 KiB, and a
// write of nearly that much costs little more than one of a line.
const grapherBuffer = 60 << 10

// Grapher writes grapher lines (see package wire) to a pipe or a file. It is
// owned by one goroutine. It writes whole lines only, in large pieces; who
// feeds it calls Flush when there is nothing more to feed it at the moment, so
// that a single line is not kept waiting.
type Grapher struct {
	w     io.Writer
	buf   []byte
	lines uint64 // in buf, less those that a failed write has written
	wrote uint64 // lines that w has taken
	err   error  // the first error of w; nothing is written after it
}

// NewGrapher returns a Grapher that writes to w.
func NewGrapher(w io.Writer) *Grapher {
	return &Grapher{w: w, buf: make([]byte, 0, grapherBuffer+4<<10)}
}

// Line adds a line. It blocks on w only if the buffer is full. Once w has
// failed, Line says so each time and keeps nothing.
func (g *Grapher) Line(l *wire.GrapherLine) error {
	if g.err != nil {
		return g.err
	}
	g.buf = wire.AppendGrapherLine(g.buf, l)
	g.lines++
	if len(g.buf) < grapherBuffer {
		return nil
	}
	return g.Flush()
}

// Flush writes what is buffered.
func (g *Grapher) Flush() error {
	if g.err != nil || len(g.buf) == 0 {
		return g.err
	}
	if n, err := g.w.Write(g.buf); err != nil {
		whole := uint64(bytes.Count(g.buf[:n], []byte{'\n'}))
		g.wrote += whole
		g.lines -= whole
		g.err = fmt.Errorf("cannot write grapher lines: %w", err)
		return g.err
	}
	g.wrote += g.lines
	g.lines, g.buf = 0, g.buf[:0]
	return nil
}

// Lines is how many lines have been written whole, and how many are kept; the
// latter will never be written once w has failed.
func (g *Grapher) Lines() (written, kept uint64) { return g.wrote, g.lines }
