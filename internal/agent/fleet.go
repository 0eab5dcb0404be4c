package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/host/service"
)

const (
	// lookEvery is how often a fleet looks for namespaces that have come or gone.
	lookEvery = time.Second
	// againAfter is how long an interface that could not be watched is left alone.
	againAfter = 5 * time.Second
	// retryInterval is how often an interface asks whether the one that had its name
	// has been left.
	retryInterval = 100 * time.Millisecond
	// Of each interface of many, what the kernel or a reader may keep is less
	// than an agent's own: traffic that one host makes is shared among them.
	fleetRing   = 1 << 20 // bytes, ring engine
	fleetQueue  = 4 << 20 // bytes, see capture.Shared
	fleetChunk  = 256     // records in a chunk of the hub
	fleetChunks = 64
	fleetTable  = 512 // entries of the decoder's tables
)

// place is where one agent of many watches.
type place struct {
	fleet *fleet
	ns    *netns.Namespace
	node  node
	label string // of the interface, in port tables
	name  string // of the interface, in messages: short as long as it can be
	// domain is the agent's observation domain ID.
	domain uint32
}

// fleet is a program that watches many interfaces: an agent for each, which have
// the capture's programs, metrics and signals in common.
type fleet struct {
	cfg     Config
	out     printer
	shared  *capture.Shared // nil with another engine
	tracer  dropTracer
	why     string // what the engine is, and why
	certs   *certs.Server
	ports   *portTable
	metrics *metricsServer
	manager *service.Manager
	started time.Time
	report  sandbox.Report

	wg     sync.WaitGroup
	ending context.Context // of run
	absent map[string]bool // nodes that are missing, as far as that was said

	mu     sync.Mutex
	nodes  map[uint64]*fleetNode // by the namespace's inode
	agents map[string]*agent     // by label; nil while it begins
	said   map[string]bool       // see sayOnce
	// unsaved: the table of ports could not be written last time.
	unsaved bool
	looked  bool     // there was a first look
	past    tally    // of agents that have ended
	lines   []string // of those that ended with the program
}

// tally is what becomes of packets.
type tally struct{ packets, dropped, lost uint64 }

func (t *tally) add(u tally) {
	t.packets, t.dropped, t.lost = t.packets+u.packets, t.dropped+u.dropped, t.lost+u.lost
}

// fleetNode is a namespace that is followed.
type fleetNode struct {
	node
	ns      *netns.Namespace
	watcher *iface.Watcher
	stop    context.CancelFunc
	here    map[int]string // names of the interfaces that are meant, by index; with fleet.mu held
}

// RunMany is Run for Config.Netns and Config.Interfaces. It returns when ctx is
// done; an interface that cannot be watched is no reason to end.
func RunMany(ctx context.Context, cfg Config) error {
	f, err := newFleet(cfg)
	if err != nil {
		return err
	}
	defer f.close()
	if f.manager, err = service.Find(); err != nil {
		f.out.printf("%v; going on without", err)
		f.manager = &service.Manager{}
	}
	raiseFileLimit(f.out.printf)
	_ = calmMonitor() // what it costs otherwise is no reason to complain
	if err := f.confine(); err != nil {
		return err
	}
	f.announce()
	f.manager.Ready("watching " + f.what())
	stop := context.AfterFunc(ctx, f.manager.Stopping)
	defer stop()
	err = f.run(ctx)
	f.summary()
	return err
}

func newFleet(cfg Config) (*fleet, error) {
	f := &fleet{cfg: cfg, started: time.Now(), nodes: map[uint64]*fleetNode{}, agents: map[string]*agent{}, said: map[string]bool{}}
	f.out.w = cfg.Stderr
	if err := checkEngine(cfg.Engine); err != nil {
		return nil, err
	}
	if err := cfg.fitsMany(); err != nil {
		return nil, err
	}
	var err error
	if f.ports, err = newPortTable(&cfg); err != nil {
		return nil, err
	}
	if f.certs, err = loadCerts(cfg.TLS, &f.out); err != nil {
		return nil, err
	}
	if err := f.chooseEngine(); err != nil {
		return nil, err
	}
	f.tracer = openDropTracer(cfg.Drops)
	if cfg.Metrics != "" {
		if f.metrics, err = newMetricsServer(cfg.Metrics, prometheus.NewRegistry()); err != nil {
			f.close()
			return nil, err
		}
	}
	return f, nil
}

// fitsMany refuses what cannot be had for several interfaces at once.
func (cfg *Config) fitsMany() error {
	refuse := func(what, hint string) error {
		return fail(ExitUsage, hinted{errors.New(what), hint})
	}
	switch {
	case cfg.MACFrom != "":
		return refuse("-r is for one interface", "name one with -i, and no -netns")
	case cfg.Stats:
		return refuse("-stats is for one interface", "run another pcapper with -stats for the host itself")
	case cfg.Spool.Dir != "":
		return refuse("-spool is for one interface", "name one with -i, and no -netns")
	case cfg.Log != os.DevNull && !strings.Contains(cfg.Log, "%i"):
		return refuse(fmt.Sprintf("-f %q: several interfaces would write to one log", cfg.Log), "%i in the name is the interface, %n the node: -f %n-%i.log")
	case cfg.Log != os.DevNull && !strings.Contains(cfg.Log, "%n") && (len(cfg.Netns) > 1 || slices.Contains(cfg.Netns, AllCORE)):
		return refuse(fmt.Sprintf("-f %q: interfaces of several namespaces would write to one log", cfg.Log), "%n in the name is the node: -f %n-%i.log")
	}
	for _, t := range cfg.Exports {
		if t.Kind == export.File {
			return refuse(fmt.Sprintf("-export %q: several interfaces would write to one file", t.URL), "export to a collector, and let it write: recollect -listen ...")
		}
		if t.Repair != 0 {
			return refuse(fmt.Sprintf("-export %q: repair= is for one interface", t.URL), "leave it out, or let collectors dial -ipfix-port")
		}
	}
	return nil
}

// chooseEngine takes the shared programs where they work.
func (f *fleet) chooseEngine() (err error) {
	if f.cfg.Engine == "ring" || f.cfg.Engine == "libpcap" {
		f.why = f.cfg.Engine + ": as asked with -engine; a ring for each interface"
		return nil
	}
	f.shared, err = capture.OpenShared(f.cfg.RingBytes, f.cfg.lookInside())
	switch {
	case err == nil:
		f.why = "ebpf: one set of programs and rings for all interfaces"
		return nil
	case f.cfg.Engine == engineEBPF:
		return fail(ExitDevice, err)
	}
	f.why = fmt.Sprintf("ring (AF_PACKET TPACKET_V3) for each interface; ebpf would be lighter, but: %v", err)
	return nil
}

func (f *fleet) close() {
	f.mu.Lock()
	for _, n := range f.nodes {
		n.ns.Close()
	}
	f.mu.Unlock()
	f.ports.close()
	if f.metrics != nil {
		f.metrics.ln.Close()
	}
	if f.shared != nil {
		f.shared.Close()
	}
	f.tracer.close()
}

// confine keeps what entering namespaces takes.
func (f *fleet) confine() (err error) {
	if f.cfg.Unconfined {
		f.report = sandbox.Report{"confined: no, as asked with -unconfined"}
		return nil
	}
	e := engine{}
	if f.shared != nil {
		e.name = engineEBPF
	}
	keep := append(e.capabilities(), unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE)
	if ports := f.cfg.ports(); len(ports) > 0 && slices.Min(ports) < 1024 {
		keep = append(keep, unix.CAP_NET_BIND_SERVICE)
	}
	mode, err := match.Compile(context.Background(), f.cfg.Mode, match.Target{Interface: "any", Ethernet: true, MAC: make([]byte, 6)})
	write, read := f.files()
	f.report, err = sandbox.Apply(sandbox.Config{
		Write: write, Read: read,
		User: cmp.Or(f.cfg.User, "root"), Keep: keep, Network: true, Namespaces: true,
		Exec: err != nil || strings.HasPrefix(mode.Compiler, "tcpdump"), // compiled for each interface
	})
	if err != nil {
		return fail(ExitConfine, hinted{fmt.Errorf("cannot give up privileges: %w", err),
			"-user takes another user, -unconfined gives up nothing"})
	}
	return nil
}

// files are the directories that are written in later, and the files that are
// read again: root itself may not without a capability, if they are another user's.
func (f *fleet) files() (write, read []string) {
	if f.ports.path != "" {
		write = append(write, filepath.Dir(f.ports.path))
	}
	if dir := logDir(f.cfg.Log); f.cfg.Log != os.DevNull && !strings.Contains(dir, "%") {
		write = append(write, dir)
	}
	tls := []certs.Files{f.cfg.TLS}
	for _, t := range f.cfg.Exports {
		tls = append(tls, certs.Files{Cert: t.Cert, Key: t.Key, CA: t.CA})
	}
	for _, files := range tls {
		for _, file := range []string{files.Cert, files.Key, files.CA} {
			if file != "" {
				read = append(read, file)
			}
		}
	}
	if f.cfg.ExcludeFeeds != "" {
		read = append(read, f.cfg.ExcludeFeeds)
	}
	return write, read
}

// what says what is watched.
func (f *fleet) what() string {
	interfaces := strings.Join(f.cfg.Interfaces, ", ")
	if interfaces == "" {
		interfaces = "all interfaces but lo and ctrl*"
	}
	if len(f.cfg.Netns) == 0 {
		return interfaces
	}
	return interfaces + " in " + strings.Join(f.cfg.Netns, ", ")
}

func (f *fleet) announce() {
	f.out.printf("watching %s", f.what())
	f.out.printf("engine: %s", f.why)
	f.out.printf("drops: %s", f.tracer.why)
	if f.ports.path != "" {
		f.out.printf("ports of the interfaces are in %q, as lines of a collector.conf", f.ports.path)
	}
	if f.metrics != nil {
		f.metrics.announce(f.out.printf)
	}
	if f.cfg.Verbose {
		for _, line := range f.report {
			f.out.printf("%s", line)
		}
	}
}

// run follows namespaces until ctx is done and all agents have ended.
func (f *fleet) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	f.ending = ctx
	g.Go(func() error { return f.signals(ctx) })
	g.Go(func() error { return f.manager.Watch(ctx, f.alive) })
	if f.metrics != nil {
		g.Go(func() error { return f.metrics.run(ctx) })
	}
	g.Go(func() error {
		look := time.NewTicker(lookEvery)
		defer look.Stop()
		for {
			f.look(ctx)
			if err := f.broken(); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-look.C:
			}
		}
	})
	err := g.Wait()
	f.wg.Wait()
	return err
}

// broken is why nothing can be captured any more, whatever is tried again; nil if
// that can. Whoever starts the program may start it anew.
func (f *fleet) broken() error {
	if f.shared == nil {
		return nil
	}
	if err := f.shared.Err(); err != nil {
		return fail(ExitDevice, err)
	}
	return nil
}

// alive comes back if no agent has got stuck.
func (f *fleet) alive() {
	for _, a := range f.all() {
		a.alive()
	}
}

// all agents, by label.
func (f *fleet) all() (list []*agent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, label := range slices.SortedFunc(maps.Keys(f.agents), natural) {
		if a := f.agents[label]; a != nil {
			list = append(list, a)
		}
	}
	return list
}

// look begins to follow namespaces that are new, and ends those that are gone.
func (f *fleet) look(ctx context.Context) {
	found, missing := findNodes(f.cfg.Netns)
	absent := map[string]bool{}
	for _, err := range missing {
		absent[err.Error()] = true
		if !f.absent[err.Error()] {
			f.out.printf("%v", err)
		}
	}
	f.absent = absent
	here := map[uint64]bool{}
	for _, n := range found {
		if inode := f.follow(ctx, n); inode != 0 {
			here[inode] = true
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for inode, n := range f.nodes {
		if !here[inode] {
			delete(f.nodes, inode)
			n.stop()
		}
	}
	f.tidyPorts()
}

// tidyPorts makes comments of the lines of interfaces that are gone. With mu held.
func (f *fleet) tidyPorts() {
	here := map[string]bool{}
	for _, n := range f.nodes {
		for _, name := range n.here {
			here[label(n.id(), name)] = true
		}
	}
	for label := range f.agents {
		here[label] = true
	}
	left := f.ports.leave(here)
	if left > 0 || f.unsaved {
		f.savePorts()
	}
	if !f.looked && left > 0 && f.ports.path != "" {
		f.out.printf("interfaces in %q that are not here: %d; their lines are comments until they come back", f.ports.path, left)
	}
	f.looked = true
}

// follow begins to follow a namespace, unless that has begun, and gives its inode
// or 0.
func (f *fleet) follow(ctx context.Context, n node) uint64 {
	var st unix.Stat_t
	if unix.Stat(n.path, &st) == nil { // cheaper than to open it each time
		f.mu.Lock()
		known := f.nodes[st.Ino] != nil
		f.mu.Unlock()
		if known {
			return st.Ino
		}
	}
	ns, err := openNode(n)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0 // it has ended since it was found
	}
	if err != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.sayOnce(fmt.Errorf("%s: %w", n.id(), err))
		return 0
	}
	inode := ns.Inode()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[inode] != nil {
		ns.Close()
		return inode
	}
	ctx, stop := context.WithCancel(ctx)
	x := &fleetNode{node: n, ns: ns, stop: stop}
	if err := f.prepareNode(x); err != nil {
		stop()
		ns.Close()
		f.sayOnce(fmt.Errorf("%s: %w", n.id(), err))
		return 0
	}
	f.nodes[inode] = x
	f.wg.Go(func() {
		defer ns.Close()
		defer stop()
		if err := f.runNode(ctx, x); err != nil && ctx.Err() == nil {
			f.out.printf("%s: cannot follow its interfaces: %v", n.id(), err)
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.nodes[inode] == x {
				delete(f.nodes, inode) // and again
			}
		}
	})
	return inode
}

// prepareNode begins to follow the interfaces, and reserves ports for those
// there are, in their order. With mu held.
func (f *fleet) prepareNode(n *fleetNode) error {
	err := n.ns.Do(func() (err error) {
		n.watcher, err = iface.NewWatcher(iface.Any)
		return err
	})
	if err != nil {
		return err
	}
	n.here = map[int]string{}
	for _, i := range n.watcher.Interfaces() {
		if f.wants(i) {
			n.here[i.Index] = i.Name
			f.port(n.id(), i.Name)
		}
	}
	return nil
}

// wants tells whether an interface is meant, ready or not.
func (f *fleet) wants(i iface.Interface) bool {
	return patterns(f.cfg.Interfaces).match(i.Name, i.Loopback)
}

// runNode watches the interfaces of a namespace that come and go.
func (f *fleet) runNode(ctx context.Context, n *fleetNode) (err error) {
	w := n.watcher
	defer w.Close()
	var agents sync.WaitGroup
	defer agents.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	mine := map[string]int{} // the index that is watched, or was last, by name
	// Those that wait for the agent of another interface of that name to end, and for
	// how many times again came.
	waiting := map[int]int{}
	begin := func(i iface.Interface) {
		if !f.wants(i) || f.cfg.missing(i) != "" {
			delete(waiting, i.Index)
			return
		}
		if p := f.reserve(n, i); p != nil {
			delete(waiting, i.Index)
			mine[i.Name] = i.Index
			agents.Go(func() { f.watch(ctx, n, p, i) })
		} else if mine[i.Name] != i.Index {
			if _, already := waiting[i.Index]; !already {
				waiting[i.Index] = 0
			}
		}
	}
	have := map[int]iface.Interface{}
	for _, i := range w.Interfaces() {
		have[i.Index] = i
		begin(i)
	}
	// An interface whose agent has failed is tried again now and then.
	again := time.NewTicker(againAfter)
	defer again.Stop()
	events := make(chan iface.Event)
	agents.Go(func() {
		defer close(events)
		err = w.Run(ctx, func(e iface.Event) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		})
	})
	for {
		var soon <-chan time.Time
		if len(waiting) > 0 {
			soon = time.After(retryInterval)
		}
		select {
		case e, ok := <-events:
			if !ok {
				return err
			}
			f.note(n, e)
			if e.Kind == iface.Removed {
				delete(have, e.Interface.Index)
				delete(waiting, e.Interface.Index)
				continue
			}
			have[e.Interface.Index] = e.Interface
			begin(e.Interface)
		case <-soon:
			for index := range waiting {
				begin(have[index])
			}
		case <-again.C:
			for _, i := range have {
				begin(i)
			}
			for index := range waiting {
				if waiting[index]++; waiting[index] == 2 {
					f.sayTaken(n, have[index])
				}
			}
		}
	}
}

// note keeps track of which interfaces are there.
func (f *fleet) note(n *fleetNode, e iface.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(n.here, e.Interface.Index)
	if e.Kind != iface.Removed && f.wants(e.Interface) {
		n.here[e.Interface.Index] = e.Interface.Name
	}
}

// label names an interface of a node. It is one of a collector.conf, whose fields
// are divided by colons.
func label(node, name string) string {
	if node != "" {
		name = node + "-" + name
	}
	return strings.ReplaceAll(name, ":", "_")
}

// sayTaken is for an interface that cannot be watched as another one has its label:
// eth0 of the node a-b, and b-eth0 of a, or two nodes of one name.
func (f *fleet) sayTaken(n *fleetNode, i iface.Interface) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sayOnce(fmt.Errorf("interface %s of %q is not watched: another one is called %q, too; give the node or the interface another name",
		i.Name, cmp.Or(n.id(), "this host"), label(n.id(), i.Name)))
}

// reserve gives an interface its place, unless it is watched already.
func (f *fleet) reserve(n *fleetNode, i iface.Interface) *place {
	p := &place{fleet: f, ns: n.ns, node: n.node, label: label(n.id(), i.Name)}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.name = f.display(n.node, i.Name)
	if _, taken := f.agents[p.label]; taken {
		return nil
	}
	k, ok := f.port(n.id(), i.Name)
	if !ok {
		return nil
	}
	p.domain = uint32(k) + 1
	f.agents[p.label] = nil // it begins
	return p
}

// port is how far an interface's ports are above the first one's. With mu held.
func (f *fleet) port(node, name string) (k int, ok bool) {
	k, changed, err := f.ports.get(node, name)
	if err != nil {
		f.sayOnce(err)
		return 0, false
	}
	if changed || f.unsaved {
		f.savePorts()
	}
	return k, true
}

// savePorts writes the table of ports; if it cannot, it is tried again. With mu held.
func (f *fleet) savePorts() {
	err := f.ports.save()
	if f.unsaved = err != nil; f.unsaved {
		f.sayOnce(err)
	}
}

// display is what people read: without the session while no other one has a node of
// that name. With mu held.
func (f *fleet) display(n node, name string) string {
	for _, other := range f.nodes {
		if other.name == n.name && other.session != n.session {
			return label(n.id(), name)
		}
	}
	return label(n.name, name)
}

// sayOnce is for what would be said every second. With mu held.
func (f *fleet) sayOnce(err error) {
	if text := err.Error(); !f.said[text] {
		f.said[text] = true
		f.out.printf("%s", text)
	}
}

// watch is the life of one interface's agent.
func (f *fleet) watch(ctx context.Context, n *fleetNode, p *place, i iface.Interface) {
	cfg := f.cfg
	cfg.at = p
	cfg.Interface = i.Name
	k := int(p.domain) - 1
	for _, port := range []*int{&cfg.Port, &cfg.IPFIXPort, &cfg.IPFIXTLSPort} {
		if *port != 0 {
			*port += k
		}
	}
	cfg.TLSPort += k
	cfg.Log = strings.NewReplacer("%n", cmp.Or(n.id(), "host"), "%i", i.Name).Replace(cfg.Log)
	cfg.Metrics = ""
	cfg.wait = lookEvery
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.agents, p.label)
	}()
	err := f.runAgent(ctx, cfg, p)
	var coded *Error
	switch {
	case f.ending.Err() != nil:
	case ctx.Err() != nil, errors.As(err, &coded) && coded.Code == ExitRemoved:
		if f.ports.scheme == fromScheme {
			f.out.printf("%s: gone", p.name)
			return
		}
		f.out.printf("%s: gone; port %d stays its own", p.name, f.ports.base+k)
	case err != nil && vanished(n, i):
		// It went away before its agent was there, or while it began.
	case err != nil:
		f.out.printf("%s: %v; trying again", p.name, err)
		sleepFor(ctx, againAfter)
	}
}

// vanished reports whether an interface is not there any more.
func vanished(n *fleetNode, i iface.Interface) (gone bool) {
	_ = n.ns.Do(func() error { // who cannot ask does not know
		now, err := iface.ByName(i.Name)
		var none *iface.NotFoundError
		gone = errors.As(err, &none) || err == nil && now.Index != i.Index
		return nil
	})
	return gone
}

func sleepFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (f *fleet) runAgent(ctx context.Context, cfg Config, p *place) error {
	a, err := newAgent(ctx, cfg)
	if err != nil {
		return err
	}
	if err := a.listen(); err != nil {
		a.capture.close()
		return err
	}
	f.mu.Lock()
	f.agents[p.label] = a
	f.mu.Unlock()
	a.out.printf("%s; filter: %s", a.openPorts(), a.target.filter.Text)
	defer f.register(a)()
	err = a.run(ctx)
	if f.ending.Err() == nil {
		a.summary()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.agents[p.label] = nil
	f.past.add(a.tally())
	if f.ending.Err() != nil {
		f.lines = append(f.lines, a.line())
	}
	return err
}

// tally is what became of the agent's packets.
func (a *agent) tally() tally {
	dropped := a.drops.Load().counts().sum
	return tally{a.hub.Published() - dropped, a.capture.stats().Dropped, a.lost()}
}

// line is the agent's in the summary of many.
func (a *agent) line() string {
	return fmt.Sprintf("%s: %v", a.cfg.at.name, a.tally())
}

func (t tally) String() string {
	return fmt.Sprintf("%s packets captured, %s dropped by the kernel, %s dropped by slow readers", number(t.packets), number(t.dropped), number(t.lost))
}

// openPorts says where the agent's collectors connect.
func (a *agent) openPorts() string {
	var list []string
	for _, l := range a.ports {
		kind := "TCP"
		if l.IPFIX {
			kind = "IPFIX on TCP"
		}
		if l.TLS != nil {
			kind = strings.Replace(kind, "TCP", "TLS", 1)
		}
		list = append(list, fmt.Sprintf("%s port %d", kind, l.Addr().(*net.TCPAddr).Port))
	}
	if len(list) == 0 {
		return "exporting"
	}
	return "listening on " + strings.Join(list, ", ")
}

// signals are served for all.
func (f *fleet) signals(ctx context.Context) error {
	return serveSignals(ctx, f.summary, func() {
		reloadCerts(f.certs, f.cfg.TLS, &f.out)
		for _, a := range f.all() {
			a.reopen()
		}
	})
}

// summary has a line for all and one for each interface that is watched now.
func (f *fleet) summary() {
	f.mu.Lock()
	sum, lines := f.past, slices.Clone(f.lines)
	f.mu.Unlock()
	for _, a := range f.all() {
		sum.add(a.tally())
		lines = append(lines, fmt.Sprintf("%s; %d collectors", a.line(), len(a.feed.Collectors())))
	}
	slices.SortFunc(lines, natural)
	f.out.printf("summary: %d interfaces, in %s: %v", len(lines), time.Since(f.started).Round(time.Second), sum)
	for _, line := range lines {
		f.out.printf("%s", line)
	}
}

// open opens a capture in the place's namespace.
func (p *place) open(c capture.Config, mac *atomic.Pointer[net.HardwareAddr]) (src capture.Source, err error) {
	if p.fleet.shared != nil && c.Ethernet {
		c.RingBytes = fleetQueue
		c.Judge = func(prog []bpf.RawInstruction) (j capture.Judge, err error) {
			j.Match, err = match.Judge(prog, packet.Ethernet, c.Index)
			j.From, j.MAC = from(p.fleet.cfg.kernelMode(), *mac.Load())
			return j, err
		}
		return p.fleet.shared.Open(p.ns, c)
	}
	c.RingBytes = cmp.Or(c.RingBytes, fleetRing)
	e := engineRing
	if p.fleet.cfg.Engine == "libpcap" {
		e = enginePcap
	}
	err = p.ns.Do(func() error {
		src, err = e.open(c)
		return err
	})
	return src, err
}

// engine is what the place's captures are opened with; mac is the modes' MAC.
func (p *place) engine(mac *atomic.Pointer[net.HardwareAddr]) engine {
	open := func(c capture.Config) (capture.Source, error) { return p.open(c, mac) }
	return engine{name: p.fleet.why, open: open, close: nothing}
}

// from is what a mode's filter says of the source MAC.
func from(mode string, mac net.HardwareAddr) (capture.From, [6]byte) {
	if len(mac) != 6 || [6]byte(mac) == [6]byte{} { // loopback has zeros: direction takes its place
		return capture.Anyone, [6]byte{}
	}
	switch mode {
	case "src":
		return capture.FromMAC, [6]byte(mac)
	case "dst", "spoof":
		return capture.Others, [6]byte(mac)
	}
	return capture.Anyone, [6]byte{}
}

// register has the agent's counters among the fleet's, with its labels.
func (f *fleet) register(a *agent) (unregister func()) {
	if f.metrics == nil {
		return func() {}
	}
	labels := prometheus.Labels{"session": a.cfg.at.node.session, "node": a.cfg.at.node.name, "iface": a.cfg.Interface}
	r := prometheus.WrapRegistererWith(labels, f.metrics.registry)
	if err := r.Register(metrics{a}); err != nil {
		f.out.printf("%s: no metrics: %v", a.cfg.at.name, err)
		return func() {}
	}
	return func() { r.Unregister(metrics{a}) }
}
