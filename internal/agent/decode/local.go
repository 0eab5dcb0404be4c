package decode

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Local is who the observed host is. It decides the direction of frames whose
// source did not tell it, and which packets the host sent for others.
type Local struct {
	// MAC of the monitored interface; empty if it has none, then the frame's
	// direction takes its place.
	MAC net.HardwareAddr
	// Addrs are all addresses of the host, of whatever interface. Without any
	// nothing is taken for relayed.
	Addrs []netip.Addr
}

// local is Local in a form that is fast to ask.
type local struct {
	mac    [6]byte
	hasMAC bool
	// own is a hash table with open addressing, at most half full, its length
	// a power of two; the zero address marks a free place.
	own  [][16]byte
	any  bool     // whether own holds anything
	last [16]byte // one of them: that which was asked for last
}

// SetLocal replaces what the decoder knows of its host. It may be called by
// the goroutine that owns the decoder, between frames.
func (d *Decoder) SetLocal(l Local) {
	n := local{hasMAC: len(l.MAC) == 6, any: len(l.Addrs) > 0}
	copy(n.mac[:], l.MAC)
	n.own = make([][16]byte, 1<<bits.Len(uint(2*len(l.Addrs))))
	for _, a := range l.Addrs {
		if !a.IsValid() || a.IsUnspecified() {
			continue
		}
		b := a.As16()
		i := d.place(n.own, &b)
		n.own[i] = b
	}
	d.local = n
}

// place is where a is in own, or the free place where it would be.
func (d *Decoder) place(own [][16]byte, a *[16]byte) int {
	h := binary.LittleEndian.Uint64(a[:]) ^ d.seed[0]
	hi, lo := bits.Mul64(h, binary.LittleEndian.Uint64(a[8:])^d.seed[1])
	i := int(hi^lo) & (len(own) - 1)
	for own[i] != *a && own[i] != [16]byte{} {
		i = (i + 1) & (len(own) - 1)
	}
	return i
}

// isOwn reports whether a is one of the host's addresses. The unspecified
// address, which a host uses before it has one, is everyone's.
func (d *Decoder) isOwn(a *[16]byte, v6 bool) bool {
	if *a == d.local.last { // the unspecified address as long as there is none
		return true
	}
	if binary.LittleEndian.Uint64(a[:]) == 0 && (v6 && binary.LittleEndian.Uint64(a[8:]) == 0 ||
		!v6 && binary.LittleEndian.Uint32(a[12:]) == 0) {
		return true
	}
	if d.local.own[d.place(d.local.own, a)] != *a {
		return false
	}
	d.local.last = *a
	return true
}

// direction marks where the packet of f came from and went to.
func (d *Decoder) direction(f *packet.Frame, r *wire.Record) {
	l := &d.local
	mine := f.Direction == packet.Outgoing
	if l.hasMAC && f.Link.HasMAC() {
		mac, _ := f.SourceMAC()
		mine = mac == l.mac
		if f.Direction == packet.Unknown {
			if mine {
				r.Flags |= wire.Outgoing
			} else {
				r.Flags |= wire.Incoming
			}
		}
	}
	switch f.Direction {
	case packet.Outgoing:
		r.Flags |= wire.Outgoing
	case packet.Incoming:
		r.Flags |= wire.Incoming
	}
	if !mine || !l.any || d.isOwn(&r.Src, r.Flags&wire.IPv6 != 0) {
		return
	}
	r.Flags |= wire.Relayed
	d.c.Relayed++
	if d.cfg.MarkRelayed {
		r.Flags |= wire.MarkRelayed
	}
}
