package downsample

import (
	"cmp"
	"slices"
	"time"

	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

const (
	topSpan   = 10 * time.Second
	leastRoom = 1024 // flows in a table of ten seconds
)

// top keeps the heaviest flows of ten seconds, and the sums of the rest.
type top struct {
	keep, room int
	emit       func(batch.Level, *wire.Record)
	heavy      *flow.Table
	rest       *flow.Table // see sum
	ending     bool        // flows from heavy are collected in done
	done       []flow.Flow
}

func newTop(keep int, emit func(batch.Level, *wire.Record)) *top {
	t := &top{keep: keep, room: max(leastRoom, 16*keep), emit: emit}
	out := func(f *flow.Flow) { t.emit(batch.Top, &f.Record) }
	t.heavy = flow.NewSpan(topSpan, t.room, func(f *flow.Flow) {
		if !t.ending { // so heavy that its sum does not fit in 32 bits
			out(f)
			return
		}
		t.done = append(t.done, *f)
	})
	t.rest = flow.NewSpan(topSpan, leastRoom, out)
	return t
}

// addFlow adds a flow of one second.
func (t *top) addFlow(r *wire.Record) {
	if t.heavy.Len() >= t.room {
		t.heavy.Shrink(t.room/2, t.sum)
	}
	if r.Flags&wire.MGENHeader != 0 {
		// A flow may be among the top ones in one span and not in the next, so gaps in
		// its sequence numbers would mean nothing.
		c := *r
		c.Flags &^= wire.MGENHeader
		c.MGENSeq, c.MGENTime = 0, 0
		r = &c
	}
	t.heavy.Add(r)
}

// sum adds a flow to the rest.
func (t *top) sum(f *flow.Flow) {
	const kept = wire.IPv6 | wire.Outgoing | wire.Incoming | wire.Relayed | wire.MarkRelayed
	r := wire.Record{Time: f.Time, Length: f.Length, Packets: f.Packets, Proto: f.Proto, Flags: f.Flags & kept}
	if r.Flags&wire.IPv6 == 0 {
		r.SetSrc4([4]byte{})
		r.SetDst4([4]byte{})
	}
	t.rest.Add(&r)
}

// flushBefore emits the spans that ended before now.
func (t *top) flushBefore(now int64) {
	t.ending = true
	t.heavy.FlushBefore(now)
	t.choose()
	t.rest.FlushBefore(now)
}

func (t *top) flush() {
	t.ending = true
	t.heavy.Flush()
	t.choose()
	t.rest.Flush()
}

// choose emits the heaviest flows of each completed span, and adds the others to the
// rest.
func (t *top) choose() {
	t.ending = false
	span := func(f *flow.Flow) int64 { return f.Time / int64(topSpan) }
	slices.SortFunc(t.done, func(a, b flow.Flow) int { return cmp.Or(cmp.Compare(span(&a), span(&b)), flow.Heavier(a, b)) })
	n := 0 // in this span
	for i := range t.done {
		f := &t.done[i]
		if i > 0 && span(f) != span(&t.done[i-1]) {
			n = 0
		}
		if n++; n <= t.keep {
			t.emit(batch.Top, &f.Record)
			continue
		}
		t.sum(f)
	}
	t.done = t.done[:0]
}
