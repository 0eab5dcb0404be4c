package pcapfile

import (
	"encoding/binary"
	"math/bits"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Link types (https://www.tcpdump.org/linktypes.html). 12 and 14 are what some
// systems' own number for raw IP was, before files had numbers of their own.
const (
	linkNull     = 0
	linkEthernet = 1
	linkPPP      = 9
	linkRaw12    = 12
	linkRaw14    = 14
	linkPPPHDLC  = 50
	linkRaw      = 101
	linkLoop     = 108
	linkSLL      = 113
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

// EtherTypes (IANA, IEEE 802 numbers).
const (
	etherIPv4          = 0x0800
	etherIPv6          = 0x86dd
	etherMPLS          = 0x8847
	etherMPLSMulticast = 0x8848
	etherPPP           = 0x880b
)

// Lengths of link headers.
const (
	sllLen  = 16
	sll2Len = 20
	nullLen = 4
)

// unwrap makes of a frame as it is in the file one that begins as its Link
// says. It reports false if the link type is none of ours or the frame ends
// inside its link header: then nothing can be said about it.
func unwrap(link uint16, f *packet.Frame) bool {
	switch link {
	case linkEthernet:
		return true
	case linkSLL:
		return unwrapSLL(f)
	case linkSLL2:
		return unwrapSLL2(f)
	case linkRaw, linkRaw12, linkRaw14:
		f.Link = packet.RawIP
		return true
	case linkIPv4:
		return network(f, 0, etherIPv4)
	case linkIPv6:
		return network(f, 0, etherIPv6)
	case linkNull, linkLoop:
		return unwrapNull(f)
	case linkPPP, linkPPPHDLC:
		return unwrapPPP(f)
	}
	return false
}

// network takes n bytes of link header off.
func network(f *packet.Frame, n int, protocol uint16) bool {
	f.Link, f.Protocol = packet.Network, protocol
	f.Data = f.Data[n:]
	f.WireLen -= n
	return true
}

// unwrapSLL: packet type (2), ARPHRD (2), address length (2), address (8),
// protocol (2), all big-endian.
func unwrapSLL(f *packet.Frame) bool {
	if len(f.Data) < sllLen {
		return false
	}
	f.Direction = packetType(binary.BigEndian.Uint16(f.Data))
	return network(f, sllLen, binary.BigEndian.Uint16(f.Data[14:]))
}

// unwrapSLL2: protocol (2), reserved (2), interface index (4), ARPHRD (2),
// packet type (1), address length (1), address (8), all big-endian.
func unwrapSLL2(f *packet.Frame) bool {
	if len(f.Data) < sll2Len {
		return false
	}
	f.Direction = packetType(uint16(f.Data[10]))
	return network(f, sll2Len, binary.BigEndian.Uint16(f.Data))
}

// packetType is the direction that sll_pkttype (packet(7)) tells: 0 to 3 are
// what the interface received, for whomever it was; 4 is what it sent.
func packetType(t uint16) packet.Direction {
	switch {
	case t < 4:
		return packet.Incoming
	case t == 4:
		return packet.Outgoing
	}
	return packet.Unknown
}

// unwrapNull: the protocol family as the writer's system numbers it, in the
// writer's byte order (NULL) or in network byte order (LOOP). The order is seen
// from the value: no family is above 16 bits.
func unwrapNull(f *packet.Frame) bool {
	if len(f.Data) < nullLen {
		return false
	}
	family := binary.BigEndian.Uint32(f.Data)
	if family > 0xffff {
		family = bits.ReverseBytes32(family)
	}
	protocol := uint16(0) // neither IP version
	switch family {
	case 2: // AF_INET everywhere
		protocol = etherIPv4
	case 10, 24, 28, 30: // AF_INET6: Linux; NetBSD and OpenBSD; FreeBSD; macOS
		protocol = etherIPv6
	}
	return network(f, nullLen, protocol)
}

// unwrapPPP: address and control (ff 03) if they were not compressed away, then
// a protocol of two bytes, or one if that is odd (RFC 1661, 2; RFC 1662, 3.1).
func unwrapPPP(f *packet.Frame) bool {
	b := f.Data
	if len(b) >= 2 && b[0] == 0xff && b[1] == 0x03 {
		b = b[2:]
	}
	switch {
	case len(b) >= 1 && b[0]&1 != 0:
		return network(f, len(f.Data)-len(b)+1, pppProtocol(uint16(b[0])))
	case len(b) >= 2:
		return network(f, len(f.Data)-len(b)+2, pppProtocol(binary.BigEndian.Uint16(b)))
	}
	return false
}

// pppProtocol is the EtherType for a PPP protocol (IANA, PPP numbers); all that
// carry no IP are PPP's own.
func pppProtocol(p uint16) uint16 {
	switch p {
	case 0x0021:
		return etherIPv4
	case 0x0057:
		return etherIPv6
	case 0x0281:
		return etherMPLS
	case 0x0283:
		return etherMPLSMulticast
	}
	return etherPPP
}
