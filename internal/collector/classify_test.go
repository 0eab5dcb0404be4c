package collector

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

func mustClassify(t testing.TB, flows []Flow) *classifier {
	t.Helper()
	c, err := newClassifier(flows)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// naiveLines says what classifier.lines should: the contract, word by word.
func naiveLines(flows []Flow, r *wire.Record) (lines []uint32) {
	for i, f := range flows {
		n, valid := uint32(r.DstPort), r.Proto == wire.ProtoTCP || r.Proto == wire.ProtoUDP
		if f.Kind == MGEN {
			n, valid = r.FlowID, r.Flags&wire.MGEN != 0
		}
		if valid && r.Flags&wire.HostStat == 0 && f.First <= n && n <= f.Last {
			lines = append(lines, uint32(i))
		}
	}
	return lines
}

// TestClassifyRandom compares random flows and records with the naive way. The
// numbers are drawn from a few, so that borders are met and flows overlap.
func TestClassifyRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := map[FlowKind][]uint32{
		Port: {0, 1, 2, 1999, 2000, 2001, 2029, 30000, 65534, 65535},
		MGEN: {0, 1, 2, 1000, 1001, 65535, 65536, 1 << 31, 1<<32 - 2, 1<<32 - 1},
	}
	protos := []uint8{wire.ProtoTCP, wire.ProtoUDP, wire.ProtoICMP, wire.ProtoSCTP, wire.ProtoHostStat}
	flags := []wire.Flags{0, wire.MGEN, wire.MGEN | wire.IPv6, wire.HostStat, wire.IPv6}
	for range 300 {
		var flows []Flow
		for range rng.IntN(12) {
			kind := FlowKind(rng.IntN(2))
			a, b := numbers[kind][rng.IntN(10)], numbers[kind][rng.IntN(10)]
			flows = append(flows, Flow{Kind: kind, First: min(a, b), Last: max(a, b)})
		}
		c := mustClassify(t, flows)
		for range 300 {
			r := wire.Record{
				DstPort: uint16(numbers[Port][rng.IntN(10)]), FlowID: numbers[MGEN][rng.IntN(10)],
				Proto: protos[rng.IntN(len(protos))], Flags: flags[rng.IntN(len(flags))],
			}
			got, want := c.lines(c.match(&r), nil), naiveLines(flows, &r)
			if !slices.Equal(got, want) {
				t.Fatalf("flows %v\nrecord %+v\ngot  %v\nwant %v", flows, r, got, want)
			}
		}
	}
}

// TestClassifyAllPorts: every port of a file with as many flows as ports.
func TestClassifyAllPorts(t *testing.T) {
	flows := []Flow{{Kind: Port, First: 10, Last: 65530}}
	for p := range uint32(1 << 16) {
		flows = append(flows, Flow{Kind: Port, First: p, Last: p})
	}
	c := mustClassify(t, flows)
	for p := range uint32(1 << 16) {
		want := []uint32{0, p + 1}
		if p < 10 || p > 65530 {
			want = want[1:]
		}
		r := wire.Record{DstPort: uint16(p), Proto: wire.ProtoUDP}
		if got := c.lines(c.match(&r), nil); !slices.Equal(got, want) {
			t.Fatalf("port %d is of lines %v, want %v", p, got, want)
		}
	}
}

// TestClassifyOverlaps: a file that would need gigabytes is refused.
func TestClassifyOverlaps(t *testing.T) {
	var flows []Flow
	for i := range uint32(30_000) {
		flows = append(flows, Flow{Kind: Port, First: i, Last: 65535 - i})
	}
	_, err := newClassifier(flows)
	if err == nil || !strings.Contains(err.Error(), "30000 flow lines overlap too often") {
		t.Errorf("30,000 nested ranges give %v", err)
	}
}

// benchFlows are 200 lines of all kinds; benchRecords meet none, one or
// several of them.
func benchFlows() (flows []Flow) {
	for i := range uint32(100) {
		flows = append(flows,
			Flow{ID: i, Kind: Port, First: 2000 + 10*i, Last: 2014 + 10*i},
			Flow{ID: i, Kind: MGEN, First: 1000 + 50*i, Last: 1039 + 50*i})
	}
	return flows
}

func benchRecords() []wire.Record {
	rng := rand.New(rand.NewPCG(3, 4))
	records := make([]wire.Record, 1024)
	for i := range records {
		r := &records[i]
		r.Time, r.Length = 1560390672_895279000+int64(i)*1000, uint32(60+i)
		r.DstPort, r.Proto = uint16(1500+rng.IntN(2000)), wire.ProtoUDP
		if i%2 == 0 {
			r.FlowID, r.Flags = uint32(1+rng.IntN(6000)), wire.MGEN
		}
	}
	return records
}

func TestClassifyDoesNotAllocate(t *testing.T) {
	flows, records := benchFlows(), benchRecords()
	c := mustClassify(t, flows)
	scratch := make([]uint32, 0, len(flows))
	lines := 0
	allocs := testing.AllocsPerRun(20, func() {
		for i := range records {
			lines += len(c.lines(c.match(&records[i]), scratch))
		}
	})
	if allocs != 0 || lines == 0 {
		t.Errorf("%v allocations per 1,024 records, %d lines", allocs, lines)
	}
}

func BenchmarkClassify(b *testing.B) {
	c, records := mustClassify(b, benchFlows()), benchRecords()
	i, n := 0, 0
	scratch := make([]uint32, 0, 200)
	for b.Loop() {
		n += len(c.lines(c.match(&records[i&1023]), scratch))
		i++
	}
	b.ReportMetric(float64(n)/float64(i), "lines/record")
}
