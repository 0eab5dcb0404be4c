// Package keep assembles what recollect does with records apart from displaying them:
// the history, which it writes alone or shares with others through a bus; the batches
// that it sends to the bus; and which agents this collector connects to.
package keep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/clickhouse"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire/batch"
)

// Config configures a Keeper.
type Config struct {
	// Dir contains the history in "records" and, without a bus, the queue of what is to
	// be written in "queue". Dir "" means no history.
	Dir string
	// URL is a bus, in the syntax of bus.Parse; "" means none. At least one of Dir and
	// URL must be set.
	URL string
	// Keep limits the history's age and size.
	Keep history.Keep
	// Collect means that there are agents, whose batches are published.
	Collect bool
	// Spool is where batches wait while the bus at URL is away; without a Dir they wait
	// in memory. Used with Collect only.
	Spool spool.Spec
	// Table, if not nil, also receives everything on the bus, through separate writers.
	Table *clickhouse.TableStore
	// Say prints a message for the user.
	Say func(format string, args ...any)
}

const (
	// The queue holds what is not yet in the history: up to an eighth of the history's
	// size limit, within these bounds.
	minQueue, maxQueue = 128 << 20, 4 << 30
	// tableGroup is the group of writers for tables, which write rows tableAge old.
	tableGroup = "clickhouse"
	tableAge   = 2 * time.Second
)

// Keeper is an open history, bus, or both. Publish must be called by one goroutine
// only.
type Keeper struct {
	cfg        Config
	streams    bus.Streams
	conn       *bus.Conn       // nil without a bus
	store      *history.Store  // nil without a history
	local      *history.Writer // for a history without a bus
	writer     *bus.Writer     // for a history with a bus
	publisher  *bus.Publisher  // nil without a bus, or without agents
	spool      *spool.Dir      // nil if batches for the bus wait in memory
	queue      *spool.Queue    // likewise; without a bus, it is the writer's
	agents     *bus.Share      // nil if all agents are ours
	parts      *bus.Share      // nil if all partitions are ours
	tables     *bus.Writer     // nil without a table
	tableShare *bus.Share      // of its partitions
	before     spool.Status    // of queue, when it was opened
	ended      atomic.Bool     // nothing is sent any more
}

// Open opens everything that requires privileges, before they are dropped.
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
	if k.cfg.URL == "" {
		return k.openLocal()
	}
	c := bus.Config{Name: "recollect", Say: k.cfg.Say}
	if c.Target, err = bus.Parse(k.cfg.URL); err != nil {
		return err
	}
	k.streams = c.Target.Streams
	if k.conn, err = bus.Connect(c); err != nil {
		return err
	}
	if k.cfg.Spool.Dir != "" {
		if err := k.openSpool(); err != nil {
			return err
		}
		k.before = k.queue.Status()
	}
	k.assemble()
	return nil
}

// openStore opens the history, which only one process may use.
func (k *Keeper) openStore() (err error) {
	if k.cfg.Dir, err = filepath.Abs(k.cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(k.cfg.Dir, 0o750); err != nil {
		return fault.WithHint(err, "-store DIR wants a directory that recollect may write to")
	}
	k.store, err = history.Open(filepath.Join(k.cfg.Dir, "records"), history.Config{Keep: k.cfg.Keep, Logf: k.cfg.Say})
	return err
}

// openLocal opens the queue between Publish and the history.
func (k *Keeper) openLocal() (err error) {
	size := max(minQueue, min(k.cfg.Keep.Size/8, maxQueue))
	if k.spool, err = spool.OpenDir(filepath.Join(k.cfg.Dir, "queue")); err != nil {
		return err
	}
	if k.queue, err = k.spool.Open(spool.Config{Name: "history", Size: size, Say: k.cfg.Say}); err != nil {
		return err
	}
	k.before = k.queue.Status()
	k.local, err = k.store.NewWriter(history.WriterConfig{Queue: k.queue})
	return err
}

func (k *Keeper) assemble() {
	name, _ := os.Hostname() // for display only
	name = cmp.Or(name, "recollect")
	if k.cfg.Collect {
		p := bus.PublisherConfig{Streams: &k.streams}
		if k.queue != nil {
			p.Queue = k.queue
		}
		k.publisher = bus.NewPublisher(k.conn, p)
		k.agents = bus.NewShare(k.conn, "collectors", name)
	}
	if k.cfg.Table != nil {
		k.tableShare = bus.NewShare(k.conn, tableGroup, name)
		k.tables = bus.NewWriter(k.conn, bus.WriterConfig{
			Store: k.cfg.Table, Streams: k.streams, Group: tableGroup, Share: k.tableShare, Age: tableAge,
			NewSegment: func(id string) (bus.SegmentWriter, error) { return k.cfg.Table.NewSegment(id) },
		})
	}
	if k.store == nil {
		return
	}
	k.parts = bus.NewShare(k.conn, "writers", name)
	k.writer = bus.NewWriter(k.conn, bus.WriterConfig{
		Store: k.store, Streams: k.streams, Share: k.parts,
		NewSegment: func(id string) (bus.SegmentWriter, error) { return k.store.NewSegment(id) },
	})
}

// Dir returns the directory that is written to, or "".
func (k *Keeper) Dir() string { return k.cfg.Dir }

// SpoolDir returns the directory of the spool, or "".
func (k *Keeper) SpoolDir() string { return k.cfg.Spool.Dir }

// Agents reports which agents belong to this process. It is nil if all do.
func (k *Keeper) Agents() *bus.Share { return k.agents }

// Publish queues a batch without blocking. Without Config.Collect it does nothing.
func (k *Keeper) Publish(b *batch.Batch) {
	switch {
	case k.local != nil:
		k.local.Publish(b)
	case k.publisher != nil:
		k.publisher.Publish(b)
	}
}

// Run keeps records until ctx is done and everything published before is in the
// history, or at least in a queue on disk or on the bus; then it closes everything. The
// error also covers records that are lost.
func (k *Keeper) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, k.close()) }()
	if k.local != nil {
		return k.runLocal(ctx)
	}
	publishing, stopPublishing := context.WithCancelCause(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, func() { stopPublishing(nil) })()
	writing, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var g errgroup.Group
	start := func(f func() error) { // the first error stops all
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
		k.start(start, k.tableShare, writing, k.tables.Run)
	}
	k.start(start, k.agents, publishing, func(ctx context.Context) error {
		defer stopWriting()
		return k.publish(ctx)
	})
	return g.Wait()
}

// runLocal writes and maintains a history without a bus.
func (k *Keeper) runLocal(ctx context.Context) error {
	maintaining, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return k.store.Run(maintaining) })
	g.Go(func() error {
		defer stop()
		return k.local.Run(ctx)
	})
	return g.Wait()
}

// start starts run, and the share on which it depends, which ends after it.
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

// publish creates the streams, and publishes until everything queued when ctx ended has
// been acknowledged.
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
	return g.Wait()
}

func (k *Keeper) close() (err error) {
	defer k.ended.Store(true)
	if k.conn != nil {
		k.conn.Close()
	}
	if k.queue != nil {
		err = k.closeQueue()
	} else if k.publisher != nil {
		if s := k.publisher.Status(); s.Published > s.Acknowledged+s.Dropped {
			err = fmt.Errorf("bus: %d records that it did not take are lost", s.Published-s.Acknowledged-s.Dropped)
		}
	}
	if k.spool != nil {
		k.spool.Close()
	}
	if k.store != nil {
		_ = k.store.Close() // only releases a lock
	}
	if k.cfg.Table != nil {
		_ = k.cfg.Table.Close() // likewise
	}
	return err
}

// closeQueue writes what is left to the queue's files. The error says how much of it is
// lost.
func (k *Keeper) closeQueue() error {
	before := k.queue.Status().DroppedNew
	err := k.queue.Close()
	if lost := k.queue.Status().DroppedNew - before; lost > 0 {
		what := "packets"
		if k.local != nil {
			what = "records"
		}
		return fmt.Errorf("%d %s that waited could not be written and are lost: %w", lost, what, err)
	}
	if err != nil {
		k.cfg.Say("queue in %q: %v", cmp.Or(k.cfg.Spool.Dir, k.cfg.Dir), err)
	}
	return nil
}

// Known returns the agents whose batches are on the bus now. It fails if the bus does
// not respond for a while.
func (k *Keeper) Known(ctx context.Context) ([]string, error) {
	if k.conn == nil {
		return nil, nil
	}
	return k.conn.Agents(ctx, k.streams)
}

// Connected reports whether the bus is connected. It is true if there is no bus.
func (k *Keeper) Connected() bool { return k.conn == nil || k.conn.Connected() }

// Follow calls take with the batches of all agents as they arrive, each record once,
// until ctx is done. take must not retain them.
func (k *Keeper) Follow(ctx context.Context, take func(*batch.Batch)) error {
	if k.conn == nil {
		<-ctx.Done()
		return nil
	}
	return k.conn.Follow(ctx, k.streams, take)
}

// Done summarizes what was done, in one line.
func (k *Keeper) Done() string {
	if k.local != nil {
		return k.localDone()
	}
	var parts []string
	if k.publisher != nil {
		parts = append(parts, fmt.Sprintf("bus: %d records taken, %s", k.publisher.Status().Acknowledged, k.waiting()))
	}
	written := func(what string, w *bus.Writer) {
		if w != nil {
			s := w.Status()
			parts = append(parts, fmt.Sprintf("%s: %d records written, %d duplicates, %d missing", what, s.Records, s.Duplicates, s.Missing))
		}
	}
	written("history", k.writer)
	written("table", k.tables)
	return strings.Join(parts, "; ")
}

func (k *Keeper) localDone() string {
	s, q := k.local.Status(), k.queue.Status()
	text := fmt.Sprintf("history: %d records received, %d written, %d queued, %d dropped",
		s.Published, s.Written, q.Waiting.Weight, q.DroppedNew+s.Refused)
	if s.Skipped > 0 {
		text += fmt.Sprintf(", %d had been written before", s.Skipped)
	}
	if s.Failed != "" {
		text += "; failing since " + s.Since.Format(time.TimeOnly) + ": " + s.Failed
	}
	return text
}

// WriterStatus is the state of a writer.
type WriterStatus = bus.WriterStatus

// Status is the state of a Keeper; parts that it does not have are nil.
type Status struct {
	Connected *bool // to the bus
	Local     *history.WriterStatus
	Publisher *bus.PublisherStatus
	Spool     *spool.Status
	Writer    *WriterStatus // of the history
	History   *history.Status
	Tables    *WriterStatus // of Config.Table
}

// Status returns the state. It may be called concurrently.
func (k *Keeper) Status() (s Status) {
	if k.conn != nil {
		s.Connected = new(k.conn.Connected())
	}
	if k.local != nil {
		s.Local, s.History = new(k.local.Status()), new(k.store.Status())
	}
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
