package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Offsets in a frame of Ethernet, IPv4 without options, and UDP.
const (
	plainIP      = ethernetLen
	plainUDP     = plainIP + ipv4Len
	plainPayload = plainUDP + udpLen
)

// plain decodes the most common frame, a whole UDP datagram over IPv4 and Ethernet,
// with the same result as frame but in half the time. For anything else it does nothing
// and reports false; the caller then calls frame.
func (d *Decoder) plain(f *packet.Frame, r *wire.Record) bool {
	b := f.Data
	if len(b) < plainPayload || f.Link != packet.Ethernet || f.GSOType != packet.GSONone {
		return false
	}
	// The EtherType, IP's version and header length, and its type of service.
	if binary.BigEndian.Uint32(b[ethernetType:])>>8 != etherIPv4<<8|0x45 || b[plainIP+9] != wire.ProtoUDP ||
		binary.BigEndian.Uint16(b[plainIP+6:])&(moreFragments|fragmentOffset) != 0 {
		return false
	}
	total := int(binary.BigEndian.Uint16(b[plainIP+2:]))
	size := int(binary.BigEndian.Uint16(b[plainUDP+4:])) - udpLen
	if size < 0 || size > total-ipv4Len-udpLen {
		return false
	}
	ports := binary.BigEndian.Uint32(b[plainUDP:])
	if d.inside && mayBeTunnel(uint16(ports)) {
		return false
	}
	setDatagram(r, f.Time, binary.LittleEndian.Uint64(b[plainIP+12:]), ports, total, b[plainIP+8])
	if !d.cfg.NoDigest {
		r.Digest = plainDigest(b, total)
	}
	var h mgen.Header
	reason := mgen.UDP(&h, b[plainPayload:min(len(b), plainIP+total)], size, &r.Dst, r.DstPort)
	d.c.MGEN[reason]++
	if reason == mgen.Accepted {
		d.mgen(r, &h)
	}
	d.direction(f, r)
	return true
}

// DecodeParsed writes the records of frames that the capture has parsed to the beginning of dst,
// one for each. Adding offset to their times gives UTC.
func (d *Decoder) DecodeParsed(frames []packet.Parsed, offset int64, dst []wire.Record) {
	dst = dst[:len(frames)]
	l := &d.local
	for i := range frames {
		p, r := &frames[i], &dst[i]
		setDatagram(r, p.Time+offset, binary.LittleEndian.Uint64(p.Addrs[:]), binary.BigEndian.Uint32(p.Ports[:]), int(p.Length), p.TTL)
		mine := p.Flags&packet.ParsedOutgoing != 0
		r.Flags = wire.Incoming
		if mine {
			r.Flags = wire.Outgoing
		}
		if l.hasMAC {
			mine = p.Source == l.mac
		}
		if mine {
			d.relayed(r)
		}
		d.c.MGEN[p.Reason%uint8(mgen.Reasons)]++
	}
	d.c.Frames += uint64(len(frames))
	d.c.Records += uint64(len(frames))
}

// setDatagram makes r the record of a UDP datagram over IPv4 that is not known to be MGEN's. The
// addresses are as in the packet.
func setDatagram(r *wire.Record, at int64, addrs uint64, ports uint32, total int, ttl uint8) {
	r.Time = at
	r.MGENTime = 0
	binary.LittleEndian.PutUint64(r.Src[:], 0)
	binary.LittleEndian.PutUint64(r.Src[8:], 0xffff0000|addrs<<32)
	binary.LittleEndian.PutUint64(r.Dst[:], 0)
	binary.LittleEndian.PutUint64(r.Dst[8:], 0xffff0000|addrs&^0xffffffff)
	r.SrcPort, r.DstPort = uint16(ports>>16), uint16(ports)
	r.Length = uint32(total)
	r.FlowID = 0
	r.MGENSeq = 0
	r.Packets = 0
	r.Flags = 0
	r.Proto = wire.ProtoUDP
	r.TTL = ttl
	r.Digest = 0
	r.Reason = 0
}
