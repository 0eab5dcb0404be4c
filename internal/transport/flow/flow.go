// Package flow aggregates packets into flows: one entry for each 5-tuple, MGEN flow,
// and second or other time span. It never loses anything: a full table is flushed
// early.
package flow

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Flow is the packets of one span that have the same key.
type Flow struct {
	// Record is the first packet's, with the number of packets, the sum of all lengths,
	// and the flags that any of them has. Digest is 0 if there are several packets, and
	// TTL is 0 if theirs differ.
	wire.Record
	End int64 // the last packet's time, nanoseconds since 1970
}

// key is what the packets of a flow have in common.
type key struct {
	src, dst         [16]byte
	span             int64
	id               uint32
	srcPort, dstPort uint16
	flags            wire.Flags // restricted to common
	reason           wire.Reason
	proto            uint8
}

func (t *Table) keyOf(r *wire.Record) key {
	return key{
		src: r.Src, dst: r.Dst, span: t.spanOf(r.Time), id: r.Flow(), srcPort: r.SrcPort, dstPort: r.DstPort,
		flags: r.Flags & common, reason: r.Reason, proto: r.Proto,
	}
}

// common are the flags that all packets of a flow share.
const common = wire.IPv6 | wire.MGEN | wire.Outgoing | wire.Incoming | wire.Relayed | wire.MarkRelayed |
	wire.BeforeQueue | wire.NotTraffic

// Table collects flows. It must not be used by several goroutines at once.
type Table struct {
	span  int64 // nanoseconds
	limit int
	flows []Flow
	index map[key]int32
	emit  func(*Flow)

	packets uint64 // in flows
}

// New returns a table of at most limit flows of one second that passes each
// finished flow to emit, which must not keep it.
func New(limit int, emit func(*Flow)) *Table { return NewSpan(time.Second, limit, emit) }

// NewSpan is like New, for flows of another time span. Spans begin at multiples of
// their length since 1970.
func NewSpan(span time.Duration, limit int, emit func(*Flow)) *Table {
	return &Table{span: int64(span), limit: limit, index: make(map[key]int32), emit: emit}
}

// Len returns the number of flows in the table, Packets how many packets they stand for.
func (t *Table) Len() int        { return len(t.flows) }
func (t *Table) Packets() uint64 { return t.packets }

// give emits a flow of the table.
func (t *Table) give(f *Flow, to func(*Flow)) {
	t.packets -= uint64(f.Packets)
	to(f)
}

// Add counts a packet, or the packets that a record stands for. It reports whether this
// began a new flow. Each host statistic or membership is a flow of its own.
func (t *Table) Add(r *wire.Record) (begun bool) {
	if r.Flags&(wire.HostStat|wire.Member) != 0 {
		t.emit(begin(r))
		return true
	}
	t.packets += r.Count()
	k := t.keyOf(r)
	if i, ok := t.index[k]; ok {
		f := &t.flows[i]
		if uint64(f.Packets)+r.Count() <= math.MaxUint32 && f.Length <= math.MaxUint32-r.Length {
			f.addRecord(r)
			return false
		}
		t.give(f, t.emit) // the table is full: reuse the slot of an emitted flow
		*f = *begin(r)
		return true
	}
	if len(t.flows) >= t.limit {
		t.Flush()
	}
	t.index[k] = int32(len(t.flows))
	t.flows = append(t.flows, *begin(r))
	return true
}

func begin(r *wire.Record) *Flow {
	f := &Flow{Record: *r, End: r.Time}
	f.Packets = uint32(r.Count())
	return f
}

// addRecord counts another record. A flow begins with its earliest packet, which may arrive
// late, because processors capture in parallel.
func (f *Flow) addRecord(r *wire.Record) {
	f.Packets += uint32(r.Count())
	f.Length += r.Length
	f.End = max(f.End, r.Time)
	f.Flags |= r.Flags
	f.Digest = 0
	if f.TTL != r.TTL {
		f.TTL = 0
	}
	if r.Flags&wire.MGENHeader != 0 && (f.MGENTime == 0 && f.MGENSeq == 0 || r.Time < f.Time) {
		f.MGENSeq, f.MGENTime = r.MGENSeq, r.MGENTime
	}
	f.Time = min(f.Time, r.Time)
}

// Flush emits all flows.
func (t *Table) Flush() {
	for i := range t.flows {
		t.give(&t.flows[i], t.emit)
	}
	t.flows = t.flows[:0]
	clear(t.index)
}

// FlushBefore emits the flows of spans that ended before now (nanoseconds since 1970).
func (t *Table) FlushBefore(now int64) {
	current := t.spanOf(now)
	kept := t.flows[:0]
	for i := range t.flows {
		f := &t.flows[i]
		if t.spanOf(f.Time) < current {
			t.give(f, t.emit)
		} else {
			kept = append(kept, *f)
		}
	}
	if len(kept) == len(t.flows) {
		return
	}
	t.flows = kept
	t.reindex()
}

func (t *Table) reindex() {
	clear(t.index)
	for i := range t.flows {
		t.index[t.keyOf(&t.flows[i].Record)] = int32(i)
	}
}

// Shrink passes all but the n heaviest flows to rest, which must not keep them, and
// removes them.
func (t *Table) Shrink(n int, rest func(*Flow)) {
	if len(t.flows) <= n {
		return
	}
	slices.SortFunc(t.flows, Heavier)
	for i := n; i < len(t.flows); i++ {
		t.give(&t.flows[i], rest)
	}
	t.flows = t.flows[:n]
	t.reindex()
}

// Heavier orders flows by bytes, largest first, and then by packets.
func Heavier(a, b Flow) int {
	return cmp.Or(cmp.Compare(b.Length, a.Length), cmp.Compare(b.Packets, a.Packets))
}

// spanOf returns the number of the span that contains a time, which may be before 1970.
func (t *Table) spanOf(at int64) int64 {
	n := at / t.span
	if at%t.span < 0 {
		n--
	}
	return n
}
