package decode

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Local identifies the observed host. It decides the direction of frames whose source
// does not know it, and which packets the host sent on behalf of others.
type Local struct {
	// MAC is the address of the monitored interface. If it is empty, because the
	// interface has none, the frame's direction is used instead.
	MAC net.HardwareAddr
	// Addrs are all addresses of the host, on any interface. If it is empty, no packet
	// is considered relayed.
	Addrs []netip.Addr
}

// local is Local in a form for fast lookups.
type local struct {
	mac    [6]byte
	hasMAC bool
	// own is a hash table with open addressing, at most half full, whose length is a
	// power of two; the zero address marks a free slot.
	own  [][16]byte
	any  bool     // whether own is not empty
	last [16]byte // the address that was looked up last
}

// SetLocal replaces what the decoder knows about its host. Only the goroutine that owns
// the decoder may call it, between frames.
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

// place returns the index of a in own, or of the free slot where it belongs.
func (d *Decoder) place(own [][16]byte, a *[16]byte) int {
	h := binary.LittleEndian.Uint64(a[:]) ^ d.seed[0]
	hi, lo := bits.Mul64(h, binary.LittleEndian.Uint64(a[8:])^d.seed[1])
	i := int(hi^lo) & (len(own) - 1)
	for own[i] != *a && own[i] != [16]byte{} {
		i = (i + 1) & (len(own) - 1)
	}
	return i
}

// isOwn reports whether a is one of the host's addresses. The unspecified address,
// which a host uses before it has one, always is.
func (d *Decoder) isOwn(a *[16]byte, v6 bool) bool {
	if *a == d.local.last { // initially the unspecified address
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

// direction sets the flags for where the packet of f came from and went to.
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
	if mine {
		d.relayed(r)
	}
}

// relayed marks a packet whose frame the host made, if it made it for another.
func (d *Decoder) relayed(r *wire.Record) {
	if !d.local.any || d.isOwn(&r.Src, r.Flags&wire.IPv6 != 0) {
		return
	}
	r.Flags |= wire.Relayed
	d.c.Relayed++
	if d.cfg.MarkRelayed {
		r.Flags |= wire.MarkRelayed
	}
}
