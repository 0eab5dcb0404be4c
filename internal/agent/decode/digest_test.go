package decode

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// digestOf computes a digest from a whole IP packet as the comment of [wire.Digest]
// says, with no regard to speed.
func digestOf(ip []byte) uint64 {
	var in [wire.DigestSize]byte
	var payload []byte
	fragment := false
	in[0] = ip[0] >> 4
	if in[0] == 4 {
		total := binary.BigEndian.Uint16(ip[2:])
		in[1] = ip[9]
		copy(in[2:], ip[4:6])
		binary.BigEndian.PutUint32(in[4:], uint32(total))
		payload = ip[int(ip[0]&15)*4 : total]
		if f := binary.BigEndian.Uint16(ip[6:]); f&0x3fff != 0 {
			fragment = true
			binary.BigEndian.PutUint16(in[12:], f<<3|f>>13&1)
		}
	} else {
		n := binary.BigEndian.Uint16(ip[4:])
		in[1] = ip[6]
		binary.BigEndian.PutUint32(in[4:], uint32(n)+40)
		payload = ip[40 : 40+int(n)]
		for !fragment && slices.Contains([]byte{0, 43, 44, 60}, in[1]) {
			next, size := payload[0], 8+8*int(payload[1])
			if in[1] == 44 {
				size = 8
				if place := binary.BigEndian.Uint16(payload[2:]); place&^6 != 0 {
					fragment = true
					copy(in[8:], payload[4:8])
					binary.BigEndian.PutUint16(in[12:], place)
				}
			}
			in[1], payload = next, payload[size:]
		}
	}
	p := append(bytes.Clone(payload), make([]byte, 64)...)
	switch {
	case fragment:
		copy(in[16:], p[8:16])
	case in[1] == 17 || in[1] == 136:
		copy(in[8:], p[8:24])
	case in[1] == 6:
		copy(in[8:], p[4:12])
		if p[12]>>4 >= 8 && bytes.Equal(p[20:24], []byte{1, 1, 8, 10}) {
			copy(in[16:], p[24:28])
		}
		in[20], in[21] = p[12]&0xf0, p[13]&7
	case in[1] == 1 || in[1] == 58:
		copy(in[8:], p[:2])
		copy(in[14:], p[6:16])
	case in[1] == 132:
		copy(in[8:], p[4:8])
		copy(in[12:], p[12:24])
	case in[1] == 33:
		copy(in[8:], p[8:24])
	default:
		copy(in[8:], p[:16])
	}
	if in[0] == 4 && bytes.Equal(ip[16:19], []byte{224, 0, 0}) {
		for i := range 4 {
			in[20+i] ^= ip[15-i]
		}
	} else if in[0] == 6 && ip[24] == 0xff && ip[25]&15 == 2 {
		for i := range 4 {
			in[20+i] ^= ip[23-i]
		}
	}
	return wire.Digest(&in)
}

// header is that of a protocol that the builders have no function for.
func header(n int) []byte { return noise(n) }

// kinds are IP packets of each sort that has its own rule.
func kinds() map[string][]byte {
	stamped := tcp(1, 2, 77, 0x10, noise(100))
	stamped[12] = 8 << 4
	copy(stamped[20:], []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8})
	frag := join([]byte{17, 0, 0, 1, 0, 0, 0, 9}, udp(1, 2, noise(64)))
	return map[string][]byte{
		"udp":           ip4(17, 9, 0, udp(4001, 5001, noise(64))),
		"udp short":     ip4(17, 9, 0, udp(4001, 5001, noise(5))),
		"udp empty":     ip4(17, 9, 0, udp(4001, 5001, nil)),
		"udp6":          ip6(17, udp(4001, 5001, noise(64))),
		"udp-lite":      ip4(136, 9, 0, udp(4001, 5001, noise(64))),
		"tcp":           ip4(6, 9, 0, tcp(1, 2, 77, 0x10, noise(100))),
		"tcp ack":       ip4(6, 9, 0, tcp(1, 2, 77, 0x10, nil)),
		"tcp fin":       ip6(6, tcp(1, 2, 77, 0x11, nil)),
		"tcp stamps":    ip6(6, stamped),
		"icmp":          ip4(1, 9, 0, join([]byte{8, 0, 1, 2, 0, 4, 0, 5}, noise(56))),
		"icmpv6":        ip6(58, join([]byte{128, 0, 1, 2, 0, 4, 0, 5}, noise(56))),
		"icmp short":    ip4(1, 9, 0, []byte{8, 0, 1, 2, 0, 4, 0, 5}),
		"sctp":          ip4(132, 9, 0, header(40)),
		"dccp":          ip4(33, 9, 0, header(40)),
		"ospf":          ip4(89, 9, 0, header(44)),
		"one byte":      ip4(200, 9, 0, header(1)),
		"first":         ip4(17, 9, moreBit, udp(4001, 5001, noise(64))),
		"later":         ip4(17, 9, 9, noise(64)),
		"first6":        ip6(44, frag),
		"later6":        ip6(44, join([]byte{17, 0, 0, 72, 0, 0, 0, 9}, noise(64))),
		"atomic6":       ip6(44, join([]byte{17, 0, 0, 0, 0, 0, 0, 9}, udp(1, 2, noise(64)))),
		"options6":      ip6(0, join([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(1, 2, noise(65)))),
		"tcp first":     ip4(6, 9, moreBit, tcp(1, 2, 77, 0x10, noise(100))),
		"igmp no bytes": ip4(2, 9, 0, nil),
	}
}

func etherOf(ip []byte) []byte {
	if ip[0]>>4 == 6 {
		return ether(etherIPv6, ip)
	}
	return ether(etherIPv4, ip)
}

func digestIn(t *testing.T, b []byte) uint64 {
	t.Helper()
	var r [1]wire.Record
	f := frame(b)
	if New(Config{FragmentEntries: 1, TCPEntries: 1}).Decode(&f, r[:]) != 1 {
		t.Fatalf("no record of %x", b)
	}
	return r[0].Digest
}

// TestDigests: each sort of packet has the digest of the documentation, and no two the same.
func TestDigests(t *testing.T) {
	seen := map[uint64]string{}
	list := kinds()
	for name, ip := range kinds() { // and to neighbours
		if ip[0]>>4 == 4 {
			copy(ip[16:], []byte{224, 0, 0, 5})
		} else {
			ip[24], ip[25] = 0xff, 0x12
		}
		list[name+" local"] = ip
	}
	for name, ip := range list {
		got := digestIn(t, etherOf(ip))
		if want := digestOf(ip); got != want {
			t.Errorf("%s: the digest is %#x, want %#x", name, got, want)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		seen[got] = name
	}
}

// TestDigestOnTheWay: what routers, bridges, NAT, and cards change leaves a digest as it is.
func TestDigestOnTheWay(t *testing.T) {
	for name, ip := range kinds() {
		want := digestIn(t, etherOf(ip))
		changed := bytes.Clone(ip)
		l4 := 20
		if ip[0]>>4 == 4 {
			changed[1], changed[8] = 0xb9, changed[8]-1
			changed[6] ^= 0x40 // DF
			copy(changed[10:], []byte{1, 2, 203, 0, 113, 9, 192, 0, 2, 9})
		} else {
			l4 = 40
			changed[0], changed[1], changed[2], changed[3] = 0x6b, 0x91, 2, 3
			changed[7]--
			copy(changed[8:], bytes.Repeat([]byte{0x20}, 32))
		}
		var ports, sum []int // offsets of what is changed
		switch proto := changed[l4-11]; {
		case name == "later" || name == "first" || name == "tcp first", name == "udp6":
			if name == "later" {
				break
			}
			ports = []int{l4, l4 + 3}
		case ip[0]>>4 == 6 && name == "tcp fin", name == "tcp stamps":
			ports, sum = []int{l4 + 1, l4 + 2}, []int{l4 + 16, l4 + 17}
		case name == "icmpv6":
			ports, sum = []int{l4 + 4}, []int{l4 + 2}
		case proto == 17 || proto == 136:
			ports, sum = []int{l4 + 1, l4 + 2}, []int{l4 + 6, l4 + 7}
		case proto == 6:
			ports, sum = []int{l4 + 1, l4 + 2}, []int{l4 + 16, l4 + 17}
		case proto == 1:
			ports, sum = []int{l4 + 4}, []int{l4 + 2}
		case proto == 132:
			ports, sum = []int{l4, l4 + 3}, []int{l4 + 8, l4 + 11}
		}
		for _, at := range append(ports, sum...) {
			changed[at] ^= 0x55
		}
		b := etherOf(changed)
		tagged := join([]byte{9, 9, 9, 9, 9, 9, 8, 8, 8, 8, 8, 8, 0x81, 0, 0x20, 7}, b[12:])
		for how, b := range map[string][]byte{"changed": b, "tagged": tagged, "padded": join(b, make([]byte, 18))} {
			if got := digestIn(t, b); got != want {
				t.Errorf("%s, %s: the digest is %#x, want %#x", name, how, got, want)
			}
		}
	}
}

// TestDigestOfOptions: options of the IPv4 header may be filled in on the way.
func TestDigestOfOptions(t *testing.T) {
	ip := ip4(17, 9, 0, join([]byte{7, 7, 4, 0, 0, 0, 0, 0}, udp(1, 2, noise(40))))
	ip[0] = 0x47
	want := digestIn(t, etherOf(ip))
	copy(ip[20:], []byte{7, 7, 8, 10, 1, 1, 1, 0})
	if got := digestIn(t, etherOf(ip)); got != want || got != digestOf(ip) {
		t.Errorf("the digest is %#x, want %#x and %#x", got, want, digestOf(ip))
	}
}

// TestDigestOfTheCut: with too few bytes there is none, rather than another one; the eBPF engine's
// 64 are enough for plain UDP.
func TestDigestOfTheCut(t *testing.T) {
	for name, ip := range kinds() {
		b := etherOf(ip)
		want := digestIn(t, b)
		for n := range b {
			f := frame(b)
			f.Data = b[:n:n]
			var r [1]wire.Record
			if New(Config{FragmentEntries: 1, TCPEntries: 1}).Decode(&f, r[:]) == 0 {
				continue
			}
			if got := r[0].Digest; got != 0 && got != want || got == 0 && name == "udp" && n >= 64 {
				t.Errorf("%s cut at %d: the digest is %#x, want %#x or 0", name, n, got, want)
			}
		}
	}
}

// TestDigestsOfSegments: those of a super-packet are those of the packets that it becomes.
func TestDigestsOfSegments(t *testing.T) {
	const size = 1000
	data := noise(3500)
	for i := range data {
		data[i] ^= byte(i >> 8)
	}
	stamp := func(seg []byte) []byte {
		seg[12] = 8 << 4
		return join(seg[:20], []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}, seg[20:])
	}
	type maker func(i int, b []byte, last bool) []byte
	for name, tt := range map[string]struct {
		kind  uint8
		whole []byte
		one   maker
	}{
		"tcp": {packet.GSOTCPv4, ip4(6, 0xfffe, 0, stamp(tcp(1, 2, 0xfffffff0, 0x19, data))), func(i int, b []byte, last bool) []byte {
			flags := byte(0x10)
			if last {
				flags = 0x19
			}
			return ip4(6, uint16(0xfffe+i), 0, stamp(tcp(1, 2, 0xfffffff0+uint32(i*size), flags, b)))
		}},
		"tcp6": {packet.GSOTCPv6, ip6(6, tcp(1, 2, 5, 0x10, data)), func(i int, b []byte, last bool) []byte {
			return ip6(6, tcp(1, 2, 5+uint32(i*size), 0x10, b))
		}},
		"udp": {packet.GSOUDPL4, ip4(17, 7, 0, udp(1, 2, data)), func(i int, b []byte, last bool) []byte {
			return ip4(17, uint16(7+i), 0, udp(1, 2, b))
		}},
	} {
		for _, snap := range []int{256, 5000} {
			recs := all(t, New(Config{}), gso(etherOf(tt.whole), tt.kind, size, snap), 2)
			if len(recs) != 4 {
				t.Fatalf("%s: %d records", name, len(recs))
			}
			for i := range recs {
				one := tt.one(i, data[i*size:min((i+1)*size, len(data))], i == 3)
				want := digestOf(one)
				if tt.kind == packet.GSOUDPL4 && i > 0 && snap == 256 {
					want = 0 // the payload was not captured
				}
				if recs[i].Digest != want || int(recs[i].Length) != len(one) {
					t.Errorf("%s, %d bytes captured, segment %d: the digest is %#x of %d bytes, want %#x of %d", name, snap, i, recs[i].Digest, recs[i].Length, want, len(one))
				}
			}
		}
	}
	untold := gso(etherOf(ip4(6, 1, 0, tcp(1, 2, 5, 0x10, data))), packet.GSOTCPv4, 0, 256)
	if recs := all(t, New(Config{}), untold, 2); len(recs) != 1 || recs[0].Digest != 0 {
		t.Errorf("what stands for an unknown number of packets has a digest: %+v", recs)
	}
}

// TestDigestsOfRelays joins real captures of three nodes of a network that relays a
// multicast: the digest tells the packets apart exactly as their bytes do.
func TestDigestsOfRelays(t *testing.T) {
	type packet struct {
		ip    string // without what changes
		nodes [3]int
	}
	seen := map[uint64]*packet{}
	total, joined := 0, 0
	for node, name := range []string{"relay/bmf.n1", "relay/bmf.n2", "relay/bmf.n3"} {
		d := New(Config{BMF: true})
		fs := frames(t, name)
		for i := range fs {
			var r [1]wire.Record
			if d.Decode(&fs[i], r[:]) == 0 {
				continue
			}
			ip := invariant(fs[i].Data)
			if r[0].Digest == 0 || ip == "" {
				t.Fatalf("%s: frame %d has no digest", name, i)
			}
			total++
			p := seen[r[0].Digest]
			if p == nil {
				p = &packet{ip: ip}
				seen[r[0].Digest] = p
			}
			if p.ip != ip {
				t.Fatalf("%s: frame %d has the digest of another packet:\n%x\n%x", name, i, ip, p.ip)
			}
			p.nodes[node]++
		}
	}
	for _, p := range seen {
		n := 0
		for _, times := range p.nodes {
			n += min(times, 1)
		}
		if n > 1 {
			joined++
		}
	}
	t.Logf("%d observations of %d packets, %d of them at several nodes", total, len(seen), joined)
	if total < 8000 || joined < len(seen)*9/10 {
		t.Errorf("%d observations of %d packets, %d of them at several nodes", total, len(seen), joined)
	}
}

// invariant is the IP packet of a frame, or that inside BMF encapsulation, without TTL and sums.
func invariant(b []byte) string {
	ip := bytes.Clone(b[14:])
	if ip[0]>>4 == 6 {
		ip[7] = 0
		return string(ip)
	}
	if ip[9] == 17 && len(ip) > 56 && bytes.Equal(ip[20:24], []byte{0xc6, 0x0a, 0xc6, 0x0a}) && bytes.Equal(ip[28:32], bmfHeader[:]) {
		ip = ip[36:]
	}
	ip = ip[:binary.BigEndian.Uint16(ip[2:])]
	ip[1], ip[8], ip[10], ip[11] = 0, 0, 0, 0
	return string(ip)
}

// TestNoDigest: records without a digest are the same otherwise.
func TestNoDigest(t *testing.T) {
	frames := []packet.Frame{gso(ether(etherIPv4, ip4(6, 1, 0, tcp(4101, 5001, 1, 0x10, noise(3000)))), packet.GSOTCPv4, 1448, 4096)}
	for _, ip := range kinds() {
		frames = append(frames, frame(etherOf(ip)))
	}
	for _, f := range frames {
		want, got := all(t, New(Config{}), f, 8), all(t, New(Config{NoDigest: true}), f, 8)
		for i := range want {
			if want[i].Digest == 0 {
				t.Fatalf("%s has no digest", fields(&want[i]))
			}
			want[i].Digest = 0
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}
