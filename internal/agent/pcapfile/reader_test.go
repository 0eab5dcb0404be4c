package pcapfile

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// TestPcapVariants reads the same packets from every kind of classic file.
func TestPcapVariants(t *testing.T) {
	variants := []struct {
		magic     uint32
		frac      uint32
		direction packet.Direction
	}{
		{magicMicro, 654321, packet.Unknown},
		{magicNano, 654321000, packet.Unknown},
		{magicModified, 654321, packet.Outgoing},
	}
	for _, order := range orders {
		for _, v := range variants {
			for _, zip := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v/%x/gzip=%v", order, v.magic, zip), func(t *testing.T) {
					file := newPcap(order, v.magic, linkEthernet).
						packet(1, v.frac, payload(60, 1), 60).
						packet(4294967295, v.frac, payload(96, 2), 1514).
						packet(3, v.frac, nil, 64).b
					if zip {
						file = gzipped(t, file)
					}
					expect(t, file, []packet.Frame{
						{Data: payload(60, 1), Time: 1_654321000, WireLen: 60, Direction: v.direction},
						{Data: payload(96, 2), Time: 4294967295_654321000, WireLen: 1514, Direction: v.direction},
						{Data: []byte{}, Time: 3_654321000, WireLen: 64, Direction: v.direction},
					})
				})
			}
		}
	}
}

// expect reads a file to a clean end and compares its frames.
func expect(t *testing.T, file []byte, want []packet.Frame) {
	t.Helper()
	got, _, err := readAll(t, bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %+v\nwant %+v", got, want)
	}
}

// TestPcapOldVersions: lengths were the other way round.
func TestPcapOldVersions(t *testing.T) {
	tests := []struct {
		minor           uint16
		captured, wire  uint32 // as stored
		length, wireLen int
	}{
		{4, 10, 20, 10, 20},
		{3, 10, 20, 10, 20},
		{3, 20, 10, 10, 20},
		{2, 20, 10, 10, 20},
		{2, 10, 20, 20, 20},
		{0, 10, 10, 10, 10},
	}
	for _, tt := range tests {
		p := newPcapVersion(binary.LittleEndian, magicMicro, linkEthernet, 2, tt.minor)
		p.header(1, 2, tt.captured, tt.wire).b = append(p.b, payload(tt.length, 1)...)
		expect(t, p.b, []packet.Frame{{Data: payload(tt.length, 1), Time: 1_000002000, WireLen: tt.wireLen}})
	}
}

// TestPcapLongerThanWire: some writers get the packet's own length wrong.
func TestPcapLongerThanWire(t *testing.T) {
	file := newPcap(binary.LittleEndian, magicMicro, linkEthernet).packet(1, 0, payload(64, 1), 60).b
	expect(t, file, []packet.Frame{{Data: payload(64, 1), Time: 1e9, WireLen: 64}})
}

// TestPcapLinkField: the upper half of the link type field tells of checksums.
func TestPcapLinkField(t *testing.T) {
	file := newPcap(binary.BigEndian, magicMicro, 0x2400_0000|linkRaw).packet(1, 0, payload(20, 1), 20).b
	expect(t, file, []packet.Frame{{Data: payload(20, 1), Time: 1e9, WireLen: 20, Link: packet.RawIP}})
}

// TestLargePacket: BIG TCP frames, and the largest that is believed.
func TestLargePacket(t *testing.T) {
	for _, n := range []int{184_320, 262_144, maxCaptured} {
		data := payload(n, 3)
		want := []packet.Frame{
			{Data: payload(60, 1), Time: 1e9, WireLen: 60},
			{Data: data, Time: 2e9, WireLen: n},
			{Data: payload(60, 2), Time: 3e9, WireLen: 60},
		}
		p := newPcap(binary.LittleEndian, magicMicro, linkEthernet)
		ng := newNG(binary.BigEndian).iface(linkEthernet, 0, option{optTSResolution, []byte{9}})
		for i := range want {
			p.packet(uint32(i+1), 0, want[i].Data, want[i].WireLen)
			ng.enhanced(0, uint64(want[i].Time), want[i].Data, want[i].WireLen)
		}
		expect(t, p.b, want)
		expect(t, ng.b, want)
	}
}

// TestNGBlocks has one of every block that carries packets, among others that
// do not.
func TestNGBlocks(t *testing.T) {
	for _, order := range orders {
		p := newNG(order).
			iface(linkEthernet, 40).
			iface(linkRaw, 0, option{1, []byte("comment")}, option{optTSResolution, []byte{9}},
							option{optTSOffset, order.AppendUint64(nil, 1000)}, option{optEnd, nil}, option{optTSResolution, []byte{3}}).
			block(5, payload(40, 1)).  // interface statistics
			block(10, payload(41, 1)). // decryption secrets
			block(4, payload(3, 1))    // name resolution
		in, out, odd := p.flags(0x1d), p.flags(2), p.flags(3)
		p.enhanced(0, 5_000001, payload(21, 1), 60, option{1, []byte("a")}, in, option{optEnd, nil}, out).
			enhanced(1, 7, payload(22, 2), 22, out). // options without end
			block(0xBAD, payload(3*bufferSize+1, 1)).
			obsolete(1, 0xffff, 8, payload(23, 3), 40, out, option{optEnd, nil}).
			simple(payload(24, 4), 24).
			simple(payload(40, 5), 1514). // cut at interface 0's snapshot length
			enhanced(0, 0, nil, 64, odd).
			enhanced(0, 9, payload(4, 6), 4, out, option{2, []byte{1}}, option{99, nil}).
			block(0x80000001, nil)
		expect(t, p.b, []packet.Frame{
			{Data: payload(21, 1), Time: 5_000001000, WireLen: 60, Direction: packet.Incoming},
			{Data: payload(22, 2), Time: 1000_000000007, WireLen: 22, Link: packet.RawIP, Direction: packet.Outgoing},
			{Data: payload(23, 3), Time: 1000_000000008, WireLen: 40, Link: packet.RawIP, Direction: packet.Outgoing},
			{Data: payload(24, 4), WireLen: 24},
			{Data: payload(40, 5), WireLen: 1514},
			{Data: []byte{}, WireLen: 64},
			{Data: payload(4, 6), Time: 9000, WireLen: 4, Direction: packet.Outgoing},
		})
	}
}

// TestNGSections: each section has its own byte order and interfaces.
func TestNGSections(t *testing.T) {
	p := newNG(binary.LittleEndian).iface(linkEthernet, 0).enhanced(0, 1, payload(20, 1), 20).
		section(binary.BigEndian, option{1, []byte("a comment")}).iface(linkRaw, 0).iface(linkEthernet, 0).
		enhanced(0, 2, payload(21, 2), 21).enhanced(1, 3, payload(22, 3), 22).
		section(binary.LittleEndian).
		section(binary.LittleEndian).iface(linkIPv6, 0, option{optTSResolution, []byte{0x80}}).
		enhanced(0, 4, payload(23, 4), 23)
	expect(t, p.b, []packet.Frame{
		{Data: payload(20, 1), Time: 1000, WireLen: 20},
		{Data: payload(21, 2), Time: 2000, WireLen: 21, Link: packet.RawIP},
		{Data: payload(22, 3), Time: 3000, WireLen: 22},
		{Data: payload(23, 4), Time: 4e9, WireLen: 23, Link: packet.Network, Protocol: etherIPv6},
	})
}

// TestNGVersion: 1.2 is a slip of some writers for 1.0.
func TestNGVersion(t *testing.T) {
	p := newNG(binary.BigEndian).iface(linkEthernet, 0).enhanced(0, 1, payload(20, 1), 20)
	p.b[15] = 2
	expect(t, p.b, []packet.Frame{{Data: payload(20, 1), Time: 1000, WireLen: 20}})
}

func TestSkipped(t *testing.T) {
	p := newNG(binary.LittleEndian).iface(147, 0).iface(linkRaw, 0).iface(linkSLL, 0).
		enhanced(0, 1, payload(20, 1), 20).
		enhanced(1, 2, payload(20, 2), 20).
		enhanced(0, 3, payload(20, 3), 20).
		enhanced(2, 4, payload(sllLen-1, 4), 60)
	r, err := NewReader(bytes.NewReader(p.b), "test")
	if err != nil {
		t.Fatal(err)
	}
	var f packet.Frame
	if err := r.Next(&f); err != nil || f.Time != 2000 {
		t.Fatalf("time %d, error %v", f.Time, err)
	}
	if err := r.Next(&f); err != io.EOF {
		t.Fatalf("error %v, want EOF", err)
	}
	if got := r.SkippedLinks(); r.Skipped() != 2 || r.Short() != 1 || r.Packets() != 4 || !reflect.DeepEqual(got, []uint16{147}) {
		t.Errorf("skipped %d of link types %v, %d cut short, of %d", r.Skipped(), got, r.Short(), r.Packets())
	}
}

// TestEmptyPackets: a record header of zeros is a packet of no bytes, as
// preallocated files end with.
func TestEmptyPackets(t *testing.T) {
	for _, order := range []byteOrder{binary.LittleEndian, binary.BigEndian} {
		p := newPcap(order, magicMicro, linkEthernet).packet(1, 0, payload(60, 1), 60)
		expect(t, append(p.b, make([]byte, 3*recordLen)...), []packet.Frame{
			{Data: payload(60, 1), Time: 1e9, WireLen: 60}, {Data: []byte{}}, {Data: []byte{}}, {Data: []byte{}},
		})
	}
}

// TestForeignFiles: what is no capture file is named, with the next step.
func TestForeignFiles(t *testing.T) {
	const line = "1560390672.895279:10.0.0.1:5001:10.0.0.2:5002:732:1000:17\n"
	ipfix := "\x00\x0a\x00\x40\x65\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x02\x00\x30"
	packed := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return b.String()
	}
	for _, tt := range []struct{ name, content, says, hint string }{
		{"x.zst", "\x28\xb5\x2f\xfd123456", "it is compressed by zstd", "zstd -dc x.zst | pcapper -read -"},
		{"x y.xz", "\xfd7zXZ\x00123456", "it is compressed by xz", "xz -dc 'x y.xz' | pcapper -read -"},
		{"x.bz2", "BZh91AY", "it is compressed by bzip2", "bzip2 -dc x.bz2 | pcapper -read -"},
		{stdinName, "\x28\xb5\x2f\xfd123456", "it is compressed by zstd", "in a pipe: zstd -dc | pcapper -read -"},
		{"x.gz", packed("\x28\xb5\x2f\xfd123456"), "compressed by gzip, and what is in it is compressed by zstd", "in a pipe: zstd -dc | pcapper -read -"},
		{"x.snoop", "snoop\x00\x00\x00\x00\x00\x00\x02", "it is a snoop capture file", "editcap -F pcap x.snoop - | pcapper -read -"},
		{"x.ipfix", ipfix, "it is a file of IPFIX messages", "recollect -replay x.ipfix plays it"},
		{"x.ipfix.gz", packed(ipfix), "what is in it is a file of IPFIX messages", "recollect -replay x.ipfix.gz plays it"},
		{"x.log", line, "it is an agent's log", "recollect -replay x.log plays it"},
		{"empty", "", "it is empty", "-U"},
		{"noise", "noise", `"noise" is not a capture file: it begins with the bytes 6e 6f 69 73`, ""},
	} {
		_, err := NewReader(strings.NewReader(tt.content), tt.name)
		var e *ForeignError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(e.Hint(), tt.hint) || tt.hint == "" && e.Hint() != "" {
			t.Errorf("%s: %v, hint %q, want %q and %q", tt.name, err, e.Hint(), tt.says, tt.hint)
		}
	}
	_, err := Open(t.TempDir())
	var e *ForeignError
	if !errors.As(err, &e) || e.What != "a directory" || e.Hint() == "" {
		t.Errorf("a directory: %v", err)
	}
}

// TestSkippedLinksBounded: a file cannot make the list long.
func TestSkippedLinksBounded(t *testing.T) {
	p := newNG(binary.LittleEndian)
	for i := range uint32(100) {
		p.iface(uint16(300+i), 0).enhanced(i, 0, nil, 0)
	}
	r, err := NewReader(bytes.NewReader(p.b), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Next(new(packet.Frame)); err != io.EOF || r.Skipped() != 100 || len(r.SkippedLinks()) != maxLinks {
		t.Errorf("error %v, skipped %d, link types %v", err, r.Skipped(), r.SkippedLinks())
	}
}

// samples are well-formed files with a few packets of several lengths.
func samples() map[string][]byte {
	ng := newNG(binary.BigEndian).iface(linkEthernet, 0).iface(linkSLL2, 0)
	ng.enhanced(0, 1, payload(60, 1), 60, ng.flags(1)).obsolete(1, 0, 2, payload(61, 2), 100).
		simple(payload(7, 3), 7).block(77, payload(9, 1)).section(binary.LittleEndian).
		iface(linkRaw, 0).enhanced(0, 3, payload(33, 4), 33, option{1, []byte("xyz")})
	return map[string][]byte{
		"pcap": newPcap(binary.LittleEndian, magicMicro, linkEthernet).
			packet(1, 2, payload(60, 1), 60).packet(2, 3, payload(1, 2), 1514).packet(3, 4, payload(131, 3), 131).b,
		"modified": newPcap(binary.BigEndian, magicModified, linkSLL).
			packet(1, 2, payload(60, 1), 60).packet(2, 3, payload(17, 2), 1514).b,
		"pcapng": ng.b,
	}
}

// TestCutAnywhere cuts files at every byte: what is whole before is delivered,
// and the error is there unless the cut is between records.
func TestCutAnywhere(t *testing.T) {
	for name, file := range samples() {
		t.Run(name, func(t *testing.T) {
			whole, _, err := readAll(t, bytes.NewReader(file))
			if err != nil {
				t.Fatal(err)
			}
			clean := 0
			for n := range file {
				got, _, err := readAll(t, bytes.NewReader(file[:n]))
				checkCut(t, n, whole, got, err)
				if err == nil {
					clean++
				}
			}
			if clean < len(whole) || clean > 3*len(whole)+1 {
				t.Errorf("%d clean ends in a file of %d packets", clean, len(whole))
			}
		})
	}
}

func checkCut(t *testing.T, n int, whole, got []packet.Frame, err error) {
	t.Helper()
	if len(got) > len(whole) || len(got) > 0 && !reflect.DeepEqual(got, whole[:len(got)]) {
		t.Fatalf("cut at %d: %d frames that are not the file's first", n, len(got))
	}
	if err == nil || n == 0 {
		return
	}
	var damage *DamageError
	if !errors.As(err, &damage) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("cut at %d: %v", n, err)
	}
	if damage.Packet != uint64(len(got))+1 || damage.Offset > int64(n) {
		t.Fatalf("cut at %d after %d packets: %v", n, len(got), err)
	}
}

// TestReadSizes: how many bytes a read call gives makes no difference.
func TestReadSizes(t *testing.T) {
	for name, file := range samples() {
		whole, _, err := readAll(t, bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		zipped := gzipped(t, file)
		for way, src := range map[string]io.Reader{
			"one byte":      iotest.OneByteReader(bytes.NewReader(file)),
			"half":          iotest.HalfReader(bytes.NewReader(file)),
			"EOF with data": iotest.DataErrReader(bytes.NewReader(file)),
			"gzip":          iotest.OneByteReader(bytes.NewReader(zipped)),
			"gzip at once":  iotest.DataErrReader(bytes.NewReader(zipped)),
		} {
			got, _, err := readAll(t, src)
			if err != nil || !reflect.DeepEqual(got, whole) {
				t.Errorf("%s, %s: error %v, frames %+v", name, way, err, got)
			}
		}
	}
}

// TestDamage has files that are wrong in one place each.
func TestDamage(t *testing.T) {
	le := binary.LittleEndian
	pc := func() *pcapFile { return newPcap(le, magicMicro, linkEthernet).packet(1, 0, payload(60, 1), 60) }
	ng := func() *ngFile {
		return newNG(le).iface(linkEthernet, 0).enhanced(0, 1, payload(60, 1), 60)
	}
	body := func(iface uint32, captured uint32, data []byte) []byte {
		b := newNG(le).packetBody(le.AppendUint32(nil, iface), 1, data, 60, nil)
		le.PutUint32(b[12:], captured)
		return b
	}
	lateSection := func(change func(b []byte)) []byte {
		p := ng()
		n := len(p.b)
		p.section(le)
		change(p.b[n:])
		return p.b
	}
	tests := []struct {
		name, want string
		file       []byte
	}{
		{"huge caplen", "captured length 4294967295", pc().header(1, 0, 0xffffffff, 0xffffffff).b},
		{"caplen over the limit", "captured length 266241", append(pc().header(1, 0, maxCaptured+1, maxCaptured+1).b, payload(maxCaptured+1, 0)...)},
		{"zeros that are no whole header", "15 of 16 bytes of a packet's header", append(pc().b, make([]byte, 15)...)},
		{"cut header", "15 of 16 bytes of a packet's header", append(pc().b, payload(15, 1)...)},
		{"cut data", "25 of 76 bytes of a packet", append(pc().header(1, 0, 60, 60).b, payload(9, 1)...)},
		{"zero block", "block of 0 bytes", append(ng().b, make([]byte, 64)...)},
		{"short block", "block of 8 bytes", ng().blockOf(99, 8, 8, nil).b},
		{"odd block", "block of 13 bytes", ng().blockOf(99, 13, 13, payload(4, 1)).b},
		{"huge block", "cut off: 16 of 4294967292 bytes", ng().blockOf(99, 0xfffffffc, 1, payload(4, 1)).b},
		{"trailer of a skipped block", "of 16 bytes at its start, of 20 at its end", ng().blockOf(99, 16, 20, payload(4, 1)).b},
		{"trailer of a packet", "of 44 bytes at its start, of 48 at its end", ng().blockOf(blockEnhanced, 44, 48, body(0, 12, payload(12, 1))).b},
		{"packet block too short", "want 32 to", ng().blockOf(blockEnhanced, 28, 28, payload(16, 1)).b},
		{"packet block too long", "block of 4294967280 bytes", ng().blockOf(blockEnhanced, 0xfffffff0, 0, body(0, 8, payload(8, 1))).b},
		{"data beyond the block", "room for 12", ng().block(blockEnhanced, body(0, 13, payload(12, 1))).b},
		{"huge caplen in a block", "captured length 4294967295", ng().block(blockEnhanced, body(0, 0xffffffff, payload(12, 1))).b},
		{"unknown interface", "interface 1: the section describes 1", ng().block(blockEnhanced, body(1, 12, payload(12, 1))).b},
		{"highest interface", "interface 4294967295", ng().block(blockEnhanced, body(0xffffffff, 12, payload(12, 1))).b},
		{"interface of an older section", "interface 0: the section describes 0", ng().section(le).block(blockPacket, body(0, 12, payload(12, 1))).b},
		{"simple packet without interface", "before its interface", ng().section(le).simple(payload(8, 1), 8).b},
		{"simple packet beyond its block", "room for 8", ng().simple(payload(8, 1), 9).b},
		{"simple packet's block too short", "want 16 to", ng().blockOf(blockSimple, 12, 12, nil).b},
		{"short interface", "want 20 to", ng().blockOf(blockInterface, 16, 16, payload(4, 1)).b},
		{"interface option too long", "option that runs out", ng().block(blockInterface, append(make([]byte, 8), 9, 0, 5, 0, 6, 0, 0, 0)).b},
		{"byte-order magic", "magic 0x1a2b3c4c", lateSection(func(b []byte) { b[8]-- })},
		{"pcapng version", "version 2.0", lateSection(func(b []byte) { b[12] = 2 })},
		{"pcapng minor version", "version 1.3", lateSection(func(b []byte) { b[14] = 3 })},
		{"section header too short", "section header of 24", lateSection(func(b []byte) { b[4] = 24 })},
		{"section trailer", "at its end", lateSection(func(b []byte) { b[24]++ })},
		{"cut section header", "27 of 28 bytes of a section header", lateSection(func([]byte) {})[:len(ng().b)+27]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			frames, _, err := readAll(t, bytes.NewReader(tt.file))
			if len(frames) != 1 || !bytes.Equal(frames[0].Data, payload(60, 1)) {
				t.Errorf("before the damage: %+v", frames)
			}
			var damage *DamageError
			if !errors.As(err, &damage) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want a DamageError with %q", err, tt.want)
			}
			good := int64(len(pc().b))
			if isPcapng(tt.file) {
				good = int64(len(ng().b))
			}
			// Some cases have a good section header before the bad block.
			if damage.Name != "test" || damage.Packet != 2 || damage.Offset != good && damage.Offset != good+28 {
				t.Errorf("%+v, want byte %d, packet 2", damage, good)
			}
		})
	}
}

// TestNoCaptureFile: errors of opening.
func TestNoCaptureFile(t *testing.T) {
	le := binary.LittleEndian
	tests := []struct {
		name, want string
		file       []byte
	}{
		{"empty", "empty", nil},
		{"two bytes", "2 of 24 bytes of the file header", []byte{0xd4, 0xc3}},
		{"text", "is not a capture file", []byte("hello, world\n")},
		{"cut pcap", "23 of 24 bytes", newPcap(le, magicMicro, 1).b[:23]},
		{"version 3", "version 3.0", newPcapVersion(le, magicMicro, 1, 3, 0).b},
		{"version 2.5", "version 2.5", newPcapVersion(le, magicMicro, 1, 2, 5).b},
		{"cut pcapng", "11 of 28 bytes", newNG(le).b[:11]},
		{"line ends", "byte-order magic", append([]byte("\n\r\r\n"), payload(40, 1)...)},
		{"gzip'd text", "is not a capture file", gzipped(t, []byte("hello, world\n"))},
		{"gzip'd nothing", "empty", gzipped(t, nil)},
		{"cut gzip header", "unexpected EOF", gzipped(t, []byte("x"))[:5]},
		{"bad gzip header", "gzip: invalid header", append([]byte{0x1f, 0x8b, 8, 0xff}, payload(20, 1)...)[:4:4]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := NewReader(bytes.NewReader(tt.file), "test")
			if err == nil {
				t.Fatalf("no error, reader %+v", r)
			}
			if err == io.EOF || !strings.Contains(err.Error(), `"test"`) {
				t.Errorf("error %v: does not name the file", err)
			}
			if tt.name != "bad gzip header" && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// TestGzipLarge: packed data that is longer than every buffer, and packets
// for which much of it has to be unpacked at once.
func TestGzipLarge(t *testing.T) {
	rnd := rand.NewChaCha8([32]byte{})
	p := newPcap(binary.LittleEndian, magicMicro, linkEthernet)
	var want []packet.Frame
	for i := range 10 {
		data := make([]byte, 200_000)
		rnd.Read(data)
		for j := range data {
			data[j] &= 0x0f // packs to half its length
		}
		p.packet(uint32(i), 0, data, len(data))
		want = append(want, packet.Frame{Data: data, Time: int64(i) * 1e9, WireLen: len(data)})
	}
	expect(t, gzipped(t, p.b), want)
}

// TestGzipDamage: what could be unpacked is delivered.
func TestGzipDamage(t *testing.T) {
	p := newPcap(binary.LittleEndian, magicMicro, linkEthernet)
	for i := range 1000 {
		p.packet(uint32(i), 0, payload(100+i, i*i), 2000)
	}
	zipped := gzipped(t, p.b)
	cut, _, err := readAll(t, bytes.NewReader(zipped[:len(zipped)/2]))
	var damage *DamageError
	if !errors.As(err, &damage) || !damage.Unpacked || !errors.Is(err, io.ErrUnexpectedEOF) || len(cut) == 0 || len(cut) == 1000 {
		t.Errorf("cut: %d frames, error %v", len(cut), err)
	}
	bad := bytes.Clone(zipped)
	bad[len(bad)-8] ^= 1 // CRC-32, which comes after everything
	frames, _, err := readAll(t, bytes.NewReader(bad))
	if !errors.As(err, &damage) || !strings.Contains(err.Error(), "checksum") || len(frames) != 1000 {
		t.Errorf("checksum: %d frames, error %v", len(frames), err)
	}
}

// TestReadError: an error of the source is told, after what came before it.
func TestReadError(t *testing.T) {
	broken := errors.New("broken disk")
	file := samples()["pcap"]
	for _, n := range []int{2, 20, 100, len(file)} {
		src := io.MultiReader(bytes.NewReader(file[:n]), iotest.ErrReader(broken))
		frames, _, err := readAll(t, src)
		if !errors.Is(err, broken) || n == len(file) && len(frames) != 3 {
			t.Errorf("after %d bytes: %d frames, error %v", n, len(frames), err)
		}
	}
	once := &errOnce{data: gzipped(t, file)[:30], err: broken}
	if _, _, err := readAll(t, once); !errors.Is(err, broken) {
		t.Errorf("an error that comes with the first bytes of a gzip'd file: %v", err)
	}
	_, err := NewReader(idle{}, "test")
	if !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a source that gives nothing: %v", err)
	}
}

// errOnce gives data and an error in one call, and says EOF afterwards.
type errOnce struct {
	data []byte
	err  error
}

func (e *errOnce) Read(b []byte) (int, error) {
	err := e.err
	e.err = io.EOF
	n := copy(b, e.data)
	e.data = e.data[n:]
	return n, err
}

// idle is a broken source.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("directory: %v", err)
	}
	name := filepath.Join(dir, "file")
	if err := os.WriteFile(name, samples()["pcap"], 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file was not closed: %v", err)
	}
}

// TestLivePipe: standard input is a pipe whose packets are seen when they are
// written, not when a buffer is full.
func TestLivePipe(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin := os.Stdin
	os.Stdin = in
	t.Cleanup(func() { os.Stdin = stdin; in.Close(); out.Close() })

	p := newPcap(binary.LittleEndian, magicNano, linkEthernet)
	write := func() {
		if _, err := out.Write(p.b); err != nil {
			t.Fatal(err)
		}
		p.b = p.b[:0]
	}
	write()
	r, err := Open(Stdin)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		p.packet(uint32(i), 0, payload(40, i), 40)
		write()
		var f packet.Frame
		if err := r.Next(&f); err != nil || !bytes.Equal(f.Data, payload(40, i)) || r.Buffered() != 0 {
			t.Fatalf("packet %d: %+v, error %v, %d bytes buffered", i, f, err, r.Buffered())
		}
	}
	out.Close()
	if err := r.Next(new(packet.Frame)); err != io.EOF {
		t.Errorf("error %v, want EOF", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := in.Stat(); err != nil {
		t.Errorf("standard input was closed: %v", err)
	}
}

// TestNoAllocation: no memory per packet, and the same whatever the file says.
func TestNoAllocation(t *testing.T) {
	const packets = 20_000
	p := newPcap(binary.LittleEndian, magicMicro, linkSLL)
	ng := newNG(binary.BigEndian).iface(linkEthernet, 0)
	for i := range packets {
		p.packet(uint32(i), 1, payload(64, i), 64)
		ng.enhanced(0, uint64(i), payload(64, i), 64, ng.flags(1), option{1, []byte("comment")})
	}
	for name, file := range map[string][]byte{"pcap": p.b, "pcapng": ng.b} {
		r, err := NewReader(bytes.NewReader(file), name)
		if err != nil {
			t.Fatal(err)
		}
		var f packet.Frame
		if err := r.Next(&f); err != nil {
			t.Fatal(err)
		}
		allocs := testing.AllocsPerRun(packets-2, func() {
			if err := r.Next(&f); err != nil {
				t.Fatal(err)
			}
		})
		if allocs != 0 || len(r.in.buf) != bufferSize {
			t.Errorf("%s: %v allocations per packet, buffer of %d bytes", name, allocs, len(r.in.buf))
		}
	}
}

// TestManyInterfaces: a file cannot fill the memory with descriptions.
func TestManyInterfaces(t *testing.T) {
	p := newNG(binary.LittleEndian)
	for range maxInterfaces {
		p.iface(linkEthernet, 0)
	}
	p.enhanced(maxInterfaces-1, 5, payload(20, 1), 20).iface(linkEthernet, 0)
	frames, _, err := readAll(t, bytes.NewReader(p.b))
	if len(frames) != 1 || err == nil || !strings.Contains(err.Error(), "more than 65536 interfaces") {
		t.Errorf("%d frames, error %v", len(frames), err)
	}
}
