package sink

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// grapherWriter keeps each write, and fails from the write numbered fail on.
type grapherWriter struct {
	writes []string
	fail   int
}

func (w *grapherWriter) Write(b []byte) (int, error) {
	if len(w.writes) == w.fail {
		return len(b) / 2, syscall.ENOSPC
	}
	w.writes = append(w.writes, string(b))
	return len(b), nil
}

func grapherLine(i int) *wire.GrapherLine {
	return &wire.GrapherLine{
		Time: 1560390672_895279000 + int64(i)*1_000_000,
		Host: "h1", ID: "3", Value: uint64(8 * i), Level: uint8(i % 2),
	}
}

func TestGrapherText(t *testing.T) {
	var out bytes.Buffer
	g := NewGrapher(&out)
	for i := range 2 {
		if err := g.Line(grapherLine(i)); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() != 0 {
		t.Errorf("before Flush %q is written", out.String())
	}
	grapherCounts(t, g, 0, 2)
	if err := g.Flush(); err != nil {
		t.Fatal(err)
	}
	const want = "1560390672.895279:h1:3:0:0\n1560390672.896279:h1:3:8:1\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	grapherCounts(t, g, 2, 0)
}

func grapherCounts(t *testing.T, g *Grapher, written, kept uint64) {
	t.Helper()
	if w, k := g.Lines(); w != written || k != kept {
		t.Errorf("%d lines written, %d kept; want %d and %d", w, k, written, kept)
	}
}

// TestGrapherWrites: without a Flush lines leave in writes of nearly 64 KiB,
// each of whole lines, none lost or doubled.
func TestGrapherWrites(t *testing.T) {
	w := &grapherWriter{fail: -1}
	g := NewGrapher(w)
	const n = 20_000
	var want bytes.Buffer
	for i := range n {
		want.Write(wire.AppendGrapherLine(nil, grapherLine(i)))
		if err := g.Line(grapherLine(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range w.writes {
		if len(text) < grapherBuffer || len(text) > 64<<10 || !strings.HasSuffix(text, "\n") {
			t.Errorf("write %d has %d bytes and ends with %q", i, len(text), text[len(text)-1:])
		}
	}
	g.Flush()
	before := len(w.writes)
	if g.Flush(); len(w.writes) != before {
		t.Error("Flush writes nothing")
	}
	if got := strings.Join(w.writes, ""); got != want.String() {
		t.Errorf("%d bytes written, want %d", len(got), want.Len())
	}
	grapherCounts(t, g, n, 0)
}

// TestGrapherFails: the first error stays, nothing follows half a line, and
// the lines of the failed write are counted one by one.
func TestGrapherFails(t *testing.T) {
	w := &grapherWriter{fail: 1}
	g := NewGrapher(w)
	g.Line(grapherLine(0))
	g.Flush()
	for i := range 5 {
		g.Line(grapherLine(i)) // the write takes half of them: two lines and a half
	}
	for _, err := range []error{g.Flush(), g.Flush(), g.Line(grapherLine(2))} {
		if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "cannot write grapher lines: ") {
			t.Errorf("error is %v", err)
		}
	}
	if w.fail = -1; g.Flush() == nil || len(w.writes) != 1 {
		t.Errorf("%d writes, want 1", len(w.writes))
	}
	grapherCounts(t, g, 3, 3)
}

func TestGrapherDoesNotAllocate(t *testing.T) {
	g := NewGrapher(io.Discard)
	line := grapherLine(7)
	if n := testing.AllocsPerRun(10_000, func() { g.Line(line) }); n != 0 {
		t.Errorf("%v allocations per line", n)
	}
}

func BenchmarkGrapher(b *testing.B) {
	g := NewGrapher(io.Discard)
	line := grapherLine(7)
	for b.Loop() {
		g.Line(line)
	}
}
