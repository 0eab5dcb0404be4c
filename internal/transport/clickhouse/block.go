package clickhouse

import (
	"encoding/binary"
	"math"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// columns are the columns of a row, in order, with the types that the table may give
// them: those with the same encoding.
var columns = []struct {
	name  string
	types []string
}{
	{"time", []string{"DateTime", "DateTime('UTC')"}}, // of capture, or of the first packet
	{"ns", []string{"UInt32"}},                        // nanoseconds of that second
	{"agent", []string{"String", "LowCardinality(String)"}},
	{"boot", []string{"UInt64"}},
	{"number", []string{"UInt64"}},
	{"level", []string{"UInt8", "Int8", "Enum8('packets' = 0, 'flows' = 1, 'top' = 2)"}},
	{"src", []string{"FixedString(16)", "IPv6"}},
	{"dst", []string{"FixedString(16)", "IPv6"}},
	{"src_port", []string{"UInt16"}},
	{"dst_port", []string{"UInt16"}},
	{"proto", []string{"UInt8"}},
	{"bytes", []string{"UInt32"}},
	{"packets", []string{"UInt32"}},
	{"mgen_flow", []string{"Nullable(UInt32)"}},
	{"mgen_seq", []string{"Nullable(UInt32)"}},
	{"mgen_time", []string{"Nullable(Int64)"}}, // microseconds since 1970
	{"direction", []string{"UInt8", "Int8", "Enum8('unknown' = 0, 'out' = 1, 'in' = 2)"}},
	{"flags", []string{"UInt16"}}, // wire.Flags
}

// run is a sequence of rows with consecutive numbers [from, to).
type run struct {
	agent    string
	boot     uint64
	from, to uint64
	// The rows are data[begin:end]; they have the same agent's name but may differ in
	// length.
	begin, end int
}

// block is a group of rows that are inserted together.
type block struct {
	id   string // of the query
	data []byte
	runs []run
	rows int
	// Seconds of the rows' times, both inclusive.
	first, last uint32
}

// addTraffic appends b's traffic, and returns the number of records that a row cannot
// represent, because DateTime ends in 2106. Drops and second observations have no rows,
// because users would count them as traffic.
func (k *block) addTraffic(b *batch.Batch) (unfit int) {
	for i := range b.Records {
		r := &b.Records[i]
		if !r.IsTraffic() {
			continue
		}
		second := r.Time / 1e9
		if r.Time < 0 || second > math.MaxUint32 {
			unfit++
			continue
		}
		if k.rows == 0 {
			k.first, k.last = uint32(second), uint32(second)
		}
		k.first, k.last = min(k.first, uint32(second)), max(k.last, uint32(second))
		begin := len(k.data)
		k.data = appendRow(k.data, b, i)
		k.extend(b, b.First+uint64(i), begin)
		k.rows++
	}
	return unfit
}

// extend adds the newest row to the last run, or begins another one.
func (k *block) extend(b *batch.Batch, number uint64, begin int) {
	if n := len(k.runs); n > 0 {
		if r := &k.runs[n-1]; r.to == number && r.boot == b.Boot && r.agent == b.Agent {
			r.to, r.end = number+1, len(k.data)
			return
		}
	}
	k.runs = append(k.runs, run{b.Agent, b.Boot, number, number + 1, begin, len(k.data)})
}

// appendRow appends record i as RowBinary: numbers are little-endian, strings are
// preceded by their length as a varint, and Nullable values by a byte that is 1 for
// NULL.
func appendRow(dst []byte, b *batch.Batch, i int) []byte {
	r := &b.Records[i]
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, uint32(r.Time/1e9))
	dst = le.AppendUint32(dst, uint32(r.Time%1e9))
	dst = binary.AppendUvarint(dst, uint64(len(b.Agent)))
	dst = append(dst, b.Agent...)
	dst = le.AppendUint64(dst, b.Boot)
	dst = le.AppendUint64(dst, b.First+uint64(i))
	dst = append(dst, byte(b.Level))
	dst = append(dst, r.Src[:]...)
	dst = append(dst, r.Dst[:]...)
	dst = le.AppendUint16(dst, r.SrcPort)
	dst = le.AppendUint16(dst, r.DstPort)
	dst = append(dst, r.Proto)
	dst = le.AppendUint32(dst, r.Length)
	dst = le.AppendUint32(dst, uint32(r.Count()))
	dst = appendMGEN(dst, r)
	dst = append(dst, direction(r.Flags))
	return le.AppendUint16(dst, uint16(r.Flags))
}

func appendMGEN(dst []byte, r *wire.Record) []byte {
	le := binary.LittleEndian
	if r.Flags&wire.MGEN == 0 {
		dst = append(dst, 1)
	} else {
		dst = le.AppendUint32(append(dst, 0), r.FlowID)
	}
	if r.Flags&wire.MGENHeader == 0 {
		return append(dst, 1, 1)
	}
	dst = le.AppendUint32(append(dst, 0), r.MGENSeq)
	return le.AppendUint64(append(dst, 0), uint64(r.MGENTime))
}

func direction(f wire.Flags) byte {
	switch {
	case f&wire.Outgoing != 0:
		return 1
	case f&wire.Incoming != 0:
		return 2
	}
	return 0
}

// without returns the block without the rows that already exist.
func (k *block) without(there map[rowStream]map[uint64]bool) *block {
	left := &block{id: k.id, first: k.first, last: k.last}
	for _, r := range k.runs {
		had := there[rowStream{r.agent, r.boot}]
		at := r.begin
		for number := r.from; number < r.to; number++ {
			end := at + rowLength(k.data[at:])
			if !had[number] {
				begin := len(left.data)
				left.data = append(left.data, k.data[at:end]...)
				left.extend(&batch.Batch{Agent: r.agent, Boot: r.boot}, number, begin)
				left.rows++
			}
			at = end
		}
	}
	return left
}

type rowStream struct {
	agent string
	boot  uint64
}

// rowLength returns the length of the first row in data.
func rowLength(data []byte) int {
	name, n := binary.Uvarint(data[8:])
	at := 8 + n + int(name) + 8 + 8 + 1 + 32 + 4 + 1 + 8
	for _, size := range []int{4, 4, 8} {
		if data[at] == 0 {
			at += size
		}
		at++
	}
	return at + 1 + 2
}
