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
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/agent/match"
	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/wire/ipfix"
)

const (
	// lookEvery is the interval at which a discovery looks for namespaces that have
	// appeared or gone.
	lookEvery = time.Second
	// againAfter is the pause before an interface that could not be watched is tried
	// again.
	againAfter = 5 * time.Second
	// retryInterval is the interval at which an interface checks whether the previous
	// interface with its name has been released.
	retryInterval = 100 * time.Millisecond
	// With many interfaces, the kernel and readers get less memory for each than a
	// single agent has: the traffic of one host is spread over all of them.
	sharedRing   = 1 << 20 // bytes, ring engine
	sharedQueue  = 4 << 20 // bytes, see capture.Shared
	sharedChunk  = 256     // records in a chunk of the hub
	sharedChunks = 64      // chunks in the hub
	sharedTable  = 512     // entries of the decoder's tables
)

// discovery is the membership of interfaces that come and go. It retries interfaces
// that cannot be watched.
type discovery struct {
	fleet  *fleet
	cfg    Config
	shared *capture.Shared // nil with other engines
	why    string          // the chosen engine, and the reason
	ports  *portTable

	wg     sync.WaitGroup
	ending context.Context // of run
	absent map[string]bool // missing nodes that have been reported
	census *census

	mu      sync.Mutex
	nodes   map[uint64]*followedNode // by the namespace's inode
	running map[string]*agent        // by label; nil while starting
	said    map[string]bool          // see sayOnce
	// unsaved means that the last attempt to write the port table failed.
	unsaved  bool
	looked   bool          // the first look is complete
	past     tally         // of agents that have ended
	accounts ledger.Ledger // of agents that have ended
	lines    []string      // of those that ended with the program
}

// foundInterface is an interface that was found, and its observation point.
type foundInterface struct {
	observationPoint
	name string // for messages: as short as possible
	port int    // offset of its ports from the base ports
}

// tally counts what has become of packets.
type tally struct{ packets, dropped, lost uint64 }

func (t *tally) add(u tally) {
	t.packets, t.dropped, t.lost = t.packets+u.packets, t.dropped+u.dropped, t.lost+u.lost
}

// followedNode is a namespace that is followed.
type followedNode struct {
	node
	ns      *netns.Namespace
	watcher *iface.Watcher
	stop    context.CancelFunc
	here    map[int]string // names of the interfaces to watch, by index; guarded by discovery.mu
}

func newDiscovery(f *fleet) *discovery {
	return &discovery{fleet: f, cfg: f.cfg, running: map[string]*agent{}, nodes: map[uint64]*followedNode{}, said: map[string]bool{},
		census: newCensus()}
}

func (d *discovery) open(context.Context) (err error) {
	if err := d.cfg.fitsMany(); err != nil {
		return err
	}
	if d.ports, err = newPortTable(&d.cfg); err != nil {
		return err
	}
	return d.chooseEngine()
}

// fitsMany rejects options that do not work with several interfaces.
func (cfg *Config) fitsMany() error {
	refuse := func(what, hint string) error {
		return fault.WithCode(ExitUsage, fault.WithHint(errors.New(what), hint))
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
	case cfg.Log != os.DevNull && !strings.Contains(cfg.Log, "%n") && (len(cfg.Netns) > 1 || slices.Contains(cfg.Netns, AllCORE) || slices.Contains(cfg.Netns, AllNamespaces)):
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

// chooseEngine chooses the shared programs if they work.
func (d *discovery) chooseEngine() (err error) {
	if d.cfg.Engine == "ring" || d.cfg.Engine == "libpcap" {
		d.why = d.cfg.Engine + ": as asked with -engine; a ring for each interface" + onlyAfter(points[d.cfg.Point])
		return nil
	}
	d.shared, err = capture.OpenShared(d.cfg.RingBytes, d.cfg.lookInside())
	switch {
	case err == nil:
		d.why = "ebpf: one set of programs and rings for all interfaces"
		return nil
	case d.cfg.Engine == engineEBPF:
		return fault.WithCode(ExitDevice, err)
	}
	d.why = fmt.Sprintf("ring (AF_PACKET TPACKET_V3) for each interface; ebpf would be lighter, but: %v%s", err, onlyAfter(points[d.cfg.Point]))
	return nil
}

func (d *discovery) close() {
	d.mu.Lock()
	for _, n := range d.nodes {
		n.ns.Close()
	}
	d.mu.Unlock()
	if d.ports != nil {
		d.ports.close()
	}
	if d.shared != nil {
		d.shared.Close()
	}
}

// needs adds what entering namespaces requires.
func (d *discovery) needs(cfg *sandbox.Config) {
	e := engine{}
	if d.shared != nil {
		e.name = engineEBPF
	}
	cfg.Keep = append(e.capabilities(), unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE)
	if ports := d.cfg.ports(); len(ports) > 0 && slices.Min(ports) < 1024 {
		cfg.Keep = append(cfg.Keep, unix.CAP_NET_BIND_SERVICE)
	}
	mode, err := match.Compile(context.Background(), d.cfg.Mode, match.Interface{Name: "any", Ethernet: true, MAC: make([]byte, 6)})
	cfg.Exec = err != nil || strings.HasPrefix(mode.Compiler, "tcpdump") // compiled per interface
	cfg.User = cmp.Or(cfg.User, "root")
	cfg.Network, cfg.Namespaces = true, true
	d.files(cfg)
}

// files adds the directories that are written to later, and the files that are read
// again: without a capability, even root cannot do that if they belong to another user.
func (d *discovery) files(cfg *sandbox.Config) {
	if d.ports.path != "" {
		cfg.Write = append(cfg.Write, filepath.Dir(d.ports.path))
	}
	if dir := logDir(d.cfg.Log); d.cfg.Log != os.DevNull && !strings.Contains(dir, "%") {
		cfg.Write = append(cfg.Write, dir)
	}
	for _, t := range d.cfg.Exports {
		for _, file := range []string{t.Cert, t.Key, t.CA} {
			if file != "" {
				cfg.Read = append(cfg.Read, file)
			}
		}
	}
}

func (d *discovery) String() string {
	interfaces := strings.Join(d.cfg.Interfaces, ", ")
	if interfaces == "" {
		interfaces = "all interfaces but lo and ctrl*"
	}
	if len(d.cfg.Netns) == 0 {
		return interfaces
	}
	return interfaces + " in " + strings.Join(d.cfg.Netns, ", ")
}

func (d *discovery) announce(drops string) {
	d.fleet.out.printf("watching %v", d)
	d.fleet.out.printf("engine: %s", d.why)
	d.fleet.out.printf("%s", drops)
	if d.ports.path != "" {
		d.fleet.out.printf("ports of the interfaces are in %q, as lines of a collector.conf", d.ports.path)
	}
}

// run follows namespaces until ctx is done and all agents have stopped.
func (d *discovery) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer d.wg.Wait()
	defer stop()
	d.ending = ctx
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		d.look(ctx)
		if err := d.broken(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

// broken returns why nothing can be captured any more, even by retrying, or nil. A
// service manager may restart the program.
func (d *discovery) broken() error {
	if d.shared == nil {
		return nil
	}
	if err := d.shared.Err(); err != nil {
		return fault.WithCode(ExitDevice, err)
	}
	return nil
}

// agents returns the running agents, in the natural order of their labels.
func (d *discovery) agents() (list []*agent) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, label := range slices.SortedFunc(maps.Keys(d.running), natural) {
		if a := d.running[label]; a != nil {
			list = append(list, a)
		}
	}
	return list
}

// look starts following new namespaces, and stops following those that are gone.
func (d *discovery) look(ctx context.Context) {
	found, missing := findNodes(d.cfg.Netns, d.census)
	absent := map[string]bool{}
	for _, err := range missing {
		absent[err.Error()] = true
		if !d.absent[err.Error()] {
			d.fleet.out.printf("%v", err)
		}
	}
	d.absent = absent
	here := map[uint64]bool{}
	for _, n := range found {
		if inode := d.follow(ctx, n); inode != 0 {
			here[inode] = true
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for inode, n := range d.nodes {
		if !here[inode] {
			delete(d.nodes, inode)
			n.stop()
		}
	}
	d.tidyPorts()
}

// tidyPorts comments out the lines of interfaces that are gone. The caller must hold
// mu.
func (d *discovery) tidyPorts() {
	here := map[string]bool{}
	for _, n := range d.nodes {
		for _, name := range n.here {
			here[label(n.id(), name)] = true
		}
	}
	for label := range d.running {
		here[label] = true
	}
	left := d.ports.leave(here)
	if left > 0 || d.unsaved {
		d.savePorts()
	}
	if !d.looked && left > 0 && d.ports.path != "" {
		d.fleet.out.printf("interfaces in %q that are not here: %d; their lines are comments until they come back", d.ports.path, left)
	}
	d.looked = true
}

// follow starts following a namespace, unless it is followed already. It returns its
// inode, or 0.
func (d *discovery) follow(ctx context.Context, n node) uint64 {
	var st unix.Stat_t
	if unix.Stat(n.path, &st) == nil { // cheaper than opening it each time
		d.mu.Lock()
		known := d.nodes[st.Ino] != nil
		d.mu.Unlock()
		if known {
			return st.Ino
		}
	}
	ns, err := openNode(n)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return 0 // it has gone since it was found
	}
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.sayOnce(fmt.Errorf("%s: %w", n.id(), err))
		return 0
	}
	inode := ns.Inode()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.nodes[inode] != nil {
		ns.Close()
		return inode
	}
	ctx, stop := context.WithCancel(ctx)
	x := &followedNode{node: n, ns: ns, stop: stop}
	if err := d.prepareNode(x); err != nil {
		stop()
		ns.Close()
		d.sayOnce(fmt.Errorf("%s: %w", n.id(), err))
		return 0
	}
	d.nodes[inode] = x
	d.wg.Go(func() {
		defer ns.Close()
		defer stop()
		if err := d.runNode(ctx, x); err != nil && ctx.Err() == nil {
			d.fleet.out.printf("%s: cannot follow its interfaces: %v", n.id(), err)
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.nodes[inode] == x {
				delete(d.nodes, inode) // it will be found again
			}
		}
	})
	return inode
}

// prepareNode starts following the interfaces, and reserves ports for the existing
// ones, in their order. The caller must hold mu.
func (d *discovery) prepareNode(n *followedNode) error {
	err := n.ns.Do(func() (err error) {
		n.watcher, err = iface.NewWatcher(iface.Any)
		return err
	})
	if err != nil {
		return err
	}
	n.here = map[int]string{}
	for _, i := range n.watcher.Interfaces() {
		if d.wants(i) {
			n.here[i.Index] = i.Name
			d.port(n.id(), i.Name)
		}
	}
	return nil
}

// wants reports whether an interface is to be watched, ready or not.
func (d *discovery) wants(i iface.Interface) bool {
	return patterns(d.cfg.Interfaces).match(i.Name, i.Loopback)
}

// runNode watches the interfaces of a namespace as they come and go.
func (d *discovery) runNode(ctx context.Context, n *followedNode) (err error) {
	w := n.watcher
	defer w.Close()
	var agents sync.WaitGroup
	defer agents.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	mine := map[string]int{} // the index being watched, or watched last, by name
	// The interfaces that wait for the agent of a previous interface with the same name
	// to end, and for how many retries.
	waiting := map[int]int{}
	begin := func(i iface.Interface) {
		if !d.wants(i) || d.cfg.missing(i) != "" {
			delete(waiting, i.Index)
			return
		}
		if p := d.reserve(n, i); p != nil {
			delete(waiting, i.Index)
			mine[i.Name] = i.Index
			agents.Go(func() { d.watch(ctx, n, p, i) })
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
	// An interface whose agent has failed is retried periodically.
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
			d.note(n, e)
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
					d.sayTaken(n, have[index])
				}
			}
		}
	}
}

// note records which interfaces exist.
func (d *discovery) note(n *followedNode, e iface.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(n.here, e.Interface.Index)
	if e.Kind != iface.Removed && d.wants(e.Interface) {
		n.here[e.Interface.Index] = e.Interface.Name
	}
}

// label returns the label of a node's interface. It is valid in a collector.conf, whose
// fields are separated by colons.
func label(node, name string) string {
	if node != "" {
		name = node + "-" + name
	}
	return strings.ReplaceAll(name, ":", "_")
}

// sayTaken reports an interface that cannot be watched because another one has its
// label: eth0 of node a-b and b-eth0 of node a, or two nodes with the same name.
func (d *discovery) sayTaken(n *followedNode, i iface.Interface) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sayOnce(fmt.Errorf("interface %s of %q is not watched: another one is called %q, too; give the node or the interface another name",
		i.Name, cmp.Or(n.id(), "this host"), label(n.id(), i.Name)))
}

// reserve gives an interface its port and label, unless it is already being watched.
func (d *discovery) reserve(n *followedNode, i iface.Interface) *foundInterface {
	p := &foundInterface{}
	p.ns, p.label = n.ns, label(n.id(), i.Name)
	p.names = ipfix.Names{Node: n.id(), Interface: i.Name}
	p.labels = prometheus.Labels{"session": n.session, "node": n.name, "iface": i.Name}
	d.mu.Lock()
	defer d.mu.Unlock()
	p.name = d.display(n.node, i.Name)
	p.out = printer{w: &d.fleet.out, prefix: p.name + ": "}
	if _, taken := d.running[p.label]; taken {
		return nil
	}
	var ok bool
	if p.port, ok = d.port(n.id(), i.Name); !ok {
		return nil
	}
	p.domain = uint32(p.port) + 1 // interfaces in different namespaces may have the same index
	d.running[p.label] = nil      // starting
	return p
}

// port returns the offset of an interface's ports from the base ports. The caller must
// hold mu.
func (d *discovery) port(node, name string) (k int, ok bool) {
	k, changed, err := d.ports.get(node, name)
	if err != nil {
		d.sayOnce(err)
		return 0, false
	}
	if changed || d.unsaved {
		d.savePorts()
	}
	return k, true
}

// savePorts writes the port table. A failed write is retried. The caller must hold mu.
func (d *discovery) savePorts() {
	err := d.ports.save()
	if d.unsaved = err != nil; d.unsaved {
		d.sayOnce(err)
	}
}

// display returns an interface's name for messages, without the session unless another
// session has a node of that name. The caller must hold mu.
func (d *discovery) display(n node, name string) string {
	for _, other := range d.nodes {
		if other.name == n.name && other.session != n.session {
			return label(n.id(), name)
		}
	}
	return label(n.name, name)
}

// sayOnce reports an error that would otherwise repeat every second. The caller must
// hold mu.
func (d *discovery) sayOnce(err error) {
	if text := err.Error(); !d.said[text] {
		d.said[text] = true
		d.fleet.out.printf("%s", text)
	}
}

// watch runs the agent of one interface from start to end.
func (d *discovery) watch(ctx context.Context, n *followedNode, p *foundInterface, i iface.Interface) {
	cfg := d.cfg
	cfg.Interface = i.Name
	for _, port := range []*int{&cfg.Port, &cfg.IPFIXPort, &cfg.IPFIXTLSPort} {
		if *port != 0 {
			*port += p.port
		}
	}
	cfg.TLSPort += p.port
	cfg.Log = strings.NewReplacer("%n", cmp.Or(n.id(), "host"), "%i", i.Name).Replace(cfg.Log)
	cfg.wait = lookEvery
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, p.label)
	}()
	err := d.runAgent(ctx, cfg, p)
	switch {
	case d.ending.Err() != nil:
	case ctx.Err() != nil, fault.Code(err) == ExitRemoved:
		if d.ports.scheme == fromScheme {
			p.out.printf("gone")
			return
		}
		p.out.printf("gone; port %d stays its own", d.ports.base+p.port)
	case err != nil && vanished(n, i):
		// The interface disappeared before or while the agent started.
	case err != nil:
		p.out.printf("%v; trying again", err)
		sleepFor(ctx, againAfter)
	}
}

// vanished reports whether an interface no longer exists.
func vanished(n *followedNode, i iface.Interface) (gone bool) {
	_ = n.ns.Do(func() error { // if it cannot be determined, it is not gone
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

func (d *discovery) runAgent(ctx context.Context, cfg Config, p *foundInterface) error {
	a, stop, err := d.fleet.start(ctx, &p.observationPoint, cfg)
	if err != nil {
		return err
	}
	defer stop()
	d.mu.Lock()
	d.running[p.label] = a
	d.mu.Unlock()
	a.out.printf("%s; filter: %s", a.openPorts(), a.watched.filter.Text)
	err = a.run(ctx)
	if d.ending.Err() == nil {
		a.summary()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[p.label] = nil
	d.past.add(a.tally())
	d.accounts = d.accounts.Plus(a.ledger())
	if d.ending.Err() != nil {
		d.lines = append(d.lines, a.line())
	}
	return err
}

// tally returns what has become of the agent's packets.
func (a *agent) tally() tally {
	dropped := a.drops.Load().counts().sum
	return tally{a.hub.Published() - dropped - a.groups.count() - a.capture.counters.uncounted(), a.capture.stats().Dropped, a.lost()}
}

// line returns the agent's line in the summary of many.
func (a *agent) line() string {
	return fmt.Sprintf("%s%v", a.out.prefix, a.tally())
}

func (t tally) String() string {
	return fmt.Sprintf("%s packets captured, %s dropped by the kernel, %s dropped by slow readers", number(t.packets), number(t.dropped), number(t.lost))
}

// openPorts returns the ports that the agent's collectors connect to.
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

// summary prints a line for the total and one for each interface being watched.
func (d *discovery) summary() {
	d.mu.Lock()
	sum, accounts, lines := d.past, d.accounts, slices.Clone(d.lines)
	d.mu.Unlock()
	for _, a := range d.agents() {
		sum.add(a.tally())
		accounts = accounts.Plus(a.ledger())
		lines = append(lines, fmt.Sprintf("%s; %d collectors", a.line(), len(a.feed.Collectors())))
	}
	slices.SortFunc(lines, natural)
	d.fleet.out.printf("summary: %d interfaces, in %s: %v", len(lines), time.Since(d.fleet.started).Round(time.Second), sum)
	for _, line := range append(lines, accounts.Lines()...) {
		d.fleet.out.printf("%s", line)
	}
}

func (d *discovery) engine(a *agent, _ capture.Config) engine {
	open := func(c capture.Config) (capture.Source, error) { return d.openCapture(a, c) }
	return engine{name: d.why, open: open, close: nothing}
}

// openCapture opens a capture in the agent's namespace.
func (d *discovery) openCapture(a *agent, c capture.Config) (src capture.Source, err error) {
	if d.shared != nil && c.Ethernet {
		c.RingBytes = sharedQueue
		c.Judge = func(prog []bpf.RawInstruction) (j capture.Judge, err error) {
			j.Match, err = match.Judge(prog, packet.Ethernet, c.Index)
			j.From, j.MAC = from(d.cfg.kernelMode(), *a.mac.Load())
			return j, err
		}
		return d.shared.Open(a.point.ns, c)
	}
	c.RingBytes = cmp.Or(c.RingBytes, sharedRing)
	e := engineRing
	if d.cfg.Engine == "libpcap" {
		e = enginePcap
	}
	err = a.point.ns.Do(func() error {
		src, err = e.open(c)
		return err
	})
	return src, err
}

// from returns the source MAC condition of a mode's filter.
func from(mode string, mac net.HardwareAddr) (capture.From, [6]byte) {
	if len(mac) != 6 || [6]byte(mac) == [6]byte{} { // loopback has zeros; the direction is used instead
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
