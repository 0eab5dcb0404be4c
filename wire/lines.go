package wire

import (
	"encoding/binary"
	"math"
)

// Lines formats log lines, the same bytes as [AppendLine], in less time where
// many are formatted one after the other: it remembers the text of the current
// second and of IPv6 addresses. The zero value is ready. It is not safe for
// concurrent use.
type Lines struct {
	second uint64
	prefix [16]byte // the second and its dot
	length int      // of prefix; 0 before the first line
	addrs  [addrSlots]addrText
}

// addrSlots is how many addresses are remembered, a power of two.
const (
	addrSlots = 512
	addrShift = 64 - 9
)

// addrText is an address in brackets. Its text is copied whole, as that takes
// less time than to look at how long it is.
type addrText struct {
	addr [16]byte
	n    int // 0: nothing is remembered
	text [48]byte
}

// Append appends r's log line, newline included, to dst. It does not allocate
// if dst has LineRoom bytes to spare.
func (l *Lines) Append(dst []byte, r *Record) []byte {
	sec := uint64(r.Time) / nsPerSec
	if sec > math.MaxUint32 || r.Time < 0 {
		return AppendLine(dst, r)
	}
	dst, b := lineAt(dst)
	if sec != l.second || l.length == 0 {
		l.remember(sec)
	}
	*(*[16]byte)(b[:]) = l.prefix
	usec := uint32((uint64(r.Time) - sec*nsPerSec) / nsPerUsec)
	n := l.length
	put2(b, n, usec/10_000)
	put2(b, n+2, usec/100%100)
	put2(b, n+4, usec%100)
	n = putByte(b, n+6, ':')
	if r.Flags&IPv6 != 0 {
		n = l.putAddr(b, n, &r.Src)
		n = putPort(b, n, r.SrcPort)
		n = l.putAddr(b, n, &r.Dst)
		n = putPort(b, n, r.DstPort)
	} else {
		n = putAddr(b, n, &r.Src, false)
		n = putPort(b, n, r.SrcPort)
		n = putAddr(b, n, &r.Dst, false)
		n = putPort(b, n, r.DstPort)
	}
	n = putUint(b, n, r.Length)
	n = putByte(b, n, ':')
	n = putUint(b, n, r.Flow())
	n = putByte(b, n, ':')
	n = putOctet(b, n, r.Proto)
	b[(n-1)&(lineRoom-1)] = '\n' // over the dot
	return dst[:len(dst)+n]
}

func (l *Lines) remember(sec uint64) {
	var room [lineRoom]byte
	l.second = sec
	l.length = putByte(&room, putUint(&room, 0, uint32(sec)), '.')
	copy(l.prefix[:], room[:])
}

// putPort writes ":port:".
func putPort(b *[lineRoom]byte, n int, port uint16) int {
	b[n&(lineRoom-1)] = ':'
	n = putUint(b, n+1, uint32(port))
	b[n&(lineRoom-1)] = ':'
	return n + 1
}

// putAddr writes an IPv6 address in brackets.
func (l *Lines) putAddr(b *[lineRoom]byte, n int, a *[16]byte) int {
	const spread = 0x9e3779b97f4a7c15 // 2^64 by the golden ratio
	high, low := binary.LittleEndian.Uint64(a[:]), binary.LittleEndian.Uint64(a[8:])
	slot := &l.addrs[((high*spread)^low)*spread>>addrShift&(addrSlots-1)]
	if slot.n == 0 || slot.addr != *a {
		var room [lineRoom]byte
		slot.addr = *a
		slot.n = putAddr(&room, 0, a, true)
		copy(slot.text[:], room[:])
	}
	*(*[48]byte)(b[n:]) = slot.text
	return n + slot.n
}
