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
		pppByte := (link == linkPPP || link == linkPPPHDLC) && n == 1 && header[0]&1 != 0
		if got, want := unwrap(link, &f), n == len(header) || pppByte; got != want {
			t.Errorf("%d of %d header bytes: %v", n, len(header), got)
		}
	}
}

func TestUnwrapUnknown(t *testing.T) {
	for _, link := range []uint16{6, 105, 127, 147, 239, 0xffff} {
		f := packet.Frame{Data: payload(60, 1), WireLen: 60}
		if unwrap(link, &f) {
			t.Errorf("link type %d is known: %+v", link, f)
		}
	}
}
