// Package collector assembles recollect: it connects to the agents listed in a
// collector.conf, assigns their records to flows, and outputs them as grapher lines or
// as a live view on the terminal. See package wire for the formats.
//
// Reading never waits for output. A hub between them keeps the newest million records.
// If stdout is too slow, the oldest records are lost, and counted, instead of stalling
// the agents; a stalled C agent would also stall its other collectors.
package collector

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/replay"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/service"
	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/wire/batch"
)

// Config configures a collector.
type Config struct {
	File *File
	// Stdout receives grapher lines, or the live view if it is a terminal and Lines is
	// not set. It is not closed.
	Stdout *os.File
	// Stderr receives messages, each on one line with Prefix.
	Stderr *os.File
	Lines  bool
	// ShowTalk makes the live view start with the conversations. Page is an address
	// that it displays.
	ShowTalk bool
	Page     string
	// TLS are the certificate, key, and authorities for agents with tls://, unless
	// their line names others.
	TLS certs.Files
	// Listen are the ports for agents that connect or send to us.
	Listen []feed.Listen
	// Allow lists the networks that those agents may be in; nil means any.
	Allow []netip.Prefix
	// RecordedTimes makes lines of replayed logs have the records' own times, even on a
	// pipe, instead of the time at which they are played.
	RecordedTimes bool
	// Replay replays logs instead of connecting to File's agents. It may be nil.
	Replay *Replay
	// Palette provides names and colors of flows. It may be nil.
	Palette *Palette
	// Names provides names of agents and addresses. It may be nil.
	Names *Names
	// View, if not nil, runs alongside the output in a goroutine of its own, and
	// displays the View in its own way. It must return soon after ctx is done; an error
	// ends the collector.
	View func(ctx context.Context, v *View) error
	// Archive keeps the View's history on disk. It may be nil.
	Archive *Archive
	// Batches, if not nil, receives all packets, numbered, in as much detail as Detail
	// allows; nil means downsample.DefaultRules.
	Batches Batches
	Detail  *downsample.Rules
	// Paths, if not nil, combines agents' observations of the same packets.
	Paths *path.Engine
	// AllBatches, if not nil, passes the batches of all agents on a bus to take, one at a time, until ctx is done: for Paths,
	// which needs those of other collectors' agents, too. take retains nothing.
	AllBatches func(ctx context.Context, take func(*batch.Batch)) error
	// Share, if not nil, decides which agents this collector connects to, rather than
	// another one.
	Share Share
	// Follow, if not nil, provides records of agents that other collectors are
	// connected to.
	Follow *Follow
	// Source, if not nil, generates the records, and no connections are made.
	Source *Source
	// Writes are directories in which files are created.
	Writes []string
	// Report, if not nil, returns lines to print after each summary that Summary
	// requests.
	Report func() []string
	// Ledger, if not nil, accounts for the records, even after Run has returned.
	Ledger *ledger.Book
	// Summary requests the summary on Stderr, once per signal. It may be nil.
	Summary <-chan os.Signal
	// Reload is the path of the configuration that File was read from; agents and flows
	// follow its changes while the collector runs. It may be empty. Reread makes the
	// collector check it immediately, once per signal.
	Reload string
	Reread <-chan os.Signal
	// Unconfined keeps all privileges. Verbose reports which were dropped.
	Unconfined, Verbose bool
}

// The hub keeps hubChunk x hubChunks records (96 MiB) for a slow reader, but uses only
// a few chunks while no reader is slow.
const (
	hubChunk  = 1024
	hubChunks = 1024
)

func newHub() *hub.Hub[Item] {
	return hub.New(hub.Config[Item]{Chunk: hubChunk, Chunks: hubChunks})
}

// drainTime is how long the output may take for what had arrived when the collector was
// told to stop.
const drainTime = time.Second

// collector is one run of the collector.
type collector struct {
	file    *File
	classes atomic.Pointer[classifier]
	hub     *hub.Hub[Item]
	roster  atomic.Pointer[[]*agent] // see all
	adding  sync.Mutex               // serializes additions to it while the collector runs
	edition atomic.Uint64            // incremented by each change of agents and flows
	notice  atomic.Pointer[string]   // why an edit of the configuration has not been applied
	senders senders                  // agents that connect or send to us
	share   Share                    // nil: all agents are ours
	follow  *Follow                  // nil: none are followed
	again   atomic.Uint64            // items that a replay has published before
	player  *replay.Player           // nil: we connect to agents
	quit    context.CancelFunc       // ends everything, cleanly
	palette *Palette
	names   *Names
	view    *View    // nil if it was not requested
	batcher *batcher // likewise
	paths   *pathReader
	say     *printer
	manager *service.Manager
	started time.Time
}

// all returns the current agents, and those that existed since the start or in the
// archive. An agent's index never changes. The slice is never modified, but replaced.
func (c *collector) all() []*agent {
	if list := c.roster.Load(); list != nil {
		return *list
	}
	return nil
}

// present returns the current agents.
func (c *collector) present() []*agent {
	return slices.DeleteFunc(slices.Clone(c.all()), func(a *agent) bool { return a.gone.Load() })
}

// add adds an agent, or replaces the one with the same index.
func (c *collector) add(a *agent) {
	list := slices.Clone(c.all())
	if int(a.index) == len(list) {
		list = append(list, a)
	}
	list[a.index] = a
	c.roster.Store(&list)
}

// output outputs the contents of the hub. run returns once the hub is closed and empty,
// or with an error.
type output interface {
	run() error
	// stop is called when the collector is told to stop, possibly more than once and by
	// any goroutine; run must return soon after the hub is closed, whatever it waits
	// for.
	stop()
	// status returns what the output has done, for the summary. It may be called
	// concurrently.
	status() outputStatus
}

// outputStatus describes an output's work since the start.
type outputStatus struct {
	done string     // what the records became: "123 lines written"
	hub  hub.Status // what it has read, and what it was too slow for
	// taken is how many records it says that it has read.
	taken uint64
}

// Run collects until ctx is done or the reader of stdout closes it, and returns nil in
// both cases.
func Run(ctx context.Context, cfg Config) error {
	c := &collector{
		file: cfg.File, palette: cfg.Palette, names: cfg.Names,
		say: newPrinter(cfg.Stderr), started: time.Now(), share: cfg.Share,
	}
	if c.names == nil {
		c.names = NewNames(nil, false)
	}
	classes, err := newClassifier(c.file.Flows)
	if err != nil {
		return err
	}
	c.classes.Store(classes)
	c.hub = newHub()
	if err := c.makeAgents(cfg); err != nil {
		return err
	}
	if cfg.View != nil || live(cfg) || cfg.Archive != nil {
		if c.view, err = newView(c, cfg.Archive); err != nil {
			return err
		}
	}
	if cfg.Batches != nil {
		c.batcher = newBatcher(c, cfg.Batches, cfg.Detail)
	}
	if cfg.Paths != nil {
		c.paths = newPathReader(c, cfg.Paths)
		if cfg.AllBatches != nil || cfg.Follow != nil {
			c.paths.bus = map[string]*busAgent{}
		}
	}
	told := ctx // done when somebody else ends the collector
	ctx, c.quit = context.WithCancel(ctx)
	defer c.quit()
	out, err := c.openOutput(cfg)
	if errors.Is(err, errStdoutClosed) {
		return nil
	}
	if err != nil {
		return err
	}
	cfg.Ledger.Add(func() []ledger.Entry { return c.account(out) })
	cfg.Ledger.Watch(c.health)
	if err := c.settle(ctx, cfg); err != nil {
		out.stop()
		return err
	}
	err = c.run(ctx, cfg, out)
	closed := errors.Is(err, errStdoutClosed)
	if err != nil && !closed {
		return err
	}
	if !closed || told.Err() != nil { // stay quiet only if that is why it ended
		c.summarize(out)
		cfg.Ledger.Announce()
	}
	return nil
}

func (c *collector) makeAgents(cfg Config) error {
	if cfg.Replay != nil {
		c.file = &File{Flows: cfg.File.Flows, Hosts: cfg.Replay.hosts()}
		for i := range c.file.Hosts {
			c.add(newLog(c, uint32(i)))
		}
		c.startReplay(cfg.Replay, cfg.View != nil || live(cfg))
		return nil
	}
	if cfg.Follow != nil {
		c.followAgents(cfg.Follow)
		return nil
	}
	if cfg.Source != nil {
		c.sourceAgents(cfg.Source)
		return nil
	}
	if err := c.listen(cfg.Listen, cfg.Allow, cfg.TLS); err != nil {
		return err
	}
	for i := range c.file.Hosts {
		if c.file.Hosts[i].From {
			c.add(c.newSender(uint32(i), &c.file.Hosts[i]))
			continue
		}
		files, err := c.file.Hosts[i].certs(cfg.TLS)
		if err != nil {
			return err
		}
		c.add(newAgent(c, uint32(i), &c.file.Hosts[i], files))
	}
	return nil
}

// live reports whether the live view is displayed.
func live(cfg Config) bool { return !cfg.Lines && canDraw(cfg.Stdout) }

// openOutput chooses the output.
func (c *collector) openOutput(cfg Config) (output, error) {
	if live(cfg) {
		return newLiveView(c, cfg)
	}
	return newLineWriter(c, cfg)
}

// run starts everything and stops it in order: first the agents, so that the output
// still gets what has arrived.
func (c *collector) run(ctx context.Context, cfg Config, out output) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, out.stop)()
	start := func(f func() error) { g.Go(guarded(out, f)) }
	start(func() error {
		defer c.quit() // logs come to an end
		return out.run()
	})
	start(func() error { return c.manager.Watch(ctx, func() { c.hub.Fill(func([]Item) int { return 0 }) }) })
	start(func() error { return watchClosed(ctx, cfg.Stdout) })
	start(func() error { return c.names.Run(ctx) })
	start(func() error { c.report(ctx, out, cfg); return nil })
	if c.view != nil {
		start(c.view.run)
	}
	if c.batcher != nil {
		start(c.batcher.run)
	}
	if c.paths != nil {
		start(c.paths.run)
		if cfg.AllBatches != nil {
			start(func() error { return cfg.AllBatches(ctx, c.paths.batch) })
		}
	}
	if cfg.View != nil {
		start(func() error { return cfg.View(ctx, c.view) })
	}
	start(func() error { c.showProgress(ctx, out, cfg.Stderr); return nil })
	start(func() error {
		defer c.hub.Close()
		if c.player != nil {
			return c.runPlayer(ctx)
		}
		if cfg.Source != nil {
			return c.runSource(ctx, cfg.Source)
		}
		return c.runAgents(ctx, cfg, out)
	})
	return g.Wait()
}

func (c *collector) runAgents(ctx context.Context, cfg Config, out output) error {
	g, ctx := errgroup.WithContext(ctx)
	if c.share != nil {
		defer context.AfterFunc(ctx, c.share.Leave)()
	}
	for _, r := range c.senders.receivers {
		g.Go(guarded(out, func() error { return r.Run(ctx) }))
	}
	launch := func(a *agent) {
		if a.client == nil {
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		a.cancel, a.ended = cancel, make(chan struct{})
		g.Go(guarded(out, func() error {
			defer close(a.ended)
			return c.runClient(ctx, a)
		}))
	}
	for _, a := range c.all() {
		launch(a)
	}
	if c.follow != nil {
		g.Go(guarded(out, func() error { return c.follow.Run(ctx, c.follow.take) }))
	}
	c.followFile(ctx, cfg, launch)
	return g.Wait()
}

// guarded wraps f so that if it panics, the terminal is restored before the panic is
// printed.
func guarded(out output, f func() error) func() error {
	return func() error {
		returned := false
		defer func() {
			if !returned {
				out.stop()
			}
		}()
		err := f()
		returned = true
		return err
	}
}
