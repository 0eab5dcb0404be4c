//go:build !libpcap

package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"golang.org/x/sys/unix"
)

// sums are packets and bytes by flow: "source > destination".
type sums map[string][2]int

func (s sums) add(flow string, packets, bytes int) {
	s[flow] = [2]int{s[flow][0] + packets, s[flow][1] + bytes}
}

func (s sums) equal(o sums) bool { return maps.Equal(s, o) }

// packets is how many there are of all flows.
func (s sums) packets() (n int) {
	for _, v := range s {
		n += v[0]
	}
	return n
}

// one is the flow whose name ends so.
func (s sums) one(end string) string {
	for flow := range s {
		if strings.HasSuffix(flow, end) {
			return flow
		}
	}
	return ""
}

// want fails the test unless a collector has counted the same.
func (s sums) want(t *testing.T, name string, got sums) {
	t.Helper()
	if got.equal(s) {
		return
	}
	t.Errorf("%s: %d flows of %d packets, want %d of %d", name, len(got), got.packets(), len(s), s.packets())
	shown := 0
	for flow, v := range s {
		if got[flow] != v && shown < 10 {
			shown++
			t.Logf("%s: %s: %d, want %d packets and bytes", name, flow, got[flow], v)
		}
	}
}

// logs attaches a collector at the agent's own host: without one no log is
// written.
func (a *agentProcess) logs() {
	conn := a.dial(a.host, "bulk\n")
	go io.Copy(io.Discard, conn)
}

// logSums is what the agent's own log says.
func (a *agentProcess) logSums() sums {
	a.t.Helper()
	got := sums{}
	for _, r := range a.logLines("pcapper.conf") {
		src, dst := netip.AddrPortFrom(r.SrcAddr(), r.SrcPort), netip.AddrPortFrom(r.DstAddr(), r.DstPort)
		got.add(src.String()+" > "+dst.String(), 1, int(r.Length))
	}
	return got
}

// logMGEN are the MGEN flow IDs in the log, by flow.
func (a *agentProcess) logMGEN() map[string]uint32 {
	a.t.Helper()
	mgen := map[string]uint32{}
	for _, r := range a.logLines("pcapper.conf") {
		src, dst := netip.AddrPortFrom(r.SrcAddr(), r.SrcPort), netip.AddrPortFrom(r.DstAddr(), r.DstPort)
		mgen[src.String()+" > "+dst.String()] = r.Flow()
	}
	return mgen
}

// daemon runs a program on a host until the test or stop ends it.
func daemon(t *testing.T, h *nettest.Host, name string, args ...string) (pid int, stop func(), said *safeBuffer) {
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
	return c.Process.Pid, stop, said
}

// udpSocket is one of a process's, as /proc/PID/net/udp has it.
type udpSocket struct {
	fd     int // in that process
	queued int // bytes received and not yet read
	drops  int // datagrams that found no room
}

// udpSockets are the sockets of a process that are bound to a port.
func udpSockets(pid, port int) (list []udpSocket) {
	fds := map[string]int{} // by inode
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		target, _ := os.Readlink(filepath.Join(dir, e.Name())) // one that is closed by now is none of these
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			fds[strings.TrimSuffix(inode, "]")], _ = strconv.Atoi(e.Name())
		}
	}
	for _, name := range []string{"udp", "udp6"} {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			if fd, ok := fds[f[9]]; ok {
				s := udpSocket{fd: fd}
				_, received, _ := strings.Cut(f[4], ":")
				fmt.Sscanf(received, "%x", &s.queued)
				s.drops, _ = strconv.Atoi(f[12])
				list = append(list, s)
			}
		}
	}
	return list
}

// awaitUDP waits until a process has a UDP port, and gives its sockets room for
// all that a test sends: how soon the process reads is up to whatever else this
// machine does. The process itself is held to net.core.rmem_max.
func awaitUDP(t *testing.T, pid, port int) {
	t.Helper()
	var sockets []udpSocket
	if !nettest.Eventually(20*time.Second, func() bool {
		sockets = udpSockets(pid, port)
		return len(sockets) > 0
	}) {
		t.Fatalf("nobody listens on UDP port %d", port)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	for _, s := range sockets {
		fd, err := unix.PidfdGetfd(process, s.fd, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		unix.Close(fd)
		if err != nil {
			t.Fatalf("receive buffer of UDP port %d: %v", port, err)
		}
	}
}

// awaitRead waits until a process has read all that came to its UDP port, and
// fails the test if the kernel had to drop something.
func awaitRead(t *testing.T, pid, port int) {
	t.Helper()
	empty := 0
	var sockets []udpSocket
	if !nettest.Eventually(60*time.Second, func() bool {
		sockets = udpSockets(pid, port)
		if slices.ContainsFunc(sockets, func(s udpSocket) bool { return s.queued > 0 }) {
			empty = 0
		}
		empty++
		return empty > 20 // looks, a millisecond apart
	}) {
		t.Errorf("UDP port %d: not all is read: %+v", port, sockets)
	}
	for _, s := range sockets {
		if s.drops > 0 {
			t.Errorf("UDP port %d: the kernel dropped %d datagrams", port, s.drops)
		}
	}
}

// nfcapd starts the collector of nfdump; sum ends it and gives what it has.
func nfcapd(t *testing.T, h *nettest.Host, port int, args ...string) (sum func(packets int) sums) {
	t.Helper()
	dir := t.TempDir()
	pid, stop, said := daemon(t, h, "nfcapd", append([]string{"-l", dir, "-p", strconv.Itoa(port), "-t", "3600"}, args...)...)
	awaitUDP(t, pid, port)
	return func(int) sums {
		awaitRead(t, pid, port)
		stop() // it writes at its end what it has read
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

// nfacctd starts pmacct's collector on an address; sum waits until it has written
// so many packets, ends it, and gives what it has.
func nfacctd(t *testing.T, h *nettest.Host, address string, port int, extra ...string) (sum func(packets int) sums) {
	t.Helper()
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	text := fmt.Sprintf(`nfacctd_ip: %s
nfacctd_port: %d
nfacctd_disable_checks: false
plugins: print
aggregate: src_host, src_port, dst_host, dst_port
print_output: csv
print_output_file: %s/out.csv
print_output_file_append: true
print_refresh_time: 1
plugin_pipe_size: 100000000
%s
`, address, port, dir, strings.Join(extra, "\n"))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	pid, stop, said := daemon(t, h, "nfacctd", "-f", conf)
	awaitUDP(t, pid, port)
	return func(packets int) sums {
		awaitRead(t, pid, port)
		// Ended in the middle of writing it writes some of it twice. Its core may
		// also fail to wake the plugin: that takes what is left when it ends.
		quiet := time.Now()
		last := 0
		nettest.Eventually(60*time.Second, func() bool {
			time.Sleep(50 * time.Millisecond)
			if n := pmacctSums(t, dir+"/out.csv").packets(); n != last {
				quiet, last = time.Now(), n
			}
			return last >= packets || time.Since(quiet) > 3*time.Second // three times print_refresh_time
		})
		// All may be in the file before the process that the plugin writes with has ended.
		if !nettest.Eventually(20*time.Second, func() bool { return descendants(pid) <= 1 }) {
			t.Errorf("nfacctd has %d processes of its own, want its plugin alone: it is still writing", descendants(pid))
		}
		stop()
		got := pmacctSums(t, dir+"/out.csv")
		if got.packets() != packets {
			t.Errorf("nfacctd has written %d packets of %d, %d before it was stopped: %s", got.packets(), packets, last, said.String())
		}
		return got
	}
}

// descendants is how many processes a process has started, and these in turn.
func descendants(pid int) (n int) {
	list, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for _, f := range strings.Fields(string(list)) {
		if child, err := strconv.Atoi(f); err == nil {
			n += 1 + descendants(child)
		}
	}
	return n
}

// pmacctSums is what the print plugin of pmacct has written so far.
func pmacctSums(t *testing.T, name string) sums {
	t.Helper()
	got := sums{}
	data, err := os.ReadFile(name)
	if os.IsNotExist(err) {
		return got
	} else if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data[:bytes.LastIndexByte(data, '\n')+1])).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range rows {
		if f[0] != "SRC_IP" {
			got.add(flowName(t, f[0], f[2], f[1], f[3]), number(t, f[4]), number(t, f[5]))
		}
	}
	return got
}

// goflow2Program is goflow2 as its makers release it, of the version whose
// decoder go.mod names.
var goflow2Program = sync.OnceValues(func() (string, error) {
	agent, err := program()
	if err != nil {
		return "", err
	}
	const module = "github.com/netsampler/goflow2/v2"
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return "", err
	}
	install := exec.Command("go", "install", module+"/cmd/goflow2@"+strings.TrimSpace(string(version)))
	install.Env = append(os.Environ(), "GOBIN="+filepath.Dir(agent), "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		return "", fmt.Errorf("goflow2: %w\n%s", err, out)
	}
	return filepath.Join(filepath.Dir(agent), "goflow2"), nil
})

// goflow2 starts that collector, which prints each record as JSON, with the
// mapping of our documentation; sum waits until it has printed so many packets,
// and ends it. mgen are then the MGEN flow IDs, by flow.
func goflow2(t *testing.T, h *nettest.Host, address string, port int) (sum func(packets int) sums, mgen map[string]uint32) {
	t.Helper()
	bin, err := goflow2Program()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	got, mgen := sums{}, map[string]uint32{}
	lines := lineWriter{take: func(line []byte) {
		var f struct {
			Src            string `json:"src_addr"`
			Dst            string `json:"dst_addr"`
			SrcPort        uint16 `json:"src_port"`
			DstPort        uint16 `json:"dst_port"`
			Packets, Bytes int
			MGEN           uint32 `json:"mgen_flow"`
		}
		if err := json.Unmarshal(line, &f); err != nil {
			t.Errorf("goflow2 prints %q: %v", line, err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		flow := flowName(t, f.Src, strconv.Itoa(int(f.SrcPort)), f.Dst, strconv.Itoa(int(f.DstPort)))
		got.add(flow, f.Packets, f.Bytes)
		mgen[flow] = f.MGEN
	}}
	var said safeBuffer
	c := h.Command(context.Background(), bin, "-listen", fmt.Sprintf("netflow://%s:%d?count=1&workers=1", address, port), "-addr", "", "-produce", "sample", "-mapping", "../../docs/goflow2.yaml")
	c.Stdout, c.Stderr = &lines, &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	awaitUDP(t, c.Process.Pid, port)
	return func(packets int) sums {
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return got.packets()
		}
		if !nettest.Eventually(60*time.Second, func() bool { time.Sleep(50 * time.Millisecond); return count() >= packets }) {
			t.Errorf("goflow2 has %d packets of %d: %s", count(), packets, said.String())
		}
		awaitRead(t, c.Process.Pid, port)
		c.Process.Signal(syscall.SIGTERM)
		c.Wait()
		return got
	}, mgen
}

// lineWriter passes whole lines to take.
type lineWriter struct {
	take func(line []byte)
	rest []byte
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		line, rest, found := bytes.Cut(w.rest, []byte("\n"))
		if !found {
			w.rest = bytes.Clone(w.rest)
			return len(b), nil
		}
		w.take(line)
		w.rest = rest
	}
}

// collectorProcess is a running recollect.
type collectorProcess struct {
	t         *testing.T
	cmd       *nettest.Cmd
	out, said safeBuffer
}

// startCollector starts recollect with this collector.conf, and waits until it
// has said a number of times what it listens on.
func startCollector(t *testing.T, h *nettest.Host, conf string, args ...string) *collectorProcess {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(name, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &collectorProcess{t: t}
	c.cmd = h.Command(context.Background(), recollect(t), append([]string{"-c", name}, args...)...)
	c.cmd.Dir, c.cmd.Stdout, c.cmd.Stderr = dir, &c.out, &c.said
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("recollect %s said:\n%s", strings.Join(args, " "), c.said.String())
		}
	})
	c.await("listening on", strings.Count(strings.Join(args, " "), "-listen"))
	return c
}

// await waits until recollect has said something a number of times.
func (c *collectorProcess) await(text string, times int) {
	c.t.Helper()
	if !nettest.Eventually(20*time.Second, func() bool { return strings.Count(c.said.String(), text) >= times }) {
		c.t.Fatalf("recollect did not say %q %d times, but:\n%s", text, times, c.said.String())
	}
}

// awaitLines waits until it has printed n lines.
func (c *collectorProcess) awaitLines(n int) {
	c.t.Helper()
	if !nettest.Eventually(30*time.Second, func() bool { time.Sleep(20 * time.Millisecond); return c.out.lines() >= n }) {
		c.t.Errorf("recollect has printed %d lines, want %d", c.out.lines(), n)
	}
}

// summarize asks for a summary, and waits until it is there.
func (c *collectorProcess) summarize() {
	c.t.Helper()
	before := strings.Count(c.said.String(), " lines written")
	c.cmd.Process.Signal(syscall.SIGUSR1)
	c.await(" lines written", before+1)
	time.Sleep(10 * time.Millisecond)
}

// stop ends it as a user does, and gives its lines.
func (c *collectorProcess) stop() []string {
	c.t.Helper()
	c.cmd.Process.Signal(syscall.SIGINT)
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("recollect ends with %v", err)
	}
	return slices.Collect(strings.Lines(c.out.String()))
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

// lines is how many there are so far.
func (s *safeBuffer) lines() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Count(s.b.Bytes(), []byte("\n"))
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
