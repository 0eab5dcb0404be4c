package wire

import (
	"encoding/binary"
	"fmt"
)

// Size is the length of a binary record in bytes.
const Size = 28

// Offsets in a binary record; the field list is in the package comment.
const (
	offSec     = 0
	offUsec    = 4
	offSrc     = 8
	offDst     = 12
	offSrcPort = 16
	offDstPort = 18
	offLength  = 20
	offFlow    = 22
	offProto   = 26
	offFlags   = 27
)

// flagRelayed is the only flag a binary record has.
const flagRelayed = 1

const (
	nsPerSec  = 1_000_000_000
	nsPerUsec = 1_000
	endOfTime = nsPerSec << 32 // the first that 32 bits of seconds cannot hold; as an unsigned number no time before 1970 is below it
)

// fits reports whether r fits in 28 bytes.
func (r *Record) fits() bool {
	return r.Flags&(IPv6|NotTraffic) == 0 && r.Length <= 0xffff && uint64(r.Time) < endOfTime
}

// AppendBinary appends r's 28-byte encoding to dst. It reports false, and appends
// nothing, if r does not fit in 28 bytes: an IPv6 address, a length above 65,535, a
// time before 1970 or after 2106, or a record that is [NotTraffic]. Values are never
// truncated or wrapped.
func AppendBinary(dst []byte, r *Record) ([]byte, bool) {
	if !r.fits() {
		return dst, false
	}
	sec := uint64(r.Time) / nsPerSec
	usec := (uint64(r.Time) - sec*nsPerSec) / nsPerUsec
	n := len(dst)
	if cap(dst)-n >= Size {
		dst = dst[:n+Size]
	} else {
		dst = append(dst, make([]byte, Size)...)
	}
	b := dst[n : n+Size : n+Size]
	binary.BigEndian.PutUint64(b[offSec:], sec<<32|usec)
	copy(b[offSrc:offSrc+4], r.Src[12:])
	copy(b[offDst:offDst+4], r.Dst[12:])
	binary.BigEndian.PutUint32(b[offSrcPort:], uint32(r.SrcPort)<<16|uint32(r.DstPort))
	binary.BigEndian.PutUint16(b[offLength:], uint16(r.Length))
	binary.BigEndian.PutUint32(b[offFlow:], r.Flow())
	b[offProto] = r.Proto
	b[offFlags] = 0
	if r.Flags&(Relayed|MarkRelayed) == Relayed|MarkRelayed {
		b[offFlags] = flagRelayed
	}
	return dst, true
}

// DecodeBinary decodes the first 28 bytes of b into r. Any 28 bytes are a valid record,
// with one exception: a microseconds field of a million or more, which means that the
// stream is out of step or does not come from an agent. That, and fewer than 28 bytes,
// are the only errors.
//
// A nonzero flow ID sets the MGEN flag. A flow ID of 0 does not, because 28 bytes
// cannot tell MGEN flow 0 from a packet that is not MGEN's.
func DecodeBinary(b []byte, r *Record) error {
	if len(b) < Size {
		return fmt.Errorf("wire: record of %d bytes: want %d", len(b), Size)
	}
	b = b[:Size:Size]
	usec := binary.BigEndian.Uint32(b[offUsec:])
	if usec >= 1_000_000 {
		return fmt.Errorf("wire: record with %d microseconds: not a stream of 28-byte records", usec)
	}
	flow := binary.BigEndian.Uint32(b[offFlow:])
	*r = Record{
		Time:    int64(binary.BigEndian.Uint32(b[offSec:]))*nsPerSec + int64(usec)*nsPerUsec,
		SrcPort: binary.BigEndian.Uint16(b[offSrcPort:]),
		DstPort: binary.BigEndian.Uint16(b[offDstPort:]),
		Length:  uint32(binary.BigEndian.Uint16(b[offLength:])),
		FlowID:  flow,
		Proto:   b[offProto],
	}
	r.SetSrc4([4]byte(b[offSrc:]))
	r.SetDst4([4]byte(b[offDst:]))
	if flow != 0 {
		r.Flags |= MGEN
	}
	if b[offFlags]&flagRelayed != 0 {
		r.Flags |= Relayed | MarkRelayed
	}
	if r.isHostStat() {
		r.Flags = r.Flags&^MGEN | HostStat
	}
	return nil
}
