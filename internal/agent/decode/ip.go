package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// ipPacket is the packet that a record describes.
type ipPacket struct {
	frame *packet.Frame
	data  []byte // captured bytes from the IP header on, limited to the IP length once that is known
	wire  int    // bytes of the frame on the wire, from the IP header on
	total int    // length in the IP header, or wire if the header does not contain it
	l4    int    // offset of the upper-layer header
	jumbo int    // bytes of headers that are not sent on the wire (BIG TCP)
	inner bool   // found inside BMF encapsulation

	nested int // number of tunnels around it (Config.Inner)
}

const (
	ipv4Len = 20
	ipv6Len = 40

	// maxTotal is the maximum value of the IPv4 length field.
	maxTotal = 0xffff

	// ethernetMTU is the maximum size of an IP packet on most networks.
	ethernetMTU = 1500

	moreFragments  = 0x2000
	fragmentOffset = 0x1fff
)

// packet decodes a packet of this EtherType.
func (d *Decoder) packet(p *ipPacket, proto int, r *wire.Record) bool {
	if proto == etherIPv4 {
		return d.ipv4(p, r)
	}
	return d.ipv6(p, r)
}

// ipv4 decodes an IPv4 packet (RFC 791).
func (d *Decoder) ipv4(p *ipPacket, r *wire.Record) bool {
	b := p.data
	if len(b) < ipv4Len {
		d.c.ShortIP++
		return false
	}
	ihl := int(b[0]&0x0f) * 4
	if b[0]>>4 != 4 {
		d.c.BadVersion++
		return false
	}
	if ihl < ipv4Len {
		d.c.BadIHL++
		return false
	}
	r.Flags = 0
	r.TTL = b[8]
	r.Proto = b[9]
	binary.LittleEndian.PutUint64(r.Src[:], 0)
	binary.LittleEndian.PutUint64(r.Src[8:], 0xffff0000|uint64(binary.LittleEndian.Uint32(b[12:]))<<32)
	binary.LittleEndian.PutUint64(r.Dst[:], 0)
	binary.LittleEndian.PutUint64(r.Dst[8:], 0xffff0000|uint64(binary.LittleEndian.Uint32(b[16:]))<<32)
	p.total = int(binary.BigEndian.Uint16(b[2:]))
	if p.total < ihl && !d.unsaid4(p, r, ihl) {
		d.c.BadLength++
		return false
	}
	r.Length = uint32(p.total)
	if len(b) > p.total {
		p.data = b[:p.total]
	}
	p.l4 = ihl
	if frag := binary.BigEndian.Uint16(b[6:]); frag&(moreFragments|fragmentOffset) != 0 {
		id := uint32(binary.BigEndian.Uint16(b[4:]))
		return d.fragment(p, r, id, int(frag&fragmentOffset)*8, frag&moreFragments != 0)
	}
	if d.cfg.BMF {
		if q, ok := bmf(p, r); ok {
			d.c.BMF++
			return d.ipv4(&q, r)
		}
	}
	if d.cfg.Inner {
		if q, proto, ok := d.inner(p, r); ok {
			return d.packet(&q, proto, r)
		}
	}
	d.upper(p, r)
	return true
}

// offloaded reports whether a length of 0 can belong to a packet too long for 16 bits
// (BIG TCP), or to one that the card will segment (some drivers leave the field to the
// card). Such a packet is not sent on the wire as it is: either the kernel said so, or
// it is too long for that.
func (p *ipPacket) offloaded() bool {
	return p.frame.GSOType != packet.GSONone || p.wire > ethernetMTU
}

// unsaid4 reports whether a length of 0 in an IPv4 header is due to an offload, and if
// so uses the frame's length instead.
func (d *Decoder) unsaid4(p *ipPacket, r *wire.Record, ihl int) bool {
	if p.total != 0 || p.wire < ihl || !p.offloaded() {
		return false
	}
	p.total = p.wire
	r.Flags |= wire.Super
	return true
}

// ipv6 decodes an IPv6 packet (RFC 8200).
func (d *Decoder) ipv6(p *ipPacket, r *wire.Record) bool {
	b := p.data
	if len(b) < ipv6Len {
		d.c.ShortIP++
		return false
	}
	if b[0]>>4 != 6 {
		d.c.BadVersion++
		return false
	}
	r.Flags = wire.IPv6
	r.TTL = b[7]
	r.Src = [16]byte(b[8:])
	r.Dst = [16]byte(b[24:])
	p.total = ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
	next := b[6]
	if p.total == ipv6Len {
		unsaid6(p, r, next)
	}
	r.Length = uint32(p.total)
	if len(b) > p.total {
		p.data = b[:p.total]
	}
	p.l4 = ipv6Len
	switch next {
	case wire.ProtoTCP, wire.ProtoUDP, wire.ProtoICMP:
		if next == wire.ProtoUDP && d.cfg.Inner {
			break
		}
		r.Proto = next
		d.upper(p, r)
		return true
	}
	return d.extensions(p, r, next)
}

// unsaid6 determines the length of a packet whose payload length field is 0. It is the
// frame's if there is a jumbo payload option (RFC 2675), which BIG TCP uses inside the
// host only, or if the packet is offloaded. Otherwise the packet has no payload.
func unsaid6(p *ipPacket, r *wire.Record, next byte) {
	if next == extHopByHop {
		p.jumbo = jumboOption(p.data[ipv6Len:])
	}
	if p.jumbo == 0 && !p.offloaded() {
		return
	}
	p.total = p.wire
	r.Flags |= wire.Super
}
