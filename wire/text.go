package wire

import (
	"math"
	"slices"
	"strconv"
)

// MaxLine is the maximum number of bytes that AppendLine appends.
const MaxLine = 20 + 1 + 6 + 1 + 2*(41+1+5+1) + 10 + 1 + 10 + 1 + 3 + 1

// LineRoom is the spare capacity that a buffer should have for one more line; with
// less, AppendLine and AppendGrapherLine allocate.
const LineRoom = 256

// lineRoom is the size of the array in which a line is composed. It is a power of two
// so that an index masked with lineRoom-1 needs no bounds check.
const lineRoom = LineRoom

// Fields are written with up to three surplus bytes, so lineRoom must exceed the
// longest line by that much; this does not compile if it does not.
const _ = uint(lineRoom - MaxLine - 4)

// AppendLine appends r's log line to dst, including the newline. It appends nothing for
// a record that is [NotTraffic]; every other record has a line. IPv6 addresses are in
// brackets, lengths are not truncated, and times before 1970 have a minus sign. It does
// not allocate if dst has LineRoom bytes to spare.
func AppendLine(dst []byte, r *Record) []byte {
	if r.Flags&NotTraffic != 0 {
		return dst
	}
	// Appending field by field would check the capacity of dst forty times per line.
	dst, b := lineAt(dst)
	n := putTime(b, 0, r.Time)
	n = putByte(b, n, ':')
	v6 := r.Flags&IPv6 != 0
	n = putAddr(b, n, &r.Src, v6)
	n = putByte(b, n, ':')
	n = putUint(b, n, uint32(r.SrcPort))
	n = putByte(b, n, ':')
	n = putAddr(b, n, &r.Dst, v6)
	n = putByte(b, n, ':')
	n = putUint(b, n, uint32(r.DstPort))
	n = putByte(b, n, ':')
	n = putUint(b, n, r.Length)
	n = putByte(b, n, ':')
	n = putUint(b, n, r.Flow())
	n = putByte(b, n, ':')
	n = putUint(b, n, uint32(r.Proto))
	n = putByte(b, n, '\n')
	return dst[:len(dst)+n]
}

// lineAt ensures that dst has room for one more line, and returns dst and that room.
func lineAt(dst []byte) ([]byte, *[lineRoom]byte) {
	dst = slices.Grow(dst, lineRoom)
	return dst, (*[lineRoom]byte)(dst[len(dst) : len(dst)+lineRoom])
}

// putTime writes t (nanoseconds since the epoch) at b[n:] as seconds with exactly six
// decimals, truncated rather than rounded, as timestamps are.
func putTime(b *[lineRoom]byte, n int, t int64) int {
	u := uint64(t)
	if t < 0 {
		n = putByte(b, n, '-')
		u = -u
	}
	sec := u / nsPerSec
	usec := uint32((u - sec*nsPerSec) / nsPerUsec)
	if sec <= math.MaxUint32 {
		n = putUint(b, n, uint32(sec))
	} else {
		n += len(strconv.AppendUint(b[n:n], sec, 10))
	}
	n = putByte(b, n, '.')
	put2(b, n, usec/10_000)
	put2(b, n+2, usec/100%100)
	put2(b, n+4, usec%100)
	return n + 6
}

func putAddr(b *[lineRoom]byte, n int, a *[16]byte, v6 bool) int {
	if v6 {
		n = putByte(b, n, '[')
		return putByte(b, putAddr6(b, n, a), ']')
	}
	n = putOctet(b, n, a[12])
	n = putOctet(b, n, a[13])
	n = putOctet(b, n, a[14])
	return putOctet(b, n, a[15]) - 1 // overwrites the last dot
}

func putByte(b *[lineRoom]byte, n int, c byte) int {
	b[n&(lineRoom-1)] = c
	return n + 1
}

// putOctet writes v and a dot, always four bytes; the next field overwrites the
// surplus.
func putOctet(b *[lineRoom]byte, n int, v byte) int {
	o := &octets[v]
	*(*[4]byte)(b[n:]) = o.text
	return n + int(o.n)
}

func put2(b *[lineRoom]byte, n int, v uint32) {
	b[n&(lineRoom-1)] = digits[2*v]
	b[(n+1)&(lineRoom-1)] = digits[2*v+1]
}

// putUint writes v in base 10 at b[n:], two digits at a time from the end.
func putUint(b *[lineRoom]byte, n int, v uint32) int {
	end := n + decimals(v)
	i := end
	for v >= 100 {
		q := v / 100
		i -= 2
		put2(b, i, v-100*q)
		v = q
	}
	if v >= 10 {
		put2(b, i-2, v)
	} else {
		b[(i-1)&(lineRoom-1)] = byte('0' + v)
	}
	return end
}

// decimals returns the number of digits of v in base 10.
func decimals(v uint32) int {
	switch {
	case v < 10:
		return 1
	case v < 100:
		return 2
	case v < 1_000:
		return 3
	case v < 10_000:
		return 4
	case v < 100_000:
		return 5
	case v < 1_000_000:
		return 6
	case v < 10_000_000:
		return 7
	case v < 100_000_000:
		return 8
	case v < 1_000_000_000:
		return 9
	}
	return 10
}

// digits holds the numbers 00 to 99. octets holds the numbers 0 to 255 as text with a
// dot after them, and n, the length of that text including the dot.
var (
	digits [200]byte
	octets [256]struct {
		text [4]byte
		n    uint8
	}
)

func init() {
	for i := range 100 {
		digits[2*i], digits[2*i+1] = byte('0'+i/10), byte('0'+i%10)
	}
	for i := range octets {
		octets[i].n = uint8(copy(octets[i].text[:], strconv.Itoa(i)+"."))
	}
}
