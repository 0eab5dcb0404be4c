package history_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// benchStore has an hour of 20 hosts, 6 million records, as writers leave it:
// compacted if asked.
func benchStore(b *testing.B, compact bool) (dir string) {
	dir = b.TempDir()
	s := open(b, dir, history.Config{})
	const segments, each = 24, 250_000
	for i := range segments {
		var batches []*batch.Batch
		for h := range 20 {
			one := makeBatch(fmt.Sprintf("node-%02d", h), uint64(i)*each/20, each/20)
			one.First *= 12 // one a 12 ms: an hour
			for j := range one.Records {
				one.Records[j].Time = start + (one.Records[j].Time-start)*12
			}
			batches = append(batches, one)
		}
		commit(b, s, fmt.Sprint(i), batches...)
	}
	if compact {
		if err := s.Maintain(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
	return dir
}

func BenchmarkQuery(b *testing.B) {
	for _, files := range []string{"segments", "compacted"} {
		dir := benchStore(b, files == "compacted")
		minute := history.Query{Hosts: []string{"node-07"}, From: time.Unix(0, start+1200e9), To: time.Unix(0, start+1260e9)}
		b.Run(files+"/host's minute", func(b *testing.B) {
			for b.Loop() {
				rows := 0
				_, err := history.Read(context.Background(), dir, &minute, func(r []history.Row) error { rows += len(r); return nil })
				if err != nil || rows == 0 {
					b.Fatal(rows, err)
				}
			}
		})
		b.Run(files+"/hour by protocol", func(b *testing.B) {
			for b.Loop() {
				by, _ := history.ParseBy("proto")
				sums, stats, err := history.Sums(context.Background(), dir, &history.Query{}, by)
				if err != nil || len(sums) != 2 || stats.Rows != 6e6 {
					b.Fatal(sums, stats, err)
				}
			}
		})
		b.Run(files+"/hour by 1m,host,dst_port", func(b *testing.B) {
			for b.Loop() {
				by, _ := history.ParseBy("1m,host,dst_port")
				if _, _, err := history.Sums(context.Background(), dir, &history.Query{}, by); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// labRecord is a packet of a host that has 20 conversations, with new ports each
// minute.
func labRecord(host, i int, at int64) wire.Record {
	talk := i % 20
	r := wire.Record{Time: at, SrcPort: uint16(32768 + at/60e9*17%20000), DstPort: uint16(5000 + talk), Length: uint32(100 + i%1300), Proto: wire.ProtoUDP, Flags: wire.Outgoing}
	r.SetSrc4([4]byte{10, 0, 0, byte(host)})
	r.SetDst4([4]byte{10, 0, 1, byte(talk)})
	if i/20%2 == 1 {
		r.Src, r.Dst, r.SrcPort, r.DstPort, r.Flags = r.Dst, r.Src, r.DstPort, r.SrcPort, wire.Incoming
	}
	return r
}

// BenchmarkDay asks about a day of 20 hosts, 86.4 million records: 50 a second of each.
func BenchmarkDay(b *testing.B) {
	const hosts, segments, each = 20, 360, 12_000
	dir := b.TempDir()
	s := open(b, dir, history.Config{})
	for i := range segments {
		var batches []*batch.Batch
		for h := range hosts {
			one := &batch.Batch{Agent: fmt.Sprintf("node-%02d", h), Boot: 1, First: uint64(i) * each, Level: batch.Packets}
			for j := range each {
				one.Records = append(one.Records, labRecord(h, j, start+int64(i*each+j)*20e6))
			}
			batches = append(batches, one)
		}
		commit(b, s, fmt.Sprint(i), batches...)
		if err := s.Maintain(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
	day := func(from, to int) history.Query {
		return history.Query{From: time.Unix(0, start).Add(time.Duration(from) * time.Minute), To: time.Unix(0, start).Add(time.Duration(to) * time.Minute)}
	}
	one := day(0, 1440)
	one.Hosts = []string{"node-07"}
	for _, test := range []struct {
		name, by string
		q        history.Query
	}{
		{"by 1m,host", "1m,host", day(0, 1440)},
		{"by host,proto,direction", "host,proto,direction", day(0, 1440)},
		{"by 1h,src,dst", "1h,src,dst", day(0, 1440)},
		{"by 10m,src,dst,dst_port", "10m,src,dst,dst_port", day(0, 1440)},
		{"one host by 1m,dst", "1m,dst", one},
		{"an hour by 1m,dst", "1m,dst", day(600, 660)},
	} {
		b.Run(test.name, func(b *testing.B) {
			by, err := history.ParseBy(test.by)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				sums, stats, err := history.Sums(context.Background(), dir, &test.q, by)
				if err != nil || len(sums) == 0 || stats.Damaged != nil {
					b.Fatal(len(sums), stats, err)
				}
				b.ReportMetric(float64(stats.Rows)/1e6, "Mrows")
				b.ReportMetric(float64(stats.Files-stats.Summed), "files-read")
			}
		})
	}
	b.Run("one host's minute, records", func(b *testing.B) {
		q := day(700, 701)
		q.Hosts = one.Hosts
		for b.Loop() {
			rows := 0
			if _, err := history.Read(context.Background(), dir, &q, func(r []history.Row) error { rows += len(r); return nil }); err != nil || rows != 3000 {
				b.Fatal(rows, err)
			}
		}
	})
}

// BenchmarkSustained is ingest with all that follows: segments of 262,144 records,
// compacted as Run does.
func BenchmarkSustained(b *testing.B) {
	const hosts, each, segments = 20, 1 << 18 / 20, 32
	var batches []*batch.Batch
	for h := range hosts {
		one := &batch.Batch{Agent: fmt.Sprintf("node-%02d", h), Boot: 1, Level: batch.Packets}
		for j := range each {
			one.Records = append(one.Records, labRecord(h, j, start+int64(j)*20e3))
		}
		batches = append(batches, one)
	}
	rows, spent := 0, time.Duration(0)
	for b.Loop() {
		s := open(b, b.TempDir(), history.Config{})
		for i := range segments {
			for _, one := range batches {
				one.First += each
				for j := range one.Records {
					one.Records[j].Time += each * 20e3
				}
			}
			before := cpu()
			commit(b, s, fmt.Sprint(i), batches...)
			if err := s.Maintain(context.Background()); err != nil {
				b.Fatal(err)
			}
			spent += cpu() - before
			rows += hosts * each
		}
		s.Close()
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(spent)/float64(rows), "cpu-ns/row")
}

func BenchmarkCompact(b *testing.B) {
	rows := 0
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		s := open(b, dir, history.Config{})
		for i := range 8 {
			var batches []*batch.Batch
			for h := range 20 {
				batches = append(batches, makeBatch(fmt.Sprintf("node-%02d", h), uint64(i)*5000, 5000))
			}
			commit(b, s, fmt.Sprint(i), batches...)
		}
		b.StartTimer()
		if err := s.Maintain(context.Background()); err != nil {
			b.Fatal(err)
		}
		rows += 8 * 20 * 5000
		if list, _ := filepath.Glob(filepath.Join(dir, "2*/*/*.parquet")); len(list) != 1 {
			b.Fatal(list)
		}
		s.Close()
		os.RemoveAll(dir)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkMemory is a minute of 100,000 records a second of 100 hosts, as four
// writers have it, compacted meanwhile: run it alone.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		s := open(b, b.TempDir(), history.Config{})
		for i := range 100 { // 60,000 records each, of 0.6 s
			g, err := s.NewSegment(fmt.Sprint(i))
			if err != nil {
				b.Fatal(err)
			}
			for h := range 100 {
				if err := g.Add(makeBatch(fmt.Sprintf("node-%02d", h), uint64(i)*600, 600)); err != nil {
					b.Fatal(err)
				}
			}
			if err := g.Seal(); err != nil {
				b.Fatal(err)
			}
			if err := s.Commit(fmt.Sprint(i)); err != nil {
				b.Fatal(err)
			}
			if err := s.Maintain(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(u.Maxrss)/1024, "MiB-peak")
}

// BenchmarkOpen is what a start costs for each million records.
func BenchmarkOpen(b *testing.B) {
	dir := benchStore(b, true)
	for b.Loop() {
		s, err := history.Open(dir, history.Config{})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/6, "us/Mrow")
}
