package decode

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// keepHeader is the C form of the rules.
const keepHeader = "../capture/bpf/keep.h"

var updateKeep = flag.Bool("keep.update", false, "write "+keepHeader)

// TestKeepHeader compares the C form of the rules with the rules; with
// -keep.update, which `go generate ./internal/agent/capture` gives, it writes it.
func TestKeepHeader(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`// Code generated from keep.go of package decode by "go generate"; DO NOT EDIT.

`)
	fmt.Fprintf(&b, "#define KEEP_PLAIN %d\n#define KEEP_HEADERS %d\n#define KEEP_MOST %d\n", keepPlain, keepHeaders, keepMost)
	writeKeep(&b, "enough", "says how many bytes of an Ethernet frame a decoder can need, given the first 48.", keepIPv4)
	writeKeep(&b, "enough6", "says it of a frame of which enough() said KEEP_MOST, given the first KEEP_HEADERS.", keepIPv6)
	writeKeep(&b, "parsed", "says why a plain UDP datagram is not MGEN's, given its frame's first 48 bytes; 0 if it may be, or the frame is another.", parsedUDP)
	if *updateKeep {
		if err := os.WriteFile(keepHeader, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(keepHeader); err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the rules say: run go generate ./internal/agent/capture (%v)", keepHeader, err)
	}
}

func writeKeep(b *bytes.Buffer, name, does string, rules []keepRule) {
	fmt.Fprintf(b, "\n// %s %s\nINLINE u32 %s(const u8 *d, u32 gso_size)\n{\n", name, does, name)
	for _, r := range rules {
		var when []string
		for _, t := range r.when {
			when = append(when, fmt.Sprintf("%s %s %s", t.a.c(), t.op, t.b.c()))
		}
		if when != nil {
			fmt.Fprintf(b, "\tif (%s)\n\t", strings.Join(when, " && "))
		}
		value := map[int]string{keepPlain: "KEEP_PLAIN", keepHeaders: "KEEP_HEADERS", keepMost: "KEEP_MOST"}[r.bytes]
		if name == "parsed" {
			value = strconv.Itoa(int(r.reason))
		}
		fmt.Fprintf(b, "\treturn %s;\n", value)
	}
	b.WriteString("}\n")
}

// c is the value as C has it.
func (v keepValue) c() string {
	var s string
	switch v.kind {
	case keepNumber:
		return fmt.Sprintf("%#x", v.add)
	case keepByte:
		s = fmt.Sprintf("d[%d]", v.at)
	case keepWord:
		s = fmt.Sprintf("get16(d + %d)", v.at)
	case keepGSO:
		s = "gso_size"
	case keepInside:
		s = "inside"
	}
	if v.mask != 0 {
		s = fmt.Sprintf("(%s & %#x)", s, v.mask)
	}
	if v.add != 0 {
		s = fmt.Sprintf("%s + %d", s, v.add)
	}
	return s
}

// TestKept decodes every frame of testdata, whole and as the eBPF engine keeps
// it, alone and as a super-packet of every kind.
func TestKept(t *testing.T) {
	cut, parsed := 0, 0
	for _, s := range keptSeeds(t) {
		for _, mine := range []bool{false, true} {
			p := s
			if p.Direction = packet.Incoming; mine && len(p.Data) > 12 {
				p.Direction = packet.Outgoing
				p.Data = slices.Concat(p.Data[:6], keptMAC, p.Data[12:])
			}
			if checkParsed(t, p, false) {
				parsed++
			}
		}
		if s.GSOType == packet.GSONone && kept(&s, false) < min(len(s.Data), keepMost) {
			cut++
		}
		for kind := packet.GSONone; kind <= packet.GSOUDPL4; kind++ {
			for _, size := range []uint16{60, 1398} {
				s.GSOType, s.GSOSize = kind, size
				for _, inside := range []bool{false, true} {
					checkKept(t, s, inside)
				}
			}
		}
	}
	if cut == 0 || parsed == 0 {
		t.Errorf("%d frames cut, %d parsed; want some of both", cut, parsed)
	}
}

// keptSeeds are frames of all captures and more in tunnels, as the ring engine
// keeps them.
func keptSeeds(t testing.TB) []packet.Frame {
	seeds := mutationSeeds(t)
	for i := range seeds {
		seeds[i].Data = seeds[i].Data[:min(len(seeds[i].Data), keepMost)]
	}
	return seeds
}

// FuzzKept is TestKept for any frame.
func FuzzKept(f *testing.F) {
	for i, s := range keptSeeds(f) {
		if i%8 == 0 || s.GSOType != packet.GSONone {
			f.Add(s.Data, uint32(s.WireLen), s.GSOType, s.GSOSize, i&1 != 0)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, wireLen uint32, gsoType uint8, gsoSize uint16, inside bool) {
		b = b[:min(len(b), keepMost)]
		checkKept(t, packet.Frame{
			Data: b, Time: 1795415000e9, WireLen: max(int(wireLen%1e6), len(b)), GSOType: gsoType % 6, GSOSize: gsoSize,
		}, inside)
	})
}

// checkKept checks that a frame gives the same records, and the same counters,
// whole and as the eBPF engine keeps it.
func checkKept(t *testing.T, f packet.Frame, inside bool) {
	t.Helper()
	if f.GSOType == packet.GSONone {
		f.GSOSize = 0 // as from the kernel, which tells both or neither
	}
	f.WireLen = max(f.WireLen, len(f.Data))
	for f.Direction = range packet.Outgoing + 1 {
		checkParsed(t, f, inside)
	}
	f.Direction = packet.Unknown
	whole, n, counters := decodeSome(&f, inside, false)
	size := kept(&f, inside)
	k := f
	k.Data = f.Data[:size:size]
	got, m, countersKept := decodeSome(&k, inside, false)
	if n != m || whole != got || counters != countersKept {
		t.Fatalf("%d bytes of %d, GSO %d %d, inside %v: %x\n%d records whole: %+v %+v\n%d records kept:  %+v %+v",
			size, len(f.Data), f.GSOType, f.GSOSize, inside, f.Data, n, whole, counters, m, got, countersKept)
	}
}

// checkParsed checks that a frame that the eBPF engine may parse gives the same record, and the
// same counters, as when it is decoded here. It reports whether this is such a frame.
func checkParsed(t *testing.T, f packet.Frame, inside bool) bool {
	t.Helper()
	p := parse(&f, inside)
	if p == nil {
		return false
	}
	f.WireLen = max(f.WireLen, len(f.Data))
	want, n, counters := decodeSome(&f, inside, true)
	var got [4]wire.Record
	d := keptDecoder(inside, true)
	p.Time -= 7
	d.DecodeParsed([]packet.Parsed{*p}, 7, got[:])
	m, countersParsed := 1, d.Counters()
	if n != m || want != got || counters != countersParsed {
		t.Fatalf("inside %v: %x\n%d records decoded: %+v %+v\n%d records parsed:  %+v %+v", inside, f.Data, n, want, counters, m, got, countersParsed)
	}
	return true
}

func keptDecoder(inside, noDigest bool) *Decoder {
	d := New(Config{FragmentEntries: 2, TCPEntries: 2, BMF: inside, Inner: inside, NoDigest: noDigest, MarkRelayed: true})
	d.SetLocal(Local{MAC: keptMAC, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	return d
}

var keptMAC = net.HardwareAddr{2, 0, 0, 0, 0, 0x0a}

// decodeSome gives the first records of a frame, the number of all of them, and
// the counters.
func decodeSome(f *packet.Frame, inside, noDigest bool) (first [4]wire.Record, n int, c Counters) {
	d := keptDecoder(inside, noDigest)
	n = d.Decode(f, first[:])
	if d.rest.left > 0 {
		n += (d.rest.left + d.rest.size - 1) / d.rest.size
	}
	return first, n, d.Counters()
}
