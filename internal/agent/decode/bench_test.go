package decode

import (
	"fmt"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
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
