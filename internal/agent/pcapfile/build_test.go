package pcapfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// byteOrder is what the builders need of encoding/binary's two orders.
type byteOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

var orders = []byteOrder{binary.LittleEndian, binary.BigEndian}

// pcapFile builds a classic capture file. The zero values of minor and magic
// stand for 2.4 and microseconds.
type pcapFile struct {
	order byteOrder
	magic uint32
	link  uint32
	b     []byte
}

func newPcap(order byteOrder, magic, link uint32) *pcapFile {
	return newPcapVersion(order, magic, link, 2, 4)
}

func newPcapVersion(order byteOrder, magic, link uint32, major, minor uint16) *pcapFile {
	p := &pcapFile{order: order, magic: magic, link: link}
	p.b = order.AppendUint32(p.b, magic)
	p.b = order.AppendUint16(p.b, major)
	p.b = order.AppendUint16(p.b, minor)
	p.b = order.AppendUint32(p.b, 0)      // time zone
	p.b = order.AppendUint32(p.b, 0)      // accuracy
	p.b = order.AppendUint32(p.b, 262144) // snapshot length
	p.b = order.AppendUint32(p.b, link)
	return p
}

// packet adds a packet of wire bytes, of which data was captured.
func (p *pcapFile) packet(sec, frac uint32, data []byte, wire int) *pcapFile {
	p.header(sec, frac, uint32(len(data)), uint32(wire))
	if p.magic == magicModified {
		p.b = p.order.AppendUint32(p.b, 2)      // interface index
		p.b = p.order.AppendUint16(p.b, 0x0800) // protocol
		p.b = append(p.b, 4, 0)                 // PACKET_OUTGOING, padding
	}
	p.b = append(p.b, data...)
	return p
}

func (p *pcapFile) header(sec, frac, captured, wire uint32) *pcapFile {
	for _, v := range []uint32{sec, frac, captured, wire} {
		p.b = p.order.AppendUint32(p.b, v)
	}
	return p
}

// ngFile builds a pcapng file block by block.
type ngFile struct {
	order byteOrder
	b     []byte
}

func newNG(order byteOrder) *ngFile {
	return (&ngFile{}).section(order)
}

// option is an option's code and value, padded when it is written.
type option struct {
	code  uint16
	value []byte
}

func (p *ngFile) block(kind uint32, body []byte) *ngFile {
	length := uint32(len(body)+3)&^3 + blockOverhead
	return p.blockOf(kind, length, length, body)
}

// blockOf adds a block whose lengths may be wrong.
func (p *ngFile) blockOf(kind, length, trailer uint32, body []byte) *ngFile {
	p.b = p.order.AppendUint32(p.b, kind)
	p.b = p.order.AppendUint32(p.b, length)
	p.b = append(p.b, body...)
	p.b = append(p.b, make([]byte, -len(body)&3)...)
	p.b = p.order.AppendUint32(p.b, trailer)
	return p
}

func (p *ngFile) section(order byteOrder, options ...option) *ngFile {
	p.order = order
	var body []byte
	body = order.AppendUint32(body, byteOrderMagic)
	body = order.AppendUint16(body, 1)
	body = order.AppendUint16(body, 0)
	body = order.AppendUint64(body, 1<<64-1) // section length: not told
	return p.block(blockSection, p.options(body, options))
}

func (p *ngFile) options(body []byte, options []option) []byte {
	for _, o := range options {
		body = p.order.AppendUint16(body, o.code)
		body = p.order.AppendUint16(body, uint16(len(o.value)))
		body = append(body, o.value...)
		body = append(body, make([]byte, -len(o.value)&3)...)
	}
	return body
}

func (p *ngFile) iface(link uint16, snaplen uint32, options ...option) *ngFile {
	var body []byte
	body = p.order.AppendUint16(body, link)
	body = p.order.AppendUint16(body, 0)
	body = p.order.AppendUint32(body, snaplen)
	return p.block(blockInterface, p.options(body, options))
}

func (p *ngFile) enhanced(iface uint32, stamp uint64, data []byte, wire int, options ...option) *ngFile {
	return p.block(blockEnhanced, p.packetBody(p.order.AppendUint32(nil, iface), stamp, data, wire, options))
}

// obsolete adds a packet in the block that came before the enhanced one.
func (p *ngFile) obsolete(iface, drops uint16, stamp uint64, data []byte, wire int, options ...option) *ngFile {
	body := p.order.AppendUint16(nil, iface)
	body = p.order.AppendUint16(body, drops)
	return p.block(blockPacket, p.packetBody(body, stamp, data, wire, options))
}

func (p *ngFile) packetBody(body []byte, stamp uint64, data []byte, wire int, options []option) []byte {
	for _, v := range []uint32{uint32(stamp >> 32), uint32(stamp), uint32(len(data)), uint32(wire)} {
		body = p.order.AppendUint32(body, v)
	}
	body = append(body, data...)
	body = append(body, make([]byte, -len(data)&3)...)
	return p.options(body, options)
}

func (p *ngFile) simple(data []byte, wire int) *ngFile {
	return p.block(blockSimple, append(p.order.AppendUint32(nil, uint32(wire)), data...))
}

func (p *ngFile) flags(v uint32) option {
	return option{optPacketFlags, p.order.AppendUint32(nil, v)}
}

// payload is n bytes that differ with seed and place.
func payload(n, seed int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + seed*13 + i>>8)
	}
	return b
}

// gzipped compresses b.
func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// readAll reads frames, with copies of their data, up to the end; the error is
// nil at a clean one. It checks what holds for every frame.
func readAll(t testing.TB, src io.Reader) (frames []packet.Frame, skipped uint64, err error) {
	t.Helper()
	r, err := NewReader(src, "test")
	if err != nil {
		return nil, 0, err
	}
	for {
		var f packet.Frame
		if err = r.Next(&f); err != nil {
			break
		}
		if err := plausible(&f); err != nil {
			t.Fatalf("frame %d: %v", len(frames)+1, err)
		}
		f.Data = bytes.Clone(f.Data)
		frames = append(frames, f)
	}
	if again := r.Next(new(packet.Frame)); again != err {
		t.Fatalf("error did not stay: %v, then %v", err, again)
	}
	if err == io.EOF {
		err = nil
	}
	return frames, r.Skipped(), err
}

// plausible are the limits of every frame, however damaged its file is.
func plausible(f *packet.Frame) error {
	switch {
	case len(f.Data) > maxCaptured:
		return fmt.Errorf("%d bytes of data", len(f.Data))
	case cap(f.Data) != len(f.Data):
		return fmt.Errorf("capacity %d beyond the data's %d bytes", cap(f.Data), len(f.Data))
	case f.WireLen < len(f.Data):
		return fmt.Errorf("%d bytes captured of %d", len(f.Data), f.WireLen)
	case f.Link > packet.RawIP, f.Direction > packet.Outgoing:
		return fmt.Errorf("link %d, direction %d", f.Link, f.Direction)
	case f.VLAN.Present, f.GSOType != packet.GSONone:
		return fmt.Errorf("a file cannot tell: VLAN %v, GSO %v", f.VLAN, f.GSOType)
	}
	return nil
}
