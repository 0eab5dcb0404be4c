package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/wire"
)

// IP protocols and UDP ports of tunnels that only Config.Inner looks into; tunnel.go
// has the others.
const (
	protoEtherIP  = 97  // RFC 3378
	protoL2TP     = 115 // RFC 3931
	protoMPLSInIP = 137 // RFC 4023

	portMPLS = 6635 // RFC 7510

	etherERSPAN2 = 0x88be
	etherERSPAN3 = 0x22eb

	etherIPLen  = 2
	l2tpLen     = 4 // session identifier
	erspan2Len  = 8
	erspan3Len  = 12
	erspan3Plus = 8 // the optional subheader
)

// inner returns the packet inside p, a whole packet whose upper-layer header is at
// p.l4, if p is a tunnel packet. The inner packet must be an IP packet whose length
// agrees with that of p, and whose checksum is correct if it has one; a port alone is
// not enough.
func (d *Decoder) inner(p *ipPacket, r *wire.Record) (q ipPacket, proto int, ok bool) {
	if p.nested == maxNested || p.l4 > len(p.data) {
		return q, 0, false
	}
	var off int
	switch b := p.data[p.l4:]; r.Proto {
	case protoIPv4:
		proto = etherIPv4
	case protoIPv6:
		proto = etherIPv6
	case protoGRE:
		off, proto = innerGRE(b)
	case wire.ProtoUDP:
		off, proto = innerUDP(b)
	case protoMPLSInIP:
		proto = etherMPLS
	case protoEtherIP:
		if len(b) >= etherIPLen && b[0]>>4 == 3 {
			off, proto = etherIPLen, etherBridged
		}
	case protoL2TP:
		off, proto = innerL2TP(b, p.total-p.l4)
	}
	if proto == 0 || p.l4+off > len(p.data) {
		return q, 0, false
	}
	off, proto = through(p.data, p.total, p.l4+off, proto)
	if proto != etherIPv4 && proto != etherIPv6 || !isIP(p.data[off:], p.total-off, proto, padded) {
		return q, 0, false
	}
	q.frame = p.frame
	q.data = p.data[off:]
	q.wire = p.total - off
	q.nested = p.nested + 1
	if p.nested == 0 {
		d.c.Inner++
	}
	return q, proto, true
}

// innerGRE returns the length of a GRE header, and what follows as an EtherType.
func innerGRE(b []byte) (n, ether int) {
	const routing, version = 0x40, 0x07
	n, ether = gre(b)
	if len(b) < n || n == 0 || b[0]&routing != 0 || b[1]&version != 0 {
		return 0, 0
	}
	switch rest := b[n:]; {
	case ether == etherERSPAN2 && n == greLen: // ERSPAN type I has no header
		return n, etherBridged
	case ether == etherERSPAN2 && len(rest) >= erspan2Len && rest[0]>>4 == 1:
		return n + erspan2Len, etherBridged
	case ether == etherERSPAN3 && len(rest) >= erspan3Len && rest[0]>>4 == 2:
		if n += erspan3Len; rest[erspan3Len-1]&1 != 0 {
			n += erspan3Plus
		}
		return n, etherBridged
	}
	return n, ether
}

// innerUDP does the same for a UDP header, by destination port.
func innerUDP(b []byte) (n, ether int) {
	if len(b) >= udpLen && binary.BigEndian.Uint16(b[2:]) == portMPLS {
		return udpLen, etherMPLS
	}
	return udpTunnel(b)
}

// innerL2TP looks for the Ethernet frame after an L2TPv3 header over IP. Only the ends
// of the tunnel know whether there is a cookie of 4 or 8 bytes and a sublayer of 4 (RFC
// 3931, section 4.1), so it tries each offset until there is a frame.
func innerL2TP(b []byte, wire int) (n, ether int) {
	if len(b) < l2tpLen || binary.BigEndian.Uint32(b) == 0 { // 0: a control message
		return 0, 0
	}
	for n = l2tpLen; n <= l2tpLen+12; n += 4 {
		if isFrame(b, wire, n) {
			return n, etherBridged
		}
	}
	return 0, 0
}

// mayBeTunnel reports whether the decoder may look inside datagrams to this UDP port.
func mayBeTunnel(port uint16) bool {
	switch port {
	case bmfPort, portVXLAN, portVXLANLinux, portGeneve, portMPLS:
		return true
	}
	return false
}
