package nettest

import (
	"encoding/binary"
	"net/netip"
)

// Tag is a VLAN tag in a frame.
type Tag struct {
	TPID uint16 // 0 means 0x8100
	TCI  uint16 // priority (3 bits), DEI, VLAN identifier (12)
}

// Protocol numbers and EtherTypes of what Frame builds.
const (
	protoTCP   = 6
	protoUDP   = 17
	typeIPv4   = 0x0800
	typeIPv6   = 0x86dd
	typeVLAN   = 0x8100
	minIPv4Hdr = 20
	ipv6Hdr    = 40
	udpHdr     = 8
	tcpHdr     = 20
	ethHdr     = 14
	defaultTTL = 64
)

// MinEthernet is the shortest Ethernet frame, without its checksum. A frame of
// 64 bytes on the wire is one of 60 here.
const MinEthernet = 60

// Frame describes a packet; Ethernet and IP build it. Lengths and checksums are
// right whatever the fields say. Zero values stand for the usual: UDP, TTL 64.
type Frame struct {
	SrcMAC, DstMAC MAC
	Tags           []Tag // outermost first

	// Src and Dst decide between IPv4 and IPv6.
	Src, Dst netip.AddrPort
	// Options of the IPv4 header, filled up with zeros to 32-bit words.
	Options []byte
	// Extension is what stands between IPv6 header and upper-layer protocol,
	// beginning with a header of type NextHeader; its last next-header field is
	// the caller's.
	Extension  []byte
	NextHeader uint8
	TTL        uint8
	TOS        uint8
	ID         uint16

	// Proto is 17 (UDP), 6 (TCP), or any other, and then Payload follows the IP
	// header at once.
	Proto    uint8
	Seq, Ack uint32 // of TCP
	TCPFlags uint8
	Payload  []byte
}

// Between is a UDP frame from one host to another, over IPv4.
func Between(from, to *Host, srcPort, dstPort uint16, payload []byte) Frame {
	return Frame{
		SrcMAC:  from.Interface.MAC,
		DstMAC:  to.Interface.MAC,
		Src:     netip.AddrPortFrom(from.Interface.IPv4, srcPort),
		Dst:     netip.AddrPortFrom(to.Interface.IPv4, dstPort),
		Payload: payload,
	}
}

// Ethernet is the frame from its Ethernet header on. It is not padded: a frame
// on a veth may be shorter than MinEthernet.
func (f *Frame) Ethernet() []byte {
	b := append([]byte(nil), f.DstMAC[:]...)
	b = append(b, f.SrcMAC[:]...)
	for _, tag := range f.Tags {
		tpid := tag.TPID
		if tpid == 0 {
			tpid = typeVLAN
		}
		b = binary.BigEndian.AppendUint16(b, tpid)
		b = binary.BigEndian.AppendUint16(b, tag.TCI)
	}
	b = binary.BigEndian.AppendUint16(b, f.EtherType())
	return append(b, f.IP()...)
}

// EtherType of the IP version.
func (f *Frame) EtherType() uint16 {
	if f.v6() {
		return typeIPv6
	}
	return typeIPv4
}

func (f *Frame) v6() bool { return f.Dst.Addr().Is6() && !f.Dst.Addr().Is4In6() }

// IP is the frame from its IP header on.
func (f *Frame) IP() []byte {
	upper := f.upper()
	if f.v6() {
		return append(f.ipv6Header(len(upper)), upper...)
	}
	return append(f.ipv4Header(len(upper)), upper...)
}

func (f *Frame) proto() uint8 { return or(f.Proto, protoUDP) }

// ipv4Header see RFC 791, 3.1.
func (f *Frame) ipv4Header(upperLen int) []byte {
	hdrLen := minIPv4Hdr + (len(f.Options)+3)/4*4
	b := make([]byte, hdrLen, hdrLen+upperLen)
	b[0] = 0x40 | byte(hdrLen/4)
	b[1] = f.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(hdrLen+upperLen))
	binary.BigEndian.PutUint16(b[4:], f.ID)
	b[8] = or(f.TTL, defaultTTL)
	b[9] = f.proto()
	copy(b[12:16], f.Src.Addr().Unmap().AsSlice())
	copy(b[16:20], f.Dst.Addr().Unmap().AsSlice())
	copy(b[minIPv4Hdr:], f.Options)
	binary.BigEndian.PutUint16(b[10:], Checksum(b))
	return b
}

// ipv6Header see RFC 8200, 3.
func (f *Frame) ipv6Header(upperLen int) []byte {
	b := make([]byte, ipv6Hdr, ipv6Hdr+len(f.Extension)+upperLen)
	b[0] = 0x60 | f.TOS>>4
	b[1] = f.TOS << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(f.Extension)+upperLen))
	b[6] = f.proto()
	if len(f.Extension) > 0 {
		b[6] = f.NextHeader
	}
	b[7] = or(f.TTL, defaultTTL)
	copy(b[8:24], f.Src.Addr().AsSlice())
	copy(b[24:40], f.Dst.Addr().AsSlice())
	return append(b, f.Extension...)
}

func (f *Frame) upper() []byte {
	switch f.proto() {
	case protoUDP:
		return f.udp()
	case protoTCP:
		return f.tcp()
	}
	return f.Payload
}

// udp see RFC 768: a checksum of 0 is sent as 0xffff.
func (f *Frame) udp() []byte {
	b := make([]byte, udpHdr, udpHdr+len(f.Payload))
	f.putPorts(b)
	b = append(b, f.Payload...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], or(f.checksum(b), 0xffff))
	return b
}

// tcp see RFC 9293, 3.1; a header without options.
func (f *Frame) tcp() []byte {
	b := make([]byte, tcpHdr, tcpHdr+len(f.Payload))
	f.putPorts(b)
	binary.BigEndian.PutUint32(b[4:], f.Seq)
	binary.BigEndian.PutUint32(b[8:], f.Ack)
	b[12] = tcpHdr / 4 << 4
	b[13] = f.TCPFlags
	binary.BigEndian.PutUint16(b[14:], 0xffff) // window
	b = append(b, f.Payload...)
	binary.BigEndian.PutUint16(b[16:], f.checksum(b))
	return b
}

func (f *Frame) putPorts(b []byte) {
	binary.BigEndian.PutUint16(b[0:], f.Src.Port())
	binary.BigEndian.PutUint16(b[2:], f.Dst.Port())
}

// checksum over upper and the pseudo-header (RFC 768; RFC 8200, 8.1). The sum
// does not care that IPv6's pseudo-header has its fields in another order and
// with more zeros.
func (f *Frame) checksum(upper []byte) uint16 {
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if !f.v6() {
		src, dst = src.Unmap(), dst.Unmap()
	}
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(upper)))
	b = binary.BigEndian.AppendUint32(b, uint32(f.proto()))
	return Checksum(append(b, upper...))
}

// Checksum is the Internet checksum (RFC 1071) of b, whose own checksum field
// is zero.
func Checksum(b []byte) uint16 {
	var sum uint64
	for ; len(b) >= 2; b = b[2:] {
		sum += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint64(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// or is v, or what stands for its zero.
func or[T uint8 | uint16](v, otherwise T) T {
	if v == 0 {
		return otherwise
	}
	return v
}

// Pad fills an Ethernet frame up to n bytes, e.g. MinEthernet.
func Pad(frame []byte, n int) []byte {
	if len(frame) >= n {
		return frame
	}
	return append(frame, make([]byte, n-len(frame))...)
}
