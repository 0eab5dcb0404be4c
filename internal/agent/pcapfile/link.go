package pcapfile

import (
	"encoding/binary"
	"math/bits"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Link types (https://www.tcpdump.org/linktypes.html). 12 and 14 are the numbers for
// raw IP that some systems wrote to files before there were separate link types for
// files.
const (
	linkNull     = 0
	linkEthernet = 1
	linkPPP      = 9
	linkRaw12    = 12
	linkRaw14    = 14
	linkPPPHDLC  = 50
	linkPPPoE    = 51
	linkATM      = 100 // RFC 1483: an LLC header
	linkRaw      = 101
	linkCHDLC    = 104
	link80211    = 105
	linkLoop     = 108
	linkSLL      = 113
	linkPrism    = 119
	linkRadiotap = 127
	linkAVS      = 163
	linkPPPWay   = 166 // a byte for the direction, then PPP
	linkPPI      = 192
	linkMPLS     = 219
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
	etherPPPoE         = 0x8864

	// etherLLC is Linux's own number for frames that begin with an LLC header.
	etherLLC = 0x0004
)

// Lengths of link headers.
const (
	sllLen  = 16
	sll2Len = 20
	nullLen = 4
)

// unwrap converts a frame as it is in the file to one that begins with the header that
// Link names. It reports false if the link type is unknown or the frame ends inside its
// link header.
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
	case linkPPP, linkPPPHDLC, linkCHDLC:
		return unwrapSerial(f, link == linkCHDLC)
	case linkPPPWay:
		return unwrapPPPWay(f)
	case linkPPPoE:
		return network(f, 0, etherPPPoE)
	case linkMPLS:
		return network(f, 0, etherMPLS)
	case linkATM:
		return network(f, 0, etherLLC)
	case link80211:
		f.Link = packet.IEEE80211
		return true
	case linkRadiotap:
		f.Link = packet.Radiotap
		return true
	case linkPrism, linkAVS:
		return unwrapPrism(f)
	case linkPPI:
		return unwrapPPI(f)
	}
	return false
}

// known reports whether unwrap supports a link type; if it does, a frame of that type
// that it refuses is too short.
func known(link uint16) bool {
	switch link {
	case linkPrism, linkAVS, linkPPI: // zeros are not such a header
		return true
	}
	return unwrap(link, &packet.Frame{Data: make([]byte, 64), WireLen: 64})
}

// network removes n bytes of link header.
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
	return cooked(f, sllLen, binary.BigEndian.Uint16(f.Data[2:]), binary.BigEndian.Uint16(f.Data[14:]))
}

// unwrapSLL2: protocol (2), reserved (2), interface index (4), ARPHRD (2),
// packet type (1), address length (1), address (8), all big-endian.
func unwrapSLL2(f *packet.Frame) bool {
	if len(f.Data) < sll2Len {
		return false
	}
	f.Direction = packetType(uint16(f.Data[10]))
	return cooked(f, sll2Len, binary.BigEndian.Uint16(f.Data[8:]), binary.BigEndian.Uint16(f.Data))
}

// Device types (linux/if_arp.h) whose frames have a link header in spite of the cooked
// one, or whose cooked header has no protocol.
const (
	arphrd80211    = 801
	arphrdRadiotap = 803
	arphrdNetlink  = 824
)

// cooked removes a cooked header of n bytes.
func cooked(f *packet.Frame, n int, device, protocol uint16) bool {
	if device == arphrdNetlink {
		protocol = 0 // the field is a netlink family
	}
	network(f, n, protocol)
	switch device {
	case arphrd80211:
		f.Link, f.Protocol = packet.IEEE80211, 0
	case arphrdRadiotap:
		f.Link, f.Protocol = packet.Radiotap, 0
	}
	return true
}

// unwrapPrism removes the header written by drivers for Prism cards, whose second word
// is its length in the writer's byte order, or the AVS header, which begins with a
// cookie and has its length in network byte order.
func unwrapPrism(f *packet.Frame) bool {
	const least, most = 8, 1024
	if len(f.Data) < least {
		return false
	}
	n := binary.BigEndian.Uint32(f.Data[4:])
	if cookie := binary.BigEndian.Uint32(f.Data); cookie&^0xff != 0x80211000 && n > most {
		n = bits.ReverseBytes32(n)
	}
	if n < least || n > most || int(n) > len(f.Data) {
		return false
	}
	network(f, int(n), 0)
	f.Link = packet.IEEE80211
	return true
}

// unwrapPPI: version (1), flags (1), length (2) and link type (4) of what
// follows, little-endian (CACE Technologies, "Per-Packet Information Header").
func unwrapPPI(f *packet.Frame) bool {
	const least = 8
	if len(f.Data) < least {
		return false
	}
	n, link := int(binary.LittleEndian.Uint16(f.Data[2:])), binary.LittleEndian.Uint32(f.Data[4:])
	if n < least || n > len(f.Data) || link > 0xffff || link == linkPPI {
		return false
	}
	network(f, n, 0)
	f.Link = packet.Ethernet
	return unwrap(uint16(link), f)
}

// packetType returns the direction encoded in sll_pkttype (packet(7)): 0 to 3 are
// packets received by the interface, whomever they were for; 4 are packets that it
// sent.
func packetType(t uint16) packet.Direction {
	switch {
	case t < 4:
		return packet.Incoming
	case t == 4:
		return packet.Outgoing
	}
	return packet.Unknown
}

// unwrapNull: the protocol family as numbered by the writer's system, in the writer's
// byte order (NULL) or network byte order (LOOP). The byte order follows from the
// value, because no family exceeds 16 bits.
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

// Addresses of Cisco HDLC: unicast and broadcast.
const (
	hdlcUnicast   = 0x0f
	hdlcBroadcast = 0x8f
	hdlcLen       = 4
)

// unwrapSerial: PPP, or Cisco HDLC, whose header is an address, a zero byte, and an
// EtherType. Link types assigned to one are used for both; the first two bytes
// distinguish them (RFC 1547, section 4.3.1).
func unwrapSerial(f *packet.Frame, cisco bool) bool {
	b := f.Data
	if cisco && (len(b) < 1 || b[0] != 0xff) || len(b) >= 2 && (b[0] == hdlcUnicast || b[0] == hdlcBroadcast) && b[1] == 0 {
		if len(b) < hdlcLen {
			return false
		}
		return network(f, hdlcLen, binary.BigEndian.Uint16(b[2:]))
	}
	return unwrapPPP(f)
}

// unwrapPPPWay: 0 for a received frame, any other number for a sent one, then PPP.
func unwrapPPPWay(f *packet.Frame) bool {
	if len(f.Data) < 1 {
		return false
	}
	f.Direction = packet.Incoming
	if f.Data[0] != 0 {
		f.Direction = packet.Outgoing
	}
	network(f, 1, 0)
	return unwrapPPP(f)
}

// unwrapPPP: address and control (ff 03) unless they were compressed away, then a
// protocol of two bytes, or one if that is odd (RFC 1661, section 2; RFC 1662, section
// 3.1).
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

// pppProtocol returns the EtherType for a PPP protocol (IANA, PPP numbers), or PPP's
// own EtherType for protocols without IP packets.
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
