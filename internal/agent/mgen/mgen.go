package mgen

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

// Reason says why a payload is or is not MGEN's.
type Reason uint8

const (
	// Accepted: the payload begins with an MGEN message.
	Accepted Reason = iota
	// Short: fewer bytes than the smallest message.
	Short
	// Cut: the payload is long enough, but too few of its bytes were captured, and
	// those do not rule out a message.
	Cut
	// BadVersion: neither 2 nor 4.
	BadVersion
	// BadSize: the size is not that of the payload, or is smaller than the header.
	BadSize
	// BadFlags: bits are set that no release uses.
	BadFlags
	// BadTime: a million microseconds or more, or seconds out of range.
	BadTime
	// BadAddress: address type and length do not match any family.
	BadAddress
	// BadChecksum: the whole message was captured and its CRC-32 is wrong.
	BadChecksum

	// Reasons is the number of reasons.
	Reasons
)

var reasonNames = [Reasons]string{
	"accepted", "short", "cut", "version", "size", "flags", "time", "address", "checksum",
}

// String returns the reason in a word or two.
func (r Reason) String() string {
	if r >= Reasons {
		return "unknown"
	}
	return reasonNames[r]
}

// Header holds the fields of an MGEN header.
type Header struct {
	// Time at which the sender created the message, in microseconds since the UNIX
	// epoch by the sender's clock.
	Time int64
	// Flow is the flow ID; 0 is a valid flow.
	Flow uint32
	// Seq is the sequence number of the message in its flow.
	Seq uint32
	// Size of the message in bytes, including the header.
	Size uint16
	// Sure: the message names the packet's own destination.
	Sure bool
}

const (
	version2 = 2
	version4 = 4

	// fixed2 and fixed4 are the number of bytes before the address, which suffice to
	// accept a message.
	fixed2 = 24
	fixed4 = 28

	minUDP = fixed2 + 4 // with an IPv4 address
	minTCP = 76         // mgen sends no smaller one on TCP, not even a fragment

	flagChecksum = 0x04
	flagsKnown   = 0x1f

	typeIPv4 = 1
	typeIPv6 = 2
)

// UDP parses a datagram's payload into h, which is valid iff it returns Accepted.
// payload may be shorter than size, which is the UDP length minus 8. The destination
// address has the same form as in wire.Record. For a fragmented datagram, pass the
// payload of the first fragment.
func UDP(h *Header, payload []byte, size int, dst *[16]byte, port uint16) Reason {
	if size < minUDP {
		return Short
	}
	if len(payload) > size {
		payload = payload[:size]
	}
	if len(payload) < fixed2 {
		return cut(payload, size)
	}
	if payload[2] != version2 && payload[2] != version4 {
		return BadVersion
	}
	if int(binary.BigEndian.Uint16(payload)) != size {
		return BadSize
	}
	reason := parse(h, payload, dst, port)
	if reason == Accepted && !intact(payload, size) {
		return BadChecksum
	}
	return reason
}

// cut classifies a payload of which too little was captured to accept it.
func cut(b []byte, size int) Reason {
	switch {
	case len(b) >= 3 && b[2] != version2 && b[2] != version4:
		return BadVersion
	case len(b) >= 2 && int(binary.BigEndian.Uint16(b)) != size:
		return BadSize
	case len(b) >= 4 && b[3]&^flagsKnown != 0:
		return BadFlags
	}
	return Cut
}

// parse parses the header at the beginning of b, which has at least fixed2 bytes, and
// checks everything except version, size, and checksum.
func parse(h *Header, b []byte, dst *[16]byte, port uint16) Reason {
	if b[3]&^flagsKnown != 0 {
		return BadFlags
	}
	sec := uint64(binary.BigEndian.Uint32(b[12:]))
	rest := b[16:]
	if b[2] == version4 {
		if len(b) < fixed4 {
			return Cut
		}
		sec = binary.BigEndian.Uint64(b[12:])
		rest = b[20:]
	}
	usec := binary.BigEndian.Uint32(rest)
	if usec >= 1_000_000 || sec > math.MaxInt64/1_000_000-1 {
		return BadTime
	}
	n := addressLen(rest[6], rest[7])
	if n == 0 {
		return BadAddress
	}
	h.Size = binary.BigEndian.Uint16(b)
	if int(h.Size) < len(b)-len(rest)+8+n {
		return BadSize
	}
	h.Flow = binary.BigEndian.Uint32(b[4:])
	h.Seq = binary.BigEndian.Uint32(b[8:])
	h.Time = int64(sec)*1_000_000 + int64(usec)
	h.Sure = binary.BigEndian.Uint16(rest[4:]) == port && names(rest[8:], n, dst)
	return Accepted
}

// addressLen returns 4 or 16, or 0 if type and length do not match any family.
func addressLen(family, length byte) int {
	switch {
	case family == typeIPv4 && length == 4, family == typeIPv6 && length == 16:
		return int(length)
	}
	return 0
}

// names reports whether b begins with the address dst, which has n bytes in the message
// and is in IPv4-mapped form here.
func names(b []byte, n int, dst *[16]byte) bool {
	if len(b) < n {
		return false
	}
	if n == 16 {
		return [16]byte(b) == *dst
	}
	return [4]byte(b) == [4]byte(dst[12:]) && isIPv4(dst)
}

// isIPv4 reports whether a is an IPv4 address in its IPv4-mapped form.
func isIPv4(a *[16]byte) bool { return [12]byte(a[:]) == [12]byte{10: 0xff, 11: 0xff} }

// intact reports whether the CRC is correct, or cannot be checked because b does not
// hold all size bytes of the message.
func intact(b []byte, size int) bool {
	if b[3]&flagChecksum == 0 || len(b) < size {
		return true
	}
	return crc32.ChecksumIEEE(b[:size-4]) == binary.BigEndian.Uint32(b[size-4:])
}
