package main

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/nettest"
	"github.com/pcapper/pcapper/wire"
)

func TestParseStat(t *testing.T) {
	const stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\n"
	got, err := parseStat(stat)
	if want := (10 + 20 + 30 + 60 + 70) * tick; err != nil || got != want {
		t.Errorf("busy for %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8", "cpu 1 x 3 4 5 6 7 8"} {
		if got, err := parseStat(bad); err == nil {
			t.Errorf("%q: busy for %v", bad, got)
		}
	}
}

func TestParseHWM(t *testing.T) {
	if got, err := parseHWM("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   1024 kB\nVmRSS:\t 5 kB\n"); err != nil || got != 1<<20 {
		t.Errorf("peak of %d bytes, %v", got, err)
	}
	for _, bad := range []string{"", "VmHWM: many kB\n"} {
		if got, err := parseHWM(bad); err == nil {
			t.Errorf("%q: peak of %d bytes", bad, got)
		}
	}
}

// The clock of this process runs, and about as fast as it works.
func TestProcessCPU(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); time.Since(begin) < 50*time.Millisecond; {
	}
	after, err := processCPU(os.Getpid())
	if used := after - before; err != nil || used <= 0 || used > 10*time.Second {
		t.Errorf("used %v, %v", used, err)
	}
	if got, err := processCPU(0); got != 0 || err != nil {
		t.Errorf("no process used %v, %v", got, err)
	}
	if rss, err := peakRSS(os.Getpid()); err != nil || rss < 1<<20 {
		t.Errorf("this process had at most %d bytes, %v", rss, err)
	}
}

func TestNumber(t *testing.T) {
	const dump = "tcpdump: listening on eth0, link-type EN10MB (Ethernet), snapshot length 256 bytes\n" +
		"5234567 packets captured\n5234569 packets received by filter\n2 packets dropped by kernel"
	const agent = "pcapper: summary: 1,234,567 packets captured in 3s, 12 dropped by the kernel, 3,456 dropped by slow readers"
	if got, err := number(dump, dumpCaptured); err != nil || got != 5234567 {
		t.Errorf("captured %d, %v", got, err)
	}
	if got, err := number(dump, dumpDropped); err != nil || got != 2 {
		t.Errorf("dropped %d, %v", got, err)
	}
	if got, err := number(agent, agentDropped); err != nil || got != 12 {
		t.Errorf("dropped by the kernel %d, %v", got, err)
	}
	if got, err := number(agent, agentSlow); err != nil || got != 3456 {
		t.Errorf("dropped by slow readers %d, %v", got, err)
	}
	if got, err := number(agent, dumpCaptured); err == nil {
		t.Errorf("found %d where nothing is", got)
	}
}

// Records arrive in pieces of any size, and those of other traffic between them.
func TestCollectorCounts(t *testing.T) {
	var stream []byte
	const n = 100
	for i := range 2 * n {
		record := make([]byte, wire.Size)
		if i%2 == 0 {
			binary.BigEndian.PutUint16(record[recordDstPort:], dstPort)
		}
		stream = append(stream, record...)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	feed, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newCollector(conn.(*net.TCPConn), "bulk\n")
	if err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	if _, err := feed.Read(said); err != nil || string(said) != "bulk\n" {
		t.Errorf("the collector says %q, %v", said, err)
	}
	for i, piece := 0, 1; len(stream) > 0; i++ {
		k := min(piece, len(stream))
		if _, err := feed.Write(stream[:k]); err != nil {
			t.Fatal(err)
		}
		stream, piece = stream[k:], piece%97+1
	}
	if got := c.quiet(5*time.Second, n); got != n {
		t.Errorf("%d records, want %d", got, n)
	}
	feed.Close()
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

func TestCollectorCountKeepsRest(t *testing.T) {
	c := new(collector)
	b := make([]byte, 2*wire.Size+3)
	copy(b[2*wire.Size:], "abc")
	if rest := c.count(b); rest != 3 || string(b[:3]) != "abc" {
		t.Errorf("%d bytes kept: %q", rest, b[:3])
	}
}

func samples(rates ...float64) []sample {
	all := make([]sample, len(rates))
	for i, r := range rates {
		all[i] = sample{rate: r, sent: 100, machineNs: r / 1e4}
	}
	return all
}

func TestMedian(t *testing.T) {
	rate := func(s sample) float64 { return s.rate }
	for want, s := range map[float64][]sample{0: nil, 3: samples(3), 5: samples(9, 5, 1), 4: samples(9, 3, 5, 1)} {
		if got := median(s, rate); got != want {
			t.Errorf("median %v, want %v", got, want)
		}
	}
	if got := spread(samples(9, 5, 1), "%.0f", rate); got != "5 (1...9)" {
		t.Errorf("spread %q", got)
	}
}

func TestDocument(t *testing.T) {
	base := result{name: "no tap", samples: samples(2e6, 2e6, 2e6)}
	lossy := result{name: "lossy", samples: samples(1e6, 1.5e6, 1e6), lossless: 0.5e6, found: true}
	lossy.samples[0].lost, lossy.samples[0].toldDropped, lossy.samples[1].rss = 3, 2, 64<<20
	for i := range lossy.samples {
		lossy.samples[i].rss, lossy.samples[i].tapNs = 64<<20, 91
	}
	all := []result{base, lossy}
	text := document(all, "a machine", "-t 1s")
	for _, want := range []string{
		"a machine", "-t 1s",
		"| lossy | 1.00 (1.00...1.50) | 0.50 | 91 (91...91) | 100 (100...150) | -100 | 3 (1 %) | 2 | 0.50 | 64.0 |\n",
		"| no tap | 2.00 (2.00...2.00) | - | - | 200 (200...200) | - | - | - | - | - |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	lines := strings.Split(strings.TrimSpace(table(all)), "\n")
	if len(lines) != 3 || strings.Index(lines[0], "packets/s") != strings.Index(lines[2], "1.00") {
		t.Errorf("columns are not aligned:\n%s", strings.Join(lines, "\n"))
	}
	if got := lossless(&result{}); got != "none found" {
		t.Errorf("lossless %q", got)
	}
}

// The whole path but for the tap: sender, clocks and counts.
func TestTrialWithoutTap(t *testing.T) {
	a, peer := nettest.Pair(t)
	frame := nettest.Between(a, peer, srcPort, dstPort, make([]byte, 18))
	frame.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc}
	gen, err := a.Generator(frame.Ethernet())
	if err != nil {
		t.Fatal(err)
	}
	defer gen.Close()
	b := &bench{host: a, gen: gen}
	s, err := b.trial(context.Background(), nothing{}, 200*time.Millisecond, 10000)
	if err != nil {
		t.Fatal(err)
	}
	if s.sent < 1000 || s.sent > 2100 || s.rate < 5000 || s.rate > 10500 || s.lost != 0 {
		t.Errorf("sample %+v, want 2000 frames at 10,000 per second", s)
	}
}

func TestSetUpWithoutAgent(t *testing.T) {
	err := run(context.Background(), options{agent: "/nonexistent/pcapper", rounds: 1, duration: time.Second})
	if err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v, want a hint", err)
	}
	if err := run(context.Background(), options{}); err == nil {
		t.Error("no rounds at all were accepted")
	}
}
