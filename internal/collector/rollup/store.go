package rollup

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Clock says what "now" is for a Store.
type Clock uint8

const (
	// ByWall: the time that Tick is given. For live agents.
	ByWall Clock = iota
	// ByNewest: the newest packet's time. For replayed logs.
	ByNewest
)

// Config of a Store.
type Config struct {
	// Hosts are the agents; a record's host is an index into them.
	Hosts []Host
	// Rows is how many flows there are. Row numbers 0 to Rows-1 are flows;
	// row Rows is the traffic of no flow.
	Rows int
	// Classify appends to rows the flows that a packet belongs to, the primary
	// one first, and none if it belongs to no flow. Add calls it once per
	// conversation, not per packet: it may look at addresses, ports, protocol
	// and MGEN flow ID only.
	Classify func(rows []int, r *wire.Record) []int
	Clock    Clock
	// Late is for how long a second waits for its packets; 0 is 5 s. It is
	// rounded up to whole seconds, and 60 s at most.
	Late time.Duration
	// Future is how far ahead of now a packet may be; 0 is 2 s. Rounded and
	// bounded like Late.
	Future time.Duration
	// Budget bounds the history's memory in bytes; 0 is DefaultBudget. The
	// oldest seconds, or spans, go first; Snapshot.Span says how far it reaches.
	Budget int64
	// Members is who was in a multicast group at some time of a window, as far as is known; nil: nothing
	// is. It may be called by any goroutine.
	Members func(group netip.Addr, w Window) Membership
	// Archive keeps the history on disk. It may be nil. With one, Hosts and Rows
	// must be what it says, and a quarter of Budget is used: the rest of what it
	// stands for is read from disk.
	Archive *Archive
}

// DefaultBudget is the most memory that history takes unless the
// configuration says otherwise. What else a store needs is about 80 MiB at most,
// and some 600 bytes for each flow of a host that has traffic.
const DefaultBudget = 192 << 20

const (
	nsPerSec = int64(time.Second)
	// silence is for how many seconds a sender's agent that reports nothing is
	// still expected to.
	silence = 10
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

// hostState is what a store knows of an agent.
type hostState struct {
	HostStatus
	lastLate, lastFuture int64 // second of now
	cpuAt, memoryAt      int64 // ns of now
	// ages has the least age in each of the last seconds.
	ages  [ageSpan]time.Duration
	ageAt [ageSpan]int64 // the second that ages[i] is for
	// blanks is replaced, not changed; see Watch. epoch changes with it.
	blanks []Blank
	epoch  uint32
}

// Store is owned by one goroutine, which alone may call Add, Tick and Reset.
// Snapshot and Next are for everybody.
type Store struct {
	cfg Config
	// patient: it waits for the disk.
	patient bool
	late    int64 // seconds
	future  int64

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
	since     int64 // the first second that could be counted
	kept      int64 // the first one since all was forgotten
	began     int64 // the second that was the first one's now
	whole     [memoryTiers]int64
	first     int64 // oldest open second
	seconds   []*second
	hold      hold
	lastSent  map[pairKey]int64 // the newest second that its sender's agent reported
	freezer   freezer
	packBuf   []byte
	tiers     [memoryTiers]tier
	dir       *directory
	forgotten uint64
	owners    map[[16]byte]int // as the last snapshot has them
	changed   []int64
	sum       map[cellKey]Counts // since the start, of what has left the open seconds
	records   uint64
	lateSum   uint64
	futureSum uint64
	unplaced  uint64
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
		s.seconds = append(s.seconds, s.newSecond())
	}
	s.forget()
	s.publish(s.snapshot())
	return s
}

func (s *Store) newSecond() *second {
	return newSecond(func(set uint32) []int { return s.rowSets[set] })
}

// forget is the part of Reset that New needs too.
func (s *Store) forget() {
	clear(s.conns)
	s.active = s.active[:0]
	s.trackers, s.trackerOf = nil, make(map[entryKey]int32)
	s.era++
	s.started = false
	s.hold = hold{}
	for _, sec := range s.seconds {
		sec.reset(0)
	}
	s.lastSent = make(map[pairKey]int64)
	s.sum = make(map[cellKey]Counts)
	s.dir = newDirectory()
	for i := range s.tiers {
		t := tier{tierSpec: tierSpecs[i], budget: s.cfg.Budget * tierSpecs[i].share / 100, sum: newTally()}
		if s.cfg.Archive != nil {
			t.keep, t.budget = t.keep/archivedTo, t.budget/archivedTo
		}
		s.tiers[i] = t
	}
	s.changed = nil
}

// SetHost makes h the host with a number: another one for an agent that has
// changed, or a new one, with the next number. It is called by who calls Add.
func (s *Store) SetHost(host int, h Host) {
	if host == len(s.hosts) {
		s.hosts = append(s.hosts, hostState{})
	}
	s.addrs.set(host, h)
	if s.cfg.Archive != nil {
		s.cfg.Archive.setHost(host, h)
	}
}

// SetRow makes r the flow with a number: of a flow that there is, or a new one,
// whose number is the next, above Config.Rows. It is called by who calls Add.
func (s *Store) SetRow(row int, r Row) {
	if s.cfg.Archive != nil {
		s.cfg.Archive.setRow(row, r)
	}
}

// Reclassify asks Config.Classify again for all conversations, which has changed.
// It is called by who calls Add.
func (s *Store) Reclassify() {
	s.flushAll()
	clear(s.conns)
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
// ignores it. Host statistics are taken too; what is not traffic is not counted.
// It does not allocate, as a rule.
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
	if r.Flags&wire.NotTraffic != 0 {
		return
	}
	h.Records++
	s.records++
	h.Newest = max(h.Newest, r.Time)
	if s.cfg.Clock == ByWall && r.Packets <= 1 { // sums wait for their end
		h.age(s.nowSec, time.Duration(now-r.Time))
	}
	sec := floorSec(r.Time)
	if sec < s.first || sec > s.nowSec+s.future {
		var ok bool
		if sec, ok = s.misplaced(h, sec); !ok {
			return
		}
	}
	c := s.conn(host, r)
	if c.sec != sec {
		s.flush(c)
		c.sec = sec
	}
	if uint64(c.packets)+r.Count() > math.MaxUint32 {
		s.flush(c)
	}
	c.packets += uint32(r.Count())
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
// them it goes to. It goes to none, and is not ok, if it had to wait until its
// second was closed: that second is unknown, and others are not to be wrong.
func (s *Store) misplaced(h *hostState, sec int64) (nearest int64, ok bool) {
	if sec < s.first {
		h.Late++
		s.lateSum++
		h.lastLate = s.nowSec
		if sec >= s.hold.lostFrom && sec < s.hold.lostTo {
			s.unplaced++
			return 0, false
		}
		return max(s.first, s.nowSec-s.late), true
	}
	h.Future++
	s.futureSum++
	h.lastFuture = s.nowSec
	return s.nowSec + s.future, true
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
		s.begin(sec)
	case sec == s.nowSec:
		return
	case sec < s.nowSec:
		if s.nowSec-sec > farBack {
			s.forget()
			s.begin(sec)
			break
		}
		return
	default:
		s.flushAll()
		first := s.opens(sec)
		for start := s.first; start < min(first, s.first+int64(len(s.seconds))); start++ {
			s.seal(s.second(start))
		}
		s.first = first
		s.makeRoom(first, sec+s.future)
	}
	s.nowNS, s.nowSec = now, sec
	s.nextNS = (sec + 1) * nsPerSec
	for start := s.first; start <= sec+s.future; start++ {
		if x := s.second(start); x.start != start || !x.used {
			x.reset(start)
		}
	}
}

// begin is for the first second, and for the first after the clock was set back.
func (s *Store) begin(sec int64) {
	s.started = true
	s.first = sec - s.late
	if s.since == 0 {
		s.since, s.began = sec-s.late, sec
	}
	s.kept = sec - s.late
	for i := range s.whole {
		s.whole[i] = floorTo(sec, tierSpecs[i].span) + tierSpecs[i].span
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
	if i == 0 {
		s.archive(i, f)
	}
	if i+1 == len(s.tiers) {
		return
	}
	t := &s.tiers[i+1]
	from := floorTo(f.start, t.span)
	if t.begun && from != t.from {
		s.finish(i + 1)
	}
	t.begun, t.from = true, from
	t.sum.addFrame(f)
}

// finish makes a frame of what a tier has collected.
func (s *Store) finish(i int) {
	t := &s.tiers[i]
	var packed *frame
	if s.cfg.Archive != nil { // which has room for more
		most := mostEntries
		s.forgotten += t.sum.prune(&most)
		packed, s.packBuf = t.sum.pack(t.from, t.span, s.packBuf)
		s.archive(i, packed)
	}
	most := limits(t.perFrame(), len(t.sum.cells), t.sum.sizes())
	s.forgotten += t.sum.prune(&most)
	packed, s.packBuf = t.sum.pack(t.from, t.span, s.packBuf)
	t.sum.reset()
	s.push(i, packed)
}

// sealAll puts all that is counted into history, and into the archive.
func (s *Store) sealAll() {
	s.flushAll()
	if !s.started {
		return
	}
	for start := s.first; start <= s.nowSec+s.future; start++ {
		s.seal(s.second(start))
	}
	for i := 1; i < len(s.tiers); i++ {
		if s.tiers[i].begun {
			s.finish(i)
		}
	}
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
