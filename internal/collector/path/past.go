package path

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
)

// Past adds up rows of intervals. It must not be used by several goroutines at once.
type Past struct {
	q     Query
	flows map[pastKey]*pastFlow
	links map[pastLink]*pastHop // of all flows that q asks for
	// Of the rows of all: from, to, and how many seconds of these there were.
	from, to, seconds int64
	sampled           float64
	counters          Counters
	// Damaged are the files of which some or all could not be read.
	Damaged []error
}

// maxPastFlows bounds a Past.
const maxPastFlows = 1 << 16

type pastKey struct {
	src, dst         string
	srcPort, dstPort uint16
	proto            uint8
	mgen             int64 // -1 is none
}

type pastLink struct{ from, to At }

type pastFlow struct {
	Flow
	hops  map[pastLink]*pastHop
	nodes map[string]*Role
}

type pastHop struct {
	Hop
	histogram
	clock  hopClock
	jitter float64 // weighted by packets
	weight float64
}

// NewPast begins a sum of flows that q asks for.
func NewPast(q Query) *Past {
	return &Past{q: q, flows: map[pastKey]*pastFlow{}, links: map[pastLink]*pastHop{}, sampled: 1}
}

// AddBetween adds those of the rows, in any order, whose intervals have any of a time, in nanoseconds since 1970.
func (p *Past) AddBetween(rows []Row, from, to int64) {
	for i := range rows {
		if first, last := rows[i].Span(); first < to && last >= from {
			p.addRow(&rows[i])
		}
	}
}

func (p *Past) addRow(r *Row) {
	if r.Kind == KindAll {
		if p.to == 0 || r.Time < p.from {
			p.from = r.Time
		}
		p.to = max(p.to, r.Time+int64(r.Seconds)*1e9)
		p.seconds += int64(r.Seconds)
		p.sampled = min(p.sampled, r.Sampled)
		p.counters.Packets += r.Packets
		p.counters.NoDigest += r.NoDigest
		p.counters.Ambiguous += r.Ambiguous
		p.counters.NotSelected += r.NotSelected
		return
	}
	if r.Src == "" { // of flows for which there was no room
		if r.Kind == KindFlow {
			p.counters.FlowsInRest += r.Packets
		}
		if r.Kind == KindHop && p.q == (Query{}) {
			p.hop(p.links, r)
		}
		return
	}
	t := tupleOf(r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, r.MGENFlow)
	if !p.q.has(&t) {
		return
	}
	k := pastKey{r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, -1}
	if r.MGENFlow != nil {
		k.mgen = int64(*r.MGENFlow)
	}
	if r.Kind == KindHop && (r.To != "" || r.Lost > 0) {
		p.hop(p.links, r)
	}
	f := p.flows[k]
	if f == nil {
		if len(p.flows) >= maxPastFlows {
			p.counters.FlowsInRest += r.Packets
			return
		}
		key := t.key()
		f = &pastFlow{Flow: Flow{Tuple: t, Multicast: key.multicast()}, hops: map[pastLink]*pastHop{}, nodes: map[string]*Role{}}
		p.flows[k] = f
	}
	switch r.Kind {
	case KindFlow:
		f.addRow(r)
	case KindHop:
		p.hop(f.hops, r)
	case KindPath:
		f.path(r)
	case KindChange:
		f.Changed++
		f.Changes = append(f.Changes, Change{Time: r.Last, Old: r.OldPath, New: r.Path})
	case KindNode:
		f.node(r)
	}
}

// tupleOf makes a row's columns a tuple.
func tupleOf(src, dst string, srcPort, dstPort uint16, proto uint8, mgen *uint32) Tuple {
	t := Tuple{SrcPort: srcPort, DstPort: dstPort, Proto: proto, MGEN: mgen}
	t.Src, _ = netip.ParseAddr(src) // we have written it
	t.Dst, _ = netip.ParseAddr(dst)
	return t
}

func (f *pastFlow) addRow(r *Row) {
	if r.Arrived > 0 { // the row tells the hops by TTL
		if f.Arrived == 0 {
			f.MinHops, f.MaxHops = r.MinHops, r.MaxHops
		}
		f.MinHops, f.MaxHops = min(f.MinHops, r.MinHops), max(f.MaxHops, r.MaxHops)
	}
	f.Packets += r.Packets
	f.Bytes += r.Bytes
	f.Arrived += r.Arrived
	f.Lost += r.Lost
	f.Unheard += r.Unheard
	f.Unobserved += r.Unobserved
	f.Loops += r.Loops
	f.Drops = addDrops(f.Drops, r.Drops)
}

func addDrops(to map[string]uint64, rows []DropRow) map[string]uint64 {
	for _, d := range rows {
		if to == nil {
			to = map[string]uint64{}
		}
		to[d.Reason] += d.Packets
	}
	return to
}

func (p *Past) hop(hops map[pastLink]*pastHop, r *Row) {
	k := pastLink{from: At{r.FromNode, r.From, r.FromStage}, to: At{r.ToNode, r.To, r.ToStage}}
	h := hops[k]
	if h == nil {
		if len(hops) >= maxPastFlows {
			return
		}
		h = &pastHop{Hop: Hop{From: k.from}}
		if r.To != "" {
			h.To = &k.to
		}
		hops[k] = h
	}
	h.Packets += r.Packets
	h.Bytes += r.Bytes
	h.Lost += r.Lost
	h.Unobserved += r.Unobserved
	h.Duplicates += r.Duplicates
	h.Reordered += r.Reordered
	h.Drops = addDrops(h.Drops, r.Drops)
	if len(r.Delays) > 0 {
		h.delays(r)
	}
}

// clockRank is higher the less a clock tells of delays' truth.
var clockRank = map[string]int{"same": 1, "common": 2, "estimated": 3, "unknown": 4}

// delays adds a row's, which are corrected already.
func (h *pastHop) delays(r *Row) {
	o := histogram{min: r.DelayMin, max: r.DelayMax, sum: r.DelaySum}
	for _, d := range r.Delays {
		i := bucketOf(d.NS)
		o.buckets[i] = uint32(min(uint64(o.buckets[i])+d.Packets, math.MaxUint32))
		o.count += d.Packets
	}
	h.join(&o)
	h.jitter += float64(r.Jitter) * float64(o.count)
	h.weight += float64(o.count)
	// The one that tells least of the delays' truth is told.
	if is, was := clockRank[r.Clock], clockRank[h.clock.Clock]; is > was || is == was && r.Uncertain > h.clock.Uncertainty {
		h.clock = hopClock{r.Clock, r.Offset, r.Uncertain}
	}
}

func (f *pastFlow) path(r *Row) {
	k := slices.IndexFunc(f.Paths, func(p Path) bool { return slices.Equal(p.Nodes, r.Path) })
	if k < 0 {
		k = len(f.Paths)
		f.Paths = append(f.Paths, Path{Nodes: r.Path, First: r.Time, Last: r.Last})
	}
	p := &f.Paths[k]
	p.Packets += r.Packets
	p.First, p.Last = min(p.First, r.Time), max(p.Last, r.Last)
}

func (f *pastFlow) node(r *Row) {
	n := f.nodes[r.FromNode]
	if n == nil {
		n = &Role{Node: r.FromNode}
		f.nodes[r.FromNode] = n
	}
	// A source, or a member, stays one; others are what they were last.
	if n.Role != "source" && (n.Role != "member" || r.Role == "source") {
		n.Role = r.Role
	}
	n.Received += r.Packets
	n.Copies += r.Copies
	n.Relayed += r.Relayed
	n.Expected += r.Expected
	n.Unobserved += r.Unobserved
}

// Report is what the rows say, as Engine.Report has it: the flows with most packets first, at most
// limit of them; 0 means all.
func (p *Past) Report(limit int) Report {
	r := Report{Now: p.to, Sampled: p.sampled, Counters: p.counters, From: p.from, Seconds: p.seconds, Damaged: len(p.Damaged), Flows: []Flow{}}
	list := slices.SortedFunc(maps.Values(p.flows), func(a, b *pastFlow) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.SrcPort, b.SrcPort), a.Src.Compare(b.Src), a.Dst.Compare(b.Dst))
	})
	if limit > 0 && len(list) > limit {
		list = list[:limit]
	}
	for _, f := range list {
		r.Flows = append(r.Flows, f.report())
	}
	return r
}

func (f *pastFlow) report() Flow {
	r := f.Flow
	r.Hops = []Hop{}
	for _, h := range f.hops {
		r.Hops = append(r.Hops, h.report())
	}
	slices.SortFunc(r.Hops, func(a, b Hop) int { return cmp.Compare(hopKey(&a), hopKey(&b)) })
	order(r.Hops)
	r.Paths, r.Changes = slices.Clone(f.Paths), slices.Clone(f.Changes)
	slices.SortStableFunc(r.Paths, func(a, b Path) int { return cmp.Compare(a.First, b.First) })
	slices.SortStableFunc(r.Changes, func(a, b Change) int { return cmp.Compare(a.Time, b.Time) })
	for _, n := range f.nodes {
		role := *n
		switch role.Role {
		case "source":
			role.Share = 1
		case "member":
			role.Share = float64(role.Received) / float64(max(role.Expected, 1))
		default:
			role.Share, role.Expected, role.Unobserved = float64(role.Received)/float64(max(f.Packets, 1)), 0, 0
		}
		r.Nodes = append(r.Nodes, role)
	}
	sortRoles(r.Nodes)
	return r
}

func hopKey(h *Hop) string {
	key := h.From.Agent + " " + h.From.Stage
	if h.To != nil {
		key += " " + h.To.Agent + " " + h.To.Stage
	}
	return key
}

func (h *pastHop) report() Hop {
	r := h.Hop
	if n := r.Packets + r.Lost; n > 0 && (r.To != nil || r.Lost > 0) {
		r.Delivered = float64(r.Packets) / float64(n)
	}
	if h.count > 0 {
		d := h.histogram.report(0)
		d.Jitter = int64(h.jitter / h.weight)
		d.Clock, d.Offset, d.Uncertainty = h.clock.Clock, h.clock.Offset, h.clock.Uncertainty
		r.Delay = &d
	}
	return r
}

// BriefOf tells of flows of the past, as Brief does.
func (e *Engine) BriefOf(p *Past) []Brief {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []Brief{}
	for _, f := range p.flows {
		k := f.key()
		b := Brief{
			Tuple: f.Tuple, Row: int(e.row(&k)), Multicast: f.Multicast, Packets: f.Packets, Bytes: f.Bytes,
			Delivered: f.Arrived, Lost: f.Lost, Unobserved: f.Unobserved, Unheard: f.Unheard, Changes: f.Changed,
		}
		b.SrcName, b.DstName = e.called(b.Src), e.called(b.Dst)
		if b.Multicast {
			b.Delivered, b.Lost, b.Unobserved, b.Unheard = 0, 0, 0, 0
			for _, n := range f.nodes {
				b.member(n)
			}
		}
		list = append(list, b)
	}
	sortBrief(list)
	return list
}

// member counts a member of a multicast, unless it is what hosts tell routers of their memberships.
func (b *Brief) member(n *Role) {
	if n.Role != "member" || b.Proto == igmp || b.Proto == icmpv6 {
		return
	}
	b.Delivered += n.Received
	b.Lost += n.Expected - min(n.Expected, n.Received)
	b.Unobserved += n.Unobserved
	if n.Expected > 0 || n.Unobserved == 0 {
		b.Members++
	}
	if n.Expected > 0 && n.Received == 0 {
		b.Silent++
	}
}

// key is the flow's.
func (t *Tuple) key() flowKey {
	k := flowKey{src: t.Src.As16(), dst: t.Dst.As16(), srcPort: t.SrcPort, dstPort: t.DstPort, proto: t.Proto, v6: t.Src.Is6()}
	if t.MGEN != nil {
		k.mgen, k.id = true, *t.MGEN
	}
	return k
}

// Hops are those of all flows together, as Engine.Hops has them.
func (p *Past) Hops() (list []Hop) {
	list = []Hop{}
	for _, h := range p.links {
		list = append(list, h.report())
	}
	sortHops(list)
	return list
}
