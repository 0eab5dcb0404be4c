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
	etherQinQOld        = 0x9100

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
	snapLen      = 8
	pppoeLen     = 6
)

// link finds the IP header: its offset in f.Data and whether it is IPv4's or
// IPv6's. What is neither is counted.
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
	default:
		return d.rawIP(b)
	}
	if proto == etherIPv4 || proto == etherIPv6 {
		return off, proto, true
	}
	return d.encapsulated(b, off, proto)
}

// encapsulated looks through what may stand between a link header and an IP
// header, however often; every step takes bytes, so it ends.
func (d *Decoder) encapsulated(b []byte, off, proto int) (int, int, bool) {
	for proto != etherIPv4 && proto != etherIPv6 {
		n, next := 0, 0
		switch proto {
		case etherVLAN, etherQinQ, etherQinQOld:
			if len(b)-off >= vlanLen {
				n, next = vlanLen, int(binary.BigEndian.Uint16(b[off+2:]))
			}
		case etherMPLS, etherMPLSMulticast:
			n, next = mpls(b[off:])
		case etherPPPoE:
			n, next = pppoe(b[off:])
		default:
			if proto < etherMin && isSNAP(b[off:]) {
				n, next = snapLen, int(binary.BigEndian.Uint16(b[off+6:]))
				break
			}
			d.c.notIP(proto)
			return 0, 0, false
		}
		if n == 0 {
			d.c.ShortLink++
			return 0, 0, false
		}
		off, proto = off+n, next
		if proto < 0 {
			d.c.notIP(proto)
			return 0, 0, false
		}
	}
	return off, proto, true
}

// What mpls and pppoe return for a payload that is no IP packet.
const (
	mplsOther = -1
	pppOther  = -2
)

// mpls takes one entry off a label stack (RFC 3032). Below the last one is
// what the label's owner put there; an IP header shows by its version.
func mpls(b []byte) (n, next int) {
	if len(b) < mplsLen {
		return 0, 0
	}
	if b[2]&1 == 0 { // not the bottom of the stack
		return mplsLen, etherMPLS
	}
	if len(b) == mplsLen {
		return 0, 0
	}
	switch b[mplsLen] >> 4 {
	case 4:
		return mplsLen, etherIPv4
	case 6:
		return mplsLen, etherIPv6
	}
	return mplsLen, mplsOther
}

// pppoe takes a PPPoE session header (RFC 2516) and the PPP protocol off, which
// may be compressed to one byte (RFC 1661, section 6.5).
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

// isSNAP tells whether an LLC frame carries an EtherType (RFC 1042).
func isSNAP(b []byte) bool {
	return len(b) >= snapLen && [6]byte(b) == [6]byte{0xaa, 0xaa, 0x03}
}

// rawIP is for frames without link header and type.
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
