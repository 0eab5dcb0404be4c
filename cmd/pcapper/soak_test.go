//go:build !libpcap

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestSoak mixes everything that guarantees are about, at random, for
// PCAPPER_SOAK (make test: some seconds; make soak: an hour), and holds the
// accounts against the promise every second. PCAPPER_SEED repeats a run, as far
// as time and the kernel do.
func TestSoak(t *testing.T) {
	period := 8 * time.Second
	if s := os.Getenv("PCAPPER_SOAK"); s != "" {
		var err error
		if period, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("PCAPPER_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PCAPPER_SEED=%d PCAPPER_SOAK=%v", seed, period)
	s := newSoak(t, rand.New(rand.NewPCG(seed, 0)))
	for end := time.Now().Add(period); time.Now().Before(end) && !t.Failed(); {
		s.round()
	}
	s.finish()
}

// soak is one run: an agent, a collector that always reads, and what else
// happens to be there.
type soak struct {
	t      *testing.T
	rng    *rand.Rand
	a, b   *nettest.Host
	p      *agentProcess
	steady *sink
	frame  []byte
	secure *tls.Config
	group  *limited
	log    string
	conns  []net.Conn // of collectors that may read or not

	outage  bool // the interface was down in this round
	rounds  int
	packets uint64
	done    map[string]int
}

func newSoak(t *testing.T, rng *rand.Rand) *soak {
	s := &soak{t: t, rng: rng, done: map[string]int{}}
	s.a, s.b = nettest.Pair(t)
	s.frame = oneFrame(s.a, s.b)
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, s.a.Interface.IPv4.String()); code != 0 {
		t.Fatal(out)
	}
	pair, err := certs.Files{Cert: dir + "/collector.pem", Key: dir + "/collector-key.pem", CA: dir + "/ca.pem"}.Load()
	if err != nil {
		t.Fatal(err)
	}
	s.secure = pair.Client(s.a.Interface.IPv4.String())
	disk := t.TempDir() // small: it will be full now and then
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	s.log = filepath.Join(disk, "log")
	s.group = newLimited(t, "", 100)
	s.begin(dir)
	return s
}

func (s *soak) begin(dir string) {
	s.p = start(s.t, s.a, append([]string{"-m", "udp", "-f", s.log, "-metrics", metricsAddr}, certArgs(dir)...)...)
	s.p.await("metrics on", 1)
	watchAccounts(s.t, s.p)
	s.group.add(s.t, s.p.pid())
	s.steady = drain(s.p.dial(s.a, "bulk\n")) // by loopback: it survives outages
}

// round sends for a second or two at some rate while things happen, and then
// looks whether every packet is accounted for.
func (s *soak) round() {
	s.rounds++
	s.outage = false
	before := s.p.scrape(metricsAddr)
	tr := startTraffic(s.t, s.a, []float64{100, 1000, 10_000, 50_000, 100_000}[s.rng.IntN(5)], s.frame)
	for range 1 + s.rng.IntN(6) {
		time.Sleep(time.Duration(s.rng.IntN(400)) * time.Millisecond)
		s.event()
	}
	sent := tr.stop()
	s.packets += sent
	reported := func(m map[string]float64) uint64 {
		return uint64(m["pcapper_packets_total"] - before["pcapper_packets_total"] +
			m[`pcapper_dropped_total{stage="kernel"}`] - before[`pcapper_dropped_total{stage="kernel"}`])
	}
	var m map[string]float64
	complete := nettest.Eventually(20*time.Second, func() bool {
		m = s.p.scrape(metricsAddr)
		return reported(m) >= sent
	})
	if got := reported(m); (!complete || got != sent) && !s.outage {
		s.t.Errorf("round %d: %d packets sent, %d reported or dropped", s.rounds, sent, got)
	}
	if kb := m["process_resident_memory_bytes"]; kb > 192<<20 && len(raceFlags) == 0 {
		s.t.Errorf("round %d: %.0f MiB of memory", s.rounds, kb/(1<<20))
	}
}

// event is one thing that happens.
func (s *soak) event() {
	events := []struct {
		name string
		do   func()
	}{
		{"collector", func() { drain(s.dial([]string{"", "bulk\n", "text\n"}[s.rng.IntN(3)])) }},
		{"stalled collector", func() { s.dial("bulk\n") }},
		{"TLS collector", s.dialTLS},
		{"garbage", func() { go s.dial(strings.Repeat("garbage", 10_000)) }},
		{"half a handshake", s.halfHandshake},
		{"collectors leave", s.leave},
		{"interface down", s.down},
		{"another address", s.address},
		{"log rotated", s.rotate},
		{"summary", func() { s.p.signal(syscall.SIGUSR1) }},
		{"no CPU", s.starve},
	}
	e := events[s.rng.IntN(len(events))]
	s.done[e.name]++
	e.do()
}

func (s *soak) dial(says string) net.Conn {
	conn, err := s.a.Dial("tcp", "127.0.0.1:7073")
	if err != nil {
		s.t.Error(err)
		return nil
	}
	conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	conn.Write([]byte(says))
	if len(says) < 10 {
		s.conns = append(s.conns, conn)
	}
	return conn
}

func (s *soak) dialTLS() {
	raw, err := s.a.Dial("tcp", s.a.Interface.IPv4.String()+":7443")
	if err != nil {
		return // while the interface is down, it has no address
	}
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, s.secure)
	if err := conn.Handshake(); err != nil {
		s.t.Errorf("TLS: %v", err)
		return
	}
	raw.SetDeadline(time.Time{})
	s.conns = append(s.conns, conn)
	if s.rng.IntN(2) == 0 {
		drain(conn)
	}
}

func (s *soak) halfHandshake() {
	conn, err := s.a.Dial("tcp", "127.0.0.1:7443")
	if err != nil {
		s.t.Error(err)
		return
	}
	conn.Write([]byte{0x16, 3, 1})
	s.conns = append(s.conns, conn)
}

// leave ends some collectors, one way or the other.
func (s *soak) leave() {
	s.rng.Shuffle(len(s.conns), func(i, k int) { s.conns[i], s.conns[k] = s.conns[k], s.conns[i] })
	n := s.rng.IntN(len(s.conns) + 1)
	for _, c := range s.conns[:n] {
		if tcp, ok := c.(*net.TCPConn); ok && s.rng.IntN(2) == 0 {
			tcp.SetLinger(0)
		}
		if c != nil {
			c.Close()
		}
	}
	s.conns = s.conns[n:]
}

func (s *soak) down() {
	s.outage = true
	if err := s.a.Down("eth0"); err != nil {
		s.t.Error(err)
	}
	time.Sleep(time.Duration(s.rng.IntN(300)) * time.Millisecond)
	if err := s.a.Up("eth0"); err != nil {
		s.t.Error(err)
	}
}

func (s *soak) address() {
	l, err := s.a.Netlink().LinkByName("eth0")
	if err != nil {
		s.t.Error(err)
		return
	}
	addr, _ := netlink.ParseAddr(fmt.Sprintf("10.77.0.%d/24", 100+s.rng.IntN(100)))
	if s.a.Netlink().AddrAdd(l, addr) != nil {
		s.a.Netlink().AddrDel(l, addr)
	}
}

func (s *soak) rotate() {
	// Over the one before: there is room again. None is there if nothing has been
	// written since.
	if err := os.Rename(s.log, s.log+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		s.t.Error(err)
	}
	s.p.signal(syscall.SIGHUP)
}

// starve leaves 3 % of a processor for a while.
func (s *soak) starve() {
	s.group.set(s.t, 3)
	time.Sleep(time.Duration(s.rng.IntN(1000)) * time.Millisecond)
	s.group.set(s.t, 100)
}

// finish lets everyone leave and looks at what stays.
func (s *soak) finish() {
	for _, c := range s.conns {
		if c != nil {
			c.Close()
		}
	}
	var m map[string]float64
	// While nothing is sent, a text collector that has left looks like one that
	// has said all, until its kernel forgets it after a minute.
	if !nettest.Eventually(90*time.Second, func() bool {
		send(s.t, s.a, 1, 1000, s.frame)
		m = s.p.scrape(metricsAddr)
		sum := 0.0
		for series, n := range m {
			if strings.HasPrefix(series, "pcapper_collectors{") {
				sum += n
			}
		}
		return sum == 1
	}) {
		s.t.Error("collectors that have left are still attached")
	}
	checkAccounts(s.t, m)
	if n := m["go_goroutines"]; n > 60 {
		s.t.Errorf("%.0f goroutines are left", n)
	}
	if n := files(s.p.pid()); n > 60 {
		s.t.Errorf("%d files are left open", n)
	}
	s.p.signal(syscall.SIGINT)
	if code := s.p.wait(); code != 0 {
		s.t.Errorf("exit code %d", code)
	}
	<-s.steady.done
	all := captured(s.p.said())
	want := uint64(all[len(all)-1])
	if got := s.steady.n.Load(); got != want {
		s.t.Errorf("the steady collector has %d records, want %d", got, want)
	}
	s.t.Logf("%d rounds, %d packets, %.0f collectors have left, %.0f lost by slow readers, %.0f by the kernel; %v", s.rounds, s.packets,
		m["pcapper_collectors_departed_total"], m[`pcapper_dropped_total{stage="collectors"}`], m[`pcapper_dropped_total{stage="kernel"}`], s.done)
}
