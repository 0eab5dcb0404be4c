package export

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

const (
	// templatesEvery is the interval at which templates are repeated on transports that
	// lose messages, for receivers that join late (RFC 7011, section 8.4), and
	// statistics on all transports.
	templatesEvery = 10 * time.Second
	// earlyTemplates is how often they are sent at the beginning, a second apart: until
	// one arrives, collectors cannot decode any data.
	earlyTemplates = 3
	// tableLimit bounds the number of flows per second, which take about 12 MiB.
	tableLimit = 65_536
	// flowDelay is how long after the end of a second its flows are sent: packets take
	// some milliseconds from the kernel to the agent.
	flowDelay = 200 * time.Millisecond
	// streamMessage is the maximum length of a message on TCP and in files. With the
	// length of a TLS record, its overhead is low and it does not delay data for long.
	streamMessage = 16 << 10
	// maxBatch is the maximum number of bytes per call.
	maxBatch = 64_000
	// minRetry and maxRetry bound the pause after a failure. farewell is how long an
	// agent that is stopping waits for a receiver to take the rest.
	minRetry = 250 * time.Millisecond
	maxRetry = 10 * time.Second
	farewell = 2 * time.Second
	// complainEvery is the minimum interval between messages about datagrams that
	// cannot be sent.
	complainEvery = 30 * time.Second
)

// RecordReader is an export's position in the agent's stream.
type RecordReader interface {
	// Wait blocks until there is something to send. It returns io.EOF at the end of the
	// stream.
	Wait(context.Context) error
	// Items returns unread records, and Encoded the same as IPFIX data records, both as
	// the hub's readers do.
	Items() []wire.Record
	Encoded(format int) (buf []byte, ends []uint32)
	// Advance marks the first n of them as done; Disown marks n of those as not sent
	// after all.
	Advance(n int)
	Disown(n int)
	// Close counts unread records as lost.
	Close()
}

// Config configures an Exporter.
type Config struct {
	Target Target
	// Domain and PEN are those of ipfix.Writer.
	Domain, PEN uint32
	// Names identify what the domain observes, if collectors need to know.
	Names  ipfix.Names
	Reader RecordReader
	Format int // of Reader.Encoded
	// TLS returns the configuration for each connection. Valid iff Target.Kind is TLS.
	TLS func() (*tls.Config, error)
	// Lost returns the number of records lost by the reader so far, Ignored the number
	// of packets that were not captured.
	Lost, Ignored func() uint64
	// Peer is called with each address before anything is sent to it, so that the agent
	// does not report its own packets.
	Peer func(netip.AddrPort)
	// Listen is the address where repairs can be requested, "" for all addresses; Allow
	// reports whether a client may request them.
	Listen string
	Allow  func(netip.Addr) bool
	// Say prints messages for the user.
	Say func(format string, args ...any)
}

// Counts are the counters of an exporter.
type Counts struct {
	Messages uint64
	Records  uint64 // in messages that were sent
	Packets  uint64 // that those records stand for
	Failed   uint64 // flow records in messages that could not be sent; the reader counts those of single packets
	Repaired uint64 // messages that were sent again
	// Lost and Waiting are of the packets that the reader has delivered: those that were
	// neither sent nor spooled, or were damaged in the spool; and those in flows or messages
	// that are not sent yet.
	Lost, Waiting uint64
}

// Exporter is one export.
type Exporter struct {
	cfg    Config
	table  *flow.Table // nil if each packet has its own record
	cells  []byte      // data records of flows waiting to be sent
	ends   []uint32    // their ends; the first element is 0
	packs  []uint32    // the number of packets in each
	packed uint64      // the sum of packs
	msg    []byte
	repair *repairs // nil without the parameter repair

	queue   Spool           // nil if records wait in the reader's stream
	entry   []byte          // buffer for its entries
	filling context.Context // done once everything is in the spool
	filled  context.CancelFunc

	// numbered is the number of records that could not be sent but whose sequence
	// numbers receivers miss, so that they know of the loss. Owned by the goroutine of
	// Run.
	numbered uint64

	state    atomic.Pointer[string]
	reopen   atomic.Bool
	counters struct{ messages, records, packets, failed, lost, waiting atomic.Uint64 }

	said     string // the last failure reported
	complain time.Time
}

// New returns an exporter that does nothing until Run.
func New(cfg Config) *Exporter {
	e := &Exporter{cfg: cfg}
	e.setState("not yet begun")
	if cfg.Target.PerSecond {
		e.ends = []uint32{0}
		e.table = flow.New(tableLimit, e.emit)
	}
	if cfg.Target.Repair != 0 {
		e.repair = newRepairs(cfg.Allow)
	}
	return e
}

// SetSpool makes records wait for the receiver in s; call it before Run. Without a
// spool, they wait in the reader's stream. The target's Spools method must return true.
func (e *Exporter) SetSpool(s Spool) { e.queue = s }

// String returns the name of the export for messages.
func (e *Exporter) String() string { return "export " + e.cfg.Target.URL }

// State returns what the exporter is doing, in a few words.
func (e *Exporter) State() string { return *e.state.Load() }

// Failing returns why nothing is being delivered, or "".
func (e *Exporter) Failing() string {
	s := e.State()
	for _, fine := range []string{"open", "ended", "not yet begun"} {
		if strings.HasPrefix(s, fine) {
			return ""
		}
	}
	return s
}

func (e *Exporter) setState(s string) { e.state.Store(&s) }

// Counts returns the counters. It may be called concurrently.
func (e *Exporter) Counts() Counts {
	c := Counts{
		Messages: e.counters.messages.Load(), Records: e.counters.records.Load(),
		Packets: e.counters.packets.Load(), Failed: e.counters.failed.Load(),
		Lost: e.counters.lost.Load(), Waiting: e.counters.waiting.Load(),
	}
	if e.repair != nil {
		c.Repaired = e.repair.served.Load()
	}
	return c
}

// Reopen reopens a file, for log rotation.
func (e *Exporter) Reopen() {
	if e.cfg.Target.Kind == File {
		e.reopen.Store(true)
	}
}

// transport sends messages to the receiver.
type transport interface {
	io.Closer
	// send sends messages of equal length; the last may be shorter.
	send(messages []byte, length int) error
	// limit is the current maximum length of a message, batch the maximum number per
	// call.
	limit() int
	batch() int
	// lossy reports whether messages may be lost or reach a receiver that joined late.
	// A failure then concerns one message only.
	lossy() bool
	// expire makes writes fail from that time on.
	expire(time.Time)
}

// Run exports until the reader's stream ends, or until ctx is done while the receiver
// cannot be reached. It always returns nil.
func (e *Exporter) Run(ctx context.Context) error {
	defer e.cfg.Reader.Close()
	var serving sync.WaitGroup
	defer serving.Wait()
	if e.repair != nil {
		repairing, stop := context.WithCancel(context.Background())
		defer stop()
		serving.Go(func() { e.serveRepairs(repairing) })
	}
	if e.queue != nil {
		e.filling, e.filled = context.WithCancel(context.Background())
		serving.Go(e.fill)
	}
	pause := time.Duration(0)
	for {
		t, err := e.open(ctx)
		if err == nil {
			e.said = ""
			e.cfg.Say("%v: open", e)
			e.setState("open")
			began := time.Now()
			err = e.session(ctx, t)
			t.Close()
			if errors.Is(err, io.EOF) {
				e.setState("ended")
				return nil
			}
			if time.Since(began) > maxRetry || errors.Is(err, errReopen) {
				pause = 0
			}
		}
		if ctx.Err() != nil {
			e.setState("ended: " + failure(err))
			return nil
		}
		if errors.Is(err, errReopen) {
			continue
		}
		e.setState(failure(err))
		if text := failure(err); text != e.said {
			e.said = text
			e.cfg.Say("%v: %s; trying again, at longest every 10 s", e, text)
		}
		pause = min(max(2*pause, minRetry), maxRetry)
		sleep(ctx, pause/2+rand.N(pause/2+1))
	}
}

var errReopen = errors.New("to be opened anew")

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// session sends until the transport fails, or the stream ends (io.EOF).
func (e *Exporter) session(ctx context.Context, t transport) error {
	defer context.AfterFunc(ctx, func() { t.expire(time.Now().Add(farewell)) })()
	s := session{e: e, t: t, writer: ipfix.Writer{Domain: e.cfg.Domain, PEN: e.cfg.PEN, RepairPort: e.cfg.Target.Repair, Names: e.cfg.Names}}
	if u, ok := t.(*datagrams); ok && e.repair != nil {
		e.repair.begin(u.localPort())
	}
	if e.queue != nil {
		return s.forward(ctx)
	}
	for {
		if err := s.announce(time.Now()); err != nil {
			return err
		}
		if e.reopen.Swap(false) {
			return errReopen
		}
		ended, err := s.wait()
		if err == nil {
			if e.table != nil {
				err = s.sendFlows(ended)
			} else {
				err = s.sendPackets()
			}
		}
		if err == nil && ended {
			s.due = time.Time{}
			err = s.announce(time.Now()) // the final counts
			if err == nil {
				err = io.EOF
			}
		}
		if err != nil {
			return err
		}
	}
}

// session is one transport session (RFC 7011, section 2).
type session struct {
	e      *Exporter
	t      transport
	writer ipfix.Writer
	begun  int       // how often templates have been sent
	due    time.Time // time of the next announcement
	unseen uint64    // records that could not be sent since the last message, so that no receiver can know of them
	deaf   bool      // nobody listens at the datagrams' destination

	// For data from the spool.
	entry  []byte
	ends   []uint32
	flight []flown   // oldest first
	ending time.Time // when the agent was first seen to be stopping
}

// announce sends templates and statistics if they are due.
func (s *session) announce(now time.Time) error {
	if now.Before(s.due) {
		return nil
	}
	if d, ok := s.t.(*datagrams); ok {
		s.listen(d)
	}
	s.due = now.Add(templatesEvery)
	if s.t.lossy() && s.begun < earlyTemplates-1 {
		s.due = now.Add(time.Second)
	}
	if s.begun == 0 || s.t.lossy() {
		if _, err := s.write(one(s.writer.Templates(s.e.msg[:0], now), 0), 0); err != nil {
			return err
		}
		s.begun++
	}
	cfg := &s.e.cfg
	msg := s.writer.Statistics(s.e.msg[:0], now, ipfix.Statistics{
		NotSent: cfg.Lost() + s.e.counters.failed.Load() - s.e.numbered, Ignored: cfg.Ignored(),
	})
	_, err := s.write(one(msg, 0), 0)
	return err
}

// listen reports when datagrams sent since the last announcement have been rejected
// (ICMP port unreachable), and when that stops. They are sent regardless.
func (s *session) listen(d *datagrams) {
	deaf := d.refused
	d.refused = false
	switch e := s.e; {
	case deaf && !s.deaf:
		e.setState("open, but nobody listens there")
		e.cfg.Say("%v: nobody listens there; sending all the same", e)
	case !deaf && s.deaf:
		e.setState("open")
		e.cfg.Say("%v: somebody listens now", e)
	}
	s.deaf = deaf
}

// wait waits for records, or until something else is due. ended reports that the stream
// has ended and the remaining flows must be sent.
func (s *session) wait() (ended bool, err error) {
	until := s.due
	if s.e.table != nil || s.e.cfg.Target.Kind == File {
		until = time.Now().Add(flowDelay)
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	err = s.e.cfg.Reader.Wait(ctx)
	switch {
	case errors.Is(err, io.EOF):
		return true, nil
	case errors.Is(err, context.DeadlineExceeded):
		return false, nil
	}
	return false, err
}

// sendPackets sends one record per available packet.
func (s *session) sendPackets() error {
	r := s.e.cfg.Reader
	for {
		buf, ends := r.Encoded(s.e.cfg.Format)
		if len(ends) == 0 {
			return nil
		}
		now := time.Now()
		b := batch{buf: s.e.msg[:0]}
		n := 0
		for b.fits(s.t) && n < len(ends)-1 {
			before, k := len(b.buf), 0
			rest := ends[n:]
			if b.buf, k = s.writer.Message(b.buf, now, b.limit(s.t), buf[rest[0]-ends[0]:], rest); k == 0 {
				break // the next record would make the message longer than those before
			}
			n += k
			b.add(len(b.buf)-before, expressed(rest[:k+1]))
		}
		waiting := &s.e.counters.waiting
		waiting.Store(uint64(b.records)) // sending may take a while
		r.Advance(n)
		sent, err := s.write(&b, b.records)
		waiting.Store(0)
		if !sent {
			r.Disown(b.records)
		}
		if err == nil {
			err = s.announce(now)
		}
		if err != nil {
			return err
		}
	}
}

// batch is a group of messages sent in one call. All have the same length except the
// last, which may be shorter.
type batch struct {
	buf      []byte
	length   int // of the first
	messages int
	records  int
	full     bool // the last one is shorter
}

// fits reports whether another message may be added.
func (b *batch) fits(t transport) bool {
	return b.messages == 0 || !b.full && b.messages < t.batch() && len(b.buf)+b.length <= maxBatch
}

// limit returns the maximum length of the next message.
func (b *batch) limit(t transport) int {
	if b.messages == 0 {
		return t.limit()
	}
	return b.length
}

func (b *batch) add(length, records int) {
	if length == 0 {
		return // nothing that IPFIX can represent
	}
	if b.messages == 0 {
		b.length = length
	}
	b.messages++
	b.records += records
	b.full = length < b.length
}

// one returns a batch of one message.
func one(msg []byte, records int) *batch {
	return &batch{buf: msg, length: len(msg), messages: 1, records: records}
}

// expressed returns the number of items that are not empty.
func expressed(ends []uint32) (n int) {
	for i := 1; i < len(ends); i++ {
		if ends[i] != ends[i-1] {
			n++
		}
	}
	return n
}

// sendFlows aggregates the available records, and sends the flows of completed seconds,
// or all flows.
func (s *session) sendFlows(all bool) error {
	e := s.e
	for {
		items := e.cfg.Reader.Items()
		for i := range items {
			e.table.Add(&items[i])
		}
		e.cfg.Reader.Advance(len(items))
		e.note()
		if len(items) == 0 {
			break
		}
		if err := s.sendCells(); err != nil { // there are some if the table was full
			return err
		}
	}
	e.flush(all)
	return s.sendCells()
}

// flush removes the flows of completed seconds, or all flows, from the table.
func (e *Exporter) flush(all bool) {
	if all {
		e.table.Flush()
	} else {
		e.table.FlushBefore(time.Now().Add(-flowDelay).UnixNano())
	}
}

// emit encodes a flow from the table.
func (e *Exporter) emit(f *flow.Flow) {
	var ok bool
	if f.Flags&wire.HostStat != 0 {
		e.cells, ok = ipfix.Append(e.cells, &f.Record)
	} else {
		e.cells, ok = ipfix.AppendFlow(e.cells, &f.Record, f.Packets, f.End)
	}
	if !ok { // before 1970
		e.counters.failed.Add(1)
		e.counters.lost.Add(uint64(f.Packets))
		return
	}
	e.packed += uint64(f.Packets)
	e.ends = append(e.ends, uint32(len(e.cells)))
	e.packs = append(e.packs, f.Packets)
}

// note makes the number of packets that are not sent yet available to Counts.
func (e *Exporter) note() { e.counters.waiting.Store(e.table.Packets() + e.packed) }

// unpack removes the first n cells, which stand for the given number of packets.
func (e *Exporter) unpack(n int, packets uint64) {
	e.ends, e.packs = e.ends[n:], e.packs[n:]
	e.packed -= packets
	e.note()
}

// sendCells sends the waiting flows. Those that could not be sent on a stream are sent
// in the next session.
func (s *session) sendCells() error {
	e := s.e
	for len(e.ends) > 1 {
		msg, n := s.writer.Message(e.msg[:0], time.Now(), s.t.limit(), e.cells[e.ends[0]:], e.ends)
		packets := sum(e.packs[:n])
		sent, err := s.write(one(msg, n), int(packets))
		e.unpack(n, packets)
		if !sent {
			e.counters.failed.Add(uint64(n))
			e.counters.lost.Add(packets)
		}
		if err != nil {
			return err
		}
	}
	e.cells, e.ends, e.packs = e.cells[:0], append(e.ends[:0], 0), e.packs[:0]
	return nil
}

// write sends messages and counts them. An error ends the session. Without an error,
// messages may still have been lost.
func (s *session) write(b *batch, packets int) (sent bool, err error) {
	e := s.e
	e.msg = b.buf[:0]
	if b.messages == 0 {
		return true, nil
	}
	if e.repair != nil {
		for rest := b.buf; len(rest) > 0; {
			n := min(b.length, len(rest))
			e.repair.keep(rest[:n])
			rest = rest[n:]
		}
	}
	if err := s.t.send(b.buf, b.length); err != nil {
		if !s.t.lossy() || errors.Is(err, os.ErrDeadlineExceeded) {
			return false, err
		}
		if s.unseen += uint64(b.records); pathGone(err) {
			return false, err
		}
		if now := time.Now(); now.Sub(e.complain) >= complainEvery {
			e.complain = now
			e.cfg.Say("%v: a message could not be sent: %s", e, failure(err))
		}
		return false, nil
	}
	e.numbered, s.unseen = e.numbered+s.unseen, 0
	e.counters.messages.Add(uint64(b.messages))
	e.counters.records.Add(uint64(b.records))
	e.counters.packets.Add(uint64(packets))
	return true, nil
}

// failure returns the cause of an error without the addresses, which the user already
// knows.
func failure(err error) string {
	if err == nil {
		return "ended"
	}
	return fault.Cause(err)
}
