package nettest_test

import (
	"context"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// What a frame costs its sender, receiving stack included: CPU time, as the
// wall clock also measures what else the machine does.
func BenchmarkGenerator(b *testing.B) {
	const size, segments = 18, 32 // frames of 60 bytes
	from, to := nettest.Pair(b)
	f := nettest.Between(from, to, 1, 2, make([]byte, size))
	f.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc}
	b.Run("frames", func(b *testing.B) {
		g, err := from.Generator(f.Ethernet())
		run(b, g, err)
	})
	f.Payload = make([]byte, segments*size)
	b.Run("bursts", func(b *testing.B) {
		g, err := from.Burst(f, size)
		run(b, g, err)
	})
}

func run(b *testing.B, g *nettest.Generator, err error) {
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	b.ResetTimer()
	unix.Getrusage(unix.RUSAGE_THREAD, &before)
	if sent, _, err := g.Send(context.Background(), b.N, 0); sent != b.N || err != nil {
		b.Fatalf("sent %d: %v", sent, err)
	}
	unix.Getrusage(unix.RUSAGE_THREAD, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/frame")
}
