package rollup

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"time"
)

// maxPoints is how many points a series has if the query may choose.
const maxPoints = 600

// mostPoints is how many it has at most, whatever is asked for: a day of
// minutes, an hour of seconds.
const mostPoints = 3600

// Last is the window of the newest complete seconds.
func (s *Snapshot) Last(seconds int64) Window {
	return Window{From: s.Complete + 1 - seconds, To: s.Complete + 1}
}

// Span is the window of all that is known.
func (s *Snapshot) Span() Window {
	if s.Oldest == 0 {
		return Window{}
	}
	return Window{From: s.Oldest, To: max(s.Complete+1, s.Oldest)}
}

// Fit is the window that a result for w has.
func (s *Snapshot) Fit(w Window) Window {
	const far = 1 << 40 // seconds; nothing overflows
	w.From = min(max(w.From, -far), far)
	w.To = min(max(w.To, w.From), far)
	w.Step = min(w.Step, 2*far)
	if h := s.history; len(h.open)+len(h.tiers[0]) > 0 {
		// Beyond what is known there is nothing; a day more on each side lets
		// charts have their margins.
		const day = 24 * 3600
		w.From = min(max(w.From, s.Oldest-day), s.Complete+day)
		w.To = max(min(w.To, s.Complete+day), w.From)
	}
	length := w.To - w.From
	if w.Step <= 0 {
		w.Step = (length + maxPoints - 1) / maxPoints
		if w.Step > tierSpecs[1].span/2 {
			w.Step = roundUp(w.Step, tierSpecs[1].span) // ten times less to look at
		}
	}
	w.Step = max(w.Step, (length+mostPoints-1)/mostPoints, 1)
	w.Step = roundUp(w.Step, s.history.finest(w.From))
	for i := len(tierSpecs) - 1; i > 0; i-- {
		if w.Step > tierSpecs[i].span {
			w.Step = roundUp(w.Step, tierSpecs[i].span)
			break
		}
	}
	w.From = floorTo(w.From, w.Step)
	w.To = floorTo(w.To+w.Step-1, w.Step)
	return w
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// finest is the span of the finest frames that reach back to from, or as far as
// any do.
func (h *history) finest(from int64) int64 {
	for i, frames := range h.tiers {
		if len(frames) == 0 {
			continue
		}
		first := frames[0].start
		if first <= from || !h.knowsBefore(i+1, first) {
			return tierSpecs[i].span
		}
	}
	return 1
}

// knowsBefore: one of the tiers from i on has a frame that ends by t.
func (h *history) knowsBefore(i int, t int64) bool {
	for _, frames := range h.tiers[i:] {
		if len(frames) > 0 && frames[0].end() <= t {
			return true
		}
	}
	return false
}

func (h *history) oldest() int64 {
	oldest := int64(math.MaxInt64)
	for _, frames := range h.tiers {
		if len(frames) > 0 {
			oldest = min(oldest, frames[0].start)
		}
	}
	if len(h.open) > 0 {
		oldest = min(oldest, h.open[0].start)
	}
	if oldest == math.MaxInt64 {
		return 0
	}
	return oldest
}

// each gives the frames of a fitted window in order of time, each second once:
// the longest that fit into its steps, and shorter ones where there are none
// of those yet.
func (h *history) each(w Window, yield func(*frame)) {
	from := w.From
	for i := len(tierSpecs) - 1; i >= 0; i-- {
		if w.Step%tierSpecs[i].span != 0 || !h.begun[i] {
			continue
		}
		frames := h.tiers[i]
		at, _ := slices.BinarySearchFunc(frames, from, func(f *frame, t int64) int { return cmp.Compare(f.start, t) })
		for _, f := range frames[at:] {
			if f.start >= w.To {
				break
			}
			yield(f)
		}
		from = max(from, h.until[i])
	}
	for _, f := range h.open {
		if f.start >= w.From && f.start < w.To {
			yield(f)
		}
	}
}

// point is which step of w the frame belongs to.
func (w Window) point(f *frame) int { return int((f.start - w.From) / w.Step) }

// Overview is all traffic in w. Queries are worked out each time: who answers
// many that ask the same keeps the answer.
func (s *Snapshot) Overview(w Window) *Overview {
	w = s.Fit(w)
	o := &Overview{Window: w, Series: make([]Counts, w.Points())}
	rows := make(map[uint32]*FlowSeries)
	cells := make(map[cellKey]Counts)
	s.history.each(w, func(f *frame) {
		at := w.point(f)
		o.Total = o.Total.Plus(f.total)
		o.Series[at] = o.Series[at].Plus(f.total)
		f.eachRow(func(k rowKey, c Counts) {
			r := rows[k.row]
			if r == nil {
				r = newFlowSeries(int(k.row), w)
				rows[k.row] = r
			}
			r.add(at, k.level, c)
		})
		f.eachCell(func(k cellKey, c Counts) { cells[k] = cells[k].Plus(c) })
	})
	for _, r := range rows {
		o.Flows = append(o.Flows, *r)
	}
	slices.SortFunc(o.Flows, func(a, b FlowSeries) int { return cmp.Compare(a.Row, b.Row) })
	o.Hosts = hostCounts(cells)
	for i := range o.Hosts {
		o.Relayed = o.Relayed.Plus(o.Hosts[i].Relayed)
		o.Seen = o.Seen.Plus(o.Hosts[i].Seen())
	}
	return o
}

func newFlowSeries(row int, w Window) *FlowSeries {
	n := w.Points()
	return &FlowSeries{Row: row, PrimarySeries: make([]Counts, n), SecondarySeries: make([]Counts, n)}
}

func (r *FlowSeries) add(at int, level uint8, c Counts) {
	if level == 0 {
		r.Primary = r.Primary.Plus(c)
		r.PrimarySeries[at] = r.PrimarySeries[at].Plus(c)
		return
	}
	r.Secondary = r.Secondary.Plus(c)
	r.SecondarySeries[at] = r.SecondarySeries[at].Plus(c)
}

// hostCounts sorts cells by host and row.
func hostCounts(cells map[cellKey]Counts) []HostCounts {
	var hosts []HostCounts
	for _, k := range sortedCells(cells) {
		n := len(hosts)
		if n == 0 || hosts[n-1].Host != int(k.host) {
			hosts = append(hosts, HostCounts{Host: int(k.host)})
			n++
		}
		hosts[n-1].add(k, cells[k])
	}
	return hosts
}

func (h *HostCounts) add(k cellKey, c Counts) {
	if k.row == allRows {
		*h.side(Side(k.which)) = c
		return
	}
	n := len(h.Flows)
	if n == 0 || h.Flows[n-1].Row != int(k.row) {
		h.Flows = append(h.Flows, FlowCounts{Row: int(k.row)})
		n++
	}
	if k.which == 0 {
		h.Flows[n-1].Primary = c
	} else {
		h.Flows[n-1].Secondary = c
	}
}

func (h *HostCounts) side(s Side) *Counts {
	return [...]*Counts{Sent: &h.Sent, Relayed: &h.Relayed, Received: &h.Received}[s]
}

func sortedCells(cells map[cellKey]Counts) []cellKey {
	keys := make([]cellKey, 0, len(cells))
	for k := range cells {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareCells)
	return keys
}

// sumCells is what a snapshot shows of the sums since the start.
func sumCells(cells map[cellKey]Counts) []CellCounts {
	list := make([]CellCounts, 0, len(cells))
	for _, k := range sortedCells(cells) {
		if k.row != allRows {
			list = append(list, CellCounts{int(k.host), int(k.row), k.which, cells[k]})
		}
	}
	return list
}

// Cells are all flows of all hosts in w over time, as seen.
func (s *Snapshot) Cells(w Window) *Cells {
	w = s.Fit(w)
	return &Cells{Window: w, Cells: s.cells(w)}
}

func (s *Snapshot) cells(w Window) []CellSeries {
	series := make(map[cellKey]*CellSeries)
	s.history.each(w, func(f *frame) {
		at := w.point(f)
		f.eachCell(func(k cellKey, c Counts) {
			if k.row == allRows {
				return
			}
			x := series[k]
			if x == nil {
				x = &CellSeries{CellCounts: CellCounts{int(k.host), int(k.row), k.which, Counts{}}, Series: make([]Counts, w.Points())}
				series[k] = x
			}
			x.Counts = x.Plus(c)
			x.Series[at] = x.Series[at].Plus(c)
		})
	})
	list := make([]CellSeries, 0, len(series))
	for _, x := range series {
		list = append(list, *x)
	}
	slices.SortFunc(list, func(a, b CellSeries) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Level, b.Level))
	})
	return list
}

// Flow is the traffic of one row (Config.Rows for that of no flow) in w.
func (s *Snapshot) Flow(row int, w Window) *FlowView {
	w = s.Fit(w)
	v := &FlowView{Window: w, Flow: *newFlowSeries(row, w)}
	cells := make(map[cellKey]Counts)
	s.history.each(w, func(f *frame) {
		at := w.point(f)
		f.eachRow(func(k rowKey, c Counts) {
			if k.row == uint32(row) {
				v.Flow.add(at, k.level, c)
			}
		})
		f.eachCell(func(k cellKey, c Counts) {
			if k.row == uint32(row) {
				cells[k] = cells[k].Plus(c)
			}
		})
	})
	for _, h := range hostCounts(cells) {
		v.Hosts = append(v.Hosts, FlowHost{h.Host, h.Flows[0].Primary, h.Flows[0].Secondary})
	}
	return v
}

// HostViews are all hosts with traffic in w, over time, ordered by host. The
// window they have is Fit(w).
func (s *Snapshot) HostViews(w Window) []HostView {
	w = s.Fit(w)
	views := make(map[uint32]*HostView)
	cells := make(map[cellKey]Counts)
	s.history.each(w, func(f *frame) {
		at := w.point(f)
		f.eachCell(func(k cellKey, c Counts) {
			cells[k] = cells[k].Plus(c)
			if k.row != allRows {
				return
			}
			v := views[k.host]
			if v == nil {
				n := w.Points()
				v = &HostView{Window: w, SentSeries: make([]Counts, n), RelayedSeries: make([]Counts, n), ReceivedSeries: make([]Counts, n)}
				views[k.host] = v
			}
			p := [...][]Counts{Sent: v.SentSeries, Relayed: v.RelayedSeries, Received: v.ReceivedSeries}[k.which]
			p[at] = p[at].Plus(c)
		})
	})
	var list []HostView
	for _, h := range hostCounts(cells) {
		v := views[uint32(h.Host)]
		v.HostCounts = h
		list = append(list, *v)
	}
	return list
}

// found is the traffic of one subject in a window, by observer.
type found struct {
	key  entryKey // a subject
	once Counts
	by   []foundBy // ordered by side and host
}

type foundBy struct {
	side Side
	host uint32
	seen Counts
}

// find adds up the entries of a kind in w. Forgotten ones are in other.
func (s *Snapshot) find(kind entryKind, w Window, want func(*entryKey) bool) (list []*found, other Counts) {
	sums := make(map[uint32]observed)
	s.history.each(w, func(f *frame) {
		if kind == pairs {
			other = other.Plus(f.other.pairs)
		} else {
			other = other.Plus(f.other.talks)
		}
		f.eachEntry(kind, func(id uint32, o observed) {
			e := sums[id]
			sums[id] = observed{e.seen.Plus(o.seen), e.once.Plus(o.once)}
		})
	})
	of := make(map[entryKey]*found)
	for id, o := range sums {
		k := s.history.key(id)
		if k == nil {
			other = other.Plus(o.once)
			continue
		}
		if want != nil && !want(k) {
			continue
		}
		subject := k.subject()
		x := of[subject]
		if x == nil {
			x = &found{key: subject}
			of[subject] = x
			list = append(list, x)
		}
		x.once = x.once.Plus(o.once)
		x.see(k.side, k.host, o.seen)
	}
	for _, x := range list {
		slices.SortFunc(x.by, func(a, b foundBy) int {
			return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(a.host, b.host))
		})
	}
	return list, other
}

// see adds what an observer saw; a key that was forgotten and came back has two
// numbers.
func (x *found) see(side Side, host uint32, c Counts) {
	for i := range x.by {
		if x.by[i].side == side && x.by[i].host == host {
			x.by[i].seen = x.by[i].seen.Plus(c)
			return
		}
	}
	x.by = append(x.by, foundBy{side, host, c})
}

// sent, relayed, received: of several agents that saw the same as senders or
// receivers, that of the destination, or the one that saw most.
func (x *found) counts(dstHost int) (sent, relayed, received Counts) {
	atDst := false
	for _, b := range x.by {
		switch b.side {
		case Sent:
			if b.seen.Packets > sent.Packets {
				sent = b.seen
			}
		case Relayed:
			relayed = relayed.Plus(b.seen)
		case Received:
			if int(b.host) == dstHost {
				received, atDst = b.seen, true
			} else if !atDst && b.seen.Packets > received.Packets {
				received = b.seen
			}
		}
	}
	return sent, relayed, received
}

func heavierFirst(a, b *found) int {
	return cmp.Or(cmp.Compare(b.weight(), a.weight()), compareSubjects(&a.key, &b.key))
}

// weight orders what never counted once (seen by relays alone) last.
func (x *found) weight() uint64 { return x.once.Bytes }

func compareSubjects(a, b *entryKey) int {
	return cmp.Or(
		cmp.Compare(a.flow, b.flow), bytes.Compare(a.src[:], b.src[:]), bytes.Compare(a.dst[:], b.dst[:]),
		cmp.Compare(a.sport, b.sport), cmp.Compare(a.dport, b.dport), cmp.Compare(a.proto, b.proto),
		cmp.Compare(a.row, b.row),
	)
}

// Matrix is who sent to whom in w: the heaviest cells, at most so many.
func (s *Snapshot) Matrix(w Window, most int) *Matrix {
	w = s.Fit(w)
	list, other := s.find(pairs, w, nil)
	slices.SortFunc(list, heavierFirst)
	m := &Matrix{Window: w, Other: other, Total: other}
	receives := receivers(list)
	for i, x := range list {
		m.Total = m.Total.Plus(x.once)
		if i >= most {
			m.Other = m.Other.Plus(x.once)
			continue
		}
		c := Cell{
			Src: x.key.addr(&x.key.src), Dst: x.key.addr(&x.key.dst),
			SrcHost: s.history.owner(x.key.src), DstHost: s.history.owner(x.key.dst), Once: x.once,
		}
		c.Sent, c.Relayed, c.Received = x.counts(c.DstHost)
		if !isGroup(x.key.dst, x.key.v6) && c.Sent.Packets > 0 && (c.Received.Packets > 0 || receives[c.DstHost]) {
			c.Loss = lossByCounts(c.Sent.Packets, c.Received.Packets)
		}
		m.Cells = append(m.Cells, c)
	}
	return m
}

// receivers are the hosts whose agents report what they receive.
func receivers(list []*found) map[int]bool {
	hosts := make(map[int]bool)
	for _, x := range list {
		for _, b := range x.by {
			if b.side == Received {
				hosts[int(b.host)] = true
			}
		}
	}
	return hosts
}

func lossByCounts(sent, received uint64) Loss {
	return Loss{Valid: true, Expected: sent, Lost: sent - min(sent, received)}
}

// Groups are the multicast groups in w.
func (s *Snapshot) Groups(w Window) *Groups {
	w = s.Fit(w)
	list, _ := s.find(pairs, w, func(k *entryKey) bool { return isGroup(k.dst, k.v6) })
	slices.SortFunc(list, heavierFirst)
	of := make(map[[16]byte]*Group)
	g := &Groups{Window: w}
	var order []*Group
	for _, x := range list {
		group := of[x.key.dst]
		if group == nil {
			group = &Group{Addr: x.key.addr(&x.key.dst)}
			of[x.key.dst] = group
			order = append(order, group)
		}
		group.Once = group.Once.Plus(x.once)
		group.Senders = append(group.Senders, s.groupSender(x))
	}
	slices.SortStableFunc(order, func(a, b *Group) int { return cmp.Compare(b.Once.Bytes, a.Once.Bytes) })
	for _, group := range order {
		g.Groups = append(g.Groups, *group)
	}
	return g
}

func (s *Snapshot) groupSender(x *found) GroupSender {
	m := GroupSender{Src: x.key.addr(&x.key.src), Host: s.history.owner(x.key.src), Once: x.once}
	sent, _, best := x.counts(-1)
	m.Watched = sent.Packets > 0
	of := best.Packets
	if m.Watched {
		of = sent.Packets
	}
	for _, b := range x.by {
		if b.side != Received {
			continue
		}
		r := GroupReceiver{Host: int(b.host), Received: b.seen}
		if of > 0 {
			r.Fraction = min(float64(b.seen.Packets)/float64(of), 1)
		}
		m.Receivers = append(m.Receivers, r)
	}
	return m
}

// Talkers are the heaviest conversations in w, at most so many.
func (s *Snapshot) Talkers(w Window, most int) *Talkers {
	w = s.Fit(w)
	list, other := s.find(talks, w, nil)
	slices.SortFunc(list, heavierFirst)
	t := &Talkers{Window: w, Other: other, Total: other}
	for i, x := range list {
		t.Total = t.Total.Plus(x.once)
		if i >= most {
			t.Other = t.Other.Plus(x.once)
			continue
		}
		k := Talker{Tuple: x.key.tuple(), Once: x.once, Row: int(x.key.row)}
		k.Sent, k.Relayed, k.Received = x.counts(s.history.owner(x.key.dst))
		t.Talkers = append(t.Talkers, k)
	}
	return t
}

// mgenFound is an MGEN flow at one observer in a window, or in one step.
type mgenFound struct {
	key  entryKey
	stat mgenStat
}

// MGEN is all MGEN flows in w.
func (s *Snapshot) MGEN(w Window) *MGEN {
	w = s.Fit(w)
	m := &MGEN{Window: w}
	sums := make(map[uint32]*mgenStat)
	s.history.each(w, func(f *frame) {
		m.Other = m.Other.Plus(f.other.mgens)
		f.eachMGEN(func(id uint32, n *mgenStat) {
			e := sums[id]
			if e == nil {
				e = new(mgenStat)
				sums[id] = e
			}
			e.add(n)
		})
	})
	for _, x := range s.observers(sums, &m.Other) {
		subject := x.key.subject()
		n := len(m.Flows)
		if n == 0 || m.Flows[n-1].ID != x.key.flow || m.Flows[n-1].Tuple != subject.tuple() {
			m.Flows = append(m.Flows, MGENFlow{ID: x.key.flow, Tuple: subject.tuple(), SrcHost: s.history.owner(x.key.src)})
			n++
		}
		m.Flows[n-1].add(&x)
	}
	receives := make(map[int]bool)
	for i := range m.Flows {
		for _, r := range m.Flows[i].Receivers {
			receives[r.Host] = true
		}
	}
	for i := range m.Flows {
		f := &m.Flows[i]
		dst := s.history.owner(f.Dst.As16())
		if f.Watched && len(f.Receivers) == 0 && receives[dst] && !f.Dst.IsMulticast() {
			f.Receivers = []MGENReceiver{{Host: dst}} // nothing has arrived
		}
		f.setLoss(time.Duration(w.Seconds()) * time.Second)
	}
	return m
}

// observers resolves the numbers of entries, and sorts them by flow, side and
// host.
func (s *Snapshot) observers(sums map[uint32]*mgenStat, other *Counts) []mgenFound {
	of := make(map[entryKey]*mgenStat, len(sums))
	for _, id := range sortedIDs(sums) {
		k := s.history.key(id)
		if k == nil {
			*other = other.Plus(Counts{sums[id].packets, sums[id].bytes})
			continue
		}
		if e := of[*k]; e != nil {
			e.add(sums[id])
		} else {
			of[*k] = sums[id]
		}
	}
	list := make([]mgenFound, 0, len(of))
	for k, stat := range of {
		list = append(list, mgenFound{k, *stat})
	}
	slices.SortFunc(list, func(a, b mgenFound) int {
		return cmp.Or(compareSubjects(&a.key, &b.key), cmp.Compare(a.key.side, b.key.side), cmp.Compare(a.key.host, b.key.host))
	})
	return list
}

func sortedIDs(sums map[uint32]*mgenStat) []uint32 {
	ids := make([]uint32, 0, len(sums))
	for id := range sums {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func (f *MGENFlow) add(x *mgenFound) {
	c := Counts{x.stat.packets, x.stat.bytes}
	switch x.key.side {
	case Sent:
		f.Watched = true
		if c.Packets > f.Sent.Packets {
			f.Sent = MGENCounts{c, x.stat.messages}
		}
	case Relayed:
		f.Relayed = f.Relayed.Plus(c)
	case Received:
		f.Receivers = append(f.Receivers, newReceiver(x))
	}
}

func newReceiver(x *mgenFound) MGENReceiver {
	m := &x.stat
	r := MGENReceiver{
		Host:       int(x.key.host),
		Received:   MGENCounts{Counts{m.packets, m.bytes}, m.messages},
		Duplicates: m.duplicates, Reordered: m.reordered, Restarts: m.restarts,
		Delayed: m.delayed, NegativeDelays: m.negative,
	}
	if m.delayed > 0 {
		r.MinDelay, r.MaxDelay = time.Duration(m.delayMin), time.Duration(m.delayMax)
		r.MeanDelay = time.Duration(m.delaySum / int64(m.delayed))
		r.Jitter = time.Duration(m.jitter)
	}
	if m.messages > 0 {
		lost := min(max(m.lost(), 0), int64(m.expected))
		r.Loss = Loss{Valid: true, BySequence: true, Expected: m.expected, Lost: uint64(lost)}
	}
	return r
}

// setLoss fills in losses that sequence numbers do not tell: all of a feed that
// has none, and those before the first and after the last message that came.
func (f *MGENFlow) setLoss(window time.Duration) {
	if !f.Watched {
		return
	}
	for i := range f.Receivers {
		r := &f.Receivers[i]
		if !r.Loss.Valid {
			r.Loss = lossByCounts(f.Sent.Packets, r.Received.Packets)
			continue
		}
		arrived := r.Received.Messages - r.Duplicates
		missing := f.Sent.Messages - min(f.Sent.Messages, arrived)
		// Of those sent in the window some may still be on their way; and what
		// sequence numbers tell is not given up for a few.
		way := min(max(r.MaxDelay, 0)+time.Second, window)
		if on := uint64(float64(f.Sent.Messages) * way.Seconds() / window.Seconds()); missing > r.Loss.Lost+on+f.Sent.Messages/50+5 {
			r.Loss = lossByCounts(f.Sent.Messages, arrived)
		}
	}
}

// MGENSeries is one MGEN flow, named by its ID and tuple, in w over time.
func (s *Snapshot) MGENSeries(id uint32, t Tuple, w Window) *MGENSeries {
	w = s.Fit(w)
	n := w.Points()
	m := &MGENSeries{Window: w, Sent: make([]Counts, n)}
	ids := make(map[uint32]*entryKey)
	for i := range s.history.keys {
		k := &s.history.keys[i].key
		if k.kind == mgens && k.flow == id && k.tuple() == t {
			ids[s.history.keys[i].id] = k
		}
	}
	points := make(map[entryKey][]mgenStat)
	s.history.each(w, func(f *frame) {
		at := w.point(f)
		f.eachMGEN(func(id uint32, x *mgenStat) {
			k := ids[id]
			if k == nil {
				return
			}
			if points[*k] == nil {
				points[*k] = make([]mgenStat, n)
			}
			points[*k][at].add(x)
		})
	})
	sent := uint64(0)
	for k, p := range points {
		switch k.side {
		case Sent:
			if sum := packetsOf(p); sum > sent {
				sent = sum
				for i := range p {
					m.Sent[i] = Counts{p[i].packets, p[i].bytes}
				}
			}
		case Received:
			m.Receivers = append(m.Receivers, receiverSeries(int(k.host), p))
		}
	}
	slices.SortFunc(m.Receivers, func(a, b MGENReceiverSeries) int { return cmp.Compare(a.Host, b.Host) })
	return m
}

func packetsOf(points []mgenStat) (sum uint64) {
	for i := range points {
		sum += points[i].packets
	}
	return sum
}

func receiverSeries(host int, points []mgenStat) MGENReceiverSeries {
	n := len(points)
	r := MGENReceiverSeries{
		Host: host, Received: make([]Counts, n), Expected: make([]uint64, n), Lost: make([]int64, n),
		Duplicates: make([]uint64, n), Reordered: make([]uint64, n), Delayed: make([]uint64, n),
		MinDelay: make([]int64, n), MeanDelay: make([]int64, n), MaxDelay: make([]int64, n),
		Jitter: make([]int64, n), NegativeDelays: make([]uint64, n),
	}
	for i := range points {
		m := &points[i]
		r.Received[i] = Counts{m.packets, m.bytes}
		r.Expected[i], r.Lost[i] = m.expected, m.lost()
		r.Duplicates[i], r.Reordered[i] = m.duplicates, m.reordered
		r.Delayed[i], r.NegativeDelays[i] = m.delayed, m.negative
		if m.delayed > 0 {
			r.MinDelay[i], r.MaxDelay[i], r.Jitter[i] = m.delayMin, m.delayMax, m.jitter
			r.MeanDelay[i] = m.delaySum / int64(m.delayed)
		}
	}
	return r
}
