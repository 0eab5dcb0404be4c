//go:build !libpcap

package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// numbered are n frames that can be told apart: messages of MGEN from one on.
func numbered(a, b *nettest.Host, from, n int) (frames [][]byte) {
	for i := range n {
		f := nettest.Between(a, b, 4000, 5000, nil)
		m := nettest.MGEN{Flow: 1, Seq: uint32(from + i), Time: time.Now(), Dst: f.Dst, Size: 64}
		f.Payload = m.Payload()
		frames = append(frames, f.Ethernet())
	}
	return frames
}

// inOrder takes a stream of IPFIX apart and fails unless the messages of MGEN
// are there, each once and in order.
func inOrder(t *testing.T, data []byte, from, to int) {
	t.Helper()
	recs, _ := decode(t, data)
	if len(recs) != to-from {
		t.Fatalf("%d records, want %d", len(recs), to-from)
	}
	for i, r := range recs {
		if r.MGENSeq != uint32(from+i) {
			t.Fatalf("record %d is message %d", from+i, r.MGENSeq)
		}
	}
}

// decode takes a stream of IPFIX apart, and gives what it says of losses.
func decode(t *testing.T, data []byte) ([]wire.Record, ipfix.Statistics) {
	t.Helper()
	var d ipfix.Decoder
	var recs []wire.Record
	for len(data) > 0 {
		n, err := ipfix.Length(data)
		if err != nil || n == 0 || n > len(data) {
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		}
		if recs, err = d.Decode(data[:n], recs); err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	return recs, d.Statistics()
}

// receiveAll accepts one connection and reads it to its end.
func receiveAll(t *testing.T, ln net.Listener) (data chan []byte) {
	data = make(chan []byte, 1)
	go func() {
		defer close(data)
		conn, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(60 * time.Second))
		b, err := io.ReadAll(conn)
		if err != nil {
			t.Error(err)
		}
		data <- b
	}()
	return data
}

// awaitOnDisk waits until so many packets wait in the spool, none of them in
// memory alone.
func (a *agentProcess) awaitOnDisk(packets int) {
	a.t.Helper()
	var m map[string]float64
	if !nettest.Eventually(20*time.Second, func() bool {
		m = a.scrape(metricsAddr)
		return m["pcapper_spool_waiting_packets"] == float64(packets) && m[`pcapper_spool_bytes{where="memory"}`] == 0
	}) {
		a.t.Fatalf("%v packets wait, %v bytes in memory; want %d on disk", m["pcapper_spool_waiting_packets"], m[`pcapper_spool_bytes{where="memory"}`], packets)
	}
}

// TestSpool: the collector is away, the agent is killed and started again: what
// it has seen arrives when the collector comes, in order, each packet once.
func TestSpool(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := spoolDir(t)
	to := b.Interface.IPv4.String() + ":4739"
	const n = 5000
	args := []string{"-spool", dir + ":100MB", "-export", "ipfix+tcp://" + to, "-metrics", "127.0.0.1:9173"}
	p := startStatic(t, a, args...)
	p.await("up to 100,000,000 bytes wait", 1)
	p.await("capturing from now on", 1)
	send(t, a, n, 20_000, numbered(a, b, 0, n)...)
	p.await("trying again", 1)
	p.awaitOnDisk(n)
	p.cmd.Process.Kill()
	p.wait()

	p = startStatic(t, a, args...)
	p.await("5,000 packets left from a previous run", 1)
	p.await("capturing from now on", 1)
	send(t, a, n, 20_000, numbered(a, b, n, n)...)
	ln, err := b.Listen("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := receiveAll(t, ln)
	p.awaitExport(2*n, 1)
	m := p.scrape("127.0.0.1:9173")
	for name, want := range map[string]float64{
		"pcapper_spool_waiting_packets": 0, "pcapper_spool_dropped_packets_total": 0, "pcapper_spool_failing": 0,
		`pcapper_reader_lost_total{reader="exports"}`: 0, `pcapper_reader_in_flight{reader="exports"}`: 0,
		`pcapper_reader_delivered_total{reader="exports"}`: n,
	} {
		if got, ok := m[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	summary := strings.Join(p.stop(), "\n")
	if !strings.Contains(summary, "spool: 0 packets in 0 bytes wait") {
		t.Errorf("the summary:\n%s", summary)
	}
	inOrder(t, <-data, 0, 2*n)
}

// TestSpoolOverflow: what the size does not hold is lost, the oldest first, and
// counted to the packet: in the metrics, and to the collector.
func TestSpoolOverflow(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	to := b.Interface.IPv4.String() + ":4739"
	const n = 40_000 // 2.6 MB
	p := startStatic(t, a, "-spool", spoolDir(t)+":1100kB", "-export", "ipfix+tcp://"+to, "-metrics", "127.0.0.1:9173")
	p.await("capturing from now on", 1)
	send(t, a, n, 20_000, numbered(a, b, 0, n)...)
	if !nettest.Eventually(20*time.Second, func() bool {
		m := p.scrape("127.0.0.1:9173")
		return m["pcapper_spool_dropped_packets_total"] > 0 && m["pcapper_spool_waiting_packets"]+m["pcapper_spool_dropped_packets_total"] == n &&
			m[`pcapper_spool_bytes{where="memory"}`] == 0
	}) {
		t.Fatal("the spool does not hold all that it has not dropped")
	}
	ln, err := b.Listen("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := receiveAll(t, ln)
	if !nettest.Eventually(20*time.Second, func() bool { return p.scrape("127.0.0.1:9173")["pcapper_spool_waiting_packets"] == 0 }) {
		t.Fatal("it does not arrive")
	}
	m := p.scrape("127.0.0.1:9173")
	p.stop()
	recs, said := decode(t, <-data)
	lost := n - len(recs)
	for i, r := range recs {
		if r.MGENSeq != uint32(lost+i) {
			t.Fatalf("record %d is message %d", lost+i, r.MGENSeq)
		}
	}
	if lost < n/2 || int(said.NotSent) != lost || m["pcapper_spool_dropped_packets_total"] != float64(lost) ||
		m[`pcapper_reader_lost_total{reader="exports"}`] != float64(lost) || m[`pcapper_reader_delivered_total{reader="exports"}`] != float64(n-lost) {
		t.Errorf("%d of %d are missing; the collector is told of %d, the metrics say %v dropped, %v lost", lost, n, said.NotSent,
			m["pcapper_spool_dropped_packets_total"], m[`pcapper_reader_lost_total{reader="exports"}`])
	}
}

// TestSpoolOverflowInAnotherLife: what was given up before the agent was killed is told to
// the collector that gets the rest, and in the metrics and the summary of the next life.
func TestSpoolOverflowInAnotherLife(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	to := b.Interface.IPv4.String() + ":4739"
	const n = 40_000 // 2.6 MB
	args := []string{"-spool", spoolDir(t) + ":1100kB", "-export", "ipfix+tcp://" + to, "-metrics", "127.0.0.1:9173"}
	p := startStatic(t, a, args...)
	p.await("capturing from now on", 1)
	send(t, a, n, 20_000, numbered(a, b, 0, n)...)
	if !nettest.Eventually(20*time.Second, func() bool {
		m := p.scrape("127.0.0.1:9173")
		return m["pcapper_spool_dropped_packets_total"] > 0 && m["pcapper_spool_waiting_packets"]+m["pcapper_spool_dropped_packets_total"] == n &&
			m[`pcapper_spool_bytes{where="memory"}`] == 0
	}) {
		t.Fatal("the spool does not hold all that it has not dropped")
	}
	p.cmd.Process.Kill()
	p.wait()

	p = startStatic(t, a, args...)
	p.await("left from a previous run", 1)
	ln, err := b.Listen("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	data := receiveAll(t, ln)
	if !nettest.Eventually(20*time.Second, func() bool { return p.scrape("127.0.0.1:9173")["pcapper_spool_waiting_packets"] == 0 }) {
		t.Fatal("it does not arrive")
	}
	m := p.scrape("127.0.0.1:9173")
	summary := strings.Join(p.stop(), "\n")
	recs, said := decode(t, <-data)
	if lost := n - len(recs); lost < n/2 || int(said.NotSent) != lost || m["pcapper_spool_dropped_packets_total"] != float64(lost) ||
		!strings.Contains(summary, "were dropped in all its runs") {
		t.Errorf("%d of %d are missing; the collector is told of %d, the metrics say %v dropped; the summary:\n%s", lost, n, said.NotSent,
			m["pcapper_spool_dropped_packets_total"], summary)
	}
}

// TestSpoolRefused: what a spool needs is said.
func TestSpoolRefused(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	dir := spoolDir(t)
	p := startStatic(t, a, "-spool", dir+":10MB", "-export", "ipfix+tcp://127.0.0.1:9")
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-spool", dir + ":10MB", "-export", "ipfix+tcp://127.0.0.1:9", "-p", "7074"}, 11, "each agent needs a directory of its own"},
		{[]string{"-spool", "/proc/no/such:10MB", "-export", "ipfix+tcp://127.0.0.1:9", "-p", "7074"}, 11, "make the directory above it first"},
		{[]string{"-spool", dir + ":10MB"}, 12, "nothing waits there"},
		{[]string{"-spool", dir, "-export", "ipfix+tcp://127.0.0.1:9"}, 12, "want DIR:SIZE"},
		{[]string{"-spool", dir + ":1500kB", "-export", "ipfix+tcp://127.0.0.1:9", "-export", "ipfix+tcp://127.0.0.1:10"}, 12, "2 exports share 1500000 bytes"},
	} {
		bin, err := staticProgram()
		if err != nil {
			t.Fatal(err)
		}
		q := launchProgram(t, a, bin, tt.args...)
		if code := q.wait(); code != tt.code || !strings.Contains(q.said(), tt.says) {
			t.Errorf("%q: exit code %d, %s", tt.args, code, q.said())
		}
	}
	p.stop()
}
