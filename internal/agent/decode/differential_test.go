package decode

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// other is what another decoder makes of a frame.
type other struct {
	src, dst     netip.Addr
	sport, dport uint16
	length       int
	proto        uint8
	sure         bool // the upper-layer header was decoded, so proto and ports count
}

// gopacketSays finds the outermost IP packet of an Ethernet frame with
// gopacket. false: there is none that it takes for valid.
func gopacketSays(b []byte) (o other, ok bool) {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
	room := len(b) // for an IP packet, by the PPPoE length, which we do not look at
	for _, l := range p.Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			if l.EthernetType == 0xffff || l.EthernetType == etherPPPoEDiscovery {
				return other{}, false // gopacket decodes what is behind them all the same
			}
		case *layers.MPLS:
			return other{}, false // gopacket goes by the first four bits behind it
		case *layers.PPPoE:
			room = int(l.Length) - 2
		case *layers.Dot1Q:
			if l.Type == 0xffff || l.Type == etherPPPoEDiscovery {
				return other{}, false
			}
		case *layers.IPv4:
			if ok {
				return o, true
			}
			ok = true
			o.src, o.dst = addr(l.SrcIP), addr(l.DstIP)
			o.length, o.proto = int(l.Length), uint8(l.Protocol)
			if room < o.length && room < len(b) {
				return other{}, false
			}
			if l.Version != 4 || l.FragOffset != 0 || l.Flags&layers.IPv4MoreFragments != 0 || binary.BigEndian.Uint16(l.Contents[2:]) == 0 {
				return other{}, false // not comparable
			}
			o.sure = !hasPorts[o.proto]
		case *layers.IPv6:
			if ok {
				return o, true
			}
			if l.Version != 6 || l.Length == 0 {
				return other{}, false
			}
			ok = true
			o.src, o.dst = addr(l.SrcIP), addr(l.DstIP)
			o.length = 40 + int(l.Length)
			o.proto = uint8(l.NextHeader)
		case *layers.IPv6HopByHop:
			o.proto = uint8(l.NextHeader)
		case *layers.IPv6Destination:
			o.proto = uint8(l.NextHeader)
		case *layers.IPv6Routing:
			o.proto = uint8(l.NextHeader)
		case *layers.IPSecAH:
			if o.src.Is4() {
				return o, ok // no extension header in IPv4
			}
			o.proto = uint8(l.NextHeader)
		case *layers.IPv6Fragment:
			return other{}, false
		case *layers.UDP:
			o.sport, o.dport, o.sure = uint16(l.SrcPort), uint16(l.DstPort), ok
			return o, ok
		case *layers.TCP:
			o.sport, o.dport, o.sure = uint16(l.SrcPort), uint16(l.DstPort), ok
			return o, ok
		case *layers.SCTP:
			o.sport, o.dport, o.sure = uint16(l.SrcPort), uint16(l.DstPort), ok
			return o, ok
		case *layers.UDPLite:
			o.sport, o.dport, o.sure = uint16(l.SrcPort), uint16(l.DstPort), ok
			return o, ok
		}
	}
	return o, ok
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// compare says where a record and the other decoder differ. Of the upper layer
// only what gopacket decoded without error counts: it knows fewer extension
// headers and less of cut ones.
func compare(r *wire.Record, o other) error {
	if r.SrcAddr() != o.src || r.DstAddr() != o.dst || int(r.Length) != o.length {
		return fmt.Errorf("%s; gopacket: %v > %v length %d", fields(r), o.src, o.dst, o.length)
	}
	if o.sure && r.Flags&wire.Truncated == 0 && (r.Proto != o.proto || r.SrcPort != o.sport || r.DstPort != o.dport) {
		return fmt.Errorf("%s; gopacket: %d > %d protocol %d", fields(r), o.sport, o.dport, o.proto)
	}
	return nil
}

// TestDifferential compares with gopacket's decoder, on all captures and on
// damaged frames: wherever gopacket finds a valid IP packet there is a record
// that says the same of it.
func TestDifferential(t *testing.T) {
	seed := uint64(7)
	if *mutationsSeed != 0 {
		seed = *mutationsSeed
	}
	m := newMutator(mutationSeeds(t), seed)
	compared := 0
	check := func(f packet.Frame) {
		var dst [1]wire.Record
		f.GSOType, f.WireLen, f.Link = packet.GSONone, len(f.Data), packet.Ethernet
		n := New(Config{FragmentEntries: 1, TCPEntries: 1}).Decode(&f, dst[:])
		o, ok := gopacketSays(f.Data)
		switch {
		case !ok:
			return
		case n == 0:
			t.Fatalf("seed %d: no record, gopacket: %+v\n%x", seed, o, f.Data)
		}
		if err := compare(&dst[0], o); err != nil {
			t.Fatalf("seed %d: %v\n%x", seed, err, f.Data)
		}
		compared++
	}
	for _, name := range captures(t) {
		for _, f := range frames(t, name) {
			check(f)
		}
	}
	const mutated = 300_000
	for range mutated {
		m.next()
		check(m.f)
	}
	t.Logf("%d frames compared", compared)
	if compared < mutated/2 {
		t.Errorf("only %d frames could be compared", compared)
	}
}
