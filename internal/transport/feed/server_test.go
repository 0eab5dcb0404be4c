package feed

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type reader = *hub.Reader[wire.Record]

// bench is a server on a real port, fed by the test.
type bench struct {
	t      *testing.T
	hub    *hub.Hub[wire.Record]
	server *Server[reader]
	addr   string
	end    func()

	mu       sync.Mutex
	said     []string
	departed []Collector[reader]
	attached chan int
}

func serve(t *testing.T, chunks int) *bench {
	t.Helper()
	return serveWith(t, chunks, nil, Limits{})
}

func serveWith(t *testing.T, chunks int, secure *tls.Config, limits Limits) *bench {
	t.Helper()
	b := newTestServer(t, chunks, limits)
	b.serve(Listener{TLS: secure})
	return b
}

// newTestServer does not listen yet.
func newTestServer(t *testing.T, chunks int, limits Limits) *bench {
	t.Helper()
	b := &bench{t: t, attached: make(chan int, 10_000)}
	b.hub = hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: chunks, Count: countNumbered, Encodings: []hub.Encoding[wire.Record]{
		hub.Each(wire.AppendBinary),
		hub.Each(func(dst []byte, r *wire.Record) ([]byte, bool) { return wire.AppendLine(dst, r), true }),
	}})
	b.server = NewServer(ServerConfig[reader]{
		NewReader: b.hub.NewReader, Binary: 0, Text: 1, Limits: limits, Boot: testBoot,
		Attached: func(n int) { b.attached <- n },
		Left: func(c Collector[reader], why error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.said = append(b.said, fmt.Sprintf("%s left: %v", c, why))
			b.departed = append(b.departed, c)
		},
		Say: func(format string, args ...any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.said = append(b.said, fmt.Sprintf(format, args...))
		},
	})
	return b
}

// serve listens on loopback, as l says, until end is called or the test is over.
func (b *bench) serve(l Listener) {
	b.t.Helper()
	var err error
	if l.TCPListener, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
		b.t.Fatal(err)
	}
	b.run(l)
}

// run serves collectors of a port.
func (b *bench) run(l Listener) {
	b.addr = l.Addr().String()
	LimitSegments(l.TCPListener)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.server.Serve(ctx, l) }()
	b.end = sync.OnceFunc(func() {
		cancel()
		b.hub.Close()
		if err := <-done; err != nil {
			b.t.Errorf("Serve: %v", err)
		}
	})
	b.t.Cleanup(b.end)
}

// dial connects a collector, says what it says, and waits until it counts.
func (b *bench) dial(says string) *net.TCPConn {
	b.t.Helper()
	before := len(b.server.Collectors())
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, says); err != nil {
		b.t.Fatal(err)
	}
	b.await(before + 1)
	return conn.(*net.TCPConn)
}

func (b *bench) await(n int) {
	b.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case got := <-b.attached:
			if got == n {
				return
			}
		case <-timeout:
			b.t.Fatalf("never had %d collectors; messages: %q", n, b.messages())
		}
	}
}

func (b *bench) messages() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.said)
}

func (b *bench) awaitMessage(part string) {
	b.t.Helper()
	for range 2000 {
		for _, m := range b.messages() {
			if strings.Contains(m, part) {
				return
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.t.Fatalf("no message with %q: %q", part, b.messages())
}

// record number i; each is different and has every field set.
func record(i int) wire.Record {
	r := wire.Record{
		Time: 1_700_000_000_000_000_000 + int64(i)*1000, SrcPort: uint16(i), DstPort: uint16(i >> 16),
		Length: 28 + uint32(i%1400), FlowID: uint32(i), Proto: wire.ProtoUDP, Flags: wire.MGEN,
	}
	r.SetSrc4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return r
}

func (b *bench) publish(from, to int) {
	for from < to {
		b.hub.Fill(func(free []wire.Record) int {
			n := min(len(free), to-from)
			for i := range n {
				free[i] = record(from + i)
			}
			from += n
			return n
		})
	}
}

// wantRecords reads records from..to and nothing else.
func wantRecords(t *testing.T, r io.Reader, from, to int) {
	t.Helper()
	var buf [wire.Size]byte
	for i := from; i < to; i++ {
		if _, err := io.ReadFull(r, buf[:]); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
		want := record(i)
		if enc, _ := wire.AppendBinary(nil, &want); !bytes.Equal(buf[:], enc) {
			t.Fatalf("record %d is % x, want % x", i, buf, enc)
		}
	}
}

func TestEveryCollectorGetsEverything(t *testing.T) {
	const n = 200_000
	b := serve(t, 1024)
	conns := []*net.TCPConn{b.dial(""), b.dial("bulk\n"), b.dial("bulk\r\n"), b.dial("")}
	lines := b.dial("text\n")
	go b.publish(0, n)
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { wantRecords(t, bufio.NewReader(c), 0, n) })
	}
	wg.Go(func() {
		scan := bufio.NewScanner(lines)
		for i := range n {
			want := record(i)
			if !scan.Scan() || scan.Text()+"\n" != string(wire.AppendLine(nil, &want)) {
				t.Errorf("line %d: %q", i, scan.Text())
				return
			}
		}
	})
	wg.Wait()
	formats := map[string]int{}
	for _, c := range b.server.Collectors() {
		formats[c.Format]++
		if s := c.Reader.Status(); s.Delivered != n || s.Lost != 0 || s.Skipped != 0 {
			t.Errorf("%s (%s): %+v", c, c.Format, s)
		}
	}
	if formats["records"] != 2 || formats["bulk"] != 2 || formats["text"] != 1 {
		t.Errorf("formats %v", formats)
	}
}

func TestStreamBeginsWithTheConnection(t *testing.T) {
	b := serve(t, 64)
	b.publish(0, 10)
	c := b.dial("") // counted, but still in its announcement window
	b.publish(10, 20)
	wantRecords(t, c, 10, 20)
}

func TestAnnouncementInPieces(t *testing.T) {
	t.Parallel()
	b := serve(t, 64)
	c := b.dial("te")
	b.publish(0, 1)
	time.Sleep(announceWindow / 5)
	io.WriteString(c, "xt\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	want := record(0)
	if err != nil || line != string(wire.AppendLine(nil, &want)) {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestAnnouncementTooLateIsIgnored(t *testing.T) {
	b := serve(t, 64)
	c := b.dial("")
	b.awaitMessage("attached (records)")
	io.WriteString(c, "text\n")
	b.publish(0, 3)
	wantRecords(t, c, 0, 3)
}

func TestHalfClosedTextCollectorStays(t *testing.T) {
	b := serve(t, 64)
	c := b.dial("text\n")
	c.CloseWrite()
	b.awaitMessage("attached (text)")
	b.publish(0, 2)
	scan := bufio.NewScanner(c)
	for range 2 {
		if !scan.Scan() {
			t.Fatalf("no two lines: %v", scan.Err())
		}
	}
	c.Close()
	// The first write after it is gone tells.
	for i := 2; len(b.server.Collectors()) > 0; i++ {
		b.publish(i, i+1)
		time.Sleep(5 * time.Millisecond)
	}
	b.awaitMessage("left: " + errLeft.Error())
}

func TestSilentCollectorThatClosesHasLeft(t *testing.T) {
	b := serve(t, 64)
	b.dial("").Close()
	b.await(0)
	b.awaitMessage("left: " + errLeft.Error())
}

func TestGarbageIsReadUpToALimit(t *testing.T) {
	b := serve(t, 64)
	good := b.dial("")
	bad := b.dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	junk := bytes.Repeat([]byte("garbage\n"), 1024)
	sent := 0
	bad.SetWriteBuffer(8 << 10)
	bad.SetWriteDeadline(time.Now().Add(10 * time.Second))
	var err error
	for err == nil && sent < 64<<20 {
		var n int
		n, err = bad.Write(junk)
		sent += n
	}
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d bytes: %v", sent, err)
	}
	b.awaitMessage(errGarbage.Error())
	b.publish(0, 5)
	wantRecords(t, good, 0, 5)
}

// recv28 reads as the C collector does: one recv(2) of 28 bytes per record.
func recv28(fd int, buf []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, buf[:wire.Size])
		if err != syscall.EINTR {
			return n, err
		}
	}
}

// TestCCollectorNeverLosesItsPlace reads as the C collector does, stalling now
// and then until its window is closed and the kernel probes it, and with
// windows from tiny to large.
func TestCCollectorNeverLosesItsPlace(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	for _, rcvbuf := range []int{2048, 16 << 10, 0} {
		t.Run(fmt.Sprintf("rcvbuf=%d", rcvbuf), func(t *testing.T) {
			t.Parallel()
			const n = 60_000
			b := serve(t, 1024)
			fd, err := dialRaw(b.addr, rcvbuf)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			b.await(1)
			go func() { // bursts that fill any window
				for i := 0; i < n; i += 3000 {
					b.publish(i, i+3000)
					time.Sleep(10 * time.Millisecond)
				}
			}()
			buf := make([]byte, wire.Size)
			for i := range n {
				if i%(n/4) == n/8 {
					time.Sleep(1200 * time.Millisecond) // several probes long
				}
				if got, err := recv28(fd, buf); got != wire.Size || err != nil {
					t.Fatalf("recv of record %d: %d bytes, %v", i, got, err)
				}
				want := record(i)
				if enc, _ := wire.AppendBinary(nil, &want); !bytes.Equal(buf, enc) {
					t.Fatalf("record %d is % x", i, buf)
				}
			}
		})
	}
}

// dialRaw connects a blocking socket as a C program would.
func dialRaw(addr string, rcvbuf int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if rcvbuf > 0 {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf)
	}
	to, _ := net.ResolveTCPAddr("tcp4", addr)
	return fd, unix.Connect(fd, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())})
}

func TestStalledCollectorLosesItsOwnOldest(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n = 1_500_000 // 42 MB, more than the kernel holds for a connection
	for _, says := range []string{"", "bulk\n"} {
		b := serve(t, 16)
		stalled, good := b.dial(says), b.dial("bulk\n")
		got := make(chan int)
		go func() {
			buf := make([]byte, 1<<20)
			total := 0
			for total < n*wire.Size {
				k, err := good.Read(buf)
				total += k
				if err != nil {
					break
				}
			}
			got <- total / wire.Size
		}()
		b.awaitMessage("attached (bulk)")
		goodReader := b.server.Collectors()[1].Reader
		for i := 0; i < n; i += 500 {
			b.publish(i, i+500)
			for goodReader.Status().Pending > 8000 { // no faster than a good one reads
				time.Sleep(100 * time.Microsecond)
			}
		}
		if g := <-got; g != n {
			t.Errorf("the good collector got %d of %d", g, n)
		}
		b.checkStalled(stalled, n)
		b.end()
	}
}

// checkStalled reads what the stalled collector's kernel has: exactly the
// records that its reader counts as delivered, in order, with gaps.
func (b *bench) checkStalled(conn *net.TCPConn, n int) {
	b.t.Helper()
	s := b.server.Collectors()[0].Reader.Status()
	if s.Published != uint64(n) || s.Lost == 0 || s.Delivered+s.Lost+s.Pending != uint64(n) {
		b.t.Errorf("stalled: %+v", s)
	}
	go b.end()
	data, err := io.ReadAll(conn)
	if err != nil || len(data) == 0 {
		b.t.Errorf("the stalled collector read %d bytes: %v", len(data), err)
	}
	b.end()
	if len(b.departed) != 2 {
		b.t.Errorf("departed: %v", b.departed)
	}
	for _, d := range b.departed {
		if s := d.Reader.Status(); s.Lost > 0 && s.Delivered != uint64(len(data)/wire.Size) {
			b.t.Errorf("delivered %d records, it got %d", s.Delivered, len(data)/wire.Size)
		}
	}
	var last int64
	for ; len(data) >= wire.Size; data = data[wire.Size:] {
		var r wire.Record
		if err := wire.DecodeBinary(data, &r); err != nil || r.Time <= last {
			b.t.Fatalf("record %+v after %d: %v", r, last, err)
		}
		last = r.Time
	}
}

func TestManyCollectors(t *testing.T) {
	const collectors, n = 1100, 300
	raiseFileLimit(t, 2*collectors+100)
	b := serve(t, 64)
	conns := make([]net.Conn, collectors)
	for i := range conns {
		var err error
		if conns[i], err = net.Dial("tcp", b.addr); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	b.await(collectors)
	go b.publish(0, n)
	for _, c := range conns {
		wantRecords(t, bufio.NewReader(c), 0, n)
	}
}

func raiseFileLimit(t *testing.T, n uint64) {
	var lim unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
	if lim.Cur < n {
		lim.Cur, lim.Max = n, max(n, lim.Max)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
			t.Fatalf("cannot open %d files: %v", n, err)
		}
	}
}

func TestListenerWithoutFilesRecovers(t *testing.T) {
	if os.Getenv("FEED_CHILD") == "" {
		rerun(t)
		return
	}
	b := serve(t, 64)
	var lim unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &lim)
	client, err := dialRaw(b.addr, 0) // accepted later: holds one file now
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	b.await(1)
	second, _ := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	defer unix.Close(second)
	full := lim
	full.Cur = uint64(second) + 1 // nothing beyond what is open
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &full); err != nil {
		t.Fatal(err)
	}
	to, _ := net.ResolveTCPAddr("tcp4", b.addr)
	if err := unix.Connect(second, &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	b.awaitMessage("cannot accept collectors for now")
	unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
	b.await(2)
	b.publish(0, 10)
	wantRecords(t, os.NewFile(uintptr(mustDup(t, second)), "second"), 0, 10)
}

func mustDup(t *testing.T, fd int) int {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestNetcat: a person reads along as the manual says, with or without closing
// the own direction first.
func TestNetcat(t *testing.T) {
	if testing.Short() {
		t.Skip("needs nc")
	}
	for _, options := range [][]string{nil, {"-N"}} {
		b := serve(t, 64)
		host, port, _ := net.SplitHostPort(b.addr)
		script := []string{"-c", `printf 'text\n' | exec nc "$@"`, "sh"}
		nc := exec.Command("sh", slices.Concat(script, options, []string{host, port})...)
		out, err := nc.StdoutPipe()
		if err == nil {
			err = nc.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.awaitMessage("attached (text)")
		b.publish(0, 3)
		scan := bufio.NewScanner(out)
		for i := range 3 {
			want := record(i)
			if !scan.Scan() || scan.Text()+"\n" != string(wire.AppendLine(nil, &want)) {
				t.Fatalf("nc %s: line %d is %q", options, i, scan.Text())
			}
		}
		b.end() // the agent ends, and nc with it
		if err := nc.Wait(); err != nil {
			t.Errorf("nc %s: %v", options, err)
		}
	}
}
