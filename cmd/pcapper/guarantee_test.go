//go:build !libpcap

package main

// The tests of docs/guarantees.md. Each has a short form, which always runs,
// and a long one with the figures that the page promises: PCAPPER_LONG=1, as
// scripts/soak sets it. They use the same code. How quick something is is
// judged in the long form only: the short one runs on busy machines.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var long = os.Getenv("PCAPPER_LONG") != ""

// either is the short form's value or the long one's.
func either[T any](short, inLong T) T {
	if long {
		return inLong
	}
	return short
}

const metricsAddr = "127.0.0.1:9173"

// startWatched starts an agent whose accounts are held against the promise
// every second until the test ends.
func startWatched(t *testing.T, host *nettest.Host, args ...string) *agentProcess {
	t.Helper()
	p := start(t, host, append([]string{"-metrics", metricsAddr}, args...)...)
	p.await("metrics on", 1)
	watchAccounts(t, p)
	return p
}

// watchAccounts holds the accounts against the promise every second until the
// test ends or the agent does. An agent that is starved of CPU may be late.
func watchAccounts(t *testing.T, p *agentProcess) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	checks := 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
			}
			text, err := fetch(p.host, metricsAddr)
			if err != nil {
				continue
			}
			checkAccounts(t, parseMetrics(t, text))
			checks++
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		t.Logf("the accounts were right %d times", checks)
	})
}

// traffic sends frames from a host until it is stopped.
type traffic struct {
	sent atomic.Uint64
	stop func() uint64 // gives how many were sent
}

func startTraffic(t *testing.T, from *nettest.Host, rate float64, frames ...[]byte) *traffic {
	t.Helper()
	g, err := from.Generator(frames...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{}
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			n, _, err := g.Send(ctx, max(int(rate/10), 1000), rate)
			tr.sent.Add(uint64(n))
			if err != nil && !errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENODEV) {
				done <- err
				return
			} else if err != nil {
				time.Sleep(10 * time.Millisecond) // the interface is down
			}
		}
		done <- nil
	}()
	tr.stop = sync.OnceValue(func() uint64 {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
		return tr.sent.Load()
	})
	t.Cleanup(func() { tr.stop() })
	return tr
}

// sink reads a collector's records to the end and counts them.
type sink struct {
	conn net.Conn
	n    atomic.Uint64
	done chan struct{}
}

func drain(conn net.Conn) *sink {
	s := &sink{conn: conn, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		r := bufio.NewReaderSize(conn, 1<<18)
		buf := make([]byte, 1024*wire.Size)
		left := 0
		for {
			k, err := r.Read(buf)
			s.n.Add(uint64((left + k) / wire.Size))
			left = (left + k) % wire.Size
			if err != nil {
				return
			}
		}
	}()
	return s
}

// wants waits until the collector has n records, and no more come.
func (s *sink) wants(t *testing.T, n uint64) {
	t.Helper()
	nettest.Eventually(30*time.Second, func() bool { return s.n.Load() >= n })
	time.Sleep(50 * time.Millisecond)
	if got := s.n.Load(); got != n {
		t.Errorf("the collector has %d records, want %d", got, n)
	}
}

// settled waits until the agent has accounted for so many packets, reported or
// dropped by the kernel, and gives its metrics. Packets that have been sent may
// not have been read yet.
func (a *agentProcess) settled(sent uint64) (m map[string]float64) {
	a.t.Helper()
	if !nettest.Eventually(30*time.Second, func() bool {
		m = a.scrape(metricsAddr)
		return m["pcapper_packets_total"]+m[`pcapper_dropped_total{stage="kernel"}`] >= float64(sent)
	}) {
		a.t.Errorf("%d packets sent, %.0f reported and %.0f dropped by the kernel", sent, m["pcapper_packets_total"], m[`pcapper_dropped_total{stage="kernel"}`])
	}
	return m
}

func (a *agentProcess) pid() int { return a.cmd.Process.Pid }

// files is how many the process has open.
func files(pid int) int {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(list)
}

// cpu is what the process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')'):]))
	user, _ := strconv.Atoi(f[12])
	system, _ := strconv.Atoi(f[13])
	return time.Duration(user+system) * 10 * time.Millisecond
}

func oneFrame(a, b *nettest.Host) []byte {
	f := nettest.Between(a, b, 1000, 2000, make([]byte, 64))
	return f.Ethernet()
}

// TestGuaranteeChurn: collectors that come and go, politely or not, cost
// nothing that stays, and one that stays loses nothing.
func TestGuaranteeChurn(t *testing.T) {
	a, b := nettest.Pair(t)
	p := startWatched(t, a, "-f", "/dev/null")
	steady := drain(p.dial(a, "bulk\n"))
	tr := startTraffic(t, a, 5000, oneFrame(a, b))
	churn := func(n int, rate float64) {
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range n {
			time.Sleep(time.Until(begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
			conn, err := b.Dial("tcp", a.Interface.IPv4.String()+":7073")
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				conn.Write([]byte([]string{"", "bulk\n", "text\n", "x"}[i%4]))
				time.Sleep(time.Duration(rand.N(200)) * time.Millisecond)
				if i%2 == 0 {
					conn.(*net.TCPConn).SetLinger(0)
				}
				conn.Close()
			})
		}
		wg.Wait()
	}
	rest := func() (m map[string]float64) {
		nettest.Eventually(20*time.Second, func() bool {
			m = p.scrape(metricsAddr)
			return m[`pcapper_collectors{format="records",transport="tcp"}`]+m[`pcapper_collectors{format="bulk",transport="tcp"}`]+
				m[`pcapper_collectors{format="text",transport="tcp"}`] == 1
		})
		return m
	}
	churn(300, 300) // warm up
	before := rest()
	files0, n := files(p.pid()), either(1000, 600_000)
	churn(n, either(300.0, 1000))
	after := rest()
	if d := after["pcapper_collectors_departed_total"] - before["pcapper_collectors_departed_total"]; int(d) != n {
		t.Errorf("%.0f collectors have left, want %d", d, n)
	}
	if d := files(p.pid()) - files0; d > 2 {
		t.Errorf("%d more files are open", d)
	}
	if d := after["go_goroutines"] - before["go_goroutines"]; d > 5 {
		t.Errorf("%.0f more goroutines", d)
	}
	if d := after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]; d > 24<<20 && len(raceFlags) == 0 {
		t.Errorf("%.0f more bytes of memory", d)
	}
	steady.wants(t, tr.stop())
	t.Logf("%d connections; memory %.1f -> %.1f MiB", n, before["process_resident_memory_bytes"]/(1<<20), after["process_resident_memory_bytes"]/(1<<20))
}

// TestGuaranteeHostileConnections: TLS floods, handshakes that never end,
// dribbling and garbage. The capture loses nothing, and within 30 s everything
// is free again.
func TestGuaranteeHostileConnections(t *testing.T) {
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, a.Interface.IPv4.String()); code != 0 {
		t.Fatal(out)
	}
	p := startWatched(t, a, append([]string{"-f", "/dev/null", "-max-per-source", "20000"}, certArgs(dir)...)...)
	steady := drain(p.dial(a, "bulk\n"))
	tr := startTraffic(t, a, either(5000.0, 50_000), oneFrame(a, b))
	idle := files(p.pid())

	n := either(150, 10_000)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range n {
		port := []string{"7443", "7073"}[i%2]
		conn, err := b.Dial("tcp", a.Interface.IPv4.String()+":"+port)
		if err != nil {
			continue // refused already
		}
		wg.Go(func() {
			defer conn.Close()
			switch i % 8 {
			case 0: // says nothing
			case 2: // dribbles a handshake
				for _, err := conn.Write([]byte{0x16, 3, 1, 2, 0}); err == nil && ctx.Err() == nil; _, err = conn.Write([]byte{1}) {
					time.Sleep(100 * time.Millisecond)
				}
			case 4: // a real handshake, without a certificate
				tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
			default: // garbage, beyond what a collector may say
				junk := make([]byte, 1<<16)
				for err := error(nil); err == nil && ctx.Err() == nil; _, err = conn.Write(junk) {
				}
			}
			if i%8 == 0 {
				conn.SetReadDeadline(time.Now().Add(30 * time.Second))
				if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("one that says nothing on the TLS port is still connected")
				}
			}
		})
	}
	free := func() bool { return files(p.pid()) <= idle+3 }
	if !nettest.Eventually(30*time.Second, free) {
		t.Errorf("%d files are open, %d before", files(p.pid()), idle)
	}
	cancel()
	wg.Wait()
	steady.wants(t, tr.stop())
	m := p.scrape(metricsAddr)
	if m[`pcapper_connections_refused_total{reason="TLS handshake"}`] == 0 {
		t.Error("no handshake was refused")
	}

	// And a collector with a certificate is let in.
	pair, err := certs.Files{Cert: dir + "/collector.pem", Key: dir + "/collector-key.pem", CA: dir + "/ca.pem"}.Load()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Dial("tcp", a.Interface.IPv4.String()+":7443")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, pair.Client(a.Interface.IPv4.String()))
	defer conn.Close()
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	p.await(`TLS as "collector"`, 1)
}

// TestGuaranteeHostGone: a collector whose host vanishes, with and without
// records on their way, is let go within 30 s or so.
func TestGuaranteeHostGone(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := startWatched(t, a, "-f", "/dev/null")
	p.dial(b, "bulk\n")
	// A host without its address neither answers nor sends.
	l, err := b.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr(b.Interface.IPv4.String() + "/24")
	if err := b.Netlink().AddrDel(l, addr); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	tr := startTraffic(t, a, 100, oneFrame(a, b))
	if !nettest.Eventually(60*time.Second, func() bool { return strings.Count(p.said(), "its host no longer answers") == 1 }) {
		t.Error("it is still attached")
	}
	tr.stop()
	if took := time.Since(begin); took > 45*time.Second && long {
		t.Errorf("it took %v", took)
	}
}

// TestGuaranteeNoFiles: with no file to be had for more collectors it waits
// quietly, and recovers.
func TestGuaranteeNoFiles(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-f", "/dev/null", "-user", "root") // whose limits root may set
	steady := drain(p.dial(a, "bulk\n"))
	limit := unix.Rlimit{Cur: uint64(files(p.pid()) + 20), Max: uint64(files(p.pid()) + 20)}
	if err := unix.Prlimit(p.pid(), unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for range 100 {
		conn, err := b.Dial("tcp", a.Interface.IPv4.String()+":7073")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	p.await("cannot accept collectors for now", 1)
	time.Sleep(2 * time.Second) // those that were let in have settled
	for range 1000 {
		if cpu(t, p.pid()) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	period := either(5*time.Second, 65*time.Second)
	before := cpu(t, p.pid())
	time.Sleep(period)
	used := cpu(t, p.pid()) - before
	if used > period/100+10*time.Millisecond {
		t.Errorf("%v of CPU in %v without files", used, period)
	}
	if said := strings.Count(p.said(), "cannot accept"); said > 1+int(period/(30*time.Second)) {
		t.Errorf("it complained %d times in %v", said, period)
	}
	for _, c := range conns {
		c.Close()
	}
	p.dial(b, "bulk\n")
	send(t, a, 100, 1000, oneFrame(a, b))
	steady.wants(t, 100)
}

// TestGuaranteeLogDirectoryRemoved: the feed does not notice, and the log
// comes back with the directory.
func TestGuaranteeLogDirectoryRemoved(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Landlock would not know the new directory; see pcapper(1), PRIVILEGES.
	p := startWatched(t, a, "-unconfined", "-f", filepath.Join(dir, "log"))
	c := drain(p.dial(a, "bulk\n"))
	send(t, a, 1000, 10_000, oneFrame(a, b))
	c.wants(t, 1000)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP) // else it goes on writing to the file without a name
	p.await("reopening the log", 1)
	send(t, a, 1000, 10_000, oneFrame(a, b))
	c.wants(t, 2000)
	p.await("no such file or directory", 1)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.await("reopening the log", 2)
	sent := uint64(2000)
	if !nettest.Eventually(60*time.Second, func() bool {
		send(t, a, 10, 1000, oneFrame(a, b))
		sent += 10
		_, err := os.Stat(filepath.Join(dir, "log"))
		return err == nil
	}) {
		t.Error("the log did not come back")
	}
	c.wants(t, sent)
	if m := p.settled(sent); m["pcapper_packets_total"] != float64(sent) {
		t.Errorf("the metrics have %v packets, want %d", m["pcapper_packets_total"], sent)
	}
	p.stop()
}

// TestGuaranteeLogRotated: rotated again and again under load, the logs
// together have each line.
func TestGuaranteeLogRotated(t *testing.T) {
	a, b := nettest.Pair(t)
	p := startWatched(t, a, "-f", "log")
	c := drain(p.dial(a, "bulk\n"))
	tr := startTraffic(t, a, either(30_000.0, 100_000), oneFrame(a, b))
	rotations := either(5, 100)
	for i := range rotations {
		time.Sleep(either(300*time.Millisecond, 500*time.Millisecond))
		p.rotate(filepath.Join(p.dir, "log"), filepath.Join(p.dir, fmt.Sprint("log", i)))
	}
	sent := tr.stop()
	c.wants(t, sent)
	p.stop()
	logs, err := filepath.Glob(filepath.Join(p.dir, "log*"))
	if err != nil || len(logs) < rotations || len(logs) > rotations+1 { // nothing may have come after the last
		t.Errorf("%d logs of %d rotations: %v", len(logs), rotations, err)
	}
	lines := 0
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(data, []byte("\n"))
	}
	if uint64(lines) != sent {
		t.Errorf("%d lines in %d logs, want %d", lines, len(logs), sent)
	}
	t.Logf("%d lines in %d logs", lines, len(logs))
}

// TestGuaranteeInterfaceChanges: whatever is done to the interface, the next
// packets are seen within two seconds, or the agent ends with a clear error.
func TestGuaranteeInterfaceChanges(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := startWatched(t, a, "-f", "/dev/null")
	c := drain(p.dial(a, "bulk\n")) // by loopback, which stays
	eth0 := func() netlink.Link {
		l, err := a.Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	addr, _ := netlink.ParseAddr("10.77.0.99/24")
	for _, change := range []struct {
		name string
		do   func()
	}{
		{"MTU", func() { must(a.Netlink().LinkSetMTU(eth0(), 900)) }},
		{"offloads", func() { must(a.SetOffloads(true)) }},
		{"down and up", func() { must(a.Down("eth0")); must(a.Up("eth0")) }},
		{"another address", func() { must(a.Netlink().AddrAdd(eth0(), addr)) }},
		{"another MAC", func() { must(a.Netlink().LinkSetHardwareAddr(eth0(), net.HardwareAddr(a.Interface.MAC[:]))) }},
		{"another name and back", func() {
			must(a.Down("eth0"))
			must(a.Netlink().LinkSetName(eth0(), "wan0"))
			l, err := a.Netlink().LinkByName("wan0")
			must(err)
			must(a.Netlink().LinkSetUp(l))
			send10(t, a, "wan0", oneFrame(a, b))
			must(a.Down("wan0"))
			must(a.Netlink().LinkSetName(l, "eth0"))
			must(a.Up("eth0"))
		}},
		{"a queueing discipline", func() {
			must(a.Netlink().QdiscReplace(&netlink.GenericQdisc{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0().Attrs().Index, Parent: netlink.HANDLE_ROOT}, QdiscType: "pfifo",
			}))
		}},
	} {
		change.do()
		begin := time.Now()
		before := c.n.Load()
		if !nettest.Eventually(10*time.Second, func() bool {
			send10(t, a, "eth0", oneFrame(a, b))
			return c.n.Load() > before
		}) {
			t.Fatalf("%s: no more records", change.name)
		}
		if took := time.Since(begin); took > 2*time.Second && long {
			t.Errorf("%s: the next record came after %v", change.name, took)
		}
	}
	// Into another namespace: it is gone from here.
	l := eth0()
	must(a.Down("eth0"))
	must(a.Netlink().LinkSetName(l, "away0"))
	must(a.Netlink().LinkSetNsFd(l, namespace(t, b)))
	if code := p.wait(); code != 5 || !strings.Contains(p.said(), "was removed") {
		t.Errorf("exit code %d, said:\n%s", code, p.said())
	}
}

// namespace is a file descriptor of the host's.
func namespace(t *testing.T, h *nettest.Host) int {
	t.Helper()
	f, err := os.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

// send10 sends ten frames on an interface that may have any name.
func send10(t *testing.T, from *nettest.Host, name string, frame []byte) {
	t.Helper()
	var g *nettest.Generator
	var err error
	from.Do(func() { g, err = nettest.NewGenerator(name, [][]byte{frame}) })
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, _, err := g.Send(t.Context(), 10, 0); err != nil && !errors.Is(err, unix.ENETDOWN) {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
}

// TestGuaranteeKilled: however often it is killed, it starts again at once and
// leaves nothing behind in the kernel.
func TestGuaranteeKilled(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	var late []time.Duration
	for range either(20, 100) {
		begin := time.Now()
		p := start(t, a, "-f", "/dev/null")
		c := p.dial(a, "bulk\n")
		send10(t, a, "eth0", oneFrame(a, b))
		if _, err := readRecords(c, 1); err != nil {
			t.Fatal(err)
		}
		late = append(late, time.Since(begin))
		p.signal(syscall.SIGKILL)
		<-p.exited
		// Programs are freed at the kernel's leisure: give it some.
		time.Sleep(either(1500*time.Millisecond, 3*time.Second))
	}
	slices.Sort(late)
	t.Logf("from start to first record: median %v, at most %v", late[len(late)/2], late[len(late)-1])
	if late[len(late)/2] > 2*time.Second && long {
		t.Errorf("from start to first record: %v", late)
	}
	if !nettest.Eventually(10*time.Second, func() bool { return attached(t, a) == "" }) {
		t.Errorf("still attached: %s", attached(t, a))
	}
}

// attached names what captures on the host's interface.
func attached(t *testing.T, h *nettest.Host) (what string) {
	t.Helper()
	h.Do(func() {
		data, err := os.ReadFile("/proc/thread-self/net/packet")
		if err != nil {
			what = err.Error()
			return
		}
		if n := strings.Count(string(data), "\n") - 1; n > 0 {
			what = fmt.Sprintf("%d packet sockets ", n)
		}
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			what = err.Error()
			return
		}
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXEgress, ebpf.AttachTCXIngress} {
			q, err := link.QueryPrograms(link.QueryOptions{Target: ifi.Index, Attach: at})
			if err == nil && len(q.Programs) > 0 {
				what += fmt.Sprintf("%d programs at %v ", len(q.Programs), at)
			}
		}
	})
	return what
}

// limited is a control group that the test may put processes into.
type limited struct{ dirs []string }

// newLimited makes a group with limits, by either version of cgroups.
func newLimited(t *testing.T, memory string, cpuPercent int) *limited {
	t.Helper()
	name := fmt.Sprintf("pcapper-test-%d", os.Getpid())
	g := &limited{}
	make := func(dir string, values map[string]string) {
		dir = filepath.Join("/sys/fs/cgroup", dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		g.dirs = append(g.dirs, dir)
		for file, value := range values {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		for _, dir := range g.dirs {
			nettest.Eventually(10*time.Second, func() bool { return os.Remove(dir) == nil })
		}
	})
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +cpu"), 0o644)
		values := map[string]string{}
		if memory != "" {
			values["memory.max"] = memory
		}
		if cpuPercent > 0 {
			values["cpu.max"] = fmt.Sprintf("%d 100000", cpuPercent*1000)
		}
		make("", values)
		return g
	}
	if memory != "" {
		make("memory", map[string]string{"memory.limit_in_bytes": memory})
	}
	if cpuPercent > 0 {
		make("cpu", map[string]string{"cpu.cfs_quota_us": strconv.Itoa(cpuPercent * 1000)})
	}
	return g
}

func (g *limited) add(t *testing.T, pid int) {
	t.Helper()
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// set changes the CPU limit.
func (g *limited) set(t *testing.T, cpuPercent int) {
	t.Helper()
	for _, dir := range g.dirs {
		for file, value := range map[string]string{
			"cpu.max": fmt.Sprintf("%d 100000", cpuPercent*1000), "cpu.cfs_quota_us": strconv.Itoa(cpuPercent * 1000),
		} {
			if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestGuaranteeLittleMemory: within 96 MiB, with collectors that stall and a
// full load, it lives on and loses counted records only.
func TestGuaranteeLittleMemory(t *testing.T) {
	a, b := nettest.Pair(t)
	// The race detector's own memory is not ours to promise.
	g := newLimited(t, strconv.Itoa(96<<20*memoryFactor()), 0)
	p := startWatched(t, a, "-f", "/dev/null")
	g.add(t, p.pid())
	for range 20 {
		p.dial(b, "bulk\n") // reads nothing
		p.dial(b, "text\n")
	}
	c := drain(p.dial(a, "bulk\n"))
	tr := startTraffic(t, a, 100_000, oneFrame(a, b))
	time.Sleep(either(6*time.Second, 2*time.Minute))
	sent := tr.stop()
	m := p.settled(sent)
	c.wants(t, sent-uint64(m[`pcapper_dropped_total{stage="kernel"}`]))
	t.Logf("%d packets; resident %.1f MiB; lost by 40 stalled collectors: %.0f", sent, m["process_resident_memory_bytes"]/(1<<20), m[`pcapper_dropped_total{stage="collectors"}`])
	p.stop()
}

func memoryFactor() int {
	if len(raceFlags) > 0 {
		return 8
	}
	return 1
}

// TestGuaranteeLittleCPU: with 2 % of a processor it loses counted records,
// never its wits: packets = reported + dropped by the kernel, to the packet,
// and when there is CPU again it goes on.
func TestGuaranteeLittleCPU(t *testing.T) {
	a, b := nettest.Pair(t)
	g := newLimited(t, "", 2)
	p := start(t, a, "-f", "/dev/null", "-metrics", metricsAddr, "-m", "udp")
	c := drain(p.dial(a, "bulk\n"))
	g.add(t, p.pid())
	tr := startTraffic(t, a, 0, oneFrame(a, b))
	time.Sleep(either(5*time.Second, 2*time.Minute))
	sent := tr.stop()
	g.set(t, 200)
	m := p.settled(sent)
	checkAccounts(t, m)
	send(t, a, 100, 1000, oneFrame(a, b))
	c.wants(t, uint64(m["pcapper_packets_total"]-m[`pcapper_reader_lost_total{reader="collectors"}`])+100)
	t.Logf("%d packets sent; %.0f dropped by the kernel, %.0f lost by the collector", sent,
		m[`pcapper_dropped_total{stage="kernel"}`], m[`pcapper_dropped_total{stage="collectors"}`])
	p.stop()
}

// TestGuaranteeManyCollectors: each of very many gets each record.
func TestGuaranteeManyCollectors(t *testing.T) {
	a, b := nettest.Pair(t)
	n := either(500, 10_000)
	p := startWatched(t, a, "-f", "/dev/null", "-max-per-source", "0")
	var sinks []*sink
	for range n {
		conn, err := b.Dial("tcp", a.Interface.IPv4.String()+":7073")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte("bulk\n"))
		sinks = append(sinks, drain(conn))
	}
	p.await(": attached", n)
	before := cpu(t, p.pid())
	period := either(3*time.Second, 30*time.Second)
	tr := startTraffic(t, a, either(500.0, 1000), oneFrame(a, b))
	time.Sleep(period)
	sent := tr.stop()
	used := cpu(t, p.pid()) - before
	for _, s := range sinks {
		if !nettest.Eventually(30*time.Second, func() bool { return s.n.Load() >= sent }) || s.n.Load() != sent {
			t.Fatalf("a collector has %d of %d records", s.n.Load(), sent)
		}
	}
	t.Logf("%d collectors, %d records each in %v: %.2f of a core, %d ns per delivered record, peak memory %d MiB", n, sent, period,
		used.Seconds()/period.Seconds(), used.Nanoseconds()/int64(n)/int64(sent), peakRSS(t, p.pid())>>10)
	if long && used > period {
		t.Errorf("%v of CPU in %v", used, period)
	}
	if kb := peakRSS(t, p.pid()); kb > 400<<10 && len(raceFlags) == 0 {
		t.Errorf("peak memory %d kB", kb)
	}
}

// TestGuaranteeStalled is TestStalledCollector for as long as the page says.
func TestGuaranteeStalled(t *testing.T) {
	a, b := nettest.Pair(t)
	p := startWatched(t, a, "-f", "/dev/null")
	p.dial(a, "bulk\n")
	p.dial(a, "text\n")
	good := drain(p.dial(a, "bulk\n"))
	tr := startTraffic(t, a, either(50_000.0, 100_000), oneFrame(a, b))
	time.Sleep(either(3*time.Second, 10*time.Minute))
	good.wants(t, tr.stop())
	m := p.scrape(metricsAddr)
	t.Logf("%d packets; peak memory %d MiB; lost by two stalled collectors: %.0f", tr.sent.Load(), peakRSS(t, p.pid())>>10, m[`pcapper_dropped_total{stage="collectors"}`])
	if kb := peakRSS(t, p.pid()); kb > 128<<10 && len(raceFlags) == 0 {
		t.Errorf("peak memory %d kB", kb)
	}
	if m[`pcapper_dropped_total{stage="kernel"}`] != 0 {
		t.Errorf("the kernel dropped %.0f", m[`pcapper_dropped_total{stage="kernel"}`])
	}
}
