package path

import (
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// link is a hop: two places where packets were observed one after the other.
type link struct{ from, to place }

// nowhere is the end of a hop whose end is unknown.
const nowhere = ^place(0)

// Limits of what is remembered.
const (
	maxFlows   = 2048
	maxHops    = 48 // per flow
	maxLinks   = 8192
	maxPaths   = 16 // per flow
	maxChanges = 32
	maxNodes   = 256 // of a multicast flow
	maxTransit = 4096
	idle       = int64(60e9)
)

// flow is what is known about a flow.
type flow struct {
	key     flowKey
	packets uint64 // seen at the sender, or at the first observation
	bytes   uint64
	reached uint64 // delivered to their destination's interface; not for multicast
	lost    uint64
	unseen  uint64 // their arrival was not observable
	dropped map[wire.Reason]uint64
	loops   uint64
	hopsTTL [2]uint8 // minimum and maximum decrease of the TTL
	last    int64

	hops    []hop
	ends    []end
	paths   []Path
	changes []Change
	changed uint64 // number of changes
	current []int32
	nodes   map[int32]*role
	told    told
	transit *transit // to the destination; not of multicast
	noted   noted

	members  []wanting // as of revision, iff revised
	revision uint64
	revised  bool
}

// hop is a link as used by one flow.
type hop struct {
	link
	stats
	used                      int64 // when it was last used
	lastFrom, lastTo, transit int64
	told, noted               Counts
	notedDrops                map[wire.Reason]uint64
	fresh                     *histogram // delays of the interval, iff rows are kept
	any                       bool
}

// transit is the delay from where a flow was sent to where it was received.
type transit struct {
	link
	stats
	last int64
}

// end is a place where packets were last seen, while no hop from there is known.
type end struct {
	from        place
	packets     uint64
	noted       uint64
	first, last int64
}

// role is a node's part in a multicast flow.
type role struct {
	sent, received, copies, relayed uint64

	// For a member: packets sent while it was one, how many of these it received, and
	// those sent while its agent was not watching.
	member                       bool
	expected, wanted, unobserved uint64
	tail                         uint64 // of expected, the latest ones, which it has not received
	tailAt                       int64  // when the first of these arrived elsewhere
	transit                      *transit
	// The flow's packet count at the last packet that it received, and at the last that
	// it sent itself.
	seenIn, seenOut uint64

	noted notedRole
}

// Path is a route through the network.
type Path struct {
	Nodes   []string `json:"nodes"`
	Packets uint64   `json:"packets"`
	First   int64    `json:"first_ns"`
	Last    int64    `json:"last_ns"`
	ids     []int32
	noted   uint64
}

// Change is a change of a flow's path.
type Change struct {
	Time int64    `json:"time_ns"`
	Old  []string `json:"from"`
	New  []string `json:"to"`
}

func (k *flowKey) multicast() bool {
	if k.v6 {
		return k.dst[0] == 0xff
	}
	return k.dst[12]>>4 == 14 || [4]byte(k.dst[12:]) == [4]byte{255, 255, 255, 255}
}

// flowOf returns a packet's flow, and begins it if necessary.
func (e *Engine) flowOf(p *packet) *flow {
	if f := e.flows[p.flow]; f != nil {
		return f
	}
	if len(e.flows) >= maxFlows && !e.evict() {
		e.counters.FlowsInRest++
		return &e.others
	}
	f := &flow{key: p.flow}
	e.flows[p.flow] = f
	return f
}

// evict forgets idle flows, and reports whether there were any.
func (e *Engine) evict() bool {
	if e.now-e.others.last < int64(1e9) {
		return false // tried only a moment ago
	}
	e.others.last = e.now
	had := len(e.flows)
	for k, f := range e.flows {
		if e.now-f.last > idle {
			if f.transit != nil {
				e.transits--
			}
			for _, r := range f.nodes {
				if r.transit != nil {
					e.transits--
				}
			}
			delete(e.flows, k)
		}
	}
	return len(e.flows) < had
}

// finish puts a packet's observations in order and counts it.
func (e *Engine) finish(p *packet) {
	if p.n >= maxObservations {
		e.overflowed(p)
		return
	}
	list := e.gather(p)
	if ambiguous(list) {
		e.counters.Ambiguous++
		e.keepPacket(p, list, Ambiguous)
		return
	}
	e.counters.Packets++
	f := e.flowOf(p)
	if p.origin > 0 && !p.flow.multicast() {
		if root := rootOf(list); root >= 0 {
			e.own(p.flow.src, list[root].node)
		}
	}
	f.packets++
	f.bytes += uint64(list[0].length)
	f.last = e.now
	for i := range list {
		if o := &list[i]; o.parent >= 0 && o.place.stage() != dropped {
			e.passed(f, &list[o.parent], o, p.arrived)
		}
	}
	if p.flow.multicast() {
		e.multicast(f, p, list)
	} else {
		e.unicast(f, p, list)
	}
	if loops(list) {
		f.loops++
	}
	outcome := Delivered
	if p.flow.multicast() {
		outcome = ""
	}
	e.keepPacket(p, list, outcome)
}

// overflowed counts a packet for which not all observations were kept. The TTL shows
// whether it looped.
func (e *Engine) overflowed(p *packet) {
	e.counters.Overflowed++
	f := e.flowOf(p)
	f.last = e.now
	least, most := uint8(255), uint8(0)
	for o := p.first; o >= 0; o = e.observations[o].next {
		least, most = min(least, e.observations[o].ttl), max(most, e.observations[o].ttl)
	}
	e.keepPacket(p, e.gather(p), Loop)
	if most-least < maxObservations/8 {
		return
	}
	f.packets++
	f.loops++
	if !f.key.multicast() {
		f.lost++
	}
}

// rootOf returns the observation at the sender, if there is one.
func rootOf(list []seen) int {
	return slices.IndexFunc(list, func(o seen) bool { return o.parent < 0 && (o.place.stage() == out || o.place.stage() == queue) })
}

// maxOwners bounds the number of addresses of nodes that are remembered.
const maxOwners = 1 << 16

func (e *Engine) own(addr [16]byte, node int32) {
	if _, ok := e.owners[addr]; ok || len(e.owners) < maxOwners {
		e.owners[addr] = node
	}
}

// loops reports whether a packet passed an interface twice, with different TTLs.
func loops(list []seen) bool {
	for i := range list {
		for k := range i {
			if list[i].place == list[k].place && list[i].ttl != list[k].ttl {
				return true
			}
		}
	}
	return false
}

// passed counts a packet on a hop.
func (e *Engine) passed(f *flow, from, to *seen, at int64) {
	l := link{from.place, to.place}
	h := e.hop(f, l)
	if to.again {
		h.Duplicates++
		if s := e.link(l); s != nil {
			s.Duplicates++
		}
		return
	}
	d := to.time - from.time
	if from.node != to.node {
		e.clocks.addHop(from.node, to.node, at, d)
	}
	late := h.any && from.time > h.lastFrom && to.time < h.lastTo
	for _, s := range []*stats{&h.stats, e.link(l)} {
		if s == nil {
			continue
		}
		s.Packets++
		s.Bytes += uint64(to.length)
		e.delayed(s, l, at, d)
		if late {
			s.Reordered++
		}
		if h.any {
			s.jitter += (abs(float64(d-h.transit)) - s.jitter) / 16
		}
	}
	if !late {
		h.lastFrom, h.lastTo = from.time, to.time
	}
	e.keepDelay(h, d)
	h.transit, h.any, h.used = d, true, at
}

func abs(x float64) float64 { return max(x, -x) }

// link returns the hop's statistics over all flows, or nil if there are too many hops.
func (e *Engine) link(l link) *stats {
	s := e.links[l]
	if s == nil && len(e.links) < maxLinks {
		s = new(stats)
		e.links[l] = s
	}
	return s
}

// hop returns a flow's hop, and begins it if necessary. If it is the first from its
// place, packets that had ended there are now known to have been lost on it.
func (e *Engine) hop(f *flow, l link) *hop {
	for i := range f.hops {
		if f.hops[i].link == l {
			return &f.hops[i]
		}
	}
	if len(f.hops) == maxHops {
		return new(hop)
	}
	f.hops = append(f.hops, hop{link: l})
	h := &f.hops[len(f.hops)-1]
	if f == &e.others || f.key.multicast() || l.to == nowhere {
		return h
	}
	for i, en := range f.ends {
		if en.from == l.from {
			f.ends = slices.Delete(f.ends, i, i+1)
			if a := &e.agents[l.to.agent()]; a.observed(en.first) && a.observed(en.last) {
				e.lose(f, h, en.packets)
			} else {
				e.miss(f, h, en.packets)
			}
			if l.from.stage() == in {
				f.passes(e.agents[l.from.agent()].node)
			}
			break
		}
	}
	return h
}

// passes forgets paths that seemed to end at a node that forwards the flow.
func (f *flow) passes(node int32) {
	ends := func(ids []int32) bool { return len(ids) > 0 && ids[len(ids)-1] == node }
	f.paths = slices.DeleteFunc(f.paths, func(p Path) bool { return ends(p.ids) })
	if ends(f.current) {
		f.current = nil
	}
}

func (e *Engine) lose(f *flow, h *hop, n uint64) {
	h.Lost += n
	f.lost += n
	if s := e.link(h.link); s != nil {
		s.Lost += n
	}
}

func (e *Engine) miss(f *flow, h *hop, n uint64) {
	h.Unobserved += n
	f.unseen += n
	if s := e.link(h.link); s != nil {
		s.Unobserved += n
	}
}

// unicast counts where a packet ended.
func (e *Engine) unicast(f *flow, p *packet, list []seen) {
	best, arrived := int32(-1), false
	for i := range list {
		o := &list[i]
		if o.place.stage() == dropped || o.children > 0 || o.again {
			continue
		}
		if !o.lost && o.place.stage() == in && e.final(f, list, o) {
			best, arrived = int32(i), true
			break
		}
		best = int32(i) // the furthest, if it arrived nowhere
	}
	if best < 0 { // only a drop was seen
		best = 0
	}
	if arrived {
		e.arrived(f, p, list, best)
		return
	}
	e.endedAt(f, p, list, best)
}

// final reports whether a node that received a packet is its destination: it is not
// known to forward the flow, and no other node has the address.
func (e *Engine) final(f *flow, list []seen, o *seen) bool {
	return !e.ownedElsewhere(f, list, o) && !slices.ContainsFunc(f.hops, func(h hop) bool { return h.from == o.place })
}

func (e *Engine) arrived(f *flow, p *packet, list []seen, i int32) {
	if owner, ok := e.owners[f.key.dst]; ok && owner == list[i].node {
		f.reached++
	} else {
		f.endAt(list[i].place, p.arrived) // unless it turns out that this node forwards the flow
	}
	e.crossed(&f.transit, list, i)
	hops := max(list[0].ttl, list[i].ttl) - list[i].ttl
	if f.reached+uint64(len(f.ends)) == 1 {
		f.hopsTTL = [2]uint8{hops, hops}
	}
	f.hopsTTL[0], f.hopsTTL[1] = min(f.hopsTTL[0], hops), max(f.hopsTTL[1], hops)
	e.took(f, list, i)
}

// crossed counts how long a packet took from its sender to list[i], if both were seen.
func (e *Engine) crossed(t **transit, list []seen, i int32) {
	root := i
	for n := 0; list[root].parent >= 0 && n < len(list); n++ {
		root = list[root].parent
	}
	from, to := &list[root], &list[i]
	if from.place.stage() == in || root == i {
		return
	}
	l := link{from.place, to.place}
	switch {
	case *t == nil && e.transits == maxTransit:
		return
	case *t == nil:
		e.transits++
		*t = &transit{link: l}
	case (*t).link != l: // received by another interface, or sent by another
		**t = transit{link: l}
	}
	d := to.time - from.time
	if (*t).Packets > 0 {
		(*t).jitter += (abs(float64(d-(*t).last)) - (*t).jitter) / 16
	}
	(*t).Packets++
	(*t).last = d
	(*t).delay(e.now, d)
}

// endAt counts a packet that was last seen at a place.
func (f *flow) endAt(from place, at int64) {
	for i := range f.ends {
		if f.ends[i].from == from {
			f.ends[i].packets++
			f.ends[i].last = at
			return
		}
	}
	if len(f.ends) < maxHops {
		f.ends = append(f.ends, end{from: from, packets: 1, first: at, last: at})
	}
}

// took counts the path of a packet that arrived.
func (e *Engine) took(f *flow, list []seen, i int32) {
	var room [maxObservations]int32
	nodes := chain(list, i, room[:0])
	at := list[i].time
	k := slices.IndexFunc(f.paths, func(p Path) bool { return slices.Equal(p.ids, nodes) })
	if k < 0 {
		if len(f.paths) == maxPaths {
			return
		}
		k = len(f.paths)
		f.paths = append(f.paths, Path{Nodes: e.names(nodes), ids: slices.Clone(nodes), First: at})
	}
	f.paths[k].Packets++
	f.paths[k].Last = max(f.paths[k].Last, at)
	if f.current != nil && !slices.Equal(f.current, nodes) {
		f.changed++
		if len(f.changes) == maxChanges {
			f.changes = append(f.changes[:0], f.changes[1:]...)
		}
		f.changes = append(f.changes, Change{Time: at, Old: e.names(f.current), New: e.names(nodes)})
	}
	f.current = f.paths[k].ids
}

func (e *Engine) names(nodes []int32) []string {
	list := make([]string, len(nodes))
	for i, n := range nodes {
		list[i] = e.nodes[n]
	}
	return list
}

// endedAt counts a packet that did not arrive, on the hop on which it must have been
// lost.
func (e *Engine) endedAt(f *flow, p *packet, list []seen, i int32) {
	o := &list[i]
	reason, why := dropBehind(list, i)
	var h *hop
	if o.place.stage() != dropped {
		h = e.next(f, o)
	}
	w := Ended{Time: o.time, Digest: p.digest, key: p.flow, seq: p.seq, At: e.at(o.place), Outcome: Unobserved}
	switch {
	case why:
		if h == nil {
			h = e.hop(f, link{o.place, nowhere})
		}
		h.drop(reason)
		if s := e.link(h.link); s != nil {
			s.drop(reason)
		}
		if f.dropped == nil {
			f.dropped = map[wire.Reason]uint64{}
		}
		f.dropped[reason]++
		e.lose(f, h, 1)
		w.Outcome, w.Reason = Dropped, reason.String()
	case h == nil && o.place.stage() == in && e.ownedElsewhere(f, list, o):
		e.lose(f, e.hop(f, link{o.place, nowhere}), 1)
		w.Outcome = Lost
	case h == nil || f == &e.others:
		f.endAt(o.place, p.arrived)
		w.Outcome = Unheard
	case h.to == nowhere || e.agents[h.to.agent()].observed(p.arrived):
		e.lose(f, h, 1)
		w.Outcome = Lost
	default:
		e.miss(f, h, 1)
	}
	if h != nil && h.to != nowhere {
		w.Towards = e.at(h.to)
	}
	e.keepEnded(w)
}

// ownedElsewhere reports whether another node has the packet's destination address. A
// node that forwarded the packet does not count: it has translated the address.
func (e *Engine) ownedElsewhere(f *flow, list []seen, o *seen) bool {
	owner, ok := e.owners[f.key.dst]
	return ok && owner != o.node && !slices.ContainsFunc(list, func(c seen) bool {
		return c.node == owner && c.parent >= 0 && (c.place.stage() == out || c.place.stage() == queue)
	})
}

// dropBehind returns why the packet was dropped after list[i], if an agent has reported
// that.
func dropBehind(list []seen, i int32) (wire.Reason, bool) {
	for k := range list {
		if list[k].place.stage() == dropped && (list[k].parent == i || list[k].node == list[i].node) {
			return list[k].reason, true
		}
	}
	return 0, false
}

// next returns the hop that the flow last took from a place, or nil. From before a
// queue whose end is watched, that is the queue.
func (e *Engine) next(f *flow, o *seen) (last *hop) {
	if o.place.stage() == queue && e.agents[o.place.agent()].hasOut {
		return e.hop(f, link{o.place, o.place&^3 | place(out)})
	}
	for i := range f.hops {
		if h := &f.hops[i]; h.from == o.place && h.to != nowhere && (last == nil || h.used > last.used) {
			last = h
		}
	}
	return last
}

// multicast counts what each node did with a packet, and for each known hop from a
// place where it was sent, whether it arrived.
func (e *Engine) multicast(f *flow, p *packet, list []seen) {
	for i := range list {
		o := &list[i]
		r := f.role(o.node)
		if r == nil {
			continue
		}
		switch o.place.stage() {
		case in:
			if r.seenIn == f.packets {
				r.copies++
			} else {
				r.seenIn = f.packets
				r.received++
				if r.member || !e.telling[o.node] {
					e.crossed(&r.transit, list, int32(i))
				}
			}
		case out:
			if o.parent >= 0 && upTo(list, o.parent) {
				r.relayed++
			} else {
				r.sent++
				r.seenOut = f.packets
			}
		case queue:
			if o.parent < 0 || !upTo(list, o.parent) {
				r.seenOut = f.packets
			}
		case dropped:
			if f.dropped == nil {
				f.dropped = map[wire.Reason]uint64{}
			}
			f.dropped[o.reason]++
			e.keepEnded(Ended{Time: o.time, Digest: p.digest, key: p.flow, seq: p.seq, At: e.at(o.place), Outcome: Dropped, Reason: o.reason.String()})
		}
		e.missing(f, p, list, i)
	}
	e.expect(f, p)
}

// upTo reports whether a transmission with this predecessor forwards something
// received.
func upTo(list []seen, i int32) bool {
	for ; i >= 0; i = list[i].parent {
		if list[i].place.stage() == in {
			return true
		}
	}
	return false
}

// missing counts the known hops from list[i] that the packet did not take. Relays may
// decide not to forward, so a packet that ends inside one is not lost.
func (e *Engine) missing(f *flow, p *packet, list []seen, i int) {
	o := &list[i]
	if s := o.place.stage(); s == in || s == dropped {
		return
	}
	for k := range f.hops {
		h := &f.hops[k]
		if h.from != o.place || h.to == nowhere || slices.ContainsFunc(list, func(c seen) bool { return c.parent == int32(i) && c.place == h.to }) {
			continue
		}
		if h.to.stage() == out && o.place.stage() == queue || e.agents[h.to.agent()].observed(p.arrived) {
			e.lose(f, h, 1)
		} else {
			e.miss(f, h, 1)
		}
	}
}

func (f *flow) role(node int32) *role {
	r := f.nodes[node]
	if r == nil && len(f.nodes) < maxNodes {
		if f.nodes == nil {
			f.nodes = map[int32]*role{}
		}
		r = new(role)
		f.nodes[node] = r
	}
	return r
}
