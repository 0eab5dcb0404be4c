package rollup

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// busySite are hosts that all send to ten others each, half of it MGEN, and the
// minute of it that a store makes a frame of.
func busySite(tb testing.TB, hosts int) (ArchiveConfig, *frame, []numbered) {
	cfg := ArchiveConfig{Rows: rowNames("1", "2", "3", "X")}
	for i := range hosts {
		cfg.Hosts = append(cfg.Hosts, Host{Label: "host" + strconv.Itoa(i), Address: "10.0.0.1"})
	}
	s := New(Config{Hosts: cfg.Hosts, Rows: 3, Classify: testRows, Budget: 8 << 30}) // an archive has room for all that a frame may have
	rng := rand.New(rand.NewPCG(5, 5))
	addr := func(i int) [16]byte { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).As16() }
	for sec := base; sec < base+140; sec++ {
		for host := range hosts {
			for n := range 20 {
				to := (host + 1 + n%10) % hosts
				r := wire.Record{
					Time: sec*1e9 + int64(n)*1e6, Src: addr(host), Dst: addr(to), Proto: wire.ProtoUDP, Length: uint32(100 + rng.IntN(1000)),
					SrcPort: 4000, DstPort: uint16(5000 + n%5), Flags: wire.Outgoing,
				}
				if n%2 == 0 {
					r.Flags |= wire.MGEN | wire.MGENHeader
					r.FlowID, r.MGENSeq, r.MGENTime = uint32(n), uint32(sec-base), r.Time/1000
				}
				s.Add(r.Time, host, &r)
				r.Flags ^= wire.Outgoing | wire.Incoming
				r.Time += 1e6
				s.Add(r.Time, to, &r)
			}
		}
	}
	frames := s.tiers[2].frames
	return cfg, frames[len(frames)-1], s.dir.keys
}

// BenchmarkArchive: what it costs to write, and to ask a day and a month of 200
// busy hosts.
func BenchmarkArchive(b *testing.B) {
	cfg, minute, keys := busySite(b, 200)
	cfg.Dir = b.TempDir()
	a, err := OpenArchive(cfg)
	if err != nil {
		b.Fatal(err)
	}
	key := func(id uint32) *entryKey {
		i, _ := findKey(keys, id)
		return &keys[i].key
	}
	put := func(i int, start int64) {
		f := *minute
		f.start, f.span = start, tierSpecs[i].span
		if err := a.writer.put(i, &f, key, true); err != nil {
			b.Fatal(err)
		}
		if err := a.writer.sumUp(i+1, start); err != nil {
			b.Fatal(err)
		}
	}
	start := floorTo(base, day)
	for t := start; t < start+29*day-hour; t += 600 {
		put(3, t)
	}
	written := time.Now()
	for t := start + 29*day - hour; t < start+30*day; t += 60 {
		put(2, t)
	}
	each := time.Since(written) / (25 * 60)
	a.writer.publish(nil)
	size := a.view.Load().status.Size
	go a.Run()
	s := New(Config{Hosts: a.Hosts(), Rows: 3, Classify: testRows, Archive: a})
	b.Cleanup(s.Close)
	s.Tick((start + 30*day) * 1e9)
	snap := s.Snapshot()
	for _, w := range []struct {
		name string
		Window
	}{{"day", snap.Last(day)}, {"month", snap.Last(30 * day)}} {
		for name, ask := range map[string]func(){
			"overview": func() { snap.Overview(w.Window) }, "hosts": func() { snap.HostViews(w.Window) },
			"matrix": func() { snap.Matrix(w.Window, 1000) }, "talkers": func() { snap.Talkers(w.Window, 1000) },
			"mgen": func() { snap.MGEN(w.Window) },
		} {
			b.Run(w.name+"/"+name, func(b *testing.B) {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				for b.Loop() {
					ask()
				}
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/1e6, "MB/op")
				b.ReportMetric(each.Seconds()*1e3, "ms/frame-written")
				b.ReportMetric(float64(size)/1e6, "MB-on-disk")
				b.ReportMetric(float64(minute.size())/1e3, "kB/frame")
			})
		}
	}
}
