package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/wire"
)

// IPv6 extension headers (IANA, "IPv6 Extension Header Types"). ESP and "no next
// header" end the chain, because what follows cannot be read.
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAH          = 51
	extDestination = 60
	extMobility    = 135
	extHIP         = 139
	extShim6       = 140
	noNextHeader   = 59
)

const (
	extMin      = 8
	fragmentLen = 8
)

// isExtension marks the headers that have their length in byte 1.
var isExtension = [256]bool{
	extHopByHop: true, extRouting: true, extFragment: true, extAH: true,
	extDestination: true, extMobility: true, extHIP: true, extShim6: true,
}

// isMessage marks the headers that are the packet's payload unless another header
// follows (RFC 6275, section 6.1; RFC 7401, section 5.1; RFC 5533, section 5.3).
var isMessage = [256]bool{extMobility: true, extHIP: true, extShim6: true}

// extensions follows the chain of extension headers (RFC 8200, section 4) to the
// upper-layer protocol. If a header is cut off, the record's protocol is the number of
// that header.
func (d *Decoder) extensions(p *ipPacket, r *wire.Record, next byte) bool {
	b := p.data
	for isExtension[next] {
		off := p.l4
		if len(b)-off < extMin {
			return d.cutOff(r, next)
		}
		n := extMin * (int(b[off+1]) + 1)
		switch next {
		case extAH: // counts in units of 4 bytes, minus 2 (RFC 4302, section 2.2)
			n = 4 * (int(b[off+1]) + 2)
		case extFragment:
			n = fragmentLen
			frag := binary.BigEndian.Uint16(b[off+2:])
			if frag&^0x6 != 0 { // not an atomic fragment (RFC 6946), which is a whole packet
				p.l4 += n
				r.Proto = b[off]
				id := binary.BigEndian.Uint32(b[off+4:])
				return d.fragment(p, r, id, int(frag&^7), frag&1 != 0)
			}
			if d.leftOut(p.frame) {
				return false
			}
		}
		if len(b)-off < n {
			return d.cutOff(r, next)
		}
		if isMessage[next] && b[off] == noNextHeader {
			break
		}
		p.l4 += n
		next = b[off]
	}
	r.Proto = next
	if d.cfg.Inner && r.Flags&wire.Fragment == 0 {
		if q, proto, ok := d.inner(p, r); ok {
			return d.packet(&q, proto, r)
		}
	}
	d.upper(p, r)
	return true
}

// cutOff stops at a header that is incomplete.
func (d *Decoder) cutOff(r *wire.Record, at byte) bool {
	r.Proto = at
	d.truncated(r)
	return true
}

const (
	optPad1  = 0
	optJumbo = 0xc2
)

// jumboOption looks for the jumbo payload option in the hop-by-hop header at the
// beginning of b, and returns the length of that header, or 0 if there is none. A jumbo
// payload is longer than 65,535 bytes (RFC 2675, section 2).
func jumboOption(b []byte) int {
	if len(b) < extMin {
		return 0
	}
	hdr := extMin * (int(b[1]) + 1)
	opts := b[2:min(hdr, len(b))]
	for len(opts) >= 2 {
		if opts[0] == optPad1 {
			opts = opts[1:]
			continue
		}
		n := 2 + int(opts[1])
		if n > len(opts) {
			return 0
		}
		if opts[0] == optJumbo && n == 6 && binary.BigEndian.Uint32(opts[2:]) > maxTotal {
			return hdr
		}
		opts = opts[n:]
	}
	return 0
}
