package nettest

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"time"
)

// MGEN is a message of mgen(1), version 2, as its UDP payload: what a test
// knows before a detector has told.
type MGEN struct {
	Flow, Seq uint32
	Time      time.Time
	Dst       netip.AddrPort
	// Size of the message in bytes; less than its header means the header only.
	Size int
	// Checksum: the last four bytes are the CRC of what is before them.
	Checksum bool
}

// Header fields of an MGEN message.
const (
	mgenVersion      = 2
	mgenEndOfMessage = 0x02
	mgenChecksum     = 0x04
	mgenIPv4         = 1
	mgenIPv6         = 2
	mgenAddress      = 24
	mgenCRC          = 4
)

// Payload is the message's bytes: header, zeros up to Size, and the checksum.
func (m *MGEN) Payload() []byte {
	addr, kind := m.Dst.Addr().Unmap(), byte(mgenIPv4)
	if addr.Is6() {
		kind = mgenIPv6
	}
	size := max(m.Size, mgenAddress+len(addr.AsSlice()))
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b[0:], uint16(size))
	b[2] = mgenVersion
	b[3] = mgenEndOfMessage
	binary.BigEndian.PutUint32(b[4:], m.Flow)
	binary.BigEndian.PutUint32(b[8:], m.Seq)
	binary.BigEndian.PutUint32(b[12:], uint32(m.Time.Unix()))
	binary.BigEndian.PutUint32(b[16:], uint32(m.Time.Nanosecond()/1000))
	binary.BigEndian.PutUint16(b[20:], m.Dst.Port())
	b[22] = kind
	b[23] = byte(len(addr.AsSlice()))
	copy(b[mgenAddress:], addr.AsSlice())
	if m.Checksum && size >= mgenAddress+len(addr.AsSlice())+mgenCRC {
		b[3] |= mgenChecksum
		binary.BigEndian.PutUint32(b[size-mgenCRC:], crc32.ChecksumIEEE(b[:size-mgenCRC]))
	}
	return b
}
