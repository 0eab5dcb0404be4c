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

// What a client does unless its configuration says otherwise.
const (
	defaultMinRetry    = 250 * time.Millisecond
	defaultMaxRetry    = 10 * time.Second
	defaultDialTimeout = 5 * time.Second
)

const (
	// readSize is the most bytes taken from the kernel at once: a whole write
	// of an agent of ours in bulk.
	readSize = 64 << 10
	// batchSize is the most records handed over at once. At 72 bytes each it
	// stays in the first-level cache and adds 18 KiB to a client.
	batchSize = 256
)

// refusalTime is how long an agent may take to look at our certificate, beyond
// the time for two handshakes.
const refusalTime = 250 * time.Millisecond

// announcement asks an agent of ours for large writes. A C agent never reads.
// With ClientConfig.Number, a second line asks for the records' numbers; an agent that knows none
// ignores it.
const (
	announcement = "bulk\n"
	numbersLine  = "numbers"
)

// keepAlive finds out within 30 s (idle + count x interval) that a silent
// host is gone; without it a host that lost its power looks idle forever.
var keepAlive = net.KeepAliveConfig{
	Enable:   true,
	Idle:     10 * time.Second,
	Interval: 5 * time.Second,
	Count:    4,
}

// DeadAfter is how long after its last word a host that is gone is found to be.
const DeadAfter = 30 * time.Second

var (
	// ErrClosed: the agent ended the connection in the orderly way.
	ErrClosed = errors.New("closed by the agent")
	// ErrCut: the connection ended in the middle of a record.
	ErrCut = errors.New("closed by the agent in the middle of a record")
	// ErrUnfinished: the connection ended without TLS's word that this is all,
	// as when an agent is killed, or someone on the way cuts it.
	ErrUnfinished = errors.New("cut off")
	// ErrTLS: one side does not take the other's certificate, or there is no
	// TLS. The error's text is complete.
	ErrTLS = errTLS
	// ErrNotRecords: most of what arrives are no 28-byte records, or it is no
	// IPFIX message if that was asked for.
	ErrNotRecords = errors.New("this is no agent")
)

// ClientConfig says which agent a Client dials and who takes its records.
type ClientConfig struct {
	// Address is host:port. A host name is looked up at each dial.
	Address string
	// TLS gives the configuration for each dial; nil is the plain feed.
	TLS func() (*tls.Config, error)
	// IPFIX is what the agent speaks, instead of 28-byte records; PEN is the
	// enterprise number of its own elements, 0 for ipfix.DefaultPEN.
	IPFIX bool
	PEN   uint32
	// Records takes records in the order of their arrival. It is called from
	// Run; the slice belongs to the client and is used again after the call.
	// While it blocks nothing is read, which in the end stops a C agent.
	Records func([]wire.Record)
	// Number, unless it is nil, is told the number of the next record, and the agent's boot
	// (see wire.AppendMark), or boot 0: the next have none. Before it is called the records
	// of a connection have none.
	Number func(boot, number uint64)
	// State is told each change, from Run, unless it is nil.
	State func(ClientState)
	// MinRetry and MaxRetry bound the pause between two dials, DialTimeout one
	// dial with its name lookup. Zero means 0.25 s, 10 s and 5 s.
	MinRetry, MaxRetry, DialTimeout time.Duration
}

// ClientPhase is what a client is doing.
type ClientPhase uint8

const (
	// Dialling: looking the name up or connecting.
	Dialling ClientPhase = iota
	// Connected: records arrive when there are any.
	Connected
	// Unreachable: the dial failed; another follows.
	Unreachable
	// Lost: the connection ended; a dial follows.
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

// ClientState is a client's phase and what belongs to it.
type ClientState struct {
	Phase ClientPhase
	// Peer is the agent's address. Valid iff Phase is Connected.
	Peer net.Addr
	// Err is why. Valid iff Phase is Unreachable or Lost.
	Err error
	// Retry is how long the client pauses now. Valid iff Err is.
	Retry time.Duration
}

// Client keeps one connection to one agent, forever.
type Client struct {
	cfg   ClientConfig
	pause dialPause
	buf   []byte        // nil until the first connection
	batch []wire.Record // likewise

	decoder *ipfix.Decoder // of this connection, nil without IPFIX
	sense   sense          // of this connection's 28-byte records
	losses  losses
}

// NewClient returns a client that has not dialled yet.
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

// String names the client in a log.
func (c *Client) String() string { return "agent " + c.cfg.Address }

// Run dials, receives, and dials again until ctx is done. It returns nil then;
// there is no other end.
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

// connect is one dial and the connection it may give, and says how that ended.
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

// greet does what comes before records: the announcement, and with TLS the
// handshake. It gives the stream, and how many of its bytes are in c.buf.
//
// The agent looks at our certificate after our side of the handshake is over
// (RFC 8446, section 2), and says nothing if it likes it. So a connection counts
// only if no refusal came in the time that it would take.
func (c *Client) greet(ctx context.Context, conn net.Conn) (stream net.Conn, have int, err error) {
	if c.cfg.TLS == nil {
		// A connection that fails here fails the read too, which knows the
		// cause better: the peer's last words may still be waiting.
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

// announce says what we want. An exporter of IPFIX expects no word.
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

// receive hands over records until the stream ends or makes no sense, and says
// whether there was any. The stream's first bytes are in c.buf already.
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

// deliver hands over the whole records in b and says how many bytes they were.
// Records that make no sense are counted and left out, until they are most.
func (c *Client) deliver(b []byte) (used int, err error) {
	if c.decoder != nil {
		return c.deliverMessages(b)
	}
	for err == nil && len(b)-used >= wire.Size {
		var bad error
		n := 0
		for n < len(c.batch) && len(b)-used >= wire.Size && bad == nil {
			if bad = wire.DecodeBinary(b[used:], &c.batch[n]); bad == nil {
				c.sense.see(nil)
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

// noRecord takes 28 bytes that are a mark, or make no sense.
func (c *Client) noRecord(b []byte, bad error) error {
	boot, number, ok := wire.ParseMark(b)
	if c.cfg.Number != nil {
		c.cfg.Number(boot, number)
	}
	if ok {
		return nil
	}
	c.sense.see(bad)
	c.losses.malformed.Add(1)
	return c.sense.verdict(judgeFrom)
}

// judgeFrom is after how many records a stream is judged that goes on. One that
// has ended is judged by what there was.
const judgeFrom = 16

// sense tells a stream with a few bad records from one that is no agent's, by
// its last 64 records.
type sense struct {
	bad  uint64 // the last records, the newest in the lowest bit: 1 is a bad one
	seen int    // how many of the bits count, at most 64
	why  error  // of the last bad one
}

// see takes the next record; bad is what is wrong with it, or nil.
func (s *sense) see(bad error) {
	s.seen = min(s.seen+1, 64)
	s.bad <<= 1
	if bad != nil {
		s.bad |= 1
		s.why = bad
	}
}

// verdict is an ErrNotRecords if more than half of the last records are bad, and
// there were at least so many.
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

// dialPause gives pauses that double from min to max. Each is drawn from the
// upper half of its step, so that many collectors whose agent returns, or one
// collector's many agents, do not dial in the same instant.
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
