package path

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// Link is the traffic directly from one node to another in a time range. A link within
// a node is what went through the node and its queues.
type Link struct {
	From  string    `json:"from"`
	To    string    `json:"to"` // "" if unknown
	Flows []LinkRow `json:"flows"`
}

// LinkRow is what a link carried of the flows in one row.
type LinkRow struct {
	Row        int    `json:"row"` // as numbered by [Engine.Classify]
	Packets    uint64 `json:"packets"`
	Bytes      uint64 `json:"bytes"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved,omitempty"`
}

// Delivery is how the packets of the flows in one row ended. A multicast packet counts
// once per member whose node is watched, and not at all while its members are unknown.
type Delivery struct {
	Row        int    `json:"row"`
	Delivered  uint64 `json:"delivered"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved"` // their arrival could not be observed
}

// Node is a place on the map.
type Node struct {
	Name   string   `json:"name"`
	Agents []string `json:"agents"` // their labels
}

// Map is what went where in a time range. From and To are seconds since 1970 by arrival
// at this host, as far as they are remembered; both are 0 if nothing is.
type Map struct {
	From     int64      `json:"from"`
	To       int64      `json:"to"`
	Sampled  float64    `json:"sampled"` // share of packets currently tracked
	Nodes    []Node     `json:"nodes"`
	Links    []Link     `json:"links"`
	Delivery []Delivery `json:"delivery"`
	Other    uint64     `json:"other,omitempty"` // packets on links for which there was no room
}

// Brief is a summary of a flow, since it began.
type Brief struct {
	Tuple
	// The names of Src and Dst, or of the nodes with these addresses; "" if neither is
	// known.
	SrcName   string `json:"src_name,omitempty"`
	DstName   string `json:"dst_name,omitempty"`
	Row       int    `json:"row"`
	Multicast bool   `json:"multicast,omitempty"`
	Packets   uint64 `json:"packets"` // seen anywhere
	Bytes     uint64 `json:"bytes"`
	// Delivered and Lost packets, as in Delivery. Unheard packets were last seen at a
	// place after which no observer is known.
	Delivered  uint64 `json:"delivered"`
	Lost       uint64 `json:"lost"`
	Unobserved uint64 `json:"unobserved"`
	Unheard    uint64 `json:"unheard"`
	Members    int    `json:"members,omitempty"` // those that are watched
	Silent     int    `json:"silent,omitempty"`  // of these, those that have received nothing
	Changes    uint64 `json:"changes,omitempty"` // of its path
}

// Limits of the remembered past: about 16 MiB.
const (
	maxRemembered = 400_000 // entries of all moments
	maxEntries    = 4096    // entries of one moment
	maxMoments    = 4 * 3600
)

// moment is what was counted between two seconds.
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

// told is the part of a flow that has been added to moments.
type told struct {
	delivered, lost, unobserved uint64
}

// memory is the past second by second, newest last.
type memory struct {
	moments  []moment
	entries  int
	last     int64 // the last second covered by a moment
	classify func(*wire.Record) int
	name     func(netip.Addr) string
}

// Classify makes the engine count flows by rows. row is called with a packet's
// addresses, ports, and MGEN flow, and returns the row number. name returns the name to
// display for an address instead of its node's, or "".
func (e *Engine) Classify(row func(*wire.Record) int, name func(netip.Addr) string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.memory.classify, e.memory.name = row, name
}

// called returns the name of an address, or of the node that has it.
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

// row returns the row of a flow, or 0 without Classify.
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

// remember adds what was counted since the last call, once a second.
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

// increase returns the increase of a count that may also decrease: packets that seemed
// to have ended somewhere may turn out to have been in transit.
func increase(is, was uint64) uint64 {
	if is < was {
		return 0
	}
	return is - was
}

// arrivals returns the number of packets that reached the destination, or the interface
// where packets of the flow always end.
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

// IP protocols.
const (
	igmp   = 2
	icmpv6 = 58
)

// delivered returns how the packets ended that members were to receive, the number of
// these members, and how many of them have received nothing.
func (e *Engine) delivered(f *flow) (t told, members, silent int) {
	if f.key.proto == igmp || f.key.proto == icmpv6 {
		return t, 0, 0 // membership reports of hosts to routers (RFC 2236, RFC 2710): no member waits for them
	}
	e.membersOf(f) // includes those that have joined since the last packet
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

// Map adds up what was remembered between two seconds; if from is negative, both are
// relative to the newest second.
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

// Brief returns summaries of flows, those that lose the largest share first, and then
// those with most packets.
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
		} else {
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

// badness returns the share that was lost, in percent, or 0 if there are too few
// packets to tell.
func (b *Brief) badness() uint64 {
	if all := b.Delivered + b.Lost; all >= 20 {
		return 100 * b.Lost / all
	}
	return 0
}
