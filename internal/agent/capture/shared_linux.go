package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/agent/packet"
)

const (
	// sharedNap replaces tapNap: frames from many interfaces arrive in small groups,
	// each of which is handed to a goroutine and sent separately.
	sharedNap = 14 * time.Millisecond
	// maxWatched is the maximum number of interfaces that a Shared can watch at the
	// same time.
	maxWatched = 4096
	// A parcel is what is handed to one interface's reader at once.
	parcelFrames = 256
	parcelBytes  = 32 << 10
	// minParcels is the minimum length of an interface's queue; otherwise
	// Config.RingBytes decides.
	minParcels = 64
)

// Values of egress of struct watched in bpf/tap.c.
const (
	sentByTCX    = 1
	sentBySocket = 2
	sentByBoth   = 3
	sentBefore   = 4
)

// Shared captures frames of many interfaces, in any network namespaces, with one set of
// eBPF programs and one set of rings: an additional interface costs two attachments,
// but no program, thread, or ring. It sees frames where a [Tap] does. One goroutine
// reads the rings and hands each interface's frames to its [Source]. It wakes at most
// as often as a Tap would, regardless of the number of interfaces.
//
// Apart from the source MAC address, filters are applied here and not in the kernel, so
// rejected frames may cost as much as others. Config.Judge converts the filters, and
// Config.OwnPorts is ignored. Only interfaces with Ethernet headers can be watched.
type Shared struct {
	tap     *Tap // reads the rings
	coll    *ebpf.Collection
	mem     []byte // the rings
	watches []byte
	ended   chan struct{} // closed when the reader has ended
	pool    sync.Pool     // of *parcel

	mu       sync.Mutex
	changed  sync.Cond    // signals changes of active or closed
	byID     []*sharedTap // attached, or not yet read to the end; nil: free
	active   int          // number of entries in byID
	next     uint32       // the ID after the one assigned last
	barriers []barrier
	draining []*sharedTap                 // waiting until the reader has passed their last frame
	holders  map[interfaceKey]*sharedTap  // the attached tap of each interface
	current  atomic.Pointer[[]*sharedTap] // byID, for the reader
	closed   bool
	err      error // why the reader failed
}

// watched is struct watched of bpf/tap.c.
type watched struct {
	ingress, egress uint32
	dropped         uint64
	from            uint32
	mac             [6]byte
	_               [38]byte
}

// parcel is a group of frames of one interface, with their data.
type parcel struct {
	frames []packet.Frame
	data   []byte
}

// OpenShared loads the programs, with rings of ringBytes in total (0 for the default),
// and starts reading even before anything is attached; the caller must Close it. inside
// is Config.Inside for all sources.
func OpenShared(ringBytes int, inside bool) (*Shared, error) {
	s, err := openShared(ringBytes, inside)
	if err != nil {
		s.free()
		return nil, &Error{Interface: "many interfaces", Err: err, hint: tapHint(err)}
	}
	go s.read()
	return s, nil
}

func openShared(ringBytes int, inside bool) (*Shared, error) {
	cfg, err := Config{Interface: "any", Ethernet: true, RingBytes: ringBytes, Inside: inside}.withDefaults()
	s := &Shared{
		tap:   &Tap{cfg: cfg, shared: true},
		byID:  make([]*sharedTap, 1), // 0 is not an ID
		ended: make(chan struct{}), holders: map[interfaceKey]*sharedTap{},
	}
	s.changed.L = &s.mu
	s.pool.New = func() any {
		return &parcel{frames: make([]packet.Frame, 0, parcelFrames), data: make([]byte, 0, parcelBytes)}
	}
	if err != nil {
		return s, err
	}
	size, cpus := tapRingSize(cfg.RingBytes), possibleCPUs()
	spec, err := newTapSpec(cfg, size, cpus)
	if err != nil {
		return s, err
	}
	keepPrograms(spec.spec, progManyIngress, progManyEgress, progManySocket)
	_ = rlimit.RemoveMemlock() // as loadTapPrograms does
	if s.coll, err = ebpf.NewCollection(spec.spec); err != nil {
		return s, &errKernel{"eBPF program", err}
	}
	if s.mem, err = mapMemory(s.coll.Maps["rings"]); err != nil {
		return s, err
	}
	if s.watches, err = mapMemory(s.coll.Maps["watches"]); err != nil {
		return s, err
	}
	s.tap.view(s.mem, size)
	s.publish()
	if s.tap.bell, err = newDoorbell(s.coll.Maps["bell"]); err != nil {
		return s, fmt.Errorf("eBPF doorbell: %w", err)
	}
	return s, nil
}

// mapMemory maps an array shared with the programs.
func mapMemory(m *ebpf.Map) ([]byte, error) {
	size := int(m.MaxEntries()) * int(m.ValueSize())
	page := unix.Getpagesize()
	mem, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map eBPF memory of %d bytes: %w", size, err)
	}
	return mem[:size], nil
}

// Close frees everything. All sources must have been closed.
func (s *Shared) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.changed.Broadcast()
	s.mu.Unlock()
	if was {
		return nil
	}
	_ = s.tap.bell.Flush() // fails if it is closed
	<-s.ended
	s.mu.Lock()
	for _, m := range s.byID {
		if m != nil {
			s.remove(m)
		}
	}
	s.mu.Unlock()
	return s.free()
}

// remove ends a source for which no more frames will arrive. The caller must hold mu.
func (s *Shared) remove(m *sharedTap) {
	m.dropped.Store(atomic.LoadUint64(&s.watch(m.id).dropped))
	s.byID[m.id] = nil
	s.active--
	m.end()
}

func (s *Shared) free() error {
	var err error
	if s.tap.bell != nil {
		err = s.tap.bell.Close()
	}
	for _, mem := range [][]byte{s.mem, s.watches} {
		if mem != nil {
			err = cmp.Or(err, unix.Munmap(mem[:cap(mem)]))
		}
	}
	if s.coll != nil {
		s.coll.Close()
	}
	return err
}

// watch returns the entry in which the programs look up what to report of an interface.
func (s *Shared) watch(id uint32) *watched {
	return (*watched)(unsafe.Pointer(&s.watches[uintptr(id)*unsafe.Sizeof(watched{})]))
}

// Open returns a source for an interface in the namespace, which must stay open as long
// as the source. Nothing is attached yet.
func (s *Shared) Open(ns *netns.Namespace, cfg Config) (Source, error) {
	fail := func(err error) (Source, error) {
		return nil, &Error{Interface: cfg.Interface, Err: err, hint: tapHint(err)}
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fail(err)
	}
	if cfg.Snaplen > tapSnap {
		return fail(fmt.Errorf("%w: snapshot length %d: the engine keeps at most %d", errUntranslatable, cfg.Snaplen, tapSnap))
	}
	if !cfg.Ethernet {
		return fail(fmt.Errorf("%w: link headers other than Ethernet's", errUntranslatable))
	}
	m := &sharedTap{s: s, ns: ns, cfg: cfg, promisc: -1, socket: -1, ready: make(chan struct{}, 1), ended: make(chan struct{})}
	err = ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		defer unix.Close(fd)
		return m.cfg.resolve(fd)
	})
	if err != nil {
		return fail(err)
	}
	if err := m.setJudge(cfg.Filter); err != nil {
		return fail(err)
	}
	return m, nil
}

// enter gives m an ID and adds it to the sources being read.
func (s *Shared) enter(m *sharedTap) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.err != nil {
		return cmp.Or(s.err, os.ErrClosed)
	}
	if s.active >= maxWatched-1 {
		return fmt.Errorf("%d interfaces are watched already: %w", s.active, unix.ENOSPC)
	}
	for { // reuse an ID as late as possible
		s.next = s.next%(maxWatched-1) + 1
		if int(s.next) >= len(s.byID) {
			s.byID = append(s.byID, nil)
			s.next = uint32(len(s.byID) - 1)
		}
		if s.byID[s.next] == nil {
			break
		}
	}
	m.id = s.next
	*s.watch(m.id) = watched{}
	s.byID[m.id] = m
	s.active++
	s.publish()
	s.changed.Broadcast()
	return nil
}

// setHolder makes m the holder of its interface and returns the previous holder, or
// nil. The kernel attaches a program only once to an interface, and an interface has
// one ID.
func (s *Shared) setHolder(m *sharedTap) (before *sharedTap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.holders[m.key()]
	s.holders[m.key()] = m
	return before
}

// giveUp removes m as the holder of its interface, and reports whether it still was.
func (s *Shared) giveUp(m *sharedTap) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders[m.key()] != m {
		return false
	}
	delete(s.holders, m.key())
	return true
}

// leave waits, in the background, until the reader has passed m's last frame. The
// programs no longer report any.
func (s *Shared) leave(m *sharedTap) {
	m.heads = s.heads()
	s.mu.Lock()
	s.draining = append(s.draining, m)
	s.mu.Unlock()
	_ = s.tap.bell.Flush() // fails if it is closed; then nobody reads
}

// heads returns the positions up to which the rings are written.
func (s *Shared) heads() (heads []uint64) {
	for i := range s.tap.rings {
		heads = append(heads, atomic.LoadUint64(&s.tap.rings[i].hdr.head))
	}
	return heads
}

// hasPassed reports whether the reader has read up to heads. Only the reader calls it.
func (s *Shared) hasPassed(heads []uint64) bool {
	for i, head := range heads {
		if s.tap.rings[i].pos < head {
			return false
		}
	}
	return true
}

// barrier is a position in the rings that a goroutine waits for the reader to pass.
type barrier struct {
	heads  []uint64
	passed chan struct{}
}

// catchUp waits until everything captured so far has been handed out.
func (s *Shared) catchUp() {
	b := barrier{s.heads(), make(chan struct{})}
	s.mu.Lock()
	s.barriers = append(s.barriers, b)
	s.mu.Unlock()
	_ = s.tap.bell.Flush() // fails if it is closed; then nobody reads
	select {
	case <-b.passed:
	case <-s.ended:
	}
}

// publish makes the current list of sources visible to the reader. The caller must hold
// mu.
func (s *Shared) publish() {
	list := slices.Clone(s.byID)
	s.current.Store(&list)
}

// read is the reader's goroutine.
func (s *Shared) read() {
	defer close(s.ended)
	var touched []*sharedTap
	for s.wanted() {
		t := s.tap
		if t.nap > 0 && !t.waiting {
			t.takeNap()
		}
		if t.load(false) {
			touched = s.deal(touched[:0])
			t.release()
			s.finish()
			continue
		}
		s.finish()
		if err := t.pause(); err != nil && !errors.Is(err, os.ErrClosed) {
			s.fail(fmt.Errorf("capture: %w", err))
			return
		}
	}
}

// wanted waits until there is a source to read for. It reports false if there will be
// none.
func (s *Shared) wanted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.active == 0 && !s.closed {
		s.changed.Wait()
	}
	return !s.closed
}

// deal distributes the frames of a block to their sources.
func (s *Shared) deal(touched []*sharedTap) []*sharedTap {
	list := *s.current.Load()
	var f packet.Frame
	for s.tap.block.Next(&f) {
		id := s.tap.id
		if int(id) >= len(list) || list[id] == nil {
			// Its source, if any, was added after the list was loaded.
			list = *s.current.Load()
			if int(id) >= len(list) || list[id] == nil {
				continue
			}
		}
		m := list[id]
		if judge := m.judge.Load(); judge != nil && !(*judge)(&f) {
			continue
		}
		if m.filling == nil {
			touched = append(touched, m)
		}
		m.addFrame(&f)
	}
	for _, m := range touched {
		m.hand()
	}
	return touched
}

// finish ends the sources whose last frame has been handed out.
func (s *Shared) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.barriers = slices.DeleteFunc(s.barriers, func(b barrier) bool {
		if !s.hasPassed(b.heads) {
			return false
		}
		close(b.passed)
		return true
	})
	before := len(s.draining)
	s.draining = slices.DeleteFunc(s.draining, func(m *sharedTap) bool {
		if !s.hasPassed(m.heads) {
			return false
		}
		s.remove(m)
		return true
	})
	if len(s.draining) != before {
		s.publish()
	}
}

// Err returns the error that ended all sources and prevents new ones, or nil.
func (s *Shared) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail ends all sources.
func (s *Shared) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	for _, m := range s.byID {
		if m != nil {
			m.end()
		}
	}
}

// sharedTap is the source for one interface of a Shared.
type sharedTap struct {
	s   *Shared
	ns  *netns.Namespace
	cfg Config
	id  uint32 // valid once attached

	judge   atomic.Pointer[func(*packet.Frame) bool]
	heads   []uint64 // positions of the rings when it left; for finish
	filling *parcel  // owned by the reader
	ready   chan struct{}
	ended   chan struct{} // closed when over is set

	received atomic.Uint64 // frames that passed the filter
	lost     atomic.Uint64 // of those, dropped because our reader was too slow
	dropped  atomic.Uint64 // by the kernel, set once it has ended

	queueMu sync.Mutex
	queue   []*parcel
	over    bool // no more frames will arrive
	gone    bool // closed

	// Owned by the goroutine that calls Next.
	held  *parcel
	block Block

	mu       sync.Mutex // guards what follows
	attached bool
	detached bool // the programs are detached: Drain has begun, or another source has the interface
	drained  bool
	closed   bool
	from     Judge // of the filter
	watching *qdiscWatch
	follower chan struct{} // closed when follow has ended
	links    []link.Link
	promisc  int // sockets, or -1
	socket   int
	why      string
}

func (m *sharedTap) setJudge(filter []bpf.RawInstruction) error {
	if len(filter) == 0 || m.cfg.Judge == nil {
		m.from = Judge{}
		m.tell(m.from)
		m.judge.Store(nil)
		return nil
	}
	judge, err := m.cfg.Judge(filter)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFilter, err)
	}
	m.tell(Judge{}) // until the new filter is in place
	m.judge.Store(&judge.Match)
	m.from = judge
	m.tell(judge)
	return nil
}

// tell lets the programs filter out what they can, if they are attached.
func (m *sharedTap) tell(j Judge) {
	if !m.attached {
		return
	}
	w := m.s.watch(m.id)
	atomic.StoreUint32(&w.from, 0)
	w.mac = j.MAC
	atomic.StoreUint32(&w.from, uint32(j.From))
}

// addFrame copies a frame, because the ring's memory will be reused.
func (m *sharedTap) addFrame(f *packet.Frame) {
	m.received.Add(1)
	p := m.filling
	if p != nil && (len(p.frames) == cap(p.frames) || len(p.data)+len(f.Data) > cap(p.data)) {
		m.hand()
		p = nil
	}
	if p == nil {
		p = m.last(len(f.Data))
		m.filling = p
	}
	at := len(p.data)
	p.data = append(p.data, f.Data[:min(len(f.Data), m.cfg.Snaplen)]...)
	p.frames = append(p.frames, *f)
	p.frames[len(p.frames)-1].Data = p.data[at:]
}

// last returns the newest queued parcel, if it has room for another frame of n bytes,
// or a new one. Filling parcels matters because the queue's limit counts parcels: a
// reader that has fallen behind must not lose frames to nearly empty ones.
func (m *sharedTap) last(n int) *parcel {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	if at := len(m.queue) - 1; at >= 0 {
		if p := m.queue[at]; len(p.frames) < cap(p.frames) && len(p.data)+n <= cap(p.data) {
			m.queue[at] = nil
			m.queue = m.queue[:at]
			return p
		}
	}
	return m.s.pool.Get().(*parcel)
}

// hand queues a parcel for the reader of m, or drops its frames.
func (m *sharedTap) hand() {
	p := m.filling
	m.filling = nil
	if p == nil {
		return
	}
	m.queueMu.Lock()
	full := len(m.queue) >= max(m.cfg.RingBytes/parcelBytes, minParcels) || m.over
	if !full {
		m.queue = append(m.queue, p)
	}
	m.queueMu.Unlock()
	if full {
		m.lost.Add(uint64(len(p.frames)))
		m.s.recycle(p)
		return
	}
	m.notify()
}

func (s *Shared) recycle(p *parcel) {
	p.frames, p.data = p.frames[:0], p.data[:0]
	s.pool.Put(p)
}

func (m *sharedTap) notify() {
	select {
	case m.ready <- struct{}{}:
	default: // a wake-up is already pending
	}
}

// end marks that no more frames will arrive.
func (m *sharedTap) end() {
	m.queueMu.Lock()
	if !m.over {
		close(m.ended)
	}
	m.over = true
	m.queueMu.Unlock()
	m.notify()
}

// Next implements Source.
func (m *sharedTap) Next() (*Block, error) {
	if m.held != nil {
		m.s.recycle(m.held)
		m.held, m.block = nil, Block{}
	}
	for {
		p, err := m.pop()
		switch {
		case p != nil:
			m.held = p
			m.block = Block{left: uint32(len(p.frames)), frames: p.frames}
			return &m.block, nil
		case err == io.EOF:
			m.s.mu.Lock()
			defer m.s.mu.Unlock()
			return nil, cmp.Or(m.s.err, err)
		case err != nil:
			return nil, err
		}
		<-m.ready
	}
}

func (m *sharedTap) pop() (p *parcel, err error) {
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	switch {
	case m.gone:
		return nil, os.ErrClosed
	case len(m.queue) > 0:
	case m.over:
		return nil, io.EOF
	default:
		return nil, nil
	}
	p = m.queue[0]
	m.queue[0] = nil
	m.queue = m.queue[1:]
	if len(m.queue) == 0 {
		m.queue = nil
	}
	return p, nil
}

// Attach implements Source.
func (m *sharedTap) Attach() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) error {
		return &Error{Interface: m.cfg.Interface, Err: err, hint: tapHint(err)}
	}
	if m.closed || m.attached || m.drained {
		return fail(os.ErrClosed)
	}
	if err := m.s.enter(m); err != nil {
		return fail(err)
	}
	if before := m.s.setHolder(m); before != nil {
		before.makeWay()
	}
	if err := m.ns.Do(m.attachHere); err != nil {
		m.detachHere()
		m.drained = true
		m.s.leave(m)
		return fail(err)
	}
	m.attached = true
	m.follower = make(chan struct{})
	go m.follow(m.watching, m.follower)
	return nil
}

// interfaceKey is struct place of bpf/tap.c.
type interfaceKey struct{ inum, index uint32 }

func (m *sharedTap) key() interfaceKey {
	return interfaceKey{uint32(m.ns.Inode()), uint32(m.cfg.Index)}
}

func (m *sharedTap) attachHere() (err error) {
	if m.watching, err = watchQdisc(); err != nil {
		return err
	}
	if m.cfg.Promiscuous {
		if m.promisc, err = promiscuous(m.cfg.Index); err != nil {
			return err
		}
	}
	if err := m.s.coll.Maps["places"].Put(m.key(), m.id); err != nil {
		return fmt.Errorf("eBPF map of interfaces: %w", err)
	}
	for name, at := range map[string]ebpf.AttachType{progManyIngress: ebpf.AttachTCXIngress, progManyEgress: ebpf.AttachTCXEgress} {
		l, err := attachTCX(m.s.coll.Programs[name], m.cfg.Index, at)
		if err != nil {
			return err
		}
		m.links = append(m.links, l)
	}
	if err := m.position(); err != nil {
		return err
	}
	w := m.s.watch(m.id)
	w.mac = m.from.MAC
	atomic.StoreUint32(&w.from, uint32(m.from.From))
	atomic.StoreUint32(&w.ingress, 1)
	return nil
}

// position decides where outgoing frames are observed, as tapPrograms.position does.
func (m *sharedTap) position() error {
	qdisc, err := rootQdisc(m.cfg.Index)
	if err != nil {
		return fmt.Errorf("queueing discipline: %w", err)
	}
	w := m.s.watch(m.id)
	by := uint32(sentBySocket)
	switch {
	case cannotDrop(qdisc):
		by = sentByTCX
	case m.cfg.Point == BeforeQueue:
		by = sentBefore
	case m.cfg.Point == BothPoints:
		by = sentByBoth
	}
	behind := by == sentBySocket || by == sentByBoth
	if behind && m.socket < 0 {
		if m.socket, err = socketProgram(m.s.coll.Programs[progManySocket], m.cfg.Index); err != nil {
			return err
		}
	}
	atomic.StoreUint32(&w.egress, by)
	if !behind {
		m.closeSocket()
	}
	m.why = position(qdisc, m.cfg.Point)
	return nil
}

func (m *sharedTap) closeSocket() {
	if m.socket >= 0 {
		unix.Close(m.socket)
		m.socket = -1
	}
}

// follow runs as long as the programs are attached.
func (m *sharedTap) follow(watch *qdiscWatch, ended chan<- struct{}) {
	defer close(ended)
	for watch.changed() {
		m.mu.Lock()
		before := m.why
		if m.attached && !m.detached {
			if err := m.ns.Do(m.position); err != nil && !interfaceGone(err) {
				m.why = fmt.Sprintf("%s; cannot follow a change: %v", m.why, err)
			}
		}
		after := m.why
		m.mu.Unlock()
		if m.cfg.Moved != nil && after != before {
			m.cfg.Moved(after)
		}
	}
}

// makeWay detaches the programs, because another source takes over the interface; the
// old source may not have been drained yet. Frames captured so far can still be read.
func (m *sharedTap) makeWay() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.detachHere()
}

// Position returns where outgoing frames are observed, and why. It is "" before Attach.
func (m *sharedTap) Position() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

// Drain implements Source.
func (m *sharedTap) Drain() {
	m.mu.Lock()
	was := m.attached
	m.attached = false
	first := !m.drained
	m.drained = true
	if was {
		m.detachHere()
	}
	watch, ended := m.watching, m.follower
	m.mu.Unlock()
	switch {
	case was:
		watch.stop()
		<-ended
		watch.close()
		waitForPrograms()
		m.s.leave(m)
		select { // after some milliseconds everything is counted
		case <-m.ended:
		case <-m.s.ended:
		}
	case first: // it never was attached
		m.end()
	}
}

// detachHere detaches the programs but leaves the watch open, if there is one.
func (m *sharedTap) detachHere() {
	if m.detached {
		return
	}
	m.detached = true
	w := m.s.watch(m.id)
	atomic.StoreUint32(&w.ingress, 0)
	atomic.StoreUint32(&w.egress, 0)
	for _, l := range m.links {
		l.Close()
	}
	m.links = nil
	if m.s.giveUp(m) {
		_ = m.s.coll.Maps["places"].Delete(m.key()) // it may not be there
	}
	m.closeSocket()
	if m.promisc >= 0 {
		unix.Close(m.promisc)
		m.promisc = -1
	}
	if m.follower == nil && m.watching != nil { // Attach failed
		m.watching.close()
		m.watching = nil
	}
}

// SetFilter implements Source.
func (m *sharedTap) SetFilter(filter []bpf.RawInstruction) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return os.ErrClosed
	case m.drained:
		return nil
	}
	if m.attached {
		m.s.catchUp() // earlier frames are tested by the old filter
	}
	if err := m.setJudge(filter); err != nil {
		return &Error{Interface: m.cfg.Interface, Err: err}
	}
	return nil
}

// Stats implements Source. Frames dropped by the kernel had not been filtered.
func (m *sharedTap) Stats() Stats {
	m.s.mu.Lock()
	dropped := m.dropped.Load()
	if int(m.id) < len(m.s.byID) && m.s.byID[m.id] == m {
		dropped = atomic.LoadUint64(&m.s.watch(m.id).dropped)
	}
	m.s.mu.Unlock()
	return Stats{Received: m.received.Load() + dropped, Dropped: m.lost.Load() + dropped}
}

// Close implements Source.
func (m *sharedTap) Close() error {
	m.Drain()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	m.end() // frames that still arrive are dropped
	m.queueMu.Lock()
	defer m.queueMu.Unlock()
	m.gone = true
	for _, p := range m.queue {
		m.lost.Add(uint64(len(p.frames)))
		m.s.recycle(p)
	}
	m.queue = nil
	return nil
}

var _ Source = (*sharedTap)(nil)
