package rollup

import (
	"net/netip"
	"slices"
)

// Membership is which agents have joined a multicast group.
type Membership struct {
	// Joined maps members to when they joined, in seconds since the epoch; 0 means
	// earlier than is known.
	Joined map[int]int64
	// Node maps agents to the first agent on the same node, if that is another one.
	Node map[int]int
	// Told are the agents whose memberships are known; other agents may or may not be
	// members.
	Told map[int]bool
}

// Role is why an agent has received packets.
type Role uint8

const (
	// Receiver: the packets are for its host, or nothing suggests otherwise.
	Receiver Role = iota
	// Member: it is a member of the multicast group that they are for.
	Member
	// Relay: it forwards them and does not want them itself.
	Relay
	// Overhearer: they are for others.
	Overhearer
)

func (r Role) String() string { return [...]string{"receiver", "member", "relay", "overhearer"}[r] }

// Wants reports whether packets that do not arrive there count as lost.
func (r Role) Wants() bool { return r <= Member }

// audience determines for whom packets to an address are.
type audience struct {
	h      *timeline
	sender int // the agent that has their source address, or -1
	group  bool
	owner  int // of the destination address, or -1
	Membership
}

// audience of what sender sends to dst. known are the memberships that the query has asked
// for already.
func (s *Snapshot) audience(dst netip.Addr, sender int, w Window, known map[netip.Addr]Membership) audience {
	h := s.timeline
	a := audience{h: h, sender: sender, owner: -1}
	if a.group = isGroup(dst.As16(), !dst.Is4()); !a.group {
		a.owner = h.owner(dst.As16())
	} else if h.members != nil {
		m, ok := known[dst]
		if !ok {
			w.From = max(w.From, s.Oldest)
			m = h.members(dst, w)
			known[dst] = m
		}
		a.Membership = m
	}
	return a
}

// same reports whether two agents are on the same host.
func (a *audience) same(host, other int) bool {
	return host == other || a.node(host) == a.node(other) || host < len(a.h.hostOf) && other >= 0 && other < len(a.h.hostOf) && a.h.hostOf[host] == a.h.hostOf[other]
}

func (a *audience) node(host int) int {
	if first, ok := a.Node[host]; ok {
		return first
	}
	return host
}

// role returns the role of an agent that has received packets, and forwards them if
// relays.
func (a *audience) role(host int, relays bool) Role {
	known := a.owner >= 0
	wants := known && a.same(host, a.owner)
	if a.group {
		for member := range a.Joined {
			wants = wants || a.same(host, member)
		}
		known = wants || a.Told[host]
	}
	switch {
	case wants && a.group:
		return Member
	case wants:
		return Receiver
	case relays:
		return Relay
	case known:
		return Overhearer
	}
	return Receiver
}

// silent returns the agents that packets are for, and that report what they receive,
// but are not on the hosts of those that have seen some. For an agent that joined after
// that time, the number of missed packets is unknown.
func (a *audience) silent(receives map[int]bool, after int64, seen []int) (hosts []int) {
	add := func(host int) {
		// It may have received them through another of its interfaces.
		anywhere := slices.ContainsFunc(seen, func(other int) bool { return receives[other] && a.same(other, host) })
		if receives[host] && !anywhere && !(a.sender >= 0 && a.same(host, a.sender)) {
			hosts = append(hosts, host)
		}
	}
	if a.owner >= 0 {
		add(a.owner)
	}
	for host, since := range a.Joined {
		if since <= after {
			add(host)
		}
	}
	slices.Sort(hosts)
	return hosts
}
