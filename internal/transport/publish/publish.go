// Package publish sends the records of an agent to a bus, in numbered batches. Each
// export reads the agent's stream independently and delays no other; what it is too
// slow for is lost, and counted.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

const (
	// batchRecords is the size of a full batch, batchAge how long a record waits for
	// others.
	batchRecords = 1000
	batchAge     = 150 * time.Millisecond
	// tableLimit and flowDelay are as in package export.
	tableLimit = 65_536
	flowDelay  = 200 * time.Millisecond
)

// PacketReader is an export's position in the agent's stream, implemented by the hub's
// readers.
type PacketReader interface {
	// Wait blocks until there are Items. It returns io.EOF at the end of the stream.
	Wait(context.Context) error
	Items() []wire.Record
	// Advance marks the first n of them as done.
	Advance(n int)
	// Close counts unread items as lost.
	Close()
}

// Config configures an Exporter.
type Config struct {
	Bus bus.Config
	// Agent is the agent's name in the batches.
	Agent string
	// PerSecond means one record per flow and second instead of one per packet.
	PerSecond bool
	Reader    PacketReader
	// Lost returns the number of packets lost by the reader so far.
	Lost func() uint64
}

// Counts are the counters of an exporter.
type Counts struct {
	// Batches, Records, and Packets were acknowledged by the bus since the exporter was
	// created, including some queued by an earlier process.
	Batches, Records, Packets uint64
	// Refused are packets from before 1970, and host statistics, which batches do not
	// contain.
	Refused uint64
	// GivenUp are packets dropped to make room in memory, where they wait without a
	// spool, or because the bus cannot take them. Waiting are those waiting in memory.
	GivenUp, Waiting uint64
}

// Exporter is one export.
type Exporter struct {
	cfg    Config
	queue  bus.Queue // nil for a queue in memory
	spool  Spool     // the same, nil without one
	to     *bus.Publisher
	out    batch.Batch
	since  time.Time // when out got its first record
	packed uint64    // packets in out
	table  *flow.Table
	seen   uint64 // of Config.Lost
	lost   uint64 // packets lost before those in out, which are in no batch

	conn      atomic.Pointer[bus.Conn]
	publisher atomic.Pointer[bus.Publisher]
	waiting   atomic.Uint64 // packets in flows that are not over, and in out
	refused   atomic.Uint64
}

// Spool is a queue that outlives the process.
type Spool interface {
	bus.Queue
	// GivenUp returns how many of the packets appended since it was opened have been
	// dropped.
	GivenUp() uint64
}

// New returns an exporter. It does nothing until Run.
func New(cfg Config) *Exporter {
	e := &Exporter{cfg: cfg}
	e.out = batch.Batch{Agent: cfg.Agent, Boot: rand.Uint64()}
	if cfg.PerSecond {
		e.out.Level = batch.Flows
		e.table = flow.New(tableLimit, func(f *flow.Flow) { e.append(&f.Record) })
	}
	return e
}

// SetSpool makes batches wait in s for the bus. It must be called before Run.
func (e *Exporter) SetSpool(s Spool) { e.queue, e.spool = s, s }

// String returns the export's name for messages.
func (e *Exporter) String() string { return fmt.Sprintf("export %v", e.cfg.Bus.Target) }

// State returns what the exporter is doing, in a few words.
func (e *Exporter) State() string {
	switch c := e.conn.Load(); {
	case c == nil:
		return "not yet begun"
	case c.Connected():
		return "open"
	}
	return "away"
}

// Failing returns why nothing is being delivered, or "".
func (e *Exporter) Failing() string {
	if c := e.conn.Load(); c != nil && !c.Connected() {
		return "the bus is away"
	}
	return ""
}

// Counts returns the counters. It may be called concurrently.
func (e *Exporter) Counts() Counts {
	c := Counts{Refused: e.refused.Load(), Waiting: e.waiting.Load()}
	p := e.publisher.Load()
	if p == nil {
		return c
	}
	s := p.Status()
	c.Batches, c.Records, c.Packets = s.Batches, s.Acknowledged, s.Packets
	c.GivenUp = s.DroppedPackets
	c.Waiting += s.WaitingPackets
	return c
}

// note makes the number of packets that are not in the queue yet available to Counts.
func (e *Exporter) note() {
	n := e.packed
	if e.table != nil {
		n += e.table.Packets()
	}
	e.waiting.Store(n)
}

// Run exports until the reader's stream ends, and then, for some seconds, what is left.
// It fails only if files for the connection cannot be used.
func (e *Exporter) Run(context.Context) error {
	defer e.cfg.Reader.Close()
	conn, err := bus.Connect(e.cfg.Bus)
	if err != nil {
		return err
	}
	defer conn.Close()
	publisher := bus.NewPublisher(conn, bus.PublisherConfig{Queue: e.queue})
	e.to = publisher
	e.publisher.Store(publisher)
	e.conn.Store(conn)
	publishing, filled := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error {
		defer filled()
		e.fill()
		return nil
	})
	g.Go(func() error { return publisher.Run(publishing) })
	return g.Wait()
}

// fill publishes the reader's stream until it ends.
func (e *Exporter) fill() {
	for {
		wait, cancel := context.WithTimeout(context.Background(), batchAge)
		ended := errors.Is(e.cfg.Reader.Wait(wait), io.EOF)
		cancel()
		now := time.Now()
		e.takeRecords()
		switch {
		case e.table == nil:
		case ended:
			e.table.Flush()
		default:
			e.table.FlushBefore(now.Add(-flowDelay).UnixNano())
		}
		if ended || now.Sub(e.since) >= batchAge {
			e.flush()
		}
		e.note()
		if ended {
			return
		}
	}
}

// takeRecords reads everything available from the reader.
func (e *Exporter) takeRecords() {
	for items := e.cfg.Reader.Items(); len(items) > 0; items = e.cfg.Reader.Items() {
		if lost := e.cfg.Lost(); lost > e.seen { // they precede these items
			e.flush()
			e.lost += lost - e.seen
			e.seen = lost
		}
		for i := range items {
			e.record(&items[i])
		}
		e.cfg.Reader.Advance(len(items))
	}
}

func (e *Exporter) record(r *wire.Record) {
	switch {
	case r.Flags&wire.HostStat != 0: // batches do not contain them
		e.refused.Add(1)
	case r.Time < 0:
		e.refused.Add(1)
		e.flush()
		e.lost++
	case e.table != nil:
		e.table.Add(r)
	default:
		e.append(r)
	}
}

// append adds a record to the batch, which is published when it is full.
func (e *Exporter) append(r *wire.Record) {
	if len(e.out.Records) == 0 {
		e.since = time.Now()
	}
	e.out.Records = append(e.out.Records, *r)
	e.packed += r.Count()
	if len(e.out.Records) >= batchRecords {
		e.flush()
	}
}

// flush publishes the current batch. Losses of a spool leave gaps in the numbers;
// packets that never reached it have no numbers.
func (e *Exporter) flush() {
	if len(e.out.Records) == 0 {
		return
	}
	e.out.Dropped = e.lost
	if e.spool != nil {
		e.out.Dropped += e.spool.GivenUp()
	}
	e.to.Publish(&e.out)
	e.out.First = e.out.Next()
	e.out.Records, e.packed = e.out.Records[:0], 0
}
