package path

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// Link is what went directly from one node to another in a time. Within a node it is what
// went through it and its queues.
type Link struct {
	From  string    `json:"from"`
	To    string    `json:"to"` // "" is not known
	Flows []LinkRow `json:"flows"`
}

// LinkRow is what a link carried of the flows of one row.
type LinkRow struct {
	Row        int    `json:"row"` // as [Engine.Classify] numbers them
	Packets    uint64 `json:"packets"`
	Bytes      uint64 `json:"bytes"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved,omitempty"`
}

// Delivery is how packets of the flows of one row ended. A multicast counts once for each
// member whose node is watched, and not at all while its members are not known.
type Delivery struct {
	Row        int    `json:"row"`
	Delivered  uint64 `json:"delivered"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved"` // it could not be observed whether they arrived
}

// Node is a place on the map.
type Node struct {
	Name   string   `json:"name"`
	Agents []string `json:"agents"` // their labels
}

// Map is what went where in a time. From and To are seconds since 1970 when packets came to
// this host, as far as they are remembered; both are 0 if nothing is.
type Map struct {
	From     int64      `json:"from"`
	To       int64      `json:"to"`
	Sampled  float64    `json:"sampled"` // share of the packets that is looked at now
	Nodes    []Node     `json:"nodes"`
	Links    []Link     `json:"links"`
	Delivery []Delivery `json:"delivery"`
	Other    uint64     `json:"other,omitempty"` // packets on links that there was no room for
}

// Brief is a flow in a few words, since it began.
type Brief struct {
	Tuple
	// What people call Src and Dst, or the nodes that have these addresses; "" if neither is known.
	SrcName   string `json:"src_name,omitempty"`
	DstName   string `json:"dst_name,omitempty"`
	Row       int    `json:"row"`
	Multicast bool   `json:"multicast,omitempty"`
	Packets   uint64 `json:"packets"` // seen anywhere
	Bytes     uint64 `json:"bytes"`
	// Delivered and Lost packets, as in Delivery. Unheard were seen last where nobody is
	// known who comes next.
	Delivered  uint64 `json:"delivered"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved"`
	Unheard    uint64 `json:"unheard"`
	Members    int    `json:"members,omitempty"` // watched ones
	Silent     int    `json:"silent,omitempty"`  // of them, that have received nothing
	Changes    uint64 `json:"changes,omitempty"` // of its path
}

// Limits of what is remembered of the past: about 16 MiB.
const (
	maxRemembered = 400_000 // entries of all moments
	maxEntries    = 4096    // of one moment
	maxMoments    = 4 * 3600
)

// moment is what was counted from one second to another.
type moment struct {
	from, to int64 // seconds of the packets' arrival
	links    []linkCount
	ends     []Delivery
	other    uint64
}

type linkKey struct{ from, to, row int32 }

type linkCount struct {
	linkKey
	packets, bytes, lost, unobserved uint64
}

// told is what of a flow has gone into a moment.
type told struct {
	delivered, lost, unobserved uint64
}

// memory is the past second by second, the newest last.
type memory struct {
	moments  []moment
	entries  int
	last     int64 // the second up to which there is a moment
	classify func(*wire.Record) int
	name     func(netip.Addr) string
}

// Classify has flows counted by rows, which row numbers: it is called with a packet's addresses,
// ports, and MGEN flow. What name calls an address is told instead of its node; "" is no name.
func (e *Engine) Classify(row func(*wire.Record) int, name func(netip.Addr) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.classify, e.memory.name = row, name
}

// called is what people call an address, or the node that has it.
func (e *Engine) called(a netip.Addr) string {
	if e.memory.name != nil {
		if name := e.memory.name(a); name != "" {
			return name
		}
	}
	if n, ok := e.owners[a.As16()]; ok {
		return e.nodes[n]
	}
	return ""
}

// row of a flow, or 0 if nobody has said how to number them.
func (e *Engine) row(k *flowKey) int32 {
	if e.memory.classify == nil {
		return 0
	}
	r := wire.Record{Src: k.src, Dst: k.dst, SrcPort: k.srcPort, DstPort: k.dstPort, Proto: k.proto}
	if k.v6 {
		r.Flags |= wire.IPv6
	}
	if k.mgen {
		r.Flags |= wire.MGEN
		r.FlowID = k.id
	}
	return int32(e.memory.classify(&r))
}

// remember adds what was counted since the last time, once a second.
func (e *Engine) remember() {
	m := &e.memory
	to := (e.now - e.window) / 1e9
	if to <= m.last {
		return
	}
	now := moment{from: m.last, to: to}
	if m.last == 0 {
		now.from = to - 1
	}
	m.last = to
	links, ends := map[linkKey]*linkCount{}, map[int32]*Delivery{}
	for _, f := range e.flows {
		e.rememberFlow(f, &now, links, ends)
	}
	now.links = make([]linkCount, 0, len(links))
	for _, c := range links {
		now.links = append(now.links, *c)
	}
	for _, row := range slices.Sorted(maps.Keys(ends)) {
		now.ends = append(now.ends, *ends[row])
	}
	m.moments = append(m.moments, now)
	m.entries += len(now.links)
	first := 0
	for m.entries > maxRemembered || len(m.moments)-first > maxMoments {
		m.entries -= len(m.moments[first].links)
		first++
	}
	m.moments = slices.Delete(m.moments, 0, first)
}

func (e *Engine) rememberFlow(f *flow, now *moment, links map[linkKey]*linkCount, ends map[int32]*Delivery) {
	row := e.row(&f.key)
	for i := range f.hops {
		h := &f.hops[i]
		if h.Counts == h.told {
			continue
		}
		k := linkKey{e.agents[h.from.agent()].node, -1, row}
		if h.to != nowhere {
			k.to = e.agents[h.to.agent()].node
		}
		c := links[k]
		if c == nil {
			if len(links) == maxEntries {
				now.other += h.Packets - h.told.Packets
				h.told = h.Counts
				continue
			}
			c = &linkCount{linkKey: k}
			links[k] = c
		}
		c.packets += h.Packets - h.told.Packets
		c.bytes += h.Bytes - h.told.Bytes
		c.lost += h.Lost - h.told.Lost
		c.unobserved += h.Unobserved - h.told.Unobserved
		h.told = h.Counts
	}
	d := ends[row]
	if d == nil {
		d = &Delivery{Row: int(row)}
		ends[row] = d
	}
	was, is := f.told, told{delivered: f.arrivals(), lost: f.lost, unobserved: f.unseen}
	if f.key.multicast() {
		is, _, _ = e.delivered(f)
	}
	d.Delivered += increase(is.delivered, was.delivered)
	d.Lost += increase(is.lost, was.lost)
	d.Unobserved += increase(is.unobserved, was.unobserved)
	f.told = is
}

// increase of a count that may also go down: what seemed to have ended somewhere may turn out to
// have been on its way.
func increase(is, was uint64) uint64 {
	if is < was {
		return 0
	}
	return is - was
}

// arrivals are packets that reached the destination, or the interface where packets of the
// flow always end.
func (f *flow) arrivals() uint64 {
	n := f.reached
	for _, en := range f.ends {
		if en.from.stage() == in {
			n += en.packets
		}
	}
	return n
}

// unheard are packets that were seen last where nobody is known who comes next.
func (f *flow) unheard() (n uint64) {
	for _, en := range f.ends {
		if en.from.stage() != in {
			n += en.packets
		}
	}
	return n
}

// Protocols of IP.
const (
	igmp   = 2
	icmpv6 = 58
)

// delivered is how the packets ended that members were to receive; how many these are, and
// how many of them have received nothing.
func (e *Engine) delivered(f *flow) (t told, members, silent int) {
	if f.key.proto == igmp || f.key.proto == icmpv6 {
		return t, 0, 0 // what hosts tell routers of their memberships (RFC 2236, RFC 2710): nobody waits for it
	}
	e.membersOf(f) // those that have joined since the last packet
	for _, r := range f.nodes {
		if !r.member || r.sent > 0 { // it hears itself
			continue
		}
		t.delivered += r.wanted
		t.lost += r.expected - r.wanted
		t.unobserved += r.unobserved
		if r.expected > 0 || r.unobserved == 0 {
			members++
		}
		if r.expected > 0 && r.wanted == 0 {
			silent++
		}
	}
	return t, members, silent
}

// Map adds up what was remembered from one second to another; if from is negative, both count from
// the newest one on.
func (e *Engine) Map(from, to int64) Map {
	e.mu.Lock()
	defer e.mu.Unlock()
	if from < 0 {
		from += e.memory.last
		to += e.memory.last
	}
	m := Map{Sampled: 1 / float64(uint64(1)<<e.shift), Nodes: []Node{}, Links: []Link{}, Delivery: []Delivery{}}
	for n, name := range e.nodes {
		node := Node{Name: name, Agents: []string{}}
		for i := range e.agents {
			if e.agents[i].node == int32(n) {
				node.Agents = append(node.Agents, e.agents[i].label)
			}
		}
		m.Nodes = append(m.Nodes, node)
	}
	links, ends := map[linkKey]*linkCount{}, map[int]*Delivery{}
	for i := range e.memory.moments {
		now := &e.memory.moments[i]
		if now.to <= from || now.from >= to {
			continue
		}
		if m.From == 0 {
			m.From = now.from
		}
		m.To = now.to
		m.Other += now.other
		for _, c := range now.links {
			if sum := links[c.linkKey]; sum != nil {
				sum.packets += c.packets
				sum.bytes += c.bytes
				sum.lost += c.lost
				sum.unobserved += c.unobserved
			} else {
				links[c.linkKey] = &c
			}
		}
		for _, d := range now.ends {
			if sum := ends[d.Row]; sum != nil {
				sum.Delivered += d.Delivered
				sum.Lost += d.Lost
				sum.Unobserved += d.Unobserved
			} else {
				ends[d.Row] = &d
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(links), func(a, b linkKey) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to), cmp.Compare(a.row, b.row))
	})
	for _, k := range keys {
		from, to := e.nodes[k.from], ""
		if k.to >= 0 {
			to = e.nodes[k.to]
		}
		if n := len(m.Links); n == 0 || m.Links[n-1].From != from || m.Links[n-1].To != to {
			m.Links = append(m.Links, Link{From: from, To: to})
		}
		l, c := &m.Links[len(m.Links)-1], links[k]
		l.Flows = append(l.Flows, LinkRow{Row: int(k.row), Packets: c.packets, Bytes: c.bytes, Lost: c.lost, Unobserved: c.unobserved})
	}
	for _, row := range slices.Sorted(maps.Keys(ends)) {
		if d := ends[row]; d.Delivered+d.Lost+d.Unobserved > 0 {
			m.Delivery = append(m.Delivery, *d)
		}
	}
	return m
}

// Brief tells of flows, those first that lose the largest share, and of these those with most
// packets.
func (e *Engine) Brief() []Brief {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := []Brief{}
	for _, f := range e.flows {
		b := Brief{
			Tuple: f.key.tuple(), Row: int(e.row(&f.key)), Multicast: f.key.multicast(), Packets: f.packets, Bytes: f.bytes,
			Delivered: f.arrivals(), Lost: f.lost, Unobserved: f.unseen, Changes: f.changed,
		}
		b.SrcName, b.DstName = e.called(b.Src), e.called(b.Dst)
		if b.Multicast {
			var t told
			t, b.Members, b.Silent = e.delivered(f)
			b.Delivered, b.Lost, b.Unobserved = t.delivered, t.lost, t.unobserved
		}
		if !b.Multicast {
			b.Unheard = f.unheard()
		}
		list = append(list, b)
	}
	sortBrief(list)
	return list
}

func sortBrief(list []Brief) {
	slices.SortFunc(list, func(a, b Brief) int {
		return cmp.Or(cmp.Compare(b.badness(), a.badness()), cmp.Compare(b.Packets, a.Packets), a.Src.Compare(b.Src), a.Dst.Compare(b.Dst), cmp.Compare(a.SrcPort, b.SrcPort))
	})
}

// badness is the share that was lost, in percent. Of a few packets nothing is concluded.
func (b *Brief) badness() uint64 {
	if all := b.Delivered + b.Lost; all >= 20 {
		return 100 * b.Lost / all
	}
	return 0
}
