package wire

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// putAddr6 writes an IPv6 address in the form of RFC 5952.
func putAddr6(b *[lineRoom]byte, n int, a *[16]byte) int {
	high, low := binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])
	if high == 0 && low>>32 == 0xffff { // section 5: with a dotted quad
		return n + len(netip.AddrFrom16(*a).AppendTo(b[n:n]))
	}
	from, to := longestZeros(high, low)
	for i := range 8 {
		if i >= from && i < to {
			if i == from {
				*(*[2]byte)(b[n:]) = [2]byte{':', ':'}
				n += 2
			}
			continue
		}
		if i > 0 && i != to {
			b[n&(lineRoom-1)] = ':'
			n++
		}
		// All four digits, the first in the lowest byte, without leading zeros.
		digits := (bits.Len8(a[2*i]) + 8 + 3) / 4
		if a[2*i] == 0 {
			digits = (bits.Len8(a[2*i+1]|1) + 3) / 4
		}
		four := uint32(hexByte[a[2*i]]) | uint32(hexByte[a[2*i+1]])<<16
		binary.LittleEndian.PutUint32(b[n&(lineRoom-1):][:4], four>>(8*(4-digits)&31))
		n += digits
	}
	return n
}

// longestZeros returns the first of the longest runs of two or more 16-bit groups that
// are zero, as a half-open range of groups, or 8, 8 if there is none.
func longestZeros(high, low uint64) (from, to int) {
	from, to = 8, 8
	longest, run := 1, 0
	for i := range 8 {
		if uint16(high>>48) != 0 {
			run = 0
		} else if run++; run > longest {
			longest, from, to = run, i+1-run, i+1
		}
		high, low = high<<16|low>>48, low<<16
	}
	return from, to
}

// hexByte holds the two digits of each byte, the first in the lower half.
var hexByte [256]uint16

func init() {
	const digits = "0123456789abcdef"
	for i := range hexByte {
		hexByte[i] = uint16(digits[i>>4]) | uint16(digits[i&15])<<8
	}
}
