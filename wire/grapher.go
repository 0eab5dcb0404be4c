package wire

import "strconv"

// GrapherLine is one line of a collector's output to a grapher.
type GrapherLine struct {
	Time  int64  // of capture, nanoseconds since the UNIX epoch
	Host  string // the agent's label
	ID    string // the flow's number, or Unmatched, or a Stat's letter
	Value uint64 // see Record.GrapherValue
	Level uint8  // 0 primary, 1 secondary
}

// Unmatched is the id of traffic that belongs to no flow.
const Unmatched = "X"

// AppendGrapherLine appends l, newline included, to dst.
func AppendGrapherLine(dst []byte, l *GrapherLine) []byte {
	dst = appendTime(dst, l.Time)
	dst = append(dst, ':')
	dst = append(dst, l.Host...)
	dst = append(dst, ':')
	dst = append(dst, l.ID...)
	dst = append(dst, ':')
	if l.Value <= 1<<32-1 {
		dst = appendUint(dst, uint32(l.Value))
	} else {
		dst = strconv.AppendUint(dst, l.Value, 10)
	}
	return append(dst, ':', '0'+l.Level, '\n')
}

// GrapherValue is what a grapher line says of r: bits for a packet, busy ticks
// for CPU, bytes for memory.
func (r *Record) GrapherValue() uint64 {
	switch r.Stat() {
	case CPU:
		return uint64(r.Length)
	case Memory:
		return (uint64(r.Length) << 8) * 1024
	}
	return uint64(r.Length) * 8
}
