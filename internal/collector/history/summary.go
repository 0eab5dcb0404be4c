package history

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"hash/maphash"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/s2"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// A summary is a file beside a compacted one, which has the sums of its records by
// minute: what most sums over days are made of, in a hundredth of the time. It can be
// missing, and is worth nothing without its file: if it cannot be read, the records
// are.
//
// It has some sections, each by other columns. All integers are little-endian:
//
//	8 bytes  "PCSUMS\x00\x01"
//	8        records in the file
//	4        sections, at most maxSections
//	16       of each: columns as bits, sums, bytes, CRC-32C of these
//	4        CRC-32C of the above
//	         sections, each a block of S2
//
// A section's plain text has the dictionaries (number, then length and text of each)
// of host, src and dst; then each column, all sums after the other, as varints: minute
// (difference to the one before), indexes, numbers, and in the end records, packets
// and bytes. Columns that it is not by are left out.
const (
	summarySuffix = ".sums"
	summaryMagic  = "PCSUMS\x00\x01"
	summaryStep   = 60e9 // nanoseconds
	sectionHead   = 16
	summaryHead   = 8 + 8 + 4
	maxSections   = 8
	// summaryRows is the least that a file has for there to be one, summarySums the
	// most of a section, a power of two, and worthWhile how many records they are of, on
	// average.
	summaryRows = 1 << 13
	summarySums = 1 << 17
	worthWhile  = 4
	// summaryPlain is more than a section that we made can take.
	summaryPlain = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// coarse is what there are always sums by.
var coarse = setOf(colTime, colHost, colLevel, colProto, colDirection, colRelayed, colFlags)

// cubes are what there are sums by: of each list the first that is not too long.
var cubes = [][]columnSet{
	{
		coarse | setOf(colMGENFlow, colSrc, colDst, colDstPort, colSrcPort),
		coarse | setOf(colMGENFlow, colSrc, colDst, colDstPort),
		coarse | setOf(colMGENFlow, colSrc, colDst),
	},
	{coarse | setOf(colDstPort)},
	{coarse | setOf(colMGENFlow), coarse}, // of the first, finish makes the second, too
}

// counted is what a sum has.
type counted struct{ records, packets, bytes uint64 }

func (c *counted) add(d counted) {
	c.records += d.records
	c.packets += d.packets
	c.bytes += d.bytes
}

// summaryKey is what a sum is of. Columns that it is not by are zero.
type summaryKey struct {
	minute           int64
	src, dst         [16]byte
	host, mgen       uint32
	srcPort, dstPort uint16
	flags            wire.Flags
	proto            uint8
	level            batch.Level
}

// summarizer makes a summary of a file that is being written.
type summarizer struct {
	cubes []*cube
	hosts dictionary
	rows  int64
}

// cube is sums by some columns.
type cube struct {
	by   []columnSet // by[0], or else what follows; none: it is given up
	keys []summaryKey
	sums []counted
	last int // of sums: the row before had it
	// table finds keys by their hash: it has indexes of keys, each one more, or 0, and
	// is at most half full. (A map takes four times the memory.)
	table []uint32
}

// minTable is a cube's table's least size.
const minTable = 1 << 10

var summarySeed = maphash.MakeSeed()

// reset makes it ready for another file.
func (c *cube) reset(by []columnSet) {
	c.by, c.keys, c.sums, c.last = by, c.keys[:0], c.sums[:0], 0
	if c.table == nil {
		c.table = make([]uint32, minTable)
	}
	clear(c.table)
}

// slot is where a key is in the table, or would be.
func (c *cube) slot(k *summaryKey) uint64 {
	mask := uint64(len(c.table) - 1)
	slot := maphash.Comparable(summarySeed, *k) & mask
	for c.table[slot] != 0 && c.keys[c.table[slot]-1] != *k {
		slot = (slot + 1) & mask
	}
	return slot
}

// grow doubles the table.
func (c *cube) grow() {
	c.table = make([]uint32, 2*len(c.table))
	for i := range c.keys {
		c.table[c.slot(&c.keys[i])] = uint32(i + 1)
	}
}

func newSummarizer() *summarizer {
	s := &summarizer{}
	for range cubes {
		s.cubes = append(s.cubes, new(cube))
	}
	return s
}

// reset makes it ready for another file.
func (s *summarizer) reset() {
	s.hosts, s.rows = newDictionary(), 0
	for i, c := range s.cubes {
		c.reset(cubes[i])
	}
}

// dictionary numbers texts.
type dictionary struct {
	at    map[string]uint32
	texts []string
}

func newDictionary() dictionary { return dictionary{at: make(map[string]uint32)} }

func (d *dictionary) index(text string) uint32 {
	if n := len(d.texts); n > 0 && d.texts[n-1] == text { // files are sorted by host
		return uint32(n - 1)
	}
	i, ok := d.at[text]
	if !ok {
		i = uint32(len(d.texts))
		d.at[text] = i
		d.texts = append(d.texts, text)
	}
	return i
}

func (s *summarizer) add(rec *wire.Record, host string, level batch.Level) {
	s.rows++
	k := summaryKey{
		minute: floor(rec.Time, summaryStep), src: rec.Src, dst: rec.Dst, host: s.hosts.index(host), mgen: rec.Flow(),
		srcPort: rec.SrcPort, dstPort: rec.DstPort, flags: rec.Flags, proto: rec.Proto, level: level,
	}
	n := counted{1, rec.Count(), uint64(rec.Length)}
	for _, c := range s.cubes {
		c.add(k, n)
	}
}

// add counts in a cube that is not given up.
func (c *cube) add(k summaryKey, n counted) {
	for len(c.by) > 0 {
		if c.count(k.of(c.by[0]), n) {
			return
		}
		c.coarsen()
	}
}

// of is k without what columns do not have.
func (k summaryKey) of(columns columnSet) summaryKey {
	if columns&(1<<colMGENFlow) == 0 {
		k.mgen = 0
	}
	if columns&(1<<colSrc) == 0 {
		k.src, k.dst = [16]byte{}, [16]byte{}
	}
	if columns&(1<<colSrcPort) == 0 {
		k.srcPort = 0
	}
	if columns&(1<<colDstPort) == 0 {
		k.dstPort = 0
	}
	return k
}

// count is false if there is no room.
func (c *cube) count(k summaryKey, n counted) bool {
	if c.last >= len(c.keys) || c.keys[c.last] != k {
		slot := c.slot(&k)
		if c.table[slot] == 0 {
			if len(c.keys) == summarySums {
				return false
			}
			if 2*len(c.keys) == len(c.table) {
				c.grow()
				slot = c.slot(&k)
			}
			c.keys = append(c.keys, k)
			c.sums = append(c.sums, counted{})
			c.table[slot] = uint32(len(c.keys))
		}
		c.last = int(c.table[slot] - 1)
	}
	c.sums[c.last].add(n)
	return true
}

// coarsen leaves out more columns; after the last there is no such section.
func (c *cube) coarsen() {
	keys, sums := c.keys, c.sums
	c.reset(c.by[1:])
	if len(c.by) == 0 {
		return
	}
	for i := range keys { // what is added is never ahead of what is read
		c.count(keys[i].of(c.by[0]), sums[i])
	}
}

// finish makes the summary's bytes; none if it is not worth while.
func (s *summarizer) finish() []byte {
	if s.rows < summaryRows {
		return nil
	}
	var heads, blocks []byte
	section := func(c *cube) {
		block := s2.Encode(nil, c.section(s.hosts.texts))
		for _, x := range []uint32{uint32(c.by[0]), uint32(len(c.keys)), uint32(len(block)), crc32.Checksum(block, castagnoli)} {
			heads = binary.LittleEndian.AppendUint32(heads, x)
		}
		blocks = append(blocks, block...)
	}
	for _, c := range s.cubes {
		for len(c.by) > 0 && int64(len(c.keys))*worthWhile > s.rows {
			c.coarsen()
		}
		if len(c.by) > 0 {
			section(c)
		}
	}
	if last := s.cubes[len(s.cubes)-1]; len(last.by) > 1 {
		last.coarsen()
		section(last)
	}
	if heads == nil {
		return nil
	}
	head := binary.LittleEndian.AppendUint64([]byte(summaryMagic), uint64(s.rows))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(heads)/sectionHead))
	head = append(head, heads...)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	return append(head, blocks...)
}

// section is a section's plain text.
func (c *cube) section(hosts []string) []byte {
	src, dst := newDictionary(), newDictionary()
	srcs, dsts := make([]uint32, len(c.keys)), make([]uint32, len(c.keys))
	if c.by[0]&(1<<colSrc) != 0 {
		texts := newTexts()
		for i := range c.keys {
			k := &c.keys[i]
			srcs[i] = src.index(texts.addr(&k.src, k.flags&wire.IPv6 != 0))
			dsts[i] = dst.index(texts.addr(&k.dst, k.flags&wire.IPv6 != 0))
		}
	}
	var b []byte
	for _, list := range [][]string{hosts, src.texts, dst.texts} {
		b = binary.AppendUvarint(b, uint64(len(list)))
		for _, text := range list {
			b = binary.AppendUvarint(b, uint64(len(text)))
			b = append(b, text...)
		}
	}
	before := int64(0)
	for i := range c.keys {
		minute := c.keys[i].minute / summaryStep
		b = binary.AppendVarint(b, minute-before)
		before = minute
	}
	numbers := func(column int, number func(i int) uint64) {
		if c.by[0]&(1<<column) == 0 {
			return
		}
		for i := range c.keys {
			b = binary.AppendUvarint(b, number(i))
		}
	}
	numbers(colHost, func(i int) uint64 { return uint64(c.keys[i].host) })
	numbers(colLevel, func(i int) uint64 { return uint64(c.keys[i].level) })
	numbers(colSrc, func(i int) uint64 { return uint64(srcs[i]) })
	numbers(colDst, func(i int) uint64 { return uint64(dsts[i]) })
	numbers(colSrcPort, func(i int) uint64 { return uint64(c.keys[i].srcPort) })
	numbers(colDstPort, func(i int) uint64 { return uint64(c.keys[i].dstPort) })
	numbers(colProto, func(i int) uint64 { return uint64(c.keys[i].proto) })
	numbers(colMGENFlow, func(i int) uint64 { return uint64(c.keys[i].mgen) })
	numbers(colFlags, func(i int) uint64 { return uint64(c.keys[i].flags) })
	for i := range c.sums {
		b = binary.AppendUvarint(b, c.sums[i].records)
	}
	for i := range c.sums {
		b = binary.AppendUvarint(b, c.sums[i].packets)
	}
	for i := range c.sums {
		b = binary.AppendUvarint(b, c.sums[i].bytes)
	}
	return b
}

// write puts the summary beside where its file will be. It need not outlive loss of
// power, and a disk that has no room for it may have some for the file.
func (s *summarizer) write(path string) {
	data := s.finish()
	if data == nil {
		return
	}
	if err := os.WriteFile(path, data, 0o640); err != nil {
		os.Remove(path)
	}
}

// summaryPath is where the summary of a file with that ID is.
func summaryPath(dir, id string) string { return filepath.Join(dir, id+summarySuffix) }

// removeFile removes a file of an hour, and its summary.
func removeFile(dir string, n name) error {
	return errors.Join(os.Remove(filepath.Join(dir, n.String())), removeSummary(dir, n.id))
}

func removeSummary(dir, id string) error {
	err := os.Remove(summaryPath(dir, id))
	if vanished(err) {
		return nil
	}
	return err
}

// errSummary: a summary is damaged, or of no use for a question.
var errSummary = errors.New("no such summary")

// readSummary makes g the shortest section that has the columns. The error is any:
// the records have to be read then.
func (g *group) readSummary(f io.ReaderAt, rows int64, want columnSet) error {
	var most [summaryHead + maxSections*sectionHead + 4]byte
	have, err := f.ReadAt(most[:], 0)
	if err != nil && err != io.EOF || have < summaryHead+4 {
		return errSummary
	}
	n := binary.LittleEndian.Uint32(most[16:])
	end := summaryHead + min(int(n), maxSections)*sectionHead
	if string(most[:8]) != summaryMagic || n > maxSections || have < end+4 ||
		crc32.Checksum(most[:end], castagnoli) != binary.LittleEndian.Uint32(most[end:]) ||
		binary.LittleEndian.Uint64(most[8:]) != uint64(rows) {
		return errSummary
	}
	at, bestAt := int64(end+4), int64(0)
	var best []byte
	for i := range int(n) {
		section := most[summaryHead+i*sectionHead:][:sectionHead]
		has, sums := columnSet(binary.LittleEndian.Uint32(section)), binary.LittleEndian.Uint32(section[4:])
		if want&^has == 0 && (best == nil || sums < binary.LittleEndian.Uint32(best[4:])) {
			best, bestAt = section, at
		}
		at += int64(binary.LittleEndian.Uint32(section[8:]))
	}
	if best == nil {
		return errSummary
	}
	return g.readSection(f, best, bestAt)
}

func (g *group) readSection(f io.ReaderAt, head []byte, at int64) error {
	n, size := int(binary.LittleEndian.Uint32(head[4:])), int(binary.LittleEndian.Uint32(head[8:]))
	if n > summarySums || size > summaryPlain {
		return errSummary
	}
	block := make([]byte, size)
	if _, err := f.ReadAt(block, at); err != nil {
		return err
	}
	if crc32.Checksum(block, castagnoli) != binary.LittleEndian.Uint32(head[12:]) {
		return errSummary
	}
	if plain, err := s2.DecodedLen(block); err != nil || plain > summaryPlain {
		return errSummary
	}
	plain, err := s2.Decode(nil, block)
	if err != nil {
		return err
	}
	g.chunks, g.rows, g.have = nil, n, 0
	r := &varints{rest: plain}
	if err := g.fillSums(r, columnSet(binary.LittleEndian.Uint32(head))); err != nil {
		return err
	}
	if r.bad || len(r.rest) > 0 {
		return errSummary
	}
	return nil
}

// fillSums has the columns of a section's plain text in g.
func (g *group) fillSums(r *varints, columns columnSet) error {
	for _, c := range []int{colHost, colSrc, colDst} {
		g.texts[c] = textCol{dict: r.texts()}
	}
	times := slices.Grow(g.times[colTime][:0], g.rows)
	minute := int64(0)
	for range g.rows {
		minute += r.signed()
		times = append(times, minute*summaryStep)
	}
	g.times[colTime], g.have = times, setOf(colTime)
	for _, c := range []int{colHost, colLevel, colSrc, colDst, colSrcPort, colDstPort, colProto, colMGENFlow, colFlags} {
		if columns&(1<<c) == 0 {
			continue
		}
		list := slices.Grow(g.ints[c][:0], g.rows)
		for range g.rows {
			list = append(list, uint32(r.unsigned()))
		}
		g.ints[c] = list
		switch c {
		case colLevel:
			g.texts[c].dict = g.texts[c].dict[:0]
			for l := batch.Packets; l <= batch.Top; l++ {
				g.texts[c].dict = append(g.texts[c].dict, l.String())
			}
			fallthrough
		case colHost, colSrc, colDst:
			if g.rows > 0 && int(slices.Max(list)) >= len(g.texts[c].dict) {
				return errSummary
			}
			g.texts[c].at = append(g.texts[c].at[:0], list...)
		}
		if err := g.translate(c); err != nil {
			return err
		}
		g.have |= 1 << c
	}
	g.sums = slices.Grow(g.sums[:0], g.rows)[:g.rows]
	for i := range g.sums {
		g.sums[i].records = r.unsigned()
	}
	for i := range g.sums {
		g.sums[i].packets = r.unsigned()
	}
	for i := range g.sums {
		g.sums[i].bytes = r.unsigned()
	}
	return nil
}

// varints reads what encoding/binary appends.
type varints struct {
	rest []byte
	bad  bool
}

func (v *varints) unsigned() uint64 {
	x, n := binary.Uvarint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

func (v *varints) signed() int64 {
	x, n := binary.Varint(v.rest)
	if n <= 0 {
		v.bad = true
		return 0
	}
	v.rest = v.rest[n:]
	return x
}

func (v *varints) texts() (list []string) {
	for n := v.unsigned(); n > 0 && !v.bad; n-- {
		size := v.unsigned()
		if size > uint64(len(v.rest)) {
			v.bad = true
			return nil
		}
		list = append(list, string(v.rest[:size]))
		v.rest = v.rest[size:]
	}
	return list
}

// summaries is how a query uses them.
type summaries struct{ columns columnSet } // that it needs

// newSummaries is nil if there is no use in them for a query and its sums, which want
// columns.
func newSummaries(q *Query, by By, want columnSet) *summaries {
	if q.Match != nil || by.Step%summaryStep != 0 {
		return nil
	}
	s := &summaries{want}
	if len(q.Hosts) > 0 {
		s.columns |= setOf(colHost)
	}
	if len(q.Src)+len(q.Dst)+len(q.Addrs) > 0 {
		s.columns |= setOf(colSrc, colDst)
	}
	if len(q.SrcPorts)+len(q.Ports) > 0 {
		s.columns |= setOf(colSrcPort)
	}
	if len(q.DstPorts)+len(q.Ports) > 0 {
		s.columns |= setOf(colDstPort)
	}
	if len(q.MGEN) > 0 {
		s.columns |= setOf(colMGENFlow)
	}
	s.columns &^= setOf(colBytes, colPackets)
	return s
}

// suits reports whether a query cuts no minute of a file in two.
func (f *filter) suits(n name) bool {
	whole := func(edge int64) bool { return edge%summaryStep == 0 }
	return (f.from <= n.min*1e9 || whole(f.from)) && (f.to >= n.max*1e9 || whole(f.to))
}

// fromSummary answers for a file from its summary, if it can.
func (w *worker) fromSummary(s *source) (bool, error) {
	if s.summary == nil || w.group.readSummary(s.summary, s.name.rows, w.summaries.columns) != nil {
		return false, nil
	}
	minutes := *w.filter
	if minutes.from > math.MinInt64 { // it may begin within the file's first minute, before the first record
		minutes.from = floor(minutes.from, summaryStep)
	}
	if minutes.choose(&w.group) != nil {
		return false, nil
	}
	w.stats.Files++
	w.stats.Summed++
	w.stats.Read += s.name.rows
	for _, at := range w.group.chosen {
		w.stats.Rows += int64(w.group.sums[at].records)
	}
	return true, w.tally(&w.group)
}
