package pcapfile

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// The magic numbers of a classic capture file, read in its writer's byte order
// (pcap-savefile(5); the last is that of the Linux 2.0 patches by Alexey Kuznetsov,
// whose record headers are 8 bytes longer).
const (
	magicMicro    = 0xa1b2c3d4
	magicNano     = 0xa1b23c4d
	magicModified = 0xa1b2cd34
)

const (
	pcapHeaderLen     = 24
	recordLen         = 16
	modifiedRecordLen = 24
)

// maxCaptured is the maximum believable size of one packet. 256 KiB is the limit of
// tcpdump and Wireshark, for writing and reading; the rest is slack for additional link
// headers.
const maxCaptured = 256<<10 + 4<<10

// order is the byte order of a file or section. The zero value is little-endian.
type order struct{ big bool }

func (o order) u16(b []byte) uint16 {
	v := binary.LittleEndian.Uint16(b)
	if o.big {
		v = bits.ReverseBytes16(v)
	}
	return v
}

func (o order) u32(b []byte) uint32 {
	v := binary.LittleEndian.Uint32(b)
	if o.big {
		v = bits.ReverseBytes32(v)
	}
	return v
}

func (o order) u64(b []byte) uint64 {
	v := binary.LittleEndian.Uint64(b)
	if o.big {
		v = bits.ReverseBytes64(v)
	}
	return v
}

// pcap reads the records of a classic capture file.
type pcap struct {
	order
	in     *buffer
	link   uint16
	minor  uint16 // of version 2
	header int    // length of a record's header in bytes
	unit   int64  // nanoseconds per unit of the fraction of a second
}

// isPcap reports whether four bytes are the magic number of a classic file, and returns
// the properties that it encodes.
func isPcap(magic []byte) (p pcap, ok bool) {
	for _, p.big = range []bool{false, true} {
		switch p.u32(magic) {
		case magicMicro:
			p.header, p.unit = recordLen, 1000
		case magicNano:
			p.header, p.unit = recordLen, 1
		case magicModified:
			p.header, p.unit = modifiedRecordLen, 1000
		default:
			continue
		}
		return p, true
	}
	return p, false
}

// open reads the file header.
func (p *pcap) open(in *buffer) error {
	p.in = in
	h := in.peek(pcapHeaderLen)
	if h == nil {
		return in.cut("the file header", pcapHeaderLen)
	}
	major := p.u16(h[4:])
	p.minor = p.u16(h[6:])
	if major != 2 || p.minor > 4 {
		return fmt.Errorf("pcap version %d.%d: want 2.0 to 2.4", major, p.minor)
	}
	// The upper half describes the frame check sequence, which does not matter here,
	// because IP packets contain their length.
	p.link = uint16(p.u32(h[20:]))
	in.pos += pcapHeaderLen
	return nil
}

func (p *pcap) next(f *packet.Frame) (link uint16, err error) {
	p.in.begin()
	h := p.in.peek(p.header)
	if h == nil {
		return 0, p.in.endOr("a packet's header", uint32(p.header))
	}
	sec, frac := p.u32(h), p.u32(h[4:])
	captured, wire := p.u32(h[8:]), p.u32(h[12:])
	if p.minor < 4 {
		captured, wire = p.lengths(captured, wire)
	}
	if captured > maxCaptured {
		return 0, fmt.Errorf("captured length %d: the limit is %d", captured, maxCaptured)
	}
	n := p.header + int(captured)
	rec := p.in.peek(n)
	if rec == nil {
		return 0, p.in.cut("a packet and its header", uint32(n))
	}
	p.in.pos += n
	*f = packet.Frame{
		Data:    rec[p.header:n:n],
		Time:    int64(sec)*nsPerSec + int64(frac)*p.unit,
		WireLen: int(max(captured, wire)),
	}
	if p.header == modifiedRecordLen {
		// After the lengths: interface index (4), protocol (2), packet type (1).
		f.Direction = packetType(uint16(rec[22]))
	}
	return p.link, nil
}

// lengths corrects the order of a record's two lengths in files older than version 2.4:
// before 2.3 it was reversed, and in 2.3 it depended on the program.
func (p *pcap) lengths(captured, wire uint32) (uint32, uint32) {
	if p.minor < 3 || captured > wire {
		return wire, captured
	}
	return captured, wire
}
