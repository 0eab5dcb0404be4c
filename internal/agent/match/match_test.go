package match

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The kinds of interfaces there are.
var (
	ethernet = Interface{Name: "eth0", Index: 2, Ethernet: true, MAC: macMine, Addrs: addrsMine, IPv4: ipMine}
	noMAC    = Interface{Name: "tap0", Index: 3, Ethernet: true, MAC: make(net.HardwareAddr, 6), Addrs: addrsMine, IPv4: ipMine}
	loopback = Interface{Name: "lo", Index: 1, Ethernet: true, Loopback: true, Addrs: addrsMine}
	tunnel   = Interface{Name: "tun0", Index: 4, Addrs: addrsMine, IPv4: ipMine}
)

func compile(t testing.TB, mode string, target Interface) *Filter {
	t.Helper()
	f, err := Compile(context.Background(), mode, target)
	must(t, err)
	return f
}

// accepts runs the filter in both ways and fails if they differ.
func accepts(t testing.TB, f *Filter, frame *packet.Frame) bool {
	t.Helper()
	must(t, verify(f.prog))
	link := frame.Link
	byProgram := (&machine{prog: f.prog, link: link}).match(frame)
	if got := f.Match(frame); got != byProgram {
		t.Errorf("filter %q: Match says %v, its program %v, of\n%+v", f.Text, got, byProgram, frame)
	}
	return byProgram
}

// TestModes: which modes let a frame pass, on which kind of interface.
func TestModes(t *testing.T) {
	dot1q, qinq, old := tag{0x8100, 5}, tag{0x88a8, 7}, tag{0x9100, 9}
	in, out := packet.Incoming, packet.Outgoing
	llc := ether(macPeer, macMine, 38, []byte{0x42, 0x42, 3})
	tests := []struct {
		name   string
		target Interface
		frame  *packet.Frame
		want   string // the modes that let it pass
	}{
		{"IPv4 mine", ethernet, ethernetFrame(etherIP(macMine, ipMine, ipPeer), out), "src none"},
		{"IPv6 mine", ethernet, ethernetFrame(etherIP(macMine, ip6Mine, ip6Peer), out), "src none"},
		{"relayed by me", ethernet, ethernetFrame(etherIP(macMine, ipPeer, ipMine), out), "src none"},
		{"ARP mine", ethernet, ethernetFrame(ether(macMine, macPeer, 0x0806, make([]byte, 28)), out), "src none"},
		{"IPv4 of others", ethernet, ethernetFrame(etherIP(macPeer, ipPeer, ipMine), in), "dst none"},
		{"IPv6 of others", ethernet, ethernetFrame(etherIP(macPeer, ip6Peer, ip6Mine), in), "dst none"},
		{"LLC of others", ethernet, ethernetFrame(llc, in), "dst none"},
		{"first MAC byte differs", ethernet, ethernetFrame(etherIP(macNear, ipPeer, ipMine), in), "dst none"},
		{"last MAC bytes differ", ethernet, ethernetFrame(etherIP(macThird, ipPeer, ipMine), in), "dst none"},
		{"bridged through me", ethernet, ethernetFrame(etherIP(macPeer, ipPeer, ipMine), out), "dst none"},
		{"IPv4 spoofed", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer), in), "dst spoof none"},
		{"my other IPv4 spoofed", ethernet, ethernetFrame(etherIP(macNear, ipMine2, ipPeer), in), "dst spoof none"},
		{"IPv6 spoofed", ethernet, ethernetFrame(etherIP(macPeer, ip6Mine, ip6Peer), in), "dst spoof none"},
		{"spoofed behind one tag", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer, dot1q), in), "dst spoof none"},
		{"spoofed behind two tags", ethernet, ethernetFrame(etherIP(macPeer, ip6Mine, ipPeer, qinq, dot1q), in), "dst spoof none"},
		{"spoofed behind an old tag", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer, old), in), "dst spoof none"},
		{"behind three tags", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer, qinq, dot1q, dot1q), in), "dst none"},
		{"tagged of others", ethernet, ethernetFrame(etherIP(macPeer, ipPeer, ipMine, dot1q), in), "dst none"},
		{"ARP with my address", ethernet, ethernetFrame(ether(macPeer, macMine, 0x0806,
			append(make([]byte, 14), ipMine.AsSlice()...)), in), "dst none"},
		{"cut in the IPv4 source", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer)[:29], in), "dst none"},
		{"cut in the IPv6 source", ethernet, ethernetFrame(etherIP(macPeer, ip6Mine, ipPeer)[:37], in), "dst none"},
		{"cut in the tag", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer, dot1q)[:17], in), "dst none"},
		{"cut in the EtherType", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer)[:13], in), "dst none"},
		{"cut in the source MAC", ethernet, ethernetFrame(etherIP(macPeer, ipMine, ipPeer)[:11], in), "none"},
		{"nothing", ethernet, ethernetFrame(nil, in), "none"},

		{"out, no MAC", noMAC, ethernetFrame(etherIP(macMine, ipMine, ipPeer), out), "src none"},
		{"in, no MAC", noMAC, ethernetFrame(etherIP(macMine, ipPeer, ipMine), in), "dst none"},
		{"spoofed, no MAC", noMAC, ethernetFrame(etherIP(macMine, ipMine, ipPeer), in), "dst spoof none"},

		{"lo out", loopback, ethernetFrame(etherIP(make(net.HardwareAddr, 6), ipMine, ipMine), out), "src"},
		{"lo in", loopback, ethernetFrame(etherIP(make(net.HardwareAddr, 6), ipMine, ipMine), in), "dst spoof none"},
		{"lo in from elsewhere", loopback, ethernetFrame(etherIP(make(net.HardwareAddr, 6), ipPeer, ipMine), in), "dst none"},

		{"tun out", tunnel, networkFrame(etherIPv4, ip(ipMine, ipPeer, ""), out), "src none"},
		{"tun in", tunnel, networkFrame(etherIPv4, ip(ipPeer, ipMine, ""), in), "dst none"},
		{"tun spoofed", tunnel, networkFrame(etherIPv4, ip(ipMine2, ipPeer, ""), in), "dst spoof none"},
		{"tun IPv6 in", tunnel, networkFrame(etherIPv6, ip(ip6Peer, ip6Mine, ""), in), "dst none"},
		{"tun IPv6 spoofed", tunnel, networkFrame(etherIPv6, ip(ip6Mine, ip6Peer, ""), in), "dst spoof none"},
		{"tagged without Ethernet", tunnel, networkFrame(0x8100,
			append([]byte{0, 5, 8, 0}, ip(ipMine, ipPeer, "")...), in), "dst spoof none"},
		{"tun cut", tunnel, networkFrame(etherIPv4, ip(ipMine, ipPeer, "")[:15], in), "dst none"},
		{"tun other protocol", tunnel, networkFrame(0xc021, ip(ipMine, ipPeer, ""), in), "dst none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, mode := range []string{"src", "dst", "spoof", "none"} {
				if accepts(t, compile(t, mode, tt.target), tt.frame) {
					got = append(got, mode)
				}
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("passes %q, want %q", s, tt.want)
			}
		})
	}
}

// TestModesWiFi: of 802.11 frames the address of who made the packet counts,
// wherever the header has it.
func TestModesWiFi(t *testing.T) {
	wifi := func(flags byte, second, third, fourth net.HardwareAddr) []byte {
		return slices.Concat([]byte{0x08, flags, 0, 0}, macThird, second, third, []byte{0, 0}, fourth,
			[]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}, ip(ipMine, ipPeer, ""))
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"ad hoc, mine", wifi(0, macMine, macPeer, nil), "src none"},
		{"ad hoc, of another", wifi(0, macPeer, macMine, nil), "dst spoof none"},
		{"to the access point", wifi(1, macMine, macPeer, nil), "src none"},
		{"from the access point, mine", wifi(2, macPeer, macMine, nil), "src none"},
		{"from the access point, of another", wifi(2, macMine, macNear, nil), "dst spoof none"},
		{"four addresses, mine", wifi(3, macPeer, macPeer, macMine), "src none"},
		{"four addresses, relayed by me", wifi(3, macMine, macPeer, macPeer), "dst spoof none"},
		{"cut", wifi(0, macPeer, macMine, nil)[:14], "none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, b := range [][]byte{tt.b, slices.Concat([]byte{0, 0, 12, 0, 0, 0, 0, 0, 1, 2, 3, 4}, tt.b)} {
				f := &packet.Frame{Data: b, WireLen: len(b), Link: packet.IEEE80211 + packet.LinkType(i)}
				live := Interface{Name: "mon0", WiFi: f.Link, MAC: macMine, Addrs: addrsMine}
				var got []string
				for _, mode := range []string{"src", "dst", "spoof", "none"} {
					file, err := CompileFile(t.Context(), mode, macMine, addrsMine, f.Link)
					if err != nil {
						t.Fatal(err)
					}
					if file.Match(f) {
						got = append(got, mode)
					}
					if mode != "spoof" && accepts(t, compile(t, mode, live), f) != file.Match(f) {
						t.Errorf("%s: live and from a file differ", mode)
					}
				}
				if s := strings.Join(got, " "); s != tt.want {
					t.Errorf("link type %d passes %q, want %q", f.Link, s, tt.want)
				}
			}
		})
	}
	if _, err := Compile(t.Context(), "spoof", Interface{WiFi: packet.Radiotap, MAC: macMine, Addrs: addrsMine}); err == nil {
		t.Error("spoof of a live monitor interface is accepted")
	}
}

// TestModeByDirection: a MAC address that frames of this kind do not have tells
// nothing of them.
func TestModeByDirection(t *testing.T) {
	f, err := CompileFile(t.Context(), "src", macMine, nil, packet.Network)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Match(networkFrame(etherIPv4, ip(ipMine, ipPeer, ""), packet.Outgoing)) {
		t.Error("an outgoing packet does not pass src")
	}
}

// TestOtherLink: a frame of another kind than the filter's does not pass,
// rather than being misread.
func TestOtherLink(t *testing.T) {
	frame := networkFrame(etherIPv4, ip(ipMine, ipPeer, ""), packet.Outgoing)
	for _, mode := range []string{"src", "dst", "spoof", "none"} {
		if compile(t, mode, ethernet).Match(frame) {
			t.Errorf("%s of an Ethernet interface accepts a frame without Ethernet header", mode)
		}
	}
}

func TestText(t *testing.T) {
	one := ethernet
	one.Addrs = []netip.Addr{netip.MustParseAddr("::ffff:10.0.0.1"), ipMine}
	many := ethernet
	many.Addrs = sequence("10.0.0.1", 5)
	tests := []struct {
		mode   string
		target Interface
		want   string
	}{
		{"src", ethernet, "ether src 02:00:00:00:00:0a"},
		{"dst", ethernet, "not ether src 02:00:00:00:00:0a"},
		{"spoof", ethernet, "source IP 10.0.0.1 or 192.168.7.9 or 2001:db8::1, and not ether src 02:00:00:00:00:0a"},
		{"spoof", many, "source IP one of 5 own addresses, and not ether src 02:00:00:00:00:0a"},
		{"spoof", one, "source IP 10.0.0.1, and not ether src 02:00:00:00:00:0a"},
		{"none", ethernet, "everything"},
		{"  ", ethernet, "everything"},
		{"src", tunnel, "outgoing (tun0 has no MAC address)"},
		{"dst", noMAC, "not outgoing (tap0 has no MAC address)"},
		{"spoof", loopback, "source IP 10.0.0.1 or 192.168.7.9 or 2001:db8::1, and not outgoing (lo has no MAC address)"},
		{"none", loopback, "everything (incoming: lo shows each packet twice)"},
	}
	for _, tt := range tests {
		f := compile(t, tt.mode, tt.target)
		if f.Text != tt.want || f.Compiler != "built in" {
			t.Errorf("%s on %s: %q by %q, want %q", tt.mode, tt.target.Name, f.Text, f.Compiler, tt.want)
		}
	}
}

// TestLoopbackMAC: a loopback interface to which somebody gave a MAC address
// still sends packets to itself with zero addresses, twice.
func TestLoopbackMAC(t *testing.T) {
	lo := loopback
	lo.MAC = macMine
	if got := compile(t, "src", lo).Text; !strings.HasPrefix(got, "outgoing") {
		t.Errorf("src on lo with a MAC address: %q", got)
	}
}

func TestModeErrors(t *testing.T) {
	bare := Interface{Name: "eth0", Ethernet: true, MAC: macMine, Addrs: []netip.Addr{netip.IPv4Unspecified(), {}}}
	_, err := Compile(t.Context(), "spoof", bare)
	wantError(t, err, ErrNoAddress, `filter "spoof": this host has no IP address`)
	bare.Addrs = randomAddrs(rand.New(rand.NewPCG(1, 2)), 1000, false)
	_, err = Compile(t.Context(), "spoof", bare)
	wantError(t, err, ErrTooLong, `1000 own addresses need`)
}

func wantError(t *testing.T, err, kind error, text string) {
	t.Helper()
	var e *Error
	if !errors.Is(err, kind) || !errors.As(err, &e) {
		t.Fatalf("got error %v, want %v", err, kind)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q, want %q in it", err, text)
	}
	if e.Hint() == "" {
		t.Errorf("error %q has no hint", err)
	}
}

// randomAddrs returns distinct addresses of one IP version.
func randomAddrs(r *rand.Rand, n int, v4 bool) []netip.Addr {
	seen := make(map[netip.Addr]bool)
	var list []netip.Addr
	for len(list) < n {
		a := randomAddr(r, v4)
		if !seen[a] {
			seen[a] = true
			list = append(list, a)
		}
	}
	return list
}

func randomAddr(r *rand.Rand, v4 bool) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if v4 {
		b[0] |= 1
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	b[0] = 0x20
	return netip.AddrFrom16(b)
}

// TestManyAddresses: each of them is found, its neighbours are not, and the
// program is one that the kernel takes.
func TestManyAddresses(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	sets := map[string][]netip.Addr{
		"300 IPv4": randomAddrs(r, 300, true), "300 IPv6": randomAddrs(r, 300, false),
		"2000 IPv4":     randomAddrs(r, 2000, true),
		"both":          append(randomAddrs(r, 150, true), randomAddrs(r, 150, false)...),
		"one network":   sequence("2001:db8:1:2::fff0", 300),
		"one network 4": sequence("10.0.255.0", 300),
		"highest":       {netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")},
	}
	for n := range 40 { // every shape of a small tree
		sets[fmt.Sprintf("%d IPv4", n+1)] = randomAddrs(r, n+1, true)
		sets[fmt.Sprintf("%d IPv6", n+1)] = shared(r, n+1)
	}
	for name, addrs := range sets {
		t.Run(name, func(t *testing.T) {
			target := ethernet
			target.Addrs = addrs
			f := compile(t, "spoof", target)
			attach(t, f)
			for _, a := range addrs {
				probe(t, f, addrs, a)
			}
			if len(addrs) >= 300 {
				t.Logf("%d addresses: %d instructions", len(addrs), len(f.prog))
			}
		})
	}
}

// sequence is n addresses in a row.
func sequence(first string, n int) []netip.Addr {
	list := []netip.Addr{netip.MustParseAddr(first)}
	for len(list) < n {
		list = append(list, list[len(list)-1].Next())
	}
	return list
}

// shared is n distinct IPv6 addresses that have words in common.
func shared(r *rand.Rand, n int) []netip.Addr {
	seen := make(map[netip.Addr]bool)
	var list []netip.Addr
	for len(list) < n {
		var b [16]byte
		for i := range 4 {
			b[4*i+r.IntN(4)] = byte(r.IntN(3))
		}
		if a := netip.AddrFrom16(b); !seen[a] && !a.Is4In6() && !a.IsUnspecified() {
			seen[a] = true
			list = append(list, a)
		}
	}
	return list
}

// probe checks an own address and those that differ from it in one bit.
func probe(t *testing.T, f *Filter, own []netip.Addr, a netip.Addr) {
	t.Helper()
	if !accepts(t, f, ethernetFrame(etherIP(macPeer, a, a), packet.Incoming)) {
		t.Errorf("%v is not found", a)
	}
	mine := make(map[netip.Addr]bool, len(own))
	for _, o := range own {
		mine[o] = true
	}
	b := a.AsSlice()
	for bit := range 8 * len(b) {
		if len(own) > 300 && bit%7 != 0 {
			continue
		}
		b[bit/8] ^= 1 << (bit % 8)
		near, _ := netip.AddrFromSlice(b)
		b[bit/8] ^= 1 << (bit % 8)
		if got := accepts(t, f, ethernetFrame(etherIP(macPeer, near, a), packet.Incoming)); got != mine[near] {
			t.Fatalf("%v, beside %v: passes %v, own %v", near, a, got, mine[near])
		}
	}
}

// FuzzModes: Match and the program say the same of any frame.
func FuzzModes(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	many := append(append(randomAddrs(r, 40, true), randomAddrs(r, 40, false)...), addrsMine...)
	var filters []*Filter
	for _, target := range []Interface{ethernet, noMAC, loopback, tunnel} {
		target.Addrs = many
		for _, mode := range []string{"src", "dst", "spoof", "none"} {
			filters = append(filters, compile(f, mode, target))
		}
	}
	for _, a := range []netip.Addr{ipMine, ipPeer, ip6Mine, ip6Peer, many[3], many[50]} {
		f.Add(etherIP(macPeer, a, a), uint16(0), uint8(1))
		f.Add(etherIP(macPeer, a, a, tag{0x88a8, 1}, tag{0x8100, 2}), uint16(0), uint8(1))
		f.Add(ip(a, a, ""), ipProto(a), uint8(2))
		f.Add(append([]byte{0, 1, 0x81, 0, 0, 2, 8, 0}, ip(a, a, "")...), uint16(0x9100), uint8(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, proto uint16, direction uint8) {
		for _, link := range []packet.LinkType{packet.Ethernet, packet.Network} {
			frame := &packet.Frame{Data: data, WireLen: len(data), Link: link, Protocol: proto, Direction: packet.Direction(direction % 3)}
			for _, filter := range filters {
				if filter.test.(*modeTest).link == link {
					accepts(t, filter, frame)
				}
			}
		}
	})
}

// TestInstructionsAreCopied: a caller may do with them as it likes.
func TestInstructionsAreCopied(t *testing.T) {
	f := compile(t, "src", ethernet)
	f.Instructions()[0].K = 12345
	if f.prog[0].K == 12345 {
		t.Error("the filter's own program was changed")
	}
}

// TestSame: the order of addresses makes no difference, one address does, even
// where the text is the same.
func TestSame(t *testing.T) {
	target := ethernet
	target.Addrs = sequence("10.0.0.1", 9)
	f := compile(t, "spoof", target)
	target.Addrs = slices.Clone(target.Addrs)
	slices.Reverse(target.Addrs)
	if !f.Same(compile(t, "spoof", target)) {
		t.Error("another order of addresses is another filter")
	}
	target.Addrs[4] = ipMine2
	other := compile(t, "spoof", target)
	if f.Same(other) || f.Text != other.Text {
		t.Errorf("filters %q and %q of other addresses are the same", f.Text, other.Text)
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	frame := ethernetFrame(etherIP(macPeer, ip6Mine, ip6Peer, tag{0x8100, 5}), packet.Incoming)
	for _, mode := range []string{"src", "dst", "spoof", "none", "udp port 5001 and len < 1000"} {
		f, err := Compile(t.Context(), mode, ethernet)
		if errors.Is(err, ErrNoCompiler) {
			t.Logf("%q: %v", mode, err)
			continue
		}
		must(t, err)
		if n := testing.AllocsPerRun(1000, func() { f.Match(frame) }); n != 0 {
			t.Errorf("%s: %v allocations per frame", mode, n)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	needCompiler(b)
	frame := ethernetFrame(etherIP(macPeer, ipMine2, ipPeer), packet.Incoming)
	many := ethernet
	many.Addrs = append(randomAddrs(rand.New(rand.NewPCG(7, 8)), 299, true), ipMine2)
	for _, c := range []struct {
		name, mode string
		target     Interface
	}{
		{"src", "src", ethernet}, {"dst", "dst", ethernet}, {"spoof", "spoof", ethernet},
		{"spoof-300-addresses", "spoof", many},
		{"expression", "udp and src net 192.168.0.0/16 and portrange 4000-6000", ethernet},
	} {
		f := compile(b, c.mode, c.target)
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if !f.Match(frame) && c.mode != "src" {
					b.Fatal("does not pass")
				}
			}
		})
		b.Run(c.name+"-program", func(b *testing.B) {
			m := &machine{prog: f.prog, link: packet.Ethernet}
			for b.Loop() {
				if !m.match(frame) && c.mode != "src" {
					b.Fatal("does not pass")
				}
			}
		})
	}
}
