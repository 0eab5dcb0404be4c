package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
)

// Formats that the hub encodes records in.
const (
	formatBinary = iota
	formatText
	formatIPFIX
)

// The hub keeps a quarter of a million records for readers that fall behind: at a
// million packets per second, a quarter of a second, in about 30 MiB. Two chunks with
// their encodings fit in a processor's second-level cache; one is sent at once: 28 KiB.
const (
	hubChunk  = 1024
	hubChunks = 256
)

type (
	recordHub    = hub.Hub[wire.Record]
	recordReader = hub.Reader[wire.Record]
)

// formatters are pooled rather than shared, because readers at different positions in
// the stream format concurrently; each keeps its caches between uses.
var formatters = sync.Pool{New: func() any { return new(wire.Lines) }}

// lineSize is the typical length of a line.
const lineSize = 112

// binary is the hub's 28-byte format.
func binary(dst []byte, ends []uint32, recs []wire.Record) ([]byte, []uint32) {
	for i := range recs {
		dst, _ = wire.AppendBinary(dst, &recs[i])
		ends = append(ends, uint32(len(dst)))
	}
	return dst, ends
}

// lines is the hub's text format.
func lines(dst []byte, ends []uint32, recs []wire.Record) ([]byte, []uint32) {
	l := formatters.Get().(*wire.Lines)
	defer formatters.Put(l)
	for i := range recs {
		dst = l.Append(dst, &recs[i])
		ends = append(ends, uint32(len(dst)))
	}
	return dst, ends
}

// agent watches one interface.
type agent struct {
	cfg      Config
	fleet    *fleet
	point    *observationPoint
	out      *printer
	watched  *watchedInterface
	engine   engine
	hub      *recordHub
	capture  *capturer
	feed     *feed.Server[*recordReader]
	ports    []feed.Listener
	log      *logTask   // nil if the log is /dev/null
	stats    *hostStats // nil unless asked for
	exports  []*exporting
	spoolDir *spool.Dir // nil without -spool
	started  time.Time
	past     departed // collectors that have left
	losing   losing
	self     *self
	groups   *groups                          // nil if nobody receives group memberships
	drops    atomic.Pointer[drops]            // nil before run, and without drop events
	mac      atomic.Pointer[net.HardwareAddr] // the MAC address of the modes, for captures opened later
}

// newAgent opens everything but the ports for an interface in the point's namespace. It
// starts no goroutines.
func newAgent(ctx context.Context, f *fleet, point *observationPoint, cfg Config) (*agent, error) {
	a := &agent{cfg: cfg, fleet: f, point: point, out: &point.out, started: time.Now()}
	err := point.ns.Do(func() (err error) {
		a.watched, err = prepare(ctx, &cfg, a.out.printf)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.hub = hub.New(hub.Config[wire.Record]{
		Chunk: f.chunk, Chunks: f.chunks,
		Encodings: []hub.Encoding[wire.Record]{
			formatBinary: binary,
			formatText:   lines,
			formatIPFIX:  hub.Each(ipfix.Append),
		},
		Sizes: []int{formatBinary: wire.Size, formatText: lineSize},
		Count: numbered,
	})
	if err := a.openCapture(); err != nil {
		return nil, err
	}
	if cfg.Log != os.DevNull { // otherwise formatting lines that nobody reads would be most of the work
		a.log = newLogTask(sink.NewLogFile(cfg.Log, func(err error) { a.out.printf("log %q: %v", cfg.Log, err) }), a.hub.NewReader())
	}
	a.feed = feed.NewServer(feed.ServerConfig[*recordReader]{
		NewReader: a.hub.NewReader, Binary: formatBinary, Text: formatText, IPFIX: formatIPFIX, Boot: rand.Uint64() | 1, // 0 means no number
		Exporter: feed.Exporter[*recordReader]{Domain: a.domain(), PEN: cfg.PEN, Names: point.names, Statistics: a.statistics},
		Limits:   feed.Limits{Allow: cfg.Allow, PerSource: cfg.MaxPerSource},
		Attached: a.attached, Gone: a.gone, Left: a.left, Say: a.out.printf,
	})
	if err := a.prepareExports(); err != nil {
		a.close()
		return nil, err
	}
	a.groups = a.newGroups()
	if cfg.Stats {
		a.stats = newHostStats(func(recs ...wire.Record) { a.hub.Publish(recs...) })
	}
	return a, nil
}

// numbered returns the number of records that have a number: see wire.AppendMark.
func numbered(records []wire.Record) (n uint64) {
	for i := range records {
		if records[i].Numbered() {
			n++
		}
	}
	return n
}

// domain returns the observation domain ID. RFC 7011, section 3.1, leaves the choice to
// the exporter; the interface index distinguishes the agents on one host.
func (a *agent) domain() uint32 { return cmp.Or(a.point.domain, uint32(a.watched.iface.Index)) }

// statistics returns what a collector of IPFIX is told about losses.
func (a *agent) statistics(r *recordReader) ipfix.Statistics {
	return ipfix.Statistics{NotSent: r.Status().Lost, Ignored: a.capture.stats().Dropped}
}

func (a *agent) openCapture() error {
	a.self = newSelf(a.cfg.ports(), a.watched.addrs)
	config := func(filter []bpf.RawInstruction) capture.Config {
		c := a.watched.captureConfig(&a.cfg)
		c.Filter = filter
		c.Moved = func(position string) { a.out.printf("%s: frames are now seen at %s", c.Interface, position) }
		return c
	}
	a.mac.Store(&a.watched.mac)
	a.engine = a.fleet.members.engine(a, config(a.watched.filter.Instructions()))
	open := func(filter []bpf.RawInstruction) (capture.Source, error) {
		src, err := a.engine.open(config(filter))
		if l, ok := src.(leaver); ok {
			_ = l.SetOwnAddrs(a.self.addresses()) // if the map is full, we filter them ourselves
		}
		return src, err
	}
	c := a.cfg.decoder()
	c.FragmentEntries, c.TCPEntries = a.fleet.table, a.fleet.table
	var err error
	if a.capture, err = newCapturer(open, a.watched.filter.Instructions(), decode.New(c)); err != nil {
		return fault.WithCode(captureCode(err), err)
	}
	if points[a.cfg.Point] == capture.BothPoints {
		a.capture.early = decode.New(c)
	}
	a.capture.fill = a.hub.Fill
	a.capture.keep = a.leaveOut()
	a.capture.local.Store(a.watched.local())
	a.capture.wanted.Store(a.watched.wanted())
	return nil
}

// leaveOut returns the function that removes records that must not be reported, or nil.
func (a *agent) leaveOut() func([]wire.Record) int {
	switch {
	case a.cfg.spoofInside():
		return func(recs []wire.Record) int {
			return compact(recs, func(r *wire.Record) bool {
				return !a.self.local(r.SrcAddr()) || !a.cfg.IncludeSelf && a.self.sent(r)
			})
		}
	case !a.cfg.IncludeSelf:
		return a.self.leaveOut
	}
	return nil
}

// attached is called by the feed with the number of attached collectors.
func (a *agent) attached(n int) {
	a.capture.want(n > 0)
	if a.log != nil {
		a.log.attached(n > 0)
	}
	if a.stats != nil {
		a.stats.attached(n > 0 || len(a.exports) > 0)
	}
	if a.groups != nil {
		a.groups.attached(n + len(a.exports))
	}
}

// run starts the parts and stops them in the order of the data: first the producers,
// then the hub, then its readers. The first failure stops all of them.
func (a *agent) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.capture.failed = cancel
	var producers, readers errgroup.Group
	start := func(g *errgroup.Group, run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if err != nil {
				cancel(err)
			}
			return err
		})
	}
	d, err := a.watchDrops()
	if err != nil {
		a.out.printf("dropped packets are not reported: %v", err)
		d = nil
	}
	a.drops.Store(d)
	if a.log != nil {
		start(&readers, a.log.run)
	}
	start(&readers, func(ctx context.Context) error { return a.feed.Serve(ctx, a.ports...) })
	for _, x := range a.exports {
		start(&readers, x.exporter.Run)
	}
	start(&producers, a.capture.run)
	start(&producers, a.watch)
	if a.stats != nil {
		start(&producers, a.stats.run)
	}
	if a.groups != nil {
		start(&producers, a.groups.run)
	}
	if a.cfg.ExcludeFeeds != "" {
		start(&producers, a.followFeeds)
	}
	err = producers.Wait()
	a.drops.Load().stop()
	a.hub.Close()
	err = cmp.Or(err, readers.Wait())
	a.closeSpool()
	return err
}

// watch follows changes of the interface and of this host's addresses, and updates the
// filter and the set of the agent's own addresses accordingly.
func (a *agent) watch(ctx context.Context) error {
	var w *iface.Watcher
	err := a.point.ns.Do(func() (err error) {
		w, err = iface.NewWatcher(iface.Any)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot follow the interfaces: %w", err)
	}
	defer w.Close()
	if a.groups != nil {
		a.groups.follows.Store(w.FollowGroups() == nil)
		a.groups.changed()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.catchUp(ctx, w.Interfaces()); err != nil {
		return err
	}
	var failed error
	err = w.Run(ctx, func(e iface.Event) {
		if failed = cmp.Or(failed, a.event(ctx, e)); failed != nil {
			cancel()
		}
	})
	return cmp.Or(failed, err)
}

// catchUp handles what happened before the watcher started.
func (a *agent) catchUp(ctx context.Context, now []iface.Interface) error {
	e := iface.Event{Kind: iface.Removed, Interface: a.watched.iface}
	for _, i := range now {
		if i.Index == a.watched.iface.Index {
			e = iface.Event{Kind: iface.Changed, Interface: i}
			if !i.Up {
				e.Kind = iface.Down
			}
		}
	}
	return a.event(ctx, e)
}

func (a *agent) event(ctx context.Context, e iface.Event) error {
	if e.Kind == iface.Groups {
		if e.Interface.Index == a.watched.iface.Index {
			a.groups.changed()
		}
		return nil
	}
	if e.Interface.Index == a.watched.iface.Index {
		switch e.Kind {
		case iface.Removed:
			return fault.WithCode(ExitRemoved, fmt.Errorf("interface %q was removed", e.Interface.Name))
		case iface.Down:
			if a.removed() {
				return nil // an interface goes down before it is removed, which is reported next
			}
			a.out.printf("%s is down: going on when it is up again", e.Interface.Name)
		case iface.Up:
			a.out.printf("%s is up again", e.Interface.Name)
		}
		if a.point.label != "" && e.Interface.Name != a.watched.iface.Name { // the port belongs to the old name
			return fault.WithCode(ExitRemoved, fmt.Errorf("interface %q was renamed to %q", a.watched.iface.Name, e.Interface.Name))
		}
		a.watched.iface = e.Interface
	}
	return a.refresh(ctx)
}

// removed reports whether the interface no longer exists. The query blocks while the
// kernel is removing an interface.
func (a *agent) removed() bool {
	var none *iface.NotFoundError
	err := a.point.ns.Do(func() error {
		_, err := iface.ByName(a.watched.iface.Name)
		return err
	})
	return errors.As(err, &none)
}

// refresh passes changed addresses to everyone who uses them, and recompiles the filter
// if it depends on them.
func (a *agent) refresh(ctx context.Context) error {
	now := *a.watched
	var m match.Interface
	err := a.point.ns.Do(func() (err error) {
		m, err = now.resolve(&a.cfg)
		return err
	})
	if err != nil {
		return nil // the -r interface is gone: keep its last MAC address
	}
	a.watched.mac, a.watched.addrs = now.mac, now.addrs
	a.mac.Store(&now.mac)
	a.self.set(now.addrs)
	a.capture.setOwn(now.addrs)
	a.capture.local.Store(now.local())
	if !a.watched.affected(&a.cfg, m) || now.compile(ctx, &a.cfg) != nil {
		// An interface that is going down has already lost its addresses; keep the
		// filter until it has new ones.
		return nil
	}
	old := a.watched.filter
	a.watched.filter, a.watched.matched = now.filter, now.matched
	if now.filter.Same(old) {
		return nil
	}
	a.out.printf("filter is now: %s", now.filter.Text)
	a.capture.wanted.Store(now.wanted())
	return a.capture.setFilter(now.filter.Instructions())
}

// alive returns unless the parts of the agent are deadlocked.
func (a *agent) alive() {
	a.feed.Snapshot(func(collector) {}, nil)
	a.capture.stats()
	a.hub.Fill(func([]wire.Record) int { return 0 })
}

// reopen reopens files, for log rotation.
func (a *agent) reopen() {
	if a.log != nil {
		a.log.file.Reopen()
	}
	for _, x := range a.exports {
		x.exporter.Reopen()
	}
}

// close closes what newAgent and listen have opened, unless run has closed it.
func (a *agent) close() {
	for _, l := range a.ports {
		l.Close()
	}
	a.capture.close()
	a.engine.close()
}
