package decode

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// gso makes a super-packet of a frame, of which the ring captured snap bytes.
func gso(b []byte, kind uint8, size uint16, snap int) packet.Frame {
	f := frame(b)
	f.GSOType, f.GSOSize = kind, size
	f.Data = b[:min(snap, len(b))]
	return f
}

// all decodes f with room for n records at a time, 0 for Drain alone.
func all(t *testing.T, d *Decoder, f packet.Frame, n int) []wire.Record {
	t.Helper()
	dst := make([]wire.Record, n)
	recs := append([]wire.Record(nil), dst[:d.Decode(&f, dst)]...)
	dst = make([]wire.Record, max(n, 1))
	for d.Pending() {
		k := d.Drain(dst)
		if k == 0 {
			t.Fatal("pending, but nothing drained")
		}
		recs = append(recs, dst[:k]...)
	}
	if d.Drain(dst) != 0 {
		t.Fatal("drained, but nothing was pending")
	}
	return recs
}

// unsaid clears the length field of an IP header, as BIG TCP does.
func unsaid(ip []byte) []byte {
	if ip[0]>>4 == 4 {
		ip[2], ip[3] = 0, 0
	} else {
		ip[4], ip[5] = 0, 0
	}
	return ip
}

// jumbo is the hop-by-hop header that Linux puts into BIG TCP over IPv6.
func jumbo(next byte, payload []byte) []byte {
	h := []byte{next, 0, 0xc2, 4, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(h[4:], uint32(8+len(payload)))
	return unsaid(ip6(extHopByHop, join(h, payload)))
}

// TestSuperPackets checks count and lengths of the packets on the wire, for
// every way to fetch them.
func TestSuperPackets(t *testing.T) {
	timestamps := func(seg []byte) []byte { // a TCP header of 32 bytes
		seg[12] = 8 << 4
		return join(seg[:20], make([]byte, 12), seg[20:])
	}
	greKey := func(inner []byte) []byte { return join([]byte{0x20, 0, 8, 0, 0, 0, 0, 1}, inner) }
	seg := func(n int) []byte { return tcp(4101, 5101, 100, 0x10, noise(n)) }
	tests := []struct {
		name       string
		b          []byte
		kind       uint8
		size       uint16
		hdr, bytes int // of each packet; of all payload
	}{
		{"tcp4", ether(etherIPv4, ip4(6, 1, 0, seg(60000))), packet.GSOTCPv4, 1448, 40, 60000},
		{"tcp4 timestamps", ether(etherIPv4, ip4(6, 1, 0, timestamps(seg(60000)))), packet.GSOTCPv4, 1448, 52, 60000},
		{"tcp4 exactly", ether(etherIPv4, ip4(6, 1, 0, seg(2896))), packet.GSOTCPv4, 1448, 40, 2896},
		{"tcp4 one byte more", ether(etherIPv4, ip4(6, 1, 0, seg(2897))), packet.GSOTCPv4, 1448, 40, 2897},
		{"tcp4 in a single packet", ether(etherIPv4, ip4(6, 1, 0, seg(1448))), packet.GSOTCPv4, 1448, 40, 1448},
		{"tcp6", ether(etherIPv6, ip6(6, seg(60000))), packet.GSOTCPv6, 1428, 60, 60000},
		{"tcp4 vlan", ether(etherVLAN, []byte{0, 5, 8, 0}, ip4(6, 1, 0, seg(60000))), packet.GSOTCPv4, 1448, 40, 60000},
		{"big tcp4", ether(etherIPv4, unsaid(ip4(6, 1, 0, seg(180000)))), packet.GSOTCPv4, 1448, 40, 180000},
		{"big tcp6", ether(etherIPv6, jumbo(6, seg(180000))), packet.GSOTCPv6, 1428, 60, 180000},
		{"big tcp6 without jumbo", ether(etherIPv6, unsaid(ip6(6, seg(180000)))), packet.GSOTCPv6, 1428, 60, 180000},
		{"udp4", ether(etherIPv4, ip4(17, 1, 0, udp(37180, 7777, noise(20000)))), packet.GSOUDPL4, 1000, 28, 20000},
		{"udp6", ether(etherIPv6, ip6(17, udp(37180, 7777, noise(20100)))), packet.GSOUDPL4, 1000, 48, 20100},
		{"ufo4", ether(etherIPv4, ip4(17, 1, 0, udp(37180, 7777, noise(8000)))), packet.GSOUDP, 1480, 20, 8008},
		{"ufo6", ether(etherIPv6, ip6(17, udp(37180, 7777, noise(8000)))), packet.GSOUDP, 1448, 48, 8008},
		{"ipip", ether(etherIPv4, ip4(4, 1, 0, ip4(6, 1, 0, seg(60000)))), packet.GSOTCPv4, 1428, 60, 60000},
		{"6in4", ether(etherIPv4, ip4(41, 1, 0, ip6(6, seg(60000)))), packet.GSOTCPv6, 1408, 80, 60000},
		{"4in6", ether(etherIPv6, ip6(4, ip4(6, 1, 0, seg(60000)))), packet.GSOTCPv4, 1408, 80, 60000},
		{"gre with key", ether(etherIPv4, ip4(47, 1, 0, greKey(ip4(6, 1, 0, seg(60000))))), packet.GSOTCPv4, 1400, 68, 60000},
		{"vxlan", ether(etherIPv4, ip4(17, 1, 0, vxlan(ether(etherIPv4, ip4(6, 1, 0, seg(60000)))))), packet.GSOTCPv4, 1398, 90, 60000},
		{"geneve", ether(etherIPv4, ip4(17, 1, 0, geneve(etherBridged, ether(etherIPv4, ip4(6, 1, 0, seg(60000)))))), packet.GSOTCPv4, 1398, 94, 60000},
		{"big tcp in vxlan", ether(etherIPv6, unsaid(ip6(17, vxlan(ether(etherIPv6, jumbo(6, seg(90000))))))), packet.GSOTCPv6, 1398, 40 + 8 + 8 + 14 + 40 + 20, 90000},
		{"options in vxlan", ether(etherIPv6, ip6(17, vxlan(ether(etherIPv6, ip6(60, join(ext(6, 1), seg(60000))))))), packet.GSOTCPv6, 1398, 40 + 8 + 8 + 14 + 40 + 16 + 20, 60000},
		{"udp in vxlan", ether(etherIPv4, ip4(17, 1, 0, vxlan(ether(etherVLAN, []byte{0, 1, 0x86, 0xdd}, ip6(17, udp(1, 2, noise(20000))))))),
			packet.GSOUDPL4, 1000, 102, 20000},
	}
	for _, tt := range tests {
		for _, room := range []int{0, 1, 7, 1024} {
			t.Run(fmt.Sprintf("%s/%d", tt.name, room), func(t *testing.T) {
				d := New(Config{})
				recs := all(t, d, gso(tt.b, tt.kind, tt.size, 256), room)
				left := tt.bytes
				for i := range recs {
					n := min(left, int(tt.size))
					left -= n
					if r := &recs[i]; int(r.Length) != tt.hdr+n || r.Flags&(wire.Super|wire.Truncated) != 0 {
						t.Fatalf("packet %d: %s, flags %b, want length %d", i, fields(r), r.Flags, tt.hdr+n)
					}
				}
				if want := (tt.bytes + int(tt.size) - 1) / int(tt.size); len(recs) != want || left != 0 {
					t.Errorf("%d packets, want %d; %d bytes left", len(recs), want, left)
				}
				checkBalance(t, d)
			})
		}
	}
}

// TestSuperWhole: what cannot be cut stays one record with its real length.
func TestSuperWhole(t *testing.T) {
	big := tcp(4101, 5101, 100, 0x10, noise(180000))
	tests := []struct {
		name   string
		f      packet.Frame
		length uint32
		flags  wire.Flags
	}{
		{"file, big tcp4", gso(ether(etherIPv4, unsaid(ip4(6, 1, 0, big))), 0, 0, 256), 180040, wire.Super},
		{"file, big tcp6", gso(ether(etherIPv6, jumbo(6, big)), 0, 0, 256), 180068, wire.Super},
		{"file, tcp left to the card", gso(ether(etherIPv4, unsaid(ip4(6, 1, 0, big[:3020]))), 0, 0, 256), 3040, wire.Super},
		{"file, over 65,535 and not tcp", gso(ether(etherIPv4, unsaid(ip4(17, 1, 0, big))), 0, 0, 256), 180040, wire.Super},
		{"tcp header not captured", gso(ether(etherIPv4, ip4(6, 1, 0, big[:60020])), packet.GSOTCPv4, 1448, 40), 60040, wire.Super | wire.Truncated},
		{"size 0", gso(ether(etherIPv4, ip4(6, 1, 0, big[:60020])), packet.GSOTCPv4, 0, 256), 60040, wire.Super},
		{"unknown tunnel", gso(ether(etherIPv4, ip4(50, 1, 0, big[:60020])), packet.GSOTCPv4, 1448, 256), 60040, wire.Super},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := New(Config{})
			recs := all(t, d, tt.f, 4)
			if len(recs) != 1 || recs[0].Length != tt.length || recs[0].Flags&^(wire.Outgoing|wire.IPv6) != tt.flags {
				t.Errorf("%d records: %+v", len(recs), recs)
			}
			if c := d.Counters(); c.SuperPacketsWhole != 1 || c.SuperPackets != 0 {
				t.Errorf("%d whole, %d cut", c.SuperPacketsWhole, c.SuperPackets)
			}
			checkBalance(t, d)
		})
	}
}

// TestSuperMGEN: the flow of every segment is told although only 256 bytes of
// each super-packet were captured, and a connection beside it has none.
func TestSuperMGEN(t *testing.T) {
	var stream []byte
	for i := range 40 {
		stream = append(stream, message(60000, 1801, uint32(i))...)
	}
	d := New(Config{})
	all(t, d, frame(ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5001, 999, synBit, nil)))), 1)
	headers := 0
	for i := 0; i < len(stream); i += 50000 {
		part := stream[i:min(i+50000, len(stream))]
		b := ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5001, 1000+uint32(i), 0x10, part)))
		for j, r := range all(t, d, gso(b, packet.GSOTCPv4, 1448, 256), 10) {
			if r.Flags&wire.MGEN == 0 || r.FlowID != 1801 {
				t.Fatalf("byte %d, segment %d: %s", i, j, fields(&r))
			}
			if r.Flags&wire.MGENHeader != 0 {
				headers++
				if off := int(r.MGENSeq)*60000 - i - j*1448; off < 0 || off >= 1448 {
					t.Errorf("byte %d, segment %d: header %d is not there", i, j, r.MGENSeq)
				}
			}
		}
		other := ether(etherIPv4, ip4(6, 1, 0, tcp(4102, 5001, 1000+uint32(i), 0x10, noise(50000))))
		for j, r := range all(t, d, gso(other, packet.GSOTCPv4, 1448, 256), 10) {
			if r.Flags&wire.MGEN != 0 || r.FlowID != 0 {
				t.Fatalf("other connection, segment %d: %s", j, fields(&r))
			}
		}
	}
	if headers < 8 { // every sixth super-packet begins where a message does
		t.Errorf("only %d headers found", headers)
	}
}

// TestSuperDatagrams: datagrams of the size of an MGEN one that was captured
// are of its flow; a last one of another size is not, unless it was captured.
func TestSuperDatagrams(t *testing.T) {
	var payload []byte
	for i := range 9 {
		payload = append(payload, message(500, 77, uint32(i))...)
	}
	payload = append(payload, message(300, 77, 9)...)
	b := ether(etherIPv4, ip4(17, 1, 0, udp(4001, 5001, payload)))
	for _, snap := range []int{256, 800, len(b)} {
		d := New(Config{})
		recs := all(t, d, gso(b, packet.GSOUDPL4, 500, snap), 3)
		if len(recs) != 10 {
			t.Fatalf("%d records", len(recs))
		}
		for i, r := range recs {
			captured := 42+i*500+24 <= snap
			want := wire.Flags(0)
			if captured {
				want = wire.MGENHeader
			}
			if captured || i < 9 {
				want |= wire.MGEN
			}
			if r.Flags&(wire.MGEN|wire.MGENHeader) != want || r.Flow() != 77*uint32(want&wire.MGEN/wire.MGEN) {
				t.Errorf("captured %d, datagram %d: %s, flags %b", snap, i, fields(&r), r.Flags)
			}
			if captured && r.MGENSeq != uint32(i) || !captured && r.MGENTime != 0 {
				t.Errorf("captured %d, datagram %d: number %d, time %d", snap, i, r.MGENSeq, r.MGENTime)
			}
		}
	}
}

// TestPendingPanics: a caller that forgets the rest must learn of it.
func TestPendingPanics(t *testing.T) {
	d := New(Config{})
	f := frame(ether(etherIPv4, ip4(17, 1, 0, udp(1, 2, nil))))
	if d.Decode(&f, nil) != 0 || !d.Pending() {
		t.Fatal("no record kept")
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	d.Decode(&f, nil)
}

// TestRealSuperPackets cuts the captures of hosts with offloads. Their truth
// is in the bytes: nothing may be lost of them.
func TestRealSuperPackets(t *testing.T) {
	for name, kind := range map[string]uint8{
		"edge/tcp-gso-on": packet.GSOTCPv4, "mgen/tcp4-gso": packet.GSOTCPv4,
		"edge/tcp-bigtcp4": packet.GSOTCPv4, "edge/udp-gso": packet.GSOUDPL4,
	} {
		size := map[uint8]int{packet.GSOTCPv4: 1448, packet.GSOUDPL4: 1000}[kind]
		t.Run(name, func(t *testing.T) {
			d, whole := New(Config{}), New(Config{})
			ts := truths(t, name)
			packets := 0
			for i, f := range frames(t, name) {
				f.Data = f.Data[:min(256, len(f.Data))]
				var one [1]wire.Record
				n := whole.Decode(&f, one[:])
				if int(one[0].Length) > 1500 && n == 1 {
					f.GSOType, f.GSOSize = kind, uint16(size)
				}
				recs := all(t, d, f, 16)
				packets += len(recs)
				payload, hdr := 0, 0
				for _, r := range recs {
					hdr = max(hdr, int(r.Length)-size)
					if r.Length > 1500 || r.Flow() != one[0].Flow() || ts[i].kind != "" && r.Flags&wire.MGEN == 0 {
						t.Fatalf("frame %d: %s", i+1, fields(&r))
					}
				}
				for _, r := range recs {
					payload += int(r.Length) - hdr
				}
				if len(recs) > 1 && payload != int(one[0].Length)-hdr {
					t.Errorf("frame %d: %d bytes of payload, want %d", i+1, payload, int(one[0].Length)-hdr)
				}
			}
			if name == "edge/udp-gso" && packets != 200+6 {
				t.Errorf("%d packets, want 200 datagrams and 6 ICMP messages", packets)
			}
			checkBalance(t, d)
		})
	}
}
