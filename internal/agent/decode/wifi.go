package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// Mesh control field (IEEE 802.11-2020, section 9.2.4.7.3): the low two bits of its
// first byte encode the number of addresses.
const (
	meshLen      = 6
	meshExtended = 0x03
)

// wifi returns the offset and EtherType of the payload after the 802.11 header of f, or
// the reason why there is none.
func (d *Decoder) wifi(f *packet.Frame) (off, proto int) {
	b := f.Data
	padded := false
	if f.Link == packet.Radiotap {
		n, pad, damaged := packet.SkipRadiotap(b)
		if n == 0 {
			return 0, cutShort
		}
		if damaged {
			return 0, wifiDamaged
		}
		off, padded = n, pad
	}
	w, ok := packet.ParseWiFi(b[off:])
	switch {
	case !ok && isWiFiData(b[off:]):
		return 0, cutShort
	case !ok || w.Empty:
		return 0, wifiOther
	case w.Protected:
		return 0, wifiEncrypted
	case w.Fragment:
		return 0, wifiPart
	}
	if padded {
		w.Header = (w.Header + 3) &^ 3
	}
	if off += w.Header; off > len(b) {
		return 0, cutShort
	}
	if w.Aggregate {
		d.aggregate = aggregate{frame: *f, off: off}
		d.aggregate.frame.Link = packet.Ethernet
		// The frames in it are whole packets and must not be segmented further.
		d.aggregate.frame.GSOType, d.aggregate.frame.GSOSize = 0, 0
		return off, wifiAggregate
	}
	return wifiPayload(b, off, w.Mesh)
}

func isWiFiData(b []byte) bool { return len(b) < 2 || b[0]&0x0f == 0x08 }

// wifiPayload returns the position after the LLC header, with which the payload of
// every data frame begins, possibly after a mesh control field. Only what follows shows
// whether there is such a field, because other frames use its bit for something else.
func wifiPayload(b []byte, off int, mesh bool) (int, int) {
	if n, next := llc(b[off:]); n > 0 {
		return off + n, next
	}
	if mesh && len(b)-off >= meshLen {
		at := off + meshLen + 6*int(b[off]&meshExtended)
		if at <= len(b) {
			if n, next := llc(b[at:]); n > 0 {
				return at + n, next
			}
		}
	}
	if len(b)-off < snapLen {
		return 0, cutShort
	}
	return off, 0 // another kind of LLC
}

// aggregate is what remains of an A-MSDU (IEEE 802.11-2020, section 9.3.2.2.2): frames
// with a header like that of 802.3, each at a multiple of 4 bytes from the first.
type aggregate struct {
	frame packet.Frame
	off   int // offset of the next one; 0 if none is left
}

// subframe decodes the next frame of an A-MSDU and reports whether there is a record.
func (d *Decoder) subframe(r *wire.Record) bool {
	a := &d.aggregate
	f := a.frame
	f.Data = f.Data[a.off:]
	f.WireLen = max(a.frame.WireLen, len(a.frame.Data)) - a.off
	d.c.Segments++
	next := 0
	if len(f.Data) >= ethernetLen {
		size := ethernetLen + int(binary.BigEndian.Uint16(f.Data[ethernetType:]))
		f.Data = f.Data[:min(size, len(f.Data))]
		f.WireLen = min(size, f.WireLen)
		// A frame check sequence, which may follow the last one, is shorter than a
		// header.
		if next = a.off + (size+3)&^3; next+ethernetLen > max(a.frame.WireLen, len(a.frame.Data)) {
			next = 0
		}
	}
	if a.off = min(next, len(a.frame.Data)); next == 0 {
		*a = aggregate{}
	}
	return d.frame(&f, r)
}
