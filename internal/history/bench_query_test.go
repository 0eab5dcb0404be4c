package history_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
