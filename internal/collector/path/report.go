package path

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/wire"
)

// Outcome is how a packet ended.
type Outcome string

// Values of Outcome.
const (
	Delivered  Outcome = "delivered"  // to the interface of its destination
	Dropped    Outcome = "dropped"    // a kernel said so, and why
	Lost       Outcome = "lost"       // it did not come where it was to come next
	Unheard    Outcome = "unheard"    // it was seen last leaving, or entering, and nobody is known who should have heard it
	Unobserved Outcome = "unobserved" // who should have heard it was not watching
	Waiting    Outcome = "waiting"    // others may still see it
	Ambiguous  Outcome = "ambiguous"  // it looks like another one
	Loop       Outcome = "loop"       // it was seen more often than observations are kept
)

// At is a place: an interface of a node, and on which side of it.
type At struct {
	Node  string `json:"node"`
	Agent string `json:"agent"`
	Stage string `json:"stage" enum:"in,queue,out,dropped"` // in, queue (before the queueing discipline), out, dropped
}

// Ended is a packet that did not arrive.
type Ended struct {
	Time    int64   `json:"time_ns"`
	Digest  uint64  `json:"digest,string"`
	Flow    Tuple   `json:"flow"`
	Seq     *uint32 `json:"mgen_seq,omitempty"`
	Outcome Outcome `json:"outcome"`
	At      At      `json:"at"`
	Towards At      `json:"towards,omitzero"`
	Reason  string  `json:"reason,omitempty"`

	key flowKey
	seq uint32
}

// ring holds the newest packets that did not arrive.
type ring struct {
	list []Ended
	next int
}

const ringSize = 4096

func (r *ring) addEnded(w Ended) {
	if len(r.list) < ringSize {
		r.list = append(r.list, w)
		return
	}
	r.list[r.next] = w
	r.next = (r.next + 1) % ringSize
}

// Tuple identifies a flow, with the addresses and ports at its sender.
type Tuple struct {
	Src     netip.Addr `json:"src"`
	Dst     netip.Addr `json:"dst"`
	SrcPort uint16     `json:"src_port,omitempty"`
	DstPort uint16     `json:"dst_port,omitempty"`
	Proto   uint8      `json:"proto"`
	MGEN    *uint32    `json:"mgen,omitempty"`
}

func (k *flowKey) tuple() Tuple {
	r := wire.Record{Src: k.src, Dst: k.dst}
	if k.v6 {
		r.Flags = wire.IPv6
	}
	t := Tuple{Src: r.SrcAddr(), Dst: r.DstAddr(), SrcPort: k.srcPort, DstPort: k.dstPort, Proto: k.proto}
	if k.mgen {
		id := k.id
		t.MGEN = &id
	}
	return t
}

// Query selects flows. The zero value selects all.
type Query struct {
	Src, Dst netip.Addr // invalid matches any; Dst may be a group
	MGEN     *uint32
}

func (q *Query) matches(k *flowKey) bool {
	t := k.tuple()
	return q.has(&t)
}

func (q *Query) has(t *Tuple) bool {
	return (!q.Src.IsValid() || q.Src == t.Src) && (!q.Dst.IsValid() || q.Dst == t.Dst) && (q.MGEN == nil || t.MGEN != nil && *q.MGEN == *t.MGEN)
}

// Hop is a hop of a flow, or of all flows. One without a To is where packets were last
// seen.
type Hop struct {
	From At  `json:"from"`
	To   *At `json:"to,omitempty"`
	Counts
	Delivered float64           `json:"delivered"` // share of those whose arrival was observable, 0 to 1
	Delay     *Delay            `json:"delay,omitempty"`
	Drops     map[string]uint64 `json:"drops,omitempty"` // of Lost, by reason
}

// Flow is what is known about a flow.
type Flow struct {
	Tuple
	Multicast bool   `json:"multicast,omitempty"`
	Packets   uint64 `json:"packets"` // seen anywhere
	Bytes     uint64 `json:"bytes"`
	// Arrived packets reached the destination's interface. Not for multicast.
	Arrived uint64 `json:"arrived"`
	Lost    uint64 `json:"lost"`
	// Unheard packets were last seen at a place after which no observer is known.
	// Unobserved packets were last seen where the next observer was not watching.
	Unheard    uint64            `json:"unheard,omitempty"`
	Unobserved uint64            `json:"unobserved,omitempty"`
	Drops      map[string]uint64 `json:"drops,omitempty"`
	Loops      uint64            `json:"loops,omitempty"`
	MinHops    uint8             `json:"min_hops"` // routers passed, according to the TTL
	MaxHops    uint8             `json:"max_hops"`
	Hops       []Hop             `json:"hops"`
	Paths      []Path            `json:"paths,omitempty"`
	Changes    []Change          `json:"changes,omitempty"`
	Changed    uint64            `json:"changed,omitempty"`
	Nodes      []Role            `json:"nodes,omitempty"` // of a multicast
	// Delay from the sender to the destination; not of a multicast. That of its nodes is theirs.
	Delay *Delay `json:"delay,omitempty"`
}

// Role is a node's part in a multicast flow.
type Role struct {
	Node     string  `json:"node"`
	Role     string  `json:"role" enum:"source,relay,member,overhearer,receiver"` // source, relay, member, overhearer, or receiver if memberships are not known
	Received uint64  `json:"received"`                                            // distinct packets; for a member, of those expected
	Copies   uint64  `json:"copies,omitempty"`
	Relayed  uint64  `json:"relayed,omitempty"`
	Share    float64 `json:"share"` // of the flow's packets, 0 to 1; for a member, of those expected
	// For a member: packets sent while it was one, and those whose arrival was
	// unobserved.
	Expected   uint64 `json:"expected,omitempty"`
	Unobserved uint64 `json:"unobserved,omitempty"`
	// Delay from the sender; not of overhearers.
	Delay *Delay `json:"delay,omitempty"`
}

// Report is what the engine knows.
type Report struct {
	Now     int64   `json:"now_ns"`
	Sampled float64 `json:"sampled"` // share of the packets that are looked at now
	Window  int64   `json:"window_ns"`
	Waiting int     `json:"waiting"` // packets that are not counted yet
	// Of a report of the past: when it begins, and how many seconds of the time up to Now there is
	// something known of.
	From     int64  `json:"from_ns,omitempty"`
	Seconds  int64  `json:"seconds,omitempty"`
	Damaged  int    `json:"damaged,omitempty"` // files that could not be read
	Counters        // since the start
	Flows    []Flow `json:"flows"`
}

// Report returns the flows that match q, those with the most packets first, at most
// limit of them; 0 means all.
func (e *Engine) Report(q Query, limit int) Report {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := Report{Now: e.now, Sampled: 1 / float64(uint64(1)<<e.shift), Window: e.window, Waiting: len(e.index), Counters: e.counters}
	var list []*flow
	for k, f := range e.flows {
		if q.matches(&k) {
			list = append(list, f)
		}
	}
	slices.SortFunc(list, func(a, b *flow) int {
		return cmp.Or(cmp.Compare(b.packets, a.packets), cmp.Compare(a.key.srcPort, b.key.srcPort))
	})
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	r.Flows = []Flow{}
	for _, f := range list {
		r.Flows = append(r.Flows, e.report(f))
	}
	return r
}

func (e *Engine) at(p place) At {
	a := &e.agents[p.agent()]
	return At{Node: e.nodes[a.node], Agent: a.label, Stage: p.stage().String()}
}

func (e *Engine) report(f *flow) Flow {
	r := Flow{
		Tuple: f.key.tuple(), Multicast: f.key.multicast(), Packets: f.packets, Bytes: f.bytes, Arrived: f.reached, Lost: f.lost,
		Unobserved: f.unseen, Drops: reasons(f.dropped), Loops: f.loops, MinHops: f.hopsTTL[0], MaxHops: f.hopsTTL[1],
		Paths: slices.Clone(f.paths), Changes: slices.Clone(f.changes), Changed: f.changed, Hops: []Hop{},
	}
	for i := range f.hops {
		r.Hops = append(r.Hops, e.hopReport(f.hops[i].link, &f.hops[i].stats))
	}
	for _, en := range f.ends {
		switch {
		case en.from.stage() != in:
			r.Unheard += en.packets
			r.Hops = append(r.Hops, Hop{From: e.at(en.from), Counts: Counts{Unobserved: en.packets}})
		default:
			r.Arrived += en.packets
		}
	}
	order(r.Hops)
	r.Nodes = e.roles(f)
	r.Delay = e.crossing(f.transit)
	return r
}

// crossing is a delay from end to end, with its histogram; nil if there is none.
func (e *Engine) crossing(t *transit) *Delay {
	if t == nil {
		return nil
	}
	c, all := e.clockOf(t.link), t.sum()
	if all.count == 0 {
		return nil
	}
	d := all.report(c.correction())
	d.Jitter, d.Clock, d.Offset, d.Uncertainty = int64(t.jitter), c.Clock, c.Offset, c.Uncertainty
	d.Histogram = all.list(c.correction())
	return &d
}

func reasons(m map[wire.Reason]uint64) map[string]uint64 {
	var list map[string]uint64
	for r, n := range m {
		if list == nil {
			list = map[string]uint64{}
		}
		name := r.String()
		if name == "" {
			name = "NOT_SPECIFIED"
		}
		list[name] += n
	}
	return list
}

func (e *Engine) hopReport(l link, s *stats) Hop {
	h := Hop{From: e.at(l.from), Counts: s.Counts, Drops: reasons(s.drops)}
	if n := s.Packets + s.Lost; n > 0 {
		h.Delivered = float64(s.Packets) / float64(n)
	}
	if l.to == nowhere {
		return h
	}
	to := e.at(l.to)
	h.To = &to
	if d := e.delay(l, s); d.Count > 0 {
		h.Delay = &d
	}
	return h
}

// hopClock says what a hop's delays depend on.
type hopClock struct {
	Clock               string
	Offset, Uncertainty int64
}

// correction is what is to be taken off delays.
func (c hopClock) correction() int64 {
	if c.Clock == "estimated" {
		return c.Offset
	}
	return 0
}

// clockOf is how the clocks at a hop's ends compare.
func (e *Engine) clockOf(l link) hopClock {
	from, to := e.agents[l.from.agent()].node, e.agents[l.to.agent()].node
	if from == to {
		return hopClock{Clock: "same"}
	}
	offset, uncertainty, known := e.clocks.offset(from, to)
	switch {
	case !known:
		return hopClock{Clock: "unknown"}
	case offset <= uncertainty && -offset <= uncertainty:
		return hopClock{"common", offset, uncertainty}
	}
	return hopClock{"estimated", offset, uncertainty}
}

// delay corrects a hop's delays if the clocks at its ends surely differ.
func (e *Engine) delay(l link, s *stats) Delay {
	c := e.clockOf(l)
	d := s.report(c.correction())
	d.Clock, d.Offset, d.Uncertainty = c.Clock, c.Offset, c.Uncertainty
	return d
}

// order sorts hops in the order in which packets take them: breadth first from the
// beginning.
func order(hops []Hop) {
	depth := map[At]int{}
	for range hops {
		changed := false
		for _, h := range hops {
			if h.To == nil {
				continue
			}
			if d := depth[h.From] + 1; d > depth[*h.To] && d <= len(hops) {
				depth[*h.To] = d
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	slices.SortStableFunc(hops, func(a, b Hop) int {
		return cmp.Or(cmp.Compare(depth[a.From], depth[b.From]), cmp.Compare(a.From.Agent, b.From.Agent))
	})
}

// roles returns the nodes' parts in a multicast flow, including members that received
// nothing.
func (e *Engine) roles(f *flow) (list []Role) {
	if !f.key.multicast() {
		return nil
	}
	e.membersOf(f) // includes those that have joined since the last packet
	for n, r := range f.nodes {
		role := Role{Node: e.nodes[n], Received: r.received, Copies: r.copies, Relayed: r.relayed, Share: float64(r.received) / float64(max(f.packets, 1))}
		switch role.Role = e.roleOf(n, r); role.Role {
		case "source":
			role.Share = 1
		case "member":
			role.Received, role.Expected, role.Unobserved = r.wanted, r.expected, r.unobserved
			role.Share = float64(r.wanted) / float64(max(r.expected, 1))
		}
		if role.Role != "overhearer" && role.Role != "source" {
			role.Delay = e.crossing(r.transit)
		}
		list = append(list, role)
	}
	sortRoles(list)
	return list
}

func sortRoles(list []Role) {
	slices.SortFunc(list, func(a, b Role) int { return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Node, b.Node)) })
}

// roleOf is what a node is in a multicast.
func (e *Engine) roleOf(node int32, r *role) string {
	switch {
	case r.sent > 0:
		return "source"
	case r.member:
		return "member"
	case r.relayed > 0:
		return "relay"
	case e.telling[node]:
		return "overhearer"
	}
	return "receiver"
}

// Hops returns the hops of all flows combined, those with the most packets first.
func (e *Engine) Hops() (list []Hop) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list = []Hop{}
	for l, s := range e.links {
		list = append(list, e.hopReport(l, s))
	}
	sortHops(list)
	return list
}

func sortHops(list []Hop) {
	slices.SortFunc(list, func(a, b Hop) int {
		return cmp.Or(cmp.Compare(b.Packets+b.Lost, a.Packets+a.Lost), cmp.Compare(hopKey(&a), hopKey(&b)))
	})
}

// Ended returns the newest packets of flows matching q that did not arrive, oldest
// first.
func (e *Engine) Ended(q Query) []Ended {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []Ended{}
	for _, w := range slices.Concat(e.ended.list[e.ended.next:], e.ended.list[:e.ended.next]) {
		if q.matches(&w.key) {
			list = append(list, w.named())
		}
	}
	return list
}

// named fills in what is displayed.
func (w Ended) named() Ended {
	w.Flow = w.key.tuple()
	if w.key.mgen {
		w.Seq = &w.seq
	}
	return w
}

// DropKey is an agent, and an MGEN flow whose packets it has received.
type DropKey struct {
	Agent            string
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
	MGEN             uint32
}

// SocketDrops are MGEN packets sent in a time (seconds since 1970) that an interface has received, and the
// kernel did not pass on to an application. There may be more that were dropped before since.
// An agent that is not among reporting has never told of drops: its host's are not known.
func (e *Engine) SocketDrops(from, to int64) (counts map[DropKey]uint64, since int64, reporting map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	counts, reporting = map[DropKey]uint64{}, map[string]bool{}
	for i := range e.agents {
		reporting[e.agents[i].label] = e.agents[i].drops
	}
	if len(e.ended.list) == ringSize {
		since = e.ended.list[e.ended.next].Time / 1e9
	}
	for i := range e.ended.list {
		w := &e.ended.list[i]
		if at := w.Time / 1e9; at < from || at >= to || w.Outcome != Dropped || !w.key.mgen || strings.HasPrefix(w.Reason, "QDISC") {
			continue
		}
		t := w.key.tuple()
		counts[DropKey{w.At.Agent, t.Src, t.Dst, t.SrcPort, t.DstPort, t.Proto, w.key.id}]++
	}
	return counts, since, reporting
}

// Membership is who was in a multicast group at some time in [from, to) (seconds since 1970; from 0 is ever), by the
// labels of the agents on their interfaces: since when, or 0 if that was before the agent began to tell. A
// member that has left is so since to. Telling are the agents of nodes whose memberships are known of that time.
func (e *Engine) Membership(group netip.Addr, from, to int64) (members map[string]int64, telling map[string]bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	members, telling = map[string]int64{}, map[string]bool{}
	key := group.As16()
	for i := range e.groups.ended {
		if m := &e.groups.ended[i]; m.group == key && m.until/1e9 >= from && m.since/1e9 < to {
			members[e.agents[m.agent].label] = to
		}
	}
	for _, m := range e.groups.members[key] {
		if m.since/1e9 < to {
			members[e.agents[m.agent].label] = m.since / 1e9
		}
	}
	for i := range e.agents {
		a := &e.agents[i]
		telling[a.label] = e.telling[a.node] && (from <= 0 || a.groups.toldAt/1e9 <= from+toldSlack)
	}
	return members, telling
}

// toldSlack is how long after packets of an agent its first memberships may be told, in seconds.
const toldSlack = 10

// Sight is an observation of a packet.
type Sight struct {
	At
	Time   int64  `json:"time_ns"`
	TTL    uint8  `json:"ttl"`
	Length uint32 `json:"length"`
	Reason string `json:"reason,omitempty"`
}

// Packet is a packet with its observations in order. After its window, a packet is
// known only if it did not arrive, and then only how it ended.
type Packet struct {
	Digest uint64  `json:"digest,string"`
	Flow   Tuple   `json:"flow"`
	Seen   []Sight `json:"seen,omitempty"`
	// Outcome is known of packets that were kept.
	Outcome Outcome `json:"outcome,omitempty"`
	Ended   *Ended  `json:"ended,omitempty"`
}

// Packet returns the packet with this digest.
func (e *Engine) Packet(digest uint64) (Packet, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i, ok := e.index[digest]; ok {
		p := &e.packets[i]
		r := Packet{Digest: digest, Flow: p.flow.tuple()}
		for _, o := range e.gather(p) {
			r.Seen = append(r.Seen, Sight{At: e.at(o.place), Time: o.time, TTL: o.ttl, Length: o.length, Reason: o.reason.String()})
		}
		return r, true
	}
	for i := len(e.ended.list) - 1; i >= 0; i-- {
		if w := e.ended.list[i]; w.Digest == digest {
			w = w.named()
			return Packet{Digest: digest, Flow: w.Flow, Ended: &w}, true
		}
	}
	return Packet{}, false
}
