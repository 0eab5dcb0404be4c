package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
)

func packet4(mod func(*Record)) Record {
	r := Record{
		Time: 1560390672_895279_000, SrcPort: 5001, DstPort: 5002,
		Length: 732, FlowID: 1000, Proto: ProtoUDP, Flags: MGEN,
	}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	if mod != nil {
		mod(&r)
	}
	return r
}

func packet6(mod func(*Record)) Record {
	return packet4(func(r *Record) {
		r.Src = netip.MustParseAddr("2001:db8::1").As16()
		r.Dst = netip.MustParseAddr("fe80::a:b").As16()
		r.Flags |= IPv6
		if mod != nil {
			mod(r)
		}
	})
}

func TestBinaryLayout(t *testing.T) {
	r := packet4(nil)
	got, ok := AppendBinary([]byte("before"), &r)
	const want = "5d01ac10" + "000da92f" + "0a000001" + "0a000002" + "1389" + "138a" + "02dc" + "000003e8" + "11" + "00"
	if hex.EncodeToString(got[6:]) != want || !ok || string(got[:6]) != "before" {
		t.Errorf("got %x, %v, want %s", got, ok, want)
	}
}

func TestBinaryRefusesWhatItCannotHold(t *testing.T) {
	for name, mod := range map[string]func(*Record){
		"IPv6":          func(r *Record) { r.Flags |= IPv6 },
		"long":          func(r *Record) { r.Length = 65536 },
		"before 1970":   func(r *Record) { r.Time = -1 },
		"after 2106":    func(r *Record) { r.Time = (1 << 32) * nsPerSec },
		"huge":          func(r *Record) { r.Length = math.MaxUint32 },
		"IPv6 and long": func(r *Record) { r.Length = 70000; r.Flags |= IPv6 },
	} {
		r := packet4(mod)
		if b, ok := AppendBinary([]byte("x"), &r); ok || string(b) != "x" {
			t.Errorf("%s: appended %x, %v", name, b[1:], ok)
		}
	}
	for name, mod := range map[string]func(*Record){
		"65535 bytes": func(r *Record) { r.Length = 65535 },
		"1970":        func(r *Record) { r.Time = 0 },
		"2106":        func(r *Record) { r.Time = (1<<32)*nsPerSec - 1 },
	} {
		r := packet4(mod)
		b, ok := AppendBinary(nil, &r)
		var back Record
		if err := DecodeBinary(b, &back); !ok || err != nil || back.Time != r.Time/1000*1000 || back.Length != r.Length {
			t.Errorf("%s: %v, %v: %+v", name, ok, err, back)
		}
	}
}

func TestBinaryFlagsByte(t *testing.T) {
	for flags, want := range map[Flags]byte{
		0: 0, Relayed: 0, MarkRelayed: 0, Relayed | MarkRelayed: 1, Truncated | Fragment | Outgoing: 0,
	} {
		r := packet4(func(r *Record) { r.Flags = flags })
		b, _ := AppendBinary(nil, &r)
		if b[27] != want {
			t.Errorf("flags %b: byte 27 is %d, want %d", flags, b[27], want)
		}
		var back Record
		if err := DecodeBinary(b, &back); err != nil || (back.Flags&Relayed != 0) != (want == 1) {
			t.Errorf("flags %b: decoded %b, %v", flags, back.Flags, err)
		}
	}
}

func TestFlowIDIsOnlySentForMGEN(t *testing.T) {
	r := packet4(func(r *Record) { r.Flags = 0 })
	b, _ := AppendBinary(nil, &r)
	if flow := binary.BigEndian.Uint32(b[22:]); flow != 0 {
		t.Errorf("flow ID %d sent for a packet that is not MGEN's", flow)
	}
}

func TestDecodeBinaryErrors(t *testing.T) {
	var r Record
	if err := DecodeBinary(make([]byte, 27), &r); err == nil || !strings.Contains(err.Error(), "27 bytes: want 28") {
		t.Errorf("27 bytes: %v", err)
	}
	b := make([]byte, 28)
	binary.BigEndian.PutUint32(b[4:], 1_000_000)
	if err := DecodeBinary(b, &r); err == nil {
		t.Error("a million microseconds are no error")
	}
}

func TestHostStatistics(t *testing.T) {
	const now = 1_700_000_000_123_456_000
	for _, tt := range []struct {
		r     Record
		bytes string
		stat  Stat
		value uint64
	}{
		{CPUStat(now, 37), "6553f100" + "0001e240" + "01000000" + "01000000" + "0001" + "0001" + "0025" + "ffffffff" + "3d" + "00", CPU, 37},
		{MemoryStat(now, 1<<20), "6553f100" + "0001e240" + "02000000" + "02000000" + "0002" + "0002" + "1000" + "fffffffe" + "3d" + "00", Memory, 1 << 30},
		{MemoryStat(now, 1<<40), "6553f100" + "0001e240" + "02000000" + "02000000" + "0002" + "0002" + "ffff" + "fffffffe" + "3d" + "00", Memory, 0xffff << 18},
	} {
		b, ok := AppendBinary(nil, &tt.r)
		if !ok || hex.EncodeToString(b) != tt.bytes {
			t.Errorf("%c: %x, want %s", tt.stat, b, tt.bytes)
		}
		var back Record
		if err := DecodeBinary(b, &back); err != nil || back != tt.r {
			t.Errorf("%c: %+v, %v, want %+v", tt.stat, back, err, tt.r)
		}
		if back.Stat() != tt.stat || back.GrapherValue() != tt.value {
			t.Errorf("stat %c, value %d, want %c, %d", back.Stat(), back.GrapherValue(), tt.stat, tt.value)
		}
	}
	// Real traffic of protocol 61 is none.
	r := packet4(func(r *Record) { r.Proto = ProtoHostStat; r.Flags = 0; r.FlowID = 0 })
	b, _ := AppendBinary(nil, &r)
	var back Record
	if DecodeBinary(b, &back); back.Stat() != NotStat {
		t.Error("a packet of protocol 61 was taken for a host statistic")
	}
}

func TestLine(t *testing.T) {
	for _, tt := range []struct {
		r    Record
		want string
	}{
		{packet4(nil), "1560390672.895279:10.0.0.1:5001:10.0.0.2:5002:732:1000:17\n"},
		{packet6(nil), "1560390672.895279:[2001:db8::1]:5001:[fe80::a:b]:5002:732:1000:17\n"},
		{Record{}, "0.000000:0.0.0.0:0:0.0.0.0:0:0:0:0\n"},
		{packet4(func(r *Record) { r.Time = 7_000_001_999 }), "7.000001:10.0.0.1:5001:10.0.0.2:5002:732:1000:17\n"},
		{packet4(func(r *Record) { r.Time = -1_500_000_000; r.Length = 184306 }), "-1.500000:10.0.0.1:5001:10.0.0.2:5002:184306:1000:17\n"},
		{packet4(func(r *Record) { r.FlowID = math.MaxUint32; r.SrcPort = 65535; r.Proto = 255 }),
			"1560390672.895279:10.0.0.1:65535:10.0.0.2:5002:732:4294967295:255\n"},
		{packet6(func(r *Record) { r.Src = netip.MustParseAddr("::ffff:1.2.3.4").As16() }),
			"1560390672.895279:[::ffff:1.2.3.4]:5001:[fe80::a:b]:5002:732:1000:17\n"},
		{CPUStat(1e9, 5), "1.000000:1.0.0.0:1:1.0.0.0:1:5:4294967295:61\n"},
	} {
		if got := string(AppendLine(nil, &tt.r)); got != tt.want {
			t.Errorf("got  %swant %s", got, tt.want)
		}
		var back Record
		if err := ParseLine([]byte(tt.want), &back); err != nil {
			t.Error(err)
		} else if again := string(AppendLine(nil, &back)); again != tt.want {
			t.Errorf("parsed and printed: %swant %s", again, tt.want)
		}
	}
}

func TestLongestLine(t *testing.T) {
	r := Record{
		Time: math.MinInt64, SrcPort: 65535, DstPort: 65535, Length: math.MaxUint32,
		FlowID: math.MaxUint32, Proto: 255, Flags: IPv6 | MGEN,
	}
	for i := range r.Src {
		r.Src[i], r.Dst[i] = 0xff, 0xff
	}
	if n := len(AppendLine(nil, &r)); n > MaxLine {
		t.Errorf("a line of %d bytes, MaxLine is %d", n, MaxLine)
	}
}

func TestNumbersOfAllSizes(t *testing.T) {
	for _, v := range []uint32{0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 9999, 10000, 12345, 99999, 100000, 999999,
		1000000, 10000000, 123456789, 1000000000, 4294967295} {
		var b [lineRoom]byte
		if got := string(b[:putUint(&b, 0, v)]); got != fmt.Sprint(v) {
			t.Errorf("%d is written %q", v, got)
		}
	}
	for i := range 256 {
		a := [16]byte{12: byte(i), 13: byte(255 - i), 14: 1, 15: byte(i)}
		var b [lineRoom]byte
		if got, want := string(b[:putAddr(&b, 0, &a, false)]), netip.AddrFrom4([4]byte(a[12:])).String(); got != want {
			t.Errorf("address %q, want %q", got, want)
		}
	}
	for _, usec := range []int64{0, 1, 9, 10, 99, 100, 12345, 100000, 999999} {
		var b [lineRoom]byte
		if got, want := string(b[:putTime(&b, 0, usec*1000+999)]), fmt.Sprintf("0.%06d", usec); got != want {
			t.Errorf("time %q, want %q", got, want)
		}
	}
}

func TestParseLineErrors(t *testing.T) {
	const good = "1560390672.895279:10.0.0.1:5001:10.0.0.2:5002:732:1000:17"
	for _, tt := range []struct{ old, new, want string }{
		{"1560390672.895279", "1560390672.89527", "six decimals"},
		{"1560390672.895279", "now", "six decimals"},
		{"1560390672.895279", ".895279", "six decimals"},
		{"10.0.0.1", "10.0.0", `source address "10.0.0"`},
		{"10.0.0.1", "[10.0.0.1]", "in brackets"},
		{"10.0.0.1", "[2001:db8::1", "no closing bracket"},
		{"10.0.0.1", "[2001:db8::1]", "two IP versions"},
		{"10.0.0.2", "[fe80::1%eth0]", "destination address"},
		{"5001", "65536", "source port"},
		{"5001", "+5001", "source port"},
		{"5002", "-1", "destination port"},
		{"732", "", "length"},
		{"1000", "4294967296", "flow id"},
		{":17", "", "no protocol"},
		{":17", ":256", "protocol"},
		{":17", ":17:1", "more than eight"},
		{good, "", "time"},
		{":17", ":17:", "more than eight"},
		{good, good + " ", "protocol"},
		{good, good + "\n\n", "protocol"},
		{good, good + "\r", "protocol"},
		{good, " " + good, "time"},
		{good, "-" + good[10:], `time "-.895279"`},
		{"1560390672", "01560390672", "time"},
		{"1560390672", "9223372037", "time"},
		{"1560390672.895279", "9223372036.854776", "time"},
		{"10.0.0.1", "10.0.0.1x", `source address "10.0.0.1x"`},
		{"10.0.0.1", "10.0.0.256", "source address"},
		{"10.0.0.1", "10.0.0.0001", "source address"},
		{"10.0.0.1", "10.0.0.01", "source address"},
		{"10.0.0.1", "10..0.1", "source address"},
		{"10.0.0.1", "10.0.0.1.1", "source address"},
		{"10.0.0.1", "10.0.0.", "source address"},
		{"10.0.0.1", "", "source address"},
		{"10.0.0.1", "2001:db8::1", "source address"},
		{"10.0.0.1", "[2001:db8::1]x", "source address"},
		{"10.0.0.1", "[" + strings.Repeat("0:", 40) + "]", "no closing bracket"},
		{"5001", "05001", "source port"},
		{"5001", "18446744073709551617", "source port"},
		{"732", "4294967296", `length "4294967296": want a number from 0 to 4294967295`},
		{good, strings.Repeat("x", 5000), `"...: time "xxx`},
	} {
		line := strings.Replace(good, tt.old, tt.new, 1)
		var r Record
		if err := ParseLine([]byte(line), &r); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: error %v, want one about %q", line, err, tt.want)
		} else if r != (Record{}) || len(err.Error()) > 400 {
			t.Errorf("%q: record %v, error %v", line, r, err)
		}
	}
}

func TestGrapherLine(t *testing.T) {
	r := packet4(nil)
	for _, tt := range []struct {
		l    GrapherLine
		want string
	}{
		{GrapherLine{r.Time, "3", "1", r.GrapherValue(), 0}, "1560390672.895279:3:1:5856:0\n"},
		{GrapherLine{r.Time, "node-12", Unmatched, 8, 1}, "1560390672.895279:node-12:X:8:1\n"},
		{GrapherLine{0, "a", "M", 0xffff << 18, 0}, "0.000000:a:M:17179607040:0\n"},
	} {
		if got := string(AppendGrapherLine([]byte{}, &tt.l)); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestGrapherLineNames: names of any length, and the longest of all else.
func TestGrapherLineNames(t *testing.T) {
	for _, length := range []int{0, 1, maxNames - 1, maxNames, maxNames + 1, 300, 5000} {
		l := GrapherLine{math.MinInt64, strings.Repeat("h", length/2), strings.Repeat("i", length-length/2), math.MaxUint64, 1}
		want := fmt.Sprintf("before -9223372036.854775:%s:%s:%d:1\n", l.Host, l.ID, uint64(math.MaxUint64))
		for _, room := range []int{0, 100, 10000} {
			if got := string(AppendGrapherLine(append(make([]byte, 0, room), "before "...), &l)); got != want {
				t.Errorf("%d bytes of names: got %q, want %q", length, got, want)
			}
		}
	}
}

func TestEncodingDoesNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 4096)
	r4, r6 := packet4(nil), packet6(nil)
	line := GrapherLine{Time: r4.Time, Host: "12", ID: "7", Value: 1 << 40}
	bin, _ := AppendBinary(nil, &r4)
	text := AppendLine(nil, &r4)
	var back Record
	if n := testing.AllocsPerRun(100, func() {
		buf, _ = AppendBinary(buf[:0], &r4)
		buf = AppendLine(buf, &r4)
		buf = AppendLine(buf, &r6)
		buf = AppendGrapherLine(buf, &line)
		if DecodeBinary(bin, &back) != nil {
			t.Fatal("decode failed")
		}
		if err := ParseLine(text, &back); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecodeBinary: whatever decodes encodes to the same 28 bytes, except for
// reserved flag bits.
func FuzzDecodeBinary(f *testing.F) {
	for _, r := range []Record{packet4(nil), CPUStat(5, 6), MemoryStat(7, 8), {}} {
		b, _ := AppendBinary(nil, &r)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Record
		if DecodeBinary(b, &r) != nil {
			return
		}
		back, ok := AppendBinary(nil, &r)
		want := bytes.Clone(b[:Size])
		want[offFlags] &= flagRelayed
		if !ok || !bytes.Equal(back, want) {
			t.Errorf("% x decodes to %+v and encodes to % x", b, r, back)
		}
	})
}

// FuzzParseLine: whatever parses prints and parses to the same; if it has no
// IPv6 addresses, which have many forms, it is what AppendLine prints.
func FuzzParseLine(f *testing.F) {
	for _, r := range []Record{packet4(nil), packet6(nil), CPUStat(5, 6), {}} {
		f.Add(AppendLine(nil, &r))
	}
	f.Add([]byte("-0.000001:1.2.3.4:0:1.2.3.4:00:0:0:0"))
	f.Fuzz(func(t *testing.T, line []byte) {
		var r, again Record
		if ParseLine(line, &r) != nil {
			return
		}
		text := AppendLine(nil, &r)
		if err := ParseLine(text, &again); err != nil || again != r {
			t.Errorf("%q: %+v prints %q and parses to %+v, %v", line, r, text, again, err)
		}
		plain := strings.TrimPrefix(strings.TrimRight(string(line), "\r\n"), "-")
		if r.Flags&IPv6 == 0 && strings.TrimPrefix(string(text), "-") != plain+"\n" {
			t.Errorf("%q is taken for %q", line, text)
		}
		if tm, ok := LineTime(line); !ok || tm != r.Time {
			t.Errorf("%q: time %d, %v", line, tm, ok)
		}
	})
}

// FuzzRecord: a record of any fields keeps them through both encodings, as far
// as these have the fields.
func FuzzRecord(f *testing.F) {
	f.Add(int64(math.MinInt64), make([]byte, 32), uint16(1), uint16(1), uint32(3), uint32(4), uint8(61), uint16(3))
	f.Add(int64(math.MaxInt64), make([]byte, 32), uint16(1), uint16(1), uint32(3), uint32(4), uint8(61), uint16(2))
	f.Add(int64(1), []byte("0123456789abcdef0123456789abcdef"), uint16(1), uint16(2), uint32(3), uint32(4), uint8(5), uint16(0))
	f.Fuzz(func(t *testing.T, tm int64, addrs []byte, sp, dp uint16, length, flow uint32, proto uint8, flags uint16) {
		if len(addrs) < 32 {
			return
		}
		r := Record{Time: tm, SrcPort: sp, DstPort: dp, Length: length, FlowID: flow, Proto: proto, Flags: Flags(flags) & (IPv6 | MGEN)}
		copy(r.Src[:], addrs)
		copy(r.Dst[:], addrs[16:])
		if r.Flags&IPv6 == 0 {
			r.SetSrc4([4]byte(addrs))
			r.SetDst4([4]byte(addrs[4:]))
		}
		want := r
		want.Time = want.Time / 1000 * 1000
		want.FlowID = r.Flow()
		want.Flags &= IPv6
		if want.FlowID != 0 {
			want.Flags |= MGEN
		}
		if want.isHostStat() {
			want.Flags = want.Flags&^MGEN | HostStat
		}
		var back Record
		if err := ParseLine(AppendLine(nil, &r), &back); err != nil || back != want {
			t.Errorf("line: %+v became %+v, %v", want, back, err)
		}
		if b, ok := AppendBinary(nil, &r); ok {
			if err := DecodeBinary(b, &back); err != nil || back != want {
				t.Errorf("binary: %+v became %+v, %v", want, back, err)
			}
		}
	})
}

func BenchmarkAppendBinary(b *testing.B) {
	r := packet4(nil)
	buf := make([]byte, 0, Size)
	for b.Loop() {
		buf, _ = AppendBinary(buf[:0], &r)
	}
}

func BenchmarkDecodeBinary(b *testing.B) {
	r := packet4(nil)
	buf, _ := AppendBinary(nil, &r)
	for b.Loop() {
		DecodeBinary(buf, &r)
	}
}

func BenchmarkAppendLine(b *testing.B) {
	for name, r := range map[string]Record{"IPv4": packet4(nil), "IPv6": packet6(nil)} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, LineRoom)
			for b.Loop() {
				buf = AppendLine(buf[:0], &r)
			}
		})
	}
}

func BenchmarkAppendGrapherLine(b *testing.B) {
	l := GrapherLine{Time: 1560390672_895279_000, Host: "3", ID: "1", Value: 5856}
	buf := make([]byte, 0, LineRoom)
	for b.Loop() {
		buf = AppendGrapherLine(buf[:0], &l)
	}
}

func TestLineTime(t *testing.T) {
	for line, want := range map[string]int64{"1.000002:x": 1_000_002_000, "-1.000002:": -1_000_002_000} {
		if got, ok := LineTime([]byte(line)); !ok || got != want {
			t.Errorf("%q: %d, %v", line, got, ok)
		}
	}
	for _, line := range []string{"", "1.000002", "1.00002:", "x:1.000002:", "1.0000002:"} {
		if got, ok := LineTime([]byte(line)); ok {
			t.Errorf("%q has time %d", line, got)
		}
	}
}

func BenchmarkParseLine(b *testing.B) {
	v4 := packet4(nil)
	v6 := packet6(nil)
	for name, r := range map[string]*Record{"IPv4": &v4, "IPv6": &v6} {
		line := AppendLine(nil, r)
		b.Run(name, func(b *testing.B) {
			var back Record
			for b.Loop() {
				if err := ParseLine(line, &back); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(line)))
		})
	}
}
