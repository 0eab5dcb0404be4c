package rollup

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/wire"
)

const (
	nsPerSec = int64(time.Second)
	// silence is for how many seconds a sender's agent that reports nothing is
	// still expected to.
	silence = 10
	// maxOpen bounds Config.Late and Config.Future, in seconds.
	maxOpen = 60
	// reportDelay is how long after its end a second counts as complete: an
	// agent of ours sends records at once, and the rest is the way.
	reportDelay = 250 * time.Millisecond
	// farBack is how far the wall clock must be set back for history to begin
	// anew. Until it has made up for less, packets count as late.
	farBack = 60
	// gaugeAge is when a host statistic that is no longer sent is forgotten.
	gaugeAge = 5 * nsPerSec
	// ageSpan is for how many seconds ages of packets are remembered.
	ageSpan = 10
)

// Conversations whose packets are added up before they go into their second:
// connSets x connWays of 88 bytes. One that does not fit only costs time.
const (
	connSets = 1 << 14
	connWays = 4
)

// maxTrackers bounds how many MGEN flows are followed at receivers at the same
// time; the one that was silent for longest gives way. Each takes 800 bytes.
const maxTrackers = 4096

// conn is what was counted of a conversation and is not yet in its second.
type conn struct {
	key      connKey
	sec      int64
	bytes    uint64
	packets  uint32
	messages uint32
	set      uint32 // of rows
	tracker  int32  // or -1
	era      uint32 // of trackers when tracker was looked up
	used     bool
	active   bool // its index is in Store.active
}

// hostState is what a store knows of an agent.
type hostState struct {
	HostStatus
	lastLate, lastFuture int64 // second of now
	cpuAt, memoryAt      int64 // ns of now
	// ages has the least age in each of the last seconds.
	ages  [ageSpan]time.Duration
	ageAt [ageSpan]int64 // the second that ages[i] is for
}

// Store is owned by one goroutine, which alone may call Add, Tick and Reset.
// Snapshot and Next are for everybody.
type Store struct {
	cfg    Config
	late   int64 // seconds
	future int64

	last atomic.Pointer[Snapshot]
	mu   sync.Mutex
	wake chan struct{} // closed at the next publication

	seed    uint64
	conns   []conn
	victim  uint32
	active  []int32 // indexes of conns that have something
	rowSets [][]int
	setOf   map[string]uint32
	rowBuf  []int
	keyBuf  []byte

	trackers  []tracker
	trackerOf map[entryKey]int32
	era       uint32

	hosts []hostState
	addrs *addresses

	nowSec    int64 // of the store's clock; valid iff started
	nowNS     int64
	nextNS    int64 // when nowSec is over
	started   bool
	first     int64 // oldest open second
	seconds   []*second
	lastSent  map[pairKey]int64 // the newest second that its sender's agent reported
	freezer   freezer
	packBuf   []byte
	tiers     [len(tierSpecs)]tier
	dir       *directory
	forgotten uint64
	owners    map[[16]byte]int // as the last snapshot has them
	changed   []int64
	sum       map[cellKey]Counts // since the start, of what has left the open seconds
	records   uint64
	lateSum   uint64
	futureSum uint64
}

// New makes an empty store.
func New(cfg Config) *Store {
	if cfg.Budget == 0 {
		cfg.Budget = DefaultBudget
	}
	s := &Store{
		cfg: cfg, late: wholeSeconds(cfg.Late, 5), future: wholeSeconds(cfg.Future, 2),
		wake: make(chan struct{}), seed: rand.Uint64(),
		conns:   make([]conn, connSets*connWays),
		setOf:   make(map[string]uint32),
		addrs:   newAddresses(cfg.Hosts),
		hosts:   make([]hostState, len(cfg.Hosts)),
		freezer: newFreezer(),
	}
	if cfg.Clock == ByNewest {
		s.future = 0
	}
	for range s.late + s.future + 1 {
		s.seconds = append(s.seconds, newSecond(func(set uint32) []int { return s.rowSets[set] }))
	}
	s.forget()
	s.publish(s.snapshot())
	return s
}

func wholeSeconds(d time.Duration, otherwise int64) int64 {
	if d <= 0 {
		return otherwise
	}
	return min(int64((d+time.Second-1)/time.Second), maxOpen)
}

// forget is the part of Reset that New needs too.
func (s *Store) forget() {
	clear(s.conns)
	s.active = s.active[:0]
	s.trackers, s.trackerOf = nil, make(map[entryKey]int32)
	s.era++
	s.started = false
	for _, sec := range s.seconds {
		sec.reset(0)
	}
	s.lastSent = make(map[pairKey]int64)
	s.sum = make(map[cellKey]Counts)
	s.dir = newDirectory()
	for i := range s.tiers {
		s.tiers[i] = tier{tierSpec: tierSpecs[i], budget: s.cfg.Budget * tierSpecs[i].share / 100, sum: newTally()}
	}
	s.changed = nil
}

// Reset forgets all traffic, for a replay that goes back in time. Counters since
// the start go on, except Snapshot.Sum; older snapshots keep what they have.
func (s *Store) Reset() {
	s.forget()
	for i := range s.hosts {
		s.hosts[i].Newest = 0
	}
}

// Add counts a record of a host's agent. now is the wall clock's time of its
// arrival in nanoseconds since the epoch, as exact as ages are wanted; ByNewest
// ignores it. Host statistics are taken too. It does not allocate, as a rule.
func (s *Store) Add(now int64, host int, r *wire.Record) {
	if s.cfg.Clock == ByNewest {
		now = max(s.nowNS, r.Time)
		if !s.started {
			now = r.Time
		}
	}
	s.advance(now)
	h := &s.hosts[host]
	if r.Flags&wire.HostStat != 0 {
		s.addStat(now, h, r)
		return
	}
	h.Records++
	s.records++
	h.Newest = max(h.Newest, r.Time)
	if s.cfg.Clock == ByWall {
		h.age(s.nowSec, time.Duration(now-r.Time))
	}
	sec := floorSec(r.Time)
	if sec < s.first || sec > s.nowSec+s.future {
		sec = s.misplaced(h, sec)
	}
	c := s.conn(host, r)
	if c.sec != sec {
		s.flush(c)
		c.sec = sec
	}
	c.packets++
	c.bytes += uint64(r.Length)
	if r.Flags&wire.MGENHeader != 0 {
		s.message(c, sec, r)
	}
}

// floorSec is the second that t (nanoseconds) is in, also before 1970.
func floorSec(t int64) int64 {
	sec := t / nsPerSec
	if t%nsPerSec < 0 {
		sec--
	}
	return sec
}

func (s *Store) addStat(now int64, h *hostState, r *wire.Record) {
	switch r.Stat() {
	case wire.CPU:
		h.CPU, h.HasCPU, h.cpuAt = float64(r.GrapherValue()), true, now
	case wire.Memory:
		h.Memory, h.HasMemory, h.memoryAt = r.GrapherValue(), true, now
	}
}

func (h *hostState) age(sec int64, age time.Duration) {
	i := uint64(sec) % ageSpan
	if h.ageAt[i] != sec || age < h.ages[i] {
		h.ageAt[i], h.ages[i] = sec, age
	}
}

// misplaced counts a packet that is outside the open seconds, and says which of
// them it goes to.
func (s *Store) misplaced(h *hostState, sec int64) int64 {
	if sec < s.first {
		h.Late++
		s.lateSum++
		h.lastLate = s.nowSec
		return s.first
	}
	h.Future++
	s.futureSum++
	h.lastFuture = s.nowSec
	return s.nowSec + s.future
}

// conn finds the counters of r's conversation.
func (s *Store) conn(host int, r *wire.Record) *conn {
	var key connKey
	key.set(host, r)
	first := int(key.hash(s.seed)%connSets) * connWays
	ways := s.conns[first : first+connWays : first+connWays]
	for i := range ways {
		if ways[i].key.is(&key) && ways[i].used {
			c := &ways[i]
			if !c.active {
				c.active = true
				s.active = append(s.active, int32(first+i))
			}
			return c
		}
	}
	return s.newConn(&key, first, r)
}

// newConn gives a conversation the place of another one, which costs nothing
// but time: its counts go into their second.
func (s *Store) newConn(key *connKey, first int, r *wire.Record) *conn {
	at := -1
	for i := first; i < first+connWays; i++ {
		if !s.conns[i].used {
			at = i
			break
		}
	}
	if at < 0 {
		s.victim++
		at = first + int(s.victim%connWays)
	}
	c := &s.conns[at]
	s.flush(c)
	s.addrs.witness(key)
	if !c.active {
		s.active = append(s.active, int32(at))
	}
	h := &s.hosts[key.host()]
	h.Directions = h.Directions || key.flags()&(wire.Outgoing|wire.Incoming) != 0
	*c = conn{key: *key, sec: c.sec, set: s.rowSet(r), tracker: -1, used: true, active: true}
	return c
}

// rowSet is the number of the set of rows that r belongs to.
func (s *Store) rowSet(r *wire.Record) uint32 {
	s.rowBuf = s.cfg.Classify(s.rowBuf[:0], r)
	if len(s.rowBuf) == 0 {
		s.rowBuf = append(s.rowBuf, s.cfg.Rows)
	}
	s.keyBuf = s.keyBuf[:0]
	for _, row := range s.rowBuf {
		s.keyBuf = binary.NativeEndian.AppendUint32(s.keyBuf, uint32(row))
	}
	set, ok := s.setOf[string(s.keyBuf)]
	if !ok {
		set = uint32(len(s.rowSets))
		s.setOf[string(s.keyBuf)] = set
		s.rowSets = append(s.rowSets, append([]int(nil), s.rowBuf...))
	}
	return set
}

// message follows sequence numbers at receivers.
func (s *Store) message(c *conn, sec int64, r *wire.Record) {
	if r.Flags&wire.Outgoing != 0 {
		c.messages++
		return
	}
	if c.tracker < 0 || c.era != s.era {
		c.tracker, c.era = s.tracker(&c.key), s.era
	}
	t := &s.trackers[c.tracker]
	if t.sec != sec {
		s.flushTracker(t)
		t.sec = sec
	}
	t.message(r)
}

func (s *Store) tracker(conn *connKey) int32 {
	key := conn.entry(mgens, Received)
	if i, ok := s.trackerOf[key]; ok {
		return i
	}
	var i int32
	if len(s.trackers) < maxTrackers {
		i = int32(len(s.trackers))
		s.trackers = append(s.trackers, tracker{})
	} else {
		i = s.silentTracker()
		s.flushTracker(&s.trackers[i])
		delete(s.trackerOf, s.trackers[i].key)
		s.era++
		if s.era == 0 { // conns begin with era 0 and tracker -1
			s.era++
		}
		s.forgotten++
	}
	s.trackers[i] = tracker{key: key, conn: *conn}
	s.trackerOf[key] = i
	return i
}

// silentTracker is one that was silent for long, of a few drawn at random.
func (s *Store) silentTracker() int32 {
	best := rand.Int32N(int32(len(s.trackers)))
	for range 15 {
		if i := rand.Int32N(int32(len(s.trackers))); s.trackers[i].sec < s.trackers[best].sec {
			best = i
		}
	}
	return best
}

// second is the open one that began at start.
func (s *Store) second(start int64) *second {
	n := int64(len(s.seconds))
	return s.seconds[((start%n)+n)%n]
}

// flush puts what c has counted into its second.
func (s *Store) flush(c *conn) {
	if c.packets == 0 {
		return
	}
	side := s.addrs.side(&c.key)
	n := Counts{uint64(c.packets), c.bytes}
	s.second(c.sec).add(&c.key, side, c.set, c.key.flags()&wire.MGEN != 0, n, uint64(c.messages))
	if side == Sent {
		s.sent(pairKey{c.key.src(), c.key.dst()}, c.sec)
	}
	c.packets, c.bytes, c.messages = 0, 0, 0
}

// maxSent bounds the pairs whose senders are remembered. Beyond, what a
// receiver saw while the sender was silent counts.
const maxSent = 1 << 16

func (s *Store) sent(p pairKey, sec int64) {
	last, ok := s.lastSent[p]
	if !ok && len(s.lastSent) >= maxSent {
		return
	}
	if ok && sec <= last {
		return
	}
	s.lastSent[p] = sec
	if !ok || last < s.nowSec+s.future-silence {
		// It was not expected before: what receivers saw may not count now.
		for _, x := range s.seconds {
			x.dirty = x.used
		}
	}
}

func (s *Store) flushTracker(t *tracker) {
	if t.stat.messages == 0 {
		return
	}
	key := t.conn.entry(mgens, s.addrs.side(&t.conn))
	s.second(t.sec).addMGEN(&key, &t.stat)
	t.stat = mgenStat{}
}

func (s *Store) flushAll() {
	for _, i := range s.active {
		s.flush(&s.conns[i])
		s.conns[i].active = false
	}
	s.active = s.active[:0]
	for i := range s.trackers {
		s.flushTracker(&s.trackers[i])
	}
}

// advance moves the clock to now. Seconds that are no longer open go into
// history.
func (s *Store) advance(now int64) {
	if s.started && now >= s.nowNS && now < s.nextNS {
		s.nowNS = now
		return
	}
	sec := floorSec(now)
	switch {
	case !s.started:
		s.started = true
	case sec == s.nowSec:
		return
	case sec < s.nowSec:
		if s.nowSec-sec > farBack {
			s.forget()
			s.started = true
			break
		}
		return
	default:
		s.flushAll()
		for start := s.first; start < min(sec-s.late, s.first+int64(len(s.seconds))); start++ {
			s.seal(s.second(start))
		}
	}
	s.nowNS, s.nowSec, s.first = now, sec, sec-s.late
	s.nextNS = (sec + 1) * nsPerSec
	for start := s.first; start <= sec+s.future; start++ {
		if x := s.second(start); x.start != start || !x.used {
			x.reset(start)
		}
	}
}

// seal puts a second into history.
func (s *Store) seal(x *second) {
	if !x.used {
		return
	}
	s.freeze(x)
	s.forgotten += x.dropped
	for k, c := range x.cells {
		s.sum[k] = s.sum[k].Plus(c)
	}
	s.push(0, x.frame)
}

// push puts a frame into its tier, and into the sum for the next one.
func (s *Store) push(i int, f *frame) {
	s.tiers[i].push(f)
	if i+1 == len(s.tiers) {
		return
	}
	t := &s.tiers[i+1]
	from := floorTo(f.start, t.span)
	if t.begun && from != t.from {
		most := limits(t.perFrame(), len(t.sum.cells), t.sum.sizes())
		s.forgotten += t.sum.prune(&most)
		var packed *frame
		packed, s.packBuf = t.sum.pack(t.from, t.span, s.packBuf)
		t.sum.reset()
		s.push(i+1, packed)
	}
	t.begun, t.from = true, from
	t.sum.add(f)
}

func floorTo(t, span int64) int64 {
	r := t % span
	if r < 0 {
		r += span
	}
	return t - r
}

// freeze brings the frame of a second up to date.
func (s *Store) freeze(x *second) {
	if !x.dirty {
		return
	}
	s.dir.now = s.nowSec
	f := &s.freezer
	f.dir, f.perFrame = s.dir, s.tiers[0].perFrame()
	f.silent = func(p pairKey) bool {
		last, ok := s.lastSent[p]
		return ok && last >= x.start-silence
	}
	x.dropped = x.freeze(f)
	x.frame, s.packBuf = f.tally.pack(x.start, 1, s.packBuf)
	x.dirty = false
	s.changed = append(s.changed, x.start)
}

// Tick publishes a new snapshot. It is to be called about once a second, best a
// third of a second after the clock's seconds change; now as in Add.
func (s *Store) Tick(now int64) {
	if s.cfg.Clock == ByWall {
		s.advance(now)
	}
	s.flushAll()
	for p, last := range s.lastSent {
		if last < s.first-silence {
			delete(s.lastSent, p)
		}
	}
	s.publish(s.snapshot())
}

func (s *Store) snapshot() *Snapshot {
	h := &history{rows: s.cfg.Rows}
	snap := &Snapshot{
		Seq: 1, Now: s.nowNS, Records: s.records, Late: s.lateSum, Future: s.futureSum,
		Budget: s.cfg.Budget, Hosts: make([]HostStatus, len(s.hosts)), history: h,
	}
	if old := s.last.Load(); old != nil {
		snap.Seq = old.Seq + 1
	}
	snap.Complete = s.nowSec - 1
	if s.cfg.Clock == ByWall {
		snap.Complete = floorSec(s.nowNS-int64(reportDelay)) - 1
	}
	sum := make(map[cellKey]Counts, len(s.sum))
	for k, c := range s.sum {
		sum[k] = c
	}
	forgotten := s.forgotten
	if s.started {
		for start := s.first; start <= s.nowSec+s.future; start++ {
			x := s.second(start)
			if !x.used {
				continue
			}
			s.freeze(x)
			h.open = append(h.open, x.frame)
			forgotten += x.dropped
			for k, c := range x.cells {
				sum[k] = sum[k].Plus(c)
			}
		}
	}
	snap.Forgotten = forgotten
	snap.Changed, s.changed = s.changed, nil
	snap.Sum = sumCells(sum)
	h.until[0] = s.first
	for i := range s.tiers {
		t := &s.tiers[i]
		h.tiers[i] = t.frames
		snap.Memory += t.size
		if i > 0 {
			h.until[i] = t.from
		}
		h.begun[i] = i == 0 || t.begun
	}
	h.keys = s.dir.keys
	h.owners = s.ownersNow()
	snap.Oldest = h.oldest()
	for i := range s.hosts {
		snap.Hosts[i] = s.hosts[i].status(s)
	}
	return snap
}

func (s *Store) ownersNow() map[[16]byte]int {
	if s.addrs.changed || s.owners == nil {
		s.owners = make(map[[16]byte]int, len(s.addrs.owner))
		for a, o := range s.addrs.owner {
			s.owners[a] = o.host
		}
		s.addrs.changed = false
	}
	return s.owners
}

func (h *hostState) status(s *Store) HostStatus {
	st := h.HostStatus
	st.LateNow = h.Late > 0 && s.nowSec-h.lastLate < ageSpan
	st.FutureNow = h.Future > 0 && s.nowSec-h.lastFuture < ageSpan
	st.HasCPU = h.HasCPU && s.nowNS-h.cpuAt < gaugeAge
	st.HasMemory = h.HasMemory && s.nowNS-h.memoryAt < gaugeAge
	for i, at := range h.ageAt {
		if at == 0 || s.nowSec-at >= ageSpan {
			continue
		}
		if !st.HasAge || h.ages[i] < st.Age {
			st.Age, st.HasAge = h.ages[i], true
		}
	}
	return st
}

func (s *Store) publish(snap *Snapshot) {
	s.last.Store(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

// Snapshot is the newest one. There always is one; it may be empty.
func (s *Store) Snapshot() *Snapshot { return s.last.Load() }

// Next waits for a snapshot with a Seq above after, and returns the newest, or
// ctx's error.
func (s *Store) Next(ctx context.Context, after uint64) (*Snapshot, error) {
	for {
		s.mu.Lock()
		wake := s.wake
		s.mu.Unlock()
		if snap := s.last.Load(); snap.Seq > after {
			return snap, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
