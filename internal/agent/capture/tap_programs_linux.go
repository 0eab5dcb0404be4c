package capture

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/netns"
)

// The kernel side, see bpf/tap.c. The objects are committed so that building requires
// no compiler for them. After a change, run `go generate` (requires clang and
// llvm-strip 14 or later).
//
//go:generate go test ../decode -run TestKeepHeader -count=1 -keep.update
//go:generate go tool bpf2go -go-package capture -output-stem tap -output-suffix _linux -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror" kernel bpf/tap.c

// Constants of bpf/tap.c.
const (
	tapSnap    = 256
	tapUnit    = 16
	tapSpare   = 512
	tapScratch = 512
	tapHeader  = 128 // struct ring
	tapFast    = 48  // bytes that are copied before anything is decided
)

// Values of egress in bpf/tap.c. Each program after the queue has a value of its own,
// counted from turnAfterQueue.
const (
	turnNobody uint32 = iota
	turnBeforeQueue
	turnAfterQueue
)

// tapSpec is bpf/tap.c for this configuration, ready to be loaded.
type tapSpec struct {
	spec *ebpf.CollectionSpec
	cfg  Config
}

// newTapSpec sets the constants of the programs.
func newTapSpec(cfg Config, ringSize, cpus int) (*tapSpec, error) {
	spec, err := loadKernel()
	if err != nil {
		return nil, err
	}
	rings := spec.Maps["rings"]
	rings.ValueSize = uint32(tapRingLen(ringSize))
	rings.MaxEntries = uint32(cpus)
	spec.Maps["bell"].MaxEntries = uint32(max(unix.Getpagesize(), 4096))
	t := &tapSpec{spec: spec, cfg: cfg}
	var own [4]uint16
	copy(own[:], cfg.OwnPorts)
	err = t.set(map[string]any{
		"mask": uint32(ringSize - 1), "hot": uint32(tapHotSize(ringSize) - 1), "link_len": uint32(cfg.linkLen()),
		"release":   b2u(runtime.GOARCH != "amd64" && runtime.GOARCH != "386"),
		"own_ports": own,
		"inside":    b2u(cfg.Inside),
		"parse":     b2u(cfg.parses()),
		"turn":      turnBeforeQueue,
	})
	if err != nil {
		return nil, err
	}
	return t, t.setFilter(cfg.Filter)
}

// parses reports whether the programs parse plain UDP datagrams. They load fields that are not
// aligned, which the verifier allows on these machines.
func (c *Config) parses() bool {
	return c.Parse && c.Ethernet && c.Snaplen >= tapSnap && (runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64")
}

func (c *Config) linkLen() int {
	if c.Ethernet {
		return 14
	}
	return 0
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

func (t *tapSpec) set(vars map[string]any) error {
	for name, value := range vars {
		if err := t.spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("eBPF constant %s: %w", name, err)
		}
	}
	return nil
}

// setFilter makes the filter the body of filter() in every program.
func (t *tapSpec) setFilter(filter []bpf.RawInstruction) error {
	tr := translation{look: tapFast}
	if len(filter) > 0 {
		var err error
		if tr, err = translate(filter, t.cfg.linkLen(), min(t.cfg.Snaplen, tapSnap)); err != nil {
			return err
		}
	}
	if err := t.set(map[string]any{"filtering": b2u(len(filter) > 0), "look": uint32(max(tr.look, tapFast))}); err != nil {
		return err
	}
	if len(filter) == 0 {
		return nil
	}
	for name, p := range t.spec.Programs {
		if err := replaceFunction(p, "filter", tr.code); err != nil {
			return fmt.Errorf("eBPF program %s: %w", name, err)
		}
	}
	return nil
}

// replaceFunction replaces the body of a function that the program calls.
func replaceFunction(p *ebpf.ProgramSpec, name string, body asm.Instructions) error {
	begin := -1
	end := len(p.Instructions)
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		if begin < 0 && ins.Symbol() == name {
			begin = i
		} else if begin >= 0 && btf.FuncMetadata(ins) != nil {
			end = i
			break
		}
	}
	if begin < 0 {
		return fmt.Errorf("no function %s in it", name)
	}
	code := make(asm.Instructions, 0, len(p.Instructions)+len(body))
	code = append(code, p.Instructions[:begin]...)
	first := body[0]
	first.Metadata = p.Instructions[begin].Metadata // the function's symbol and types
	code = append(code, first)
	code = append(code, body[1:]...)
	p.Instructions = append(code, p.Instructions[end:]...)
	return nil
}

// Names of the programs in bpf/tap.c: for one interface, and for many.
const (
	progIngress = "tap_ingress"
	progEgress  = "tap_egress"
	progSocket  = "tap_socket"

	progManyIngress = "many_ingress"
	progManyEgress  = "many_egress"
	progManySocket  = "many_socket"
)

// tapPrograms are the programs and maps of one Tap, and their attachments.
type tapPrograms struct {
	cfg      *Config
	cpus     int
	ringSize int
	spec     *tapSpec
	coll     *ebpf.Collection // maps, and the programs for ingress and egress
	mem      []byte           // the rings
	ns       *netns.Namespace
	filter   []bpf.RawInstruction // the filter in the programs
	watch    *qdiscWatch
	ended    chan struct{} // closed when follow has ended

	mu       sync.Mutex
	attached bool
	links    map[string]link.Link // ingress, egress
	after    *afterQueue          // sees frames after the queueing discipline
	qdisc    string
	why      string // reason for the position
	socket   int    // keeps the interface in promiscuous mode; -1 without
	turns    uint32 // number of programs after the queue so far
}

// afterQueue is a program after the queueing discipline.
type afterQueue struct {
	prog *ebpf.Program
	turn uint32
	fd   int // the packet socket
}

// errKernel says what the kernel lacks.
type errKernel struct {
	what string
	err  error
}

func (e *errKernel) Error() string { return e.what + ": " + e.err.Error() }
func (e *errKernel) Unwrap() error { return e.err }

// tapHint returns the next step after an error of OpenTap, or "".
func tapHint(err error) string {
	switch {
	case errors.Is(err, errUntranslatable):
		return "this filter needs -engine ring"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "eBPF needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: run as root, `setcap cap_bpf,cap_net_admin,cap_perfmon,cap_net_raw=ep` on the program, or use -engine ring"
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, os.ErrNotExist), errors.Is(err, btf.ErrNotFound):
		return "eBPF needs Linux 6.6 with BTF (CONFIG_DEBUG_INFO_BTF): use -engine ring"
	}
	return hintFor(err)
}

// possibleCPUs returns the number of processors that may ever run a program.
func possibleCPUs() int {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return runtime.NumCPU()
	}
	return n
}

func loadTapPrograms(cfg *Config, ringSize int) (p *tapPrograms, err error) {
	p = &tapPrograms{cfg: cfg, cpus: possibleCPUs(), ringSize: ringSize, socket: -1, links: make(map[string]link.Link)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if cfg.Snaplen > tapSnap {
		return p, fmt.Errorf("%w: snapshot length %d: the engine keeps at most %d", errUntranslatable, cfg.Snaplen, tapSnap)
	}
	if p.ns, err = netns.Current(); err != nil {
		return p, err
	}
	if err := p.resolve(); err != nil {
		return p, err
	}
	if p.spec, err = newTapSpec(*cfg, ringSize, p.cpus); err != nil {
		return p, err
	}
	// Before Linux 5.11, maps counted as locked memory. If this fails, loading fails
	// below.
	_ = rlimit.RemoveMemlock()
	if p.coll, err = p.load(progIngress, progEgress); err != nil {
		return p, err
	}
	p.filter = slices.Clone(cfg.Filter)
	rings := p.coll.Maps["rings"]
	size := p.cpus * int(rings.ValueSize())
	if p.mem, err = unix.Mmap(rings.FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return p, fmt.Errorf("map eBPF rings of %d bytes: %w", size, err)
	}
	return p, p.plan()
}

// serve assigns detached programs to another tap, if that differs from the previous one
// only in its filter.
func (p *tapPrograms) serve(cfg *Config, ringSize int) error {
	here, err := netns.Current()
	if err != nil {
		return err
	}
	here.Close()
	old := p.cfg
	name := cfg.Interface == "" || cfg.Interface == old.Interface
	index := cfg.Index == 0 || cfg.Index == old.Index
	if here.Inode() != p.ns.Inode() || !name || !index || cfg.Ethernet != old.Ethernet || cfg.Snaplen != old.Snaplen ||
		cfg.Inside != old.Inside || cfg.Parse != old.Parse || cfg.WiFi != old.WiFi || cfg.Point != old.Point ||
		ringSize != p.ringSize || !slices.Equal(cfg.OwnPorts, old.OwnPorts) {
		return errors.New("these programs are for other frames")
	}
	if !slices.Equal(cfg.Filter, p.filter) {
		if err := p.replace(cfg.Filter); err != nil {
			return err
		}
	}
	if cfg.Index == 0 {
		cfg.Index = old.Index // it may be another interface's name by now
	}
	p.cfg = cfg
	if err := p.resolve(); err != nil {
		return err
	}
	return p.plan()
}

// plan determines where frames will be observed once the programs are attached.
func (p *tapPrograms) plan() (err error) {
	if p.qdisc, err = rootQdisc(p.cfg.Index); err != nil {
		return fmt.Errorf("queueing discipline: %w", err)
	}
	p.why = position(p.qdisc, p.cfg.Point)
	return nil
}

// cannotDrop reports whether a queueing discipline passes everything on immediately. An
// interface that is down has noop.
func cannotDrop(qdisc string) bool { return qdisc == "noqueue" || qdisc == "noop" }

// position returns where outgoing frames are observed, and why.
func position(qdisc string, point Point) string {
	switch {
	case cannotDrop(qdisc):
		return fmt.Sprintf("tcx: the queueing discipline is %s and cannot drop", qdisc)
	case point == BeforeQueue:
		return fmt.Sprintf("tcx, before the queueing discipline %s, which may drop what is sent", qdisc)
	case point == BothPoints:
		return fmt.Sprintf("tcx, and a packet socket behind the queueing discipline %s for what it lets through", qdisc)
	}
	return fmt.Sprintf("tcx, and a packet socket for what is sent, as the queueing discipline %s may drop", qdisc)
}

// resolve looks up the interface and rejects one that the programs cannot read.
func (p *tapPrograms) resolve() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := p.cfg.resolve(fd); err != nil {
		return err
	}
	if !p.cfg.Ethernet && !headerless(fd, p.cfg.Interface) {
		return fmt.Errorf("%w: link headers other than Ethernet's", errUntranslatable)
	}
	return nil
}

// load loads some of the programs, together with the maps that already exist.
func (p *tapPrograms) load(names ...string) (*ebpf.Collection, error) {
	spec := p.spec.spec.Copy()
	keepPrograms(spec, names...)
	delete(spec.Maps, "places") // for many interfaces only
	delete(spec.Maps, "watches")
	var opts ebpf.CollectionOptions
	if p.coll != nil {
		opts.MapReplacements = make(map[string]*ebpf.Map)
		for name, m := range p.coll.Maps {
			if name != ".rodata" { // contains the filter's constants and changes with it
				opts.MapReplacements[name] = m
			}
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, opts)
	if err != nil {
		return nil, &errKernel{"eBPF program", err}
	}
	return coll, nil
}

func keepPrograms(spec *ebpf.CollectionSpec, names ...string) {
	for name := range spec.Programs {
		if !slices.Contains(names, name) {
			delete(spec.Programs, name)
		}
	}
}

// attach attaches the programs at the position that the interface's queueing discipline
// requires, and follows changes of it.
func (p *tapPrograms) attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.ns.Do(p.attachHere)
	if err != nil {
		p.detachHere()
		if p.watch != nil {
			p.watch.close()
		}
		return err
	}
	p.attached = true
	p.ended = make(chan struct{})
	go p.follow(p.watch, p.ended)
	return nil
}

func (p *tapPrograms) attachHere() (err error) {
	if p.watch, err = watchQdisc(); err != nil {
		return err
	}
	if p.cfg.Promiscuous {
		if p.socket, err = promiscuous(p.cfg.Index); err != nil {
			return err
		}
	}
	for name, at := range map[string]ebpf.AttachType{progIngress: ebpf.AttachTCXIngress, progEgress: ebpf.AttachTCXEgress} {
		if p.links[name], err = attachTCX(p.coll.Programs[name], p.cfg.Index, at); err != nil {
			delete(p.links, name)
			return err
		}
	}
	if err := p.position(); err != nil {
		return err
	}
	return p.setVar("ingress", 1)
}

// attachTCX attaches a program to an interface, ahead of programs that may drop frames.
func attachTCX(prog *ebpf.Program, index int, at ebpf.AttachType) (link.Link, error) {
	l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: at, Anchor: link.Head()})
	if err != nil {
		return nil, &errKernel{"tcx (needs Linux 6.6)", err}
	}
	return l, nil
}

// promiscuous returns a packet socket that puts the interface into promiscuous mode but
// receives nothing, because it is bound to no protocol. It must be closed.
func promiscuous(index int) (int, error) {
	fd, err := socket(unix.SOCK_RAW)
	if err != nil {
		return -1, err
	}
	m := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("promiscuous mode: %w", err)
	}
	return fd, nil
}

// socketProgram returns a packet socket whose program sees what leaves the queueing
// discipline, and which receives nothing itself. It must be closed.
func socketProgram(prog *ebpf.Program, index int) (int, error) {
	fd, err := socket(unix.SOCK_RAW)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog.FD()); err != nil {
		unix.Close(fd)
		return -1, &errKernel{"eBPF socket filter", err}
	}
	if err := bind(fd, index, unix.ETH_P_ALL); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (p *tapPrograms) setVar(name string, v uint32) error {
	if err := p.coll.Variables[name].Set(v); err != nil {
		return fmt.Errorf("eBPF variable %s: %w", name, err)
	}
	return nil
}

// position decides where outgoing frames are observed. The new program is attached
// before the switch, which is a single store, and the old one detached after it: a
// change neither duplicates nor loses frames, except those waiting in the queue.
func (p *tapPrograms) position() error {
	kind, err := rootQdisc(p.cfg.Index)
	if err != nil {
		return fmt.Errorf("queueing discipline: %w", err)
	}
	p.qdisc = kind
	turn, early := turnBeforeQueue, uint32(0)
	switch {
	case cannotDrop(kind):
	case p.cfg.Point == BeforeQueue:
		turn, early = turnNobody, tapEarly
	default:
		if p.after == nil {
			if err := p.attachAfter(); err != nil {
				return err
			}
		}
		turn = p.after.turn
		if p.cfg.Point == BothPoints {
			early = tapEarly | tapTwice
		}
	}
	// While the program before the queue has its turn, early has no effect.
	if early != 0 {
		err = p.setVar("early", early)
	}
	if err == nil {
		err = p.setVar("egress", turn)
	}
	if err == nil && early == 0 {
		err = p.setVar("early", 0)
	}
	if err != nil {
		return err
	}
	if p.after != nil && turn != p.after.turn {
		p.dropAfter()
	}
	p.why = position(kind, p.cfg.Point)
	return nil
}

// attachAfter attaches a program after the queue, where it waits for its turn, on a
// packet socket that receives nothing itself.
//
// The transmit tracepoint (net_dev_start_xmit) is at the same place and needs no copy
// of the packet. On Linux 6.18, however, it occasionally did not run at all for some
// milliseconds: of 20,000 frames that a packet socket saw and the peer received, it
// missed up to a thousand in a row, without counting them as missed.
func (p *tapPrograms) attachAfter() error {
	turn := turnAfterQueue + p.turns
	p.turns++
	if err := p.spec.set(map[string]any{"turn": turn}); err != nil {
		return err
	}
	coll, err := p.load(progSocket)
	if err != nil {
		return err
	}
	defer coll.Close()
	prog := coll.DetachProgram(progSocket)
	fd, err := socketProgram(prog, p.cfg.Index)
	if err != nil {
		prog.Close()
		return err
	}
	p.after = &afterQueue{prog, turn, fd}
	return nil
}

func (a *afterQueue) close() {
	unix.Close(a.fd)
	a.prog.Close()
}

func (p *tapPrograms) dropAfter() {
	if p.after != nil {
		p.after.close()
		p.after = nil
	}
}

// follow runs as long as the programs are attached.
func (p *tapPrograms) follow(watch *qdiscWatch, ended chan<- struct{}) {
	defer close(ended)
	for watch.changed() {
		p.mu.Lock()
		before, after := p.why, p.why
		if p.attached {
			if err := p.ns.Do(p.position); err != nil && !interfaceGone(err) {
				// The position stays as it was; the next change tries again.
				p.why = fmt.Sprintf("%s; cannot follow a change: %v", p.why, err)
			}
			after = p.why
		}
		p.mu.Unlock()
		if p.cfg.Moved != nil && after != before {
			p.cfg.Moved(after)
		}
	}
}

// detach removes the programs from the interface's path. When it returns, none of them
// is running.
func (p *tapPrograms) detach() {
	p.mu.Lock()
	was := p.attached
	p.attached = false
	if was {
		p.detachHere()
	}
	watch, ended := p.watch, p.ended
	p.mu.Unlock()
	if was {
		watch.stop()
		<-ended
		watch.close()
		waitForPrograms()
	}
}

func (p *tapPrograms) detachHere() {
	_ = p.setVar("ingress", 0)
	_ = p.setVar("egress", turnNobody)
	_ = p.setVar("early", 0)
	for name, l := range p.links {
		l.Close()
		delete(p.links, name)
	}
	p.dropAfter()
	if p.socket >= 0 {
		unix.Close(p.socket)
		p.socket = -1
	}
}

// waitForPrograms waits until programs running on other processors have ended:
// membarrier(2) with MEMBARRIER_CMD_GLOBAL returns after an RCU grace period, and eBPF
// programs run within read-side critical sections.
func waitForPrograms() {
	const global = 1
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		time.Sleep(10 * time.Millisecond)
	}
}

// replace replaces the running programs with ones that have another filter.
func (p *tapPrograms) replace(filter []bpf.RawInstruction) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.spec
	fresh, err := loadKernel()
	if err != nil {
		return err
	}
	spec := &tapSpec{spec: fresh, cfg: old.cfg}
	if err := spec.copyConstants(old); err != nil {
		return err
	}
	if err := spec.setFilter(filter); err != nil {
		return err
	}
	p.spec = spec
	coll, err := p.load(progIngress, progEgress)
	if err != nil {
		p.spec = old
		return err
	}
	defer coll.Close()
	for _, name := range []string{progIngress, progEgress} {
		prog := coll.DetachProgram(name)
		if l := p.links[name]; l != nil {
			if err := l.Update(prog); err != nil {
				prog.Close()
				return fmt.Errorf("replace eBPF program %s: %w", name, err)
			}
		}
		p.coll.Programs[name].Close()
		p.coll.Programs[name] = prog
	}
	p.filter = slices.Clone(filter)
	if p.after == nil {
		return nil
	}
	return p.ns.Do(p.replaceAfter)
}

// replaceAfter replaces the program after the queue with one that has the new filter:
// the new one is attached before its turn, and the old one detached after its turn.
func (p *tapPrograms) replaceAfter() error {
	old := p.after
	if err := p.attachAfter(); err != nil {
		return err
	}
	if err := p.setVar("egress", p.after.turn); err != nil {
		return err
	}
	old.close()
	return nil
}

func (t *tapSpec) copyConstants(from *tapSpec) error {
	for name, v := range from.spec.Variables {
		if !v.Constant() {
			continue
		}
		t.spec.Variables[name].Value = slices.Clone(v.Value)
	}
	if err := t.set(map[string]any{"turn": turnBeforeQueue}); err != nil {
		return err
	}
	for name, m := range from.spec.Maps {
		if to := t.spec.Maps[name]; to != nil {
			to.ValueSize, to.MaxEntries = m.ValueSize, m.MaxEntries
		}
	}
	return nil
}

func (p *tapPrograms) setOwn(addrs []netip.Addr) error {
	m := p.coll.Maps["own_addrs"]
	want := make(map[[16]byte]bool, len(addrs))
	for _, a := range addrs {
		key := a.WithZone("").As16()
		want[key] = true
		if err := m.Put(key[:], uint32(1)); err != nil {
			return fmt.Errorf("own addresses: %w", err)
		}
	}
	var gone [][16]byte
	var key [16]byte
	var value uint32
	for it := m.Iterate(); it.Next(&key, &value); {
		if !want[key] {
			gone = append(gone, key)
		}
	}
	for _, key := range gone {
		_ = m.Delete(key[:]) // it was there, and nobody else deletes it
	}
	return nil
}

func (p *tapPrograms) describe() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

func (p *tapPrograms) close() error {
	var err error
	if p.mem != nil {
		err = unix.Munmap(p.mem)
		p.mem = nil
	}
	if p.coll != nil {
		p.coll.Close()
		p.coll = nil
	}
	return cmp.Or(err, p.ns.Close())
}
