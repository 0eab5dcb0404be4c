package rollup

import (
	"net/netip"
	"slices"
)

// Membership is who has joined a multicast group, by agents.
type Membership struct {
	// Joined has members, and since when, in seconds since the epoch; 0 is longer than is known.
	Joined map[int]int64
	// Node is the first agent on the same node, of agents that are not it.
	Node map[int]int
	// Told are the agents whose memberships are known: the others may or may not be members.
	Told map[int]bool
}

// Role is what an agent that has received packets has to do with them.
type Role uint8

const (
	// Receiver: the packets are for its host, or nothing says that they are not.
	Receiver Role = iota
	// Member of the multicast group that they are for.
	Member
	// Relay: it passes them on and does not want them itself.
	Relay
	// Overhearer: they are for others.
	Overhearer
)

func (r Role) String() string { return [...]string{"receiver", "member", "relay", "overhearer"}[r] }

// Wants reports whether packets that do not arrive there are lost.
func (r Role) Wants() bool { return r <= Member }

// audience is whom packets to an address are for.
type audience struct {
	h      *timeline
	sender int // the agent whose address they are from, or -1
	group  bool
	owner  int // of the address, or -1
	Membership
}

func (s *Snapshot) audience(dst netip.Addr, sender int, w Window) audience {
	h := s.timeline
	a := audience{h: h, sender: sender, owner: -1}
	if a.group = isGroup(dst.As16(), !dst.Is4()); !a.group {
		a.owner = h.owner(dst.As16())
	} else if h.members != nil {
		w.From = max(w.From, s.Oldest)
		a.Membership = h.members(dst, w)
	}
	return a
}

// same reports whether two agents are on one host.
func (a *audience) same(host, other int) bool {
	return host == other || a.node(host) == a.node(other) || host < len(a.h.hostOf) && other >= 0 && other < len(a.h.hostOf) && a.h.hostOf[host] == a.h.hostOf[other]
}

func (a *audience) node(host int) int {
	if first, ok := a.Node[host]; ok {
		return first
	}
	return host
}

// role of an agent that has received packets, and passes them on if it relays.
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

// silent are agents that packets are for, and that report what they receive, but none of them. Of one that has
// joined after a time it cannot be said how many it missed.
func (a *audience) silent(receives map[int]bool, after int64, seen func(host int) bool) (hosts []int) {
	anywhere := func(host int) bool {
		for other := range receives {
			if a.same(other, host) && seen(other) {
				return true // by another of its interfaces
			}
		}
		return false
	}
	add := func(host int) {
		if receives[host] && !anywhere(host) && !(a.sender >= 0 && a.same(host, a.sender)) {
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
