package history

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// A summary is a file next to a compacted one, with the sums of its records by minute:
// it answers most queries for sums over days, in a hundredth of the time. It is
// optional and useless without its file: if it cannot be read, the records are read
// instead.
//
// It has several sections, each with sums by other columns. All integers are
// little-endian:
//
//	8 bytes  "PCSUMS\x00\x01"
//	8        records in the file
//	4        sections, at most maxSections
//	16       of each: columns as bits, sums, bytes, CRC-32C of these
//	4        CRC-32C of the above
//	         sections, each a block of S2
//
// The plain text of a section has the dictionaries of host, src, and dst (number, then
// the length and text of each), followed by each column for all sums, as varints:
// minute (as the difference from the previous one), indexes, numbers, and finally
// records, packets, and bytes. Columns by which the section does not group are omitted.
const (
	summarySuffix = ".sums"
	summaryStep   = 60e9 // nanoseconds
	// summarySums is the most sums of a row group, a power of two, and worthWhile how many
	// records they are of, on average.
	summarySums = 1 << 17
	worthWhile  = 4
	// summaryBytes is more than a summary of ours can have.
	summaryBytes = 64 << 20
)

// summaryRows is the fewest records that are summed up. Tests want less.
var summaryRows int64 = 1 << 13

// sumRow is what a summary has of records that are alike in the columns SummedBy.
// Other columns are empty, 0, or null.
type sumRow struct {
	SummedBy  string  `parquet:"summed_by,dict"`
	Time      int64   `parquet:"time,timestamp(nanosecond)"`
	Host      string  `parquet:"host,dict"`
	Level     string  `parquet:"level,dict"`
	Src       string  `parquet:"src,dict"`
	Dst       string  `parquet:"dst,dict"`
	SrcPort   uint16  `parquet:"src_port,dict"`
	DstPort   uint16  `parquet:"dst_port,dict"`
	Proto     uint8   `parquet:"proto,dict"`
	Direction string  `parquet:"direction,dict"`
	MGENFlow  *uint32 `parquet:"mgen_flow,optional,dict"`
	Relayed   bool    `parquet:"relayed"`
	Flags     uint16  `parquet:"flags,dict"`
	Records   uint64  `parquet:"records"`
	Packets   uint64  `parquet:"packets"`
	Bytes     uint64  `parquet:"bytes"`
}

var summaryColumns = parquet.SchemaOf(sumRow{}).Columns()

// coarse are the columns by which there are always sums.
var coarse = setOf(colTime, colHost, colLevel, colProto, colDirection, colRelayed, colFlags)

// setName is the value of summed_by.
func (c columnSet) setName() string {
	names := []string{columnNames[colHost]}
	for _, col := range []int{colSrc, colDst, colSrcPort, colDstPort, colMGENFlow} {
		if c&(1<<col) != 0 {
			names = append(names, columnNames[col])
		}
	}
	return strings.Join(names, ",")
}

// parseSetName is setName's opposite.
func parseSetName(text string) (columnSet, bool) {
	set := coarse
	for part := range strings.SplitSeq(text, ",") {
		col := slices.Index(columnNames[:], part)
		if col < 0 {
			return 0, false
		}
		set |= 1 << col
	}
	return set, true
}

// cubes are the groupings of the sections: of each list, the first one with few enough
// sums is used.
var cubes = [][]columnSet{
	{
		coarse | setOf(colMGENFlow, colSrc, colDst, colDstPort, colSrcPort),
		coarse | setOf(colMGENFlow, colSrc, colDst, colDstPort),
		coarse | setOf(colMGENFlow, colSrc, colDst),
	},
	{coarse | setOf(colDstPort)},
	{coarse | setOf(colMGENFlow), coarse}, // finish derives the second from the first
}

// counted holds the counters of a sum.
type counted struct{ records, packets, bytes uint64 }

func (c *counted) addCounts(d counted) {
	c.records += d.records
	c.packets += d.packets
	c.bytes += d.bytes
}

// summaryKey is the key of a sum. Columns by which it does not group are zero.
type summaryKey struct {
	minute           int64
	src, dst         [16]byte
	host, mgen       uint32
	srcPort, dstPort uint16
	flags            wire.Flags
	proto            uint8
	level            batch.Level
}

// summarizer creates the summary of a file that is being written.
type summarizer struct {
	cubes []*cube
	hosts dictionary
	rows  int64
}

// cube is a set of sums by some columns.
type cube struct {
	by   []columnSet // by[0], and the fallbacks after it; empty if there is no such section
	keys []summaryKey
	sums []counted
	last int // index in sums for the previous row
	// table is a hash table of keys: it holds indexes of keys plus 1, or 0, and is at
	// most half full. (A map would take four times the memory.)
	table []uint32
}

// minTable is the minimum size of a cube's table.
const minTable = 1 << 10

var summarySeed = maphash.MakeSeed()

// reset prepares the cube for another file.
func (c *cube) reset(by []columnSet) {
	c.by, c.keys, c.sums, c.last = by, c.keys[:0], c.sums[:0], 0
	if c.table == nil {
		c.table = make([]uint32, minTable)
	}
	clear(c.table)
}

// slot returns the position of a key in the table, or where it belongs.
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

// reset prepares the summarizer for another file.
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

func (s *summarizer) addRecord(rec *wire.Record, host string, level batch.Level) {
	s.rows++
	k := summaryKey{
		minute: floor(rec.Time, summaryStep), src: rec.Src, dst: rec.Dst, host: s.hosts.index(host), mgen: rec.Flow(),
		srcPort: rec.SrcPort, dstPort: rec.DstPort, flags: rec.Flags, proto: rec.Proto, level: level,
	}
	n := counted{1, rec.Count(), uint64(rec.Length)}
	for _, c := range s.cubes {
		c.addSum(k, n)
	}
}

// addSum counts in a cube that is not given up.
func (c *cube) addSum(k summaryKey, n counted) {
	for len(c.by) > 0 {
		if c.count(k.of(c.by[0]), n) {
			return
		}
		c.coarsen()
	}
}

// of returns k without the values that are not in columns.
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

// count reports false if there is no room.
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
	c.sums[c.last].addCounts(n)
	return true
}

// coarsen falls back to fewer columns; after the last, there is no such section.
func (c *cube) coarsen() {
	keys, sums := c.keys, c.sums
	c.reset(c.by[1:])
	if len(c.by) == 0 {
		return
	}
	for i := range keys { // writing never overtakes reading
		c.count(keys[i].of(c.by[0]), sums[i])
	}
}

// finish returns the summary's bytes; nil if it is not worthwhile.
func (s *summarizer) finish() ([]byte, error) {
	if s.rows < summaryRows {
		return nil, nil
	}
	var out bytes.Buffer
	w := parquet.NewGenericWriter[sumRow](&out, writerOptions(parquet.MaxRowsPerRowGroup(summarySums))...)
	sections := 0
	section := func(c *cube) error {
		sections++
		return c.writeTo(w, s.hosts.texts)
	}
	var err error
	for _, c := range s.cubes {
		for len(c.by) > 0 && int64(len(c.keys))*worthWhile > s.rows {
			c.coarsen()
		}
		if len(c.by) > 0 {
			err = errors.Join(err, section(c))
		}
	}
	if last := s.cubes[len(s.cubes)-1]; len(last.by) > 1 {
		last.coarsen()
		err = errors.Join(err, section(last))
	}
	if sections == 0 {
		return nil, err
	}
	w.SetKeyValueMetadata(metaVersion, "1")
	w.SetKeyValueMetadata(metaRows, strconv.FormatInt(s.rows, 10))
	w.SetKeyValueMetadata(metaChecksum, noChecksum)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	data := out.Bytes()
	if at := checksumAt(data); at >= 0 {
		copy(data[at:], fmt.Sprintf("%08x", checksum(data, at)))
	}
	return data, nil
}

// Keys of a summary's metadata: the records that it sums up, and the CRC-32C of the
// file, with eight zeros in its place, in hexadecimal.
const (
	metaRows     = "pcapper.rows"
	metaChecksum = "pcapper.crc32c"
	noChecksum   = "00000000"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksumAt is where the checksum is in a file: a few bytes, which belong to the
// encoding, behind its key. It is -1 if there is none.
func checksumAt(data []byte) int {
	at := bytes.LastIndex(data, []byte(metaChecksum))
	if at < 0 {
		return -1
	}
	at += len(metaChecksum) + len("\x18\x08") // Thrift's compact protocol: a field of 8 bytes
	if at+len(noChecksum) > len(data) {
		return -1
	}
	return at
}

func checksum(data []byte, at int) uint32 {
	sum := crc32.Checksum(data[:at], castagnoli)
	sum = crc32.Update(sum, castagnoli, []byte(noChecksum))
	return crc32.Update(sum, castagnoli, data[at+len(noChecksum):])
}

// writeTo writes a cube's sums as a row group.
func (c *cube) writeTo(w *parquet.GenericWriter[sumRow], hosts []string) error {
	texts, name := newTexts(), c.by[0].setName()
	rows, flows := make([]sumRow, 0, rowBuffer), make([]uint32, rowBuffer)
	for i := range c.keys {
		k, n := &c.keys[i], &c.sums[i]
		row := sumRow{
			SummedBy: name, Time: k.minute, Host: hosts[k.host], Level: k.level.String(), SrcPort: k.srcPort, DstPort: k.dstPort, Proto: k.proto,
			Direction: direction(k.flags), Relayed: k.flags&wire.Relayed != 0, Flags: uint16(k.flags), Records: n.records, Packets: n.packets, Bytes: n.bytes,
		}
		if c.by[0]&(1<<colSrc) != 0 {
			row.Src, row.Dst = texts.addr(&k.src, k.flags&wire.IPv6 != 0), texts.addr(&k.dst, k.flags&wire.IPv6 != 0)
		}
		if c.by[0]&(1<<colMGENFlow) != 0 && k.flags&wire.MGEN != 0 {
			flows[len(rows)] = k.mgen
			row.MGENFlow = &flows[len(rows)]
		}
		if rows = append(rows, row); len(rows) == rowBuffer || i+1 == len(c.keys) {
			if _, err := w.Write(rows); err != nil {
				return err
			}
			rows = rows[:0]
		}
	}
	return w.Flush()
}

// write writes the summary to where its file will be. It need not be durable, and if
// there is no room for it, there may still be room for the file.
func (s *summarizer) write(path string) {
	data, err := s.finish()
	if err != nil || data == nil {
		return
	}
	if err := os.WriteFile(path, data, 0o640); err != nil {
		os.Remove(path)
	}
}

// isOldSummary reports whether a file is a summary as versions before 0.1.0 wrote them: not
// Parquet, and of no use now.
func isOldSummary(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var head [6]byte
	n, _ := f.ReadAt(head[:], 0)
	return string(head[:n]) == "PCSUMS"
}

// readFile adds the records of a file.
func (s *summarizer) readFile(ctx context.Context, path string) error {
	f, err := openParquet(path)
	if err != nil {
		return err
	}
	defer f.close()
	c := &cursor{file: f, until: len(f.RowGroups()), at: -1}
	for ctx.Err() == nil {
		ok, err := c.advance()
		if err != nil || !ok {
			return err
		}
		s.addRecord(&c.row.Record, c.row.Host, c.row.Level)
	}
	return ctx.Err()
}

// summaryPath returns the path of the summary of the file with that ID.
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

// errSummary: a summary is damaged, or of no use for a query.
var errSummary = errors.New("no such summary")

// openSummary makes g the shortest row group of a summary that has the columns, and of
// what the sums are. After any error the records have to be read instead.
func (g *group) openSummary(f *os.File, rows int64, want columnSet) (err error) {
	defer func() {
		if x := recover(); x != nil { // the library's answer to some garbage
			err = errSummary
		}
	}()
	file, err := readSummary(f)
	if err != nil {
		return err
	}
	if n, _ := file.Lookup(metaRows); n != strconv.FormatInt(rows, 10) {
		return errSummary
	}
	var best parquet.RowGroup
	for _, rg := range file.RowGroups() {
		by, _, ok := rg.ColumnChunks()[0].(*parquet.FileColumnChunk).Bounds()
		if !ok {
			return errSummary
		}
		has, ok := parseSetName(string(by.ByteArray()))
		if ok && want&^has == 0 && (best == nil || rg.NumRows() < best.NumRows()) {
			best = rg
		}
	}
	if best == nil {
		return errSummary
	}
	g.chunks, g.rows, g.have = make([]parquet.ColumnChunk, columns), int(best.NumRows()), 0
	g.sums = slices.Grow(g.sums[:0], g.rows)[:g.rows]
	for i, path := range summaryColumns {
		chunk := best.ColumnChunks()[i]
		switch col := slices.Index(columnNames[:], path[0]); {
		case path[0] == "records":
			err = g.loadCounts(chunk, func(n *counted) *uint64 { return &n.records })
		case col == colPackets:
			err = g.loadCounts(chunk, func(n *counted) *uint64 { return &n.packets })
		case col == colBytes:
			err = g.loadCounts(chunk, func(n *counted) *uint64 { return &n.bytes })
		case col >= 0:
			g.chunks[col] = chunk
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readSummary reads all of a summary, which must be whole.
func readSummary(f *os.File) (*parquet.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > summaryBytes {
		return nil, errSummary
	}
	data := make([]byte, info.Size())
	if _, err := f.ReadAt(data, 0); err != nil {
		return nil, err
	}
	at := checksumAt(data)
	if at < 0 || string(data[at:at+len(noChecksum)]) != fmt.Sprintf("%08x", checksum(data, at)) {
		return nil, errSummary
	}
	file, err := parquet.OpenFile(bytes.NewReader(data), info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	if !slices.EqualFunc(file.Schema().Columns(), summaryColumns, slices.Equal) {
		return nil, errSummary
	}
	return file, nil
}

// loadCounts has a column's values in g.sums.
func (g *group) loadCounts(chunk parquet.ColumnChunk, at func(n *counted) *uint64) error {
	n := 0
	err := eachPage(chunk, func(p parquet.Page) error {
		data := p.Data()
		values := data.Uint64()
		if len(values) > g.rows-n {
			return errSummary
		}
		for i, v := range values {
			*at(&g.sums[n+i]) = v
		}
		n += len(values)
		return nil
	})
	if err == nil && n != g.rows {
		err = errSummary
	}
	return err
}

// summaries describes how a query uses summaries.
type summaries struct{ columns columnSet } // that it needs

// newSummaries returns nil if summaries cannot answer a query, whose sums need the
// columns in want.
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

// suits reports whether the query's time range splits no minute of a file.
func (f *filter) suits(n name) bool {
	whole := func(edge int64) bool { return edge%summaryStep == 0 }
	return (f.from <= n.min*1e9 || whole(f.from)) && (f.to >= n.max*1e9 || whole(f.to))
}

// fromSummary answers the query for a file from its summary, if possible.
func (w *worker) fromSummary(s *source) (bool, error) {
	if s.summary == nil || w.group.openSummary(s.summary, s.name.rows, w.summaries.columns) != nil {
		return false, nil
	}
	minutes := *w.filter
	if minutes.from > math.MinInt64 { // it may begin within the file's first minute, before the first record
		minutes.from = floor(minutes.from, summaryStep)
	}
	if minutes.choose(&w.group) != nil || w.group.load(w.summaries.columns) != nil {
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
