package match

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Offsets in bytes.
const (
	srcMACOffset    = 6  // in an Ethernet header
	etherTypeOffset = 12 // in an Ethernet header
	etherSize       = 14
	tagSize         = 4  // of a VLAN tag, IEEE 802.1Q
	srcOffset4      = 12 // of the source address in an IPv4 header, RFC 791
	srcOffset6      = 8  // and in an IPv6 header, RFC 8200
)

// networkOffset is the offset of the network header if there is no VLAN tag.
func networkOffset(link packet.LinkType) uint32 {
	if link == packet.Ethernet {
		return etherSize
	}
	return 0
}

// modeTest implements a mode in Go, with the same steps as program.
type modeTest struct {
	mode  mode
	link  packet.LinkType
	once  bool // each packet is seen twice, outgoing and incoming
	byMAC bool // the source MAC address rather than the direction identifies our packets
	mac   [6]byte
	own   *own
}

func (t *modeTest) match(f *packet.Frame) bool {
	if f.Link != t.link {
		return false
	}
	if t.mode == none {
		return !t.once || f.Direction != packet.Outgoing
	}
	mine, known := t.isMine(f)
	switch {
	case !known:
		return false
	case t.mode == src:
		return mine
	case t.mode == dst:
		return !mine
	}
	return !mine && t.sourceIsOwn(f)
}

func (t *modeTest) isMine(f *packet.Frame) (mine, known bool) {
	if !t.byMAC {
		return f.Direction == packet.Outgoing, true
	}
	mac, ok := f.SourceMAC()
	return ok && mac == t.mac, ok
}

// sourceIsOwn finds the IP header after up to two VLAN tags.
func (t *modeTest) sourceIsOwn(f *packet.Frame) bool {
	at := int(networkOffset(t.link))
	typ := uint32(f.Protocol)
	switch t.link {
	case packet.Ethernet:
		if len(f.Data) < etherSize {
			return false
		}
		typ = uint32(binary.BigEndian.Uint16(f.Data[etherTypeOffset:]))
	case packet.IEEE80211, packet.Radiotap:
		if at = wifiNetwork(f); at == 0 {
			return false
		}
		typ = uint32(binary.BigEndian.Uint16(f.Data[at-2:]))
	}
	for tag := 0; tag < maxTags && slices.Contains(vlanTypes[:], typ); tag++ {
		at += tagSize
		if len(f.Data) < at {
			return false
		}
		typ = uint32(binary.BigEndian.Uint16(f.Data[at-2:]))
	}
	switch {
	case typ == etherIPv4 && len(f.Data) >= at+srcOffset4+4:
		return t.own.has4([4]byte(f.Data[at+srcOffset4:]))
	case typ == etherIPv6 && len(f.Data) >= at+srcOffset6+16:
		return t.own.has6([16]byte(f.Data[at+srcOffset6:]))
	}
	return false
}

// snapSize is the combined length of the LLC and SNAP headers (RFC 1042).
const snapSize = 8

// wifiNetwork returns the offset after the EtherType of an 802.11 data frame, or 0 if
// that cannot be read.
func wifiNetwork(f *packet.Frame) int {
	at := 0
	if f.Link == packet.Radiotap {
		at, _, _ = packet.SkipRadiotap(f.Data)
	}
	w, ok := packet.ParseWiFi(f.Data[at:])
	at += w.Header + snapSize
	if !ok || w.Empty || w.Protected || w.Fragment || len(f.Data) < at {
		return 0
	}
	return at
}

// own is a set of the host's addresses.
type own struct {
	v4 map[[4]byte]struct{}
	v6 map[[16]byte]struct{}
}

func newOwn(addrs []netip.Addr) *own {
	o := &own{v4: make(map[[4]byte]struct{}), v6: make(map[[16]byte]struct{})}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		switch {
		case !a.IsValid() || a.IsUnspecified():
			continue // no host has it: DHCP clients send from 0.0.0.0
		case a.Is4():
			o.v4[a.As4()] = struct{}{}
		default:
			o.v6[a.As16()] = struct{}{}
		}
	}
	return o
}

func (o *own) len() int { return len(o.v4) + len(o.v6) }

// maxDescribed is the number of addresses that a text lists; a host with containers has
// hundreds.
const maxDescribed = 4

func (o *own) describe() string {
	if o.len() > maxDescribed {
		return fmt.Sprintf("one of %d own addresses", o.len())
	}
	var list []string
	for _, a := range o.sorted() {
		list = append(list, a.String())
	}
	return strings.Join(list, " or ")
}

func (o *own) sorted() []netip.Addr {
	list := make([]netip.Addr, 0, o.len())
	for a := range o.v4 {
		list = append(list, netip.AddrFrom4(a))
	}
	for a := range o.v6 {
		list = append(list, netip.AddrFrom16(a))
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func (o *own) has4(a [4]byte) bool {
	_, ok := o.v4[a]
	return ok
}

func (o *own) has6(a [16]byte) bool {
	_, ok := o.v6[a]
	return ok
}

// words4 returns the IPv4 addresses in the form that search expects, words6 the others.
func (o *own) words4() [][]uint32 {
	keys := make([][]uint32, 0, len(o.v4))
	for a := range o.v4 {
		keys = append(keys, words(a[:]))
	}
	slices.SortFunc(keys, slices.Compare)
	return keys
}

func (o *own) words6() [][]uint32 {
	keys := make([][]uint32, 0, len(o.v6))
	for a := range o.v6 {
		keys = append(keys, words(a[:]))
	}
	slices.SortFunc(keys, slices.Compare)
	return keys
}

// words splits an address into numbers of the size that a program loads.
func words(b []byte) []uint32 {
	var w []uint32
	for ; len(b) >= 4; b = b[4:] {
		w = append(w, binary.BigEndian.Uint32(b))
	}
	return w
}
