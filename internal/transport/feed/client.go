package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// Defaults of a client's configuration.
const (
	defaultMinRetry    = 250 * time.Millisecond
	defaultMaxRetry    = 10 * time.Second
	defaultDialTimeout = 5 * time.Second
)

const (
	// readSize is the maximum number of bytes read at once: a whole write of an agent
	// of ours in bulk.
	readSize = 64 << 10
	// batchSize is the maximum number of records passed on at once. At 72 bytes each,
	// they stay in the first-level cache and add 18 KiB to a client.
	batchSize = 256
)

// refusalTime is how long an agent may take to verify our certificate, beyond the time
// of two handshakes.
const refusalTime = 250 * time.Millisecond

// announcement requests large writes from an agent of ours. A C agent never reads it.
// With ClientConfig.Number, a second line requests the records' numbers; agents that do
// not support it ignore it.
const (
	announcement = "bulk\n"
	numbersLine  = "numbers"
)

// keepAlive detects within 30 s (idle + count x interval) that a silent host is gone;
// without it, a host that lost power would look idle forever.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     10 * time.Second,
	Interval: 5 * time.Second,
	Count:    4,
}

// DeadAfter is the time after which a host that has become silent is found to be gone.
const DeadAfter = 30 * time.Second

var (
	// ErrClosed: the agent closed the connection properly.
	ErrClosed = errors.New("closed by the agent")
	// ErrCut: the connection ended in the middle of a record.
	ErrCut = errors.New("closed by the agent in the middle of a record")
	// ErrUnfinished: the connection ended without TLS's closing message, as when an
	// agent is killed or the connection is cut in between.
	ErrUnfinished = errors.New("cut off")
	// ErrTLS: one side rejects the other's certificate, or there is no TLS. The error's
	// text is complete.
	ErrTLS = errTLS
	// ErrNotRecords: most of what arrives is not 28-byte records or, if IPFIX was
	// requested, it is not an IPFIX message.
	ErrNotRecords = errors.New("this is no agent")
)

// ClientConfig configures a Client.
type ClientConfig struct {
	// Address is host:port. A host name is looked up at each connection attempt.
	Address string
	// TLS returns the configuration for each connection attempt; nil selects the plain
	// feed.
	TLS func() (*tls.Config, error)
	// IPFIX means that the agent sends IPFIX instead of 28-byte records. PEN is the
	// enterprise number of its own elements, 0 for ipfix.DefaultPEN.
	IPFIX bool
	PEN   uint32
	// Records is called with records in the order of their arrival, from Run. The
	// client reuses the slice after the call. While the call blocks, nothing is read,
	// which eventually stalls a C agent.
	Records func([]wire.Record)
	// Number, if not nil, is called with the number of the next record and the agent's
	// boot (see wire.AppendMark). With boot 0, the next records have no numbers. The
	// records of a connection have no numbers until it is called.
	Number func(boot, number uint64)
	// State, if not nil, is called for each change, from Run.
	State func(ClientState)
	// MinRetry and MaxRetry bound the pause between two connection attempts,
	// DialTimeout one attempt with its name lookup. Zero means 0.25 s, 10 s, and 5 s.
	MinRetry, MaxRetry, DialTimeout time.Duration
}

// ClientPhase is what a client is doing.
type ClientPhase uint8

const (
	// Dialling: looking up the name, or connecting.
	Dialling ClientPhase = iota
	// Connected: records are received whenever there are any.
	Connected
	// Unreachable: the attempt failed; another one follows.
	Unreachable
	// Lost: the connection ended; an attempt follows.
	Lost
)

func (p ClientPhase) String() string {
	switch p {
	case Dialling:
		return "dialling"
	case Connected:
		return "connected"
	case Unreachable:
		return "unreachable"
	case Lost:
		return "lost"
	}
	return fmt.Sprintf("phase %d", uint8(p))
}

// ClientState is a client's phase and its details.
type ClientState struct {
	Phase ClientPhase
	// Peer is the agent's address. Valid iff Phase is Connected.
	Peer net.Addr
	// Err is the reason. Valid iff Phase is Unreachable or Lost.
	Err error
	// Retry is the pause before the next attempt. Valid iff Err is.
	Retry time.Duration
}

// Client maintains a connection to one agent indefinitely.
type Client struct {
	cfg   ClientConfig
	pause dialPause
	buf   []byte        // nil until the first connection
	batch []wire.Record // likewise

	decoder *ipfix.Decoder // of this connection, nil without IPFIX
	sense   sense          // detects a stream that is not 28-byte records
	losses  losses
}

// NewClient returns a client that has not connected yet.
func NewClient(cfg ClientConfig) *Client {
	if cfg.MinRetry == 0 {
		cfg.MinRetry = defaultMinRetry
	}
	if cfg.MaxRetry == 0 {
		cfg.MaxRetry = defaultMaxRetry
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = defaultDialTimeout
	}
	return &Client{cfg: cfg, pause: dialPause{min: cfg.MinRetry, max: cfg.MaxRetry}}
}

// String returns the client's name for messages.
func (c *Client) String() string { return "agent " + c.cfg.Address }

// Run connects, receives, and reconnects until ctx is done. It always returns nil.
func (c *Client) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		c.tell(ClientState{Phase: Dialling})
		state := c.connect(ctx)
		if ctx.Err() != nil {
			break
		}
		state.Retry = c.pause.next()
		c.tell(state)
		sleep(ctx, state.Retry)
	}
	return nil
}

func (c *Client) tell(s ClientState) {
	if c.cfg.State != nil {
		c.cfg.State(s)
	}
}

// connect makes one attempt and serves the resulting connection, if any. It returns how
// that ended.
func (c *Client) connect(ctx context.Context) ClientState {
	conn, err := c.dial(ctx)
	if err != nil {
		return ClientState{Phase: Unreachable, Err: err}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if c.buf == nil {
		c.buf = make([]byte, readSize)
		c.batch = make([]wire.Record, batchSize)
	}
	if c.cfg.IPFIX {
		c.decoder = &ipfix.Decoder{PEN: c.cfg.PEN}
		defer c.losses.settle()
	}
	c.sense = sense{}
	stream, have, err := c.greet(ctx, conn)
	if err != nil {
		return ClientState{Phase: Unreachable, Err: err}
	}
	c.tell(ClientState{Phase: Connected, Peer: conn.RemoteAddr()})
	return ClientState{Phase: Lost, Err: c.talk(stream, have)}
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: c.cfg.DialTimeout, KeepAliveConfig: keepAlive}
	return dialer.DialContext(ctx, "tcp", c.cfg.Address)
}

// greet does everything that precedes records: the announcement, and the TLS handshake
// if there is one. It returns the stream, and the number of its bytes that are already
// in c.buf.
//
// The agent verifies our certificate after our side of the handshake is complete (RFC
// 8446, section 2), and sends nothing if it accepts it. So a TLS connection counts as
// established only if no rejection arrives within the time that it would take.
func (c *Client) greet(ctx context.Context, conn net.Conn) (stream net.Conn, have int, err error) {
	if c.cfg.TLS == nil {
		// If the connection fails here, reading from it fails too, with a better error:
		// the peer's last words may still be waiting.
		c.announce(conn)
		return conn, 0, nil
	}
	cfg, err := c.cfg.TLS()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrTLS, err)
	}
	start := time.Now()
	limited, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	session := tls.Client(conn, cfg)
	if err := session.HandshakeContext(limited); err != nil {
		return nil, 0, tlsError("%s", clientSide(err))
	}
	c.announce(session)
	session.SetReadDeadline(time.Now().Add(2*time.Since(start) + refusalTime))
	have, err = session.Read(c.buf)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, 0, tlsError("%s", clientSide(err))
	}
	return session, have, session.SetReadDeadline(time.Time{})
}

// announce sends what we want. An IPFIX exporter expects nothing.
func (c *Client) announce(w io.Writer) {
	if c.cfg.IPFIX {
		return
	}
	words := announcement
	if c.cfg.Number != nil {
		words += numbersLine + "\n"
	}
	io.WriteString(w, words)
}

// talk receives until the connection ends.
func (c *Client) talk(conn net.Conn, have int) error {
	start := time.Now()
	delivered, err := c.receive(conn, have)
	proven := delivered || time.Since(start) >= c.cfg.MaxRetry
	if proven && !errors.Is(err, ErrNotRecords) {
		c.pause.reset()
	}
	return err
}

// receive passes on records until the stream ends or is invalid, and reports whether
// there were any. The stream's first bytes are already in c.buf.
func (c *Client) receive(r io.Reader, have int) (delivered bool, err error) {
	for first := have > 0; ; first = false {
		var n int
		var readErr error
		if !first {
			n, readErr = r.Read(c.buf[have:])
		}
		have += n
		used, err := c.deliver(c.buf[:have])
		delivered = delivered || used > 0 && !errors.Is(err, ErrNotRecords)
		have = copy(c.buf, c.buf[used:have])
		if err == nil && readErr != nil {
			err = c.sense.verdict(1)
		}
		switch {
		case err != nil:
			return delivered, err
		case readErr == io.EOF && have > 0, errors.Is(readErr, io.ErrUnexpectedEOF) && have > 0:
			return delivered, ErrCut
		case errors.Is(readErr, io.ErrUnexpectedEOF):
			return delivered, ErrUnfinished
		case readErr == io.EOF:
			return delivered, ErrClosed
		case readErr != nil:
			return delivered, readErr
		}
	}
}

// deliver passes on the whole records in b and returns the number of bytes used.
// Invalid records are counted and skipped, unless most are invalid.
func (c *Client) deliver(b []byte) (used int, err error) {
	if c.decoder != nil {
		return c.deliverMessages(b)
	}
	for err == nil && len(b)-used >= wire.Size {
		var bad error
		n := 0
		for n < len(c.batch) && len(b)-used >= wire.Size && bad == nil {
			if bad = wire.DecodeBinary(b[used:], &c.batch[n]); bad == nil {
				c.sense.seeRecord(nil)
				used += wire.Size
				n++
			}
		}
		if n > 0 {
			c.cfg.Records(c.batch[:n])
		}
		if bad != nil {
			err = c.noRecord(b[used:], bad)
			used += wire.Size
		}
	}
	return used, err
}

// noRecord handles 28 bytes that are a mark or invalid.
func (c *Client) noRecord(b []byte, bad error) error {
	boot, number, ok := wire.ParseMark(b)
	if c.cfg.Number != nil {
		c.cfg.Number(boot, number)
	}
	if ok {
		return nil
	}
	c.sense.seeRecord(bad)
	c.losses.malformed.Add(1)
	return c.sense.verdict(judgeFrom)
}

// judgeFrom is the number of records after which a stream is judged while it continues.
// A stream that has ended is judged by what there was.
const judgeFrom = 16

// sense distinguishes a stream with a few invalid records from one that does not come
// from an agent, by its last 64 records.
type sense struct {
	bad  uint64 // the last records, the newest in the lowest bit: 1 means invalid
	seen int    // number of valid bits, at most 64
	why  error  // the reason for the last invalid one
}

// seeRecord adds the next record; bad is what is wrong with it, or nil.
func (s *sense) seeRecord(bad error) {
	s.seen = min(s.seen+1, 64)
	s.bad <<= 1
	if bad != nil {
		s.bad |= 1
		s.why = bad
	}
}

// verdict returns ErrNotRecords if at least this many records have been seen and more
// than half of the last ones are invalid.
func (s *sense) verdict(least int) error {
	if s.seen < least || 2*bits.OnesCount64(s.bad) <= s.seen {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrNotRecords, s.why)
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// dialPause yields pauses that double from min to max. Each is random within the upper
// half of its step, so that many collectors of an agent that returns, or the clients of
// one collector, do not connect at the same instant.
type dialPause struct {
	min, max time.Duration
	step     time.Duration // upper bound of the last pause, 0 before the first
}

func (b *dialPause) next() time.Duration {
	b.step = min(max(2*b.step, 2*b.min), b.max)
	low := max(b.step/2, min(b.min, b.max))
	return low + rand.N(b.step-low+1)
}

func (b *dialPause) reset() { b.step = 0 }
