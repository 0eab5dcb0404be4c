package match

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

var (
	macMine  = net.HardwareAddr{0x02, 0x00, 0x00, 0x00, 0x00, 0x0a}
	macPeer  = net.HardwareAddr{0x02, 0x00, 0x00, 0x00, 0x00, 0x0b}
	macNear  = net.HardwareAddr{0x03, 0x00, 0x00, 0x00, 0x00, 0x0a} // differs from mine in the first byte
	macThird = net.HardwareAddr{0x02, 0x00, 0x00, 0x00, 0x01, 0x0c}

	ipMine  = netip.MustParseAddr("10.0.0.1")
	ipMine2 = netip.MustParseAddr("192.168.7.9")
	ipPeer  = netip.MustParseAddr("10.0.0.2")
	ip6Mine = netip.MustParseAddr("2001:db8::1")
	ip6Peer = netip.MustParseAddr("2001:db8::2")

	addrsMine = []netip.Addr{ipMine, ipMine2, ip6Mine}
)

// udp is a UDP datagram with the given ports.
func udp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// ip is an IP packet of UDP port 5000 to 5001 between two addresses.
func ip(src, dst netip.Addr, payload string) []byte {
	body := udp(5000, 5001, []byte(payload))
	if src.Is4() {
		b := []byte{0x45, 0, 0, byte(20 + len(body)), 0, 0, 0, 0, 64, 17, 0, 0}
		return slices.Concat(b, src.AsSlice(), dst.AsSlice(), body)
	}
	b := []byte{0x60, 0, 0, 0, 0, byte(len(body)), 17, 64}
	return slices.Concat(b, src.AsSlice(), dst.AsSlice(), body)
}

// tag is one VLAN tag.
type tag struct{ proto, id uint16 }

// ether is an Ethernet frame with any number of tags.
func ether(src, dst net.HardwareAddr, proto uint16, payload []byte, tags ...tag) []byte {
	b := slices.Concat(dst, src)
	for _, t := range tags {
		b = binary.BigEndian.AppendUint16(b, t.proto)
		b = binary.BigEndian.AppendUint16(b, t.id)
	}
	b = binary.BigEndian.AppendUint16(b, proto)
	return append(b, payload...)
}

func ipProto(a netip.Addr) uint16 {
	if a.Is4() {
		return etherIPv4
	}
	return etherIPv6
}

// etherIP is an Ethernet frame with an IP packet in it.
func etherIP(srcMAC net.HardwareAddr, src, dst netip.Addr, tags ...tag) []byte {
	return ether(srcMAC, macPeer, ipProto(src), ip(src, dst, "payload"), tags...)
}

func ethernetFrame(data []byte, d packet.Direction) *packet.Frame {
	return &packet.Frame{Data: data, WireLen: len(data), Link: packet.Ethernet, Direction: d}
}

func networkFrame(proto uint16, data []byte, d packet.Direction) *packet.Frame {
	return &packet.Frame{Data: data, WireLen: len(data), Link: packet.Network, Protocol: proto, Direction: d}
}
