package history_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/batch"
	"github.com/pcapper/pcapper/internal/history"
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
