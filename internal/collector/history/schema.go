package history

import (
	"io"

	"github.com/parquet-go/parquet-go"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// row is the representation of a record in a file. docs/history.md explains the
// columns.
type row struct {
	Time      int64   `parquet:"time,timestamp(nanosecond)"`
	Host      string  `parquet:"host,dict"`
	Level     string  `parquet:"level,dict"`
	Src       string  `parquet:"src,dict"`
	Dst       string  `parquet:"dst,dict"`
	SrcPort   uint16  `parquet:"src_port,dict"`
	DstPort   uint16  `parquet:"dst_port,dict"`
	Proto     uint8   `parquet:"proto,dict"`
	Direction string  `parquet:"direction,dict"`
	Bytes     uint32  `parquet:"bytes,dict"`
	Packets   uint32  `parquet:"packets,dict"`
	MGENFlow  *uint32 `parquet:"mgen_flow,optional,dict"`
	MGENSeq   *uint32 `parquet:"mgen_seq,optional"`
	MGENTime  *int64  `parquet:"mgen_time,optional,timestamp(microsecond)"`
	Relayed   bool    `parquet:"relayed"`
	Flags     uint16  `parquet:"flags,dict"`
}

// Columns in the order of row.
const (
	colTime = iota
	colHost
	colLevel
	colSrc
	colDst
	colSrcPort
	colDstPort
	colProto
	colDirection
	colBytes
	colPackets
	colMGENFlow
	colMGENSeq
	colMGENTime
	colRelayed
	colFlags
	columns
)

// columnNames are the names by column.
var columnNames = [columns]string{"time", "host", "level", "src", "dst", "src_port", "dst_port", "proto", "direction",
	"bytes", "packets", "mgen_flow", "mgen_seq", "mgen_time", "relayed", "flags"}

const (
	// groupRows is the maximum number of rows in a row group: what a reader has in
	// memory per file, and the finest unit that it can skip.
	groupRows = 1 << 16
	// pageBytes is the maximum size of a column's page before encoding.
	pageBytes = 128 << 10
	// dictBytes is the dictionary size from which a column of a row group is written
	// plain.
	dictBytes = 1 << 20
)

// rowWriter writes records as Parquet.
type rowWriter struct {
	parquet *parquet.GenericWriter[row]
	texts   *texts
	buf     []row
	values  []mgenValues
}

// rowBuffer is the number of rows passed on at once.
const rowBuffer = 1024

func newRowWriter(w io.Writer, options ...parquet.WriterOption) *rowWriter {
	options = append(writerOptions(parquet.MaxRowsPerRowGroup(groupRows)), options...)
	return &rowWriter{parquet: parquet.NewGenericWriter[row](w, options...), texts: newTexts(),
		buf: make([]row, 0, rowBuffer), values: make([]mgenValues, rowBuffer)}
}

// writerOptions are those of all files of a store.
func writerOptions(more ...parquet.WriterOption) []parquet.WriterOption {
	return append([]parquet.WriterOption{
		parquet.CreatedBy("pcapper", "1", ""),
		parquet.PageBufferSize(pageBytes),
		parquet.DictionaryMaxBytes(dictBytes),
		parquet.Compression(&parquet.Snappy),
		// The bounds of texts cost much, and are useful for the host only.
		parquet.SkipPageBounds("src"), parquet.SkipPageBounds("dst"), parquet.SkipPageBounds("level"), parquet.SkipPageBounds("direction"),
		parquet.DefaultEncodingFor(parquet.Int32, &parquet.DeltaBinaryPacked),
		parquet.DefaultEncodingFor(parquet.Int64, &parquet.DeltaBinaryPacked),
	}, more...)
}

// sortedRows declares the sort order of every row group.
var sortedRows = parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("host"), parquet.Ascending("time")))

func (w *rowWriter) addRecord(rec *wire.Record, host string, level batch.Level) error {
	n := len(w.buf)
	w.buf = w.buf[:n+1]
	w.buf[n].fill(rec, host, level, w.texts, &w.values[n])
	if n+1 == rowBuffer {
		return w.write()
	}
	return nil
}

func (w *rowWriter) write() error {
	_, err := w.parquet.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

func (w *rowWriter) close() error {
	if err := w.write(); err != nil {
		return err
	}
	return w.parquet.Close()
}

// mgenValues holds the optional values of rows.
type mgenValues struct {
	flow, seq uint32
	time      int64
}

// fill sets r from a record. texts caches addresses; v holds the optional values.
func (r *row) fill(rec *wire.Record, host string, level batch.Level, texts *texts, v *mgenValues) {
	r.Time, r.Host, r.Level = rec.Time, host, level.String()
	r.Src, r.Dst = texts.addr(&rec.Src, rec.Flags&wire.IPv6 != 0), texts.addr(&rec.Dst, rec.Flags&wire.IPv6 != 0)
	r.SrcPort, r.DstPort, r.Proto = rec.SrcPort, rec.DstPort, rec.Proto
	r.Direction = direction(rec.Flags)
	r.Bytes, r.Packets = rec.Length, uint32(rec.Count())
	r.Relayed, r.Flags = rec.Flags&wire.Relayed != 0, uint16(rec.Flags)
	r.MGENFlow, r.MGENSeq, r.MGENTime = nil, nil, nil
	if rec.Flags&wire.MGEN != 0 {
		v.flow = rec.FlowID
		r.MGENFlow = &v.flow
	}
	if rec.Flags&wire.MGENHeader != 0 {
		v.seq, v.time = rec.MGENSeq, rec.MGENTime
		r.MGENSeq, r.MGENTime = &v.seq, &v.time
	}
}

// direction returns the direction of a packet relative to its host; "" if unknown.
func direction(f wire.Flags) string {
	switch f & (wire.Outgoing | wire.Incoming) {
	case wire.Outgoing:
		return "out"
	case wire.Incoming:
		return "in"
	case wire.Outgoing | wire.Incoming:
		return "both"
	}
	return ""
}
