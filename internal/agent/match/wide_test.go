package match

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// fragments cuts the packet that ip makes, with a long payload, into three.
func fragments(src, dst netip.Addr) (pieces [3][]byte) {
	whole := ip(src, dst, strings.Repeat("x", 40))
	n := 20
	if src.Is6() {
		n = headerSize6
	}
	body := whole[n:]
	for i := range pieces {
		from, to := i*16, min((i+1)*16, len(body))
		more := uint16(1)
		if i == len(pieces)-1 {
			to, more = len(body), 0
		}
		head := slices.Clone(whole[:n])
		if src.Is4() {
			binary.BigEndian.PutUint16(head[2:], uint16(n+to-from))
			binary.BigEndian.PutUint16(head[6:], more<<13|uint16(from/8))
		} else {
			binary.BigEndian.PutUint16(head[4:], uint16(fragmentSize6+to-from))
			head[nextOffset6] = nextFragment
			header := []byte{17, 0, 0, 0, 0, 0, 0, 9}
			binary.BigEndian.PutUint16(header[2:], uint16(from)|more)
			head = append(head, header...)
		}
		pieces[i] = append(head, body[from:to]...)
	}
	return pieces
}

// everyLink is an IP packet as each link type has it, without and with tags.
func everyLink(src netip.Addr, packetBytes []byte) map[string]*packet.Frame {
	proto := ipProto(src)
	dot1q, qinq := tag{0x8100, 5}, tag{0x88a8, 7}
	network := func(proto uint16, before ...byte) *packet.Frame {
		return networkFrame(proto, append(before, packetBytes...), packet.Unknown)
	}
	taken := ethernetFrame(ether(macPeer, macMine, proto, packetBytes, dot1q), packet.Incoming)
	taken.VLAN = packet.VLAN{TCI: 7, TPID: 0x88a8, Present: true}
	return map[string]*packet.Frame{
		"ethernet":            ethernetFrame(ether(macPeer, macMine, proto, packetBytes), packet.Incoming),
		"one tag":             ethernetFrame(ether(macPeer, macMine, proto, packetBytes, dot1q), packet.Incoming),
		"two tags":            ethernetFrame(ether(macPeer, macMine, proto, packetBytes, qinq, dot1q), packet.Incoming),
		"one taken, one tag":  taken,
		"no link header":      network(proto),
		"no link header, tag": network(0x8100, 0, 5, byte(proto>>8), byte(proto)),
		"raw":                 {Data: packetBytes, WireLen: len(packetBytes), Link: packet.RawIP},
	}
}

// TestFragments: a filter that asks for ports judges a datagram by its first
// fragment, in every frame that can hold one, live and from files.
func TestFragments(t *testing.T) {
	needCompiler(t)
	for _, tt := range []struct {
		expression string
		datagram   bool // is wanted
		later      bool // by itself, without its first
		judged     bool // by Wanted
	}{
		{"udp dst port 5001", true, false, true},
		{"udp port 5001 and not src port 7", true, false, true},
		{"not port 5001", false, true, true},
		{"not udp port 9", true, true, true},
		{"portrange 4990-5010", true, false, true},
		{"portrange 1-10", false, false, true},
		{"udp[2:2] = 5001", true, false, true}, // of IPv4 alone, says pcap-filter(7)
		{"udp [2:2] != 5001", false, false, true},
		{"tcp port 5001", false, false, true},
		{"icmp[0] = 8 or icmp6[0] = 8", false, false, true},
		{"udp", true, true, false},
		{"host 10.0.0.2 or host 2001:db8::2", true, true, false},
		{"tcp", false, false, false},
	} {
		filters := map[packet.LinkType][]*Filter{}
		for _, link := range []packet.LinkType{packet.Ethernet, packet.Network, packet.RawIP} {
			file, err := CompileFile(t.Context(), tt.expression, nil, nil, link)
			must(t, err)
			filters[link] = append(filters[link], file)
			if link != packet.RawIP {
				live, err := Compile(t.Context(), tt.expression, Interface{Name: "eth7", Ethernet: link == packet.Ethernet})
				must(t, err)
				attach(t, live)
				filters[link] = append(filters[link], live)
			}
		}
		for _, src := range []netip.Addr{ipPeer, ip6Peer} {
			if src.Is6() && strings.HasPrefix(tt.expression, "udp[") {
				continue
			}
			dst := ipMine
			if src.Is6() {
				dst = ip6Mine
			}
			whole := everyLink(src, ip(src, dst, "whole"))
			for i, piece := range fragments(src, dst) {
				for name, frame := range everyLink(src, piece) {
					for live, f := range filters[frame.Link] {
						what := fmt.Sprintf("%q, %v, %s, fragment %d, filter %d", tt.expression, src, name, i, live)
						want := tt.later
						if i == 0 {
							want = tt.datagram
						}
						if f.Fragments() != tt.judged || f.Match(frame) != (tt.judged || want) || f.Wanted(frame) != want || f.Limit != "" {
							t.Errorf("%s: judged %v, passes %v, wanted %v; want %v, %v, %v", what,
								f.Fragments(), f.Match(frame), f.Wanted(frame), tt.judged, tt.judged || want, want)
						}
						if i == 0 && (f.Match(whole[name]) != tt.datagram || f.Wanted(whole[name]) != tt.datagram) {
							t.Errorf("%s: the same port in a whole packet: passes %v, want %v", what, f.Match(whole[name]), tt.datagram)
						}
					}
				}
			}
		}
	}
}

// TestAtomicFragment: a fragment that is all of its packet is judged as one.
func TestAtomicFragment(t *testing.T) {
	needCompiler(t)
	piece := fragments(ip6Peer, ip6Mine)[0]
	piece[headerSize6+3] = 0 // no more fragments
	f, err := CompileFile(t.Context(), "udp dst port 5001", nil, nil, packet.RawIP)
	must(t, err)
	frame := &packet.Frame{Data: piece, WireLen: len(piece), Link: packet.RawIP}
	if !f.Match(frame) || !f.Wanted(frame) {
		t.Errorf("passes %v, wanted %v", f.Match(frame), f.Wanted(frame))
	}
	for n := range piece { // cut short anywhere
		frame.Data = piece[:n]
		f.Wanted(frame)
	}
}

// TestLongExpressionsStayNarrow: a program that would not fit three times is
// used as it is, and says so.
func TestLongExpressionsStayNarrow(t *testing.T) {
	needCompiler(t)
	var terms []string
	for n := range 300 {
		terms = append(terms, fmt.Sprintf("ip[%d:2] = %d", n%40, n*7))
	}
	long := strings.Join(terms, " or ")
	for expression, want := range map[string]string{
		long:                    "through VLAN tags inside of frames",
		"udp port 9 or " + long: "through VLAN tags inside of frames, and later fragments do not match ports",
		"vlan and (port 9 or " + long + " or " + strings.ReplaceAll(long, "ip[", "ether[") + ")": "later fragments, which do not match ports",
		"udp port 9": "",
	} {
		f, err := CompileFile(t.Context(), expression, nil, nil, packet.Ethernet)
		must(t, err)
		if !strings.HasSuffix(f.Limit, want) || (f.Limit == "") != (want == "") || want != "" && f.Fragments() {
			t.Errorf("%.20s...: %q, want %q; %d instructions", expression, f.Limit, want, len(f.prog))
		}
	}
}

// TestFragmentsIn80211: what is not judged there is said.
func TestFragmentsIn80211(t *testing.T) {
	needCompiler(t)
	for expression, want := range map[string]string{"udp port 5001": "in 802.11 frames, later fragments do not match ports", "udp": ""} {
		f, err := CompileFile(t.Context(), expression, nil, nil, packet.IEEE80211)
		must(t, err)
		if f.Limit != want || f.Fragments() {
			t.Errorf("%s: %q, want %q", expression, f.Limit, want)
		}
	}
}

func TestLooksBehindIP(t *testing.T) {
	for expression, want := range map[string]bool{
		"udp port 5001": true, "src portrange 1-2": true, "tcp[13] & 2 != 0": true, "icmp [icmptype] = 8": true, "port http": true,
		"udp": false, "host port7": false, "ip[6:2] = 0": false, "ip6[6] = 44": false, "ether[0] & 1 = 0": false, "support": false,
	} {
		if got := looksBehindIP(expression); got != want {
			t.Errorf("%q: %v, want %v", expression, got, want)
		}
	}
}

func TestWantedDoesNotAllocate(t *testing.T) {
	needCompiler(t)
	f, err := CompileFile(t.Context(), "udp port 5001", nil, nil, packet.Ethernet)
	must(t, err)
	frame := everyLink(ip6Peer, fragments(ip6Peer, ip6Mine)[0])["one tag"]
	if n := testing.AllocsPerRun(100, func() { f.Wanted(frame) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
