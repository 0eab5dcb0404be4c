package feed

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// receiving is a receiver and what it has got.
type receiving struct {
	t *testing.T
	r *Receiver

	mu      sync.Mutex
	records []wire.Record
	losses  Losses
	said    []string
	stop    func()

	sessions int
}

func receive(t *testing.T, url string) *receiving {
	t.Helper()
	listen, err := ParseListen(url)
	if err != nil {
		t.Fatal(err)
	}
	g := &receiving{t: t}
	g.r, err = NewReceiver(ReceiverConfig{
		Listen: listen,
		Known:  netip.Addr.IsLoopback,
		Records: func(_ Sender, recs []wire.Record) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.records = append(g.records, recs...)
		},
		Losses: func(_ Sender, l Losses) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.losses = l
		},
		Session: func(Sender, uint16) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.sessions++
		},
		Say: func(format string, args ...any) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.said = append(g.said, fmt.Sprintf(format, args...))
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *receiving) run() *receiving {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.r.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Error(err)
		}
	})
	g.t.Cleanup(g.stop)
	return g
}

func (g *receiving) get() (int, Losses) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.records), g.losses
}

func (g *receiving) await(what string, ok func(n int, l Losses) bool) {
	g.t.Helper()
	for range 3000 {
		if ok(g.get()) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n, l := g.get()
	g.t.Fatalf("waited in vain for %s: %d records, %+v", what, n, l)
}

// wantAll: each of the records 0 to n has come once.
func (g *receiving) wantAll(n int) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := make([]bool, n)
	for i := range g.records {
		k := int(g.records[i].FlowID)
		if k >= n || seen[k] || g.records[i] != record(k) {
			g.t.Fatalf("record %d: %+v", i, g.records[i])
		}
		seen[k] = true
	}
	if len(g.records) != n {
		g.t.Fatalf("%d records, want %d", len(g.records), n)
	}
}

// exporter sends a hub's records to a URL.
type exporter struct {
	hub *hub.Hub[wire.Record]
	x   *export.Exporter
	end func()
}

func exportTo(t *testing.T, url string) *exporter {
	t.Helper()
	target, err := export.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	e := &exporter{hub: hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: 64, Encodings: []hub.Encoding[wire.Record]{hub.Each(ipfix.Append)}})}
	reader := e.hub.NewReader()
	e.x = export.New(export.Config{
		Target: target, Domain: 7, Reader: reader, Lost: func() uint64 { return reader.Status().Lost },
		Ignored: func() uint64 { return 0 }, Peer: func(netip.AddrPort) {}, Allow: func(netip.Addr) bool { return true }, Say: t.Logf,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.x.Run(ctx) }()
	e.end = sync.OnceFunc(func() {
		cancel()
		e.hub.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(e.end)
	return e
}

func (e *exporter) publish(from, to int) {
	for i := from; i < to; i++ {
		e.hub.Publish(record(i))
	}
}

// freePort gives a port that nobody has.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// dropSome makes the kernel lose a twentieth of what a socket gets.
func dropSome(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtRand},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: 1 << 32 / 20, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, p := range prog {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUDPLossIsCounted: what does not arrive is known exactly.
func TestUDPLossIsCounted(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", port))
	g.run()
	e := exportTo(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d?rate=100M", port))
	const n = 20_000
	e.publish(0, 1) // templates arrive
	g.await("the first", func(n int, l Losses) bool { return n == 1 })
	dropSome(t, g.r.udp)
	e.publish(1, n-1)
	for e.x.Counts().Records != n-1 {
		time.Sleep(10 * time.Millisecond)
	}
	raw, _ := g.r.udp.SyscallConn()
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	e.publish(n-1, n) // shows what is missing before it
	g.await("an account of all", func(got int, l Losses) bool { return got+int(l.Missing) == n })
	if got, l := g.get(); l.Missing < n/40 || l.Missing > n/8 {
		t.Errorf("%d records, %+v: not a loss of 5 %%", got, l)
	}
}

// TestRepair: two receivers of a group, each of which loses a twentieth, get
// everything in the end, once.
func TestRepair(t *testing.T) {
	t.Parallel()
	port, repair := freePort(t), freePort(t)
	url := fmt.Sprintf("ipfix+udp://239.192.70.73:%d?iface=lo", port)
	receivers := []*receiving{receive(t, url).run(), receive(t, url).run()}
	e := exportTo(t, fmt.Sprintf("%s&per=packet&rate=100M&repair=%d", url, repair))
	const n = 20_000
	e.publish(0, 1)
	for _, g := range receivers {
		g.await("the first", func(n int, l Losses) bool { return n == 1 })
		dropSome(t, g.r.udp)
	}
	e.publish(1, n-1)
	for e.x.Counts().Records != n-1 {
		time.Sleep(10 * time.Millisecond)
	}
	for _, g := range receivers {
		raw, _ := g.r.udp.SyscallConn()
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) })
	}
	e.publish(n-1, n)
	for _, g := range receivers {
		g.await("everything", func(got int, l Losses) bool { return got == n && l.Missing == 0 })
		g.wantAll(n)
	}
	if c := e.x.Counts(); c.Repaired < n/18/20 {
		t.Errorf("%+v: hardly anything was sent again", c)
	}
}

// TestTemplatesComeLate: what comes before its templates waits for them, also
// if the exporter repairs; what waits in vain counts as unknown.
func TestTemplatesComeLate(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	g := receive(t, fmt.Sprintf("ipfix+udp://127.0.0.1:%d", port)).run()
	conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w, n := ipfix.Writer{Domain: 7, RepairPort: 1}, 0
	now := time.Now()
	w.Templates(nil, now) // is lost
	data := func() []byte {
		r := record(n)
		n++
		cell, _ := ipfix.Append(nil, &r)
		m, _ := w.Message(nil, now, ipfix.MaxDatagram, cell, []uint32{0, uint32(len(cell))})
		return m
	}
	conn.Write(w.Statistics(nil, now, ipfix.Statistics{}))
	for range 50 {
		conn.Write(data())
	}
	data() // lost, and nobody can repair it
	conn.Write(data())
	g.await("a session", func(int, Losses) bool {
		g.r.mu.Lock()
		defer g.r.mu.Unlock()
		return len(g.r.sessions) == 1 && g.r.holding > 0
	})
	if n, _ := g.get(); n != 0 {
		t.Errorf("%d records without a template", n)
	}
	conn.Write(w.Templates(nil, now))
	g.await("all but one", func(n int, l Losses) bool { return n == 51 && l.Missing == 1 })
	conn.Write(data())
	g.await("one more", func(n int, l Losses) bool { return n == 52 && l == Losses{Missing: 1} })
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	for _, s := range g.r.sessions {
		if len(s.held.messages) != 0 || g.r.holding != 0 || s.decoder.Counts().Late+s.decoder.Counts().Twice != 0 {
			t.Errorf("%d messages of %d bytes still wait; %+v", len(s.held.messages), g.r.holding, s.decoder.Counts())
		}
		// Of more than is kept, and after too long, messages count as unknown.
		s.decoder = ipfix.Decoder{}
		m := data()
		for range holdLimit/len(m) + 2 {
			if !g.r.holdMessage(s, m) {
				g.r.decodeMessage(s, m)
			}
		}
		if c := s.decoder.Counts(); g.r.holding > holdLimit || c.Unknown != 2 {
			t.Errorf("%d bytes wait, %d sets are unknown", g.r.holding, c.Unknown)
		}
		s.held.since = time.Now().Add(-2 * holdTime)
		if !g.r.holdMessage(s, m) || g.r.holding != len(m) {
			t.Errorf("%d bytes wait after the others have waited too long", g.r.holding)
		}
		g.r.endSession(s)
		if g.r.holding != 0 {
			t.Errorf("%d bytes wait after the session's end", g.r.holding)
		}
	}
}

// TestTCPReceiver: exporters that dial, one of them from a broken program.
func TestTCPReceiver(t *testing.T) {
	port := freePort(t)
	g := receive(t, fmt.Sprintf("ipfix+tcp://127.0.0.1:%d", port)).run()
	bad, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	bad.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	bad.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := bad.Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("it is not sent away: %v", err)
	}
	e := exportTo(t, fmt.Sprintf("ipfix+tcp://127.0.0.1:%d", port))
	e.publish(0, 10_000)
	g.await("all", func(n int, l Losses) bool { return n == 10_000 })
	g.wantAll(10_000)
	e.end()
}

func TestReadFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.ipfix")
	e := exportTo(t, "file:"+name)
	e.publish(0, 5000)
	for e.x.Counts().Records != 5000 {
		time.Sleep(time.Millisecond)
	}
	e.end()
	var n int
	take := func(recs []wire.Record) error {
		for i := range recs {
			if recs[i] != record(n) {
				t.Fatalf("record %d is %+v", n, recs[i])
			}
			n++
		}
		return nil
	}
	if l, err := ReadFile(name, 0, take); err != nil || n != 5000 || l.Any() {
		t.Errorf("%d records, %+v, %v", n, l, err)
	}
	data, _ := os.ReadFile(name)
	os.WriteFile(name, data[:len(data)-1], 0o600)
	n = 0
	if _, err := ReadFile(name, 0, take); err == nil || !strings.Contains(err.Error(), "in the middle of a message") {
		t.Errorf("a file that is cut off: %v", err)
	}
}

func TestParseListen(t *testing.T) {
	for text, want := range map[string]Listen{
		"ipfix+udp://239.192.70.73:4739?iface=eth1&pen=9": {Addr: netip.MustParseAddrPort("239.192.70.73:4739"), Interface: "eth1", PEN: 9},
		"ipfix+udp://0.0.0.0":                             {Addr: netip.MustParseAddrPort("0.0.0.0:4739")},
		"ipfix+tcp://[::]:4740":                           {TCP: true, Addr: netip.MustParseAddrPort("[::]:4740")},
		"ipfix+tls://0.0.0.0":                             {TCP: true, TLS: true, Addr: netip.MustParseAddrPort("0.0.0.0:4740")},
		"ipfix+udp://[ff18::1]":                           {Addr: netip.MustParseAddrPort("[ff18::1]:4739")},
		"ipfix+udp://[ff02::1%eth1]":                      {Addr: netip.MustParseAddrPort("[ff02::1]:4739"), Interface: "eth1"},
	} {
		want.URL = text
		if got, err := ParseListen(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for text, says := range map[string]string{
		"ipfix://10.0.0.1":                      "want ipfix+udp",
		"ipfix+udp://host:4739":                 "want one of this host",
		"ipfix+udp://10.0.0.1:4739?iface=eth0":  `parameter "iface"`,
		"ipfix+tcp://0.0.0.0:1?pen=x":           `pen=x: want a number from 1`,
		"ipfix+udp://239.0.0.1:1?iface=a&ttl=3": `parameter "ttl"`,
		"ipfix+udp://fd00::1:4739":              "IPv6 in brackets",
		"ipfix+udp://[::":                       "IPv6 in brackets",
		"ipfix+udp://:4739":                     "want one of this host",
		"ipfix+tcp://239.0.0.1":                 "want ipfix+udp://",
		"ipfix+udp://[ff02::1]":                 "want iface=NAME",
	} {
		if _, err := ParseListen(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
	l, _ := ParseListen("ipfix+udp://239.0.0.1:4739?iface=eth99")
	if _, err := NewReceiver(ReceiverConfig{Listen: l}); err == nil || !strings.Contains(err.Error(), "no such interface: this host has lo") {
		t.Errorf("an interface that is not there: %v", err)
	}
	l, _ = ParseListen("ipfix+udp://192.0.2.1")
	if _, err := NewReceiver(ReceiverConfig{Listen: l}); err == nil || !strings.Contains(err.Error(), "this host has no such address") {
		t.Errorf("somebody else's address: %v", err)
	}
}

// TestRubbishDatagrams: what is no IPFIX makes no session, is told of once, and
// harms nobody.
func TestRubbishDatagrams(t *testing.T) {
	port := freePort(t)
	url := fmt.Sprintf("ipfix+udp://127.0.0.1:%d", port)
	g := receive(t, url).run()
	e := exportTo(t, url)
	e.publish(0, 10)
	g.await("ten", func(n int, l Losses) bool { return n == 10 })
	const rubbish = 3000
	for i := range rubbish {
		conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([][]byte{nil, []byte("rubbish"), {0, 10, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}, {0, 10, 0, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}}[i%4])
		conn.Close()
	}
	e.publish(10, 20)
	g.await("twenty", func(n int, l Losses) bool { return n == 20 })
	g.stop()
	if g.sessions != 1 || len(g.r.sessions) != 1 || g.r.status.Malformed < rubbish/3 || len(g.said) != 1 || g.losses.Any() {
		t.Errorf("%d and %d sessions, %d datagrams refused, said %q, %+v", g.sessions, len(g.r.sessions), g.r.status.Malformed, g.said, g.losses)
	}
}

// TestNamesThatComeLate: what a sender has lost before it said who it is moves to
// its name, and is told once in all.
func TestNamesThatComeLate(t *testing.T) {
	t.Parallel()
	losses, sessions := map[Sender]Losses{}, []Sender{}
	records := map[Sender]int{}
	r := &Receiver{losses: map[Sender]Losses{}, sessions: map[netip.AddrPort]*session{}, cfg: ReceiverConfig{
		Records: func(from Sender, recs []wire.Record) { records[from] += len(recs) },
		Losses:  func(from Sender, l Losses) { losses[from] = l },
		Session: func(from Sender, port uint16) { sessions = append(sessions, from) },
	}}
	from := netip.MustParseAddrPort("10.0.0.1:4739")
	s := r.session(from)
	rec := wire.Record{Time: 1, Proto: wire.ProtoUDP}
	data, _ := ipfix.Append(nil, &rec)
	now := time.Unix(1_700_000_000, 0)
	w := ipfix.Writer{Domain: 9, Names: ipfix.Names{Node: "n1", Interface: "eth0"}}
	message := func() []byte {
		msg, _ := w.Message(nil, now, ipfix.MaxDatagram, data, []uint32{0, uint32(len(data))})
		return msg
	}
	take := func(msg []byte) {
		t.Helper()
		if err := r.decodeMessage(s, msg); err != nil {
			t.Fatal(err)
		}
	}
	take(w.Templates(nil, now))
	take(message())
	message() // is lost
	take(message())
	before, after := Sender{Addr: from.Addr()}, Sender{from.Addr(), w.Names}
	if losses[before].Missing != 1 || records[before] != 2 {
		t.Fatalf("before: %+v, %v", losses, records)
	}
	take(w.Statistics(nil, now, ipfix.Statistics{}))
	take(message())
	if losses[before] != (Losses{}) || losses[after].Missing != 1 {
		t.Errorf("losses are %+v", losses)
	}
	if records[before] != 2 || records[after] != 1 {
		t.Errorf("records are %v", records)
	}
	if fmt.Sprint(sessions) != fmt.Sprint([]Sender{before, after}) {
		t.Errorf("sessions are %v", sessions)
	}
}

// TestNotSentGoesOn: what an exporter says it has not sent counts over its connections, and
// with a spool over its lives; one that says less has begun anew.
func TestNotSentGoesOn(t *testing.T) {
	at := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	g := receive(t, "ipfix+tcp://"+at).run()
	sum := uint64(0)
	for i, session := range []struct{ says, want uint64 }{{5, 5}, {5, 5}, {8, 8}, {2, 10}, {3, 11}} {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		w := ipfix.Writer{Domain: 1}
		msg := w.Templates(nil, time.Now())
		msg = w.Statistics(msg, time.Now(), ipfix.Statistics{NotSent: session.says})
		if _, err := conn.Write(msg); err != nil {
			t.Fatal(err)
		}
		g.await(fmt.Sprintf("session %d", i+1), func(_ int, l Losses) bool { return l.NotSent == session.want && g.r.Status().Sessions == 1 })
		conn.Close()
		g.await("its end", func(int, Losses) bool { return g.r.Status().Sessions == 0 })
		sum = session.want
	}
	if _, l := g.get(); l.NotSent != sum {
		t.Errorf("%d not sent, want %d", l.NotSent, sum)
	}
}
