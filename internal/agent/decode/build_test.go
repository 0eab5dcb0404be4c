package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// The builders of this file make the frames that benchmarks and tests need,
// with right lengths and IPv4 header checksums, and no others, which the decoder
// does not look at.

func ether(proto uint16, payload ...[]byte) []byte {
	b := []byte{2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 0x0a}
	b = binary.BigEndian.AppendUint16(b, proto)
	return append(b, join(payload...)...)
}

func join(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

var (
	addrA4 = []byte{10, 77, 0, 1}
	addrB4 = []byte{10, 77, 0, 2}
	addrA6 = []byte{0xfd, 0x77, 15: 1}
	addrB6 = []byte{0xfd, 0x77, 15: 2}
)

func ip4(proto byte, id, frag uint16, payload []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], frag)
	h := join(b, addrA4, addrB4)
	binary.BigEndian.PutUint16(h[10:], nettest.Checksum(h))
	return join(h, payload)
}

func ip6(next byte, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 64}
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	return join(b, addrA6, addrB6, payload)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

func tcp(sport, dport uint16, seq uint32, flags byte, payload []byte) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	b[12], b[13] = 5<<4, flags
	return append(b, payload...)
}

// message is an MGEN message to 10.77.0.2:5001.
func message(size int, flow, seq uint32) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint16(b, uint16(size))
	b[2], b[3] = 2, 8
	binary.BigEndian.PutUint32(b[4:], flow)
	binary.BigEndian.PutUint32(b[8:], seq)
	binary.BigEndian.PutUint32(b[12:], 1795415000)
	binary.BigEndian.PutUint32(b[16:], 250000)
	copy(b[20:], []byte{5001 >> 8, 5001 & 0xff, 1, 4, 10, 77, 0, 2})
	return b
}

// noise is payload that is nobody's.
func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + 129)
	}
	return b
}

func frame(b []byte) packet.Frame {
	return packet.Frame{Data: b, Time: 1795415000e9, WireLen: len(b), Direction: packet.Outgoing}
}

const (
	moreBit = 0x2000
	synBit  = 0x02
)
