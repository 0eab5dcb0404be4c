package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Lengths of the fixed part of upper-layer headers, in bytes.
const (
	portsLen = 4
	udpLen   = 8
	tcpLen   = 20
	sctpLen  = 12
	dccpLen  = 12
)

// upper decodes the upper-layer header at p.l4 of a whole packet or a first fragment.
func (d *Decoder) upper(p *ipPacket, r *wire.Record) {
	switch r.Proto {
	case wire.ProtoUDP:
		d.udp(p, r)
	case wire.ProtoTCP:
		d.tcp(p, r)
	case wire.ProtoUDPLite:
		d.ports(p, r, udpLen)
	case wire.ProtoSCTP:
		d.ports(p, r, sctpLen)
	case wire.ProtoDCCP:
		d.ports(p, r, dccpLen)
	}
	if p.frame.GSOType != packet.GSONone {
		d.plan(p, r)
	}
	d.digest(p, r)
}

// ports reads the ports at p.l4, where every protocol with ports has them, and reports
// whether all need bytes of the header are there.
func (d *Decoder) ports(p *ipPacket, r *wire.Record, need int) bool {
	if p.l4 > len(p.data) { // IPv4 options beyond the captured bytes
		d.truncated(r)
		return false
	}
	b := p.data[p.l4:]
	if len(b) >= portsLen {
		r.SrcPort = binary.BigEndian.Uint16(b)
		r.DstPort = binary.BigEndian.Uint16(b[2:])
	}
	if len(b) < need {
		d.truncated(r)
		return false
	}
	return true
}

// truncated marks a record with an incomplete header.
func (d *Decoder) truncated(r *wire.Record) {
	r.Flags |= wire.Truncated
	d.c.Truncated++
}

// udp decodes a UDP header (RFC 768) and looks for an MGEN message.
func (d *Decoder) udp(p *ipPacket, r *wire.Record) {
	if !d.ports(p, r, udpLen) {
		return
	}
	b := p.data[p.l4:]
	size := int(binary.BigEndian.Uint16(b[4:])) - udpLen
	if room := p.total - p.l4 - udpLen; size > room && r.Flags&wire.Fragment == 0 {
		d.c.MGEN[mgen.BadSize]++
		return
	}
	if p.frame.GSOType == packet.GSOUDPL4 {
		size = min(int(p.frame.GSOSize), p.total-p.l4-udpLen)
	}
	var h mgen.Header
	reason := mgen.UDP(&h, b[udpLen:], size, &r.Dst, r.DstPort)
	d.c.MGEN[reason]++
	if reason == mgen.Accepted {
		d.mgen(r, &h)
	}
}

// mgen sets the fields of an MGEN header.
func (d *Decoder) mgen(r *wire.Record, h *mgen.Header) {
	r.Flags |= wire.MGEN | wire.MGENHeader
	r.FlowID = h.Flow
	r.MGENSeq = h.Seq
	r.MGENTime = h.Time
	if !h.Sure {
		d.c.MGENElsewhere++
	}
}
