package history

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	"github.com/parquet-go/parquet-go"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// columnSet is a set of columns as a bit mask.
type columnSet uint32

const allColumns columnSet = 1<<columns - 1

func setOf(columns ...int) (s columnSet) {
	for _, c := range columns {
		s |= 1 << c
	}
	return s
}

// group is a row group whose columns are decoded on demand.
type group struct {
	chunks []parquet.ColumnChunk
	rows   int
	have   columnSet
	times  [columns][]int64  // of colTime, colMGENTime
	texts  [columns]textCol  // of colHost, colLevel, colSrc, colDst
	ints   [columns][]uint32 // of the others
	// chosen are the matching rows, in ascending order.
	chosen []uint32
	table  []uint32   // scratch, for a dictionary
	src    [][16]byte // by index of texts[colSrc]
	dst    [][16]byte
	levels []batch.Level
	sums   []counted // what rows stand for, if the group is from a summary
}

// textCol is a column with few distinct texts: an index per row, and the texts.
type textCol struct {
	at   []uint32
	dict []string
	seen map[string]uint32 // texts that are not in the file's dictionary
}

// open makes g the file's i-th row group. It is false for one that is too large to
// be ours.
func (g *group) open(f *dataFile, i int) bool {
	rg := f.RowGroups()[i]
	g.chunks, g.rows, g.have = rg.ColumnChunks(), int(rg.NumRows()), 0
	return g.rows > 0 && g.rows <= groupRows && len(g.chunks) == columns
}

// bounds returns a column's minimum and maximum, if the file has them.
func (g *group) bounds(column int) (lo, hi parquet.Value, ok bool) {
	c, isFile := g.chunks[column].(*parquet.FileColumnChunk)
	if !isFile {
		return lo, hi, false
	}
	return c.Bounds()
}

// load decodes columns that have not been decoded.
func (g *group) load(want columnSet) (err error) {
	defer func() {
		if x := recover(); x != nil { // the library panics on some invalid input
			err = fmt.Errorf("damaged: %v", x)
		}
	}()
	for c := range columns {
		if (want&^g.have)&(1<<c) == 0 {
			continue
		}
		if err := g.decode(c); err != nil {
			return fmt.Errorf("column %s: %w", columnNames[c], err)
		}
		g.have |= 1 << c
	}
	return nil
}

func (g *group) decode(c int) error {
	n := 0
	switch c {
	case colTime, colMGENTime:
		g.times[c] = g.times[c][:0]
		if err := g.pages(c, func(p parquet.Page) error { return g.addTimes(c, p) }); err != nil {
			return err
		}
		n = len(g.times[c])
	case colHost, colLevel, colSrc, colDst:
		t := &g.texts[c]
		t.at, t.dict, t.seen = t.at[:0], t.dict[:0], nil
		if err := g.pages(c, t.addPage); err != nil {
			return err
		}
		n = len(t.at)
		if err := g.translate(c); err != nil {
			return err
		}
	case colDirection, colRelayed: // part of the flags
		return nil
	default:
		g.ints[c] = g.ints[c][:0]
		if err := g.pages(c, func(p parquet.Page) error { return g.addInts(c, p) }); err != nil {
			return err
		}
		n = len(g.ints[c])
	}
	if n != g.rows {
		return fmt.Errorf("%d values for %d rows", n, g.rows)
	}
	return nil
}

func (g *group) pages(c int, each func(p parquet.Page) error) error {
	return eachPage(g.chunks[c], each)
}

func eachPage(chunk parquet.ColumnChunk, each func(p parquet.Page) error) error {
	pages := chunk.Pages()
	defer pages.Close()
	for {
		p, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = each(p)
		parquet.Release(p)
		if err != nil {
			return err
		}
	}
}

func (g *group) addTimes(c int, p parquet.Page) error {
	data := p.Data()
	values := data.Int64()
	if levels := p.DefinitionLevels(); levels != nil {
		return spread(&g.times[c], levels, values)
	}
	g.times[c] = append(g.times[c], values...)
	return nil
}

func (g *group) addInts(c int, p parquet.Page) error {
	data := p.Data()
	values := data.Uint32()
	if d := p.Dictionary(); d != nil {
		if err := g.lookUp(d, values); err != nil {
			return err
		}
		values = g.table[d.Len():]
	}
	if levels := p.DefinitionLevels(); levels != nil {
		return spread(&g.ints[c], levels, values)
	}
	g.ints[c] = append(g.ints[c], values...)
	return nil
}

// lookUp stores a dictionary in the table, and appends what the indexes stand for.
func (g *group) lookUp(d parquet.Dictionary, indexes []uint32) error {
	g.table = g.table[:0]
	for i := range d.Len() {
		g.table = append(g.table, d.Index(int32(i)).Uint32())
	}
	n := uint32(d.Len())
	for _, i := range indexes {
		if i >= n {
			return errIndex
		}
		g.table = append(g.table, g.table[i])
	}
	return nil
}

var errIndex = errors.New("an index that its dictionary does not have")

// spread appends values where the levels say that there are some, and zeros elsewhere.
func spread[T int64 | uint32](dst *[]T, levels []byte, values []T) error {
	at := 0
	for _, level := range levels {
		var v T
		if level != 0 {
			if at == len(values) {
				return errors.New("fewer values than said")
			}
			v = values[at]
			at++
		}
		*dst = append(*dst, v)
	}
	return nil
}

func (t *textCol) addPage(p parquet.Page) error {
	data := p.Data()
	d := p.Dictionary()
	if d == nil {
		bytes, offsets := data.ByteArray()
		for i := range len(offsets) - 1 {
			t.at = append(t.at, t.intern(bytes[offsets[i]:offsets[i+1]]))
		}
		return nil
	}
	if len(t.dict) == 0 {
		for i := range d.Len() {
			t.dict = append(t.dict, string(d.Index(int32(i)).ByteArray()))
		}
	}
	values := data.Uint32()
	if len(values) > 0 && slices.Max(values) >= uint32(d.Len()) {
		return errIndex
	}
	t.at = append(t.at, values...)
	return nil
}

// intern returns the index of a text that is not in the file's dictionary.
func (t *textCol) intern(text []byte) uint32 {
	i, ok := t.seen[string(text)]
	if !ok {
		if t.seen == nil {
			t.seen = make(map[string]uint32)
		}
		i = uint32(len(t.dict))
		t.dict = append(t.dict, string(text))
		t.seen[string(text)] = i
	}
	return i
}

// translate converts texts to the values of records.
func (g *group) translate(c int) (err error) {
	dict := g.texts[c].dict
	switch c {
	case colSrc:
		g.src, err = parseAddrs(g.src[:0], dict)
	case colDst:
		g.dst, err = parseAddrs(g.dst[:0], dict)
	case colLevel:
		g.levels = g.levels[:0]
		for _, text := range dict {
			level, ok := ParseLevel(text)
			if !ok {
				return fmt.Errorf("level %q", text)
			}
			g.levels = append(g.levels, level)
		}
	}
	return err
}

func parseAddrs(dst [][16]byte, texts []string) ([][16]byte, error) {
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return dst, err
		}
		dst = append(dst, a.As16())
	}
	return dst, nil
}

// ParseLevel is the inverse of batch.Level.String.
func ParseLevel(text string) (batch.Level, bool) {
	for l := batch.Packets; l <= batch.Top; l++ {
		if l.String() == text {
			return l, true
		}
	}
	return 0, false
}

// row sets r from the decoded columns; other fields are zero.
func (g *group) row(at int, r *Row) {
	*r = Row{}
	rec := &r.Record
	if g.have&(1<<colHost) != 0 {
		r.Host = g.texts[colHost].dict[g.texts[colHost].at[at]]
	}
	if g.have&(1<<colLevel) != 0 {
		r.Level = g.levels[g.texts[colLevel].at[at]]
	}
	if g.have&(1<<colTime) != 0 {
		rec.Time = g.times[colTime][at]
	}
	if g.have&(1<<colMGENTime) != 0 {
		rec.MGENTime = g.times[colMGENTime][at]
	}
	if g.have&(1<<colSrc) != 0 {
		rec.Src = g.src[g.texts[colSrc].at[at]]
	}
	if g.have&(1<<colDst) != 0 {
		rec.Dst = g.dst[g.texts[colDst].at[at]]
	}
	rec.SrcPort, rec.DstPort = uint16(g.int(colSrcPort, at)), uint16(g.int(colDstPort, at))
	rec.Length, rec.FlowID, rec.MGENSeq = g.int(colBytes, at), g.int(colMGENFlow, at), g.int(colMGENSeq, at)
	rec.Proto, rec.Flags = uint8(g.int(colProto, at)), wire.Flags(g.int(colFlags, at))
	if n := g.int(colPackets, at); n > 1 {
		rec.Packets = n
	}
}

func (g *group) int(c, at int) uint32 {
	if g.have&(1<<c) == 0 {
		return 0
	}
	return g.ints[c][at]
}
