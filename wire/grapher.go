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

// Unmatched is the ID of traffic that belongs to no flow.
const Unmatched = "X"

// maxNames is the combined length of Host and ID up to which a line is composed in one
// piece: the rest of the line fits into what is left of LineRoom.
const maxNames = 160

// AppendGrapherLine appends l to dst, including the newline.
func AppendGrapherLine(dst []byte, l *GrapherLine) []byte {
	if len(l.Host)+len(l.ID) > maxNames {
		return appendLongGrapherLine(dst, l)
	}
	dst, b := lineAt(dst)
	n := putTime(b, 0, l.Time)
	n = putByte(b, n, ':')
	n += copy(b[n:], l.Host)
	n = putByte(b, n, ':')
	n += copy(b[n:], l.ID)
	n = putGrapherEnd(b, putByte(b, n, ':'), l)
	return dst[:len(dst)+n]
}

// putGrapherEnd writes the fields after the ID.
func putGrapherEnd(b *[lineRoom]byte, n int, l *GrapherLine) int {
	if l.Value <= 1<<32-1 {
		n = putUint(b, n, uint32(l.Value))
	} else {
		n += len(strconv.AppendUint(b[n:n], l.Value, 10))
	}
	n = putByte(b, n, ':')
	n = putByte(b, n, '0'+l.Level)
	return putByte(b, n, '\n')
}

// appendLongGrapherLine is AppendGrapherLine for names of any length.
func appendLongGrapherLine(dst []byte, l *GrapherLine) []byte {
	var b [lineRoom]byte
	dst = append(dst, b[:putTime(&b, 0, l.Time)]...)
	dst = append(dst, ':')
	dst = append(dst, l.Host...)
	dst = append(dst, ':')
	dst = append(dst, l.ID...)
	dst = append(dst, ':')
	return append(dst, b[:putGrapherEnd(&b, 0, l)]...)
}

// GrapherValue returns r's value in a grapher line: bits for a packet, busy ticks for
// CPU, bytes for memory.
func (r *Record) GrapherValue() uint64 {
	switch r.Stat() {
	case CPU:
		return uint64(r.Length)
	case Memory:
		return (uint64(r.Length) << 8) * 1024
	}
	return uint64(r.Length) * 8
}
