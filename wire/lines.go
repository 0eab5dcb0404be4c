package wire

import (
	"encoding/binary"
	"math"
)

// Lines formats the same log lines as [AppendLine], but faster when many are formatted
// in a row: it caches the text of the current second, of the last packet's flow
// (packets come in trains), and of IPv6 addresses. The zero value is ready to use. A
// Lines is not safe for concurrent use.
type Lines struct {
	second uint64
	prefix [16]byte // the second and its dot
	length int      // of prefix; 0 before the first line
	flow   flowText
	addrs  [addrSlots]addrText
}

// flowText is what stands between a line's time and its length.
type flowText struct {
	src, dst [16]byte
	ports    uint32
	v6       bool
	n        int // of text; 0 until the flow's second packet
	text     [112]byte
}

// Texts are copied at their full size, one size for flows with IPv4 addresses and one
// for others, because that is faster than looking at their length.
const (
	flowRoom4 = 48
	flowRoom  = len(flowText{}.text)
	_         = uint(flowRoom - (1 + 2*(41+1+5+1)))
)

// addrSlots is the number of addresses that are cached, a power of two.
const (
	addrSlots = 512
	addrShift = 64 - 9
)

// addrText is a cached address in brackets.
type addrText struct {
	addr [16]byte
	n    int // 0 if the slot is empty
	text [48]byte
}

// Append appends r's log line to dst, including the newline. It does not allocate if
// dst has LineRoom bytes to spare.
func (l *Lines) Append(dst []byte, r *Record) []byte {
	sec := uint64(r.Time) / nsPerSec
	if sec > math.MaxUint32 || r.Time < 0 || r.Flags&NotTraffic != 0 {
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
	n = l.putFlow(b, n+6, r)
	n = putUint(b, n, r.Length)
	n = putByte(b, n, ':')
	n = putUint(b, n, r.Flow())
	n = putByte(b, n, ':')
	n = putOctet(b, n, r.Proto)
	b[(n-1)&(lineRoom-1)] = '\n' // overwrites the dot
	return dst[:len(dst)+n]
}

func (l *Lines) remember(sec uint64) {
	var room [lineRoom]byte
	l.second = sec
	l.length = putByte(&room, putUint(&room, 0, uint32(sec)), '.')
	copy(l.prefix[:], room[:])
}

// putFlow writes ":source:port:destination:port:".
func (l *Lines) putFlow(b *[lineRoom]byte, n int, r *Record) int {
	f := &l.flow
	ports, v6 := uint32(r.SrcPort)<<16|uint32(r.DstPort), r.Flags&IPv6 != 0
	again := f.ports == ports && f.dst == r.Dst && f.src == r.Src && f.v6 == v6
	if again && f.n > 0 {
		if f.n <= flowRoom4 {
			*(*[flowRoom4]byte)(b[n:]) = [flowRoom4]byte(f.text[:])
		} else {
			*(*[flowRoom]byte)(b[n:]) = f.text
		}
		return n + f.n
	}
	from := n
	n = putByte(b, n, ':')
	if v6 {
		n = l.putAddr(b, n, &r.Src)
		n = putPort(b, n, r.SrcPort)
		n = l.putAddr(b, n, &r.Dst)
	} else {
		n = putAddr(b, n, &r.Src, false)
		n = putPort(b, n, r.SrcPort)
		n = putAddr(b, n, &r.Dst, false)
	}
	n = putPort(b, n, r.DstPort)
	if !again {
		f.src, f.dst, f.ports, f.v6, f.n = r.Src, r.Dst, ports, v6, 0
		return n
	}
	// Cache the flow only from its second packet on: reading back what has just been
	// written byte by byte is slow, and most flows may have a single packet.
	f.n = n - from
	f.text = [flowRoom]byte(b[from:])
	return n
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
