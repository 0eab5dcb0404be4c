package rollup

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// reference is a store that keeps every record and works everything out anew,
// in the plainest way there is. Agents must tell directions.
type reference struct {
	cfg     Config
	late    int64
	future  int64
	now     int64 // seconds
	records []placed
	lates   []uint64
	futures []uint64
}

type placed struct {
	wire.Record
	host int
	sec  int64 // that it counts in
	at   int64 // second of its arrival
}

func newReference(cfg Config) *reference {
	return &reference{cfg: cfg, late: 5, future: 2, lates: make([]uint64, len(cfg.Hosts)), futures: make([]uint64, len(cfg.Hosts))}
}

func (m *reference) add(now int64, host int, r *wire.Record) {
	m.now = max(m.now, now/1e9)
	sec := r.Time / 1e9
	if sec < m.now-m.late {
		m.lates[host]++
		sec = m.now - m.late
	}
	if sec > m.now+m.future {
		m.futures[host]++
		sec = m.now + m.future
	}
	m.records = append(m.records, placed{*r, host, sec, m.now})
}

func (p *placed) side() Side {
	switch {
	case p.Flags&wire.Relayed != 0:
		return Relayed
	case p.Flags&wire.Outgoing != 0:
		return Sent
	}
	return Received
}

func (p *placed) counts() Counts { return Counts{1, uint64(p.Length)} }

func (p *placed) tuple() Tuple {
	return Tuple{p.SrcAddr(), p.DstAddr(), p.SrcPort, p.DstPort, p.Proto}
}

func (m *reference) rowsOf(p *placed) []int {
	rows := m.cfg.Classify(nil, &p.Record)
	if len(rows) == 0 {
		rows = []int{m.cfg.Rows}
	}
	return rows
}

func (m *reference) in(w Window) (list []placed) {
	for _, p := range m.records {
		if p.sec >= w.From && p.sec < w.To {
			list = append(list, p)
		}
	}
	return list
}

func (m *reference) cells(w Window) map[CellCounts][]Counts {
	cells := make(map[CellCounts][]Counts)
	for _, p := range m.in(w) {
		for i, row := range m.rowsOf(&p) {
			k := CellCounts{Host: p.host, Row: row}
			if i > 0 || p.side() == Relayed {
				k.Level = 1
			}
			if cells[k] == nil {
				cells[k] = make([]Counts, w.Points())
			}
			at := (p.sec - w.From) / w.Step
			cells[k][at] = cells[k][at].Plus(p.counts())
		}
	}
	return cells
}

// subject is what observers may see together, in one second.
type subject struct {
	sec   int64
	tuple Tuple // ports and protocol only for conversations
	row   int   // likewise
}

type watcher struct {
	side Side
	host int
}

// once finds the observer of each pair and second whose numbers count.
func (m *reference) once() map[subject]watcher {
	type sent struct {
		src, dst netip.Addr
	}
	sentAt := make(map[sent][]*placed)
	seen := make(map[subject]map[watcher]uint64)
	for i := range m.records {
		p := &m.records[i]
		if p.side() == Sent {
			k := sent{p.SrcAddr(), p.DstAddr()}
			sentAt[k] = append(sentAt[k], p)
		}
		if p.side() == Relayed {
			continue
		}
		s := m.subject(p, false)
		if seen[s] == nil {
			seen[s] = make(map[watcher]uint64)
		}
		seen[s][watcher{p.side(), p.host}]++
	}
	best := make(map[subject]watcher)
	for s, by := range seen {
		list := make([]watcher, 0)
		for w := range by {
			list = append(list, w)
		}
		slices.SortFunc(list, func(a, b watcher) int {
			return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(by[b], by[a]), cmp.Compare(a.host, b.host))
		})
		w := list[0]
		silent := false
		if w.side == Received {
			for _, t := range sentAt[sent{s.tuple.Src, s.tuple.Dst}] {
				silent = silent || t.sec >= s.sec-silence && t.at <= s.sec+m.late
			}
		}
		if !silent {
			best[s] = w
		}
	}
	return best
}

func (m *reference) subject(p *placed, talk bool) subject {
	s := subject{sec: p.sec, tuple: Tuple{Src: p.SrcAddr(), Dst: p.DstAddr()}}
	if talk {
		s.tuple, s.row = p.tuple(), m.rowsOf(p)[0]
	}
	return s
}

// onceCounts are the counts of each subject in w, seconds put together.
func (m *reference) onceCounts(w Window, talk bool) map[subject]Counts {
	best := m.once()
	sums := make(map[subject]Counts)
	for _, p := range m.in(w) {
		b, ok := best[m.subject(&p, false)]
		s := m.subject(&p, talk)
		s.sec = 0
		sums[s] = sums[s].Plus(Counts{})
		if ok && b == (watcher{p.side(), p.host}) {
			sums[s] = sums[s].Plus(p.counts())
		}
	}
	return sums
}

// rows are the rows of w, each packet once, by row and level.
func (m *reference) rows(w Window) map[rowKey][]Counts {
	best := m.once()
	rows := make(map[rowKey][]Counts)
	for _, p := range m.in(w) {
		b, ok := best[m.subject(&p, false)]
		if p.side() != Relayed && (!ok || b != (watcher{p.side(), p.host})) {
			continue
		}
		for i, row := range m.rowsOf(&p) {
			k := rowKey{row: uint32(row)}
			if i > 0 || p.side() == Relayed {
				k.level = 1
			}
			if rows[k] == nil {
				rows[k] = make([]Counts, w.Points())
			}
			at := (p.sec - w.From) / w.Step
			rows[k][at] = rows[k][at].Plus(p.counts())
		}
	}
	return rows
}

// mgenRef is what the reference says of an MGEN flow at a receiver.
type mgenRef struct {
	messages, unique, duplicates, reordered uint64
	expected                                uint64
	min, max, sum                           int64
	negative                                uint64
	jitter                                  float64 // after the last message of the newest second
	running                                 float64
	newest                                  int64
}

// mgen works on all records of a flow at one receiver, in order of arrival. The
// numbers must not begin anew.
func (m *reference) mgen(flow uint32, src, dst netip.Addr, host int) mgenRef {
	var x mgenRef
	seen := make(map[uint32]bool)
	var highest, lowest uint32
	var last *placed
	for i := range m.records {
		p := &m.records[i]
		if p.Flags&wire.MGENHeader == 0 || p.FlowID != flow || p.SrcAddr() != src || p.DstAddr() != dst ||
			p.host != host || p.side() != Received {
			continue
		}
		x.messages++
		if seen[p.MGENSeq] {
			x.duplicates++
			continue
		}
		if len(seen) == 0 {
			lowest = p.MGENSeq
		} else if p.MGENSeq < highest {
			x.reordered++
		}
		seen[p.MGENSeq] = true
		highest = max(highest, p.MGENSeq)
		delay := p.Time - p.MGENTime*1000
		if x.unique == 0 {
			x.min, x.max = delay, delay
		}
		x.unique++
		x.min, x.max, x.sum = min(x.min, delay), max(x.max, delay), x.sum+delay
		if delay < 0 {
			x.negative++
		}
		if last != nil {
			d := float64((p.Time - last.Time) - (p.MGENTime-last.MGENTime)*1000)
			x.running += (max(d, -d) - x.running) / 16
		}
		last = p
		if p.sec >= x.newest {
			x.newest, x.jitter = p.sec, x.running
		}
	}
	if len(seen) > 0 {
		x.expected = uint64(highest-lowest) + 1
	}
	return x
}
