package rollup

import (
	"cmp"
	"maps"
	"slices"
)

// others is what there was no room for, as far as it counts once.
type others struct {
	pairs, talks, mgens Counts
}

func (o *others) addOthers(p *others) {
	o.pairs, o.talks, o.mgens = o.pairs.Plus(p.pairs), o.talks.Plus(p.talks), o.mgens.Plus(p.mgens)
}

// cellKey is host, row, and level; or host, allRows, and side.
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

// observed is what one observer saw in some time, and how much of that counts once.
type observed struct {
	seen, once Counts
}

// tally is the contents of a frame while it is being added up. Entries are identified
// by their number in the directory.
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

// mgenStat is what is counted for one MGEN flow at one observer in some time.
type mgenStat struct {
	packets, bytes, messages        uint64
	expected                        uint64
	duplicates, reordered, restarts uint64
	delayed, negative               uint64
	delaySum, delayMin, delayMax    int64 // ns; valid iff delayed > 0
	jitter                          int64 // in ns, after the last message
}

// addStat merges what came after.
func (m *mgenStat) addStat(n *mgenStat) {
	m.packets += n.packets
	m.bytes += n.bytes
	m.messages += n.messages
	m.expected += n.expected
	m.duplicates += n.duplicates
	m.reordered += n.reordered
	m.restarts += n.restarts
	m.negative += n.negative
	if n.delayed == 0 {
		return
	}
	if m.delayed == 0 {
		m.delayMin, m.delayMax = n.delayMin, n.delayMax
	}
	m.delayMin, m.delayMax = min(m.delayMin, n.delayMin), max(m.delayMax, n.delayMax)
	m.delayed += n.delayed
	m.delaySum += n.delaySum
	m.jitter = n.jitter
}

// lost returns the number of missing messages. Over a short time it may be negative,
// when messages arrive that were counted as missing earlier.
func (m *mgenStat) lost() int64 {
	return int64(m.expected) - int64(m.messages-m.duplicates)
}

// addFrame merges a frame that is later than all before.
func (t *tally) addFrame(f *frame) {
	t.total = t.total.Plus(f.total)
	t.other.addOthers(&f.other)
	f.eachRow(func(k rowKey, c Counts) { t.rows[k] = t.rows[k].Plus(c) })
	f.eachCell(func(k cellKey, c Counts) { t.cells[k] = t.cells[k].Plus(c) })
	for kind, entries := range t.entries {
		f.eachEntry(entryKind(kind), func(id uint32, o observed) {
			e := entries[id]
			entries[id] = observed{e.seen.Plus(o.seen), e.once.Plus(o.once)}
		})
	}
	f.eachMGEN(func(id uint32, m *mgenStat) {
		e := t.mgens[id]
		e.addStat(m)
		t.mgens[id] = e
	})
}

// sizes returns the number of entries of each kind.
func (t *tally) sizes() [nkinds]int {
	return [...]int{pairs: len(t.entries[pairs]), talks: len(t.entries[talks]), mgens: len(t.mgens)}
}

// prune merges all but the heaviest entries into others.
func (t *tally) prune(limits *[nkinds]int) (forgotten uint64) {
	for kind, entries := range t.entries {
		if len(entries) <= limits[kind] {
			continue
		}
		ids := slices.SortedFunc(maps.Keys(entries), func(a, b uint32) int {
			return cmp.Or(cmp.Compare(entries[b].seen.Bytes, entries[a].seen.Bytes), cmp.Compare(a, b))
		})
		for _, id := range ids[limits[kind]:] {
			if entryKind(kind) == pairs {
				t.other.pairs = t.other.pairs.Plus(entries[id].once)
			} else {
				t.other.talks = t.other.talks.Plus(entries[id].once)
			}
			delete(entries, id)
			forgotten++
		}
	}
	if len(t.mgens) > limits[mgens] {
		ids := slices.SortedFunc(maps.Keys(t.mgens), func(a, b uint32) int {
			return cmp.Or(cmp.Compare(t.mgens[b].bytes, t.mgens[a].bytes), cmp.Compare(a, b))
		})
		for _, id := range ids[limits[mgens]:] {
			t.other.mgens = t.other.mgens.Plus(Counts{t.mgens[id].packets, t.mgens[id].bytes})
			delete(t.mgens, id)
			forgotten++
		}
	}
	return forgotten
}

// addRenumbered adds a frame that is later than all before and whose entries have other
// numbers: key is what they stand for, id the number here.
func (t *tally) addRenumbered(f *frame, key func(uint32) *entryKey, id func(*entryKey) uint32) {
	t.total = t.total.Plus(f.total)
	t.other.addOthers(&f.other)
	f.eachRow(func(k rowKey, c Counts) { t.rows[k] = t.rows[k].Plus(c) })
	f.eachCell(func(k cellKey, c Counts) { t.cells[k] = t.cells[k].Plus(c) })
	for kind, entries := range t.entries {
		f.eachEntry(entryKind(kind), func(n uint32, o observed) {
			k := key(n)
			if k == nil {
				t.other.forgot(entryKind(kind), o.once)
				return
			}
			to := id(k)
			e := entries[to]
			entries[to] = observed{e.seen.Plus(o.seen), e.once.Plus(o.once)}
		})
	}
	f.eachMGEN(func(n uint32, m *mgenStat) {
		k := key(n)
		if k == nil {
			t.other.forgot(mgens, Counts{m.packets, m.bytes})
			return
		}
		to := id(k)
		e := t.mgens[to]
		e.addStat(m)
		t.mgens[to] = e
	})
}

func (o *others) forgot(kind entryKind, c Counts) {
	to := [...]*Counts{pairs: &o.pairs, talks: &o.talks, mgens: &o.mgens}[kind]
	*to = to.Plus(c)
}
