// Package collector assembles recollect: it dials the agents that a collector.conf
// names, tells flows apart, and shows what arrives, as grapher lines or as a
// live view on the terminal. See package wire for the formats.
//
// Reading never waits for showing. A hub lies between them that keeps the
// newest million records; a pipe that is too slow loses the oldest, counted,
// instead of stopping the agents, which in the C agent's case would stop its
// other collectors too.
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
)

// Config of a collector.
type Config struct {
	File *File
	// Stdout gets grapher lines, or the live view if it is a terminal and
	// Lines is not set. It stays open.
	Stdout *os.File
	// Stderr gets one line for each thing worth saying, each with Prefix.
	Stderr *os.File
	Lines  bool
	// ShowTalk has the live view begin with who talks to whom; Page is an address that
	// it shows.
	ShowTalk bool
	Page     string
	// TLS are the certificate, key and authorities for agents with tls://,
	// unless their line names others.
	TLS certs.Files
	// Listen is where agents that are not dialled send to.
	Listen []feed.Listen
	// Allow lists the networks that they may be in; nil is everywhere.
	Allow []netip.Prefix
	// RecordedTimes prints the records' own times to a pipe, too, when logs are
	// played, and not when they are played.
	RecordedTimes bool
	// Replay plays logs instead of dialling File's agents. It may be nil.
	Replay *Replay
	// Palette has names and colours of flows. It may be nil.
	Palette *Palette
	// Names has names of agents and addresses. It may be nil.
	Names *Names
	// View, if it is not nil, runs beside the output, in a goroutine of its own,
	// and shows what the View has in its own way. It returns soon after ctx is
	// done; an error ends the collector.
	View func(ctx context.Context, v *View) error
	// Archive keeps what the View has. It may be nil.
	Archive *Archive
	// Batches, if it is not nil, gets all packets, numbered, in as much detail as
	// Detail allows; nil is downsample.DefaultRules.
	Batches Batches
	Detail  *downsample.Rules
	// Paths, if it is not nil, joins what agents saw of the same packets.
	Paths *path.Engine
	// Share, if it is not nil, tells which agents are dialled by us, and not by
	// another collector.
	Share Share
	// Follow, if it is not nil, has records of agents that others dial.
	Follow *Follow
	// Source, if it is not nil, makes the records, and nobody is dialled.
	Source *Source
	// Writes are directories in which files are made.
	Writes []string
	// Report, if it is not nil, has lines to print behind each summary that Summary
	// asks for.
	Report func() []string
	// Ledger, if it is not nil, has the records accounted for, also after Run has returned.
	Ledger *ledger.Book
	// Summary asks for the summary on Stderr, once per signal. It may be nil.
	Summary <-chan os.Signal
	// Reload is the configuration that File was read from; agents and flows follow
	// it while the collector runs. It may be empty. Reread asks for that at once,
	// once per signal.
	Reload string
	Reread <-chan os.Signal
	// Unconfined keeps all privileges, Verbose says which were given up.
	Unconfined, Verbose bool
}

// The hub keeps hubChunk x hubChunks records (96 MiB) for a slow reader; it
// uses no more than a few chunks while nobody is slow.
const (
	hubChunk  = 1024
	hubChunks = 1024
)

func newHub() *hub.Hub[Item] {
	return hub.New(hub.Config[Item]{Chunk: hubChunk, Chunks: hubChunks})
}

// drainTime is how long the output may take for what had arrived when the
// collector was told to end.
const drainTime = time.Second

// collector is one run.
type collector struct {
	file    *File
	classes atomic.Pointer[classifier]
	hub     *hub.Hub[Item]
	roster  atomic.Pointer[[]*agent] // see all
	adding  sync.Mutex               // serialises additions to it while the collector runs
	edition atomic.Uint64            // counts changes of agents and flows
	notice  atomic.Pointer[string]   // why an edit of the configuration is not in force
	senders senders                  // agents that are not dialled
	share   Share                    // nil: all agents are ours
	follow  *Follow                  // nil: nobody is followed
	again   atomic.Uint64            // items that a replay has had before
	player  *replay.Player           // nil: agents are dialled
	quit    context.CancelFunc       // ends it all, cleanly
	palette *Palette
	names   *Names
	view    *View    // nil if nobody asked for one
	batcher *batcher // likewise
	paths   *pathReader
	say     *printer
	manager *service.Manager
	started time.Time
}

// all are the agents that there are, and those that there have been since the
// start or in the archive; an agent's index stays what it is. The slice never
// changes: there will be another one.
func (c *collector) all() []*agent {
	if list := c.roster.Load(); list != nil {
		return *list
	}
	return nil
}

// present are the agents that there are.
func (c *collector) present() []*agent {
	return slices.DeleteFunc(slices.Clone(c.all()), func(a *agent) bool { return a.gone.Load() })
}

// add gives an agent, or another one of the same index, its place.
func (c *collector) add(a *agent) {
	list := slices.Clone(c.all())
	if int(a.index) == len(list) {
		list = append(list, a)
	}
	list[a.index] = a
	c.roster.Store(&list)
}

// output shows what the hub carries. It returns once the hub is closed and
// empty, or with an error.
type output interface {
	run() error
	// stop is called when the collector was told to end, perhaps more than
	// once and from any goroutine; run returns soon after the hub is closed,
	// whatever it waits for.
	stop()
	// status is what the output has done, for the summary; from any goroutine.
	status() outputStatus
}

// outputStatus counts an output's work since the start.
type outputStatus struct {
	done string     // what was made of the records: "123 lines written"
	hub  hub.Status // what it has read, and what it was too slow for
}

// Run collects until ctx is done or stdout is closed by its reader; both are
// a clean end and give nil.
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
	}
	told := ctx // to end, by somebody else
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
	if !closed || told.Err() != nil { // quiet only if that is why it ends
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

// live reports whether the live view is shown.
func live(cfg Config) bool { return !cfg.Lines && canDraw(cfg.Stdout) }

// openOutput chooses how to show things.
func (c *collector) openOutput(cfg Config) (output, error) {
	if live(cfg) {
		return newLiveView(c, cfg)
	}
	return newLineWriter(c, cfg)
}

// run starts everything and waits for its end: first the agents', so that the
// output still gets what has arrived.
func (c *collector) run(ctx context.Context, cfg Config, out output) error {
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, out.stop)()
	start := func(f func() error) { g.Go(guarded(out, f)) }
	start(func() error {
		defer c.quit() // logs have an end
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

// guarded is f, but if f panics the terminal is in order when the panic is
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
