package rollup

import "maps"

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

// others is what was put aside for want of room, as far as it counts once.
type others struct {
	pairs, talks, mgens Counts
}

func (o *others) add(p *others) {
	o.pairs, o.talks, o.mgens = o.pairs.Plus(p.pairs), o.talks.Plus(p.talks), o.mgens.Plus(p.mgens)
}

// cellKey is host, row and level; or host, allRows and side.
type cellKey struct {
	host, row uint32
	which     uint8
}

const allRows = 1<<32 - 1

// rowKey is a row and a level.
type rowKey struct {
	row   uint32
	level uint8
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

// add counts packets of one conversation.
func (s *second) add(k *connKey, side Side, set uint32, mgen bool, c Counts, messages uint64) {
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
	v := s.pairs.add(&e, c.Bytes)
	*v = v.Plus(c)
	e = k.entry(talks, side)
	e.row = uint32(rows[0])
	v = s.talks.add(&e, c.Bytes)
	*v = v.Plus(c)
	if mgen {
		e = k.entry(mgens, side)
		m := s.mgens.add(&e, c.Bytes)
		m.add(&mgenStat{packets: c.Packets, bytes: c.Bytes, messages: messages})
	}
}

// addMGEN counts what a tracker found out.
func (s *second) addMGEN(k *entryKey, m *mgenStat) {
	s.used, s.dirty = true, true
	s.mgens.add(k, 0).add(m)
}

// observed is what one observer saw in some time, and how much of that counts
// once.
type observed struct {
	seen, once Counts
}

// tally is the contents of a frame while they are being added up. Entries are
// named by their number in the directory.
type tally struct {
	total   Counts // once
	rows    map[rowKey]Counts
	cells   map[cellKey]Counts
	entries [2]map[uint32]observed // pairs, talks
	mgens   map[uint32]mgenStat
	other   others
}

func newTally() *tally {
	return &tally{
		rows: make(map[rowKey]Counts), cells: make(map[cellKey]Counts),
		entries: [2]map[uint32]observed{make(map[uint32]observed), make(map[uint32]observed)},
		mgens:   make(map[uint32]mgenStat),
	}
}

func (t *tally) reset() {
	clear(t.rows)
	clear(t.cells)
	clear(t.entries[pairs])
	clear(t.entries[talks])
	clear(t.mgens)
	t.total, t.other = Counts{}, others{}
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

// chooser finds out whose numbers count once. It is a scratch pad.
type chooser struct {
	merged map[entryKey]Counts   // by observer, rows merged
	best   map[entryKey]observer // by subject
}

func newChooser() *chooser {
	return &chooser{merged: make(map[entryKey]Counts), best: make(map[entryKey]observer)}
}

func (c *chooser) choose(slots []slot[entryKey, Counts], keepRow bool) {
	clear(c.merged)
	clear(c.best)
	for i := range slots {
		k := slots[i].key
		if !keepRow {
			k.row = 0
		}
		c.merged[k] = c.merged[k].Plus(slots[i].value)
	}
	for k, n := range c.merged {
		if k.side == Relayed {
			continue
		}
		o := observer{k.side, k.host, n.Packets}
		s := k.subject()
		if b, ok := c.best[s]; !ok || o.better(b) {
			c.best[s] = o
		}
	}
}

// once says whether what k's observer saw is what counts. A receiver's does not
// while the sender's agent is only silent.
func (c *chooser) once(k *entryKey, silent func(pairKey) bool) bool {
	b, ok := c.best[k.subject()]
	if !ok || b.side != k.side || b.host != k.host {
		return false
	}
	return k.side == Sent || !silent(k.pair())
}

// freezer is what it takes to freeze a second.
type freezer struct {
	tally    *tally
	pairs    *chooser
	talks    *chooser
	dir      *directory
	perFrame int64 // bytes
	silent   func(pairKey) bool
	limits   [nkinds]int
}

// freeze puts s into f.tally, and says how many entries there was no room for.
func (s *second) freeze(f *freezer) (forgotten uint64) {
	t := f.tally
	t.reset()
	maps.Copy(t.cells, s.cells)
	maps.Copy(t.rows, s.otherRows)
	t.other = s.other

	f.pairs.choose(s.pairs.slots, false)
	f.talks.choose(s.talks.slots, true)
	f.limits = limits(f.perFrame, len(t.cells), [...]int{
		pairs: len(f.pairs.merged), talks: len(f.talks.merged), mgens: len(s.mgens.slots),
	})
	for i := range s.pairs.slots {
		k := s.pairs.slots[i].key
		set := k.row
		k.row = 0
		if k.side == Relayed || f.pairs.once(&k, f.silent) {
			k.row = set
			s.addRows(t.rows, &k, s.pairs.slots[i].value)
		}
	}
	forgotten = s.forgotten + f.keep(pairs) + f.keep(talks) + f.keepMGEN(s.mgens)
	t.total = t.other.pairs
	for _, o := range t.entries[pairs] {
		t.total = t.total.Plus(o.once)
	}
	return forgotten
}

type weighted struct {
	key    entryKey
	weight uint64
}

// keep puts the heaviest into the tally and the rest aside.
func (f *freezer) keep(kind entryKind) (forgotten uint64) {
	c, other := f.pairs, &f.tally.other.pairs
	if kind == talks {
		c, other = f.talks, &f.tally.other.talks
	}
	list := make([]weighted, 0, len(c.merged))
	for k, n := range c.merged {
		list = append(list, weighted{k, n.Bytes})
	}
	kept := heaviest(list, f.limits[kind])
	for i := range list {
		k := &list[i].key
		o := observed{seen: c.merged[*k]}
		if c.once(k, f.silent) {
			o.once = o.seen
		}
		if i < kept {
			f.tally.entries[kind][f.dir.id(k)] = o
			continue
		}
		forgotten++
		*other = other.Plus(o.once)
	}
	return forgotten
}

func (f *freezer) keepMGEN(s *sketch[entryKey, mgenStat]) (forgotten uint64) {
	list := make([]weighted, 0, len(s.slots))
	for i := range s.slots {
		list = append(list, weighted{s.slots[i].key, s.slots[i].value.bytes})
	}
	kept := heaviest(list, f.limits[mgens])
	for i := range list {
		m := &s.slots[s.index[list[i].key]].value
		if i < kept {
			f.tally.mgens[f.dir.id(&list[i].key)] = *m
			continue
		}
		forgotten++
		f.tally.other.mgens = f.tally.other.mgens.Plus(Counts{m.packets, m.bytes})
	}
	return forgotten
}
