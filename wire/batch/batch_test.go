package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// random is a batch of n records of all kinds.
func random(rnd *rand.Rand, n int) *batch.Batch {
	b := &batch.Batch{
		Agent: "node-" + string(rune('a'+rnd.IntN(26))) + "é", Boot: rnd.Uint64(), First: rnd.Uint64() >> 1,
		Dropped: rnd.Uint64(), Level: batch.Level(rnd.IntN(3)),
	}
	for range n {
		b.Records = append(b.Records, record(rnd))
	}
	return b
}

func record(rnd *rand.Rand) wire.Record {
	r := wire.Record{
		Time: 1764000000e9 + rnd.Int64N(1e9), SrcPort: uint16(rnd.Uint32()), DstPort: uint16(rnd.Uint32()),
		Length: rnd.Uint32N(1 << 20), Proto: uint8(rnd.Uint32()), Flags: wire.Outgoing,
	}
	r.SetSrc4([4]byte{10, 0, byte(rnd.Uint32()), 1})
	r.SetDst4([4]byte{10, 0, 0, byte(rnd.Uint32())})
	switch rnd.IntN(4) {
	case 0:
		r.Flags = wire.IPv6 | wire.Incoming
		binary.LittleEndian.PutUint64(r.Src[3:], rnd.Uint64())
		binary.LittleEndian.PutUint64(r.Dst[8:], rnd.Uint64())
	case 1:
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.FlowID, r.MGENSeq, r.MGENTime = rnd.Uint32(), rnd.Uint32(), 1764000000e6+rnd.Int64N(1e6)
	case 2:
		r.Flags |= wire.Super
		r.Packets = 2 + rnd.Uint32N(1<<20)
	}
	r.TTL, r.Digest = uint8(rnd.Uint32()), rnd.Uint64()
	switch rnd.IntN(8) {
	case 0:
		r.Flags |= wire.Dropped
		r.Reason = wire.ReasonNamed([]string{"QDISC_DROP", "NETFILTER_DROP", ""}[rnd.IntN(3)])
	case 1:
		r.Flags |= wire.Uncounted | wire.BeforeQueue
	case 2:
		r = wire.Memberships(r.Time, rnd.IntN(100))
	}
	return r
}

// TestNameIsPrintable: a batch's agent may be shown, whoever has named it.
func TestNameIsPrintable(t *testing.T) {
	b := random(rand.New(rand.NewPCG(1, 2)), 3)
	b.Agent = "evil\x1b[2J\u009b\n"
	data, err := new(batch.Encoder).Append(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	var got batch.Batch
	if err := new(batch.Decoder).Decode(data, &got); err != nil || got.Agent != "evil?[2J??" {
		t.Errorf("%q, %v", got.Agent, err)
	}
}

func TestThereAndBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var e batch.Encoder
	var d batch.Decoder
	var got batch.Batch // used again, as users do
	for _, n := range []int{1, 2, 1000, 731, 732, batch.MaxRecords, 5} {
		want := random(rnd, n)
		data, err := e.Append([]byte("before"), want)
		if err != nil {
			t.Fatal(err)
		}
		data = data[len("before"):]
		if len(data) > batch.MaxSize {
			t.Errorf("%d records take %d bytes", n, len(data))
		}
		if err := d.Decode(data, &got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Records, want.Records) {
			t.Fatalf("%d records are not the same", n)
		}
		if got.ID() != want.ID() || got.Next() != want.Next() || got.Dropped != want.Dropped || got.Level != want.Level {
			t.Errorf("%+v\nwant %+v", got, want)
		}
		h, err := batch.ReadHeader(data)
		if err != nil || h.Agent != want.Agent || h.Count != uint32(n) || h.Next() != want.Next() || h.Boot != want.Boot {
			t.Errorf("%+v, %v", h, err)
		}
	}
}

func TestHeaviestFit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	b := &batch.Batch{Agent: strings.Repeat("n", 255)}
	for i := range batch.MaxRecords { // nothing that compresses
		r := wire.Record{Time: rnd.Int64N(1 << 62), MGENTime: rnd.Int64(), Flags: wire.IPv6 | wire.MGEN | wire.MGENHeader | wire.Super,
			SrcPort: uint16(rnd.Uint32()), DstPort: uint16(rnd.Uint32()), Length: rnd.Uint32(), FlowID: rnd.Uint32(),
			MGENSeq: rnd.Uint32(), Packets: 2 + rnd.Uint32N(1<<31), Proto: uint8(rnd.Uint32()), TTL: uint8(rnd.Uint32()), Digest: rnd.Uint64()}
		if i%2 == 0 { // more names than a kernel has
			r.Flags |= wire.Dropped
			r.Reason = wire.ReasonNamed(fmt.Sprintf("%d_%s", rnd.IntN(200), strings.Repeat("X", 20)))
		}
		for i := range r.Src {
			r.Src[i], r.Dst[i] = byte(rnd.Uint32()), byte(rnd.Uint32())
		}
		b.Records = append(b.Records, r)
	}
	var e batch.Encoder
	data, err := e.Append(nil, b)
	if err != nil || len(data) > batch.MaxSize {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	var got batch.Batch
	if err := new(batch.Decoder).Decode(data, &got); err != nil {
		t.Fatal(err)
	}
}

func TestRefused(t *testing.T) {
	good := random(rand.New(rand.NewPCG(5, 6)), 3)
	for name, spoil := range map[string]func(*batch.Batch){
		"no name":        func(b *batch.Batch) { b.Agent = "" },
		"long name":      func(b *batch.Batch) { b.Agent = strings.Repeat("x", 256) },
		"not UTF-8":      func(b *batch.Batch) { b.Agent = "\xff" },
		"no records":     func(b *batch.Batch) { b.Records = nil },
		"too many":       func(b *batch.Batch) { b.Records = make([]wire.Record, batch.MaxRecords+1) },
		"host statistic": func(b *batch.Batch) { b.Records = []wire.Record{wire.CPUStat(1e9, 5)} },
		"before 1970":    func(b *batch.Batch) { b.Records = []wire.Record{{Time: -1}} },
		"level":          func(b *batch.Batch) { b.Level = 3 },
	} {
		b := *good
		spoil(&b)
		if data, err := new(batch.Encoder).Append(nil, &b); err == nil || len(data) != 0 {
			t.Errorf("%s: %d bytes, %v", name, len(data), err)
		}
	}
}

// TestDamage: no byte can be changed or left out unnoticed.
func TestDamage(t *testing.T) {
	data, err := new(batch.Encoder).Append(nil, random(rand.New(rand.NewPCG(7, 8)), 20))
	if err != nil {
		t.Fatal(err)
	}
	var d batch.Decoder
	var b batch.Batch
	for i := range data {
		torn := bytes.Clone(data)
		torn[i] ^= 1 << (i % 8)
		if err := d.Decode(torn, &b); !errors.Is(err, batch.ErrMalformed) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if err := d.Decode(data[:i], &b); !errors.Is(err, batch.ErrMalformed) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

// FuzzDecode: bytes with a right sum may still be anything.
func FuzzDecode(f *testing.F) {
	rnd := rand.New(rand.NewPCG(9, 10))
	for _, n := range []int{1, 10} {
		data, err := new(batch.Encoder).Append(nil, random(rnd, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= 8 {
			binary.BigEndian.PutUint32(data[4:], crc32.Checksum(data[8:], crc32.MakeTable(crc32.Castagnoli)))
		}
		var b, again batch.Batch
		if err := new(batch.Decoder).Decode(data, &b); err != nil {
			if !errors.Is(err, batch.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		out, err := new(batch.Encoder).Append(nil, &b)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(batch.Decoder).Decode(out, &again); err != nil || again.ID() != b.ID() || len(again.Records) != len(b.Records) {
			t.Fatalf("%v: %v, then %v", err, &b, &again)
		}
	})
}

// traffic is what a busy host's packets look like: some flows, all IPv4.
func traffic(n int) *batch.Batch {
	rnd := rand.New(rand.NewPCG(11, 12))
	b := &batch.Batch{Agent: "node-17", Boot: rnd.Uint64()}
	for i := range n {
		f := rnd.IntN(40)
		r := wire.Record{
			Time: 1764000000e9 + int64(i)*100e3 + rnd.Int64N(50e3), MGENTime: 1764000000e6 + int64(i)*100,
			SrcPort: uint16(5000 + f), DstPort: uint16(6000 + f%7), Length: uint32(100 + 50*(f%5)), Proto: wire.ProtoUDP,
			Flags: wire.Outgoing | wire.MGEN | wire.MGENHeader, FlowID: uint32(f), MGENSeq: uint32(i / 40),
		}
		r.SetSrc4([4]byte{10, 0, 0, 17})
		r.SetDst4([4]byte{10, 0, 0, byte(f)})
		b.Records = append(b.Records, r)
	}
	return b
}

func BenchmarkAppend(b *testing.B) {
	var e batch.Encoder
	in := traffic(1000)
	var data []byte
	for b.Loop() {
		data, _ = e.Append(data[:0], in)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
	b.ReportMetric(float64(len(data))/1000, "bytes/record")
}

func BenchmarkDecode(b *testing.B) {
	data, err := new(batch.Encoder).Append(nil, traffic(1000))
	if err != nil {
		b.Fatal(err)
	}
	var d batch.Decoder
	var out batch.Batch
	for b.Loop() {
		if err := d.Decode(data, &out); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/record")
}
