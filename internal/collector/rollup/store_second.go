package rollup

import (
	"cmp"
	"maps"
	"slices"
)

// How many entries of each kind a second keeps while it is open.
var openEntries = [nkinds]int{pairs: 8192, talks: 4096, mgens: 2048}

// second collects what packets of one second were seen.
type second struct {
	start int64 // seconds since the epoch
	used  bool
	dirty bool // more than what frame has
	frame *frame

	cells map[cellKey]Counts
	pairs *sketch[entryKey, Counts] // by set of rows
	talks *sketch[entryKey, Counts]
	mgens *sketch[entryKey, mgenStat]
	other others
	// otherRows are the rows of evicted pairs, as far as they count once.
	otherRows map[rowKey]Counts
	forgotten uint64 // evicted
	dropped   uint64 // evicted, or not in frame

	rows func(set uint32) []int
}

func newSecond(rows func(set uint32) []int) *second {
	s := &second{cells: make(map[cellKey]Counts), otherRows: make(map[rowKey]Counts), rows: rows}
	s.pairs = newSketch(openEntries[pairs], func(k *entryKey, c *Counts) {
		s.forgotten++
		if k.side != Received {
			s.addRows(s.otherRows, k, *c)
		}
		if k.side == Sent {
			s.other.pairs = s.other.pairs.Plus(*c)
		}
	})
	s.talks = newSketch(openEntries[talks], func(k *entryKey, c *Counts) {
		s.forgotten++
		if k.side == Sent {
			s.other.talks = s.other.talks.Plus(*c)
		}
	})
	s.mgens = newSketch(openEntries[mgens], func(k *entryKey, m *mgenStat) {
		s.forgotten++
		s.other.mgens = s.other.mgens.Plus(Counts{m.packets, m.bytes})
	})
	return s
}

func (s *second) reset(start int64) {
	s.start, s.used, s.dirty, s.frame = start, false, false, nil
	clear(s.cells)
	clear(s.otherRows)
	s.pairs.reset()
	s.talks.reset()
	s.mgens.reset()
	s.other, s.forgotten, s.dropped = others{}, 0, 0
}

// addRows counts c for the rows of k: what was relayed is secondary, and so is
// any row but the first.
func (s *second) addRows(to map[rowKey]Counts, k *entryKey, c Counts) {
	for i, row := range s.rows(k.row) {
		key := rowKey{row: uint32(row)}
		if i > 0 || k.side == Relayed {
			key.level = 1
		}
		to[key] = to[key].Plus(c)
	}
}

// addPackets counts packets of one conversation.
func (s *second) addPackets(k *connKey, side Side, set uint32, mgen bool, c Counts, messages uint64) {
	s.used, s.dirty = true, true
	host := uint32(k.host())
	rows := s.rows(set)
	for i, row := range rows {
		key := cellKey{host: host, row: uint32(row)}
		if i > 0 || side == Relayed {
			key.which = 1
		}
		s.cells[key] = s.cells[key].Plus(c)
	}
	key := cellKey{host, allRows, uint8(side)}
	s.cells[key] = s.cells[key].Plus(c)

	e := k.entry(pairs, side)
	e.row = set
	v := s.pairs.addWeight(&e, c.Bytes)
	*v = v.Plus(c)
	e = k.entry(talks, side)
	e.row = uint32(rows[0])
	v = s.talks.addWeight(&e, c.Bytes)
	*v = v.Plus(c)
	if mgen {
		e = k.entry(mgens, side)
		m := s.mgens.addWeight(&e, c.Bytes)
		m.addStat(&mgenStat{packets: c.Packets, bytes: c.Bytes, messages: messages})
	}
}

// addMGEN counts what a tracker found out.
func (s *second) addMGEN(k *entryKey, m *mgenStat) {
	s.used, s.dirty = true, true
	s.mgens.addWeight(k, 0).addStat(m)
}

// observer is one of those who saw the same traffic.
type observer struct {
	side Side
	host uint32
	n    uint64 // packets
}

// better: a sender's own agent before a receiver's; then who saw more; then
// the first in the configuration.
func (o observer) better(p observer) bool {
	if o.side != p.side {
		return o.side == Sent
	}
	if o.n != p.n {
		return o.n > p.n
	}
	return o.host < p.host
}

// freezer is what it takes to freeze a second. The maps are scratch pads.
type freezer struct {
	tally    *tally
	dir      *directory
	perFrame int64 // bytes
	// silent reports whether a pair's sender is expected to report, although it
	// has not in this second.
	silent func(pairKey) bool

	limits [nkinds]int
	merged map[entryKey]Counts  // pairs by observer, rows merged
	best   map[pairKey]observer // whose numbers count once
	list   []weighted
}

func newFreezer() freezer {
	return freezer{tally: newTally(), merged: make(map[entryKey]Counts), best: make(map[pairKey]observer)}
}

// choose finds out whose numbers count once.
func (f *freezer) choose(slots []slot[entryKey, Counts]) {
	clear(f.merged)
	clear(f.best)
	for i := range slots {
		k := slots[i].key
		k.row = 0
		f.merged[k] = f.merged[k].Plus(slots[i].value)
	}
	for k, n := range f.merged {
		if k.side == Relayed {
			continue
		}
		o := observer{k.side, k.host, n.Packets}
		if b, ok := f.best[k.pair()]; !ok || o.better(b) {
			f.best[k.pair()] = o
		}
	}
}

// once says whether what k's observer saw is what counts. A receiver's does not
// while the sender's agent is only silent.
func (f *freezer) once(k *entryKey) bool {
	b, ok := f.best[k.pair()]
	if !ok {
		return k.side == Sent // of a pair that was evicted
	}
	if b.side != k.side || b.host != k.host {
		return false
	}
	return k.side == Sent || !f.silent(k.pair())
}

// freeze puts s into f.tally, and says how many entries there was no room for.
func (s *second) freeze(f *freezer) (forgotten uint64) {
	t := f.tally
	t.reset()
	maps.Copy(t.cells, s.cells)
	maps.Copy(t.rows, s.otherRows)
	t.other = s.other

	f.choose(s.pairs.slots)
	f.limits = limits(f.perFrame, len(t.cells), [...]int{
		pairs: len(f.merged), talks: len(s.talks.slots), mgens: len(s.mgens.slots),
	})
	for i := range s.pairs.slots {
		if k := &s.pairs.slots[i].key; k.side == Relayed || f.once(k) {
			s.addRows(t.rows, k, s.pairs.slots[i].value)
		}
	}
	forgotten = s.forgotten + f.keepPairs() + f.keepTalks(s.talks) + f.keepMGEN(s.mgens)
	t.total = t.other.pairs
	for _, o := range t.entries[pairs] {
		t.total = t.total.Plus(o.once)
	}
	return forgotten
}

type weighted struct {
	key    entryKey
	seen   Counts
	weight uint64
}

func (f *freezer) keepPairs() (forgotten uint64) {
	f.list = f.list[:0]
	for k, n := range f.merged {
		f.list = append(f.list, weighted{k, n, n.Bytes})
	}
	return f.keep(pairs, &f.tally.other.pairs)
}

func (f *freezer) keepTalks(s *sketch[entryKey, Counts]) (forgotten uint64) {
	f.list = f.list[:0]
	for i := range s.slots {
		f.list = append(f.list, weighted{s.slots[i].key, s.slots[i].value, s.slots[i].value.Bytes})
	}
	return f.keep(talks, &f.tally.other.talks)
}

// keep puts the heaviest of f.list into the tally and the rest aside.
func (f *freezer) keep(kind entryKind, other *Counts) (forgotten uint64) {
	kept := heaviest(f.list, f.limits[kind])
	for i := range f.list {
		x := &f.list[i]
		o := observed{seen: x.seen}
		if f.once(&x.key) {
			o.once = o.seen
		}
		if i < kept {
			f.tally.entries[kind][f.dir.id(&x.key)] = o
			continue
		}
		forgotten++
		*other = other.Plus(o.once)
	}
	return forgotten
}

func (f *freezer) keepMGEN(s *sketch[entryKey, mgenStat]) (forgotten uint64) {
	f.list = f.list[:0]
	for i := range s.slots {
		m := &s.slots[i].value
		f.list = append(f.list, weighted{s.slots[i].key, Counts{m.packets, m.bytes}, m.bytes})
	}
	kept := heaviest(f.list, f.limits[mgens])
	for i := range f.list {
		x := &f.list[i]
		if i < kept {
			f.tally.mgens[f.dir.id(&x.key)] = s.slots[s.index[x.key]].value
			continue
		}
		forgotten++
		f.tally.other.mgens = f.tally.other.mgens.Plus(x.seen)
	}
	return forgotten
}

// heaviest moves the heaviest entries of list to its front, if it has more than
// so many, and says how many they are.
func heaviest(list []weighted, most int) int {
	if len(list) <= most {
		return len(list)
	}
	slices.SortFunc(list, func(a, b weighted) int { return cmp.Compare(b.weight, a.weight) })
	return most
}
