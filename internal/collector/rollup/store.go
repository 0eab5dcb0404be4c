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

// Clock determines what "now" is for a Store.
type Clock uint8

const (
	// ByWall: the time passed to Tick. For live agents.
	ByWall Clock = iota
	// ByNewest: the newest packet's time. For replayed logs.
	ByNewest
)

// Config configures a Store.
type Config struct {
	// Hosts are the agents; a record's host is an index into them.
	Hosts []Host
	// Rows is the number of flows. Rows 0 to Rows-1 are flows; row Rows is the traffic
	// of no flow.
	Rows int
	// Classify appends to rows the flows that a packet belongs to, the primary one
	// first, or none. It is called once per conversation, not per packet: it may use
	// addresses, ports, protocol, and MGEN flow ID only.
	Classify func(rows []int, r *wire.Record) []int
	Clock    Clock
	// Late is how long a second waits for its packets; 0 means 5 s. It is rounded up to
	// whole seconds, and limited to 60 s.
	Late time.Duration
	// Future is how far ahead of now a packet may be; 0 means 2 s. Rounded and limited
	// like Late.
	Future time.Duration
	// Budget bounds the history's memory in bytes; 0 means DefaultBudget. The oldest
	// seconds, or spans, are removed first; Snapshot.Span returns what is left.
	Budget int64
	// Members returns who was in a multicast group at some time of a window, as far as
	// is known; nil means that nothing is known. It must be safe for concurrent use.
	Members func(group netip.Addr, w Window) Membership
	// Archive keeps the history on disk. It may be nil. With an archive, Hosts and Rows
	// must be the archive's, and only a quarter of Budget is used: the rest is read
	// from disk.
	Archive *Archive
}

// DefaultBudget is the default limit of the history's memory. A store needs up to about
// 80 MiB in addition, and about 600 bytes for each flow of a host that has traffic.
const DefaultBudget = 192 << 20

const (
	nsPerSec = int64(time.Second)
	// silence is the number of seconds for which a sender's agent that reports nothing
	// is still expected to report.
	silence = 10
	// reportDelay is how long after its end a second counts as complete: our agents
	// send records immediately, and the rest is transit time.
	reportDelay = 250 * time.Millisecond
	// farBack is how far the wall clock must be set back for the history to restart.
	// After a smaller step, packets count as late until the clock has caught up.
	farBack = 60
	// gaugeAge is the age at which a host statistic that is no longer sent expires.
	gaugeAge = 5 * nsPerSec
	// ageSpan is the number of seconds for which ages of packets are remembered.
	ageSpan = 10
)

// hostState is what a store knows about an agent.
type hostState struct {
	HostStatus
	lastLate, lastFuture int64 // second of now
	cpuAt, memoryAt      int64 // ns of now
	// ages holds the minimum age in each of the last seconds.
	ages  [ageSpan]time.Duration
	ageAt [ageSpan]int64 // the second that ages[i] is for
	// blanks is replaced, not modified; see Watch. epoch changes with it.
	blanks []Blank
	epoch  uint32
}

// Store is owned by one goroutine, which alone may call its methods, except for
// Snapshot and Next, which are safe for concurrent use.
type Store struct {
	cfg Config
	// patient means that it waits for the disk.
	patient bool
	late    int64 // seconds
	future  int64

	last atomic.Pointer[Snapshot]
	mu   sync.Mutex
	wake chan struct{} // closed at the next publication

	seed    uint64
	conns   []conn
	victim  uint32
	active  []int32 // indexes of conns that are not empty
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
	nextNS    int64 // end of nowSec
	started   bool
	since     int64 // the first second that could be counted
	kept      int64 // the first one since everything was forgotten
	began     int64 // the current second at the first one
	whole     [memoryTiers]int64
	first     int64 // oldest open second
	seconds   []*second
	hold      hold
	lastSent  map[pairKey]int64 // the newest second reported by its sender's agent
	freezer   freezer
	packBuf   []byte
	tiers     [memoryTiers]tier
	dir       *directory
	forgotten uint64
	owners    map[[16]byte]int // as in the last snapshot
	changed   []int64
	sum       map[cellKey]Counts // since the start, of seconds that are no longer open
	records   uint64
	lateSum   uint64
	futureSum uint64
	unplaced  uint64
}

// New returns an empty store.
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

// forget is the part of Reset that New also needs.
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

// SetHost sets the host with this number: an agent that has changed, or a new one with
// the next number. Only the owner may call it.
func (s *Store) SetHost(host int, h Host) {
	if host == len(s.hosts) {
		s.hosts = append(s.hosts, hostState{})
	}
	s.addrs.set(host, h)
	if s.cfg.Archive != nil {
		s.cfg.Archive.setHost(host, h)
	}
}

// SetRow sets the flow with this number: an existing one, or a new one with the next
// number, above Config.Rows. Only the owner may call it.
func (s *Store) SetRow(row int, r Row) {
	if s.cfg.Archive != nil {
		s.cfg.Archive.setRow(row, r)
	}
}

// Reclassify calls Config.Classify, which has changed, again for all conversations.
// Only the owner may call it.
func (s *Store) Reclassify() {
	s.flushAll()
	clear(s.conns)
}

// Reset forgets all traffic, for a replay that is rewound. Counters since the start
// continue, except Snapshot.Sum; older snapshots stay unchanged.
func (s *Store) Reset() {
	s.forget()
	for i := range s.hosts {
		s.hosts[i].Newest = 0
	}
}

// Add counts a record of a host's agent. now is the wall clock's time of its arrival in
// nanoseconds since the epoch, as precise as ages should be; ByNewest ignores it. Host
// statistics are stored; other records that are not traffic are ignored. It usually
// does not allocate.
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
	if s.cfg.Clock == ByWall && r.Packets <= 1 { // aggregates are sent after their end
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

// floorSec returns the second that contains t (nanoseconds), which may be before 1970.
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

// misplaced counts a packet outside the open seconds, and returns the open second in
// which it is counted. If it had to wait until its second was closed, it is counted in
// none, and ok is false: that second is unknown, and others must not be distorted.
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

// advance moves the clock to now. Seconds that are no longer open are moved to the
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

// begin starts with the first second, or restarts with the first one after the clock
// was set back.
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

// seal moves a second to the history.
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

// push adds a frame to its tier, and to the sum for the next one.
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

// finish creates a frame from what a tier has collected.
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

// sealAll moves everything counted to the history and the archive.
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

// freeze updates the frame of a second.
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
