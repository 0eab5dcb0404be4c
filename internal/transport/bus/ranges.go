package bus

import (
	"slices"
	"strings"

	"github.com/pcapper/pcapper/wire/batch"
)

const (
	// maxHoles is the number of runs of missing records of a stream that may still
	// arrive.
	maxHoles = 32
	// maxMarks is the number of streams of records that are remembered.
	maxMarks = 16384
)

// span is the records [From, To).
type span struct {
	From uint64 `json:"f"`
	To   uint64 `json:"t"`
}

// mark records what has been received of one stream of records: everything below Next
// except the holes, which are in order.
type mark struct {
	Agent   string `json:"a"`
	Boot    uint64 `json:"b"`
	Next    uint64 `json:"n"`
	Holes   []span `json:"h,omitempty"`
	Dropped uint64 `json:"d,omitempty"` // according to its newest batch
	Closed  uint64 `json:"c,omitempty"` // records in holes that are no longer expected
	Seen    uint64 `json:"s"`           // when, by the clock of marks
}

// markReceived returns the parts of [from, to) that have not been received before, and marks
// them as received.
func (m *mark) markReceived(from, to uint64) (fresh []span) {
	fresh = m.fill(from, min(to, m.Next))
	if from > m.Next {
		m.Holes = append(m.Holes, span{m.Next, from})
	}
	for len(m.Holes) > maxHoles {
		m.Closed += m.Holes[0].To - m.Holes[0].From
		m.Holes = slices.Delete(m.Holes, 0, 1)
	}
	if to > m.Next {
		fresh = append(fresh, span{max(from, m.Next), to})
		m.Next = to
	}
	return fresh
}

// fill removes [from, to) from the holes.
func (m *mark) fill(from, to uint64) (fresh []span) {
	if from >= to || len(m.Holes) == 0 {
		return nil
	}
	var left []span
	for _, h := range m.Holes {
		a, b := max(h.From, from), min(h.To, to)
		if a >= b {
			left = append(left, h)
			continue
		}
		fresh = append(fresh, span{a, b})
		if h.From < a {
			left = append(left, span{h.From, a})
		}
		if b < h.To {
			left = append(left, span{b, h.To})
		}
	}
	m.Holes = left
	return fresh
}

// missing returns the number of records that have not been received.
func (m *mark) missing() (n uint64) {
	for _, h := range m.Holes {
		n += h.To - h.From
	}
	return n + m.Closed
}

// marks are the marks of many streams of records.
type marks struct {
	of    map[streamID]*mark
	clock uint64
}

type streamID struct {
	agent string
	boot  uint64
}

func newMarks(list []mark) *marks {
	m := &marks{of: make(map[streamID]*mark, len(list))}
	for _, k := range list {
		k.Holes = slices.Clone(k.Holes)
		m.of[streamID{k.Agent, k.Boot}] = &k
		m.clock = max(m.clock, k.Seen)
	}
	return m
}

// newSpans returns the spans of b's records that have not been received before.
func (m *marks) newSpans(b *batch.Batch) []span {
	k := m.of[streamID{b.Agent, b.Boot}]
	if k == nil {
		k = &mark{Agent: b.Agent, Boot: b.Boot}
		m.of[streamID{b.Agent, b.Boot}] = k
		if len(m.of) > 2*maxMarks {
			m.of = newMarks(m.list()).of
			k = m.of[streamID{b.Agent, b.Boot}]
		}
	}
	m.clock++
	k.Seen = m.clock
	k.Dropped = max(k.Dropped, b.Dropped)
	return k.markReceived(b.First, b.Next())
}

// list returns all marks, without the least recently seen if there are too many.
func (m *marks) list() (list []mark) {
	for _, k := range m.of {
		list = append(list, *k)
	}
	slices.SortFunc(list, func(a, b mark) int {
		if a.Seen != b.Seen {
			if a.Seen > b.Seen {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Agent, b.Agent)
	})
	return list[:min(len(list), maxMarks)]
}

// each calls f with those records of b that have not been received before, as a
// separate batch per span. f must not keep it.
func (m *marks) each(b *batch.Batch, f func(*batch.Batch) error) error {
	for _, s := range m.newSpans(b) {
		part := *b
		part.First, part.Records = s.From, b.Records[s.From-b.First:s.To-b.First]
		if err := f(&part); err != nil {
			return err
		}
	}
	return nil
}
