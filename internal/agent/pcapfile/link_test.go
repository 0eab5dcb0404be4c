package pcapfile

import (
	"bytes"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

func TestUnwrap(t *testing.T) {
	sll := func(kind byte, protocol ...byte) []byte {
		return append([]byte{0, kind, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0}, protocol...)
	}
	sll2 := func(kind byte, protocol ...byte) []byte {
		return append(protocol, 0, 0, 0, 0, 0, 2, 0, 1, kind, 6, 2, 0, 0, 0, 0, 1, 0, 0)
	}
	const none, in, out = packet.Unknown, packet.Incoming, packet.Outgoing
	tests := []struct {
		name     string
		link     uint16
		header   []byte
		wantLink packet.LinkType
		protocol uint16
		dir      packet.Direction
	}{
		{"ethernet", linkEthernet, nil, packet.Ethernet, 0, none},
		{"raw", linkRaw, nil, packet.RawIP, 0, none},
		{"raw of OpenBSD", linkRaw14, nil, packet.RawIP, 0, none},
		{"raw of others", linkRaw12, nil, packet.RawIP, 0, none},
		{"ipv4", linkIPv4, nil, packet.Network, 0x0800, none},
		{"ipv6", linkIPv6, nil, packet.Network, 0x86dd, none},
		{"sll to us", linkSLL, sll(0, 8, 0), packet.Network, 0x0800, in},
		{"sll multicast", linkSLL, sll(2, 0x86, 0xdd), packet.Network, 0x86dd, in},
		{"sll sent", linkSLL, sll(4, 8, 6), packet.Network, 0x0806, out},
		{"sll of no kind", linkSLL, sll(7, 0x81, 0), packet.Network, 0x8100, none},
		{"sll2 to another", linkSLL2, sll2(3, 8, 0), packet.Network, 0x0800, in},
		{"sll2 sent", linkSLL2, sll2(4, 0x86, 0xdd), packet.Network, 0x86dd, out},
		{"null little-endian", linkNull, []byte{2, 0, 0, 0}, packet.Network, 0x0800, none},
		{"null big-endian", linkNull, []byte{0, 0, 0, 2}, packet.Network, 0x0800, none},
		{"null macOS", linkNull, []byte{30, 0, 0, 0}, packet.Network, 0x86dd, none},
		{"null FreeBSD", linkNull, []byte{0, 0, 0, 28}, packet.Network, 0x86dd, none},
		{"null Linux", linkNull, []byte{10, 0, 0, 0}, packet.Network, 0x86dd, none},
		{"null OSI", linkNull, []byte{7, 0, 0, 0}, packet.Network, 0, none},
		{"loop OpenBSD", linkLoop, []byte{0, 0, 0, 24}, packet.Network, 0x86dd, none},
		{"ppp IPv4", linkPPP, []byte{0xff, 3, 0, 0x21}, packet.Network, 0x0800, none},
		{"ppp IPv6", linkPPPHDLC, []byte{0xff, 3, 0, 0x57}, packet.Network, 0x86dd, none},
		{"ppp without address", linkPPP, []byte{0, 0x57}, packet.Network, 0x86dd, none},
		{"ppp compressed", linkPPP, []byte{0x21}, packet.Network, 0x0800, none},
		{"ppp address, compressed", linkPPP, []byte{0xff, 3, 0x57}, packet.Network, 0x86dd, none},
		{"ppp MPLS", linkPPP, []byte{2, 0x81}, packet.Network, 0x8847, none},
		{"ppp MPLS multicast", linkPPP, []byte{2, 0x83}, packet.Network, 0x8848, none},
		{"hdlc as ppp", linkPPP, []byte{0x0f, 0, 8, 0}, packet.Network, 0x0800, none},
		{"hdlc broadcast as ppp", linkPPPHDLC, []byte{0x8f, 0, 0x86, 0xdd}, packet.Network, 0x86dd, none},
		{"hdlc", linkCHDLC, []byte{0x0f, 0, 8, 0}, packet.Network, 0x0800, none},
		{"hdlc MPLS", linkCHDLC, []byte{0x0f, 0, 0x88, 0x47}, packet.Network, 0x8847, none},
		{"ppp as hdlc", linkCHDLC, []byte{0xff, 3, 0, 0x57}, packet.Network, 0x86dd, none},
		{"ppp sent", linkPPPWay, []byte{1, 0xff, 3, 0, 0x21}, packet.Network, 0x0800, out},
		{"ppp received", linkPPPWay, []byte{0, 0xff, 3, 0, 0x57}, packet.Network, 0x86dd, in},
		{"pppoe", linkPPPoE, nil, packet.Network, 0x8864, none},
		{"mpls", linkMPLS, nil, packet.Network, 0x8847, none},
		{"atm", linkATM, nil, packet.Network, 0x0004, none},
		{"802.11", link80211, nil, packet.IEEE80211, 0, none},
		{"radiotap", linkRadiotap, nil, packet.Radiotap, 0, none},
		{"prism", linkPrism, append([]byte{0x44, 0, 0, 0, 144, 0, 0, 0}, make([]byte, 136)...), packet.IEEE80211, 0, none},
		{"avs", linkAVS, append([]byte{0x80, 0x21, 0x10, 1, 0, 0, 0, 64}, make([]byte, 56)...), packet.IEEE80211, 0, none},
		{"ppi", linkPPI, []byte{0, 0, 8, 0, 105, 0, 0, 0}, packet.IEEE80211, 0, none},
		{"ppi of Ethernet", linkPPI, []byte{0, 0, 12, 0, 1, 0, 0, 0, 1, 2, 3, 4}, packet.Ethernet, 0, none},
		{"sll of a monitor", linkSLL, []byte{0, 0, 3, 35, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 0, 4}, packet.Radiotap, 0, in},
		{"sll of netlink", linkSLL, []byte{0, 4, 3, 56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0}, packet.Network, 0, out},
		{"ppp LCP", linkPPP, []byte{0xff, 3, 0xc0, 0x21}, packet.Network, 0x880b, none},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := payload(20, 1)
			data[0] = 0x45 // even where a length of one byte could be confused
			whole := append(bytes.Clone(tt.header), data...)
			f := packet.Frame{Data: whole, WireLen: len(whole) + 7}
			if !unwrap(tt.link, &f) {
				t.Fatal("not known")
			}
			if f.Link != tt.wantLink || f.Protocol != tt.protocol || f.Direction != tt.dir {
				t.Errorf("link %d protocol %#04x direction %d", f.Link, f.Protocol, f.Direction)
			}
			if !bytes.Equal(f.Data, data) || f.WireLen != len(data)+7 {
				t.Errorf("data % x of %d", f.Data, f.WireLen)
			}
			cutHeader(t, tt.link, tt.header)
			if !known(tt.link) {
				t.Error("not known when it is cut short")
			}
		})
	}
}

// cutHeader: a frame that ends inside its link header is refused, one that ends
// with it is not.
func cutHeader(t *testing.T, link uint16, header []byte) {
	t.Helper()
	for n := range len(header) + 1 {
		f := packet.Frame{Data: header[:n], WireLen: 60}
		// ff is a PPP protocol of one byte as far as one can see.
		pppByte := (link == linkPPP || link == linkPPPHDLC || link == linkCHDLC && header[0] == 0xff) && n == 1 && header[0]&1 != 0 ||
			link == linkPPPWay && n == 2
		if got, want := unwrap(link, &f), n == len(header) || pppByte; got != want {
			t.Errorf("%d of %d header bytes: %v", n, len(header), got)
		}
	}
}

func TestUnwrapUnknown(t *testing.T) {
	for _, link := range []uint16{6, 147, 239, 0xffff} {
		f := packet.Frame{Data: payload(60, 1), WireLen: 60}
		if unwrap(link, &f) {
			t.Errorf("link type %d is known: %+v", link, f)
		}
	}
}
