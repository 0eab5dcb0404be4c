package path

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// traffic is packets on a path of four observations, of some flows.
type traffic struct {
	e *Engine
	s, ra, rb,
	d, flows, i int
	rnd *rand.Rand
	r   wire.Record
}

func newTraffic(e *Engine, flows int) *traffic {
	t := &traffic{e: e, s: e.Agent("s"), ra: e.Agent("r/a"), rb: e.Agent("r/b"), d: e.Agent("d"), flows: flows, rnd: rand.New(rand.NewPCG(1, 2))}
	t.r = wire.Record{Proto: wire.ProtoUDP, Length: 100, DstPort: 5000}
	t.r.SetSrc4([4]byte{10, 0, 0, 1})
	t.r.SetDst4([4]byte{10, 0, 0, 2})
	return t
}

// packet adds its four records.
func (t *traffic) packet(now int64) {
	r := &t.r
	r.Digest, r.SrcPort = t.rnd.Uint64(), uint16(t.i%t.flows)
	t.i++
	r.Time, r.TTL, r.Flags = now, 64, wire.Outgoing
	t.e.AddOne(now, t.s, r)
	r.Time, r.Flags = now+1e5, wire.Incoming
	t.e.AddOne(now, t.ra, r)
	r.Time, r.TTL, r.Flags = now+2e5, 63, wire.Outgoing|wire.Relayed
	t.e.AddOne(now, t.rb, r)
	r.Time, r.Flags = now+3e5, wire.Incoming
	t.e.AddOne(now, t.d, r)
}

// BenchmarkAdd is what a record costs on a path of four observations.
func BenchmarkAdd(b *testing.B) {
	for _, flows := range []int{10, 1000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			t := newTraffic(New(Config{Window: 1e8, Memory: 1 << 30}), flows)
			now := start
			b.ReportAllocs()
			for i := 0; i < b.N; i += 4 {
				now += 4000
				t.packet(now)
				if i%1000 == 0 {
					t.e.Tick(now)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// processorTime is what the process has used, whatever else runs.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRate is twelve seconds of network time at a rate of packets/s, with the defaults for window and memory: how many records are
// joined per second of processor time, how large the heap is in the end, and which share of packets is looked at. With rows kept, and packets, their
// costs are in it. Use -benchtime 1x.
func BenchmarkRate(b *testing.B) {
	for _, keep := range []string{"nothing", "rows", "packets"} {
		for _, rate := range []int64{1e3, 1e4, 1e5, 1e6} {
			b.Run(fmt.Sprintf("kept=%s/rate=%d", keep, rate), func(b *testing.B) {
				for range b.N {
					runtime.GC()
					e := New(Config{})
					if keep != "nothing" {
						e.Keep()
					}
					if keep == "packets" {
						e.KeepPackets()
					}
					t := newTraffic(e, 500)
					began := processorTime(b)
					for i := range 12 * rate {
						now := start + i*1e9/rate
						t.packet(now)
						if i%(rate/20) == 0 {
							e.Tick(now)
						}
						if i%rate == 0 { // as those who write them do
							e.TakeRows()
							e.TakePackets()
						}
					}
					b.ReportMetric(float64(4*12*rate)/(processorTime(b)-began).Seconds(), "records/s")
					b.StopTimer()
					runtime.GC()
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB")
					b.ReportMetric(100*e.Report(Query{}, 1).Sampled, "%sampled")
					runtime.KeepAlive(e)
					b.StartTimer()
				}
			})
		}
	}
}
