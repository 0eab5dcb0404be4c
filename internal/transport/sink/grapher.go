package sink

import (
	"bytes"
	"fmt"
	"io"

	"github.com/pcapper/pcapper/wire"
)

// grapherBuffer is the size at which a Grapher writes on its own: a pipe holds 64 KiB,
// and a write of nearly that size costs little more than a write of one line.
const grapherBuffer = 60 << 10

// Grapher writes grapher lines (see package wire) to a pipe or a file. It must not be
// used by several goroutines at once. It writes whole lines only, in large pieces; its
// user calls Flush when there are no more lines for the moment, so that a single line
// is not delayed.
type Grapher struct {
	w     io.Writer
	buf   []byte
	lines uint64 // in buf, minus those that a failed write has written
	wrote uint64 // lines accepted by w
	err   error  // the first error of w; nothing is written after it
}

// NewGrapher returns a Grapher that writes to w.
func NewGrapher(w io.Writer) *Grapher {
	return &Grapher{w: w, buf: make([]byte, 0, grapherBuffer+4<<10)}
}

// Line adds a line. It blocks on w only if the buffer is full. Once w has failed, Line
// returns the error each time and discards the line.
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

// Lines returns the number of lines written completely, and the number buffered; the
// latter are never written once w has failed.
func (g *Grapher) Lines() (written, kept uint64) { return g.wrote, g.lines }
