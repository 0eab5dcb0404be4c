package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// EtherTypes (IEEE registration authority) and PPP protocols (IANA).
const (
	etherIPv4           = 0x0800
	etherARP            = 0x0806
	etherRARP           = 0x8035
	etherVLAN           = 0x8100
	etherIPv6           = 0x86dd
	etherMPLS           = 0x8847
	etherMPLSMulticast  = 0x8848
	etherPPPoEDiscovery = 0x8863
	etherPPPoE          = 0x8864
	etherEAPOL          = 0x888e
	etherQinQ           = 0x88a8
	etherLLDP           = 0x88cc
	etherBackbone       = 0x88e7 // 802.1ah
	etherQinQOld        = 0x9100
	etherBATMAN         = 0x4305
	etherBridged        = 0x6558 // an Ethernet frame follows

	etherMin = 0x0600 // a smaller "type" is the length of an LLC frame

	pppIPv4 = 0x0021
	pppIPv6 = 0x0057
	pppMPLS = 0x0281
)

const (
	ethernetLen  = 14
	ethernetType = 12
	vlanLen      = 4
	mplsLen      = 4
	llcLen       = 3
	snapLen      = 8
	pppoeLen     = 6
	itagLen      = 4

	controlWordLen = 4 // of a pseudowire
)

// link finds the IP header: its offset in f.Data and its EtherType, that of IPv4 or
// IPv6. Frames with neither are counted.
func (d *Decoder) link(f *packet.Frame) (off, proto int, ok bool) {
	b := f.Data
	switch f.Link {
	case packet.Ethernet:
		if len(b) < ethernetLen {
			d.c.ShortLink++
			return 0, 0, false
		}
		off = ethernetLen
		proto = int(binary.BigEndian.Uint16(b[ethernetType:]))
	case packet.Network:
		proto = int(f.Protocol)
	case packet.IEEE80211, packet.Radiotap:
		off, proto = d.wifi(f)
	default:
		return d.rawIP(b)
	}
	if proto == etherIPv4 || proto == etherIPv6 {
		return off, proto, true
	}
	off, proto = through(b, max(f.WireLen, len(b)), off, proto)
	if proto == etherIPv4 || proto == etherIPv6 {
		return off, proto, true
	}
	d.c.notIP(proto)
	return 0, 0, false
}

// Results of through in place of an EtherType if there is no IP packet.
const (
	cutShort      = -1 - iota // a header is cut off
	mplsOther                 // a label's payload is neither an IP packet nor a frame with one
	pppOther                  // a control protocol of PPP, or another network protocol
	batmanOther               // a control packet of batman-adv
	batmanPart                // a part of a packet split by batman-adv, but not the first
	wifiOther                 // 802.11 management or control, or an empty data frame
	wifiEncrypted             // 802.11 data that cannot be read
	wifiPart                  // a later fragment of an 802.11 frame
	wifiAggregate             // several frames, in d.aggregate
	wifiDamaged               // an 802.11 frame with a wrong frame check sequence
)

// through skips everything that may stand between a link header and an IP header, any
// number of times; each step consumes bytes, so it terminates. It starts with proto at
// off and returns the same for the IP header, or the reason why there is none. wire is
// the length of the frame on the wire.
func through(b []byte, wire, off, proto int) (int, int) {
	for proto >= 0 && proto != etherIPv4 && proto != etherIPv6 {
		n, next := 0, 0
		switch proto {
		case etherVLAN, etherQinQ, etherQinQOld:
			if len(b)-off >= vlanLen {
				n, next = vlanLen, int(binary.BigEndian.Uint16(b[off+2:]))
			}
		case etherMPLS, etherMPLSMulticast:
			n, next = mpls(b[off:], wire-off)
		case etherPPPoE:
			n, next = pppoe(b[off:])
		case etherBATMAN:
			n, next = batman(b[off:], wire-off)
		case etherBackbone:
			n, next = backbone(b[off:])
		case etherBridged:
			n, next = bridged(b[off:])
		default:
			if proto >= etherMin {
				return off, proto
			}
			if n, next = llc(b[off:]); n == 0 {
				return off, proto
			}
		}
		if n == 0 {
			return off, cutShort
		}
		off, proto = off+n, next
	}
	return off, proto
}

// bridged removes an Ethernet header.
func bridged(b []byte) (n, next int) {
	if len(b) < ethernetLen {
		return 0, 0
	}
	return ethernetLen, int(binary.BigEndian.Uint16(b[ethernetType:]))
}

// backbone removes an I-TAG (IEEE 802.1Q, section 9.7) and the customer's Ethernet
// header after it.
func backbone(b []byte) (n, next int) {
	if len(b) < itagLen+ethernetLen {
		return 0, 0
	}
	n, next = bridged(b[itagLen:])
	return itagLen + n, next
}

// mpls removes one entry of a label stack (RFC 3032). Nothing says what follows the
// last one: an IP packet, or a pseudowire's Ethernet frame with or without a control
// word (RFC 4448), whose first byte may look like an IP version. It is taken to be
// whatever its lengths and checksums are consistent with. wire is the length of b on
// the wire.
func mpls(b []byte, wire int) (n, next int) {
	if len(b) < mplsLen {
		return 0, 0
	}
	if b[2]&1 == 0 { // not the bottom of the stack
		return mplsLen, etherMPLS
	}
	b, wire = b[mplsLen:], wire-mplsLen
	if len(b) == 0 {
		return 0, 0
	}
	proto := 0
	switch b[0] >> 4 {
	case 4:
		proto = etherIPv4
	case 6:
		proto = etherIPv6
	}
	switch {
	case proto == etherIPv4 && isIP(b, wire, proto, padded), proto == etherIPv6 && isIP(b, wire, proto, padded6):
		return mplsLen, proto
	case b[0]>>4 == 0 && isFrame(b, wire, controlWordLen):
		return mplsLen + controlWordLen, etherBridged
	case isFrame(b, wire, 0):
		return mplsLen, etherBridged
	}
	return mplsLen, mplsOther
}

// isFrame reports whether an Ethernet frame with an IP packet, after VLAN tags at most,
// begins at off. It does not look further, so that its time is bounded by the length of
// the frame.
func isFrame(b []byte, wire, off int) bool {
	proto := etherVLAN
	for off += ethernetLen - vlanLen; proto == etherVLAN || proto == etherQinQ; {
		if off += vlanLen; off > len(b) {
			return false
		}
		proto = int(binary.BigEndian.Uint16(b[off-2:]))
	}
	return (proto == etherIPv4 || proto == etherIPv6) && isIP(b[off:], wire-off, proto, padded)
}

// The number of bytes that may follow an IP packet: Ethernet pads its payload to 46
// bytes, of which an IPv6 packet after a label may leave 2 unused, and adds the frame
// check sequence.
const (
	padded  = 46 + 4
	padded6 = 2 + 4
)

// isIP reports whether b, wire bytes long on the wire, is consistent with an IP packet
// of this EtherType: its version, its lengths, and the checksum of IPv4. At most extra
// bytes may follow it.
func isIP(b []byte, wire, proto, extra int) bool {
	hdr, total := ipv6Len, 0
	if proto == etherIPv4 {
		hdr = ipv4Len
	}
	if len(b) < hdr {
		return false
	}
	if proto == etherIPv4 {
		hdr = int(b[0]&0x0f) * 4
		total = int(binary.BigEndian.Uint16(b[2:]))
		if b[0]>>4 != 4 || hdr < ipv4Len || len(b) >= hdr && !checksumOK(b[:hdr]) {
			return false
		}
	} else {
		total = ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
		if b[0]>>4 != 6 {
			return false
		}
	}
	if proto == etherIPv4 && total == 0 || proto == etherIPv6 && total == ipv6Len && wire > ethernetMTU {
		return wire > ethernetMTU // the length is left to the card: see offloaded
	}
	// An incomplete packet is accepted only if it has a checksum, which has been
	// verified.
	return total >= hdr && wire-total <= extra && (total <= wire || proto == etherIPv4)
}

// checksumOK verifies the checksum of an IPv4 header (RFC 1071).
func checksumOK(b []byte) bool {
	sum := uint32(0)
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return sum>>16+sum&0xffff == 0xffff
}

// pppoe removes a PPPoE session header (RFC 2516) and the PPP protocol, which may be
// compressed to one byte (RFC 1661, section 6.5).
func pppoe(b []byte) (n, next int) {
	if len(b) < pppoeLen+2 {
		return 0, 0
	}
	n, next = pppoeLen+2, int(binary.BigEndian.Uint16(b[pppoeLen:]))
	if b[pppoeLen]&1 != 0 {
		n, next = pppoeLen+1, int(b[pppoeLen])
	}
	switch next {
	case pppIPv4:
		return n, etherIPv4
	case pppIPv6:
		return n, etherIPv6
	case pppMPLS:
		return n, etherMPLS
	}
	return n, pppOther
}

// llc removes an LLC header (IEEE 802.2) with a SNAP header (RFC 1042) that contains an
// EtherType or announces a bridged Ethernet frame (RFC 2684, section 5.2). For anything
// else, n is 0.
func llc(b []byte) (n, next int) {
	if len(b) >= llcLen && [llcLen]byte(b) == [llcLen]byte{0x06, 0x06, 0x03} {
		return llcLen, etherIPv4 // the SAP assigned to IP
	}
	if len(b) < snapLen || [llcLen]byte(b) != [llcLen]byte{0xaa, 0xaa, 0x03} {
		return 0, 0
	}
	next = int(binary.BigEndian.Uint16(b[6:]))
	switch [3]byte(b[3:]) {
	case [3]byte{}, [3]byte{0, 0, 0xf8}: // RFC 1042; IEEE 802.1H
		return snapLen, next
	case [3]byte{0, 0x80, 0xc2}:
		if next == 0x0001 || next == 0x0007 { // with or without a frame check sequence
			return snapLen, etherBridged
		}
	}
	return 0, 0
}

// rawIP is for frames without a link header or protocol field.
func (d *Decoder) rawIP(b []byte) (off, proto int, ok bool) {
	if len(b) == 0 {
		d.c.ShortLink++
		return 0, 0, false
	}
	switch b[0] >> 4 {
	case 4:
		return 0, etherIPv4, true
	case 6:
		return 0, etherIPv6, true
	}
	d.c.BadVersion++
	return 0, 0, false
}
