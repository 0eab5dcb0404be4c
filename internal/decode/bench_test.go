package decode

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/pcapper/pcapper/internal/packet"
	"github.com/pcapper/pcapper/wire"
)

// The builders of this file make the frames that benchmarks and tests need,
// with right lengths and no checksums, which the decoder does not look at.

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
	return join(b, addrA4, addrB4, payload)
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

// workload is frames that a benchmark repeats; none of them changes what the
// next round finds, except that TCP connections go on.
type workload struct {
	name    string
	prepare []packet.Frame // decoded once
	frames  []packet.Frame
}

func workloads() []workload {
	ext := join([]byte{60, 0, 1, 4, 0, 0, 0, 0}, []byte{43, 0, 1, 4, 0, 0, 0, 0}, []byte{17, 0, 0, 0, 0, 0, 0, 0})
	var fragments, segments []packet.Frame
	datagram := udp(4001, 5001, message(4000, 1401, 1))
	for i := 0; i < len(datagram); i += 1480 {
		more, end := uint16(moreBit), i+1480
		if end >= len(datagram) {
			more, end = 0, len(datagram)
		}
		fragments = append(fragments, frame(ether(etherIPv4, ip4(17, 77, more|uint16(i/8), datagram[i:end]))))
	}
	stream := join(message(5000, 1503, 1), message(5000, 1503, 2))
	for i := 0; i < len(stream); i += 1000 {
		segments = append(segments, frame(ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5101, uint32(1+i), 0x10, stream[i:i+1000])))))
	}
	one := func(b []byte) []packet.Frame { return []packet.Frame{frame(b)} }
	return []workload{
		{name: "udp", frames: one(ether(etherIPv4, ip4(17, 1, 0, udp(40000, 53, noise(64)))))},
		{name: "tcp", frames: one(ether(etherIPv4, ip4(6, 1, 0, tcp(40000, 443, 7, 0x10, noise(64)))))},
		{name: "tcp ack", frames: one(ether(etherIPv4, ip4(6, 1, 0, tcp(40000, 443, 7, 0x10, nil))))},
		{name: "tcp beside mgen", prepare: segments, frames: one(ether(etherIPv4, ip4(6, 1, 0, tcp(40000, 443, 7, 0x10, noise(64)))))},
		{name: "udp6", frames: one(ether(etherIPv6, ip6(17, udp(40000, 53, noise(64)))))},
		{name: "ipv6 + 3 headers", frames: one(ether(etherIPv6, ip6(0, join(ext, udp(40000, 53, noise(64))))))},
		{name: "qinq", frames: one(ether(etherQinQ, []byte{0, 200, 0x81, 0, 0, 100, 8, 0}, ip4(17, 1, 0, udp(40000, 53, noise(64)))))},
		{name: "fragments", frames: fragments},
		{name: "mgen udp", frames: one(ether(etherIPv4, ip4(17, 1, 0, udp(4001, 5001, message(200, 1001, 1)))))},
		{name: "mgen tcp", prepare: segments, frames: segments},
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, w := range workloads() {
		b.Run(w.name, func(b *testing.B) {
			d := New(Config{})
			dst := make([]wire.Record, 1024)
			for i := range w.prepare {
				d.Decode(&w.prepare[i], dst)
			}
			n := 0
			for b.Loop() {
				for i := range w.frames {
					n += d.Decode(&w.frames[i], dst[n&1023:])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(w.frames)), "ns/frame")
			if n != b.N*len(w.frames) {
				b.Fatal(fmt.Errorf("%d records of %d frames", n, b.N*len(w.frames)))
			}
		})
	}
}
