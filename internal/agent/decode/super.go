package decode

import (
	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// super is a frame that stands for several packets on the wire: what they have in
// common, and how much of it is left.
type super struct {
	rec  wire.Record // template for the records
	data []byte      // captured payload for which there is no record yet
	left int         // payload bytes for which there is no record yet; 0 if nothing is pending
	size int         // payload bytes in each packet except the last
	hdr  int         // bytes of headers on each packet, as on the wire
	seq  uint32      // TCP sequence number of what is left
	kind superKind
	more bool // the first packet has been returned
	// words is the input of the next packet's digest without its length, valid iff
	// digests.
	words   words
	digests bool
}

type superKind uint8

const (
	superWhole     superKind = iota // not segmented: a record that dst had no room for
	superPlain                      // packets that differ in length only (tunnels)
	superTCP                        // TCP segments
	superUDP                        // UDP datagrams of equal size (UDP_SEGMENT)
	superFragments                  // IP fragments of one UDP datagram (UFO)
)

// maxTCPLen is the maximum length of a TCP header.
const maxTCPLen = 60

// plan determines how a super-packet will be segmented, unless tcp already has. If that
// is unknown, it remains one record, marked as a super-packet.
func (d *Decoder) plan(p *ipPacket, r *wire.Record) {
	size := int(p.frame.GSOSize)
	if d.rest.left == 0 && size > 0 {
		s := planOther(p, r)
		// An IPv6 fragment has a header more than the sender accounted for.
		if s.size = min(size, maxPacket(r)-s.hdr); s.size > 0 && s.left > s.size {
			d.rest = s
		}
	}
	if d.rest.left > 0 {
		d.c.SuperPackets++
		r.Flags &^= wire.Super
	} else if p.total-p.l4 > size+maxTCPLen {
		r.Flags |= wire.Super
	}
}

// maxPacket is the maximum length that a packet's length field can express. In IPv6 it
// does not include the header.
func maxPacket(r *wire.Record) int {
	if r.Flags&wire.IPv6 != 0 {
		return ipv6Len + 0xffff
	}
	return 0xffff
}

// planOther plans all super-packets whose outer protocol is not TCP.
func planOther(p *ipPacket, r *wire.Record) super {
	gso := p.frame.GSOType
	if n, gone := tunnelHeaders(p.data, p.l4, r.Proto, gso); n > 0 {
		return super{kind: superPlain, left: p.total - n, hdr: n - gone - p.jumbo}
	}
	if r.Proto != wire.ProtoUDP || len(p.data)-p.l4 < udpLen {
		return super{}
	}
	switch gso {
	case packet.GSOUDPL4:
		n := p.l4 + udpLen
		return super{kind: superUDP, left: p.total - n, hdr: n - p.jumbo, data: p.data[n:]}
	case packet.GSOUDP:
		s := super{kind: superFragments, left: p.total - p.l4, hdr: p.l4}
		if r.Flags&wire.IPv6 != 0 {
			s.hdr += fragmentLen
		}
		return s
	}
	return super{}
}

// Pending reports whether Drain may have records to return.
func (d *Decoder) Pending() bool { return d.rest.left > 0 || d.aggregate.off > 0 }

// Drain stores the records for which Decode had no room at the beginning of dst and
// returns their number.
func (d *Decoder) Drain(dst []wire.Record) int {
	n := 0
	for n < len(dst) && d.Pending() {
		if d.rest.left > 0 {
			d.cut(&dst[n])
			n++
		} else if d.subframe(&dst[n]) {
			n++
		}
	}
	if d.rest.left == 0 {
		d.rest.data = nil
	}
	d.c.Records += uint64(n)
	return n
}

// keep decodes f for a caller that has no room for even one record.
func (d *Decoder) keep(f *packet.Frame) {
	r := &d.rest.rec
	if !d.frame(f, r) {
		return
	}
	if d.rest.left == 0 {
		d.rest = super{rec: *r, kind: superWhole, left: 1, size: 1}
	}
}

// cut returns the record of the next packet in r.
func (d *Decoder) cut(r *wire.Record) {
	s := &d.rest
	*r = s.rec
	n := min(s.size, s.left)
	s.left -= n
	if s.kind == superWhole {
		return
	}
	d.c.Segments++
	r.Length = uint32(s.hdr + n)
	data := s.data[:min(n, len(s.data))]
	s.data = s.data[len(data):]
	switch s.kind {
	case superTCP:
		if s.digests {
			r.Digest = s.words.segment(r.Length, s.seq, s.left == 0)
		}
		d.segment(r, s.seq, n, data)
		s.seq += uint32(n)
	case superUDP:
		if s.digests {
			r.Digest = s.datagramDigest(r.Length, n, data)
		}
		if s.more {
			d.datagram(r, n, data)
		}
	case superFragments:
		r.Flags |= wire.Fragment
		d.c.Fragments++
		if s.more {
			r.Flags = r.Flags&^wire.MGENHeader | wire.LaterFragment
			r.MGENSeq, r.MGENTime = 0, 0
		}
	}
	s.more = true
}

// datagram looks for MGEN in a UDP datagram of n bytes after the first one of a
// super-packet; r is a copy of the first one's record. Its header is rarely captured.
// All datagrams of a super-packet come from one socket and have the same size, except
// the last, which may be shorter. Therefore a datagram with the size of an MGEN first
// one is assumed to belong to its flow, with an unknown sequence number; a last one of
// another size is not.
func (d *Decoder) datagram(r *wire.Record, n int, data []byte) {
	flags := r.Flags
	r.Flags &^= wire.MGEN | wire.MGENHeader
	var h mgen.Header
	reason := mgen.UDP(&h, data, n, &r.Dst, r.DstPort)
	d.c.MGEN[reason]++
	switch {
	case reason == mgen.Accepted:
		d.mgen(r, &h)
		return
	case reason == mgen.Cut && n == d.rest.size:
		r.Flags |= flags & wire.MGEN
	}
	r.MGENSeq, r.MGENTime = 0, 0
	if r.Flags&wire.MGEN == 0 {
		r.FlowID = 0
	}
}
