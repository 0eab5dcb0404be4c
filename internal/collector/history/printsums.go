package history

import (
	"io"
	"slices"

	"github.com/parquet-go/parquet-go"
)

// sumWriter writes sums as Parquet. Its columns are sorted by name.
type sumWriter struct {
	w      *parquet.GenericWriter[any]
	values []func(s *Sum) parquet.Value
	row    parquet.Row
}

// sumCell describes how a column of sums is stored.
type sumCell struct {
	node parquet.Node
	get  func(s *Sum) parquet.Value
}

func newSumWriter(w io.Writer, columns []column) *sumWriter {
	group := make(parquet.Group)
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
		group[c.name] = sumCells[c.name].node
	}
	slices.Sort(names) // the order in a Group
	sw := &sumWriter{w: parquet.NewGenericWriter[any](w, parquet.NewSchema("sums", group), parquet.Compression(&parquet.Snappy), parquet.MaxRowsPerRowGroup(groupRows))}
	for _, name := range names {
		sw.values = append(sw.values, sumCells[name].get)
	}
	return sw
}

func (w *sumWriter) write(sums []Sum) error {
	for i := range sums {
		w.row = w.row[:0]
		for c, get := range w.values {
			v := get(&sums[i])
			level := 0
			if !v.IsNull() && w.optional(c) {
				level = 1
			}
			w.row = append(w.row, v.Level(0, level, c))
		}
		if _, err := w.w.WriteRows([]parquet.Row{w.row}); err != nil {
			return err
		}
	}
	return nil
}

func (w *sumWriter) optional(c int) bool { return w.w.Schema().Fields()[c].Optional() }

func (w *sumWriter) close() error { return w.w.Close() }

func text(get func(s *Sum) string) sumCell {
	return sumCell{parquet.Encoded(parquet.String(), &parquet.RLEDictionary), func(s *Sum) parquet.Value { return parquet.ValueOf(get(s)) }}
}

func integer(get func(s *Sum) uint64) sumCell {
	return sumCell{parquet.Uint(64), func(s *Sum) parquet.Value { return parquet.Int64Value(int64(get(s))) }}
}

// sumCells maps names to columns.
var sumCells = map[string]sumCell{
	"time":      {parquet.Timestamp(parquet.Nanosecond), func(s *Sum) parquet.Value { return parquet.Int64Value(s.Time) }},
	"host":      text(func(s *Sum) string { return s.Host }),
	"flow":      text(func(s *Sum) string { return s.Flow }),
	"level":     text(func(s *Sum) string { return s.Level.String() }),
	"src":       text(func(s *Sum) string { return addrText(s.Src) }),
	"dst":       text(func(s *Sum) string { return addrText(s.Dst) }),
	"direction": text(func(s *Sum) string { return direction(s.Direction) }),
	"src_port":  integer(func(s *Sum) uint64 { return uint64(s.SrcPort) }),
	"dst_port":  integer(func(s *Sum) uint64 { return uint64(s.DstPort) }),
	"proto":     integer(func(s *Sum) uint64 { return uint64(s.Proto) }),
	"records":   integer(func(s *Sum) uint64 { return s.Records }),
	"packets":   integer(func(s *Sum) uint64 { return s.Packets }),
	"bytes":     integer(func(s *Sum) uint64 { return s.Bytes }),
	"relayed": {parquet.Leaf(parquet.BooleanType), func(s *Sum) parquet.Value {
		return parquet.BooleanValue(s.Relayed)
	}},
	"mgen_flow": {parquet.Optional(parquet.Uint(32)), func(s *Sum) parquet.Value {
		if !s.MGEN {
			return parquet.NullValue()
		}
		return parquet.Int32Value(int32(s.MGENFlow))
	}},
}
