package decode

import (
	"encoding/binary"
	"net/netip"
	"reflect"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// one decodes a frame that must give one record, or none.
func one(t *testing.T, d *Decoder, f packet.Frame) (wire.Record, bool) {
	t.Helper()
	dst := [2]wire.Record{{SrcPort: 9, DstPort: 9, FlowID: 9, MGENSeq: 9, MGENTime: 9, Flags: 0xffff}}
	n := d.Decode(&f, dst[:])
	if n > 1 || d.Pending() {
		t.Fatalf("%d records", n)
	}
	return dst[0], n == 1
}

// TestLink looks through every link layer, and counts what holds no IP.
func TestLink(t *testing.T) {
	p4 := ip4(17, 1, 0, udp(7, 9, noise(4)))
	p6 := ip6(17, udp(7, 9, noise(4)))
	network := func(proto uint16, b []byte) packet.Frame {
		f := frame(b)
		f.Link, f.Protocol = packet.Network, proto
		return f
	}
	raw := func(b []byte) packet.Frame {
		f := frame(b)
		f.Link = packet.RawIP
		return f
	}
	eth := func(proto uint16, parts ...[]byte) packet.Frame { return frame(ether(proto, parts...)) }
	snap := []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}
	label, bottom := []byte{0, 0, 0x10, 64}, []byte{0, 0, 0x11, 64}
	ppp := func(proto uint16) []byte {
		return binary.BigEndian.AppendUint16([]byte{0x11, 0, 0, 1, 0, 40}, proto)
	}
	pw := func(mac byte, inner []byte) []byte { // a frame to a MAC address that begins with mac
		b := ether(etherIPv4, inner)
		b[0] = mac
		return b
	}
	word := []byte{0, 0, 0, 1}
	in4, in6 := ether(etherIPv4, p4), ether(etherIPv6, p6)
	bat := func(kind byte, n int, inner []byte) []byte {
		return join([]byte{kind, 15, 50}, make([]byte, n-3), inner)
	}
	part := func(total int, inner []byte) []byte {
		b := bat(0x41, 20, inner)
		binary.BigEndian.PutUint16(b[18:], uint16(total))
		return b
	}
	big := bat(0x40, 10, ether(etherIPv4, ip4(17, 1, 0, udp(7, 9, noise(1400)))))
	batMPLS := func(c *Counters) uint64 { return c.MPLS }
	tests := []struct {
		name  string
		f     packet.Frame
		count func(*Counters) uint64 // nil: one record
	}{
		{"snap of 802.1H", eth(uint16(8+len(p4)), []byte{0xaa, 0xaa, 3, 0, 0, 0xf8, 8, 0}, p4), nil},
		{"snap, bridged", eth(uint16(8+len(in4)), []byte{0xaa, 0xaa, 3, 0, 0x80, 0xc2, 0, 7}, in4), nil},
		{"llc ip", eth(uint16(3+len(p4)), []byte{6, 6, 3}, p4), nil},
		{"snap of cisco", eth(uint16(8+len(p4)), []byte{0xaa, 0xaa, 3, 0, 0, 0x0c, 8, 0}, p4), func(c *Counters) uint64 { return c.LLC }},
		{"pseudowire, like ipv4", eth(etherMPLS, bottom, pw(0x45, p4)), nil},
		{"pseudowire, like ipv6", eth(etherMPLS, bottom, pw(0x60, p4)), nil},
		{"pseudowire, like a control word", eth(etherMPLS, bottom, pw(0x00, p4)), nil},
		{"pseudowire with control word", eth(etherMPLS, bottom, word, pw(0x45, p4)), nil},
		{"pseudowire with tag", eth(etherMPLS, bottom, word, ether(etherVLAN, []byte{0, 5, 8, 0}, p4)), nil},
		{"pseudowire with padding", eth(etherMPLS, bottom, in6, make([]byte, 14)), nil},
		{"pseudowire, arp, like ipv4", eth(etherMPLS, bottom, []byte{0x45}, ether(etherARP, make([]byte, 46))[1:]), batMPLS},
		{"pseudowire, arp, like ipv6", eth(etherMPLS, bottom, []byte{0x60}, ether(etherARP, make([]byte, 46))[1:]), batMPLS},
		{"pseudowire, associated channel", eth(etherMPLS, bottom, []byte{0x10, 0, 0, 0x21}, make([]byte, 40)), batMPLS},
		{"802.1ah", eth(etherBackbone, word, in4), nil},
		{"802.1ah, tagged", eth(etherQinQ, []byte{0, 7, 0x88, 0xe7}, word, ether(etherQinQ, []byte{0, 5, 0x86, 0xdd}, p6)), nil},
		{"802.1ah, cut", eth(etherBackbone, word, in4[:13]), func(c *Counters) uint64 { return c.ShortLink }},
		{"batman unicast", eth(etherBATMAN, bat(0x40, 10, in4)), nil},
		{"batman unicast, tagged", eth(etherBATMAN, bat(0x40, 10, ether(etherVLAN, []byte{0, 5, 8, 0}, p4))), nil},
		{"batman 4 addresses", eth(etherBATMAN, bat(0x42, 18, in6)), nil},
		{"batman broadcast", eth(etherBATMAN, bat(0x01, 14, in4)), nil},
		{"batman multicast", eth(etherBATMAN, bat(0x05, 6, in4)), nil},
		{"batman, cut", eth(etherBATMAN, bat(0x40, 10, nil)[:9]), func(c *Counters) uint64 { return c.ShortLink }},
		{"batman, later part", eth(etherBATMAN, part(len(big), big[700:])), func(c *Counters) uint64 { return c.BATMANParts }},
		{"batman, a whole packet in a part of another", eth(etherBATMAN, part(len(big)+500, big[:700])), func(c *Counters) uint64 { return c.BATMANParts }},
		{"batman originator message", eth(etherBATMAN, bat(0x00, 24, nil)), func(c *Counters) uint64 { return c.BATMAN }},
		{"batman of another version", eth(etherBATMAN, []byte{3, 14, 50}, make([]byte, 7), in4), func(c *Counters) uint64 { return c.BATMAN }},
		{"ethernet ipv4", eth(etherIPv4, p4), nil},
		{"ethernet ipv6", eth(etherIPv6, p6), nil},
		{"ethernet padding", eth(etherIPv4, p4, make([]byte, 14)), nil},
		{"vlan", eth(etherVLAN, []byte{0, 5, 8, 0}, p4), nil},
		{"priority tag", eth(etherVLAN, []byte{0xe0, 0, 0x86, 0xdd}, p6), nil},
		{"qinq", eth(etherQinQ, []byte{0, 6, 0x81, 0, 0, 5, 8, 0}, p4), nil},
		{"old qinq", eth(etherQinQOld, []byte{0, 6, 0x81, 0, 0, 5, 8, 0}, p4), nil},
		{"mpls", eth(etherMPLS, bottom, p4), nil},
		{"mpls stack", eth(etherMPLS, label, label, bottom, p6), nil},
		{"mpls multicast", eth(etherMPLSMulticast, bottom, p4), nil},
		{"pppoe ipv4", eth(etherPPPoE, ppp(pppIPv4), p4), nil},
		{"pppoe ipv6", eth(etherPPPoE, ppp(pppIPv6), p6), nil},
		{"pppoe, compressed protocol", eth(etherPPPoE, ppp(0)[:6], []byte{pppIPv4}, p4), nil},
		{"vlan pppoe mpls", eth(etherVLAN, []byte{0, 5, 0x88, 0x64}, ppp(pppMPLS), bottom, p4), nil},
		{"llc snap", eth(uint16(8+len(p4)), snap, p4), nil},
		{"network ipv4", network(etherIPv4, p4), nil},
		{"network ipv6", network(etherIPv6, p6), nil},
		{"network vlan", network(etherVLAN, join([]byte{0, 5, 8, 0}, p4)), nil},
		{"raw ipv4", raw(p4), nil},
		{"raw ipv6", raw(p6), nil},

		{"arp", eth(etherARP, make([]byte, 28)), func(c *Counters) uint64 { return c.ARP }},
		{"vlan arp", eth(etherVLAN, []byte{0, 5, 8, 6}, make([]byte, 28)), func(c *Counters) uint64 { return c.ARP }},
		{"rarp", eth(etherRARP, make([]byte, 28)), func(c *Counters) uint64 { return c.RARP }},
		{"stp", eth(38, []byte{0x42, 0x42, 3}, make([]byte, 35)), func(c *Counters) uint64 { return c.LLC }},
		{"lldp", eth(etherLLDP, make([]byte, 46)), func(c *Counters) uint64 { return c.LLDP }},
		{"eapol", eth(etherEAPOL, make([]byte, 46)), func(c *Counters) uint64 { return c.EAPOL }},
		{"pppoe discovery", eth(etherPPPoEDiscovery, make([]byte, 46)), func(c *Counters) uint64 { return c.PPPoEDiscovery }},
		{"lcp", eth(etherPPPoE, ppp(0xc021), make([]byte, 40)), func(c *Counters) uint64 { return c.PPP }},
		{"pseudowire", eth(etherMPLS, bottom, make([]byte, 40)), func(c *Counters) uint64 { return c.MPLS }},
		{"ptp", eth(0x88f7, make([]byte, 46)), func(c *Counters) uint64 { return c.OtherEtherType }},
		{"network arp", network(etherARP, make([]byte, 28)), func(c *Counters) uint64 { return c.ARP }},
		{"network 802.2", network(4, make([]byte, 28)), func(c *Counters) uint64 { return c.LLC }},
		{"nothing", frame(nil), func(c *Counters) uint64 { return c.ShortLink }},
		{"raw nothing", raw(nil), func(c *Counters) uint64 { return c.ShortLink }},
		{"raw version 5", raw([]byte{0x50}), func(c *Counters) uint64 { return c.BadVersion }},
		{"cut in vlan", eth(etherVLAN, []byte{0, 5, 8}), func(c *Counters) uint64 { return c.ShortLink }},
		{"cut in mpls", eth(etherMPLS, bottom), func(c *Counters) uint64 { return c.ShortLink }},
		{"cut in pppoe", eth(etherPPPoE, ppp(pppIPv4)[:7]), func(c *Counters) uint64 { return c.ShortLink }},
		{"ipv6 as ipv4", eth(etherIPv4, p6), func(c *Counters) uint64 { return c.BadVersion }},
		{"ipv4 as ipv6", eth(etherIPv6, p4, make([]byte, 40)), func(c *Counters) uint64 { return c.BadVersion }},
		{"ipv4 header cut", eth(etherIPv4, p4[:19]), func(c *Counters) uint64 { return c.ShortIP }},
		{"ipv6 header cut", eth(etherIPv6, p6[:39]), func(c *Counters) uint64 { return c.ShortIP }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := New(Config{})
			r, ok := one(t, d, tt.f)
			c := d.Counters()
			if tt.count != nil {
				if ok || tt.count(&c) != 1 {
					t.Errorf("record %v, %+v", ok, c)
				}
				checkBalance(t, d)
				return
			}
			want := uint32(20 + 12)
			if r.Flags&wire.IPv6 != 0 {
				want = 40 + 12
			}
			if !ok || r.SrcPort != 7 || r.DstPort != 9 || r.Length != want || r.FlowID|r.MGENSeq != 0 || r.MGENTime != 0 {
				t.Errorf("%v %+v", ok, r)
			}
			checkBalance(t, d)
		})
	}
}

// ext is an IPv6 extension header of 8*(n+1) bytes.
func ext(next, n byte) []byte {
	h := make([]byte, 8*(int(n)+1))
	h[0], h[1] = next, n
	return h
}

// TestExtensions walks chains of every extension header.
func TestExtensions(t *testing.T) {
	u := udp(7, 9, noise(4))
	ah := func(next byte) []byte { return join([]byte{next, 4}, make([]byte, 22)) } // 24 bytes
	long := []byte{}
	for range 150 {
		long = append(long, ext(extDestination, 0)...)
	}
	long[len(long)-8] = 17
	tests := []struct {
		name    string
		first   byte
		payload []byte
		proto   uint8
		ports   bool
		cut     bool
	}{
		{"hop-by-hop", 0, join(ext(17, 0), u), 17, true, false},
		{"longest", 60, join(ext(17, 255), u), 17, true, false},
		{"all", 0, join(ext(43, 1), ext(60, 0), ext(51, 2), ah(135), ext(139, 0), ext(140, 3), ext(17, 0), u), 17, true, false},
		{"ah", 51, join(ah(17), u), 17, true, false},
		{"150 headers", 60, join(long, u), 17, true, false},
		{"no next header", 0, ext(59, 0), 59, false, false},
		{"esp", 0, join(ext(50, 0), u), 50, false, false},
		{"icmp", 0, join(ext(58, 0), noise(8)), 58, false, false},
		{"mobility", 135, ext(59, 1), 135, false, false},
		{"mobility behind options", 60, join(ext(135, 0), ext(59, 1)), 135, false, false},
		{"hip", 139, ext(59, 4), 139, false, false},
		{"shim6 control", 140, ext(59, 2), 140, false, false},
		{"shim6 payload", 140, join(ext(17, 0), u), 17, true, false},
		{"second cut", 0, join(ext(43, 0), ext(17, 4)[:20]), 43, false, true},
		{"second missing", 0, ext(43, 0), 43, false, true},
		{"longer than the packet", 60, ext(17, 1)[:8], 60, false, true},
		{"udp cut", 60, join(ext(17, 0), u[:6]), 17, true, true},
		{"udp cut in its ports", 60, join(ext(17, 0), u[:3]), 17, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "all" { // ext(51, 2) above names AH after 24 bytes of options
				tt.payload = join(ext(43, 1), ext(60, 0), ext(51, 2), ah(135), ext(139, 0), ext(140, 3), ext(17, 0), u)
			}
			d := New(Config{})
			r, ok := one(t, d, frame(ether(etherIPv6, ip6(tt.first, tt.payload), noise(20))))
			if !ok || r.Proto != tt.proto || (r.SrcPort == 7 && r.DstPort == 9) != tt.ports || (r.Flags&wire.Truncated != 0) != tt.cut {
				t.Errorf("%v %s, flags %b", ok, fields(&r), r.Flags)
			}
			if !tt.ports && r.SrcPort|r.DstPort != 0 {
				t.Errorf("ports from nowhere: %s", fields(&r))
			}
		})
	}
}

// TestBATMANFirstPart: the part that has the headers tells of the whole packet.
func TestBATMANFirstPart(t *testing.T) {
	whole := join([]byte{0x40, 15, 50}, make([]byte, 7), ether(etherIPv4, ip4(17, 1, 0, udp(7, 9, noise(1400)))))
	head := join([]byte{0x41, 15, 50}, make([]byte, 17), whole[:730])
	binary.BigEndian.PutUint16(head[18:], uint16(len(whole)))
	r, ok := one(t, New(Config{}), frame(ether(etherBATMAN, head)))
	if !ok || r.SrcPort != 7 || r.Length != 1428 {
		t.Errorf("%v %s", ok, fields(&r))
	}
}

// TestUnsaid: a length of 0 is an offload's above the MTU, or where the kernel
// says so, whatever the protocol and the version of IP.
func TestUnsaid(t *testing.T) {
	for _, tt := range []struct {
		name string
		ip   []byte
		gso  uint8
		want uint32 // length; 0: no record
	}{
		{"udp4", unsaid(ip4(17, 1, 0, udp(7, 9, noise(4000)))), 0, 4028},
		{"tcp4", unsaid(ip4(6, 1, 0, tcp(7, 9, 1, 0, noise(4000)))), 0, 4040},
		{"icmp4", unsaid(ip4(1, 1, 0, noise(64))), 0, 0},
		{"small tcp4", unsaid(ip4(6, 1, 0, tcp(7, 9, 1, 0, noise(64)))), 0, 0},
		{"small tcp4 super-packet", unsaid(ip4(6, 1, 0, tcp(7, 9, 1, 0, noise(1000)))), packet.GSOTCPv4, 540},
		{"udp6", unsaid(ip6(17, udp(7, 9, noise(4000)))), 0, 4048},
		{"tcp6", unsaid(ip6(6, tcp(7, 9, 1, 0, noise(4000)))), 0, 4060},
		{"esp6", unsaid(ip6(50, noise(70000))), 0, 70040},
		{"options", unsaid(ip6(60, join(ext(17, 0), udp(7, 9, noise(4000))))), 0, 4056},
		{"hop-by-hop options", unsaid(ip6(0, join(ext(17, 0), udp(7, 9, noise(4000))))), 0, 4056},
		{"no payload, padded", unsaid(ip6(59, noise(20))), 0, 40},
		{"jumbogram", jumbo(17, udp(7, 9, noise(70000))), 0, 70056},
	} {
		proto := uint16(etherIPv4)
		if tt.ip[0]>>4 == 6 {
			proto = etherIPv6
		}
		f := frame(ether(proto, tt.ip))
		if f.GSOType = tt.gso; tt.gso != 0 {
			f.GSOSize = 500
		}
		d := New(Config{})
		var r [4]wire.Record
		n := d.Decode(&f, r[:])
		if (n > 0) != (tt.want > 0) || r[0].Length != tt.want {
			t.Errorf("%s: %d records, length %d, want %d", tt.name, n, r[0].Length, tt.want)
		}
	}
}

// TestPorts: which protocols have ports, and how long their headers are.
func TestPorts(t *testing.T) {
	lengths := map[uint8]int{wire.ProtoTCP: 20, wire.ProtoUDP: 8, wire.ProtoSCTP: 12, wire.ProtoDCCP: 12, wire.ProtoUDPLite: 8}
	payload := join([]byte{0, 7, 0, 9}, make([]byte, 60))
	payload[5], payload[12] = 28, 5<<4
	for proto := range 256 {
		for _, n := range []int{0, 3, 4, 7, 8, 11, 12, 19, 20} {
			need, has := lengths[uint8(proto)]
			d := New(Config{})
			r, ok := one(t, d, frame(ether(etherIPv4, ip4(byte(proto), 1, 0, payload[:n]))))
			want := wire.Record{}
			if has && n >= 4 {
				want.SrcPort, want.DstPort = 7, 9
			}
			if !ok || r.Proto != uint8(proto) || r.SrcPort != want.SrcPort || r.DstPort != want.DstPort ||
				(r.Flags&wire.Truncated != 0) != (n < need) {
				t.Fatalf("protocol %d, %d bytes: %s, flags %b", proto, n, fields(&r), r.Flags)
			}
		}
	}
}

// TestUDPLength: MGEN goes by the UDP length, which must fit the packet.
func TestUDPLength(t *testing.T) {
	for _, tt := range []struct {
		name  string
		wrong int // UDP length less what it should be
		flow  uint32
	}{{"right", 0, 5}, {"longer than the packet", 1, 0}, {"0", -208, 0}, {"shorter", -1, 0}} {
		u := udp(4001, 5001, message(200, 5, 1))
		binary.BigEndian.PutUint16(u[4:], uint16(208+tt.wrong))
		r, ok := one(t, New(Config{}), frame(ether(etherIPv4, ip4(17, 1, 0, u))))
		if !ok || r.Flow() != tt.flow {
			t.Errorf("%s: %s", tt.name, fields(&r))
		}
	}
	// What follows the datagram inside the packet is not part of it.
	u := udp(4001, 5001, message(200, 5, 1))
	r, _ := one(t, New(Config{}), frame(ether(etherIPv4, ip4(17, 1, 0, join(u, noise(9))))))
	if r.Flow() != 5 {
		t.Errorf("trailer: %s", fields(&r))
	}
}

// TestTCPStreams: connections are told apart, begin anew, and end.
func TestTCPStreams(t *testing.T) {
	d := New(Config{TCPEntries: 8})
	send := func(sport uint16, seq uint32, flags byte, payload []byte) wire.Record {
		r, ok := one(t, d, frame(ether(etherIPv4, ip4(6, 1, 0, tcp(sport, 5001, seq, flags, payload)))))
		if !ok {
			t.Fatal("no record")
		}
		return r
	}
	long := message(1000, 31, 4)
	want := func(r wire.Record, flow uint32, header bool) {
		t.Helper()
		if r.Flow() != flow || (r.Flags&wire.MGENHeader != 0) != header {
			t.Errorf("%s, flags %b, want flow %d", fields(&r), r.Flags, flow)
		}
	}
	send(1, 99, synBit, nil)
	want(send(1, 100, 0x10, long[:10]), 0, false) // the header comes in two segments
	want(send(1, 110, 0x10, long[10:500]), 31, true)
	want(send(2, 600, 0x10, long[500:600]), 0, false) // another connection
	want(send(1, 600, 0x10, long[500:]), 31, false)
	want(send(1, 1100, 0x11, nil), 0, false)
	send(1, 99, synBit, nil) // the same ports again, not MGEN now
	want(send(1, 100, 0x10, noise(500)), 0, false)
	want(send(1, 600, 0x10, noise(500)), 0, false)
	want(send(3, 100, 0x10, long[:500]), 31, true) // joined late
	send(3, 600, 0x04, nil)                        // reset
	want(send(3, 600, 0x10, long[500:]), 0, false)
	want(send(4, 99, synBit, long), 31, true) // data with the SYN (RFC 7413)
	if n := d.streams.opening.live; n != 0 {
		t.Errorf("%d connections still opening", n)
	}
	want(send(5, 100, 0x10, long[:500]), 31, true)
	for port := range uint16(1000) { // a flood of SYNs
		send(1000+port, 99, synBit, nil)
	}
	want(send(5, 600, 0x10, long[500:]), 31, false)
	if c := d.Counters(); c.StreamsEvicted != 0 || c.MGENSegmentStarts != 4 || c.MGENSegmentContinues != 2 {
		t.Errorf("%+v", c)
	}
}

// TestDirection: what the frame says counts, else the MAC address.
func TestDirection(t *testing.T) {
	mine := Local{MAC: []byte{2, 0, 0, 0, 0, 0x0a}, Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}}
	theirs := Local{MAC: []byte{2, 0, 0, 0, 0, 0x0b}, Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.2")}}
	relay := Local{MAC: mine.MAC, Addrs: theirs.Addrs}
	noMAC := Local{Addrs: theirs.Addrs}
	p4 := ip4(17, 1, 0, udp(7, 9, nil))
	cooked := frame(p4)
	cooked.Link, cooked.Protocol = packet.Network, etherIPv4
	dhcp := frame(ether(etherIPv4, p4))
	copy(dhcp.Data[14+12:], []byte{0, 0, 0, 0})
	dad := frame(ether(etherIPv6, ip6(58, noise(24))))
	copy(dad.Data[14+8:], make([]byte, 16))
	v4, v6 := frame(ether(etherIPv4, p4)), frame(ether(etherIPv6, ip6(17, udp(7, 9, nil))))
	tests := []struct {
		name  string
		local *Local
		f     packet.Frame
		dir   packet.Direction
		want  wire.Flags
	}{
		{"nothing known", nil, v4, packet.Unknown, 0},
		{"frame says outgoing", nil, v4, packet.Outgoing, wire.Outgoing},
		{"frame says incoming", nil, v4, packet.Incoming, wire.Incoming},
		{"mac says outgoing", &mine, v4, packet.Unknown, wire.Outgoing},
		{"mac says incoming", &theirs, v4, packet.Unknown, wire.Incoming},
		{"frame and mac disagree (a bridge)", &theirs, v4, packet.Outgoing, wire.Outgoing},
		{"relayed", &relay, v4, packet.Outgoing, wire.Outgoing | wire.Relayed},
		{"relayed, from a file", &relay, v4, packet.Unknown, wire.Outgoing | wire.Relayed},
		{"relayed ipv6", &relay, v6, packet.Outgoing, wire.Outgoing | wire.Relayed},
		{"mine ipv6", &mine, v6, packet.Outgoing, wire.Outgoing},
		{"relayed without mac", &noMAC, cooked, packet.Outgoing, wire.Outgoing | wire.Relayed},
		{"received without mac", &noMAC, cooked, packet.Incoming, wire.Incoming},
		{"loopback", &noMAC, v4, packet.Outgoing, wire.Outgoing | wire.Relayed},
		{"before it has an address", &relay, dhcp, packet.Outgoing, wire.Outgoing},
		{"before it has an ipv6 address", &relay, dad, packet.Outgoing, wire.Outgoing},
		{"no address known", &Local{MAC: mine.MAC}, v4, packet.Outgoing, wire.Outgoing},
	}
	for _, tt := range tests {
		for _, mark := range []bool{false, true} {
			d := New(Config{MarkRelayed: mark})
			if tt.local != nil {
				d.SetLocal(*tt.local)
			}
			want := tt.want
			if mark && want&wire.Relayed != 0 {
				want |= wire.MarkRelayed
			}
			tt.f.Direction = tt.dir
			r, ok := one(t, d, tt.f)
			if !ok || r.Flags&^wire.IPv6 != want {
				t.Errorf("%s: flags %b, want %b", tt.name, r.Flags, want)
			}
		}
	}
}

// TestOwnAddresses: whatever their number.
func TestOwnAddresses(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 500} {
		d := New(Config{})
		var l Local
		for i := range n {
			l.Addrs = append(l.Addrs, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
				netip.AddrFrom16([16]byte{0xfd, 15: byte(i), 14: byte(i >> 8)}))
		}
		l.Addrs = append(l.Addrs, netip.Addr{}, netip.IPv6Unspecified()) // ignored
		d.SetLocal(l)
		for i := range 1000 {
			a4 := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).As16()
			a6 := [16]byte{0xfd, 15: byte(i), 14: byte(i >> 8)}
			if d.isOwn(&a4, false) != (i < n) || d.isOwn(&a6, true) != (i < n) {
				t.Fatalf("%d addresses: number %d is own: %v, %v", n, i, d.isOwn(&a4, false), d.isOwn(&a6, true))
			}
		}
	}
}

// TestRelays: real relays, 20 MGEN messages from 10.50.0.1 which n2 and n3
// send on: what they send of it is relayed, what they hear of it is not.
func TestRelays(t *testing.T) {
	for name, self := range map[string]byte{"relay/smf.n2": 2, "relay/smf.n3": 3} {
		d := New(Config{})
		d.SetLocal(Local{MAC: []byte{2, 0, 0, 0, 0, self}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 50, 0, self})}})
		messages, relayed := 0, 0
		for _, f := range frames(t, name) {
			r, ok := one(t, d, f)
			if !ok || r.Flags&wire.MGEN == 0 {
				continue
			}
			messages++
			if r.Flags&wire.Relayed != 0 {
				relayed++
			}
		}
		if relayed != 20 || messages != map[byte]int{2: 60, 3: 40}[self] {
			t.Errorf("%s: %d of %d messages relayed", name, relayed, messages)
		}
	}
}

// TestBMF: the packets inside are seen with Config.BMF alone, and a gateway's
// are relayed.
func TestBMF(t *testing.T) {
	for name, self := range map[string]byte{"relay/bmf.n1": 1, "relay/bmf.n2": 2, "relay/bmf.n3": 3, "relay/bmf-nonolsr.n1": 1} {
		on, off := New(Config{BMF: true}), New(Config{})
		on.SetLocal(Local{MAC: []byte{2, 0, 0, 0, 0, self}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 50, 0, self})}})
		type count struct{ sent, relayed, heard int }
		got := map[uint32]count{}
		for i, f := range frames(t, name) {
			outer, ok := one(t, off, f)
			inner, ok2 := one(t, on, f)
			if ok != ok2 {
				t.Fatalf("%s frame %d: record %v, with bmf %v", name, i+1, ok, ok2)
			}
			if !ok || outer.DstPort != bmfPort {
				if ok && fields(&inner) != fields(&outer) {
					t.Errorf("%s frame %d: %s became %s", name, i+1, fields(&outer), fields(&inner))
				}
				continue
			}
			if inner.Length != outer.Length-36 || inner.DstPort == bmfPort {
				t.Fatalf("%s frame %d: inside %s is %s", name, i+1, fields(&outer), fields(&inner))
			}
			if inner.Flags&wire.MGEN == 0 {
				continue
			}
			c := got[inner.FlowID]
			switch {
			case inner.Flags&wire.Relayed != 0:
				c.relayed++
			case inner.Flags&wire.Outgoing != 0:
				c.sent++
			default:
				c.heard++
			}
			got[inner.FlowID] = c
		}
		if len(got) != 1 {
			t.Fatalf("%s: flows %v", name, got)
		}
		for flow, c := range got {
			t.Logf("%s: flow %d: %+v", name, flow, c)
			if self == 1 && (c.sent != 20 || c.relayed != 0) || self == 2 && c.relayed < 20 {
				t.Errorf("%s: flow %d: %+v", name, flow, c)
			}
		}
		checkBalance(t, on)
	}
}

// TestCounterNames: every counter has a name, no two the same, and a summary
// sees its value.
func TestCounterNames(t *testing.T) {
	var c Counters
	v := reflect.ValueOf(&c).Elem()
	n := uint64(0)
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Array {
			for j := range f.Len() {
				n++
				f.Index(j).SetUint(n)
			}
		} else {
			n++
			f.SetUint(n)
		}
	}
	names, values := map[string]bool{}, map[uint64]bool{}
	c.Each(func(name string, v uint64) {
		if names[name] || values[v] || v == 0 || v > n {
			t.Errorf("%q = %d", name, v)
		}
		names[name], values[v] = true, true
	})
	if uint64(len(values)) != n {
		t.Errorf("%d counters shown of %d", len(values), n)
	}
}

// TestAllocations: none, for any kind of frame.
func TestAllocations(t *testing.T) {
	for _, w := range workloads() {
		d := New(Config{BMF: true, MarkRelayed: true})
		d.SetLocal(Local{MAC: []byte{2, 0, 0, 0, 0, 0x0a}, Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.7")}})
		dst := make([]wire.Record, 4)
		if n := testing.AllocsPerRun(100, func() {
			for i := range w.frames {
				d.Decode(&w.frames[i], dst)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", w.name, n)
		}
	}
	d := New(Config{NoDigest: true, MarkRelayed: true})
	d.SetLocal(Local{MAC: []byte{2, 0, 0, 0, 0, 0x0a}, Addrs: []netip.Addr{netip.MustParseAddr("10.77.0.7")}})
	parsed := []packet.Parsed{{Source: [6]byte{2, 0, 0, 0, 0, 0x0a}, Addrs: [8]byte{10, 77, 0, 7}}, {Source: [6]byte{2, 0, 0, 0, 0, 0x0a}, Addrs: [8]byte{10, 77, 0, 8}}}
	recs := make([]wire.Record, len(parsed))
	if n := testing.AllocsPerRun(100, func() { d.DecodeParsed(parsed, 0, recs) }); n != 0 {
		t.Errorf("parsed frames: %v allocations", n)
	}
	if recs[0].Flags&wire.Relayed != 0 || recs[1].Flags&wire.Relayed == 0 {
		t.Errorf("flags %v and %v; want the second relayed, and not the first", recs[0].Flags, recs[1].Flags)
	}
	d = New(Config{TCPEntries: 16, FragmentEntries: 16})
	big := gso(ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5001, 1, 0x10, message(60000, 1, 1)))), packet.GSOTCPv4, 1448, 256)
	seq := uint32(0)
	dst := make([]wire.Record, 4)
	if n := testing.AllocsPerRun(100, func() { // tables that overflow, a super-packet
		seq++
		binary.BigEndian.PutUint16(big.Data[14+20:], uint16(seq))
		d.Decode(&big, dst)
		for d.Pending() {
			d.Drain(dst)
		}
		d.Counters()
	}); n != 0 {
		t.Errorf("super-packets: %v allocations", n)
	}
	if d.Counters().StreamsEvicted == 0 {
		t.Error("no table overflowed")
	}
}
