package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Tunnels inside which Linux segments super-packets.
const (
	protoIPv4 = 4
	protoIPv6 = 41
	protoGRE  = 47

	portVXLAN      = 4789
	portVXLANLinux = 8472 // Linux's default, older than the assigned port
	portGeneve     = 6081

	vxlanLen  = 8
	geneveLen = 8
	greLen    = 4

	maxNested = 4 // maximum depth of tunnels inside tunnels
)

// tunnelHeaders returns the number of bytes of headers, from the beginning of b to the
// payload of the innermost TCP or UDP header, in each packet that a super-packet inside
// a tunnel is segmented into. off is the offset of the header of the outer proto. n is
// 0 if the tunnel is unknown or the headers were not fully captured. gone is the number
// of these bytes that are not sent on the wire (BIG TCP).
func tunnelHeaders(b []byte, off int, proto byte, gso uint8) (n, gone int) {
	for nested := 0; nested <= maxNested && off <= len(b); nested++ {
		ether := 0
		switch h := b[off:]; proto {
		case wire.ProtoTCP:
			if nested == 0 || len(h) < tcpLen || gso != packet.GSOTCPv4 && gso != packet.GSOTCPv6 {
				return 0, 0
			}
			return off + int(h[12]>>4)*4, gone
		case wire.ProtoUDP:
			n, inside := udpTunnel(h)
			if n == 0 {
				if nested == 0 || len(h) < udpLen || gso != packet.GSOUDPL4 {
					return 0, 0
				}
				return off + udpLen, gone
			}
			off, ether = off+n, inside
		case protoIPv4:
			ether = etherIPv4
		case protoIPv6:
			ether = etherIPv6
		case protoGRE:
			n, inside := gre(h)
			off, ether = off+n, inside
		}
		off, proto = innerIP(b, off, ether)
		if off+extMin <= len(b) && proto == extHopByHop {
			gone += jumboOption(b[off:])
		}
		off, proto = skipOptions(b, off, proto)
	}
	return 0, 0
}

// skipOptions skips IPv6 options at off, for which the preceding next header was proto.
func skipOptions(b []byte, off int, proto byte) (int, byte) {
	for (proto == extHopByHop || proto == extDestination) && off+extMin <= len(b) {
		off, proto = off+extMin*(int(b[off+1])+1), b[off]
	}
	return off, proto
}

// udpTunnel returns the length of the headers of a tunnel over UDP and what follows
// them; n is 0 if the destination port is not a tunnel's.
func udpTunnel(b []byte) (n, ether int) {
	if len(b) < udpLen+geneveLen {
		return 0, 0
	}
	switch binary.BigEndian.Uint16(b[2:]) {
	case portVXLAN, portVXLANLinux:
		return udpLen + vxlanLen, etherBridged
	case portGeneve:
		n = udpLen + geneveLen + int(b[udpLen]&0x3f)*4
		return n, int(binary.BigEndian.Uint16(b[udpLen+2:]))
	}
	return 0, 0
}

// gre returns the length of a GRE header (RFC 2784, RFC 2890) and the EtherType.
func gre(b []byte) (n, ether int) {
	if len(b) < greLen {
		return 0, 0
	}
	n = greLen
	for _, flag := range []byte{0x80, 0x20, 0x10} { // checksum, key, sequence number
		if b[0]&flag != 0 {
			n += 4
		}
	}
	return n, int(binary.BigEndian.Uint16(b[2:]))
}

// innerIP returns the offset of the upper-layer header of the packet at off; the offset
// is beyond b if there is none.
func innerIP(b []byte, off, ether int) (int, byte) {
	none := len(b) + 1
	if ether == etherBridged {
		if off+ethernetLen > len(b) {
			return none, 0
		}
		ether = int(binary.BigEndian.Uint16(b[off+ethernetType:]))
		off += ethernetLen
		if ether == etherVLAN && off+vlanLen <= len(b) {
			ether = int(binary.BigEndian.Uint16(b[off+2:]))
			off += vlanLen
		}
	}
	switch {
	case ether == etherIPv4 && off+ipv4Len <= len(b):
		return off + int(b[off]&0x0f)*4, b[off+9]
	case ether == etherIPv6 && off+ipv6Len <= len(b):
		return off + ipv6Len, b[off+6]
	}
	return none, 0
}
