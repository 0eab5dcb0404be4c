package ipfix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

var now = time.Unix(1_560_390_680, 0)

func packet4(mod func(*wire.Record)) wire.Record {
	r := wire.Record{
		Time: 1560390672_895279_123, SrcPort: 5001, DstPort: 5002, Length: 732, Proto: wire.ProtoUDP,
		Flags: wire.MGEN | wire.MGENHeader | wire.Outgoing, FlowID: 1000, MGENSeq: 77, MGENTime: 1560390672_895000,
	}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	if mod != nil {
		mod(&r)
	}
	return r
}

func packet6(mod func(*wire.Record)) wire.Record {
	return packet4(func(r *wire.Record) {
		r.Src = netip.MustParseAddr("2001:db8::1").As16()
		r.Dst = netip.MustParseAddr("ff18::5").As16()
		r.Flags |= wire.IPv6
		if mod != nil {
			mod(r)
		}
	})
}

// everyKind is one record of each sort that a decoder of packets makes.
func everyKind() []wire.Record {
	list := []wire.Record{
		packet4(nil), packet6(nil), packet4(nil),
		wire.CPUStat(now.UnixNano()+1, 100), wire.MemoryStat(now.UnixNano()+999_999_999, 8_000_000),
		packet4(func(r *wire.Record) { r.Time = 0 }),
		packet4(func(r *wire.Record) { r.Time = math.MaxInt64 }),
		// NTP's first era ends in 2036, 32 bits of seconds since 1970 in 2106.
		packet4(func(r *wire.Record) { r.Time = 2_085_978_495_999_999_999 }),
		packet4(func(r *wire.Record) { r.Time = 2_085_978_496_000_000_000 }),
		packet4(func(r *wire.Record) { r.Time = 5_000_000_000_000_000_001 }),
		packet4(func(r *wire.Record) { r.FlowID, r.MGENSeq, r.MGENTime = 0, math.MaxUint32, math.MinInt64 }),
		packet6(func(r *wire.Record) { r.Length, r.Proto = math.MaxUint32, 255 }),
		packet6(func(r *wire.Record) { r.FlowID, r.MGENSeq, r.MGENTime, r.Flags = 0, 0, 0, wire.IPv6 }),
	}
	for bit := wire.Fragment; bit != 0; bit <<= 1 {
		if bit != wire.HostStat {
			list = append(list, packet4(func(r *wire.Record) { r.Flags |= bit }), packet6(func(r *wire.Record) { r.Flags |= bit }))
		}
	}
	list = append(list, wire.Membership(now.UnixNano(), netip.MustParseAddr("239.1.2.3")),
		wire.Membership(now.UnixNano(), netip.MustParseAddr("ff05::12")), wire.Memberships(now.UnixNano(), 2))
	for _, reason := range []string{"", "QDISC_DROP", strings.Repeat("R", wire.ReasonSize)} {
		dropped := func(r *wire.Record) {
			r.Flags |= wire.Dropped | wire.Super
			r.Packets, r.Reason = 44, wire.ReasonNamed(reason)
		}
		list = append(list, packet4(dropped), packet6(dropped))
	}
	for i := range list {
		if list[i].Flags&wire.HostStat == 0 {
			list[i].TTL, list[i].Digest = uint8(i), uint64(i)<<56|uint64(i)
		}
	}
	return list
}

// encode makes messages of at most max bytes of records, templates first.
func encode(t testing.TB, w *Writer, max int, recs []wire.Record) (messages [][]byte) {
	t.Helper()
	messages = append(messages, w.Templates(nil, now))
	var buf []byte
	ends := []uint32{0}
	for i := range recs {
		var ok bool
		if buf, ok = Append(buf, &recs[i]); !ok {
			t.Fatalf("record %d (%+v) is refused", i, recs[i])
		}
		ends = append(ends, uint32(len(buf)))
	}
	for len(ends) > 1 {
		m, n := w.Message(nil, now, max, buf[ends[0]:], ends)
		if n == 0 || len(m) > max {
			t.Fatalf("a message of %d bytes (at most %d) with %d records", len(m), max, n)
		}
		messages = append(messages, m)
		ends = ends[n:]
	}
	return messages
}

func TestRoundTrip(t *testing.T) {
	want := everyKind()
	for _, pen := range []uint32{0, 12345} {
		for _, max := range []int{MaxDatagram, MaxMessage} {
			w, d := Writer{Domain: 7, PEN: pen}, Decoder{PEN: pen}
			var got []wire.Record
			for _, m := range encode(t, &w, max, want) {
				var err error
				if got, err = d.Decode(m, got); err != nil {
					t.Fatal(err)
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d records became %d", len(want), len(got))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("record %d:\n%+v became\n%+v", i, want[i], got[i])
				}
			}
			if c := d.Counts(); c.Packets != uint64(len(want)) || c.Lost+c.Late+c.Other+c.Unknown != 0 || w.Sequence() != uint32(len(want)) {
				t.Errorf("%+v, sequence %d", c, w.Sequence())
			}
		}
	}
}

// TestOtherPEN: a decoder that was told no enterprise number finds out; one that
// was told another keeps to it, and what is not quite ours is not.
func TestOtherPEN(t *testing.T) {
	want := everyKind()
	for _, tt := range []struct{ sent, told, kept uint32 }{{999, 0, 999}, {999, 998, 998}, {999, DefaultPEN, DefaultPEN}} {
		w, d := Writer{PEN: tt.sent}, Decoder{PEN: tt.told}
		var got []wire.Record
		for _, m := range encode(t, &w, MaxMessage, want) {
			got, _ = d.Decode(m, got)
		}
		if d.PEN != tt.kept || slices.Equal(got, want) != (tt.kept == tt.sent) {
			t.Errorf("%+v: %d, %d records", tt, d.PEN, len(got))
		}
	}
	w, d := Writer{PEN: 999}, Decoder{}
	m := w.Templates(nil, now)
	m = bytes.ReplaceAll(m, []byte{0x80, mgenSequence}, []byte{0x80, 99}) // another element
	d.Decode(m, nil)
	if d.PEN != 0 {
		t.Errorf("somebody else's templates are taken for ours of %d", d.PEN)
	}
}

// TestForeignDecoding: what the decoder knows by heart it can also read field
// by field.
func TestForeignDecoding(t *testing.T) {
	want := everyKind()
	w, d := Writer{}, Decoder{}
	messages := encode(t, &w, MaxMessage, want)
	if _, err := d.Decode(messages[0], nil); err != nil {
		t.Fatal(err)
	}
	for _, tmpl := range d.domains[0].templates {
		tmpl.kind = foreign
	}
	got, err := d.Decode(messages[1], nil)
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d records, %v", len(got), err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("record %d:\n%+v became\n%+v", i, want[i], got[i])
		}
	}
}

func TestNotExpressible(t *testing.T) {
	before := packet4(func(r *wire.Record) { r.Time = -1 })
	large := wire.MemoryStat(1, 0)
	large.Length = 1 << 16
	for _, r := range []wire.Record{before, large} {
		if b, ok := Append([]byte("x"), &r); ok || string(b) != "x" {
			t.Errorf("%+v became %x", r, b)
		}
	}
}

func TestFlow(t *testing.T) {
	r := packet4(func(r *wire.Record) { r.Length = 10_000 })
	b, ok := AppendFlow(nil, &r, 10, r.Time+5*nsPerMsec)
	if start, end := binary.BigEndian.Uint64(b[23:]), binary.BigEndian.Uint64(b[31:]); !ok || end-start != 5 {
		t.Fatalf("from %d to %d", start, end)
	}
	w, d := Writer{}, Decoder{}
	d.Decode(w.Templates(nil, now), nil)
	m, _ := w.Message(nil, now, MaxDatagram, b, []uint32{0, uint32(len(b))})
	got, err := d.Decode(m, nil)
	r.Flags |= wire.Super
	r.Packets = 10
	if err != nil || len(got) != 1 || got[0] != r {
		t.Errorf("%+v became %+v, %v", r, got, err)
	}
	if again, ok := Append(nil, &r); !ok || binary.BigEndian.Uint32(again[8+tailPackets:]) != 10 {
		t.Errorf("a record of ten packets became %x", again)
	}
	if _, ok := AppendFlow(nil, &r, 2, r.Time-1); ok {
		t.Error("a flow that ends before it begins")
	}
}

func TestStatistics(t *testing.T) {
	w, d := Writer{Domain: 3}, Decoder{}
	d.Decode(w.Templates(nil, now), nil)
	recs := []wire.Record{packet4(nil), packet4(nil)}
	for _, m := range encode(t, &w, MaxMessage, recs) {
		d.Decode(m, nil)
	}
	got, err := d.Decode(w.Statistics(nil, now, Statistics{NotSent: 5, Ignored: 1 << 40}), nil)
	if want := (Statistics{Messages: 3, Records: 2, NotSent: 5, Ignored: 1 << 40}); err != nil || len(got) != 0 || d.Statistics() != want {
		t.Errorf("%+v, want %+v; %v, %v", d.Statistics(), want, got, err)
	}
	if w.Sequence() != 2 || d.Counts().Lost+d.Counts().Other+d.Counts().Unknown != 0 {
		t.Errorf("sequence %d, %+v", w.Sequence(), d.Counts())
	}
	// The template comes once, and again with the other templates; what is late
	// changes nothing.
	short, again := w.Statistics(nil, now, Statistics{NotSent: 6}), w.Templates(nil, now)
	long := w.Statistics(nil, now, Statistics{NotSent: 7})
	if len(long) <= len(short) {
		t.Errorf("%d bytes with the template, %d without", len(long), len(short))
	}
	for _, m := range [][]byte{again, long} {
		d.Decode(m, nil)
	}
	if d.Statistics().NotSent != 7 || d.Counts().Lost != 1 || !slices.Equal(d.Missing(), []Gap{{0, 1, 1}}) {
		t.Errorf("%+v, %+v, missing %v", d.Statistics(), d.Counts(), d.Missing())
	}
	d.Decode(short, nil)
	if d.Statistics().NotSent != 7 || d.Counts().Lost != 0 {
		t.Errorf("after a late one %+v, %+v", d.Statistics(), d.Counts())
	}
}

// TestLoss: sequence numbers account for what does not arrive, arrives late,
// or twice.
func TestLoss(t *testing.T) {
	recs := make([]wire.Record, 1000)
	for i := range recs {
		recs[i] = packet4(nil)
	}
	w := Writer{}
	messages := encode(t, &w, MaxDatagram, recs)
	each := int((MaxDatagram - HeaderSize - setHeaderSize) / SizeIPv4)
	var d Decoder
	for i, m := range messages {
		if i == 5 || i == 6 || i == 9 {
			continue
		}
		d.Decode(m, nil)
	}
	first := uint32(4 * each)
	want := []Gap{{0, first, uint32(2 * each)}, {0, uint32(8 * each), uint32(each)}}
	if c := d.Counts(); c.Lost != uint64(3*each) || !slices.Equal(d.Missing(), want) {
		t.Errorf("%+v, missing %v, want %v", c, d.Missing(), want)
	}
	if got, _ := d.Decode(messages[6], nil); len(got) != each {
		t.Errorf("%d records of a late message", len(got))
	}
	want[0].Count = uint32(each)
	if c := d.Counts(); c.Lost != uint64(2*each) || c.Late != uint64(each) || !slices.Equal(d.Missing(), want) {
		t.Errorf("%+v after one came late, missing %v", c, d.Missing())
	}
	if got, _ := d.Decode(messages[6], nil); len(got) != each {
		t.Error("an exporter without repairs is not believed")
	}
	w.RepairPort = 4741
	d.Decode(w.Statistics(nil, now, Statistics{}), nil)
	if got, _ := d.Decode(messages[6], nil); len(got) != 0 || d.Counts().Twice != uint64(each) {
		t.Errorf("%d records of a message that came twice, %+v", len(got), d.Counts())
	}
	d.Decode(messages[9], nil)
	d.Decode(messages[5], nil)
	if c := d.Counts(); c.Lost != 0 || len(d.Missing()) != 0 || c.Packets != uint64(len(recs)+each) {
		t.Errorf("%+v after all came late, missing %v", c, d.Missing())
	}
}

// TestFill: gaps are cut where messages fill them, also where the numbers wrap
// around.
func TestFill(t *testing.T) {
	for _, tt := range []struct {
		first, count, filled uint32
		left                 []Gap
	}{
		{^uint32(0) - 9, 20, 20, nil},
		{^uint32(0) - 9, 5, 5, []Gap{{0, ^uint32(0) - 4, 15}}},
		{^uint32(0), 2, 2, []Gap{{0, ^uint32(0) - 9, 9}, {0, 1, 9}}},
		{5, 10, 5, []Gap{{0, ^uint32(0) - 9, 15}}},
		{^uint32(0) - 19, 10, 0, []Gap{{0, ^uint32(0) - 9, 20}}},
		{10, 10, 0, []Gap{{0, ^uint32(0) - 9, 20}}},
		{^uint32(0) - 19, 100, 20, nil},
	} {
		o := domain{missing: []Gap{{0, ^uint32(0) - 9, 20}}}
		if n := o.fill(tt.first, tt.count); n != tt.filled || !slices.Equal(o.missing, tt.left) {
			t.Errorf("%d from %d: %d filled, left %v, want %d and %v", tt.count, tt.first, n, o.missing, tt.filled, tt.left)
		}
	}
}

// TestRestart: an exporter that counts from the beginning again is believed.
func TestRestart(t *testing.T) {
	recs := make([]wire.Record, 1000)
	var d Decoder
	for range 2 {
		w := Writer{}
		for _, m := range encode(t, &w, MaxDatagram, recs) {
			d.Decode(m, nil)
		}
	}
	if c := d.Counts(); d.domains[0].next != 1000 || c.Late+c.Lost != 0 || c.Packets != 2000 {
		t.Errorf("%+v, %+v", c, d.domains[0])
	}
	w := Writer{}
	for _, m := range encode(t, &w, MaxDatagram, recs)[1:] { // the templates are lost
		d.Decode(m, nil)
	}
	if c := d.Counts(); d.domains[0].next != 1000 || c.Lost != 0 || c.Packets != 3000 {
		t.Errorf("%+v, %+v", c, d.domains[0])
	}
}

// raw builds messages of other exporters by hand.
type raw []byte

func (b *raw) u16(v ...int) *raw {
	for _, x := range v {
		*b = binary.BigEndian.AppendUint16(*b, uint16(x))
	}
	return b
}

func rawMessage(sequence int, sets ...raw) []byte {
	var m raw
	m.u16(10, 0, 0, 0, 0, sequence, 0, 9)
	for _, s := range sets {
		binary.BigEndian.PutUint16(s[2:], uint16(len(s)))
		m = append(m, s...)
	}
	binary.BigEndian.PutUint16(m[2:], uint16(len(m)))
	return m
}

func rawSet(id int, body ...int) raw {
	var s raw
	s.u16(id, 0)
	for _, b := range body {
		s = append(s, byte(b))
	}
	return s
}

// TestForeignTemplate: unknown, private and variable-length elements are
// passed over; addresses, ports, counts and seconds are found.
func TestForeignTemplate(t *testing.T) {
	var tmpl raw
	tmpl.u16(2, 0, 300, 8, 8, 4, 12, 4, 82, 65535, 0x8000|1, 4, 0, 99, 7, 2, 4, 1, 1, 2, 150, 4)
	var d Decoder
	data := rawSet(300, 192, 0, 2, 1, 192, 0, 2, 2, 4, 'e', 't', 'h', '0', 9, 9, 9, 9, 0, 53, 17, 1, 0, 0, 0, 1, 0, 0, 0)
	if got, err := d.Decode(rawMessage(0, data), nil); err != nil || len(got) != 0 || d.Counts().Unknown != 1 {
		t.Errorf("data before its template: %v, %v, %+v", got, err, d.Counts())
	}
	got, err := d.Decode(rawMessage(0, tmpl, data), nil)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	want := wire.Record{Time: 256 * nsPerSec, SrcPort: 53, Proto: 17, Length: 256}
	want.SetSrc4([4]byte{192, 0, 2, 1})
	want.SetDst4([4]byte{192, 0, 2, 2})
	if got[0] != want {
		t.Errorf("got %+v\nwant %+v", got[0], want)
	}
	withdraw := rawSet(2, 1, 44, 0, 0)
	if _, err := d.Decode(rawMessage(1, withdraw, data), nil); err != nil || d.Counts().Unknown != 2 {
		t.Errorf("after the withdrawal: %v, %+v", err, d.Counts())
	}
	d.Decode(rawMessage(1, tmpl), nil)
	if _, err := d.Decode(rawMessage(1, rawSet(2, 0, 2, 0, 0), data), nil); err != nil || d.Counts().Unknown != 3 {
		t.Errorf("after all were withdrawn: %v, %+v", err, d.Counts())
	}
}

func TestMalformed(t *testing.T) {
	var zero raw
	zero.u16(2, 0, 300, 1, 8, 0)
	var many raw
	many.u16(2, 0, 300, maxParts+1)
	for name, m := range map[string][]byte{
		"NetFlow 9":        {0, 9, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"too short":        rawMessage(0)[:15],
		"too long":         append(rawMessage(0), 0),
		"half a set":       rawMessage(0, raw{1, 44, 0, 0})[:18],
		"reserved set":     rawMessage(0, rawSet(5)),
		"template of 0":    rawMessage(0, zero),
		"too many fields":  rawMessage(0, many),
		"template cut off": rawMessage(0, rawSet(2, 1, 44, 0, 2, 0, 8, 0, 4)),
		"reserved number":  rawMessage(0, rawSet(2, 0, 44, 0, 1, 0, 8, 0, 4)),
	} {
		var d Decoder
		if _, err := d.Decode(m, nil); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBounded: an exporter cannot make the decoder remember without limit.
func TestBounded(t *testing.T) {
	var d Decoder
	var failed error
	for id := 256; id < 256+2*maxTemplates && failed == nil; id++ {
		var tmpl raw
		tmpl.u16(2, 0, id, 1, 8, 4)
		_, failed = d.Decode(rawMessage(0, tmpl), nil)
	}
	if n := len(d.domains[9].templates); failed == nil || n != maxTemplates {
		t.Errorf("%d templates, %v", n, failed)
	}
	failed = nil
	for id := range 2 * maxDomains {
		w := Writer{Domain: uint32(id)}
		if _, err := d.Decode(w.Templates(nil, now), nil); err != nil {
			failed = err
		}
	}
	if failed == nil || len(d.domains) != maxDomains {
		t.Errorf("%d domains, %v", len(d.domains), failed)
	}
}

func TestNoAllocations(t *testing.T) {
	recs := everyKind()
	w, d := Writer{}, Decoder{}
	messages := encode(t, &w, MaxMessage, recs)
	d.Decode(messages[0], nil)
	buf, out := make([]byte, 0, 4096), make([]wire.Record, 0, 100)
	if n := testing.AllocsPerRun(100, func() {
		for i := range recs {
			buf, _ = Append(buf[:0], &recs[i])
		}
		out, _ = d.Decode(messages[1], out[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	recs := everyKind()
	w := Writer{}
	var all []byte
	for _, m := range encode(f, &w, MaxDatagram, recs) {
		f.Add(m)
		all = append(all, m...)
	}
	f.Add(all)
	var tmpl raw
	tmpl.u16(2, 0, 300, 3, 8, 4, 12, 4, 82, 65535)
	f.Add(rawMessage(0, tmpl, rawSet(300, 1, 2, 3, 4, 5, 6, 7, 8, 255, 0, 1, 9)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Decoder
		d.Decode(w.Templates(nil, now), nil)
		for len(b) > 0 {
			n, err := Length(b)
			if err != nil || n == 0 || n > len(b) {
				return
			}
			if !d.Knows(b[:n]) {
				d.Teach(b[:n])
			}
			got, err := d.Decode(b[:n], nil)
			if err != nil && !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			if len(got)*8 > n*2 {
				t.Fatalf("%d records in %d bytes", len(got), n)
			}
			for i := range got {
				checkStable(t, &got[i])
			}
			b = b[n:]
		}
	})
}

// checkStable: whatever was decoded, encoding and decoding it changes nothing
// any more.
func checkStable(t *testing.T, r *wire.Record) {
	if r.Time < 0 {
		t.Fatalf("a time before 1970: %+v", r)
	}
	cell, ok := Append(nil, r)
	if !ok {
		t.Fatalf("%+v is refused", r)
	}
	w, d := Writer{}, Decoder{}
	d.Decode(w.Templates(nil, now), nil)
	m, _ := w.Message(nil, now, MaxMessage, cell, []uint32{0, uint32(len(cell))})
	got, err := d.Decode(m, nil)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	want := *r
	if want.Flags&(wire.MGEN|wire.HostStat) == 0 {
		want.FlowID = 0
	}
	if got[0] != want {
		t.Fatalf("%+v became\n%+v", want, got[0])
	}
}

func BenchmarkAppend(b *testing.B) {
	for name, r := range map[string]wire.Record{"IPv4": packet4(nil), "IPv6": packet6(nil)} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, 128)
			for b.Loop() {
				buf, _ = Append(buf[:0], &r)
			}
		})
	}
}

// BenchmarkMessage is everything that an exporter does for a record: encoding
// it and putting it into messages.
func BenchmarkMessage(b *testing.B) {
	for name, max := range map[string]int{"datagrams": MaxDatagram, "stream": 16 << 10} {
		b.Run(name, func(b *testing.B) {
			recs := make([]wire.Record, 1024)
			for i := range recs {
				recs[i] = packet4(nil)
			}
			w := Writer{}
			var buf, msg []byte
			var ends []uint32
			for i := 0; i < b.N; i += len(recs) {
				buf, ends = buf[:0], append(ends[:0], 0)
				for i := range recs {
					buf, _ = Append(buf, &recs[i])
					ends = append(ends, uint32(len(buf)))
				}
				rest := ends
				for len(rest) > 1 {
					var n int
					msg, n = w.Message(msg[:0], now, max, buf[rest[0]:], rest)
					rest = rest[n:]
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	recs := make([]wire.Record, 1024)
	for i := range recs {
		recs[i] = packet4(nil)
	}
	w, d := Writer{}, Decoder{}
	messages := encode(b, &w, 16<<10, recs)
	d.Decode(messages[0], nil)
	var out []wire.Record
	for i := 0; i < b.N; i += len(recs) {
		for _, m := range messages[1:] {
			out, _ = d.Decode(m, out[:0])
		}
	}
}

// TestNames: what a domain observes is said with each templates, and understood,
// also where it has a fixed length.
func TestNames(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, names := range []Names{
		{"n1", "eth0"}, {"", "eth0"}, {strings.Repeat("n", 254), strings.Repeat("i", 255)}, {strings.Repeat("n", 300), "e"},
	} {
		w := Writer{Domain: 7, Names: names}
		want := Names{Node: names.Node[:min(len(names.Node), 255)], Interface: names.Interface}
		var d Decoder
		for range 2 { // as for datagrams
			for _, m := range [][]byte{w.Templates(nil, now), w.Statistics(nil, now, Statistics{NotSent: 3}), w.Statistics(nil, now, Statistics{NotSent: 4})} {
				if recs, err := d.Decode(m, nil); err != nil || len(recs) != 0 {
					t.Fatalf("%d records, %v", len(recs), err)
				}
			}
		}
		if got := d.Names(7); got != want || d.Names(8) != (Names{}) {
			t.Errorf("names %q, want %q", got, want)
		}
		if c := d.Counts(); c.Lost != 0 || c.Other != 0 || c.Unknown != 0 || d.Statistics().NotSent != 4 {
			t.Errorf("%+v, %+v", c, d.Statistics())
		}
	}
	plain := Writer{}
	plain.Templates(nil, now)
	if with, without := (&Writer{Names: Names{Interface: "e"}}).Statistics(nil, now, Statistics{}), plain.Statistics(nil, now, Statistics{}); len(with) <= len(without) {
		t.Error("names take no room")
	}

	// A fixed length is filled up with zeros; an exporter names no more domains than there may be.
	var d Decoder
	body := []byte{0, 3, 0, 18, 1, 0, 0, 2, 0, 1, 0, 149, 0, 4, 0, 82, 0, 8} // template 256, scope 149
	for domain := range byte(200) {
		body = append(body, 1, 0, 0, 16, 0, 0, 0, domain, 'e', 't', 'h', domain%10+'0', 0, 0, 0, 0)
	}
	msg := append([]byte{0, 10, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, body...)
	binary.BigEndian.PutUint16(msg[2:], uint16(len(msg)))
	if _, err := d.Decode(msg, nil); err != nil {
		t.Fatal(err)
	}
	if d.Names(3).Interface != "eth3" || len(d.names) != maxDomains {
		t.Errorf("%q; %d domains have names, want %d", d.Names(3), len(d.names), maxDomains)
	}
}
