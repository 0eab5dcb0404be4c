package capture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

const (
	// tapRingMin and tapRingMax bound a processor's share of Config.RingBytes.
	// The least is 3,200 small frames.
	tapRingMin = 256 << 10
	tapRingMax = 256 << 20
	// tapRingBytes is the default for Config.RingBytes: with two processors, room for
	// 100,000 small frames, 15 ms at 3.5 million per second on each. If the programs
	// parse them, half of it suffices for 130,000.
	tapRingBytes = 8 << 20
	// tapHotMax is how much of a processor's ring is used until it is full: it
	// stays in the processor's cache.
	tapHotMax = 1 << 20
	// tapNap is how long Next waits between blocks that closely follow each other:
	// waking up costs more than reading a hundred frames, and so does sending a few
	// records. It is most of the delay between a packet and its record.
	tapNap = 8 * time.Millisecond
	// tapShortNap replaces it when many frames arrive, and tapShortestNap when they
	// fill a quarter of the ring's hot part. When they fill half of it there is none.
	tapShortNap    = 3 * time.Millisecond
	tapShortestNap = 2 * time.Millisecond
	// tapOften is what closely means. A packet that comes alone is told at once,
	// and no more than some 120 wake-ups a second are asked for when few come.
	tapOften = 5 * time.Millisecond
	// tapMany is the number of bytes in a ring that count as many frames: a thousand
	// if they are parsed.
	tapMany = 32 << 10
	// tapConfirm is how long a wake-up may be missed after busy times. Then the
	// kernel's half writes a frame and looks whether we are asleep without the
	// barrier that would make it certain that we see the one or it the other.
	// Once it has been told that times are calm, and every program that did not
	// know is long over, it has the barrier, and we wait without a limit.
	tapConfirm = 20 * time.Millisecond
	// tapSettle is the time after which no program is still writing a frame
	// whose time it has read: between processors, younger frames wait.
	tapSettle = 20 * time.Microsecond
	// tapRecently is how long a processor without frames is thought to be about
	// to have one.
	tapRecently = time.Second
)

// Tap captures frames with eBPF programs in the interface's own path. The programs copy
// what a decoder needs into rings that are mapped here, one per processor: packets are
// not cloned, and no lock is taken. See bpf/tap.c.
//
// It sees incoming frames where a packet socket does. It sees outgoing frames before
// the queueing discipline if that is noqueue, which cannot drop or delay anything;
// otherwise when the frame is handed to the driver, with a program on a packet socket.
// It follows changes of the queueing discipline. With other values of Config.Point it
// also sees them before the queue.
//
// Only those bytes of a frame are kept that a decoder can need, 64 to 256, and the
// filter sees at most 256. Tap requires Linux 6.6 with BTF, CAP_BPF, CAP_NET_ADMIN, and
// CAP_PERFMON.
type Tap struct {
	cfg    Config
	taps   *Taps
	progs  *tapPrograms
	before Stats // of taps that had the programs before
	bell   *doorbell
	rings  []tapRingView
	mask   uint64
	hot    uint64 // as hot in bpf/tap.c

	// Owned by the goroutine that calls Next.
	block   Block
	held    bool
	wall    wallClock
	offset  int64  // from the kernel's clock to UTC, ns
	limit   uint64 // youngest frame of the block
	run     *tapRingView
	until   uint64        // the run's frames are the oldest as far as this time
	last    int64         // when the last block was made, by tapClock
	nap     time.Duration // before it asks to be woken again
	napped  time.Duration // since then
	waiting bool          // frames are there that are too young to be told in order
	calm    bool          // the programs have been told so
	since   int64         // when, by tapClock
	ready   func() bool   // arm
	shared  bool          // it reads for a Shared
	parsing bool          // the programs parse
	id      uint32        // of the interface of the frame that was read last, see Shared

	draining atomic.Bool
	lost     atomic.Uint64 // frames in slots that made no sense

	mu     sync.Mutex // guards what follows
	closed bool
	final  Stats
}

// tapRingView is one processor's ring as user space sees it.
type tapRingView struct {
	hdr   *tapRingHeader
	data  unsafe.Pointer
	pos   uint64 // of the next frame to be read
	end   uint64 // what is read up to in this block
	used  int64  // when there were frames last, by tapClock
	grown uint64 // behind this position all of the ring is used, see find_room in bpf/tap.c
}

// tapRingHeader is struct ring of bpf/tap.c.
type tapRingHeader struct {
	head                         uint64
	received, dropped, own, nest uint64
	wakes                        uint64
	_                            uint64
	grown                        uint64
	tail                         uint64
	asleep, calm                 uint32
	_                            [6]uint64
}

// tapSlot is struct slot there, tapExtension struct extension.
type tapSlot struct {
	time  uint64
	len   uint32
	cap   uint16
	units uint8
	flags uint8
}

type tapExtension struct {
	gsoSize   uint16
	gsoKind   uint8
	_         uint8
	tci, tpid uint16
	protocol  uint16
	_         [3]uint16
}

const (
	tapLenBits = 20 // of slot's len; the others are the interface's number
	tapLenMask = 1<<tapLenBits - 1

	tapOutgoing = 1
	tapExtended = 2
	tapTagged   = 4
	tapEarly    = 8
	tapTwice    = 16
	tapParsed   = 32 // a packet.Parsed instead of a slot
)

const tapParsedLen = uint64(unsafe.Sizeof(packet.Parsed{}))

// Taps opens one tap after another on the same interface and reuses the programs of
// closed ones: collectors that come and go must not make the kernel load and free
// programs each time, because it frees them with a delay. The zero value is ready to
// use.
type Taps struct {
	mu     sync.Mutex
	idle   *tapPrograms
	closed bool
}

// OpenTap opens a single tap, see [Taps.Open].
func OpenTap(cfg Config) (*Tap, error) {
	return (&Taps{closed: true}).Open(cfg)
}

// Open loads the programs but attaches nothing: they cost nothing until Attach. The
// interface is looked up in the network namespace of the calling thread. Where the
// engine cannot work, the error says what is missing; OpenRing is the alternative.
func (p *Taps) Open(cfg Config) (*Tap, error) {
	fail := func(err error) (*Tap, error) {
		return nil, &Error{Interface: cfg.Interface, Err: err, hint: tapHint(err)}
	}
	ownRing := cfg.RingBytes == 0
	cfg, err := cfg.withDefaults()
	if err != nil {
		return fail(err)
	}
	if ownRing {
		cfg.RingBytes = tapRingBytes
		if cfg.parses() {
			cfg.RingBytes /= 2
		}
	}
	t := &Tap{cfg: cfg, taps: p}
	if err := t.open(tapRingSize(cfg.RingBytes)); err != nil {
		t.Close()
		cfg.Interface = t.cfg.Interface
		return fail(err)
	}
	return t, nil
}

func (t *Tap) open(ringSize int) (err error) {
	if t.progs, err = t.taps.programsFor(&t.cfg, ringSize); err != nil {
		return err
	}
	if t.bell, err = newDoorbell(t.progs.coll.Maps["bell"]); err != nil {
		return fmt.Errorf("eBPF doorbell: %w", err)
	}
	t.view(t.progs.mem, ringSize)
	t.before = t.counters()
	t.parsing = t.cfg.parses()
	return nil
}

// view finds the processors' rings in mem. Another tap's frames are not ours.
func (t *Tap) view(mem []byte, ringSize int) {
	t.mask, t.hot = uint64(ringSize-1), uint64(tapHotSize(ringSize)-1)
	t.ready = t.arm
	stride := tapRingLen(ringSize)
	t.rings = make([]tapRingView, len(mem)/stride)
	for i := range t.rings {
		p := unsafe.Pointer(&mem[i*stride])
		r := tapRingView{hdr: (*tapRingHeader)(p), data: unsafe.Add(p, tapHeader)}
		r.pos = r.hdr.head
		r.hdr.tail = r.pos
		t.rings[i] = r
	}
}

// tapRingLen is the length of one processor's part of the map.
func tapRingLen(ringSize int) int { return tapHeader + ringSize + tapSpare + tapScratch }

// programsFor returns programs that are attached to nothing: idle ones, if there are
// any for the same frames.
func (p *Taps) programsFor(cfg *Config, ringSize int) (*tapPrograms, error) {
	p.mu.Lock()
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	if idle != nil {
		if idle.serve(cfg, ringSize) == nil {
			return idle, nil
		}
		idle.close()
	}
	return loadTapPrograms(cfg, ringSize)
}

// give returns programs to the idle ones.
func (p *Taps) give(progs *tapPrograms) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.idle != nil {
		return progs.close()
	}
	p.idle = progs
	return nil
}

// Close frees the programs that are kept for another tap.
func (p *Taps) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.idle == nil {
		return nil
	}
	idle := p.idle
	p.idle = nil
	return idle.close()
}

// tapRingSize divides total, in bytes, among the processors. The result is a power of
// two.
func tapRingSize(total int) int {
	size := min(max(total/possibleCPUs(), tapRingMin), tapRingMax)
	return 1 << (bits.Len(uint(size)) - 1)
}

// tapHotSize is the size of the hot part of a ring, a power of two as well.
func tapHotSize(ringSize int) int { return min(ringSize, tapHotMax) }

// Attach puts the programs into the interface's path.
func (t *Tap) Attach() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.draining.Load() {
		return &Error{Interface: t.cfg.Interface, Err: os.ErrClosed}
	}
	if err := t.progs.attach(); err != nil {
		return &Error{Interface: t.cfg.Interface, Err: err, hint: tapHint(err)}
	}
	return nil
}

// Position returns where outgoing frames are observed, and why.
func (t *Tap) Position() string { return t.progs.describe() }

// SetOwnAddrs sets the host's addresses, for Config.OwnPorts.
func (t *Tap) SetOwnAddrs(addrs []netip.Addr) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	return t.progs.setOwn(addrs)
}

// Next implements Source.
func (t *Tap) Next() (*Block, error) {
	if t.rings == nil {
		return nil, os.ErrClosed
	}
	t.release()
	for {
		draining := t.draining.Load() // before the rings are looked at: then it is the end
		if t.nap > 0 && !draining && !t.waiting {
			t.takeNap()
		}
		if t.load(draining) {
			return &t.block, nil
		}
		if draining && !t.waiting {
			return nil, io.EOF
		}
		if err := t.pause(); err != nil {
			return nil, fmt.Errorf("capture on %q: %w", t.cfg.Interface, err)
		}
	}
}

// pause is for when there was nothing to load.
func (t *Tap) pause() error {
	if t.waiting { // for some microseconds
		runtime.Gosched()
		return nil
	}
	return t.doze()
}

// takeNap lets frames come together, unless there is a lot already.
func (t *Tap) takeNap() {
	d := t.nap
	t.nap = 0
	for i := range t.rings {
		r := &t.rings[i]
		if atomic.LoadUint64(&r.hdr.head)-r.pos > (t.hot+1)/2 {
			return
		}
	}
	if t.shared {
		time.Sleep(d)
	} else {
		snooze(d)
	}
	t.napped += d
}

// snooze sleeps without telling the runtime, which keeps a processor of its own
// for this goroutine meanwhile: to take it away and give it back a few
// milliseconds later takes a dozen context switches, and the runtime's monitor
// looks for it 2,000 times a second. A signal may end it early.
func snooze(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall6(unix.SYS_CLOCK_NANOSLEEP, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
}

// doze blocks until there may be a frame.
func (t *Tap) doze() error {
	limit := tapConfirm
	switch {
	case !t.calm:
		t.setCalm(true)
	case tapClock()-t.since > int64(tapConfirm):
		limit = 0
	}
	err := t.bell.wait(t.ready, limit)
	for i := range t.rings {
		atomic.StoreUint32(&t.rings[i].hdr.asleep, 0)
	}
	if err != nil && !(t.draining.Load() && errors.Is(err, os.ErrClosed)) {
		return fmt.Errorf("eBPF doorbell: %w", err)
	}
	return nil
}

// arm asks for the bell to be rung, and reports whether there is a frame
// already.
func (t *Tap) arm() (some bool) {
	for i := range t.rings {
		r := &t.rings[i]
		atomic.StoreUint32(&r.hdr.asleep, 1)
		some = some || atomic.LoadUint64(&r.hdr.head) != r.pos
	}
	return some
}

// setCalm tells the programs whether they are to take care not to miss that we
// sleep.
func (t *Tap) setCalm(yes bool) {
	t.calm, t.since = yes, tapClock()
	for i := range t.rings {
		atomic.StoreUint32(&t.rings[i].hdr.calm, b2u(yes))
	}
}

// load makes a block of what the rings hold.
func (t *Tap) load(draining bool) bool {
	now := tapClock() // before the rings are looked at
	var used, most, active uint64
	for i := range t.rings {
		r := &t.rings[i]
		r.end = atomic.LoadUint64(&r.hdr.head)
		// After head: what it says of frames before head does not change until
		// they have been released.
		r.grown = atomic.LoadUint64(&r.hdr.grown) - 1 // 0 becomes the greatest
		if n := r.end - r.pos; n > 0 {
			used += n
			most = max(most, n)
			r.used = now
		}
		if now-r.used < int64(tapRecently) {
			active++
		}
	}
	t.waiting = false
	if used == 0 {
		return false
	}
	t.limit = math.MaxUint64
	if active > 1 && !draining {
		// A frame that is about to be written on another processor may be older
		// than the youngest here.
		t.limit = uint64(now - int64(tapSettle))
	}
	if !t.pick() {
		t.waiting = true
		return false
	}
	t.offset = t.wall.read()
	t.held = true
	switch {
	case most > (t.hot+1)/4:
		t.nap = tapShortestNap
	case most > tapMany:
		t.nap = tapShortNap
	case now-t.last-int64(t.napped) < int64(tapOften):
		t.nap = tapNap
		if t.shared {
			t.nap = sharedNap
		}
	}
	if t.calm && most > tapMany {
		t.setCalm(false)
	}
	t.napped = 0
	t.last = now
	t.block = Block{tap: t, left: uint32(used / tapUnit)}
	return true
}

// pick chooses the ring that has the oldest frame, and how far it may be read
// before another's turn comes.
func (t *Tap) pick() bool {
	t.run = nil
	oldest, next := uint64(math.MaxUint64), uint64(math.MaxUint64)
	for i := range t.rings {
		r := &t.rings[i]
		if r.pos == r.end {
			continue
		}
		switch at := t.slot(r).time; {
		case at < oldest:
			t.run, oldest, next = r, at, oldest
		case at < next:
			next = at
		}
	}
	if t.run == nil || oldest > t.limit {
		t.run = nil
		return false
	}
	t.until = min(next, t.limit)
	return true
}

func (t *Tap) slot(r *tapRingView) *tapSlot {
	at := r.pos & t.hot
	if r.pos > r.grown {
		at = (r.pos - r.grown + t.hot + tapSpare) & t.mask
	}
	return (*tapSlot)(unsafe.Add(r.data, at))
}

// nextInTap reads the next frame.
func (b *Block) nextInTap(f *packet.Frame) bool {
	t := b.tap
	r := t.run
	if r == nil {
		b.left = 0
		return false
	}
	s := t.slot(r)
	if r.pos == r.end || s.time > t.until {
		if !t.pick() {
			b.left = 0
			return false
		}
		r = t.run
		s = t.slot(r)
	}
	units := uint64(s.units)
	b.left -= uint32(units)
	r.pos += units * tapUnit
	if units == 0 || r.pos > r.end || s.flags&tapParsed != 0 || int(s.cap) > tapSnap {
		return t.abandon(r)
	}
	f.Time = int64(s.time) + t.offset
	f.WireLen = int(s.len & tapLenMask)
	t.id = s.len >> tapLenBits
	f.GSOType, f.GSOSize = packet.GSONone, 0
	f.VLAN = packet.VLAN{}
	f.BeforeQueue, f.Twice = s.flags&tapEarly != 0, s.flags&tapTwice != 0
	f.Direction = packet.Incoming
	if s.flags&tapOutgoing != 0 {
		f.Direction = packet.Outgoing
	}
	data := unsafe.Add(unsafe.Pointer(s), unsafe.Sizeof(*s))
	f.Link = packet.Ethernet
	if s.flags&tapExtended != 0 {
		e := (*tapExtension)(data)
		data = unsafe.Add(data, unsafe.Sizeof(*e))
		f.GSOType, f.GSOSize = e.gsoKind, e.gsoSize
		if s.flags&tapTagged != 0 {
			f.VLAN = packet.VLAN{TCI: e.tci, TPID: e.tpid, Present: true}
		}
		if !t.cfg.Ethernet {
			f.Link, f.Protocol = t.cfg.link(), e.protocol
		}
	}
	f.Data = unsafe.Slice((*byte)(data), min(int(s.cap), t.cfg.Snaplen))
	return true
}

// parsed gives the next frames, at most n, if the programs have parsed them. Next gives what
// follows.
func (t *Tap) parsed(n int) []packet.Parsed {
	r := t.run
	if r == nil {
		return nil
	}
	if r.pos == r.end || t.slot(r).time > t.until {
		if !t.pick() {
			t.block.left = 0
			return nil
		}
		r = t.run
	}
	first := t.slot(r)
	// As far as they are next to each other in memory.
	at := uint64(uintptr(unsafe.Pointer(first)) - uintptr(r.data))
	until, size := r.end, t.hot+1
	if r.pos > r.grown {
		size = t.mask + 1
	} else if r.end > r.grown {
		until = r.grown + 1
	}
	most := min((until-r.pos)/tapParsedLen, (size-at+tapParsedLen-1)/tapParsedLen, uint64(n))
	frames := unsafe.Slice((*packet.Parsed)(unsafe.Pointer(first)), most)
	for i := range frames {
		if f := &frames[i]; f.Flags&tapParsed == 0 || uint64(f.Time) > t.until {
			frames = frames[:i]
			break
		}
	}
	length := uint64(len(frames)) * tapParsedLen
	r.pos += length
	t.block.left -= uint32(length / tapUnit)
	return frames
}

// abandon gives up what a ring holds. It takes a bug to come here.
func (t *Tap) abandon(r *tapRingView) bool {
	t.lost.Add(1)
	r.pos = r.end
	t.run = nil
	t.block.left = 0
	return false
}

// release gives the block's places back to the programs.
func (t *Tap) release() {
	if !t.held {
		return
	}
	t.held = false
	t.block.left = 0
	for i := range t.rings {
		r := &t.rings[i]
		// What was not read stays for the next block.
		if r.pos != r.hdr.tail {
			atomic.StoreUint64(&r.hdr.tail, r.pos)
		}
	}
}

// tapClock is the clock that the programs read, CLOCK_MONOTONIC. The runtime
// reads the same, without a system call.
func tapClock() int64 { return monotonicAt(time.Now()) }

func monotonicAt(t time.Time) int64 { return int64(t.Sub(tapEpoch.at)) + tapEpoch.clock }

// tapEpoch is one moment by both clocks.
var tapEpoch = func() (e struct {
	at    time.Time
	clock int64
}) {
	var ts unix.Timespec
	for range 10 {
		e.at = time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic(err) // every Linux has this clock
		}
		if time.Since(e.at) < wallSet/2 {
			break
		}
	}
	e.clock = ts.Nano()
	return e
}()

// wallClock keeps the way from CLOCK_MONOTONIC to UTC. Both are slewed alike, so
// that it changes only when the clock is set; then the frames of the last few
// milliseconds before are told by the new clock. Smaller differences are those
// of measuring, and following them would put frames out of order.
type wallClock struct {
	offset int64 // ns
	known  bool
}

// wallSet is from what difference on the clock has been set.
const wallSet = 50 * time.Microsecond

func (w *wallClock) read() int64 {
	narrowest := int64(math.MaxInt64) // the first offset stays: the best of all readings
	var best int64
	for range 10 {
		before := tapClock()
		t := time.Now()
		after := tapClock()
		if width := after - before; width < narrowest {
			narrowest, best = width, t.UnixNano()-(before+after)/2
		}
		if w.known && narrowest <= int64(wallSet/2) { // not interrupted in between
			break
		}
	}
	d := best - w.offset
	if !w.known || narrowest <= int64(wallSet/2) && (d > int64(wallSet) || d < -int64(wallSet)) {
		w.offset, w.known = best, true
	}
	return w.offset
}

// Drain ends the capture; Next returns what is left in the rings.
func (t *Tap) Drain() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.draining.Load() {
		return
	}
	t.progs.detach()
	t.draining.Store(true)
	_ = t.bell.Flush() // fails if it is closed, and then nobody waits
}

// SetFilter replaces the filter, by replacing each program in place, so that every
// frame is tested by exactly one of the two filters.
func (t *Tap) SetFilter(filter []bpf.RawInstruction) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return os.ErrClosed
	}
	if t.draining.Load() {
		return nil
	}
	if err := t.progs.replace(filter); err != nil {
		return &Error{Interface: t.cfg.Interface, Err: err, hint: tapHint(err)}
	}
	return nil
}

// Stats returns the sum of the processors' counters.
func (t *Tap) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return t.final
	}
	return t.count()
}

func (t *Tap) count() Stats {
	s := t.counters()
	s.Received -= t.before.Received
	s.Dropped -= t.before.Dropped
	s.Own -= t.before.Own
	s.Wakes -= t.before.Wakes
	s.Dropped += t.lost.Load()
	return s
}

// counters returns the programs' counters since they were loaded.
func (t *Tap) counters() (s Stats) {
	for i := range t.rings {
		h := t.rings[i].hdr
		nested := atomic.LoadUint64(&h.nest)
		s.Received += atomic.LoadUint64(&h.received) + nested
		s.Dropped += atomic.LoadUint64(&h.dropped) + nested
		s.Own += atomic.LoadUint64(&h.own)
		s.Wakes += atomic.LoadUint64(&h.wakes)
	}
	return s
}

// Close unmaps the rings. It must be called by the goroutine that calls Next, or after
// that goroutine has ended.
func (t *Tap) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if t.progs != nil {
		t.progs.detach()
		t.final = t.count()
	}
	t.closed = true
	t.rings, t.run, t.block, t.held = nil, nil, Block{}, false
	var err error
	if t.bell != nil {
		err = t.bell.Close()
	}
	if t.progs != nil {
		err = cmp.Or(err, t.taps.give(t.progs))
	}
	return err
}
