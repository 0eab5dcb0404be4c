package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/collector/replay"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/wire"
)

// lineWriter prints each record as grapher lines.
type lineWriter struct {
	c      *collector
	stdout *os.File
	reader *hub.Reader[Item]
	graph  *sink.Grapher
	wrote  atomic.Uint64 // lines that stdout has accepted
	missed atomic.Uint64 // lines that it did not accept within drainTime
	taken  atomic.Uint64 // records read

	// asPlayed means that lines have the time at which they were played, because a
	// grapher ignores lines that are older than itself.
	asPlayed bool

	labels  []string // of agents
	scratch []uint32
}

func newLineWriter(c *collector, cfg Config) (*lineWriter, error) {
	stdout, err := openAgain(cfg.Stdout)
	if err != nil {
		return nil, err
	}
	w := &lineWriter{
		c:       c,
		stdout:  stdout,
		reader:  c.hub.NewReader(),
		graph:   sink.NewGrapher(stdout),
		scratch: make([]uint32, 0, len(c.file.Flows)),
	}
	w.asPlayed = c.player != nil && !cfg.RecordedTimes && isPipe(stdout)
	return w, nil
}

// run writes in large pieces while more is waiting, and immediately when nothing is. It
// takes about a millisecond to produce 64 KiB of lines, so no line is held back longer
// than that.
func (w *lineWriter) run() error {
	defer w.stdout.Close()
	defer w.reader.Close()
	for {
		items := w.reader.Items()
		for i := range items {
			err := w.write(&items[i])
			w.taken.Add(1)
			if err != nil {
				w.reader.Advance(i + 1) // it is in the buffer
				return w.failed(err)
			}
		}
		if len(items) > 0 {
			w.reader.Advance(len(items))
			w.count()
			continue
		}
		if err := w.graph.Flush(); err != nil {
			return w.failed(err)
		}
		w.count()
		if w.reader.Wait(context.Background()) != nil {
			return nil // the hub is closed and empty
		}
	}
}

// maxSplit is the maximum number of lines into which a record is split: one per
// millisecond of its second, more than anyone can draw.
const maxSplit = 1000

// write prints a record. If it stands for several packets of one second, it is split
// into lines from the first packet's time to the end of that second, so that lines
// count packets, and a grapher with a resolution below a second does not show a peak
// where the record begins.
func (w *lineWriter) write(item *Item) error {
	if item.Flags&wire.NotTraffic != 0 {
		return nil
	}
	n := min(item.Count(), maxSplit)
	at, rest := item.Time, time.Second-time.Duration(item.Time)%time.Second
	if w.asPlayed {
		at, rest = item.played, w.shorten(rest, n)
	}
	if n == 1 {
		return w.packet(item, at, item.GrapherValue())
	}
	bytes := uint64(item.Length)
	for k := range n {
		share := bytes*(k+1)/n - bytes*k/n
		if err := w.packet(item, at+int64(rest)*int64(k)/int64(n), share*8); err != nil {
			return err
		}
	}
	return nil
}

// shorten converts a time to the speed of the replay; a single packet does not need it.
func (w *lineWriter) shorten(d time.Duration, packets uint64) time.Duration {
	if packets == 1 {
		return 0
	}
	speed := w.c.player.Status().Speed
	if speed == replay.Max {
		return 0
	}
	return time.Duration(min(float64(d)/speed, float64(time.Hour)))
}

// packet prints one line for each flow of the record: the first is primary, the others
// are secondary, as is everything that the agent's host relayed.
func (w *lineWriter) packet(item *Item, at int64, value uint64) error {
	line := wire.GrapherLine{
		Time:  at,
		Host:  w.label(item.Host),
		ID:    wire.Unmatched,
		Value: value,
	}
	const relayed = wire.Relayed | wire.MarkRelayed
	if item.Flags&relayed == relayed {
		line.Level = 1
	}
	switch item.Stat() {
	case wire.CPU:
		line.ID = "C"
	case wire.Memory:
		line.ID = "M"
	}
	classes := w.c.classes.Load()
	flows := classes.of(item, w.scratch)
	if len(flows) == 0 {
		return w.graph.Line(&line)
	}
	for _, flow := range flows {
		line.ID = classes.names[flow]
		if err := w.graph.Line(&line); err != nil {
			return err
		}
		line.Level = 1
	}
	return nil
}

// label returns an agent's label, which never changes.
func (w *lineWriter) label(host uint32) string {
	for int(host) >= len(w.labels) {
		w.labels = append(w.labels, w.c.all()[len(w.labels)].host.Label)
	}
	return w.labels[host]
}

func (w *lineWriter) count() {
	written, _ := w.graph.Lines()
	w.wrote.Store(written)
}

// failed treats a closed stdout, and the end of drainTime, as a clean end.
func (w *lineWriter) failed(err error) error {
	w.count()
	_, kept := w.graph.Lines()
	w.missed.Store(kept)
	switch {
	case errors.Is(err, syscall.EPIPE):
		return errStdoutClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	}
	return err
}

// stop bounds the time that writing may still take.
func (w *lineWriter) stop() {
	// Regular files do not support deadlines, and do not need them.
	_ = w.stdout.SetWriteDeadline(time.Now().Add(drainTime))
}

func (w *lineWriter) status() outputStatus {
	done := count(w.wrote.Load(), "line") + " written"
	if n := w.missed.Load(); n > 0 {
		done += fmt.Sprintf(", %d not taken", n)
	}
	return outputStatus{done: done, hub: w.reader.Status(), taken: w.taken.Load()}
}
