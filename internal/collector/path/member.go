package path

import (
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// Limits of the remembered memberships.
const (
	maxGroups     = 512     // per agent
	maxAllMembers = 1 << 17 // of all groups
	maxChanging   = 1 << 16
	maxLeft       = 1 << 12 // memberships that have ended
)

// joining is how long after its report a new member is expected to receive packets.
// Packets sent before that may be reported later.
const joining = int64(1e9)

// forgiven is the time before the end of a membership in which packets need not have
// been received: leaving a group is noticed with a delay.
const forgiven = int64(2e9)

// memberships are those of an agent's interface.
type memberships struct {
	known   bool       // it has told all of them
	toldAt  int64      // when that became so
	groups  [][16]byte // in force, once the changes have had their turn
	listed  [][16]byte // of a list that has not ended
	listing int64      // the list's time
}

// groups records who is a member of which group. Changes wait as long as packets do, so
// that they take effect between packets that arrived before and after them.
type groups struct {
	members  map[[16]byte][]member
	ended    []ended // the newest, in a ring
	at       int     // where the oldest of a full one is
	count    int
	changes  []membership
	revision uint64 // incremented by each change of members
}

// member is an agent whose interface is in a group.
type member struct {
	agent, node int32
	since       int64 // 0: from the first that its agent told
}

// ended is a membership that was.
type ended struct {
	member
	group [16]byte
	until int64
}

type membership struct {
	at     int64 // when it takes effect
	agent  int32
	group  [16]byte
	joined bool
	old    bool // joined before its agent began to tell
	first  bool // not a change: the agent has told all of its groups for the first time
}

// tell processes a record of an agent's memberships. A list ends with its length, and
// counts only if it is complete.
func (g *groups) tell(a *observer, number int32, now int64, r *wire.Record) {
	m := &a.groups
	if r.Time != m.listing {
		m.listing, m.listed = r.Time, m.listed[:0]
	}
	if !r.EndsMemberships() {
		if len(m.listed) < maxGroups && !slices.Contains(m.listed, r.Dst) {
			m.listed = append(m.listed, r.Dst)
		}
		return
	}
	if int(r.Length) != len(m.listed) {
		return
	}
	old := !m.known
	if old {
		m.known = true
		g.change(membership{at: now, agent: number, first: true})
	}
	for _, group := range m.groups {
		if !slices.Contains(m.listed, group) {
			g.change(membership{at: now, agent: number, group: group})
		}
	}
	for _, group := range m.listed {
		if !slices.Contains(m.groups, group) {
			g.change(membership{at: now, agent: number, group: group, joined: true, old: old})
		}
	}
	m.groups = append(m.groups[:0], m.listed...)
}

func (g *groups) change(c membership) {
	if c.joined {
		c.at += joining
	}
	if len(g.changes) < maxChanging {
		g.changes = append(g.changes, c)
	}
}

// Join declares that the interface of an agent has joined or left a multicast group;
// now is as for Add. Add does so for the records of agents that report memberships.
func (e *Engine) Join(now int64, agent int, group [16]byte, member bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = max(e.now, now)
	m := &e.agents[agent].groups
	at := slices.Index(m.groups, group)
	switch {
	case member && at < 0 && len(m.groups) < maxGroups:
		m.groups = append(m.groups, group)
	case !member && at >= 0:
		m.groups = slices.Delete(m.groups, at, at+1)
	default:
		return
	}
	old := !m.known
	if old {
		m.known = true
		e.groups.change(membership{at: now, agent: int32(agent), first: true})
	}
	e.groups.change(membership{at: now, agent: int32(agent), group: group, joined: member, old: old})
}

// turn applies the changes of memberships that are due.
func (e *Engine) turn(until int64) {
	g := &e.groups
	n := 0
	for ; n < len(g.changes) && g.changes[n].at <= until; n++ {
		e.apply(&g.changes[n])
	}
	if n > 0 {
		g.changes = slices.Delete(g.changes, 0, n)
		g.revision++
	}
}

func (e *Engine) apply(c *membership) {
	g := &e.groups
	m := member{c.agent, e.agents[c.agent].node, c.at}
	if c.old {
		m.since = 0
	}
	if c.first {
		e.telling[m.node] = true
		e.agents[c.agent].groups.toldAt = c.at
		return
	}
	list := g.members[c.group]
	at := slices.IndexFunc(list, func(o member) bool { return o.agent == m.agent })
	switch {
	case c.joined && at < 0 && g.count < maxAllMembers:
		g.members[c.group] = append(list, m)
		g.count++
	case !c.joined && at >= 0:
		g.endMembership(ended{list[at], c.group, c.at})
		g.members[c.group] = slices.Delete(list, at, at+1)
		g.count--
		if len(list) == 1 {
			delete(g.members, c.group)
		}
		if !slices.ContainsFunc(g.members[c.group], func(o member) bool { return o.node == m.node }) {
			e.left(c, m.node)
		}
	}
}

func (g *groups) endMembership(m ended) {
	if len(g.ended) < maxLeft {
		g.ended = append(g.ended, m)
		return
	}
	g.ended[g.at] = m
	g.at = (g.at + 1) % maxLeft
}

// left forgives a node that has left a group the last packets that it missed.
func (e *Engine) left(c *membership, node int32) {
	for _, f := range e.flows {
		if r := f.nodes[node]; f.key.dst == c.group && r != nil && r.tail > 0 && c.at-r.tailAt < forgiven {
			r.expected -= r.tail
			r.tail = 0
		}
	}
}

// membersOf returns the members' roles in a flow, by node.
func (e *Engine) membersOf(f *flow) []wanting {
	if f.revision == e.groups.revision && f.revised {
		return f.members
	}
	f.revision, f.revised = e.groups.revision, true
	f.members = f.members[:0]
	for _, m := range e.groups.members[f.key.dst] {
		k := slices.IndexFunc(f.members, func(w wanting) bool { return w.node == m.node })
		if k < 0 {
			r := f.role(m.node)
			if r == nil {
				continue
			}
			r.member = true
			k = len(f.members)
			f.members = append(f.members, wanting{node: m.node, role: r})
		}
		f.members[k].agents = append(f.members[k].agents, m.agent)
	}
	return f.members
}

// wanting is a member in a flow, with the agents on its interfaces.
type wanting struct {
	node   int32
	role   *role
	agents []int32
}

// expect counts a packet of the flow as received or missed by each member, except the
// packet's own sender.
func (e *Engine) expect(f *flow, p *packet) {
	for i := range e.membersOf(f) {
		w := &f.members[i]
		r := w.role
		switch {
		case r.seenIn == f.packets:
			r.expected++
			r.wanted++
			r.tail = 0
		case r.seenOut == f.packets:
		case !e.observed(w.agents, p.arrived):
			r.unobserved++
		default:
			if r.tail == 0 {
				r.tailAt = p.arrived
			}
			r.tail++
			r.expected++
		}
	}
}

// observed reports whether all of these agents would certainly have reported a packet.
func (e *Engine) observed(agents []int32, at int64) bool {
	for _, i := range agents {
		if !e.agents[i].observed(at) {
			return false
		}
	}
	return true
}
