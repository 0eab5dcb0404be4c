package feed

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

// testCerts makes an authority with certificates of both sides, and others
// that are wrong in one way each.
func testCerts(t testing.TB) func(name string) certs.Files {
	t.Helper()
	dir, foreign := t.TempDir(), t.TempDir()
	day := 24 * time.Hour
	now := time.Now()
	for _, c := range []struct {
		certs.Request
		at time.Time
	}{
		{certs.Request{Name: "agent", Hosts: []string{"127.0.0.1", "localhost"}}, now},
		{certs.Request{Name: "elsewhere", Hosts: []string{"192.0.2.7", "n7.example"}}, now},
		{certs.Request{Name: "old-agent", Hosts: []string{"127.0.0.1"}}, now.Add(-3 * day)},
		{certs.Request{Name: "collector", Client: true, Hosts: []string{"127.0.0.1"}}, now},
		{certs.Request{Name: "old", Client: true}, now.Add(-3 * day)},
		{certs.Request{Name: "early", Client: true}, now.Add(3 * day)},
		{certs.Request{Name: "stranger", Client: true, Dir: foreign}, now},
		{certs.Request{Name: "stranger-agent", Hosts: []string{"127.0.0.1"}, Dir: foreign}, now},
	} {
		c.Valid = 2 * day
		if c.Dir == "" {
			c.Dir = dir
		}
		if _, err := certs.Make(c.Request, c.at); err != nil {
			t.Fatal(err)
		}
	}
	return func(name string) certs.Files {
		from := dir
		if strings.HasPrefix(name, "stranger") {
			from = foreign
		}
		return certs.Files{
			Cert: filepath.Join(from, name+".pem"), Key: filepath.Join(from, name+"-key.pem"), CA: filepath.Join(dir, "ca.pem"),
		}
	}
}

func clientTLS(t testing.TB, f certs.Files, name string) *tls.Config {
	t.Helper()
	p, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	return p.Client(name)
}

func serveTLS(t *testing.T, chunks int, f certs.Files, limits Limits) *bench {
	t.Helper()
	s, err := certs.NewServer(f)
	if err != nil {
		t.Fatal(err)
	}
	return serveWith(t, chunks, s.Config(), limits)
}

// dialTLS connects a collector by TLS, says what it says, and waits until it
// counts.
func (b *bench) dialTLS(cfg *tls.Config, says string) *tls.Conn {
	b.t.Helper()
	before := len(b.server.Collectors())
	conn, err := tls.Dial("tcp", b.addr, cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.NetConn().Close() })
	if _, err := io.WriteString(conn, says); err != nil {
		b.t.Fatal(err)
	}
	b.await(before + 1)
	return conn
}

func TestTLSGetsEverything(t *testing.T) {
	const n = 100_000
	files := testCerts(t)
	b := serveTLS(t, 1024, files("agent"), Limits{})
	cfg := clientTLS(t, files("collector"), "localhost")
	silent, bulk, lines := b.dialTLS(cfg, ""), b.dialTLS(cfg, "bulk\n"), b.dialTLS(cfg, "text\n")
	b.awaitMessage(`attached (text, TLS as "collector")`)
	b.awaitMessage(`attached (records, TLS as "collector")`)
	go b.publish(0, n)
	done := make(chan error, 2)
	var read sync.WaitGroup // by the two that get records
	read.Add(2)
	for _, c := range []io.Reader{silent, bulk} {
		go func() {
			r := bufio.NewReader(c)
			wantRecords(t, r, 0, n)
			read.Done()
			_, err := r.ReadByte()
			done <- err
		}()
	}
	scan := bufio.NewScanner(lines)
	for i := range n {
		want := record(i)
		if !scan.Scan() || scan.Text()+"\n" != string(wire.AppendLine(nil, &want)) {
			t.Fatalf("line %d: %q", i, scan.Text())
		}
	}
	read.Wait()
	b.end() // returns when all have left
	for range 2 {
		if err := <-done; err != io.EOF {
			t.Errorf("the end is %v, want io.EOF: the agent has said that it is all", err)
		}
	}
	for _, c := range b.departed {
		if s := c.Reader.Status(); s.Delivered != n || s.Lost != 0 {
			t.Errorf("%s: %+v", c, s)
		}
	}
}

// TestTLSStalledCollector: one that reads nothing holds nothing and loses its
// own oldest records, another loses none, and the accounts are exact.
func TestTLSStalledCollector(t *testing.T) {
	const n = 3_000_000
	files := testCerts(t)
	b := serveTLS(t, 64, files("agent"), Limits{})
	cfg := clientTLS(t, files("collector"), "127.0.0.1")
	stalled, reading := b.dialTLS(cfg, "bulk\n"), b.dialTLS(cfg, "bulk\n")
	var good Collector[reader]
	for _, c := range b.server.Collectors() {
		if c.Addr.String() == reading.LocalAddr().String() {
			good = c
		}
	}
	got := make(chan int64, 1)
	go func() {
		k, _ := io.Copy(io.Discard, reading)
		got <- k / wire.Size
	}()
	for i := 0; i < n; i += 10_000 {
		b.publish(i, i+10_000)
		for good.Reader.Status().Pending > 20_000 {
			time.Sleep(time.Millisecond)
		}
		for _, c := range b.server.Collectors() {
			if s := c.Reader.Status(); s.Published != s.Delivered+s.Lost+s.Skipped+s.Pending {
				t.Fatalf("%s: %+v", c, s)
			}
		}
	}
	for good.Reader.Status().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	if s := good.Reader.Status(); s.Delivered != n || s.Lost != 0 {
		t.Errorf("the one that reads: %+v", s)
	}
	stalled.NetConn().Close()
	b.await(1)
	b.mu.Lock()
	s := b.departed[0].Reader.Status()
	b.mu.Unlock()
	if s.Lost < n/2 || s.Delivered+s.Lost != n {
		t.Errorf("the stalled one: %+v", s)
	}
	b.end()
	if k := <-got; k != n {
		t.Errorf("%d records arrived, want %d", k, n)
	}
}

// TestTLSRefusals: who is refused, what the agent says, and what our client
// says.
func TestTLSRefusals(t *testing.T) {
	files := testCerts(t)
	for _, tt := range []struct {
		name, agent, collector string
		agentSays, clientSays  string
	}{
		{"foreign collector", "agent", "stranger", `"stranger" is from none of the authorities of -tls-client-ca`, "the agent refuses our certificate: it is from none of the authorities"},
		{"expired collector", "agent", "old", `"old" expired on 2`, "it is not valid now, by the agent's clock"},
		{"collector from the future", "agent", "early", `"early" is not valid before 2`, "it is not valid now, by the agent's clock"},
		{"agent's certificate as a collector's", "agent", "elsewhere", "is not for this side of a connection", "the agent refuses our certificate"},
		{"foreign agent", "stranger-agent", "collector", "it refused our certificate", `"stranger-agent" is from none of the authorities of -tls-ca`},
		{"expired agent", "old-agent", "collector", "it refused our certificate", `"old-agent" expired on 2`},
		{"agent of another name", "elsewhere", "collector", "it refused our certificate", `"elsewhere" is not for "127.0.0.1" but for n7.example, 192.0.2.7`},
		{"collector's certificate as an agent's", "collector", "collector", "it refused our certificate", `"collector" is not for this side`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := serveTLS(t, 64, files(tt.agent), Limits{})
			states := runClient(t, b.addr, func() (*tls.Config, error) { return clientTLS(t, files(tt.collector), "127.0.0.1"), nil })
			s := <-states // dialling
			if s = <-states; s.Phase != Unreachable || !errors.Is(s.Err, ErrTLS) || !strings.Contains(s.Err.Error(), tt.clientSays) {
				t.Errorf("client: %v: %v, want %q", s.Phase, s.Err, tt.clientSays)
			}
			b.awaitMessage("refused: TLS: ")
			b.awaitMessage(tt.agentSays)
			if r := b.server.Refused(); r.Handshake == 0 || r.NotAllowed+r.TooMany != 0 || len(b.server.Collectors()) != 0 {
				t.Errorf("%+v, %v", r, b.server.Collectors())
			}
		})
	}
}

// runClient runs a client until the test ends and gives its states.
func runClient(t *testing.T, addr string, secure func() (*tls.Config, error)) <-chan ClientState {
	states := make(chan ClientState, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c := NewClient(ClientConfig{
		Address: addr, TLS: secure, Records: func([]wire.Record) {}, DialTimeout: time.Second,
		State: func(s ClientState) {
			select {
			case states <- s:
			default:
			}
		},
	})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return states
}

func TestTLSClient(t *testing.T) {
	const n = 50_000
	files := testCerts(t)
	b := serveTLS(t, 64, files("agent"), Limits{})
	got := make(chan int, n)
	ctx, cancel := context.WithCancel(context.Background())
	c := NewClient(ClientConfig{
		Address: b.addr, Records: func(r []wire.Record) { got <- len(r) },
		TLS: func() (*tls.Config, error) { return clientTLS(t, files("collector"), "127.0.0.1"), nil },
	})
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	b.await(1)
	b.publish(0, n)
	for sum := 0; sum < n; sum += <-got {
	}
	b.awaitMessage("attached (bulk, TLS")
	cancel()
	<-done
}

// TestTLSWrongProtocol: both ways of mixing up the two kinds of port.
func TestTLSWrongProtocol(t *testing.T) {
	t.Parallel()
	files := testCerts(t)
	b := serveTLS(t, 64, files("agent"), Limits{})
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "text\n")
	b.awaitMessage("it does not speak TLS; is it meant for the plain feed?")

	plain := serve(t, 64)
	states := runClient(t, plain.addr, func() (*tls.Config, error) { return clientTLS(t, files("collector"), "127.0.0.1"), nil })
	<-states
	if s := <-states; !strings.Contains(fmt.Sprint(s.Err), "is that the plain feed?") {
		t.Errorf("%v: %v", s.Phase, s.Err)
	}
	old := clientTLS(t, files("collector"), "127.0.0.1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := tls.Dial("tcp", b.addr, old); err == nil {
		t.Error("TLS 1.2 is taken")
	}
	b.awaitMessage("it does not know TLS 1.3")
}

// TestTLSHalfHandshakesEnd: connections that say nothing, or dribble, are let
// go after the time for a handshake; there is a bound on them; and a proper
// collector attaches beside them.
func TestTLSHalfHandshakesEnd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	files := testCerts(t)
	b := serveTLS(t, 64, files("agent"), Limits{})
	var conns []net.Conn
	for range maxHandshakesPerSource - 1 {
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
		conn.Write([]byte{0x16, 3, 1}) // a handshake record begins
	}
	start := time.Now()
	b.dialTLS(clientTLS(t, files("collector"), "127.0.0.1"), "bulk\n")
	for range 2 { // the proper one's place is free again: the last of these is one too many
		if conn, err := net.Dial("tcp", b.addr); err == nil { // else refused already
			defer conn.Close()
		}
	}
	b.awaitMessage("too many unfinished TLS handshakes")
	for i, conn := range conns {
		for {
			if _, err := conn.Write([]byte{1}); err != nil {
				break
			}
			if time.Since(start) > 4*handshakeTime {
				t.Fatalf("connection %d is still open", i)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	b.awaitMessage("no handshake within 5s")
	if len(b.server.Collectors()) != 1 {
		t.Errorf("collectors: %v", b.server.Collectors())
	}
}

func TestPaceOfHandshakes(t *testing.T) {
	p := newPace(&tls.Config{})
	start := time.Now()
	const n = handshakeRate + handshakeRate/2
	for range n {
		p.wait(context.Background())
	}
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("%d handshakes may begin within %v", n, took)
	}
	newPace(nil).wait(context.Background()) // does not wait, nor panic
}

func TestAllow(t *testing.T) {
	b := serveWith(t, 64, nil, Limits{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/30"), netip.MustParsePrefix("fe80::/10")}})
	b.dial("") // from 127.0.0.1
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	conn, err := d.Dial("tcp", b.addr)
	if err == nil {
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("data for an address that is not allowed")
		}
	}
	b.awaitMessage("its address is not allowed")
	if r := b.server.Refused(); r.NotAllowed != 1 || len(b.server.Collectors()) != 1 {
		t.Errorf("%+v, %v", r, b.server.Collectors())
	}
	g := newGate(b.server.cfg.Limits, nil)
	for a, want := range map[string]bool{"127.0.0.3": true, "127.0.0.4": false, "fe80::1%eth0": true, "fd00::1": false} {
		if err := g.enter(netip.MustParseAddr(a), false); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// TestPerSource: the limit holds, IPv6 is counted by /64, and places are
// given back.
func TestPerSource(t *testing.T) {
	b := serveWith(t, 64, nil, Limits{PerSource: 2})
	first := b.dial("")
	b.dial("")
	third, err := net.Dial("tcp", b.addr)
	if err == nil {
		third.Close()
	}
	b.awaitMessage("too many connections from its address")
	first.Close()
	b.await(1)
	b.dial("")

	g := newGate(Limits{PerSource: 2}, nil)
	for i, tt := range []struct {
		addr string
		in   bool
	}{{"fd00::1", true}, {"fd00::2", true}, {"fd00::3", false}, {"fd00:0:0:1::1", true}, {"10.0.0.1", true}} {
		if err := g.enter(netip.MustParseAddr(tt.addr), false); (err == nil) != tt.in {
			t.Errorf("%d: %s: %v", i, tt.addr, err)
		}
	}
	for _, a := range []string{"fd00::1", "fd00::2", "fd00:0:0:1::1", "10.0.0.1"} {
		g.leave(netip.MustParseAddr(a))
	}
	if len(g.sources) != 0 {
		t.Errorf("sources that nobody is at: %v", g.sources)
	}
}

func TestRefusalsAreNotSaidForEver(t *testing.T) {
	said := 0
	g := newGate(Limits{}, func(string, ...any) { said++ })
	for range 1000 {
		g.refused(netip.MustParseAddrPort("192.0.2.1:5"), errTooMany)
	}
	if said != complaints || g.count().TooMany != 1000 {
		t.Errorf("said %d times, counted %+v", said, g.count())
	}
}

// TestOpenSSL: another implementation can be the collector.
func TestOpenSSL(t *testing.T) {
	files := testCerts(t)
	b := serveTLS(t, 64, files("agent"), Limits{})
	f := files("collector")
	cmd := exec.Command("openssl", "s_client", "-quiet", "-verify_return_error", "-connect", b.addr,
		"-cert", f.Cert, "-key", f.Key, "-CAfile", f.CA, "-verify_ip", "127.0.0.1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	io.WriteString(in, "text\n")
	b.awaitMessage("attached (text, TLS")
	b.publish(0, 1000)
	scan := bufio.NewScanner(out)
	for i := range 1000 {
		want := record(i)
		if !scan.Scan() || scan.Text()+"\n" != string(wire.AppendLine(nil, &want)) {
			t.Fatalf("line %d: %q, want %q", i, scan.Text(), wire.AppendLine(nil, &want))
		}
	}
}

// BenchmarkFanOut is what one record costs for one more collector, all parts
// of the server and the kernel's sending included; its collectors read in
// large pieces and look at nothing.
func BenchmarkFanOut(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, collectors := range []int{1, 16} {
			b.Run(fmt.Sprintf("tls=%v/collectors=%d", secure, collectors), func(b *testing.B) { benchFanOut(b, secure, collectors) })
		}
	}
}

func benchFanOut(b *testing.B, secure bool, collectors int) {
	h := hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: 256, Encodings: []hub.Encoding[wire.Record]{hub.Each(wire.AppendBinary), hub.Each(wire.AppendBinary)}})
	s := NewServer(ServerConfig[reader]{
		NewReader: h.NewReader, Binary: 0, Text: 1, Attached: func(int) {}, Left: func(Collector[reader], error) {}, Say: func(string, ...any) {},
	})
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	listener, dial := Listener{TCPListener: ln}, func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) }
	if secure {
		files := testCerts(b)
		server, err := certs.NewServer(files("agent"))
		if err != nil {
			b.Fatal(err)
		}
		listener.TLS = server.Config()
		cfg := clientTLS(b, files("collector"), "127.0.0.1")
		dial = func() (net.Conn, error) { return tls.Dial("tcp", ln.Addr().String(), cfg) }
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	for range collectors {
		conn, err := dial()
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "bulk\n")
		raw := conn
		if c, ok := conn.(*tls.Conn); ok {
			raw = c.NetConn() // decrypting is the collector's work
		}
		go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{raw}, make([]byte, 1<<18))
	}
	for len(s.Collectors()) < collectors {
		time.Sleep(time.Millisecond)
	}
	b.ResetTimer()
	for i := 0; i < b.N; {
		h.Fill(func(free []wire.Record) int {
			n := min(len(free), b.N-i)
			for k := range n {
				free[k] = record(i + k)
			}
			i += n
			return n
		})
		for slowest(s) > 100_000 {
			runtime.Gosched()
		}
	}
	for slowest(s) > 0 {
		runtime.Gosched()
	}
	b.StopTimer()
	for _, c := range s.Collectors() {
		if st := c.Reader.Status(); st.Lost > 0 {
			b.Errorf("%+v", st)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*collectors), "ns/delivered")
	cancel()
	h.Close()
	<-done
}

func slowest(s *Server[reader]) (pending uint64) {
	for _, c := range s.Collectors() {
		pending = max(pending, c.Reader.Status().Pending)
	}
	return pending
}
