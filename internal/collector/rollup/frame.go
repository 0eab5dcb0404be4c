package rollup

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// frame is the packed contents of a span of time: sorted entries as varints
// (encoding/binary), with keys as differences. It takes about 7 bytes for a host's flow
// and 10 for a pair. It never changes.
type frame struct {
	in          *contents // of an archive, to which names and numbers refer; or nil
	start, span int64     // seconds
	total       Counts
	other       others
	data        []byte
	// The ends of the sections of data, which are in this order.
	rows, cells, pairs, talks uint32
}

// frameOverhead is the memory of a frame in addition to data.
const frameOverhead = 200

func (f *frame) size() int64 { return frameOverhead + int64(cap(f.data)) }

func (f *frame) end() int64 { return f.start + f.span }

func compareCells(a, b cellKey) int {
	return cmp.Or(cmp.Compare(a.host, b.host), cmp.Compare(a.row, b.row), cmp.Compare(a.which, b.which))
}

func compareRows(a, b rowKey) int {
	return cmp.Or(cmp.Compare(a.row, b.row), cmp.Compare(a.level, b.level))
}

// pack packs t into a frame. buf is scratch memory.
func (t *tally) pack(start, span int64, buf []byte) (*frame, []byte) {
	f := &frame{start: start, span: span, total: t.total, other: t.other}
	b := buf[:0]
	for _, k := range slices.SortedFunc(maps.Keys(t.rows), compareRows) {
		b = binary.AppendUvarint(b, uint64(k.row)<<1|uint64(k.level))
		b = appendCounts(b, t.rows[k])
	}
	f.rows = uint32(len(b))
	host := uint32(0)
	for _, k := range slices.SortedFunc(maps.Keys(t.cells), compareCells) {
		// allRows becomes 0.
		b = binary.AppendUvarint(b, uint64(k.host-host))
		b = binary.AppendUvarint(b, uint64(k.row+1)<<2|uint64(k.which))
		b = appendCounts(b, t.cells[k])
		host = k.host
	}
	f.cells = uint32(len(b))
	b = appendEntries(b, t.entries[pairs])
	f.pairs = uint32(len(b))
	b = appendEntries(b, t.entries[talks])
	f.talks = uint32(len(b))
	b = appendMGEN(b, t.mgens)
	f.data = slices.Clone(b)
	return f, b
}

func appendCounts(b []byte, c Counts) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, c.Packets), c.Bytes)
}

// How much of what an observer saw counts once: nothing, everything, or the counts that
// follow.
const (
	onceNone = iota
	onceAll
	onceSome
)

func appendEntries(b []byte, entries map[uint32]observed) []byte {
	last := uint32(0)
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		o := entries[id]
		how := uint64(onceSome)
		switch o.once {
		case Counts{}:
			how = onceNone
		case o.seen:
			how = onceAll
		}
		b = binary.AppendUvarint(b, uint64(id-last)<<2|how)
		b = appendCounts(b, o.seen)
		if how == onceSome {
			b = appendCounts(b, o.once)
		}
		last = id
	}
	return b
}

func appendMGEN(b []byte, entries map[uint32]mgenStat) []byte {
	last := uint32(0)
	for _, id := range slices.Sorted(maps.Keys(entries)) {
		m := entries[id]
		more := uint64(0)
		if m.hasMore() {
			more = 1
		}
		b = binary.AppendUvarint(b, uint64(id-last)<<1|more)
		b = binary.AppendUvarint(b, m.packets)
		b = binary.AppendUvarint(b, m.bytes)
		b = binary.AppendUvarint(b, m.messages)
		if more == 1 {
			for _, v := range m.unsigned() {
				b = binary.AppendUvarint(b, *v)
			}
			for _, v := range m.signed() {
				b = binary.AppendVarint(b, *v)
			}
		}
		last = id
	}
	return b
}

func (m *mgenStat) hasMore() bool {
	n := *m
	n.packets, n.bytes, n.messages = 0, 0, 0
	return n != mgenStat{}
}

func (m *mgenStat) unsigned() [6]*uint64 {
	return [...]*uint64{&m.expected, &m.duplicates, &m.reordered, &m.restarts, &m.delayed, &m.negative}
}

func (m *mgenStat) signed() [4]*int64 {
	return [...]*int64{&m.delaySum, &m.delayMin, &m.delayMax, &m.jitter}
}

// unpacker decodes numbers from the front of a section.
type unpacker struct{ b []byte }

func (u *unpacker) uint() uint64 {
	v := uint64(u.b[0])
	if v < 0x80 {
		u.b = u.b[1:]
		return v
	}
	v, n := binary.Uvarint(u.b)
	u.b = u.b[n:]
	return v
}

func (u *unpacker) int() int64 {
	v, n := binary.Varint(u.b)
	u.b = u.b[n:]
	return v
}

func (u *unpacker) counts() Counts {
	packets := u.uint()
	return Counts{packets, u.uint()}
}

func (f *frame) eachRow(yield func(rowKey, Counts)) {
	for u := (unpacker{f.data[:f.rows]}); len(u.b) > 0; {
		v := u.uint()
		k, c := rowKey{uint32(v >> 1), uint8(v & 1)}, u.counts()
		if f.in.renameRow(&k.row) {
			yield(k, c)
		}
	}
}

func (f *frame) eachCell(yield func(cellKey, Counts)) {
	host := uint32(0)
	for u := (unpacker{f.data[f.rows:f.cells]}); len(u.b) > 0; {
		host += uint32(u.uint())
		v := u.uint()
		k, c := cellKey{host, uint32(v>>2) - 1, uint8(v & 3)}, u.counts()
		if f.in.renameHost(&k.host) && f.in.renameRow(&k.row) {
			yield(k, c)
		}
	}
}

func (f *frame) eachEntry(kind entryKind, yield func(id uint32, o observed)) {
	section := f.data[f.cells:f.pairs]
	if kind == talks {
		section = f.data[f.pairs:f.talks]
	}
	id := uint32(0)
	for u := (unpacker{section}); len(u.b) > 0; {
		v := u.uint()
		id += uint32(v >> 2)
		o := observed{seen: u.counts()}
		switch v & 3 {
		case onceAll:
			o.once = o.seen
		case onceSome:
			o.once = u.counts()
		}
		yield(id, o)
	}
}

func (f *frame) eachMGEN(yield func(id uint32, m *mgenStat)) {
	id := uint32(0)
	for u := (unpacker{f.data[f.talks:]}); len(u.b) > 0; {
		v := u.uint()
		id += uint32(v >> 1)
		var m mgenStat
		m.packets = u.uint()
		m.bytes = u.uint()
		m.messages = u.uint()
		if v&1 == 1 {
			for _, p := range m.unsigned() {
				*p = u.uint()
			}
			for _, p := range m.signed() {
				*p = u.int()
			}
		}
		yield(id, &m)
	}
}

// contents is the contents of an archive volume, with the store's numbers. It is valid
// as long as its buffer is.
type contents struct {
	hosts, rows []uint32 // maps the file's numbers to the store's, or to unknown
	keyBlocks   [][]byte
	keys        []entryKey // of keyBlocks[:0], see loadKeys
	frames      []*frame   // by start
	size        int64      // of the undamaged part
}

// unknown is a host or row that is not in the archive's list.
const unknown = 1<<32 - 2

// renameHost converts a file's number to the store's. c may be nil.
func (c *contents) renameHost(host *uint32) bool {
	return c == nil || rename(c.hosts, host)
}

func (c *contents) renameRow(row *uint32) bool {
	return c == nil || *row == allRows || rename(c.rows, row)
}

func rename(list []uint32, n *uint32) bool {
	if int64(*n) >= int64(len(list)) || list[*n] == unknown {
		return false
	}
	*n = list[*n]
	return true
}

// key returns the key with a number, or nil.
func (c *contents) key(id uint32) *entryKey {
	if int64(id) >= int64(len(c.keys)) || c.keys[id].host == unknown {
		return nil
	}
	return &c.keys[id]
}

// loadKeys loads the keys, which only some queries need, while the buffer is valid.
func (c *contents) loadKeys() {
	for _, block := range c.keyBlocks {
		for u := (unpacker{block}); len(u.b) > 0; {
			k := u.key()
			if !c.renameHost(&k.host) || k.kind == talks && !c.renameRow(&k.row) {
				k.host = unknown
			}
			c.keys = append(c.keys, k)
		}
	}
	c.keyBlocks = nil
}
