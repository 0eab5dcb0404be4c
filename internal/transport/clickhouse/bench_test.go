package clickhouse

import (
	"testing"
	"time"
)

// BenchmarkSink: rows a second into a real server, from batches to the answer.
func BenchmarkSink(b *testing.B) {
	server := startServer(b)
	for _, query := range []string{"?memory=512", "?memory=512&compress=gzip"} {
		b.Run(query, func(b *testing.B) {
			sink, end := runSink(b, server.target(query))
			rows := uint64(0)
			b.ResetTimer()
			for i := range b.N {
				rows += publish(sink, uint64(i)+2, 1000).records
				for sink.Status().Written < rows {
					time.Sleep(time.Millisecond)
				}
			}
			b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
			if err := end(); err != nil || sink.Status().Dropped != 0 {
				b.Fatal(err, sink.Status())
			}
		})
	}
}

// BenchmarkPublish: what the collector pays.
func BenchmarkPublish(b *testing.B) {
	s, err := New(&TableURL{URL: "http://127.0.0.1:1", Memory: defaultMemory}, func(string, ...any) {})
	if err != nil {
		b.Fatal(err)
	}
	rows := uint64(0)
	for b.Loop() {
		rows += publish(s, 1, 100).records
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
}
