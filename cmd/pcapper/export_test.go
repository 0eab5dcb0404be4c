//go:build !libpcap

package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/nettest"
)

// sums are packets and bytes by flow: "source > destination".
type sums map[string][2]int

func (s sums) add(flow string, packets, bytes int) {
	s[flow] = [2]int{s[flow][0] + packets, s[flow][1] + bytes}
}

func (s sums) equal(o sums) bool {
	for k, v := range s {
		if o[k] != v {
			return false
		}
	}
	return len(s) == len(o)
}

// mixture is traffic of some flows by IPv4 and IPv6, to nobody, and what
// collectors must say of n packets of it.
func mixture(a, b *nettest.Host, n int) (frames [][]byte, want sums) {
	want = sums{}
	nobody6 := netip.MustParseAddr("2001:db8::9")
	for i := range 10 {
		f := nettest.Between(a, b, uint16(4000+i%5), uint16(5000+i), make([]byte, 100*i))
		f.Dst = netip.AddrPortFrom(nobody, f.Dst.Port())
		size := 28 + 100*i
		if i%2 == 1 {
			f.Src = netip.AddrPortFrom(a.Interface.IPv6, f.Src.Port())
			f.Dst = netip.AddrPortFrom(nobody6, f.Dst.Port())
			size += 20
		}
		if i%5 == 0 {
			m := nettest.MGEN{Flow: uint32(i), Seq: uint32(i), Time: time.Now(), Dst: f.Dst, Size: 100}
			f.Payload = m.Payload()
			size = 28 + 100
			if i%2 == 1 {
				size += 20
			}
		}
		frames = append(frames, f.Ethernet())
		want.add(f.Src.String()+" > "+f.Dst.String(), n/10, n/10*size)
	}
	return frames, want
}

// daemon runs a program on a host until the test or stop ends it.
func daemon(t *testing.T, h *nettest.Host, name string, args ...string) (stop func(), said *safeBuffer) {
	t.Helper()
	said = &safeBuffer{}
	c := h.Command(context.Background(), name, args...)
	c.Stdout, c.Stderr = said, said
	c.WaitDelay = time.Second // its children may live longer
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			c.Process.Signal(syscall.SIGINT)
			late := time.AfterFunc(20*time.Second, func() {
				t.Errorf("%s does not end: %s", name, said.String())
				c.Process.Kill()
			})
			c.Wait()
			late.Stop()
		}
	}
	t.Cleanup(stop)
	return stop, said
}

// awaitUDP waits until somebody in the host's namespace has a UDP port.
func awaitUDP(t *testing.T, h *nettest.Host, port int) {
	t.Helper()
	want := fmt.Sprintf(":%04X ", port)
	if !nettest.Eventually(20*time.Second, func() bool {
		out, _ := h.Command(t.Context(), "cat", "/proc/net/udp", "/proc/net/udp6").Output()
		return strings.Contains(string(out), want)
	}) {
		t.Fatalf("nobody listens on UDP port %d", port)
	}
}

// nfcapd starts the collector of nfdump; sum ends it and gives what it has.
func nfcapd(t *testing.T, h *nettest.Host, port int, args ...string) (sum func() sums) {
	t.Helper()
	dir := t.TempDir()
	stop, said := daemon(t, h, "nfcapd", append([]string{"-l", dir, "-p", strconv.Itoa(port), "-B", "8000000", "-t", "3600"}, args...)...)
	awaitUDP(t, h, port)
	return func() sums {
		stop()
		if text := said.String(); strings.Contains(text, "Sequence Errors: ") && !strings.Contains(text, "Sequence Errors: 0") {
			t.Errorf("nfcapd says:\n%s", text)
		}
		out, err := exec.Command("nfdump", "-R", dir, "-6", "-q", "-o", "fmt:%sa,%sp,%da,%dp,%pkt,%byt", "-N").Output()
		if err != nil {
			t.Fatalf("nfdump: %v", err)
		}
		got := sums{}
		for line := range strings.Lines(string(out)) {
			f := strings.Split(strings.ReplaceAll(strings.TrimSpace(line), " ", ""), ",")
			if len(f) != 6 {
				continue
			}
			got.add(flowName(t, f[0], f[1], f[2], f[3]), number(t, f[4]), number(t, f[5]))
		}
		if len(got) == 0 {
			t.Logf("nfdump says:\n%s", out)
		}
		return got
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func flowName(t *testing.T, src, sport, dst, dport string) string {
	t.Helper()
	s, err := netip.ParseAddr(src)
	d, err2 := netip.ParseAddr(dst)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return netip.AddrPortFrom(s, uint16(number(t, sport))).String() + " > " + netip.AddrPortFrom(d, uint16(number(t, dport))).String()
}

// nfacctd starts pmacct's collector; sum ends it and gives what it has.
func nfacctd(t *testing.T, h *nettest.Host, port int, extra string) (sum func() sums) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`nfacctd_ip: ::
nfacctd_port: %d
nfacctd_pipe_size: 8000000
nfacctd_disable_checks: false
plugins: print
aggregate: src_host, src_port, dst_host, dst_port
print_output: csv
print_output_file: %s/out.csv
print_output_file_append: true
print_refresh_time: 1
plugin_pipe_size: 10000000
plugin_buffer_size: 100000
print_cache_entries: 200003
%s`, port, dir, extra)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	stop, said := daemon(t, h, "nfacctd", "-f", conf)
	awaitUDP(t, h, port)
	return func() sums {
		stop()
		data, err := os.ReadFile(dir + "/out.csv")
		if err != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
		got := sums{}
		rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range rows {
			if f[0] == "SRC_IP" {
				continue
			}
			got.add(flowName(t, f[0], f[2], f[1], f[3]), number(t, f[4]), number(t, f[5]))
		}
		return got
	}
}

// awaitExport waits until the agent has exported so many packets, by its own
// account.
func (a *agentProcess) awaitExport(n int) {
	a.t.Helper()
	if !nettest.Eventually(20*time.Second, func() bool {
		time.Sleep(100 * time.Millisecond)
		before := len(a.said())
		a.signal(syscall.SIGUSR1)
		nettest.Eventually(time.Second, func() bool { return strings.Contains(a.said()[before:], "log ") })
		return strings.Contains(a.said()[before:], fmt.Sprintf(" of %s packets sent", grouped(n)))
	}) {
		a.t.Fatalf("it did not export %d packets:\n%s", n, a.said())
	}
}

func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// TestExportToOthersCollectors: nfcapd and nfacctd count the same packets and
// bytes per flow as were sent, by packet and by second, from one agent.
func TestExportToOthersCollectors(t *testing.T) {
	a, b := nettest.Pair(t)
	sumPackets := nfcapd(t, b, 9001)
	sumFlows := nfcapd(t, b, 9002)
	sumPackets6 := nfcapd(t, b, 9003, "-6")
	sumAcct := nfacctd(t, b, 9004, "")
	to := b.Interface.IPv4.String()
	p := start(t, a, "-export", "ipfix+udp://"+to+":9001", "-export", "ipfix+udp://"+to+":9002?per=1s",
		"-export", "ipfix+udp://["+b.Interface.IPv6.String()+"]:9003", "-export", "ipfix+udp://"+to+":9004?per=1s")
	p.await("capturing from now on", 1)
	frames, want := mixture(a, b, 10_000)
	send(t, a, 10_000, 20_000, frames...)
	p.awaitExport(10_000)
	before := len(p.said())
	p.stop()
	summary := p.said()[before:]
	if n := strings.Count(summary, " of 10,000 packets sent"); n != 4 || strings.Contains(summary, "failed") {
		t.Errorf("the summary:\n%s", summary)
	}
	time.Sleep(200 * time.Millisecond) // the collectors' own buffers
	for name, sum := range map[string]func() sums{
		"nfcapd, packets": sumPackets, "nfcapd, flows": sumFlows, "nfcapd, IPv6": sumPackets6, "nfacctd": sumAcct,
	} {
		if got := sum(); !got.equal(want) {
			t.Errorf("%s: %v\nwant %v", name, got, want)
		}
	}
}

// TestExportMulticast: one stream to a group reaches every receiver; what other
// agents send there is no traffic.
func TestExportMulticast(t *testing.T) {
	h := nettest.Bridge(t, 3)
	const n = 2000
	var sum []func() sums
	for _, r := range h[1:] {
		// nfcapd joins where the route says.
		if out, err := r.Command(t.Context(), "ip", "route", "add", "239.0.0.0/8", "dev", "eth0").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sum = append(sum, nfcapd(t, r, 4739, "-J", "239.192.70.73"))
	}
	p := start(t, h[0], "-m", "udp", "-export", "ipfix+udp://239.192.70.73?iface=eth0&per=packet")
	q := start(t, h[1], "-m", "udp", "-p", "7074", "-export", "ipfix+udp://239.192.70.73?iface=eth0")
	p.await("capturing from now on", 1)
	q.await("capturing from now on", 1)
	frames, want := mixture(h[0], h[1], n)
	send(t, h[0], n, 10_000, frames...)
	p.awaitExport(n)
	p.stop()
	q.stop()
	time.Sleep(200 * time.Millisecond)
	for k, v := range want { // both agents see it
		want[k] = [2]int{2 * v[0], 2 * v[1]}
	}
	for i, sum := range sum {
		if got := sum(); !got.equal(want) {
			t.Errorf("receiver %d: %v\nwant %v", i, got, want)
		}
	}
}

// TestRecollectListens: our collector takes what agents send to groups, IPv4
// and IPv6, and by TCP, and knows them by their addresses.
func TestRecollectListens(t *testing.T) {
	h := nettest.Bridge(t, 2)
	a, b := h[0], h[1]
	dir := t.TempDir()
	conf := filepath.Join(dir, "collector.conf")
	text := fmt.Sprintf("1=5000-5099\nv4:from://%s\nv6:from://%s\n", a.Interface.IPv4, a.Interface.IPv6)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := recollect(t)
	var out, said bytes.Buffer
	r := b.Command(t.Context(), bin, "-c", conf, "-listen", "ipfix+udp://239.192.70.73:4739?iface=eth0",
		"-listen", "ipfix+udp://[ff18::7073]:4739?iface=eth0", "-listen", "ipfix+tcp://[::]:4740")
	r.Stdout, r.Stderr = &out, &said
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	defer r.Wait()
	defer r.Process.Kill()
	awaitUDP(t, b, 4739)
	const n = 1000
	p := start(t, a, "-export", "ipfix+udp://239.192.70.73?iface=eth0&per=packet&repair=4741",
		"-export", "ipfix+udp://[ff18::7073]:4739?iface=eth0&per=packet", "-export", "ipfix+tcp://"+b.Interface.IPv4.String()+":4740")
	p.await("capturing from now on", 1)
	frames, _ := mixture(a, b, n)
	send(t, a, n, 10_000, frames...)
	p.awaitExport(n)
	p.stop()
	time.Sleep(200 * time.Millisecond)
	r.Process.Signal(syscall.SIGINT)
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
	v4, v6 := strings.Count(out.String(), ":v4:1:"), strings.Count(out.String(), ":v6:1:")
	if v4 != 2*n || v6 != n {
		t.Errorf("%d lines of v4, want %d from two exports; %d of v6, want %d; recollect said:\n%s", v4, 2*n, v6, n, said.String())
	}
	if !strings.Contains(said.String(), "v4 (10.77.0.1): 2000 records, 2 connections\n") {
		t.Errorf("recollect said:\n%s", said.String())
	}
}

// TestExportManyFlows: 100,000 flows, more than the agent sums up at a time,
// arrive whole, by packet and by second.
func TestExportManyFlows(t *testing.T) {
	const flows, each = 100_000, 2
	a, b := nettest.Pair(t)
	sumPackets := nfcapd(t, b, 9001)
	sumFlows := nfcapd(t, b, 9002)
	to := b.Interface.IPv4.String()
	p := start(t, a, "-export", "ipfix+udp://"+to+":9001?rate=200M", "-export", "ipfix+udp://"+to+":9002?per=1s&rate=200M")
	p.await("capturing from now on", 1)
	frames, want := make([][]byte, flows), sums{}
	for i := range frames {
		f := nettest.Between(a, b, uint16(1024+i%50_000), uint16(2000+i/50_000), make([]byte, i%50))
		f.Dst = netip.AddrPortFrom(nobody, f.Dst.Port())
		frames[i] = f.Ethernet()
		want.add(f.Src.String()+" > "+f.Dst.String(), each, each*(28+i%50))
	}
	send(t, a, flows*each, 60_000, frames...)
	p.awaitExport(flows * each)
	p.stop()
	time.Sleep(500 * time.Millisecond)
	for name, sum := range map[string]func() sums{"packets": sumPackets, "flows": sumFlows} {
		if got := sum(); !got.equal(want) {
			packets := 0
			for _, v := range got {
				packets += v[0]
			}
			t.Errorf("%s: %d flows of %d packets, want %d of %d", name, len(got), packets, flows, flows*each)
		}
	}
}

// TestExportTLS: by TLS our agent dials and our collector shows a server's
// certificate; whoever has none is not let in.
func TestExportTLS(t *testing.T) {
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, b.Interface.IPv4.String()); code != 0 { // the dialled side's
		t.Fatal(out)
	}
	bin := recollect(t)
	var out bytes.Buffer
	var said safeBuffer
	r := b.Command(t.Context(), bin, "-listen", "ipfix+tls://0.0.0.0", "-tls-cert", dir+"/agent.pem", "-tls-key", dir+"/agent-key.pem", "-tls-ca", dir+"/ca.pem")
	r.Dir, r.Stdout, r.Stderr = dir, &out, &said
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	defer r.Wait()
	defer r.Process.Kill()
	if !nettest.Eventually(20*time.Second, func() bool { return strings.Contains(said.String(), "listening on") }) {
		t.Fatalf("recollect said:\n%s", said.String())
	}
	to := b.Interface.IPv4.String()
	p := start(t, a, "-export", "ipfix+tls://"+to+"?cert="+dir+"/collector.pem&key="+dir+"/collector-key.pem&ca="+dir+"/ca.pem",
		"-export", "ipfix+tcp://"+to+":4740")
	p.await("capturing from now on", 1)
	p.await("4740: open", 1)
	p.await("ca.pem: open", 1)
	frames, _ := mixture(a, b, 1000)
	send(t, a, 1000, 10_000, frames...)
	p.awaitExport(1000)
	p.stop()
	nettest.Eventually(10*time.Second, func() bool { return strings.Contains(said.String(), "is not let in") })
	time.Sleep(100 * time.Millisecond)
	r.Process.Signal(syscall.SIGINT)
	if err := r.Wait(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), ":other:X:"); n != 1000 || !strings.Contains(said.String(), "it does not speak TLS") {
		t.Errorf("%d lines; recollect said:\n%s", n, said.String())
	}
}

// safeBuffer may be read while a process writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
