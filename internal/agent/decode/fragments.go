package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/wire"
)

// fragment is what is remembered of a first fragment for the later ones of its
// datagram.
type fragment struct {
	seen             int64  // time of the first fragment, nanoseconds; once whole, of completion
	bytes            uint32 // payload bytes seen so far
	want             uint32 // payload bytes of the datagram; 0 until the last fragment
	flow             uint32
	srcPort, dstPort uint16
	flags            wire.Flags // MGEN or none
	proto            uint8
	unwanted         bool // the filter rejects the datagram
}

// How long a first fragment is remembered: as long as Linux waits for reassembly
// (ipfrag_time, ip6frag_time; RFC 8200 says 60 s). Once all fragments have been seen it
// is remembered only briefly: after that, another fragment is a duplicate, or belongs
// to a new datagram with the same 16-bit identification.
const (
	fragmentLife4    = 30e9
	fragmentLife6    = 60e9
	fragmentLifeDone = 200e6
)

// fragment decodes a packet that is a fragment. off is its offset in the datagram in
// bytes, more is whether others follow it, and p.l4 is the offset of its payload.
func (d *Decoder) fragment(p *ipPacket, r *wire.Record, id uint32, off int, more bool) bool {
	d.c.Fragments++
	r.Flags |= wire.Fragment
	if !d.cfg.NoDigest {
		r.Digest = fragmentDigest(p, r, id, off, more)
	}
	if d.cfg.Fragments == FirstOnly {
		return d.firstOnly(p, r, off)
	}
	k := fragmentKey(r, id)
	hash := d.seed.hash(&k)
	if off == 0 {
		return d.firstFragment(p, r, &k, hash)
	}
	r.Flags |= wire.LaterFragment
	e := d.fragments.get(&k, hash)
	if e != nil && e.expired(r) {
		d.c.FragmentsExpired++
		d.fragments.delete(&k, hash)
		e = nil
	}
	if e == nil {
		if d.leftOut(p.frame) {
			return false
		}
		d.c.FragmentsUnknown++
		return true
	}
	if e.unwanted {
		d.c.FragmentsUnwanted++
		e.addPart(r, p.total-p.l4, off, more)
		return false
	}
	r.SrcPort, r.DstPort, r.Proto = e.srcPort, e.dstPort, e.proto
	r.FlowID = e.flow
	r.Flags |= e.flags
	e.addPart(r, p.total-p.l4, off, more)
	return true
}

// firstFragment decodes the fragment with the upper-layer header and remembers its
// fields.
func (d *Decoder) firstFragment(p *ipPacket, r *wire.Record, k *key, hash uint32) bool {
	payload := p.total - p.l4
	unwanted := d.leftOut(p.frame)
	if unwanted {
		// Its record is discarded.
	} else if r.Flags&wire.IPv6 != 0 {
		// The rest of the header chain must be in the first fragment (RFC 7112).
		d.extensions(p, r, r.Proto)
	} else {
		d.upper(p, r)
	}
	e := d.fragments.get(k, hash)
	if e == nil {
		e = d.fragments.put(k, hash)
	}
	*e = fragment{
		seen: r.Time, bytes: uint32(payload), unwanted: unwanted,
		srcPort: r.SrcPort, dstPort: r.DstPort, proto: r.Proto,
		flow: r.FlowID, flags: r.Flags & wire.MGEN,
	}
	return !unwanted
}

// firstOnly reports datagrams instead of fragments.
func (d *Decoder) firstOnly(p *ipPacket, r *wire.Record, off int) bool {
	if off != 0 {
		d.c.FragmentsLeftOut++
		return false
	}
	if d.leftOut(p.frame) {
		return false
	}
	if r.Flags&wire.IPv6 != 0 {
		d.extensions(p, r, r.Proto)
	} else {
		d.upper(p, r)
	}
	if n := datagramLength(p, r); n > int(r.Length) {
		r.Length = uint32(n)
	}
	return true
}

// datagramLength returns the total length of a UDP datagram once reassembled, or 0 if
// its first fragment does not contain it.
func datagramLength(p *ipPacket, r *wire.Record) int {
	if r.Proto != wire.ProtoUDP || len(p.data)-p.l4 < udpLen {
		return 0
	}
	n, most := p.l4+int(binary.BigEndian.Uint16(p.data[p.l4+4:])), maxTotal
	if r.Flags&wire.IPv6 != 0 {
		n -= fragmentLen
		most += ipv6Len
	}
	if n > most {
		return 0 // invalid: no packet can be that long
	}
	return n
}

// fragmentKey returns what the fragments of a datagram have in common: addresses and
// identification, and in IPv4 also the protocol (RFC 791, section 3.2; RFC 8200,
// section 4.5).
func fragmentKey(r *wire.Record, id uint32) key {
	rest := uint64(id)<<32 | uint64(r.Proto)
	if r.Flags&wire.IPv6 != 0 {
		rest = uint64(id)<<32 | keyIPv6
	}
	return addressKey(r, rest)
}

// keyIPv6 distinguishes an IPv6 datagram between IPv4-mapped addresses from an IPv4
// one.
const keyIPv6 = 1 << 31

func addressKey(r *wire.Record, rest uint64) key {
	return key{
		binary.LittleEndian.Uint64(r.Src[:]), binary.LittleEndian.Uint64(r.Src[8:]),
		binary.LittleEndian.Uint64(r.Dst[:]), binary.LittleEndian.Uint64(r.Dst[8:]),
		rest,
	}
}

func (e *fragment) expired(r *wire.Record) bool {
	age := r.Time - e.seen
	switch {
	case e.want != 0 && e.bytes >= e.want:
		return age > fragmentLifeDone
	case r.Flags&wire.IPv6 != 0:
		return age > fragmentLife6
	}
	return age > fragmentLife4
}

// addPart records that a later fragment with n bytes of payload was seen.
func (e *fragment) addPart(r *wire.Record, n, off int, more bool) {
	e.bytes += uint32(n)
	if !more {
		e.want = uint32(off + n)
	}
	if e.want != 0 && e.bytes >= e.want {
		e.seen = r.Time
	}
}
