package flow

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

func packet(second int64, ns int64, port uint16, length uint32) wire.Record {
	r := wire.Record{Time: second*1e9 + ns, SrcPort: 1, DstPort: port, Length: length, Proto: 17, Flags: wire.Outgoing}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return r
}

// TestSums: whatever comes in whatever order, each flow's packets and bytes
// are given out, and no second is mixed with another.
func TestSums(t *testing.T) {
	type id struct {
		second int64
		port   uint16
	}
	type sum struct{ packets, bytes uint64 }
	want, got := map[id]sum{}, map[id]sum{}
	table := New(500, func(f *Flow) {
		if f.End/1e9 != f.Time/1e9 || f.End < f.Time {
			t.Fatalf("a flow from %d to %d", f.Time, f.End)
		}
		k := id{f.Time / 1e9, f.DstPort}
		got[k] = sum{got[k].packets + uint64(f.Packets), got[k].bytes + uint64(f.Length)}
	})
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		r := packet(int64(i/20_000)+rnd.Int64N(2), rnd.Int64N(1e9), uint16(rnd.IntN(400)), uint32(rnd.IntN(1500)))
		k := id{r.Time / 1e9, r.DstPort}
		want[k] = sum{want[k].packets + 1, want[k].bytes + uint64(r.Length)}
		table.Add(&r)
		if table.Len() > 500 {
			t.Fatalf("%d flows in a table of 500", table.Len())
		}
		if i%5000 == 0 {
			table.FlushBefore(r.Time - 1e9)
		}
	}
	table.Flush()
	if len(got) != len(want) {
		t.Errorf("%d flows, want %d", len(got), len(want))
	}
	for k, s := range want {
		if got[k] != s {
			t.Errorf("%+v: %+v, want %+v", k, got[k], s)
		}
	}
}

// TestMemberships: each is passed on as it is.
func TestMemberships(t *testing.T) {
	var flows []Flow
	table := New(100, func(f *Flow) { flows = append(flows, *f) })
	list := []wire.Record{wire.Membership(5e9, netip.MustParseAddr("239.1.2.3")), wire.Memberships(5e9, 1), wire.Membership(5e9+1, netip.MustParseAddr("239.1.2.3")), wire.Memberships(5e9+1, 1)}
	for i := range list {
		table.Add(&list[i])
	}
	if len(flows) != len(list) || table.Len() != 0 {
		t.Fatalf("%d flows and %d in the table, want %d and none", len(flows), table.Len(), len(list))
	}
	for i, f := range flows {
		f.Packets = 0
		if f.Record != list[i] {
			t.Errorf("got %+v, want %+v", f.Record, list[i])
		}
	}
}

func TestKeptApart(t *testing.T) {
	var flows []Flow
	table := New(100, func(f *Flow) { flows = append(flows, *f) })
	first := packet(5, 0, 7, 100)
	for _, mod := range []func(*wire.Record){
		func(*wire.Record) {},
		func(r *wire.Record) { r.SrcPort++ },
		func(r *wire.Record) { r.Proto = 6 },
		func(r *wire.Record) { r.Src[15]++ },
		func(r *wire.Record) { r.Flags = wire.Incoming },
		func(r *wire.Record) { r.Flags |= wire.MGEN; r.FlowID = 3 },
		func(r *wire.Record) { r.Flags |= wire.MGEN }, // flow 0
		func(r *wire.Record) { r.Flags |= wire.Dropped },
		func(r *wire.Record) { r.Flags |= wire.Dropped; r.Reason = wire.ReasonNamed("QDISC_DROP") },
		func(r *wire.Record) { r.Flags |= wire.Uncounted | wire.BeforeQueue },
		func(r *wire.Record) { r.Time += 1e9 },
	} {
		r := first
		mod(&r)
		r.Digest, r.TTL = 5, 64
		table.Add(&r)
		table.Add(&r)
	}
	table.FlushBefore(6e9)
	if len(flows) != 10 || table.Len() != 1 {
		t.Fatalf("%d flows, %d left", len(flows), table.Len())
	}
	table.FlushBefore(7e9)
	for _, f := range flows {
		if f.Packets != 2 || f.Length != 200 || f.Digest != 0 || f.TTL != 64 {
			t.Errorf("%+v", f)
		}
	}
}

func TestOverflowOfACount(t *testing.T) {
	var flows []Flow
	table := New(100, func(f *Flow) { flows = append(flows, *f) })
	r := packet(5, 0, 7, math.MaxUint32-10)
	table.Add(&r)
	r.Length = 11
	table.Add(&r)
	table.Flush()
	if len(flows) != 2 || flows[0].Length != math.MaxUint32-10 || flows[1].Length != 11 {
		t.Errorf("%+v", flows)
	}
}

func TestHostStatistics(t *testing.T) {
	var flows []Flow
	table := New(100, func(f *Flow) { flows = append(flows, *f) })
	for range 2 {
		r := wire.CPUStat(5e9, 50)
		table.Add(&r)
	}
	if len(flows) != 2 || flows[1].Stat() != wire.CPU {
		t.Errorf("%+v", flows)
	}
}

func TestMGENOfTheEarliest(t *testing.T) {
	var flows []Flow
	table := New(100, func(f *Flow) { flows = append(flows, *f) })
	for _, seq := range []uint32{5, 4, 6} {
		r := packet(5, int64(seq), 7, 100)
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.MGENSeq, r.MGENTime = seq, int64(seq)
		table.Add(&r)
	}
	table.Flush()
	if f := flows[0]; len(flows) != 1 || f.MGENSeq != 4 || f.Time != 5e9+4 || f.End != 5e9+6 {
		t.Errorf("%+v", flows)
	}
}

func BenchmarkAdd(b *testing.B) {
	table := New(65536, func(*Flow) {})
	recs := make([]wire.Record, 1000)
	for i := range recs {
		recs[i] = packet(5, int64(i), uint16(i), 100)
	}
	for i := 0; b.Loop(); i++ {
		table.Add(&recs[i%len(recs)])
	}
}
