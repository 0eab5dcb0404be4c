package export

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// pour publishes b.N records, a million a second.
func pour(b *testing.B, h *hub.Hub[wire.Record]) {
	begin := time.Now()
	for sent := 0; sent < b.N; {
		due := min(int(time.Since(begin)/time.Microsecond), b.N) - sent
		if due < 1000 && sent+due < b.N {
			time.Sleep(time.Millisecond)
			continue
		}
		h.Fill(func(free []wire.Record) int {
			n := min(len(free), due)
			for i := range n {
				free[i] = record(sent + i)
			}
			sent += n
			return n
		})
	}
}

// BenchmarkNfcapd sends b.N packet records, a million a second, to a real
// nfcapd on this host: go test -bench Nfcapd -benchtime 10000000x. "lost" is
// what did not arrive, of everything.
func BenchmarkNfcapd(b *testing.B) {
	dir := b.TempDir()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	port := pc.LocalAddr().(*net.UDPAddr).Port
	pc.Close()
	nfcapd := exec.Command("nfcapd", "-l", dir, "-p", strconv.Itoa(port), "-B", "8000000", "-t", "3600")
	if err := nfcapd.Start(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)

	target, err := Parse(fmt.Sprintf("ipfix+udp://127.0.0.1:%d", port))
	if err != nil {
		b.Fatal(err)
	}
	h := hub.New(hub.Config[wire.Record]{Chunk: 4096, Chunks: 64, Encodings: []hub.Encoding[wire.Record]{hub.Each(ipfix.Append)}})
	r := h.NewReader()
	x := New(Config{
		Target: target, Reader: r, Lost: func() uint64 { return r.Status().Lost }, Ignored: func() uint64 { return 0 },
		Peer: func(netip.AddrPort) {}, Say: func(string, ...any) {},
	})
	done := make(chan error, 1)
	go func() { done <- x.Run(context.Background()) }()

	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	b.ResetTimer()
	begin := time.Now()
	pour(b, h)
	h.Close()
	<-done
	took := time.Since(begin)
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	b.StopTimer()
	time.Sleep(500 * time.Millisecond)
	nfcapd.Process.Signal(syscall.SIGTERM)
	nfcapd.Wait()
	out, err := exec.Command("nfdump", "-R", dir, "-I").Output()
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^Flows: ([0-9]+)$`).FindSubmatch(out)
	if m == nil {
		b.Fatalf("nfdump says:\n%s", out)
	}
	got, _ := strconv.Atoi(string(m[1]))
	b.ReportMetric(float64(x.Counts().Records)/took.Seconds(), "records/s")
	b.ReportMetric(float64(b.N-got), "lost")
	b.ReportMetric(float64(r.Status().Lost), "notsent")
	cpu := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(cpu)/float64(b.N), "cpu-ns/record")
}
