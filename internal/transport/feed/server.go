package feed

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// announceWindow is how long a new collector may take to send its announcement.
	// What is captured in the meantime waits in the hub.
	announceWindow = 100 * time.Millisecond
	// maxReceived is the maximum number of bytes that a collector may send in total. A
	// collector has one line to say; anything that sends more is not a collector.
	maxReceived = 64 << 10
	// farewell is how long a stopping agent continues to send to collectors that accept
	// what is left.
	farewell = 2 * time.Second
	// probeEvery is the interval at which a collector that has closed its sending side
	// is probed for existence.
	probeEvery = 5 * time.Second
	// spacing is the minimum time between two sends to one collector, multiplied by the
	// number of collectors: ten collectors get their records immediately, ten thousand
	// get them 2.5 times per second, and all of them together cost less than a core.
	spacing = 40 * time.Microsecond
	// maxPrompt is the maximum number of collectors that the publishing goroutine sends
	// to itself.
	maxPrompt = 8
	// manyRecords is the number of records that are sent at once regardless of spacing.
	manyRecords = 1024
	// complainEvery is the minimum interval between messages about a listener that
	// cannot accept.
	complainEvery = 30 * time.Second
)

// peerKeepAlive detects within 30 s that a collector's host is gone while there is
// nothing to send. If there is, see dead.
var peerKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}

// ItemReader is one collector's position in the agent's stream.
type ItemReader interface {
	// Wait blocks until there is something to send. It returns io.EOF at the end of the
	// stream.
	Wait(context.Context) error
	// Encoded returns items that are stored together, in a format: item i is
	// buf[ends[i]-ends[0]:ends[i+1]-ends[0]]. If ends is empty, there is nothing to
	// send.
	Encoded(format int) (buf []byte, ends []uint32)
	// Advance marks the first n of them as sent.
	Advance(n int)
	// Position returns the number of items before those that Encoded returns. Number
	// returns how many of these have a number, see wire.AppendMark; it is valid as long
	// as Encoded's items.
	Position() uint64
	Number() uint64
	// Disown marks n items that were counted as sent as not sent.
	Disown(n int)
	// Attend makes the publishing goroutine call serve whenever there is something to
	// send, until serve reports false; then over is called. Neither may block. Attend
	// does nothing and reports false if there is something to send now, or never will
	// be again.
	Attend(serve func() bool, over func()) bool
	// Dismiss ends that without calling over.
	Dismiss()
	// Close counts unsent items as lost.
	Close()
}

// ServerConfig configures a Server.
type ServerConfig[R ItemReader] struct {
	// NewReader returns a reader that starts at the current position.
	NewReader func() R
	// Binary, Text, and IPFIX are the reader's formats for 28-byte records, lines, and
	// IPFIX data records.
	Binary, Text, IPFIX int
	// Boot identifies the numbering for collectors that request numbers: see
	// wire.AppendMark.
	Boot uint64
	// Exporter describes us to collectors of IPFIX.
	Exporter Exporter[R]
	// Limits restrict who may connect.
	Limits Limits
	// Attached is called with the number of collectors after each change, in order. It
	// may block, which delays other collectors' connecting and disconnecting.
	Attached func(n int)
	// Gone is called for each collector that has disconnected, with final counters, at
	// the instant at which Snapshot stops including it. It must be quick.
	Gone func(c Collector[R])
	// Left is called for each collector that has disconnected, with the reason, once
	// its reader is closed and its counters are final.
	Left func(c Collector[R], why error)
	// Say prints messages for the user.
	Say func(format string, args ...any)
}

// Server sends records to every collector that connects. A slow or stalled collector
// delays no other: it loses its own oldest records.
type Server[R ItemReader] struct {
	cfg  ServerConfig[R]
	gate *gate

	mu       sync.Mutex
	attached map[*collector[R]]struct{}
	present  atomic.Int64 // len(attached)
	prompt   atomic.Int64 // collectors served by the publishing goroutine

	changing sync.Mutex // serializes cfg.Attached
}

// NewServer returns a server. It does nothing until Serve.
func NewServer[R ItemReader](cfg ServerConfig[R]) *Server[R] {
	return &Server[R]{cfg: cfg, gate: newGate(cfg.Limits, cfg.Say), attached: map[*collector[R]]struct{}{}}
}

// Listener is a port that collectors connect to.
type Listener struct {
	*net.TCPListener
	// TLS is the configuration that collectors must agree to, including client
	// certificates; nil for the plain feed.
	TLS *tls.Config
	// IPFIX selects the format of this port. Collectors announce nothing there.
	IPFIX bool
}

// Collector describes an attached collector.
type Collector[R ItemReader] struct {
	Addr   netip.AddrPort
	Since  time.Time
	Format string // "records", "bulk", "text", "ipfix"; "" while it may still announce one
	TLS    bool
	Name   string // common name of its certificate. Valid iff TLS
	Sent   uint64 // items that the kernel took, or that the format cannot express
	Reader R      // for its counters only
}

// String returns the collector's name for messages.
func (c Collector[R]) String() string { return "collector " + c.Addr.String() }

// How describes how the collector is attached.
func (c Collector[R]) How() string {
	how := c.Format
	if how == "" {
		how = "not yet said what it wants"
	}
	if c.TLS {
		how += fmt.Sprintf(", TLS as %q", c.Name)
	}
	return how
}

// Refused returns the number of refused connections.
func (s *Server[R]) Refused() Refused { return s.gate.count() }

// Snapshot calls f for each attached collector, in any order. No collector connects or
// disconnects during the call, so the totals of f and ServerConfig.Gone miss nothing
// and count nothing twice. done, if not nil, is called after the last f, before
// anything changes.
func (s *Server[R]) Snapshot(f func(Collector[R]), done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.attached {
		f(c.describe())
	}
	if done != nil {
		done()
	}
}

// Collectors returns the attached collectors, in the order in which they connected.
func (s *Server[R]) Collectors() []Collector[R] {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Collector[R], 0, len(s.attached))
	for c := range s.attached {
		list = append(list, c.describe())
	}
	slices.SortFunc(list, func(a, b Collector[R]) int { return a.Since.Compare(b.Since) })
	return list
}

// Serve accepts collectors from all listeners until ctx is done. Then it sends each
// what is left for it, for a short time; the readers must have come to an end. It
// closes the listeners, and returns once every collector is gone.
func (s *Server[R]) Serve(ctx context.Context, listeners ...Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var conns, accepting sync.WaitGroup
	defer conns.Wait()
	errs := make([]error, len(listeners))
	for i, ln := range listeners {
		accepting.Go(func() {
			defer cancel() // the first failure stops all
			errs[i] = s.accept(ctx, ln, &conns)
		})
	}
	accepting.Go(func() { s.bury(ctx) })
	accepting.Wait()
	return errors.Join(errs...)
}

func (s *Server[R]) accept(ctx context.Context, ln Listener, conns *sync.WaitGroup) error {
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	defer ln.Close()
	var pause backoff
	pace := newPace(ln.TLS)
	for {
		conn, err := ln.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if !temporary(err) {
				return fmt.Errorf("accept collectors on %s: %w", ln.Addr(), err)
			}
			if pause.complain() {
				s.cfg.Say("cannot accept collectors for now: %v", err)
			}
			pause.sleep(ctx)
			continue
		}
		pause.reset()
		s.admit(ctx, conn, ln, conns)
		pace.wait(ctx)
	}
}

// admit admits a connection, or closes it.
func (s *Server[R]) admit(ctx context.Context, conn *net.TCPConn, ln Listener, conns *sync.WaitGroup) {
	addr := peer(conn)
	if err := s.gate.enter(addr.Addr(), ln.TLS != nil); err != nil {
		refuse(conn)
		s.gate.refused(addr, err)
		return
	}
	conn.SetKeepAliveConfig(peerKeepAlive)
	if ln.TLS == nil {
		s.attach(ctx, newCollector(s, conn, ln), conns)
		return
	}
	conns.Go(func() {
		session, name, err := handshake(ctx, conn, ln.TLS)
		s.gate.greeted(addr.Addr())
		if err != nil {
			conn.Close()
			s.gate.leave(addr.Addr())
			if ctx.Err() == nil {
				s.gate.refused(addr, err)
			}
			return
		}
		c := newCollector(s, conn, ln)
		c.session, c.stream, c.name = session, session, name
		s.attach(ctx, c, conns)
	})
}

// attach starts the collector's stream immediately, before anything else happens.
func (s *Server[R]) attach(ctx context.Context, c *collector[R], conns *sync.WaitGroup) {
	s.mu.Lock()
	s.attached[c] = struct{}{}
	s.present.Add(1)
	s.mu.Unlock()
	conns.Go(func() {
		s.changed()
		err := c.serve(ctx)
		s.detach(c, err)
	})
}

func (s *Server[R]) detach(c *collector[R], err error) {
	c.conn.Close()
	c.reader.Close()
	s.gate.leave(c.addr.Addr())
	s.mu.Lock()
	delete(s.attached, c)
	s.present.Add(-1)
	if s.cfg.Gone != nil {
		s.cfg.Gone(c.describe())
	}
	s.mu.Unlock()
	s.cfg.Left(c.describe(), err)
	s.changed()
}

// space returns the current minimum time between two sends to one collector.
func (s *Server[R]) space() time.Duration {
	if d := time.Duration(s.present.Load()) * spacing; d >= time.Millisecond {
		return d
	}
	return 0
}

// changed reports the number of collectors. The number is read while holding the lock
// that serializes the reports, so that the last report is correct.
func (s *Server[R]) changed() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	n := len(s.attached)
	s.mu.Unlock()
	s.cfg.Attached(n)
}

// temporary reports whether an error of accept(2) is transient, or concerns one
// connection only.
func temporary(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPROTO, syscall.EINTR, syscall.EPERM,
		syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// backoff delays a loop whose call keeps failing.
type backoff struct {
	delay time.Duration
	said  time.Time
}

func (b *backoff) reset() { b.delay = 0 }

func (b *backoff) complain() bool {
	if time.Since(b.said) < complainEvery {
		return false
	}
	b.said = time.Now()
	return true
}

func (b *backoff) sleep(ctx context.Context) {
	b.delay = min(max(2*b.delay, 5*time.Millisecond), time.Second)
	select {
	case <-ctx.Done():
	case <-time.After(b.delay):
	}
}

// collector is one connection.
type collector[R ItemReader] struct {
	server  *Server[R]
	conn    *net.TCPConn
	stream  net.Conn  // conn, or session
	session *tls.Conn // nil on the plain feed
	name    string    // of its certificate
	addr    netip.AddrPort
	since   time.Time
	reader  R
	sent    atomic.Int64 // items so far; written by send only
	numbers atomic.Bool  // it has requested the records' numbers
	next    uint64       // position of the item that needs no mark; used by send only
	format  atomic.Int32 // unknown until the announcement, or until the window has passed
	dead    atomic.Bool  // its host does not respond
}

// Formats of a feed, as announced by a collector.
const (
	unknown int32 = iota
	records
	bulk
	text
	messages // IPFIX, chosen by the port
)

var formatNames = [...]string{unknown: "", records: "records", bulk: "bulk", text: "text", messages: "ipfix"}

// newCollector returns a collector whose stream begins now.
func newCollector[R ItemReader](s *Server[R], conn *net.TCPConn, ln Listener) *collector[R] {
	c := &collector[R]{
		server: s, conn: conn, stream: conn, since: time.Now(), reader: s.cfg.NewReader(), addr: peer(conn),
		next: math.MaxUint64,
	}
	if ln.IPFIX {
		c.format.Store(messages)
	}
	return c
}

func peer(conn *net.TCPConn) netip.AddrPort {
	addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
}

func (c *collector[R]) describe() Collector[R] {
	return Collector[R]{
		Addr: c.addr, Since: c.since, Reader: c.reader, Format: formatNames[c.format.Load()],
		TLS: c.session != nil, Name: c.name, Sent: uint64(c.sent.Load()),
	}
}

// disown counts n items that were sent as lost.
func (c *collector[R]) disown(n int) {
	c.sent.Add(-int64(n))
	c.reader.Disown(n)
}

var (
	errLeft    = errors.New("it closed the connection")
	errGarbage = fmt.Errorf("it sent %d KiB, which no collector does", maxReceived>>10)
	errEnd     = errors.New("end of capture")
	errDead    = errors.New("its host no longer answers")
	errSlow    = fmt.Errorf("end of capture; it did not take the rest within %v", farewell)
)

// serve sends until the collector disconnects or the stream ends, and returns which.
func (c *collector[R]) serve(ctx context.Context) error {
	left, leave := context.WithCancelCause(context.Background())
	announced := make(chan int32, 1)
	var listener sync.WaitGroup
	listener.Go(func() { leave(c.listen(left, announced)) })
	defer listener.Wait()
	defer c.conn.Close() // ends listen
	defer leave(nil)

	stop := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Now().Add(farewell)) })
	defer stop()
	unblock := context.AfterFunc(left, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer unblock()

	format := c.format.Load()
	if format == unknown {
		format = records
		select {
		case format = <-announced:
		case <-time.After(announceWindow):
		case <-left.Done():
			return context.Cause(left)
		}
		c.format.Store(format)
		select { // it may have arrived just as the time was over
		case format = <-announced:
			c.format.Store(format)
		default:
		}
	}
	c.server.cfg.Say("%s: attached (%s)", c.describe(), c.describe().How())
	err := c.send(left, format)
	switch {
	case c.dead.Load():
		return errDead
	case err == errEnd && c.session != nil && hasRoom(c.conn):
		c.session.CloseWrite() // tells the collector that nothing is missing
	}
	return err
}

// listen reads the announcement, and then only detects that the collector is gone. A
// collector of text may be a person who closed the sending side after the announcement,
// as nc -N does. That is not a disconnect; a real one shows when writing to it. (TLS
// programs that end one direction end both.)
func (c *collector[R]) listen(left context.Context, announced chan<- int32) error {
	var words []byte
	buf := make([]byte, 512)
	total, said := 0, c.format.Load()
	for {
		n, err := c.stream.Read(buf)
		total += n
		if len(words) < maxAnnouncement && said != messages {
			words = append(words, buf[:n]...)
			said = c.hear(words, said, announced)
		}
		if total >= maxReceived {
			return errGarbage
		}
		if err != nil {
			if errors.Is(err, io.EOF) && said == text && c.session == nil && c.format.Load() != records {
				err = c.awaitDeath(left)
			}
			return leaving(err)
		}
	}
}

// maxAnnouncement is the maximum length of an announcement.
const maxAnnouncement = 64

// hear processes what a collector has sent so far. A collector that announces "bulk"
// late is served that way from then on, because the records are the same.
func (c *collector[R]) hear(words []byte, said int32, announced chan<- int32) int32 {
	format := parseAnnouncement(words)
	if format == bulk && asksForNumbers(words) {
		c.numbers.Store(true)
	}
	if said == unknown && format != unknown {
		announced <- format
		if format == bulk {
			c.format.CompareAndSwap(records, bulk)
		}
	}
	return format
}

// asksForNumbers reports whether the second line requests numbers.
func asksForNumbers(words []byte) bool {
	_, second, _ := bytes.Cut(words, []byte("\n"))
	line, _, complete := bytes.Cut(second, []byte("\n"))
	return complete && string(bytes.TrimSuffix(line, []byte("\r"))) == numbersLine
}

// awaitDeath waits until the kernel has detected, by keep-alives, that the peer no
// longer exists.
func (c *collector[R]) awaitDeath(left context.Context) error {
	c.conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: probeEvery, Interval: probeEvery, Count: 3})
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-left.Done():
			return context.Cause(left)
		case <-tick.C:
		}
		if alive, err := connected(c.conn); err != nil || !alive {
			return errLeft
		}
	}
}

// leaving describes how a connection ended.
func leaving(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return errLeft
	}
	if errors.Is(err, syscall.ETIMEDOUT) {
		return errDead // by keep-alive
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSlow
	}
	return err
}

// parseAnnouncement parses the bytes received so far: unknown if the line is
// incomplete, records if it is not a known announcement.
func parseAnnouncement(line []byte) int32 {
	for i, b := range line {
		if b != '\n' {
			continue
		}
		word := string(line[:i])
		if i > 0 && line[i-1] == '\r' {
			word = string(line[:i-1])
		}
		switch word {
		case formatNames[bulk]:
			return bulk
		case formatNames[text]:
			return text
		}
		return records
	}
	if len(line) > len("bulk\r") {
		return records
	}
	return unknown
}
