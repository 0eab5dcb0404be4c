package decode

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// vxlan, geneve and gre are tunnels' headers around something.
func vxlan(inner []byte) []byte { return udp(50000, portVXLAN, join([]byte{8, 7: 0}, inner)) }

func geneve(proto uint16, inner []byte) []byte { // with 4 bytes of options
	h := binary.BigEndian.AppendUint16([]byte{1, 0}, proto)
	return udp(50000, portGeneve, join(h, []byte{0, 0, 0, 0, 1, 2, 3, 4}, inner))
}

func greWith(flags byte, proto uint16, rest ...[]byte) []byte {
	return join(binary.BigEndian.AppendUint16([]byte{flags, 0}, proto), join(rest...))
}

// TestInner: with Config.Inner the record is that of the packet inside, in any
// tunnel over IPv4 and IPv6; without, that of the one around it.
func TestInner(t *testing.T) {
	in4 := ip4(17, 1, 0, udp(4001, 5001, message(60, 77, 3)))
	in6 := ip6(17, udp(4001, 5001, message(60, 77, 3)))
	eth4, eth6 := ether(etherIPv4, in4), ether(etherIPv6, in6)
	label, zero := []byte{0, 0, 0x11, 64}, make([]byte, 4)
	tests := []struct {
		name    string
		proto   byte
		payload []byte
		length  uint32 // of the packet inside; 0: the one around it is reported
	}{
		{"vxlan", 17, vxlan(eth4), 88},
		{"vxlan of Linux", 17, udp(1, portVXLANLinux, join([]byte{8, 7: 0}, eth6)), 108},
		{"vxlan, tagged, padded", 17, vxlan(ether(etherVLAN, []byte{0, 5, 8, 0}, in4, make([]byte, 10))), 88},
		{"geneve, frame", 17, geneve(etherBridged, eth6), 108},
		{"geneve, packet", 17, geneve(etherIPv4, in4), 88},
		{"gre", 47, greWith(0, etherIPv4, in4), 88},
		{"gre, all fields", 47, greWith(0xb0, etherIPv6, zero, zero, zero, in6), 108},
		{"gre, frame", 47, greWith(0x20, etherBridged, zero, eth4), 88},
		{"gre, mpls", 47, greWith(0, etherMPLS, label, in4), 88},
		{"gre, pseudowire", 47, greWith(0, etherMPLS, label, zero, eth4), 88},
		{"erspan", 47, greWith(0, etherERSPAN2, eth4), 88},
		{"erspan 2", 47, greWith(0x10, etherERSPAN2, zero, []byte{0x10, 7: 0}, eth4), 88},
		{"erspan 3", 47, greWith(0x10, etherERSPAN3, zero, []byte{0x20, 11: 1}, make([]byte, 8), eth4), 88},
		{"ipip", 4, in4, 88},
		{"sit", 41, in6, 108},
		{"mpls in ip", 137, join(label, in4), 88},
		{"mpls in udp", 17, udp(50000, portMPLS, join(label, in6)), 108},
		{"etherip", 97, join([]byte{0x30, 0}, eth4), 88},
		{"l2tp", 115, join([]byte{0, 0, 0, 9}, eth4), 88},
		{"l2tp with cookie and sublayer", 115, join([]byte{0, 0, 0, 9}, zero, zero, zero, eth4), 88},
		{"batman-adv in vxlan", 17, vxlan(ether(etherBATMAN, []byte{0x40, 15, 50, 9: 0}, eth4)), 88},
		{"three deep", 4, ip4(47, 1, 0, greWith(0, etherIPv6, ip6(17, vxlan(eth4)))), 88},
		{"six deep", 4, ip4(4, 1, 0, ip4(4, 1, 0, ip4(4, 1, 0, ip4(4, 1, 0, in4)))), 20 + 88}, // four are looked through

		{"vxlan, arp", 17, vxlan(ether(etherARP, make([]byte, 46))), 0},
		{"vxlan, wrong checksum", 17, vxlan(ether(etherIPv4, damage(in4, 10))), 0},
		{"vxlan, longer than the datagram", 17, vxlan(ether(etherIPv6, in6[:100])), 0},
		{"vxlan's port, a message", 17, udp(4001, portVXLAN, message(200, 5, 1)), 0},
		{"from vxlan's port", 17, udp(portVXLAN, 9, join([]byte{8, 7: 0}, eth4)), 0},
		{"gre of another version", 47, join([]byte{0, 1, 8, 0}, in4), 0},
		{"gre, keepalive", 47, greWith(0, 0), 0},
		{"ipip, nothing", 4, nil, 0},
		{"l2tp control", 115, join(zero, eth4), 0},
	}
	for _, tt := range tests {
		for _, outer := range [][]byte{ether(etherIPv4, ip4(tt.proto, 1, 0, tt.payload)), ether(etherIPv6, ip6(tt.proto, tt.payload)),
			ether(etherIPv6, ip6(60, join(ext(tt.proto, 0), tt.payload)))} {
			t.Run(fmt.Sprintf("%s/%x", tt.name, outer[12:21]), func(t *testing.T) {
				off, on := New(Config{}), New(Config{Inner: true})
				whole, _ := one(t, off, frame(outer))
				r, ok := one(t, on, frame(outer))
				c := on.Counters()
				checkBalance(t, on)
				if tt.length == 0 {
					if r != whole || !ok || c.Inner != 0 {
						t.Errorf("%v %s, without the flag %s", ok, fields(&r), fields(&whole))
					}
					return
				}
				if whole.Proto != tt.proto || int(whole.Length) != len(outer)-14 {
					t.Errorf("without the flag %s", fields(&whole))
				}
				deep := tt.name == "six deep"
				if !ok || r.Length != tt.length || r.SrcPort != 4001 != deep || r.Flow() != 77 != deep || c.Inner != 1 || r.Flags&wire.Truncated != 0 {
					t.Errorf("%v %s, flags %b, %d inside", ok, fields(&r), r.Flags, c.Inner)
				}
			})
		}
	}
}

// damage changes a byte.
func damage(b []byte, at int) []byte {
	b = join(b)
	b[at] ^= 0xff
	return b
}

// TestInnerFragments: fragments of a tunnel's packet are what they were, and
// those of a packet inside have the ports and flow of their first one.
func TestInnerFragments(t *testing.T) {
	d := New(Config{Inner: true})
	outer := vxlan(ether(etherIPv4, ip4(17, 1, 0, udp(7, 9, noise(3000)))))
	r, ok := one(t, d, frame(ether(etherIPv4, ip4(17, 7, moreBit, outer[:1480]))))
	if !ok || r.DstPort != portVXLAN || r.Flags&wire.Fragment == 0 || d.Counters().Inner != 0 {
		t.Errorf("first fragment of the tunnel's packet: %v %s", ok, fields(&r))
	}
	inside := udp(4001, 5001, message(3000, 77, 1))
	for i, piece := range []struct {
		frag uint16
		b    []byte
	}{{moreBit, inside[:1480]}, {moreBit | 185, inside[1480:2960]}, {370, inside[2960:]}} {
		r, ok := one(t, d, frame(ether(etherIPv6, ip6(17, vxlan(ether(etherIPv4, ip4(17, 8, piece.frag, piece.b)))))))
		if !ok || r.SrcPort != 4001 || r.Flow() != 77 || (r.Flags&wire.LaterFragment != 0) != (i > 0) {
			t.Errorf("fragment %d: %v %s, flags %b", i, ok, fields(&r), r.Flags)
		}
	}
}

// TestInnerSuper: a super-packet in a tunnel is cut into the packets inside,
// with the flow of each.
func TestInnerSuper(t *testing.T) {
	stream := join(message(1000, 77, 1), message(1000, 77, 2), message(1000, 77, 3))
	d := New(Config{Inner: true})
	b := ether(etherIPv6, ip6(17, vxlan(ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5001, 1, 0x10, stream))))))
	recs := all(t, d, gso(b, packet.GSOTCPv4, 1398, 256), 2)
	if len(recs) != 3 {
		t.Fatalf("%d records", len(recs))
	}
	for i, r := range recs {
		if want := uint32(40 + []int{1398, 1398, 204}[i]); r.Length != want || r.SrcPort != 4101 || r.Flow() != 77 {
			t.Errorf("segment %d: %s, want length %d", i, fields(&r), want)
		}
	}
	checkBalance(t, d)
}
