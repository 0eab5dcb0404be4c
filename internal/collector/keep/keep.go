// Package keep assembles what recollect does with records beyond showing them: a
// bus, a server's or one in this process; batches that go to it; a history that is
// written from it, alone or together with others; and which agents are ours.
package keep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/bus/embedded"
	"github.com/pcapper/pcapper/internal/transport/clickhouse"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire/batch"
)

// Config of a Keeper.
type Config struct {
	// Dir has the history in "records", and in "bus" the streams of a bus in this
	// process, if URL is "". Dir "" is no history.
	Dir string
	// URL is the bus of others, as bus.Parse reads it. Dir and URL are not both "".
	URL string
	// Keep is what the history keeps.
	Keep history.Keep
	// Collect: there are agents, whose batches are published.
	Collect bool
	// Spool is where batches wait while the bus at URL is away; without a Dir they
	// do in memory. With Collect only.
	Spool spool.Spec
	// Table, if it is not nil, also gets all that is on the bus of others, from writers
	// of their own.
	Table *clickhouse.Store
	// Say takes messages for the user.
	Say func(format string, args ...any)
}

const (
	// The streams of a bus in this process hold what is not in the history yet:
	// an eighth of what that may be, within these bounds.
	minStream, maxStream = 128 << 20, 4 << 30
	// memoryLimit is where memory is no longer traded for time, with a history.
	memoryLimit = 160 << 20
	drainTime   = 5 * time.Second
	// tableGroup is the group of writers for tables; theirs are rows of tableAge.
	tableGroup = "clickhouse"
	tableAge   = 2 * time.Second
)

// Keeper is one that is open. Publish may be called by one goroutine.
type Keeper struct {
	cfg       Config
	streams   bus.Streams
	server    *embedded.Server // nil: the bus is others'
	conn      *bus.Conn
	store     *history.Store // nil without history
	writer    *bus.Writer    // likewise
	publisher *bus.Publisher // nil without agents
	spool     *spool.Dir     // nil: batches wait in memory
	queue     *spool.Queue   // likewise
	agents    *bus.Share     // nil: all agents are ours
	parts     *bus.Share     // nil: all partitions are
	tables    *bus.Writer    // nil without a table
	tableOnes *bus.Share     // partitions for it
}

// Open opens what there is to be opened, before privileges are given up.
func Open(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg}
	err := k.open()
	if err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

func (k *Keeper) open() (err error) {
	if k.cfg.Dir != "" {
		if err := k.openStore(); err != nil {
			return err
		}
	}
	c := bus.Config{Name: "recollect", Say: k.cfg.Say}
	if k.cfg.URL == "" {
		if err := k.openServer(); err != nil {
			return err
		}
		c.InProcess = k.server
	} else if c.Target, err = bus.Parse(k.cfg.URL); err != nil {
		return err
	} else {
		k.streams = c.Target.Streams
	}
	if k.conn, err = bus.Connect(c); err != nil {
		return err
	}
	if k.cfg.Spool.Dir != "" {
		if err := k.openSpool(); err != nil {
			return err
		}
	}
	k.assemble()
	return nil
}

// openStore opens the history, which nobody else may have.
func (k *Keeper) openStore() (err error) {
	if k.cfg.Dir, err = filepath.Abs(k.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(k.cfg.Dir, 0o750); err != nil {
		return &history.Error{Err: err, Hint: "-store DIR wants a directory that recollect may write to"}
	}
	k.store, err = history.Open(filepath.Join(k.cfg.Dir, "records"), history.Config{Keep: k.cfg.Keep, Logf: k.cfg.Say})
	if err == nil && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	return err
}

func (k *Keeper) openServer() (err error) {
	size := max(minStream, min(k.cfg.Keep.Size/8, maxStream))
	k.streams = bus.Streams{Partitions: 1, Replicas: 1, MaxBytes: size}
	k.server, err = embedded.Start(embedded.Config{Dir: filepath.Join(k.cfg.Dir, "bus"), Size: 2 * size, Say: k.cfg.Say})
	return err
}

func (k *Keeper) assemble() {
	name, _ := os.Hostname() // for people
	name = cmp.Or(name, "recollect")
	if k.cfg.Collect {
		var p bus.PublisherConfig
		if k.queue != nil {
			p.Queue = k.queue
		}
		k.publisher = bus.NewPublisher(k.conn, p)
		if k.server == nil {
			k.agents = bus.NewShare(k.conn, "collectors", name, k.streams)
		}
	}
	if k.cfg.Table != nil {
		k.tableOnes = bus.NewShare(k.conn, tableGroup, name, k.streams)
		k.tables = bus.NewWriter(k.conn, bus.WriterConfig{
			Store: k.cfg.Table, Streams: k.streams, Group: tableGroup, Share: k.tableOnes, Age: tableAge,
			NewSegment: func(id string) (bus.Segment, error) { return k.cfg.Table.NewSegment(id) },
		})
	}
	if k.store == nil {
		return
	}
	if k.server == nil {
		k.parts = bus.NewShare(k.conn, "writers", name, k.streams)
	}
	k.writer = bus.NewWriter(k.conn, bus.WriterConfig{
		Store: k.store, Streams: k.streams, Share: k.parts, Purge: k.server != nil,
		NewSegment: func(id string) (bus.Segment, error) { return k.store.NewSegment(id) },
	})
}

// Dir is the directory that is written to, or "".
func (k *Keeper) Dir() string { return k.cfg.Dir }

// SpoolDir is another one, or "".
func (k *Keeper) SpoolDir() string { return k.cfg.Spool.Dir }

// Agents tells which agents are ours. It is nil if all are.
func (k *Keeper) Agents() *bus.Share { return k.agents }

// Publish queues a batch, and does not wait. Without Config.Collect it does nothing.
func (k *Keeper) Publish(b *batch.Batch) {
	if k.publisher != nil {
		k.publisher.Publish(b)
	}
}

// Run keeps until ctx is done and what was published before is kept, or at least on
// the bus; then it closes all.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.close()
	publishing, stopPublishing := context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { stopPublishing(nil) })()
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var g errgroup.Group
	start := func(f func() error) { // an error ends all
		g.Go(func() error {
			err := f()
			if err != nil {
				stopPublishing(err)
			}
			return err
		})
	}
	if k.store != nil {
		start(func() error { return k.store.Run(writing) })
		k.start(start, k.parts, writing, k.writer.Run)
	}
	if k.tables != nil {
		start(func() error { return k.cfg.Table.Run(writing) })
		k.start(start, k.tableOnes, writing, k.tables.Run)
	}
	k.start(start, k.agents, publishing, func(ctx context.Context) error {
		defer stopWriting()
		return k.publish(ctx)
	})
	return g.Wait()
}

// start starts run, and the share that it works by, which ends later.
func (k *Keeper) start(start func(func() error), share *bus.Share, ctx context.Context, run func(ctx context.Context) error) {
	ended := make(chan struct{})
	start(func() error {
		defer close(ended)
		return run(ctx)
	})
	if share != nil {
		start(func() error { return share.Run(ctx, func() { <-ended }) })
	}
}

// publish makes the streams, and publishes until all is acknowledged that was there
// when ctx ended, and, if we write it ourselves, written.
func (k *Keeper) publish(ctx context.Context) error {
	if k.publisher == nil {
		<-ctx.Done()
		return nil
	}
	g, publishing := errgroup.WithContext(ctx)
	g.Go(func() error {
		if _, err := k.conn.EnsureStreams(ctx, k.streams); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error { return k.publisher.Run(publishing) })
	err := g.Wait()
	if k.server != nil {
		k.waitWritten()
	}
	return err
}

// waitWritten gives the writer time to read what was acknowledged. What it does not
// write at its end it will when it runs again.
func (k *Keeper) waitWritten() {
	for end := time.Now().Add(drainTime); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if k.writer.Status().Read >= k.publisher.Status().Acknowledged {
			return
		}
	}
}

func (k *Keeper) close() {
	if k.conn != nil {
		k.conn.Close()
	}
	k.closeSpool()
	if k.server != nil {
		k.server.Stop()
	}
	if k.store != nil {
		_ = k.store.Close() // a lock
	}
	if k.cfg.Table != nil {
		_ = k.cfg.Table.Close() // another one
	}
}

// Known gives the agents whose batches are on the bus now. A bus that does not
// answer for a while is an error.
func (k *Keeper) Known(ctx context.Context) ([]string, error) { return k.conn.Agents(ctx, k.streams) }

// Follow gives take the batches of all agents as they come, each record once,
// until ctx is done. take keeps nothing.
func (k *Keeper) Follow(ctx context.Context, take func(*batch.Batch)) error {
	return k.conn.Follow(ctx, k.streams, take)
}

// Done is what was done, in a line.
func (k *Keeper) Done() string {
	var parts []string
	if k.publisher != nil {
		parts = append(parts, fmt.Sprintf("bus: %d records taken, %s", k.publisher.Status().Acknowledged, k.waiting()))
	}
	written := func(what string, w *bus.Writer) {
		if w != nil {
			s := w.Status()
			parts = append(parts, fmt.Sprintf("%s: %d records written, %d came twice, %d missing", what, s.Records, s.Duplicates, s.Missing))
		}
	}
	written("history", k.writer)
	written("table", k.tables)
	return strings.Join(parts, "; ")
}

// WriterStatus is how a writer does.
type WriterStatus = bus.WriterStatus

// Status is what a Keeper does; what it does not do is nil.
type Status struct {
	Connected bool // to the bus
	Publisher *bus.PublisherStatus
	Spool     *spool.Status
	Writer    *WriterStatus // of the history
	History   *history.Status
	Tables    *WriterStatus // of Config.Table
}

// Status may be called by any goroutine.
func (k *Keeper) Status() (s Status) {
	s.Connected = k.conn.Connected()
	if k.publisher != nil {
		s.Publisher = new(k.publisher.Status())
	}
	if k.queue != nil {
		s.Spool = new(k.queue.Status())
	}
	if k.writer != nil {
		s.Writer, s.History = new(k.writer.Status()), new(k.store.Status())
	}
	if k.tables != nil {
		s.Tables = new(k.tables.Status())
	}
	return s
}

// Hint is what to do about an error of this package, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*bus.Error](err); ok {
		return e.Hint
	}
	if e, ok := errors.AsType[*history.Error](err); ok {
		return e.Hint
	}
	return ""
}
