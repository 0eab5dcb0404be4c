package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

const (
	tcpFlagSYN = 0x02
	tcpFlagRST = 0x04
)

// tcp decodes a TCP header (RFC 9293) and passes the data to the connection's MGEN
// stream.
func (d *Decoder) tcp(p *ipPacket, r *wire.Record) {
	if !d.ports(p, r, tcpLen) {
		return
	}
	b := p.data[p.l4:]
	hdr := int(b[12]>>4) * 4
	n := p.total - p.l4 - hdr
	if hdr < tcpLen || n < 0 {
		d.c.BadTCPOffset++
		return
	}
	flags := b[13]
	if n == 0 && flags&(tcpFlagSYN|tcpFlagRST) == 0 {
		return
	}
	seq := binary.BigEndian.Uint32(b[4:])
	if flags&(tcpFlagSYN|tcpFlagRST) != 0 {
		d.streams.begin(d, r, seq, flags)
		if flags&tcpFlagSYN != 0 {
			seq++
		}
	}
	if n == 0 {
		return
	}
	data := b[min(hdr, len(b)):]
	if t, size := p.frame.GSOType, int(p.frame.GSOSize); size > 0 && n > size && (t == packet.GSOTCPv4 || t == packet.GSOTCPv6) {
		d.rest = super{kind: superTCP, left: n, size: size, hdr: p.l4 + hdr - p.jumbo, data: data, seq: seq}
		return
	}
	d.segment(r, seq, n, data)
}

// streams are the directions of TCP connections in which MGEN messages are followed.
// Those of which only the SYN was seen have a separate table, so that a SYN flood
// cannot evict the others.
type streams struct {
	opening   table[mgen.Stream]
	following table[mgen.Stream]
}

func newStreams(n int) streams {
	return streams{
		opening:   newTable[mgen.Stream](max(n/4, 1)),
		following: newTable[mgen.Stream](n),
	}
}

// begin handles a SYN or RST, which ends a previous connection with the same addresses.
func (s *streams) begin(d *Decoder, r *wire.Record, seq uint32, flags byte) {
	k := streamKey(r)
	hash := d.seed.hash(&k)
	s.following.delete(&k, hash)
	s.opening.delete(&k, hash)
	if flags&(tcpFlagSYN|tcpFlagRST) == tcpFlagSYN {
		*s.opening.put(&k, hash) = mgen.Open(seq)
	}
}

// segment looks for MGEN messages in n bytes of TCP data, of which data was captured.
// Most connections are not MGEN's and are in neither table.
func (d *Decoder) segment(r *wire.Record, seq uint32, n int, data []byte) {
	s := &d.streams
	start := mgen.MayStart(data)
	if !start && s.following.live == 0 && s.opening.live == 0 {
		return
	}
	k := streamKey(r)
	hash := d.seed.hash(&k)
	if st := s.following.get(&k, hash); st != nil {
		if d.verdict(r, st, seq, n, data) == mgen.None {
			s.following.delete(&k, hash)
		}
		return
	}
	st := s.opening.get(&k, hash)
	if st == nil && !start {
		return
	}
	var fresh mgen.Stream
	if st == nil {
		st = &fresh
	}
	v := d.verdict(r, st, seq, n, data)
	if v == mgen.Starts {
		*s.following.put(&k, hash) = *st
	}
	if st != &fresh && v != mgen.Unknown {
		s.opening.delete(&k, hash)
	}
}

// verdict passes a segment to st and writes the result to r.
func (d *Decoder) verdict(r *wire.Record, st *mgen.Stream, seq uint32, n int, data []byte) mgen.Verdict {
	var seg mgen.Segment // field by field: see frame
	seg.Seq, seg.Len = seq, n
	seg.Data = data[:min(n, len(data))]
	seg.Dst, seg.Port = &r.Dst, r.DstPort
	var h mgen.Header
	v := st.Segment(&h, &seg)
	switch v {
	case mgen.Starts:
		d.c.MGENSegmentStarts++
		d.mgen(r, &h)
	case mgen.Continues:
		d.c.MGENSegmentContinues++
		r.Flags |= wire.MGEN
		r.FlowID = h.Flow
	case mgen.Unknown:
		d.c.MGENSegmentUnknown++
	}
	return v
}

// streamKey identifies a direction of a connection: addresses and ports.
func streamKey(r *wire.Record) key {
	rest := uint64(r.SrcPort)<<48 | uint64(r.DstPort)<<32
	return addressKey(r, rest|uint64(r.Flags&wire.IPv6))
}
