package decode

import (
	"encoding/binary"
	"math/bits"

	"github.com/pcapper/pcapper/wire"
)

// words is the input of a digest, see [wire.Digest], as three little-endian words. The
// first has room for the packet's length.
type words struct{ a, b, c uint64 }

// digest returns the digest of a packet of this length.
func (w *words) digest(length uint32) uint64 {
	return wire.DigestWords(w.a|lengthWord(length), w.b, w.c)
}

func lengthWord(length uint32) uint64 { return uint64(bits.ReverseBytes32(length)) << 32 }

// next advances the IPv4 identification to that of a super-packet's next segment.
func (w *words) next() {
	if w.a&0xff == 4 {
		id := bits.ReverseBytes16(uint16(w.a>>16)) + 1
		w.a = w.a&^0xffff0000 | uint64(bits.ReverseBytes16(id))<<16
	}
}

// digest sets the digest of r, or, for a super-packet, what its plan needs to compute
// the digest of each packet. Fragments already have their digest.
func (d *Decoder) digest(p *ipPacket, r *wire.Record) {
	if d.cfg.NoDigest || r.Flags&(wire.Fragment|wire.Super) != 0 || p.l4 > len(p.data) {
		return
	}
	var b, c uint64
	var ok bool
	if data := p.data[p.l4:]; r.Proto == wire.ProtoUDP && len(data) >= udpLen+16 {
		b, c, ok = binary.LittleEndian.Uint64(data[udpLen:]), binary.LittleEndian.Uint64(data[udpLen+8:]), true
	} else if r.Proto == wire.ProtoTCP {
		b, c, ok = tcpWords(p)
	} else {
		b, c, ok = upperWords(p, r.Proto)
	}
	if !ok {
		return
	}
	a := head(p, r.Proto)
	c ^= linkLocal(r)
	if d.rest.left == 0 {
		r.Digest = wire.DigestWords(a|lengthWord(uint32(p.total)), b, c)
	} else if d.rest.kind == superTCP || d.rest.kind == superUDP {
		d.rest.words, d.rest.digests = words{a, b, c}, true
	}
}

// head returns the first word without the length.
func head(p *ipPacket, proto uint8) uint64 {
	a := uint64(p.data[0]>>4) | uint64(proto)<<8
	if a&0xff == 4 {
		a |= uint64(binary.LittleEndian.Uint16(p.data[4:])) << 16
	}
	return a
}

// fragmentDigest returns the digest of a fragment whose payload begins at p.l4.
func fragmentDigest(p *ipPacket, r *wire.Record, id uint32, off int, more bool) uint64 {
	if r.Flags&wire.Super != 0 {
		return 0
	}
	place := uint16(off)
	if more {
		place |= 1
	}
	w := words{a: head(p, r.Proto), b: uint64(bits.ReverseBytes16(place)) << 32}
	if w.a&0xff == 6 {
		w.b |= uint64(bits.ReverseBytes32(id))
	}
	var ok bool
	if w.c, ok = word(p, 8); !ok {
		return 0
	}
	w.c ^= linkLocal(r)
	return w.digest(uint32(p.total))
}

// linkLocal returns the source address bits that are added to the last word for packets
// to link-local multicast addresses, because neighbors send identical reports and
// greetings. They are in reverse order, because many of these packets contain the
// address itself.
func linkLocal(r *wire.Record) uint64 {
	if r.Flags&wire.IPv6 == 0 {
		if binary.BigEndian.Uint32(r.Dst[12:])>>8 != 224<<16 {
			return 0
		}
	} else if r.Dst[0] != 0xff || r.Dst[1]&0x0f != 2 {
		return 0
	}
	return uint64(binary.BigEndian.Uint32(r.Src[12:])) << 32
}

// upperWords returns the words that follow the IP headers of a whole packet. ok is
// false if those bytes were not captured.
func upperWords(p *ipPacket, proto uint8) (b, c uint64, ok bool) {
	switch proto {
	case wire.ProtoUDP, wire.ProtoUDPLite:
		return pair(p, udpLen)
	case wire.ProtoICMP, protoICMPv6:
		return icmpWords(p)
	case wire.ProtoDCCP:
		return pair(p, 8)
	case wire.ProtoSCTP:
		return sctpWords(p)
	}
	return pair(p, 0)
}

const protoICMPv6 = 58

// pair returns the 16 bytes at an offset of the upper-layer header.
func pair(p *ipPacket, off int) (b, c uint64, ok bool) {
	b, ok1 := word(p, off)
	c, ok2 := word(p, off+8)
	return b, c, ok1 && ok2
}

// word returns the 8 bytes at an offset of the upper-layer header; bytes past the end
// of the packet are 0.
func word(p *ipPacket, off int) (v uint64, ok bool) {
	at := p.l4 + off
	if len(p.data) >= at+8 {
		return binary.LittleEndian.Uint64(p.data[at:]), true
	}
	if len(p.data) < p.total {
		return 0, false
	}
	for i := len(p.data) - 1; i >= at; i-- {
		v = v<<8 | uint64(p.data[i])
	}
	return v, true
}

const (
	tcpStamps    = 0x0a080101 // two NOPs, a timestamp option and its length, little-endian
	tcpStampsLen = tcpLen + 12
)

func tcpWords(p *ipPacket) (b, c uint64, ok bool) {
	h := p.data[p.l4:]
	if len(h) < tcpLen {
		return 0, 0, false
	}
	b = binary.LittleEndian.Uint64(h[4:])
	c = uint64(h[12]&0xf0)<<32 | uint64(h[13]&7)<<40
	if h[12]>>4 < tcpStampsLen/4 {
		return b, c, true
	}
	if len(h) < tcpLen+8 {
		return b, c, len(p.data) == p.total // false if the header is longer than its packet
	}
	if stamps := binary.LittleEndian.Uint64(h[tcpLen:]); uint32(stamps) == tcpStamps {
		c |= stamps >> 32
	}
	return b, c, true
}

// segment returns the digest of a TCP segment; last is whether it is the last of a
// super-packet.
func (w *words) segment(length, seq uint32, last bool) uint64 {
	w.b = w.b&^0xffffffff | uint64(bits.ReverseBytes32(seq))
	s := *w
	if !last {
		s.c &^= 1 << 40 // FIN
	}
	w.next()
	return s.digest(length)
}

func icmpWords(p *ipPacket) (b, c uint64, ok bool) {
	h, c, ok := pair(p, 0)
	return h & 0xffff_0000_0000_ffff, c, ok
}

func sctpWords(p *ipPacket) (b, c uint64, ok bool) {
	tag, ok1 := word(p, 4)
	first, c, ok2 := pair(p, 12)
	return tag&0xffffffff | first<<32, first>>32 | c<<32, ok1 && ok2
}

// plainDigest returns the digest of a UDP datagram in an Ethernet frame with an IPv4
// header without options; total is the length in that header.
func plainDigest(b []byte, total int) uint64 {
	var c uint64
	if binary.BigEndian.Uint32(b[plainIP+16:])>>8 == 224<<16 { // see linkLocal
		c = uint64(binary.BigEndian.Uint32(b[plainIP+12:])) << 32
	}
	a := 4 | wire.ProtoUDP<<8 | uint64(binary.LittleEndian.Uint16(b[plainIP+4:]))<<16 | lengthWord(uint32(total))
	if len(b) >= plainPayload+wire.DigestPayload && total >= ipv4Len+udpLen+wire.DigestPayload {
		return wire.DigestWords(a, binary.LittleEndian.Uint64(b[plainPayload:]), binary.LittleEndian.Uint64(b[plainPayload+8:])^c)
	}
	p := ipPacket{data: b[plainIP:min(len(b), plainIP+total)], total: total, l4: ipv4Len}
	b1, b2, ok := pair(&p, udpLen)
	if !ok {
		return 0
	}
	return wire.DigestWords(a, b1, b2^c)
}

// datagramDigest returns the digest of the next datagram, with n bytes of payload, of a
// super-packet, or 0 if too few of its bytes were captured, which is usual after the
// first.
func (s *super) datagramDigest(length uint32, n int, data []byte) uint64 {
	p := ipPacket{data: data, total: n}
	w, ok := s.words, false
	s.words.next()
	if w.b, w.c, ok = pair(&p, 0); !ok {
		return 0
	}
	w.c ^= linkLocal(&s.rec)
	return w.digest(length)
}
