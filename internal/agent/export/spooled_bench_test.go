package export

import (
	"context"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// BenchmarkTCP exports b.N packet records, a million a second, by TCP: without a
// spool, with one, and with one while the receiver is away.
func BenchmarkTCP(b *testing.B) {
	b.Run("nospool", func(b *testing.B) { benchmarkTCP(b, false, true) })
	b.Run("spool", func(b *testing.B) { benchmarkTCP(b, true, true) })
	b.Run("away", func(b *testing.B) { benchmarkTCP(b, true, false) })
}

func benchmarkTCP(b *testing.B, spooled, there bool) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	if there {
		go func() {
			if conn, err := ln.Accept(); err == nil {
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		}()
	} else {
		ln.Close()
	}
	defer ln.Close()
	target, _ := Parse("ipfix+tcp://" + ln.Addr().String())
	h := hub.New(hub.Config[wire.Record]{Chunk: 4096, Chunks: 64, Encodings: []hub.Encoding[wire.Record]{hub.Each(ipfix.Append)}})
	r := h.NewReader()
	x := New(Config{
		Target: target, Reader: r, Lost: func() uint64 { return r.Status().Lost }, Ignored: func() uint64 { return 0 },
		Peer: func(netip.AddrPort) {}, Say: func(string, ...any) {},
	})
	var q *spool.Queue
	if spooled {
		dir, err := spool.OpenDir(b.TempDir())
		if err != nil {
			b.Fatal(err)
		}
		defer dir.Close()
		if q, err = dir.Open(spool.Config{Name: "x", Size: 4e9, Say: b.Logf}); err != nil {
			b.Fatal(err)
		}
		defer q.Close()
		x.SetSpool(q)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ResetTimer()
	pour(b, h)
	if !there {
		cancel()
	}
	h.Close()
	<-done
	cancel()
	b.StopTimer()
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/record")
	lost := r.Status().Lost
	if spooled {
		lost += q.Status().Dropped.Weight
		b.ReportMetric(float64(q.Status().Waiting.Weight), "waiting")
	}
	b.ReportMetric(float64(lost), "lost")
}
