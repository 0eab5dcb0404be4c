package pcapfile

import (
	"errors"
	"fmt"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// Block types of pcapng (draft-ietf-opsawg-pcapng, section 4). Others are skipped. The
// type of a section header reads the same in both byte orders.
const (
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
	blockSection   = 0x0a0d0d0a
)

const byteOrderMagic = 0x1a2b3c4d

// Options of the blocks that are interpreted.
const (
	optEnd          = 0
	optPacketFlags  = 2 // the same in enhanced and obsolete packet blocks
	optTSResolution = 9
	optTSOffset     = 14
)

const (
	// blockOverhead is the size of the type, the length, and the repeated length after
	// the body.
	blockOverhead = 12
	// sectionLen is the minimum size of a section header, and the part of it that is
	// read.
	sectionLen = 28
	// packetBodyLen is the size of the fields before the data of a packet block.
	packetBodyLen = 20
	// maxBlock bounds blocks that must be in memory as a whole: the largest packet
	// leaves 256 KiB for its options. Other blocks may have any length.
	maxBlock = bufferSize
	// maxInterfaces is the maximum number of interfaces in a section. The obsolete
	// packet block cannot number more.
	maxInterfaces = 1 << 16
)

// microseconds is the resolution if if_tsresol is absent.
const microseconds = 6

// iface holds the contents of an interface description block.
type iface struct {
	clock   clock
	snaplen uint32 // 0 means no limit
	link    uint16
}

// pcapng reads the packets of a pcapng file, section after section.
type pcapng struct {
	order
	in     *buffer
	ifaces []iface // of this section
}

// isPcapng reports whether four bytes are the beginning of a pcapng file.
func isPcapng(magic []byte) bool {
	return order{}.u32(magic) == blockSection
}

func (p *pcapng) next(f *packet.Frame) (link uint16, err error) {
	for {
		p.in.begin()
		h := p.in.peek(8)
		if h == nil {
			return 0, p.in.endOr("a block's header", 8)
		}
		kind := p.u32(h)
		switch kind {
		case blockEnhanced, blockPacket, blockSimple:
			return p.packet(f, kind, p.u32(h[4:]))
		case blockSection:
			err = p.section()
		case blockInterface:
			err = p.describe(p.u32(h[4:]))
		default:
			err = p.skip(p.u32(h[4:]))
		}
		if err != nil {
			return 0, err
		}
	}
}

// section begins a new section, which has its own byte order and interfaces.
func (p *pcapng) section() error {
	h := p.in.peek(sectionLen)
	if h == nil {
		return p.in.cut("a section header", sectionLen)
	}
	p.big = h[8] == byteOrderMagic>>24
	if magic := p.u32(h[8:]); magic != byteOrderMagic {
		return fmt.Errorf("section header with byte-order magic %#08x", magic)
	}
	// According to the draft, 1.2 is 1.0 written by mistake.
	if major, minor := p.u16(h[12:]), p.u16(h[14:]); major != 1 || minor != 0 && minor != 2 {
		return fmt.Errorf("pcapng version %d.%d: want 1.0", major, minor)
	}
	length := p.u32(h[4:])
	if length < sectionLen {
		return fmt.Errorf("section header of %d bytes: want at least %d", length, sectionLen)
	}
	p.ifaces = p.ifaces[:0]
	return p.skip(length)
}

// skip skips a block without looking at its contents.
func (p *pcapng) skip(length uint32) error {
	if err := checkLength(length); err != nil {
		return err
	}
	var trailer []byte
	if p.in.skip(int64(length) - 4) {
		trailer = p.in.consume(4)
	}
	if trailer == nil {
		return p.in.cut("a block", length)
	}
	return p.checkTrailer(trailer, length)
}

// body consumes a block that is in memory as a whole, and returns its contents, which
// stay valid until the next call.
func (p *pcapng) body(length uint32, least int) ([]byte, error) {
	if err := checkLength(length); err != nil {
		return nil, err
	}
	if length > maxBlock || int(length) < blockOverhead+least {
		return nil, fmt.Errorf("block of %d bytes: want %d to %d", length, blockOverhead+least, maxBlock)
	}
	b := p.in.peek(int(length))
	if b == nil {
		return nil, p.in.cut("a block", length)
	}
	if err := p.checkTrailer(b[length-4:], length); err != nil {
		return nil, err
	}
	p.in.pos += int(length)
	return b[8 : length-4], nil
}

// describe adds an interface.
func (p *pcapng) describe(length uint32) error {
	body, err := p.body(length, 8)
	if err != nil {
		return err
	}
	if len(p.ifaces) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces in a section", maxInterfaces)
	}
	resolution, offset := uint8(microseconds), int64(0)
	whole := p.options(body[8:], func(code uint16, value []byte) {
		switch {
		case code == optTSResolution && len(value) == 1:
			resolution = value[0]
		case code == optTSOffset && len(value) == 8:
			offset = int64(p.u64(value))
		}
	})
	if !whole {
		return errors.New("option that runs out of its interface description")
	}
	p.ifaces = append(p.ifaces, iface{
		clock: newClock(resolution, offset), snaplen: p.u32(body[4:]), link: p.u16(body),
	})
	return nil
}

// packet parses one of the three kinds of packet blocks.
func (p *pcapng) packet(f *packet.Frame, kind, length uint32) (link uint16, err error) {
	if kind == blockSimple {
		return p.simple(f, length)
	}
	body, err := p.body(length, packetBodyLen)
	if err != nil {
		return 0, err
	}
	number := p.u32(body)
	if kind == blockPacket {
		number = uint32(p.u16(body)) // followed by 16 bits that count drops
	}
	if int64(number) >= int64(len(p.ifaces)) {
		return 0, fmt.Errorf("packet of interface %d: the section describes %d", number, len(p.ifaces))
	}
	from := &p.ifaces[number]
	stamp := uint64(p.u32(body[4:]))<<32 | uint64(p.u32(body[8:]))
	captured, wire := p.u32(body[12:]), p.u32(body[16:])
	rest := body[packetBodyLen:]
	if captured > maxCaptured || int(captured) > len(rest) {
		return 0, fmt.Errorf("captured length %d: the limit is %d, the block has room for %d",
			captured, maxCaptured, len(rest))
	}
	*f = packet.Frame{
		Data:    rest[:captured:captured],
		Time:    from.clock.ns(stamp),
		WireLen: int(max(captured, wire)),
	}
	if padded := int(captured+3) &^ 3; padded < len(rest) {
		f.Direction = p.direction(rest[padded:])
	}
	return from.link, nil
}

// simple parses a simple packet block: it has no interface, no time, and no options,
// and its captured length must be computed.
func (p *pcapng) simple(f *packet.Frame, length uint32) (link uint16, err error) {
	body, err := p.body(length, 4)
	if err != nil {
		return 0, err
	}
	if len(p.ifaces) == 0 {
		return 0, errors.New("packet before its interface's description")
	}
	from := &p.ifaces[0]
	wire := p.u32(body)
	captured := wire
	if from.snaplen != 0 {
		captured = min(captured, from.snaplen)
	}
	if captured > maxCaptured || int(captured) > len(body)-4 {
		return 0, fmt.Errorf("captured length %d: the limit is %d, the block has room for %d",
			captured, maxCaptured, len(body)-4)
	}
	*f = packet.Frame{Data: body[4 : 4+captured : 4+captured], WireLen: int(wire)}
	return from.link, nil
}

// direction returns the direction in the low two bits of a packet's flags. Nothing else
// depends on a packet's options, so malformed ones are ignored.
func (p *pcapng) direction(options []byte) packet.Direction {
	var d packet.Direction
	p.options(options, func(code uint16, value []byte) {
		if code != optPacketFlags || len(value) != 4 {
			return
		}
		switch p.u32(value) & 3 {
		case 1:
			d = packet.Incoming
		case 2:
			d = packet.Outgoing
		default:
			d = packet.Unknown
		}
	})
	return d
}

// options calls f for each option up to the end of options or of b. It reports false if
// one claims more bytes than there are.
func (p *pcapng) options(b []byte, f func(code uint16, value []byte)) bool {
	for len(b) >= 4 {
		code, n := p.u16(b), int(p.u16(b[2:]))
		if code == optEnd {
			return true
		}
		b = b[4:]
		if n > len(b) {
			return false
		}
		f(code, b[:n])
		b = b[min((n+3)&^3, len(b)):]
	}
	return true
}

func checkLength(length uint32) error {
	if length < blockOverhead || length%4 != 0 {
		return fmt.Errorf("block of %d bytes: want a multiple of 4, at least %d", length, blockOverhead)
	}
	return nil
}

func (p *pcapng) checkTrailer(trailer []byte, length uint32) error {
	if again := p.u32(trailer); again != length {
		return fmt.Errorf("block of %d bytes at its start, of %d at its end", length, again)
	}
	return nil
}
