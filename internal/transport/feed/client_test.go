package feed

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/wire"
)

const clientTestTime = 20 * time.Second // most that a test waits for anything

// clientRun is a client under test, with what it reported.
type clientRun struct {
	records chan wire.Record
	states  chan ClientState
	stop    func() // ends Run and waits for it
}

// startClient runs a client that dials address with short pauses.
func startClient(t *testing.T, address string) *clientRun {
	t.Helper()
	leaks := goleak.IgnoreCurrent()
	r := &clientRun{records: make(chan wire.Record, 1<<16), states: make(chan ClientState, 1<<12)}
	c := NewClient(ClientConfig{
		Address: address,
		Records: func(recs []wire.Record) {
			for _, rec := range recs {
				r.records <- rec
			}
		},
		State:    func(s ClientState) { r.states <- s },
		MinRetry: time.Millisecond,
		MaxRetry: 5 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(clientTestTime):
			t.Error("Run does not end")
		}
		goleak.VerifyNone(t, leaks)
	})
	t.Cleanup(r.stop)
	return r
}

// next waits for a state of the given phase and skips those before it.
func (r *clientRun) next(t *testing.T, phase ClientPhase) ClientState {
	t.Helper()
	for {
		select {
		case s := <-r.states:
			if s.Phase == phase {
				return s
			}
		case <-time.After(clientTestTime):
			t.Fatalf("no state %q", phase)
		}
	}
}

func (r *clientRun) expect(t *testing.T, want []wire.Record) {
	t.Helper()
	for i := range want {
		select {
		case got := <-r.records:
			if got != want[i] {
				t.Fatalf("record %d:\ngot  %+v\nwant %+v", i, got, want[i])
			}
		case <-time.After(clientTestTime):
			t.Fatalf("%d records, want %d", i, len(want))
		}
	}
}

// clientListen is an agent's listener.
func clientListen(t *testing.T, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// clientAccept takes the next connection and reads what is announced.
func clientAccept(t *testing.T, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(clientTestTime))
	conn, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(clientTestTime))
	said := make([]byte, len("bulk\n"))
	if _, err := io.ReadFull(conn, said); err != nil || string(said) != "bulk\n" {
		t.Fatalf("announced %q, %v; want \"bulk\\n\"", said, err)
	}
	return conn
}

// clientRecords are n different records and their 28-byte form.
func clientRecords(n int) (recs []wire.Record, encoded []byte) {
	for i := range n {
		r := wire.Record{
			Time:    1560390672_895279000 + int64(i)*1000,
			SrcPort: uint16(i), DstPort: uint16(2000 + i),
			Length: uint32(i % 65536), Proto: wire.ProtoUDP,
		}
		r.SetSrc4([4]byte{10, 0, byte(i >> 8), byte(i)})
		r.SetDst4([4]byte{10, 1, byte(i >> 8), byte(i)})
		if i%3 == 0 {
			r.FlowID, r.Flags = uint32(i+1), wire.MGEN
		}
		recs = append(recs, r)
		encoded, _ = wire.AppendBinary(encoded, &r)
	}
	return recs, encoded
}

func clientWrite(t *testing.T, conn net.Conn, b []byte) {
	t.Helper()
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// TestClientSplits cuts a stream of three records at every two bytes, on real
// TCP with segments of their own.
func TestClientSplits(t *testing.T) {
	l := clientListen(t, "127.0.0.1:0")
	r := startClient(t, l.Addr().String())
	conn := clientAccept(t, l)
	conn.SetNoDelay(true)
	recs, encoded := clientRecords(3)
	for i := 1; i < len(encoded); i++ {
		for _, j := range []int{i + 1, min(i+wire.Size, len(encoded))} {
			clientWrite(t, conn, encoded[:i])
			clientWrite(t, conn, encoded[i:j])
			clientWrite(t, conn, encoded[j:])
			r.expect(t, recs)
		}
	}
}

// TestClientSplitReads does the same for every size of read, at lengths that
// wrap the read buffer many times.
func TestClientSplitReads(t *testing.T) {
	recs, encoded := clientRecords(3 * readSize / wire.Size)
	for name, r := range map[string]io.Reader{
		"one byte":   iotest.OneByteReader(bytes.NewReader(encoded)),
		"half":       iotest.HalfReader(bytes.NewReader(encoded)),
		"with error": iotest.DataErrReader(bytes.NewReader(encoded)),
		"all":        bytes.NewReader(encoded),
	} {
		var got []wire.Record
		c := newTestReceiver(func(recs []wire.Record) { got = append(got, recs...) })
		delivered, err := c.receive(r, 0)
		if !delivered || !errors.Is(err, ErrClosed) {
			t.Errorf("%s: delivered %v, error %v", name, delivered, err)
		}
		if !slices.Equal(got, recs) {
			t.Errorf("%s: %d records differ from the %d sent", name, len(got), len(recs))
		}
	}
}

func newTestReceiver(take func([]wire.Record)) *Client {
	c := NewClient(ClientConfig{Records: take})
	c.buf, c.batch = make([]byte, readSize), make([]wire.Record, batchSize)
	return c
}

func TestClientAgentRestarts(t *testing.T) {
	l := clientListen(t, "127.0.0.1:0")
	address := l.Addr().String()
	r := startClient(t, address)
	recs, encoded := clientRecords(100)
	for round := range 3 {
		conn := clientAccept(t, l)
		r.next(t, Connected)
		clientWrite(t, conn, encoded)
		r.expect(t, recs)
		l.Close()
		conn.SetLinger(0) // as a killed process with unread data: a reset
		conn.Close()
		lost := r.next(t, Lost)
		if !errors.Is(lost.Err, syscall.ECONNRESET) || lost.Retry <= 0 {
			t.Fatalf("round %d: lost with %v, retry in %v", round, lost.Err, lost.Retry)
		}
		if s := r.next(t, Unreachable); !errors.Is(s.Err, syscall.ECONNREFUSED) {
			t.Fatalf("round %d: unreachable with %v", round, s.Err)
		}
		l = clientListen(t, address)
	}
}

func TestClientLosses(t *testing.T) {
	recs, encoded := clientRecords(2)
	rubbish := []byte("HTTP/1.1 400 Bad Request: what is this? no record, surely\r\n")
	for _, tt := range []struct {
		name string
		send []byte
		recs []wire.Record
		want error
	}{
		{"nothing", nil, nil, ErrClosed},
		{"whole records", encoded, recs, ErrClosed},
		{"a piece of a record", encoded[:wire.Size+1], recs[:1], ErrCut},
		{"rubbish", rubbish, nil, ErrNotRecords},
		{"rubbish after records", append(slices.Clone(encoded), bytes.Repeat(rubbish, 20)...), recs, ErrNotRecords},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := clientListen(t, "127.0.0.1:0")
			r := startClient(t, l.Addr().String())
			for range 2 { // whatever happened, it comes again
				conn := clientAccept(t, l)
				clientWrite(t, conn, tt.send)
				conn.CloseWrite()
				if s := r.next(t, Lost); !errors.Is(s.Err, tt.want) {
					t.Fatalf("lost with %v, want %v", s.Err, tt.want)
				}
				r.expect(t, tt.recs)
				conn.Close()
			}
		})
	}
}

// TestClientSilentAgent: an agent that accepts and says nothing is connected,
// and the client can be stopped.
func TestClientSilentAgent(t *testing.T) {
	l := clientListen(t, "127.0.0.1:0")
	r := startClient(t, l.Addr().String())
	conn := clientAccept(t, l)
	if s := r.next(t, Connected); s.Peer.String() != l.Addr().String() {
		t.Errorf("peer %v, want %v", s.Peer, l.Addr())
	}
	r.stop()
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("after the end: read %d bytes, %v; want a closed connection", n, err)
	}
	select {
	case s := <-r.states:
		t.Errorf("the end is told as %+v", s)
	default:
	}
}

// TestClientKeepAlive asks the kernel how long it takes to notice a host that
// is gone: tcp(7), TCP_KEEPIDLE and what follows it.
func TestClientKeepAlive(t *testing.T) {
	l := clientListen(t, "127.0.0.1:0")
	conn, err := NewClient(ClientConfig{Address: l.Addr().String()}).dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (value int) {
		t.Helper()
		get := func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), level, name) }
		if ctlErr := raw.Control(get); ctlErr != nil || err != nil {
			t.Fatal(ctlErr, err)
		}
		return value
	}
	idle := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
	interval := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL)
	count := option(syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT)
	if on := option(syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); on != 1 || idle+interval*count > 30 {
		t.Errorf("keep-alive %d: after %d s, %d times every %d s; want notice within 30 s", on, idle, count, interval)
	}
}

func TestClientUnknownName(t *testing.T) {
	r := startClient(t, "no-such-host.invalid:7073")
	var dns *net.DNSError
	if s := r.next(t, Unreachable); !errors.As(s.Err, &dns) {
		t.Errorf("unreachable with %v, want a lookup error", s.Err)
	}
	r.next(t, Dialling)
}

// TestClientPauses: pauses start at the least, double, stay within bounds, and
// are drawn from a range.
func TestClientPauses(t *testing.T) {
	lowest, highest := time.Hour, time.Duration(0)
	for range 200 {
		p := dialPause{min: defaultMinRetry, max: defaultMaxRetry}
		upper := 2 * p.min
		for i := range 12 {
			got := p.next()
			if got < upper/2 || got > upper {
				t.Fatalf("pause %d is %v, want %v to %v", i, got, upper/2, upper)
			}
			if i == 11 {
				lowest, highest = min(lowest, got), max(highest, got)
			}
			upper = min(2*upper, p.max)
		}
		p.reset()
		if got := p.next(); got > 2*p.min {
			t.Fatalf("pause after reset is %v", got)
		}
	}
	if highest-lowest < defaultMaxRetry/4 {
		t.Errorf("longest pauses lie between %v and %v: no jitter", lowest, highest)
	}
	same := dialPause{min: time.Second, max: time.Second}
	if got := same.next(); got != time.Second {
		t.Errorf("pause of one possible length is %v", got)
	}
}

// TestClientPauseAfterConnection: a connection that delivered starts the
// pauses anew; one that did not, or delivered rubbish, does not.
func TestClientPauseAfterConnection(t *testing.T) {
	_, encoded := clientRecords(1)
	for _, tt := range []struct {
		name  string
		send  []byte
		reset bool
	}{
		{"nothing", nil, false},
		{"records", encoded, true},
		{"rubbish", bytes.Repeat([]byte{'x'}, wire.Size), false},
		{"records and rubbish", append(slices.Clone(encoded), bytes.Repeat([]byte{'x'}, 2*wire.Size)...), false},
	} {
		c := newTestReceiver(func([]wire.Record) {})
		c.pause.next()
		here, there := net.Pipe()
		go func() {
			there.Write(tt.send)
			there.Close()
		}()
		c.talk(here, 0)
		if reset := c.pause.step == 0; reset != tt.reset {
			t.Errorf("%s: pauses start anew: %v, want %v", tt.name, reset, tt.reset)
		}
	}
}

func TestClientReceiveDoesNotAllocate(t *testing.T) {
	_, encoded := clientRecords(1000)
	n := 0
	c := newTestReceiver(func(recs []wire.Record) { n += len(recs) })
	in := bytes.NewReader(encoded)
	allocs := testing.AllocsPerRun(50, func() {
		in.Reset(encoded)
		c.receive(in, 0)
	})
	if allocs != 0 || n != 51*1000 {
		t.Errorf("%v allocations, %d records", allocs, n)
	}
}

func TestClientPhaseNames(t *testing.T) {
	var names []string
	for p := Dialling; p <= Lost+1; p++ {
		names = append(names, p.String())
	}
	if got, want := strings.Join(names, " "), "dialling connected unreachable lost phase 4"; got != want {
		t.Errorf("phases are %q, want %q", got, want)
	}
}

// spoilt are n records of which those with bad(i) have more than a million
// microseconds.
func spoilt(n int, bad func(i int) bool) (good []wire.Record, encoded []byte) {
	recs, encoded := clientRecords(n)
	for i := range recs {
		if bad(i) {
			binary.BigEndian.PutUint32(encoded[i*wire.Size+4:], 1_000_000+uint32(i))
		} else {
			good = append(good, recs[i])
		}
	}
	return good, encoded
}

// TestClientMalformed: a few bad records are left out and counted; most of the
// last 64 being bad means that it is no agent.
func TestClientMalformed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		n      int
		bad    func(i int) bool
		want   error
		counts uint64
	}{
		{"one of many", 23600, func(i int) bool { return i == 12345 }, ErrClosed, 1},
		{"the first", 23600, func(i int) bool { return i == 0 }, ErrClosed, 1},
		{"the last", 100, func(i int) bool { return i == 99 }, ErrClosed, 1},
		{"half of all", 10000, func(i int) bool { return i%2 == 1 }, ErrClosed, 5000},
		{"ten in a row", 1000, func(i int) bool { return i >= 500 && i < 510 }, ErrClosed, 10},
		{"all from some time on", 1000, func(i int) bool { return i >= 500 }, ErrNotRecords, 33},
		{"all", 1000, func(i int) bool { return true }, ErrNotRecords, judgeFrom},
		{"all of few", 3, func(i int) bool { return true }, ErrNotRecords, 3},
		{"one of one", 1, func(i int) bool { return true }, ErrNotRecords, 1},
		{"one of two", 2, func(i int) bool { return i == 1 }, ErrClosed, 1},
		{"at first, and then records", 100, func(i int) bool { return i < 9 }, ErrClosed, 9},
	} {
		good, encoded := spoilt(tt.n, tt.bad)
		for _, size := range []int{1 << 20, 1000, 27} {
			var got []wire.Record
			c := newTestReceiver(func(recs []wire.Record) { got = append(got, recs...) })
			_, err := c.receive(&pieceReader{data: encoded, size: size}, 0)
			if !errors.Is(err, tt.want) || c.Losses() != (Losses{Malformed: tt.counts}) {
				t.Errorf("%s: %v, %v; want %v, %d malformed", tt.name, err, c.Losses(), tt.want, tt.counts)
			}
			if !slices.Equal(got, good) {
				t.Errorf("%s: %d records, want %d", tt.name, len(got), len(good))
			}
		}
	}
}

// TestClientMalformedTwice: malformed records of all connections are counted, but
// each connection is judged by its own.
func TestClientMalformedTwice(t *testing.T) {
	l := clientListen(t, "127.0.0.1:0")
	r := startClient(t, l.Addr().String())
	good, encoded := spoilt(20, func(i int) bool { return i < 10 })
	for range 3 {
		conn := clientAccept(t, l)
		clientWrite(t, conn, encoded)
		conn.CloseWrite()
		if s := r.next(t, Lost); !errors.Is(s.Err, ErrClosed) {
			t.Fatalf("lost with %v", s.Err)
		}
		r.expect(t, good)
	}
}

// FuzzClientReceive: whatever arrives, in whatever pieces, each whole record that
// makes sense is handed over, once, until most of the last ones do not.
func FuzzClientReceive(f *testing.F) {
	_, encoded := clientRecords(3)
	f.Add(encoded, uint16(5))
	f.Add(encoded[:50], uint16(28))
	f.Add(bytes.Repeat([]byte{0xff}, 60), uint16(1))
	f.Add(append(bytes.Repeat([]byte{0xff}, 28), encoded...), uint16(1))
	f.Fuzz(func(t *testing.T, data []byte, size uint16) {
		var want []wire.Record
		var flags []bool // bad ones
		most := func() bool {
			n, last := 0, flags[max(0, len(flags)-64):]
			for _, bad := range last {
				if bad {
					n++
				}
			}
			return 2*n > len(last)
		}
		judged := false
		for rest := data; len(rest) >= wire.Size && !judged; rest = rest[wire.Size:] {
			var r wire.Record
			bad := wire.DecodeBinary(rest, &r) != nil
			if flags = append(flags, bad); !bad {
				want = append(want, r)
			}
			judged = bad && len(flags) >= judgeFrom && most()
		}
		judged = judged || len(flags) > 0 && most()
		var got []wire.Record
		c := newTestReceiver(func(recs []wire.Record) { got = append(got, recs...) })
		_, err := c.receive(&pieceReader{data: data, size: int(size)%4096 + 1}, 0)
		if !slices.Equal(got, want) {
			t.Errorf("%d records, want %d", len(got), len(want))
		}
		if judged != errors.Is(err, ErrNotRecords) {
			t.Errorf("error %v for a stream that is to be refused: %v", err, judged)
		}
	})
}

// pieceReader gives data in pieces of size bytes.
type pieceReader struct {
	data []byte
	size int
}

func (r *pieceReader) Read(b []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, r.data[:min(r.size, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

func BenchmarkClientReceive(b *testing.B) {
	_, encoded := clientRecords(readSize / wire.Size)
	n := 0
	c := newTestReceiver(func(recs []wire.Record) { n += len(recs) })
	in := bytes.NewReader(encoded)
	for b.Loop() {
		in.Reset(encoded)
		c.receive(in, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}
