package agent

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/host/service"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// fleet is the running program: one agent per interface, and what they share.
type fleet struct {
	cfg      Config
	out      printer
	members  membership
	chunk    int           // records in a chunk of an agent's hub
	chunks   int           // chunks in a hub
	table    int           // entries in a decoder's tables; 0 for its default
	certs    *certs.Server // nil without TLS
	tracer   dropTracer
	registry *prometheus.Registry
	metrics  *metricsServer // nil without -metrics
	patients patients
	manager  *service.Manager
	report   sandbox.Report
	started  time.Time
}

// membership decides which interfaces a fleet watches. Its methods are called in this
// order, except agents, which may be called at any time.
type membership interface {
	// open opens what requires privileges that the program drops later.
	open(context.Context) error
	// needs adds what is needed after privileges are dropped.
	needs(*sandbox.Config)
	// announce reports what is being watched, and the line about dropped packets.
	announce(drops string)
	// String names what is being watched, for service managers.
	fmt.Stringer
	// run returns when ctx is done and all agents have stopped, or with an error that
	// ends the program.
	run(context.Context) error
	summary()
	close()

	// engine returns the engine for an agent's captures, which are configured like c.
	engine(a *agent, c capture.Config) engine
	// agents returns the running agents, in a fixed order.
	agents() []*agent
}

// observationPoint is where an agent observes packets.
type observationPoint struct {
	out    printer          // begins each line with the interface, if there are several
	ns     *netns.Namespace // nil: the program's own
	label  string           // in port tables and on buses, if there are several interfaces
	domain uint32           // observation domain ID; 0 means the interface's index
	names  ipfix.Names      // identify the interface to collectors of IPFIX, if there are several
	labels prometheus.Labels
}

// Run watches one or several interfaces. It returns when ctx is done and everything
// captured has been processed, or with the first error; if there are several
// interfaces, one that cannot be watched does not end the program. Errors have an exit
// code, see fault.Code.
func Run(ctx context.Context, cfg Config) error {
	f, err := openFleet(ctx, cfg)
	if err != nil {
		return err
	}
	defer f.close()
	if f.manager, err = service.Find(); err != nil {
		f.out.printf("%v; going on without", err)
		f.manager = &service.Manager{}
	}
	raiseFileLimit(f.out.printf)
	_ = calmMonitor() // without it the program only costs more
	if err := f.confine(); err != nil {
		return err
	}
	debug.FreeOSMemory() // opening takes megabytes, and running allocates next to nothing
	f.announce()
	f.manager.Ready("watching " + f.members.String())
	stop := context.AfterFunc(ctx, f.manager.Stopping)
	defer stop()
	err = f.run(ctx)
	f.members.summary()
	return err
}

// Check does everything that Run does for one interface before it waits for collectors,
// starts and stops a capture, and prints a report.
func Check(ctx context.Context, cfg Config) error {
	f, err := openFleet(ctx, cfg)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.confine(); err != nil {
		return err
	}
	for _, a := range f.members.agents() {
		defer a.closeSpool()
		if err := a.check(); err != nil {
			return err
		}
	}
	f.out.w, f.cfg.Verbose = cfg.Stdout, true
	f.announce()
	for _, a := range f.members.agents() {
		a.report()
	}
	f.out.printf("all is well: nothing was captured, nothing runs")
	return nil
}

// openFleet opens what requires privileges. It starts no goroutines.
func openFleet(ctx context.Context, cfg Config) (*fleet, error) {
	if err := checkEngine(cfg.Engine, cfg.Point); err != nil {
		return nil, err
	}
	f := &fleet{cfg: cfg, registry: prometheus.NewRegistry(), started: time.Now()}
	f.out.w = cfg.Stderr
	f.members, f.chunk, f.chunks = &single{fleet: f}, hubChunk, hubChunks
	if cfg.Several() {
		f.members, f.chunk, f.chunks, f.table = newDiscovery(f), sharedChunk, sharedChunks, sharedTable
	}
	if err := f.open(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) open(ctx context.Context) (err error) {
	if f.certs, err = loadCerts(f.cfg.TLS, &f.out); err != nil {
		return err
	}
	if err := f.members.open(ctx); err != nil {
		return err
	}
	f.tracer = openDropTracer(f.cfg.Drops)
	if f.cfg.Metrics != "" {
		f.metrics, err = newMetricsServer(f.cfg.Metrics, f.registry, f.patients.failing)
	}
	return err
}

func (f *fleet) close() {
	f.members.close()
	f.tracer.close()
	if f.metrics != nil {
		f.metrics.ln.Close()
	}
}

// start opens an agent and its ports. Its metrics are served until stop is called.
func (f *fleet) start(ctx context.Context, p *observationPoint, cfg Config) (a *agent, stop func(), err error) {
	if a, err = newAgent(ctx, f, p, cfg); err != nil {
		return nil, nil, err
	}
	if err := a.listen(); err != nil {
		a.close()
		return nil, nil, err
	}
	r := prometheus.WrapRegistererWith(p.labels, f.registry)
	if err := r.Register(metrics{a}); err != nil {
		a.out.printf("no metrics: %v", err)
	}
	f.patients.add(a)
	return a, func() {
		f.patients.remove(a)
		r.Unregister(metrics{a})
		a.close()
	}, nil
}

func (f *fleet) announce() {
	f.members.announce("drops: " + f.tracer.why)
	if f.metrics != nil {
		f.metrics.announce(f.out.printf)
	}
	if f.cfg.Verbose {
		for _, line := range f.report {
			f.out.printf("%s", line)
		}
	}
}

// run returns when all parts have stopped. The first failure stops all of them.
func (f *fleet) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.signals(ctx) })
	g.Go(func() error { return f.manager.Watch(ctx, f.alive) })
	if f.metrics != nil {
		g.Go(func() error { return f.metrics.run(ctx) })
	}
	g.Go(func() error { return f.members.run(ctx) })
	return g.Wait()
}

// alive returns unless an agent is deadlocked.
func (f *fleet) alive() {
	for _, a := range f.members.agents() {
		a.alive()
	}
}

// signals handles the signals that do not end the program, SIGUSR1 and SIGHUP, until
// ctx is done.
func (f *fleet) signals(ctx context.Context) error {
	c := make(chan os.Signal, 4)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(c)
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-c:
			if s == syscall.SIGUSR1 {
				f.members.summary()
				continue
			}
			if f.cfg.Log != os.DevNull {
				f.out.printf("reopening the log %q", f.cfg.Log)
			}
			for _, a := range f.members.agents() {
				a.reopen()
			}
			reloadCerts(f.certs, f.cfg.TLS, &f.out)
		}
	}
}

// raiseFileLimit allows as many collectors as the system permits.
func raiseFileLimit(say func(string, ...any)) {
	const want = 1 << 20
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) != nil {
		return
	}
	for max := uint64(want); max > lim.Max; max /= 2 { // requires CAP_SYS_RESOURCE
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: max, Max: max}) == nil {
			return
		}
	}
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		say("cannot raise the limit of open files: %v", err)
	}
}

// single is the membership of a fleet of one: the interface from the command line. If
// its agent fails, the program ends.
type single struct {
	fleet *fleet
	agent *agent
	stop  func()
}

func (s *single) open(ctx context.Context) (err error) {
	cfg := s.fleet.cfg
	if cfg.Interface, err = cfg.chooseInterface(s.fleet.out.printf); err != nil {
		return err
	}
	p := &observationPoint{out: printer{w: &s.fleet.out}}
	if s.agent, s.stop, err = s.fleet.start(ctx, p, cfg); err != nil {
		return err
	}
	return s.agent.makeSpool()
}

func (s *single) engine(_ *agent, c capture.Config) engine {
	return chooseEngine(s.fleet.cfg.Engine, c)
}

func (s *single) needs(cfg *sandbox.Config) { s.agent.needs(cfg) }

func (s *single) announce(drops string) { s.agent.announce(drops) }

func (s *single) String() string {
	return s.agent.watched.iface.Name + " with engine " + s.agent.engine.name
}

func (s *single) run(ctx context.Context) error { return s.agent.run(ctx) }

func (s *single) agents() []*agent { return []*agent{s.agent} }

func (s *single) summary() {
	s.agent.summary()
	for _, line := range s.agent.ledger().Lines() {
		s.agent.out.printf("%s", line)
	}
}

func (s *single) close() {
	if s.agent != nil {
		s.stop()
	}
}
