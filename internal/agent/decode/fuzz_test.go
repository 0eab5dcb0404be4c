package decode

import (
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// FuzzDecode checks what must hold of any frame: it does not panic, nor read
// beyond the captured bytes; every record obeys checkRecord; and a frame that
// was cut tells the same or less.
func FuzzDecode(f *testing.F) {
	for i, s := range mutationSeeds(f) {
		if i%8 == 0 {
			f.Add(s.Data, uint32(s.WireLen), s.GSOType, s.GSOSize, uint8(s.Link))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, wireLen uint32, gsoType uint8, gsoSize uint16, link uint8) {
		fr := packet.Frame{
			Data: b[:len(b):len(b)], Time: 1795415000e9, WireLen: int(wireLen % 1e6), GSOType: gsoType, GSOSize: gsoSize,
			Link: packet.LinkType(link % packet.LinkTypes), Protocol: etherIPv4,
		}
		m := mutator{d: New(Config{FragmentEntries: 2, TCPEntries: 2, BMF: link&4 != 0, Inner: link&8 != 0}), f: fr}
		if err := m.decode(); err != nil {
			t.Fatal(err)
		}
		fr.GSOType = packet.GSONone
		checkTruncation(t, "frame", fr, min(len(b), 128))
	})
}

// FuzzFragments plays fragments in any order to a decoder and to a model: a
// map, since the table has room for all.
func FuzzFragments(f *testing.F) {
	f.Add([]byte{0x01, 0x02, 0x03, 0x12, 0x13, 0x11, 0x81, 0x02})
	f.Add([]byte{0x03, 0x01, 0xf2, 0x02, 0x41, 0x42, 0x43, 0x4b, 0xf3})
	datagrams := [2][]byte{udp(4001, 5001, message(3000, 1, 1)), udp(7, 9, noise(3000))}
	pieces := [4]piece{{to: 1480}, {from: 1480, to: 2960}, {from: 2960, to: 3008, last: true}, {to: 1480}}
	type state struct {
		ports uint16
		at    int64
		bytes int
		whole bool
	}
	f.Fuzz(func(t *testing.T, plan []byte) {
		d := New(Config{FragmentEntries: 32, TCPEntries: 1})
		model := map[uint32]*state{}
		now := int64(1795415000e9)
		for i, op := range plan {
			p := pieces[op&3]
			p.id = uint32(op >> 2 & 7)
			which := int(op >> 5 & 1)
			now += int64(op>>6) * 11e9 / 2 // 0 to 16.5 s
			fr := fragment4(wire.ProtoUDP, datagrams[which], p)
			fr.Time = now
			if p.from == 0 {
				model[p.id] = &state{ports: []uint16{4001, 7}[which], at: now, bytes: 1480}
			}
			want := uint16(0)
			if s := model[p.id]; s != nil {
				life := int64(fragmentLife4)
				if s.whole && s.bytes >= len(datagrams[0]) {
					life = fragmentLifeDone
				}
				if now-s.at > life {
					delete(model, p.id)
				} else if want = s.ports; p.from > 0 {
					s.bytes += p.to - p.from
					s.whole = s.whole || p.last
					if s.whole && s.bytes >= len(datagrams[0]) {
						s.at = now
					}
				}
			}
			var dst [1]wire.Record
			if d.Decode(&fr, dst[:]) != 1 || dst[0].SrcPort != want {
				t.Fatalf("step %d: %+v at %d: %s, want port %d", i, p, now, fields(&dst[0]), want)
			}
			if (dst[0].FlowID == 1) != (want == 4001) {
				t.Fatalf("step %d: %s", i, fields(&dst[0]))
			}
		}
	})
}
