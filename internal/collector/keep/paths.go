package keep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// Names of the tables, and of their directories.
const (
	pathsTable   = "paths"
	packetsTable = "packets"
)

// PathsConfig configures Paths.
type PathsConfig struct {
	Dir     string // of a history, beside whose records the tables are
	Engine  *path.Engine
	Keep    history.Keep  // of records; paths are kept as rollups are
	Digests *history.Keep // of packets; nil: none are kept
	Say     func(format string, args ...any)
}

// Paths writes what an engine counts, and optionally packets, to tables. It is safe for concurrent use.
type Paths struct {
	cfg     PathsConfig
	rows    *tableWriter[path.Row]
	packets *tableWriter[path.PacketRow] // nil: none are kept
}

// OpenPaths opens the tables, before privileges are given up, and has the engine fill them.
func OpenPaths(cfg PathsConfig) (*Paths, error) {
	p := &Paths{cfg: cfg}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	open := history.Config{Keep: keepPaths(cfg.Keep), Logf: cfg.Say}
	rows, err := history.OpenTable(filepath.Join(dir, pathsTable), pathsTable, open, (*path.Row).Span)
	if err != nil {
		return nil, err
	}
	p.rows = &tableWriter[path.Row]{name: pathsTable, table: rows, take: cfg.Engine.TakeRows}
	cfg.Engine.Keep()
	if cfg.Digests == nil {
		return p, nil
	}
	open.Keep = *cfg.Digests
	packets, err := history.OpenTable(filepath.Join(dir, packetsTable), packetsTable, open, (*path.PacketRow).Span)
	if err != nil {
		rows.Close()
		return nil, err
	}
	p.packets = &tableWriter[path.PacketRow]{name: packetsTable, table: packets, take: cfg.Engine.TakePackets, every: commitEvery}
	cfg.Engine.KeepPackets()
	return p, nil
}

// keepPaths is ten times as long as records, in a tenth of their size, as rollups are kept.
func keepPaths(k history.Keep) history.Keep {
	const year = 365 * 24 * time.Hour
	return history.Keep{Age: cmp.Or(min(k.Age, year)*10, 5*year), Size: cmp.Or(k.Size/10, 5<<30)}
}

// Run writes until ctx is done and everything that the engine had then is written.
func (p *Paths) Run(ctx context.Context) error {
	maintaining, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g, writers errgroup.Group
	run := func(write func(context.Context) error, store *history.Store) {
		g.Go(func() error { return store.Run(maintaining) })
		writers.Go(func() error { return write(ctx) })
	}
	run(p.rows.run, p.rows.table.Store)
	if p.packets != nil {
		run(p.packets.run, p.packets.table.Store)
	}
	err := writers.Wait()
	stop()
	err = errors.Join(err, g.Wait(), p.rows.table.Close())
	if p.packets != nil {
		err = errors.Join(err, p.packets.table.Close())
	}
	return err
}

// Account is the tables' part of the ledger.
func (p *Paths) Account() []ledger.Entry {
	list := p.rows.account()
	if p.packets != nil {
		list = append(list, p.packets.account()...)
	}
	return list
}

// Health is how the tables do.
func (p *Paths) Health() []ledger.Health {
	list := []ledger.Health{p.rows.health()}
	if p.packets != nil {
		list = append(list, p.packets.health())
	}
	return list
}

// Done summarizes what was done, in a line.
func (p *Paths) Done() string {
	text := p.rows.done()
	if p.packets != nil {
		text += "; " + p.packets.done()
	}
	return text
}

const (
	takeEvery   = time.Second
	commitEvery = 10 * time.Second
	// commitRows is when a file is long enough.
	commitRows = 1 << 20
)

// tableWriter puts rows of an engine into a table.
type tableWriter[T any] struct {
	name  string
	table *history.Table[T]
	take  func() (rows []T, shed uint64)
	every time.Duration // how often a file ends, at most; rows of intervals come that seldom

	mu                         sync.Mutex
	taken, written, shed, lost uint64
	open                       uint64
	failing                    string
	since                      time.Time
}

func (w *tableWriter[T]) run(ctx context.Context) error {
	tick := time.NewTicker(takeEvery)
	defer tick.Stop()
	committed := time.Now()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		w.add()
		if time.Since(committed) >= w.every || w.table.Added() >= commitRows {
			committed = time.Now()
			w.commit()
		}
	}
	return w.commit()
}

func (w *tableWriter[T]) add() {
	rows, shed := w.take()
	lost, err := w.table.Add(rows)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken += uint64(len(rows))
	w.open += uint64(len(rows))
	w.shed = shed
	w.note(lost, err)
}

func (w *tableWriter[T]) commit() error {
	any := w.table.Added() > 0
	lost, err := w.table.Commit()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.written += w.open
		w.open = 0
	}
	if any || err != nil {
		w.note(lost, err)
	}
	return err
}

// note has an error told once.
func (w *tableWriter[T]) note(lost int64, err error) {
	w.lost += uint64(lost)
	w.open -= uint64(lost)
	switch text := fmt.Sprint(err); {
	case err == nil:
		w.failing = ""
	case w.failing == "":
		w.since = time.Now()
		w.table.Logf("%s; trying again", text)
		fallthrough
	default:
		w.failing = text
	}
}

func (w *tableWriter[T]) account() []ledger.Entry {
	w.mu.Lock()
	e := ledger.Entry{Stage: ledger.Writer, Name: w.name, Unit: "rows", Received: w.taken + w.shed, Passed: w.written, Held: w.open}
	e.Lose("too slow", w.shed)
	e.Lose("not written", w.lost)
	w.mu.Unlock()
	return append([]ledger.Entry{e}, accountFiles(w.name, "", w.table.Store)...)
}

func (w *tableWriter[T]) health() ledger.Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return ledger.Health{Stage: ledger.Writer, Name: w.name, Failing: w.failing, Since: w.since}
}

func (w *tableWriter[T]) done() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s: %d rows written, %d lost", w.name, w.written, w.shed+w.lost)
}

// Past reads the tables in a history's directory, while another process may write to them.
type Past struct{ Dir string }

// hint is what to do if there are no files.
func hint(err error, text string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault.WithHint(err, text)
	}
	return err
}

// Paths adds up what is known of flows that q asks for, between two times in nanoseconds since 1970.
// Intervals count as a whole.
func (p Past) Paths(ctx context.Context, from, to int64, q path.Query) (*path.Past, error) {
	sum := path.NewPast(q)
	damaged, err := history.ReadTable(ctx, filepath.Join(p.Dir, pathsTable), pathsTable, from, to, func(rows []path.Row) error {
		sum.AddBetween(rows, from, to)
		return nil
	})
	if err != nil {
		return nil, hint(err, "paths are kept by recollect -store, of agents with an IPFIX feed")
	}
	sum.Damaged = damaged
	return sum, nil
}

const noPackets = "packets are kept by recollect -store DIR -keep-digests 1h"

// Ended lists the packets of flows that q asks for that did not arrive, by time: the last ones if there
// are more than limit.
func (p Past) Ended(ctx context.Context, from, to int64, q path.Query, limit int) (list []path.Ended, err error) {
	byTime := func(a, b path.Ended) int { return int(max(-1, min(1, a.Time-b.Time))) }
	damaged, err := history.ReadTable(ctx, filepath.Join(p.Dir, packetsTable), packetsTable, from, to, func(rows []path.PacketRow) error {
		for i := range rows {
			r := &rows[i]
			if r.Time < from || r.Time >= to || !q.Wants(r) {
				continue
			}
			if w, ok := r.Ended(); ok {
				list = append(list, w)
			}
		}
		if limit > 0 && len(list) > 2*limit {
			slices.SortFunc(list, byTime)
			list = append(list[:0], list[len(list)-limit:]...)
		}
		return nil
	})
	slices.SortFunc(list, byTime)
	if limit > 0 && len(list) > limit {
		list = list[len(list)-limit:]
	}
	if err == nil {
		err = errors.Join(damaged...)
	}
	return list, hint(err, noPackets)
}

// Packet finds the newest packet with a digest.
func (p Past) Packet(ctx context.Context, digest uint64) (found path.Packet, ok bool, err error) {
	dir := filepath.Join(p.Dir, packetsTable)
	var at, last int64
	_, err = history.ReadTable(ctx, dir, packetsTable, 0, 1<<63-1, func(keys []path.PacketKey) error {
		for _, k := range keys {
			if k.Digest == digest && k.Time >= at {
				at, ok = k.Time, true
			}
		}
		return nil
	})
	if err != nil || !ok {
		return found, false, hint(err, noPackets)
	}
	_, err = history.ReadTable(ctx, dir, packetsTable, at, at+1, func(rows []path.PacketRow) error {
		for i := range rows {
			if r := &rows[i]; r.Digest == digest && r.Time >= last {
				last, found = r.Time, r.Packet()
			}
		}
		return nil
	})
	return found, last != 0, err
}
