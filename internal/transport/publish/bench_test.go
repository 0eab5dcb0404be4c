package publish

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

// BenchmarkPublish publishes b.N packet records, 500,000 a second, to a server
// of NATS on this host.
func BenchmarkPublish(b *testing.B) {
	s := bustest.Start(b, "")
	target, err := bus.Parse(s.URL())
	if err != nil {
		b.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{Target: target})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := c.EnsureStreams(b.Context(), bus.Streams{Partitions: 1, MaxBytes: 4 << 30}); err != nil {
		b.Fatal(err)
	}
	h := hub.New(hub.Config[wire.Record]{Chunk: 4096, Chunks: 64})
	r := h.NewReader()
	x := New(Config{Bus: bus.Config{Target: target, Say: b.Logf}, Agent: "a", Reader: r, Lost: func() uint64 { return r.Status().Lost }})
	done := make(chan error, 1)
	go func() { done <- x.Run(context.Background()) }()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ResetTimer()
	begin := time.Now()
	for sent := 0; sent < b.N; {
		due := min(int(time.Since(begin)/(2*time.Microsecond)), b.N) - sent
		h.Fill(func(free []wire.Record) int {
			n := min(len(free), due)
			for i := range n {
				free[i] = record(sent + i)
			}
			sent += n
			return n
		})
		time.Sleep(time.Millisecond)
	}
	h.Close()
	<-done
	b.StopTimer()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(r.Status().Lost+x.Counts().GivenUp), "lost")
	b.ReportMetric(float64(b.N)-float64(x.Counts().Packets), "notacknowledged")
}
