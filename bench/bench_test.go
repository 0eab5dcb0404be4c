package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/bench/minimal"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

func TestParseStat(t *testing.T) {
	const stat = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu1 1 2 3 4 5 6 7 8 9 10\nintr 5\n"
	idle, cpus, err := parseStat(stat)
	if idle != 90*tick || cpus != 2 || err != nil {
		t.Errorf("idle for %v on %d processors, %v", idle, cpus, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3 x 5 6 7 8"} {
		if idle, _, err := parseStat(bad); err == nil {
			t.Errorf("%q: idle for %v", bad, idle)
		}
	}
	begin := time.Now()
	before := clock{wall: begin, idle: 5 * time.Second, cpus: 2}
	after := clock{wall: begin.Add(time.Second), idle: 6500 * time.Millisecond, cpus: 2}
	if got := after.busySince(before); got != 500*time.Millisecond {
		t.Errorf("busy for %v of 2 s, 1.5 s idle", got)
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

// TestCPUClocks: the clock of a process has what one of its threads uses, but for
// its ticks: user and system time are rounded down each, before and after.
func TestCPUClocks(t *testing.T) {
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	thread := time.Duration(0)
	onCPU(tapCPU, func(err error) {
		if err != nil {
			t.Error(err)
		}
		// The thread may have run before, for something else.
		for begin := threadCPU(); thread < 200*time.Millisecond; thread = threadCPU() - begin {
		}
	})
	after, err := processCPU(os.Getpid())
	if used := after - before; err != nil || used < thread-2*tick {
		t.Errorf("the process used %v, want at least the %v of its thread but for two ticks of %v; %v", used, thread, time.Duration(tick), err)
	}
	if got, err := processCPU(0); got != 0 || err != nil {
		t.Errorf("no process used %v, %v", got, err)
	}
	if rss, err := peakRSS(os.Getpid()); err != nil || rss < 1<<20 {
		t.Errorf("this process had at most %d bytes, %v", rss, err)
	}
}

// TestResetPeak: memory that was given back before does not count.
func TestResetPeak(t *testing.T) {
	pid := os.Getpid()
	const size = 64 << 20
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	high, err1 := peakRSS(pid)
	err2 := errors.Join(unix.Munmap(mem), resetPeak(pid))
	low, err3 := peakRSS(pid)
	if err := errors.Join(err1, err2, err3, resetPeak(0)); err != nil || high < size || low > high-size/2 {
		t.Errorf("%d bytes at most, and %d since; %v", high, low, err)
	}
}

func TestNumber(t *testing.T) {
	const dump = "tcpdump: 5 packets captured, 7 packets received by filter, 1 packet dropped by kernel\n" +
		"tcpdump: 5234567 packets captured, 5234569 packets received by filter, 2 packets dropped by kernel"
	const agent = "pcapper: summary: 1,234,567 packets captured in 3s, 12 dropped by the kernel, 3,456 dropped by slow readers\npcapper: log: off, as it is /dev/null"
	for _, test := range []struct {
		text    string
		pattern *regexp.Regexp
		want    uint64
	}{
		{dump, dumpCaptured, 5234567},
		{dump, dumpDropped, 2},
		{agent, agentDropped, 12},
		{agent, agentSlow, 3456},
		{"Packets processed: 71\nPackets dropped by libpcap: 9", flowsProcessed, 71},
		{"Packets processed: 71\nPackets dropped by libpcap: 9", flowsDropped, 9},
	} {
		if got, err := number(test.text, test.pattern); err != nil || got != test.want {
			t.Errorf("%v: %d, %v, want %d", test.pattern, got, err, test.want)
		}
	}
	if got, err := number(agent, dumpDropped); err == nil {
		t.Errorf("found %d where nothing is", got)
	}
	if !agentSummary.MatchString(agent) {
		t.Error("the agent's summary is not recognised")
	}
}

func pipe(t *testing.T, announce string) (*collector, net.Conn) {
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
	t.Cleanup(func() { feed.Close() })
	c, err := newCollector(conn.(*net.TCPConn), announce)
	if err != nil {
		t.Fatal(err)
	}
	return c, feed
}

// Records are counted in whatever pieces they come, and their delays measured
// if asked for.
func TestCollector(t *testing.T) {
	c, feed := pipe(t, "bulk\n")
	said := make([]byte, 5)
	if _, err := feed.Read(said); err != nil || string(said) != "bulk\n" {
		t.Errorf("the collector says %q, %v", said, err)
	}
	const n = 100
	var stream []byte
	for range n {
		var ok bool
		r := wire.Record{Time: time.Now().Add(-300 * time.Millisecond).UnixNano()}
		if stream, ok = wire.AppendBinary(stream, &r); !ok {
			t.Fatal("no record")
		}
	}
	write := func() error {
		rest := stream
		for i := 0; len(rest) > 0; i++ {
			k := min(i%97+1, len(rest))
			if _, err := feed.Write(rest[:k]); err != nil {
				return err
			}
			rest = rest[k:]
		}
		return nil
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	if got := c.quiet(5*time.Second, n); got != n {
		t.Errorf("%d records, want %d", got, n)
	}
	h, err := c.listen(write)
	if err != nil || h.n == 0 || h.n > n || h.quantile(0) < 250*time.Millisecond {
		t.Errorf("%d delays of %d, at least %v, %v", h.n, n, h.quantile(0), err)
	}
	if got := c.quiet(5*time.Second, 2*n); got != 2*n {
		t.Errorf("%d records, want %d", got, 2*n)
	}
	feed.Close()
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

func TestCollectorOfHalfARecord(t *testing.T) {
	c, feed := pipe(t, "")
	feed.Write(make([]byte, wire.Size+3))
	feed.Close()
	if err := c.close(); err == nil || !strings.Contains(err.Error(), "3 bytes into a record") {
		t.Errorf("error %v", err)
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("median of nothing %v", got)
	}
	for i := range 100 {
		h.add(time.Duration(i) * time.Millisecond)
	}
	h.add(time.Hour)
	h.add(-time.Hour)
	if p50, p99 := h.quantile(0.50), h.quantile(0.99); p50 != 50*time.Millisecond || p99 != 99*time.Millisecond {
		t.Errorf("p50 %v, p99 %v", p50, p99)
	}
}

func newTestBench(t *testing.T) *bench {
	b := newBench(options{agent: os.Args[0], duration: 100 * time.Millisecond, rounds: 1, cells: regexp.MustCompile("")})
	b.say = t.Logf
	t.Cleanup(b.cleanup)
	b.setUp()
	return b
}

// What each sender says it has sent has passed the interface, frame by frame.
func TestSendersCountExactly(t *testing.T) {
	b := newTestBench(t)
	for _, traffic := range append([]traffic{basic}, others...) {
		t.Run(traffic.name, func(t *testing.T) {
			senders, err := b.traffic(traffic)
			if err != nil {
				t.Fatal(err)
			}
			s := b.scene(traffic.scene)
			at := s.host
			passed := func() uint64 {
				c, err := at.Counters(at.Interface.Name)
				if err != nil {
					t.Fatal(err)
				}
				if s.received {
					return c.RxPackets
				}
				return c.TxPackets + c.TxDropped
			}
			before := passed()
			want := uint64(0)
			for _, sender := range senders {
				counted, err := sender.count()
				if err != nil {
					t.Fatal(err)
				}
				const n = 3000
				sender.host().Do(func() { _, err = sender.push(n) })
				if err != nil {
					t.Fatal(err)
				}
				after, err := sender.count()
				if err != nil {
					t.Fatal(err)
				}
				sent := after.minus(counted)
				want += sent.frames
				if sent.packets < n-100 || sent.packets < sent.frames || traffic.offloads && sent.frames > n/10 {
					t.Errorf("sent %d packets in %d frames, want some %d", sent.packets, sent.frames, n)
				}
			}
			if got := passed() - before; got != want {
				t.Errorf("%d frames passed the interface, %d were sent", got, want)
			}
		})
	}
}

// Lengths and ports are those that the traffic's name promises.
func TestSendersFrames(t *testing.T) {
	b := newTestBench(t)
	for _, test := range []struct {
		traffic        traffic
		lengths, flows int
		longest        int
	}{
		{basic, 1, 1, 60},
		{named("64-1k"), 1, 120, 60},
		{named("64-100k"), 1, 120, 60},
		{named("imix"), 3, 1, 1514},
		{named("received-100k"), 1, 120, 60},
	} {
		senders, err := b.traffic(test.traffic)
		if err != nil {
			t.Fatal(err)
		}
		s := b.scene(test.traffic.scene)
		lengths, flows, longest := map[int]bool{}, map[uint32]bool{}, 0
		for _, frame := range listen(t, s, 120, senders[0]) {
			lengths[len(frame)] = true
			flows[binary.BigEndian.Uint32(frame[udpAt:])] = true
			longest = max(longest, len(frame))
		}
		if len(lengths) != test.lengths || len(flows) != test.flows || longest != test.longest {
			t.Errorf("%s: %d lengths up to %d, %d flows, want %+v", test.traffic.name, len(lengths), longest, len(flows), test)
		}
	}
}

// listen returns the frames that a sender sends, n of them.
func listen(t *testing.T, s *scene, n int, from sender) (frames [][]byte) {
	index, err := indexOf(s.host)
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	s.host.Do(func() { fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK, 0) })
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		t.Fatal(err)
	}
	// Frames that XDP has made take a page each.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		t.Fatal(err)
	}
	from.host().Do(func() { _, err = from.push(n) })
	if err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(5*time.Second, func() bool {
		buf := make([]byte, 4096)
		for {
			k, err := unix.Read(fd, buf)
			if err != nil {
				return len(frames) >= n
			}
			frames = append(frames, bytes.Clone(buf[:k]))
		}
	})
	if len(frames) != n {
		t.Fatalf("%d frames of %d", len(frames), n)
	}
	return frames
}

// The counting program sees each frame, and none once it is detached.
func TestCounting(t *testing.T) {
	b := newTestBench(t)
	for i, traffic := range []traffic{basic, named("received")} {
		senders, err := b.traffic(traffic)
		if err != nil {
			t.Fatal(err)
		}
		c := &counting{clock: i == 1}
		if err := c.start(context.Background(), b, b.scene(traffic.scene)); err != nil {
			if !strings.Contains(err.Error(), "tcx needs Linux 6.6") {
				t.Fatal(err)
			}
			return
		}
		before, _, _ := c.seen(0)
		l, err := send(context.Background(), senders, 20*time.Millisecond, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.seen(0); got-before != l.frames || err != nil {
			t.Errorf("%s: counted %d of %d, %v", traffic.name, got-before, l.frames, err)
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// The sender keeps the pace that it is told, from a frame now and then on.
func TestSendPace(t *testing.T) {
	b := newTestBench(t)
	senders, err := b.traffic(basic)
	if err != nil {
		t.Fatal(err)
	}
	for _, rate := range []float64{100, 20_000} {
		l, err := send(context.Background(), senders, 200*time.Millisecond, rate)
		if most := uint64(rate*l.elapsed.Seconds()) + 1; err != nil || l.packets < 1 || l.packets > most {
			t.Errorf("%d frames in %v, want at most %d, %v", l.packets, l.elapsed, most, err)
		}
	}
}

// The whole program, with our agent and without others.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "pcapper")
	build := exec.Command("go", "build", "-o", program, "../cmd/pcapper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	opt, err := parse([]string{"-agent", program, "-o", filepath.Join(dir, "page"), "-rounds", "1", "-t", "200ms", "-cells", `^(ring, 1 collector(, log)?|C .*) / (64|udp-gso|slow)$`})
	if err != nil {
		t.Fatal(err)
	}
	opt.cAgent = ""
	if err := run(context.Background(), opt); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(opt.out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\n| no tap | ", "\n| ring, 1 collector | ", "\n| ring, 1 collector, log | ", "\n| udp-gso | ring, 1 collector | ",
		"ring: machine / tcpdump | at most 1.0 | - | not measured",
		"C agent, 1 collector, log was not measured: BENCH_C_PCAPPER names no C agent",
	} {
		if !bytes.Contains(page, []byte(want)) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, bad := range [][]string{{"-rounds", "0"}, {"-t", "0s"}, {"-cells", "("}, {"word"}, {"-nonsense"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	opt, err := parse([]string{"-quick", "-agent", "/nonexistent/pcapper"})
	if err != nil || opt.out != "" || opt.rounds != 1 {
		t.Errorf("-quick: %+v, %v", opt, err)
	}
	if err := run(context.Background(), opt); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("error %v, want a hint", err)
	}
}

// cells are samples of rates in millions a second, with a base of 2 M/s.
func cells(rates ...float64) *result {
	r := &result{}
	for _, rate := range rates {
		base := &sample{rate: 2e6, senderNs: 500, machineNs: 510}
		r.samples = append(r.samples, sample{
			rate: rate * 1e6, senderNs: 1000 / rate, machineNs: 1000/rate + 60, tapNs: 50, sent: 100, counted: true, rss: 20 << 20, base: base,
		})
	}
	return r
}

func TestPage(t *testing.T) {
	r := newResults()
	r.about = "About this."
	set := func(tap, traffic string, c *result) { r.cells[[2]string{tap, traffic}] = c }
	set(noTap, basic.name, cells(2))
	set(countTap, basic.name, cells(1.9))
	set(dumpTap, basic.name, cells(1.25))
	set(ringOne, basic.name, cells(1, 1.25, 1))
	lossy := cells(1.25)
	lossy.samples[0].lost, lossy.samples[0].toldDropped = 3, 2
	lossy.lossless, lossy.found = 0.5e6, true
	set(ringLog, basic.name, lossy)
	set(noTap, "imix", cells(2))
	set(ringOne, "imix", cells(1))
	r.slows[ringOne] = &slow{
		cpu: map[string][]float64{idle: {0.1}, "10": {0.3, 0.2, 0.9}},
		p50: map[string][]float64{"1,000,000": {3}}, p99: map[string][]float64{"1,000,000": {9}},
	}
	r.skipped["ebpf"+oneBulk] = `engine "ebpf" is none`
	page := document(r)
	for _, want := range []string{
		"About this.",
		"| ring, 1 collector | 1.00 (1.00...1.25) | 0.50 (0.50...0.62) | 500 (300...500) | 19.00 | 50 (50...50) | 560 (360...560) | 1.56 | 0 | 0 | none found | 20.0 |\n",
		"| ring, 1 collector, log | 1.25 (1.25...1.25) | 0.62 (0.62...0.62) | 300 (300...300) | 11.40 | 50 (50...50) | 360 (360...360) | 1.00 | 3 (3 %) | 2 | 0.50 | 20.0 |\n",
		"| no tap | 2.00 (2.00...2.00) | - | - | - | - | - | - | - | - | - | - |\n",
		"| imix | ring, 1 collector | 1.00 (1.00...1.00) |",
		"| ring, 1 collector | 0.10 | 0.30 |", "| 3.0 / 9.0 |",
		"| ring: machine / tcpdump | at most 1.0 | 1.56 | **not reached** |",
		"| ring, log: machine / tcpdump | at most 1.3 | 1.00 | reached |",
		"- Goal not reached: ring: machine / tcpdump: 1.56, want at most 1.0\n",
		"- ring, 1 collector, log loses, sent, 64 bytes, 1 flow: 3 (3 %)\n",
		"- ebpf, 1 collector was not measured: engine \"ebpf\" is none\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if text := terminal(r); !strings.Contains(text, "ring, 1 collector, log  1.25 (1.25...1.25)") {
		t.Errorf("on a terminal:\n%s", text)
	}
}

// Whoever is better than the best of ours is named, and nobody else.
func TestLosses(t *testing.T) {
	r := newResults()
	r.cells[[2]string{ringOne, basic.name}] = cells(1)
	r.cells[[2]string{ringLog, basic.name}] = cells(1.25)
	r.cells[[2]string{countTap, basic.name}] = cells(1.9)
	r.cells[[2]string{dumpTap, basic.name}] = cells(1.6)
	r.cells[[2]string{flowTap, basic.name}] = cells(1.1)
	got := strings.Join(losses(r), "\n")
	const want = "tcpdump -w /dev/null keeps more of its sender's rate: 64 (0.80, ours 0.62)\n" +
		"tcpdump -w /dev/null takes less time of the whole machine: 64 (185 ns, ours 360 ns)\n" +
		"Goal not reached: ring: machine / tcpdump: 3.03, want at most 1.0\n" +
		"Goal not reached: ring, log: machine / tcpdump: 1.95, want at most 1.3"
	if got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestCellNames(t *testing.T) {
	names := strings.Join(cellNames(), "\n")
	for _, want := range []string{"ebpf, 1 collector / tcp-gso", "ebpf, 1 collector, log / busy-1M", "minimal agent, 1 collector / 64", "ebpf, 1 silent collector, log / 64", "ebpf, 1 collector, log / 64-100k", "ring, 3 collectors / 64", "C agent, 1 collector, log / slow"} {
		if !strings.Contains("\n"+names+"\n", "\n"+want+"\n") {
			t.Errorf("no cell %q in\n%s", want, names)
		}
	}
	if strings.Contains(names, "log / imix") {
		t.Error("the log is measured with what does not concern it")
	}
}

// The minimal agent records each frame; this program is it if told so.
func TestMinimal(t *testing.T) {
	b := newTestBench(t)
	b.opt.object = "../internal/agent/capture/tap_bpfel_linux.o"
	tap := &agent{minimal: true, collectors: 1}
	if err := tap.start(context.Background(), b, b.scene(sending)); err != nil {
		t.Fatal(err)
	}
	defer tap.stop()
	o := observer{b: b, tap: tap, frames: true}
	if err := o.begin(context.Background(), basic); err != nil {
		t.Fatal(err)
	}
	s, err := o.sample(context.Background(), named("busy-1M"), 100*time.Millisecond, 10_000)
	if err != nil || !s.counted || s.lost != 0 || s.sent < 100 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == minimalWord {
		fmt.Fprintln(os.Stderr, minimal.Run(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}
