package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/test/ledgertest"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
)

// fleet is agents that send records, in turns, to whoever is attached.
type fleet struct {
	listeners []net.Listener
	mu        sync.Mutex
	attached  []map[net.Conn]bool // by agent
	sent      []int               // records
	most      int                 // collectors that an agent ever had at once
}

func startFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{attached: make([]map[net.Conn]bool, n), sent: make([]int, n)}
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		f.listeners = append(f.listeners, l)
		f.attached[i] = map[net.Conn]bool{}
		go f.accept(i, l)
	}
	return f
}

func (f *fleet) accept(i int, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.attached[i][conn] = true
		f.most = max(f.most, len(f.at(i)))
		f.mu.Unlock()
		go func() { // until the collector has gone
			conn.Read(make([]byte, 1<<16))
			for {
				if _, err := conn.Read(make([]byte, 1<<16)); err != nil {
					break
				}
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.attached[i], conn)
			conn.Close()
		}()
	}
}

// at are the collectors that are attached to an agent. The kernel knows that one has
// ended before its reader here does.
func (f *fleet) at(i int) (list []net.Conn) {
	for conn := range f.attached[i] {
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			continue
		}
		_ = raw.Control(func(fd uintptr) { // one that is closed is not attached
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err == nil && info.State == unix.BPF_TCP_ESTABLISHED {
				list = append(list, conn)
			}
		})
	}
	return list
}

// config is a collector.conf, the agents' labels being a0, a1, ...
func (f *fleet) config(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for i, l := range f.listeners {
		fmt.Fprintf(&b, "a%d:%s\n", i, l.Addr())
	}
	name := filepath.Join(t.TempDir(), "collector.conf")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// all reports whether each agent has one collector.
func (f *fleet) all() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.attached {
		if len(f.at(i)) != 1 {
			return false
		}
	}
	return true
}

// send sends n records to each agent's collectors.
func (f *fleet) send(t *testing.T, n int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.attached {
		var stream []byte
		for k := range n {
			r := wire.Record{Time: time.Now().UnixNano(), SrcPort: 5000, DstPort: uint16(6000 + i), Length: uint32(100 + k), Proto: wire.ProtoUDP}
			r.SetSrc4([4]byte{10, 0, 0, byte(i)})
			r.SetDst4([4]byte{10, 0, 1, 1})
			stream, _ = wire.AppendBinary(stream, &r)
		}
		for _, conn := range f.at(i) {
			if _, err := conn.Write(stream); err != nil {
				t.Error(err)
			}
			f.sent[i] += n
		}
	}
}

// process is a recollect that runs.
type process struct {
	*exec.Cmd
	mu     sync.Mutex
	stderr bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

func startRecollect(t *testing.T, out *os.File, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(filepath.Join(binDir, "recollect"), args...)}
	p.Dir, p.Stderr, p.Stdout = t.TempDir(), p, out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			p.Process.Kill()
			p.Wait()
		}
		if t.Failed() {
			t.Logf("%q:\n%s", args, p.said())
		}
	})
	return p
}

func (p *process) kill() { p.Process.Kill(); p.Wait() }

// end ends it in order.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.Process.Signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		t.Errorf("%q: %v", p.Args, err)
	}
	ledgertest.Closes(t, p.said())
}

// page is its address.
func (p *process) page(t *testing.T) string {
	t.Helper()
	page := regexp.MustCompile(`page at (\S+)`).FindStringSubmatch(p.said())
	if page == nil {
		t.Fatalf("it does not say where its page is: %s", p.said())
	}
	return page[1]
}

// metric is what /metrics says of a name with its labels, or -1.
func (p *process) metric(t *testing.T, name string) float64 {
	t.Helper()
	page := regexp.MustCompile(`page at (\S+)`).FindStringSubmatch(p.said())
	if page == nil {
		return -1
	}
	for line := range strings.Lines(fetch(t, strings.TrimSuffix(page[1], "/")+"/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// stored is how many records are written or wait on disk, as the summary says.
func (p *process) stored(t *testing.T) int {
	t.Helper()
	p.Process.Signal(syscall.SIGUSR1)
	list := regexp.MustCompile(`(\d+) written, (\d+) queued`).FindAllStringSubmatch(p.said(), -1)
	if list == nil {
		return 0
	}
	written, _ := strconv.Atoi(list[len(list)-1][1])
	queued, _ := strconv.Atoi(list[len(list)-1][2])
	return written + queued
}

// taken is how many records the bus has taken, as the summary says.
func (p *process) taken(t *testing.T) int {
	t.Helper()
	p.Process.Signal(syscall.SIGUSR1)
	list := regexp.MustCompile(`bus: (\d+) records taken`).FindAllStringSubmatch(p.said(), -1)
	if list == nil {
		return 0
	}
	n, _ := strconv.Atoi(list[len(list)-1][1])
	return n
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for: %s", what)
		}
	}
}

// kept is how many records of each agent, and how many bytes together, a history has.
func kept(t *testing.T, dirs ...string) (records map[string]int, total int) {
	t.Helper()
	records = map[string]int{}
	for _, dir := range dirs {
		out, err := exec.Command(filepath.Join(binDir, "recollect"), "-query", "-store", dir, "-by", "host").Output() // stderr says whether that is all
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n")[1:] {
			fields := strings.Split(line, ",") // host,records,packets,bytes
			n, _ := strconv.Atoi(fields[1])
			b, _ := strconv.Atoi(fields[3])
			records[fields[0]] += n
			total += b
		}
	}
	return records, total
}

// readers is how many read the streams.
func readers(t *testing.T, url string) (n int) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		s, err := js.Stream(t.Context(), fmt.Sprintf("PC_%02d", i))
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return 0 // not yet
		}
		if err != nil {
			t.Fatal(err)
		}
		n += s.CachedInfo().State.Consumers
	}
	return n
}

// TestStore kills a collector whose records are on disk, but not in the history
// yet: they are stored once.
func TestStore(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 2)
	dir := filepath.Join(t.TempDir(), "lab")
	args := []string{"-c", f.config(t), "-lines", "-store", dir, "-v"}
	p := startRecollect(t, nil, args...)
	until(t, "the agents' collector", f.all)
	f.send(t, 1000)
	until(t, "all to be received", func() bool { return p.stored(t) == 2000 })
	time.Sleep(2 * spool.FlushAge) // what is queued is on disk by then
	p.kill()
	p = startRecollect(t, nil, append(args, "-http", "127.0.0.1:0")...)
	until(t, "the agents' collector", f.all)
	f.send(t, 500)
	until(t, "all to be written", func() bool { return p.metric(t, `recollect_writer_records_total{to="history"}`) >= 3000 })
	for name, want := range map[string]float64{
		"recollect_history_received_records_total": 1000, "recollect_history_dropped_records_total": 0, "recollect_history_queued_records": 0,
		`recollect_writer_failing{to="history"}`: 0, `recollect_writer_missing_records{to="history"}`: 0,
		"recollect_history_failing": 0, "recollect_history_damaged_files_total": 0,
	} {
		if got := p.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	p.end(t)
	records, total := kept(t, dir)
	want := 2 * (1000*100 + 999*1000/2 + 500*100 + 499*500/2)
	if records["a0"] != 1500 || records["a1"] != 1500 || total != want {
		t.Errorf("kept are %v, %d bytes, want %d", records, total, want)
	}
}

// TestStoreFullDisk fills the history's disk for a while: /healthz says so, and
// everything is stored once there is room again. A collector that has to end
// when it cannot write says how many records are lost, and fails.
func TestStoreFullDisk(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("pcapper-test", dir, "tmpfs", 0, "size=24m,mode=777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f := startFleet(t, 1)
	p := startRecollect(t, nil, "-c", f.config(t), "-lines", "-store", dir, "-http", "127.0.0.1:0")
	until(t, "the agent's collector", f.all)
	until(t, "a healthy page", func() bool { return p.health(t) == http.StatusOK })
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	f.send(t, 20_000)
	until(t, "an unhealthy page", func() bool {
		fill(t, ballast) // what was freed meanwhile, too
		return p.health(t) == http.StatusServiceUnavailable
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	until(t, "all to be written", func() bool { return p.metric(t, `recollect_writer_records_total{to="history"}`) == 20_000 })
	if d := time.Since(freed); d > 15*time.Second {
		t.Errorf("written %v after there was room, want at most 15 s: a segment takes 10", d)
	}
	if got := p.metric(t, "recollect_history_dropped_records_total"); got != 0 {
		t.Errorf("got %v dropped records, want 0", got)
	}
	until(t, "a healthy page", func() bool { return p.health(t) == http.StatusOK })

	for _, name := range []string{"records", "queue"} {
		name = filepath.Join(dir, name)
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, nil, 0o600); err != nil { // so that it cannot be made anew
			t.Fatal(err)
		}
	}
	f.send(t, 20_000)
	until(t, "all to be received", func() bool { return p.metric(t, "recollect_history_received_records_total") == 40_000 })
	p.Process.Signal(syscall.SIGTERM)
	if err := p.Wait(); err == nil || !strings.Contains(p.said(), "could not be written and are lost") {
		t.Errorf("it ended with %v, want a failure that says how many records are lost", err)
	}
	if lost := ledgertest.Closes(t, p.said())["writer history"]; lost.Lost == 0 || lost.Received != 40_000 {
		t.Errorf("got %+v, want all 40000 records, some of them lost", lost)
	}
}

// health is the status of /healthz, or 0.
func (p *process) health(t *testing.T) int {
	t.Helper()
	page := regexp.MustCompile(`page at (\S+)`).FindStringSubmatch(p.said())
	if page == nil {
		return 0
	}
	answer, err := http.Get(page[1] + "healthz")
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}

// fill appends to a file until the disk is full.
func fill(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for b := make([]byte, size); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

// TestShared: collectors divide the agents, and if one is killed the others have its
// agents within ten seconds; no agent has two; a writer keeps all, once; a
// dashboard shows all.
func TestShared(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t, "")
	f := startFleet(t, 8)
	conf := f.config(t)
	first := startRecollect(t, nil, "-c", conf, "-lines", "-bus", server.URL())
	until(t, "the first collector", f.all)
	dir := filepath.Join(t.TempDir(), "records")
	writer := startRecollect(t, nil, "-lines", "-bus", server.URL(), "-store", dir)
	second := startRecollect(t, nil, "-c", conf, "-lines", "-bus", server.URL())
	until(t, "the second collector", func() bool { return strings.Contains(second.said(), ": connected") && f.all() })
	lines, err := os.Create(filepath.Join(t.TempDir(), "lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	f.send(t, 100)
	until(t, "all to be taken", func() bool { return first.taken(t)+second.taken(t) == 800 })
	dashboard := startRecollect(t, lines, "-lines", "-bus", server.URL())
	until(t, "writer and dashboard to read", func() bool { return readers(t, server.URL()) == 2*4 })
	taken := second.taken(t)
	second.kill()
	killed := time.Now()
	until(t, "the first collector to have all", func() bool { return f.all() })
	t.Logf("the agents of a collector that was killed were without one for %v", time.Since(killed))
	f.send(t, 100)
	until(t, "all to be taken", func() bool { return first.taken(t)+taken == 1600 })
	until(t, "all to be shown", func() bool {
		data, err := os.ReadFile(lines.Name())
		return err == nil && bytes.Count(data, []byte("\n")) == 800
	})
	first.end(t)
	until(t, "all to be kept", func() bool {
		_, err := os.Stat(filepath.Join(dir, "records"))
		if err != nil {
			return false
		}
		records, _ := kept(t, dir)
		n := 0
		for _, k := range records {
			n += k
		}
		return n == 1600
	})
	for _, p := range []*process{dashboard, writer} {
		p.end(t)
	}
	if f.most != 1 {
		t.Errorf("an agent had %d collectors at once", f.most)
	}
}

// TestLabelsFollow: dashboards that were there before any agent show each agent under its
// name, and so does one that has an archive which knows an agent from before.
func TestLabelsFollow(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t, "")
	dir := filepath.Join(t.TempDir(), "store")
	f := startFleet(t, 2)
	conf := f.config(t)
	open := func(name string) *os.File {
		lines, err := os.Create(filepath.Join(t.TempDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lines.Close() })
		return lines
	}
	seen := func(lines *os.File, n int) bool {
		data, err := os.ReadFile(lines.Name())
		if bytes.Contains(data, []byte(":other:")) {
			t.Fatalf("lines of %q: %s", "other", data)
		}
		return err == nil && bytes.Count(data, []byte(":a0:")) == n && bytes.Count(data, []byte(":a1:")) == n
	}
	plain := open("plain")
	dashboard := startRecollect(t, plain, "-lines", "-bus", server.URL())
	until(t, "the dashboard to read", func() bool { return readers(t, server.URL()) == 4 })
	collector := startRecollect(t, nil, "-c", conf, "-lines", "-bus", server.URL())
	until(t, "the collector", f.all)
	// Two lives of a dashboard that keeps what it shows.
	for life := 1; life <= 2; life++ {
		kept := open("kept")
		writer := startRecollect(t, kept, "-lines", "-bus", server.URL(), "-store", dir, "-http", "127.0.0.1:0")
		until(t, "the writer to read", func() bool { return readers(t, server.URL()) == 3*4 })
		f.send(t, 10)
		until(t, "the lines", func() bool { return seen(plain, 10*life) && seen(kept, 10) })
		for _, label := range []string{"a0", "a1"} {
			until(t, "records of "+label, func() bool {
				return writer.metric(t, fmt.Sprintf(`recollect_agent_records_total{address="on the bus",host=%q}`, label)) == 10
			})
		}
		writer.end(t)
	}
	collector.end(t)
	dashboard.end(t)
}
