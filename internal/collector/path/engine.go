package path

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Defaults of Config.
const (
	DefaultWindow = 5 * time.Second
	DefaultMemory = 96 << 20
)

// Config configures an Engine. The zero value is ready to use.
type Config struct {
	// Window is how long after a packet's first observation further ones are awaited; 0
	// means DefaultWindow.
	Window time.Duration
	// Memory bounds the bytes taken by packets whose window is open; 0 means
	// DefaultMemory. Flows and hops take up to 40 MiB in addition, and the past of the
	// map 16 MiB.
	Memory int
	// Node returns the node of an agent; nil means [NodeOf].
	Node func(agent string) string
}

// NodeOf returns the part of a label before its last slash, or the whole label.
func NodeOf(agent string) string {
	if i := strings.LastIndexByte(agent, '/'); i > 0 {
		return agent[:i]
	}
	return agent
}

// stage is the point at an interface where a packet was observed.
type stage uint8

const (
	in stage = iota
	queue
	out
	dropped
)

func (s stage) String() string { return [...]string{"in", "queue", "out", "dropped"}[s] }

// place is an agent's number << 2 | stage.
type place uint32

func (p place) agent() int32 { return int32(p >> 2) }
func (p place) stage() stage { return stage(p & 3) }

// observation is one agent's observation of a packet.
type observation struct {
	time   int64
	next   int32 // index of the packet's next observation, or -1; for a free one, of the next free one
	length uint32
	place  place
	reason wire.Reason
	ttl    uint8
}

// flowKey is what a flow's packets have in common at their sender.
type flowKey struct {
	src, dst         [16]byte
	id               uint32 // MGEN flow, valid iff mgen
	srcPort, dstPort uint16
	proto            uint8
	v6, mgen         bool
}

// packet is a packet whose window is open.
type packet struct {
	digest  uint64
	arrived int64
	flow    flowKey
	seq     uint32 // MGEN sequence number
	first   int32
	n       int32
	origin  uint8 // TTL at the host from which flow was taken, not counting what it forwards; 0 if there is none
}

// Memory taken by a packet: the struct, and its entries in the map and the queue.
const (
	packetBytes      = 88 + 24 + 8
	observationBytes = 32
	// maxObservations is the maximum per packet; with more, it loops or is not a single
	// packet.
	maxObservations = 64
)

type observer struct {
	label   string
	node    int32
	since   int64 // when watching began; 0 if it has not
	gaps    []span
	open    bool // the last gap has no end
	hasOut  bool // it reports what is behind the queue
	drops   bool // it has reported a drop
	records uint64
	groups  memberships
	// unsure: nobody says whether it is watching. It surely was near its records.
	unsure bool
	heard  int64 // when the last one came
}

type span struct{ from, to int64 }

// Engine joins observations. It is safe for concurrent use.
type Engine struct {
	mu     sync.Mutex
	cfg    Config
	window int64
	now    int64

	agents []observer
	labels map[string]int32
	nodes  []string
	nodeOf map[string]int32
	owners map[[16]byte]int32 // nodes by address

	packets      []packet
	freePackets  []int32
	observations []observation
	freeObs      int32 // head of a list, -1 if empty
	usedObs      int
	index        map[uint64]int32
	waiting      []int32 // packets in the order of arrival
	head         int

	shift    uint  // digests whose upper bits are 0 are tracked
	changed  int64 // when shift was last lowered
	pressed  int64 // when it was last raised
	lowered  bool
	flows    map[flowKey]*flow
	others   flow
	transits int // how many there are
	links    map[link]*stats
	clocks   clocks
	groups   groups
	telling  map[int32]bool // nodes whose memberships are known
	ended    ring
	counters Counters
	scratch  []seen
	memory   memory
	keeping  keeping
	kept     keptPackets
}

// Counters count all observations since the start.
type Counters struct {
	Observations uint64 `json:"observations"`
	NoDigest     uint64 `json:"no_digest"`     // packets whose digest is unknown
	NotSelected  uint64 `json:"not_selected"`  // observations skipped for lack of memory
	Packets      uint64 `json:"packets"`       // joined and counted
	Ambiguous    uint64 `json:"ambiguous"`     // packets that look like others, and are counted nowhere else
	Overflowed   uint64 `json:"overflowed"`    // packets with more observations than are kept
	FlowsInRest  uint64 `json:"flows_in_rest"` // packets of flows for which there was no room
}

// New returns an engine that knows no agents.
func New(cfg Config) *Engine {
	if cfg.Window <= 0 {
		cfg.Window = DefaultWindow
	}
	if cfg.Memory <= 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Node == nil {
		cfg.Node = NodeOf
	}
	return &Engine{
		cfg: cfg, window: int64(cfg.Window), labels: map[string]int32{}, nodeOf: map[string]int32{}, owners: map[[16]byte]int32{},
		index: map[uint64]int32{}, freeObs: -1, flows: map[flowKey]*flow{}, links: map[link]*stats{},
		clocks: clocks{map[pair]*clock{}}, groups: groups{members: map[[16]byte][]member{}}, telling: map[int32]bool{},
	}
}

// Agent returns the number of the agent with this label, for Add.
func (e *Engine) Agent(label string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i, ok := e.labels[label]; ok {
		return int(i)
	}
	i := int32(len(e.agents))
	e.labels[label] = i
	e.agents = append(e.agents, observer{label: label, node: e.node(e.cfg.Node(label))})
	return int(i)
}

func (e *Engine) node(name string) int32 {
	n, ok := e.nodeOf[name]
	if !ok {
		n = int32(len(e.nodes))
		e.nodeOf[name] = n
		e.nodes = append(e.nodes, name)
	}
	return n
}

// Own declares an address of an agent's node. Other addresses are learned from what the
// node sends.
func (e *Engine) Own(agent int, addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.own(addr.Unmap().As16(), e.agents[agent].node)
}

// Watch declares that an agent's records start arriving, or have stopped arriving, at a
// time (nanoseconds since 1970, this host's clock).
func (e *Engine) Watch(agent int, now int64, comes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := &e.agents[agent]
	switch {
	case comes && a.open:
		a.gaps[len(a.gaps)-1].to = now
		a.open = false
	case comes && a.since == 0:
		a.since = now
	case !comes && !a.open && a.since != 0:
		a.gap(span{now, 1<<63 - 1})
		a.open = true
	}
}

// Unsure says that it is not known of an agent when its records would come, as they are read from a bus that carries
// nothing else: it was surely watching while some came.
func (e *Engine) Unsure(agent int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.agents[agent].unsure = true
}

// silence is how long nothing may come of an agent that is unsure.
const silence = int64(2 * time.Second)

// hear notes that records of an agent have come.
func (a *observer) hear(now int64) {
	if a.since == 0 {
		a.since = now
	}
	if a.unsure && a.heard != 0 && now-a.heard > silence {
		a.gap(span{a.heard, now})
	}
	a.heard = now
}

// Missed declares that some of an agent's records from a time range are missing.
func (e *Engine) Missed(agent int, from, to int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := &e.agents[agent]; !a.open {
		a.gap(span{from, to})
	}
}

// maxGaps is the number of gaps remembered per agent, the newest.
const maxGaps = 64

func (a *observer) gap(s span) {
	if n := len(a.gaps); n > 0 && s.from <= a.gaps[n-1].to {
		a.gaps[n-1].to = max(a.gaps[n-1].to, s.to)
		return
	}
	if len(a.gaps) == maxGaps {
		a.gaps = append(a.gaps[:0], a.gaps[1:]...)
	}
	a.gaps = append(a.gaps, s)
}

// slack is the time before and after a gap in which nothing is concluded from silence.
const slack = int64(time.Second)

// observed reports whether an agent would certainly have reported a packet that arrived
// elsewhere at a time.
func (a *observer) observed(at int64) bool {
	if a.since == 0 || at < a.since || a.unsure && at > a.heard-slack {
		return false
	}
	for i := len(a.gaps) - 1; i >= 0; i-- {
		if g := a.gaps[i]; at > g.from-slack && (g.to == 1<<63-1 || at < g.to+slack) {
			return false
		}
	}
	return true
}

// Add adds records of an agent. now is this host's time in nanoseconds since 1970; it
// must not decrease.
func (e *Engine) Add(now int64, agent int, records ...wire.Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = max(e.now, now)
	e.agents[agent].hear(now)
	for i := range records {
		e.addRecord(now, int32(agent), &records[i])
	}
}

// AddOne is Add for a single record, which it does not retain.
func (e *Engine) AddOne(now int64, agent int, r *wire.Record) {
	e.mu.Lock()
	e.now = max(e.now, now)
	e.agents[agent].hear(now)
	e.addRecord(now, int32(agent), r)
	e.mu.Unlock()
}

func stageOf(r *wire.Record) stage {
	switch {
	case r.Flags&wire.Dropped != 0:
		return dropped
	case r.Flags&wire.Outgoing == 0:
		return in
	case r.Flags&wire.BeforeQueue != 0:
		return queue
	}
	return out
}

func (e *Engine) addRecord(now int64, number int32, r *wire.Record) {
	switch {
	case r.Flags&wire.HostStat != 0:
		return
	case r.Flags&wire.Member != 0:
		e.groups.tell(&e.agents[number], number, now, r)
		return
	}
	e.counters.Observations++
	if r.Digest == 0 || r.Packets > 1 {
		e.counters.NoDigest++
		return
	}
	a := &e.agents[number]
	a.records++
	s := stageOf(r)
	origin := r.Flags&(wire.Outgoing|wire.Relayed|wire.Dropped) == wire.Outgoing
	a.hasOut = a.hasOut || s == out
	a.drops = a.drops || s == dropped
	if r.Digest>>(64-e.shift) != 0 {
		e.counters.NotSelected++
		return
	}
	i, ok := e.index[r.Digest]
	if !ok {
		i = e.newPacket(now, r)
	}
	p := &e.packets[i]
	if p.n >= maxObservations {
		return
	}
	if origin && r.TTL > p.origin { // apparently the router's own, after NAT
		p.flow, p.origin = keyOf(r), r.TTL
	}
	if r.Flags&wire.MGENHeader != 0 {
		p.seq = r.MGENSeq
	}
	o := e.newObservation()
	e.observations[o] = observation{time: r.Time, next: p.first, length: r.Length, place: place(number)<<2 | place(s), reason: r.Reason, ttl: r.TTL}
	p.first = o
	p.n++
}

func keyOf(r *wire.Record) flowKey {
	k := flowKey{src: r.Src, dst: r.Dst, srcPort: r.SrcPort, dstPort: r.DstPort, proto: r.Proto, v6: r.Flags&wire.IPv6 != 0}
	if r.Flags&wire.MGEN != 0 {
		k.mgen, k.id = true, r.FlowID
	}
	return k
}

func (e *Engine) newPacket(now int64, r *wire.Record) int32 {
	if e.used() >= e.cfg.Memory {
		e.raise()
	}
	var i int32
	if n := len(e.freePackets); n > 0 {
		i, e.freePackets = e.freePackets[n-1], e.freePackets[:n-1]
	} else {
		i = int32(len(e.packets))
		e.packets = append(e.packets, packet{})
	}
	e.packets[i] = packet{digest: r.Digest, arrived: now, flow: keyOf(r), first: -1}
	e.index[r.Digest] = i
	e.waiting = append(e.waiting, i)
	return i
}

func (e *Engine) newObservation() int32 {
	e.usedObs++
	if i := e.freeObs; i >= 0 {
		e.freeObs = e.observations[i].next
		return i
	}
	e.observations = append(e.observations, observation{})
	return int32(len(e.observations) - 1)
}

// used returns the number of bytes taken by packets whose window is open.
func (e *Engine) used() int { return len(e.index)*packetBytes + e.usedObs*observationBytes }

// forget frees a packet.
func (e *Engine) forget(i int32) {
	p := &e.packets[i]
	for o := p.first; o >= 0; {
		next := e.observations[o].next
		e.observations[o].next = e.freeObs
		e.freeObs = o
		e.usedObs--
		o = next
	}
	if e.index[p.digest] == i {
		delete(e.index, p.digest)
	}
	e.freePackets = append(e.freePackets, i)
}

// raise stops tracking half of the digests.
func (e *Engine) raise() {
	e.shift++
	e.pressed = e.now
	kept := e.waiting[:0]
	for _, i := range e.waiting[e.head:] {
		if p := &e.packets[i]; p.digest>>(64-e.shift) != 0 {
			e.counters.NotSelected += uint64(p.n)
			e.forget(i)
		} else {
			kept = append(kept, i)
		}
	}
	e.waiting, e.head = kept, 0
}

// lower tracks twice as many digests again, once there has been room for a while.
// Packets with those digests may already be in transit, so they count only after a
// window.
func (e *Engine) lower() {
	if e.shift == 0 || e.used() > e.cfg.Memory/4 || e.now-max(e.pressed, e.changed) < 3*e.window {
		return
	}
	e.shift--
	e.changed, e.lowered = e.now, true
}

// Tick finishes the packets whose window is over. It must be called several times a
// second.
func (e *Engine) Tick(now int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = max(e.now, now)
	e.keepUntil(e.now - e.window)
	e.tick(e.now - e.window)
	e.remember()
	e.lower()
}

// now1970 is this host's time in seconds since 1970, as far as it was told.
func (e *Engine) now1970() int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now / 1e9
}

// Flush finishes all packets.
func (e *Engine) Flush() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tick(1<<63 - 1)
	if end := (e.now + 1e9 - 1) / 1e9; e.keeping.on && end > e.keeping.last {
		if e.keeping.last == 0 {
			e.keeping.last = end - int64(Interval/time.Second)
		}
		e.keep(end)
	}
}

func (e *Engine) tick(until int64) {
	for e.head < len(e.waiting) {
		i := e.waiting[e.head]
		p := &e.packets[i]
		if p.arrived > until {
			break
		}
		e.head++
		e.turn(p.arrived)
		if p.digest>>(63-e.shift) != 0 && e.lowered && p.arrived < e.changed+e.window {
			e.counters.NotSelected += uint64(p.n)
		} else {
			e.finish(p)
		}
		e.forget(i)
	}
	e.turn(min(until, e.now))
	if e.head > len(e.waiting)/2 {
		e.waiting = append(e.waiting[:0], e.waiting[e.head:]...)
		e.head = 0
	}
}
