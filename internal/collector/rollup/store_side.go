package rollup

import (
	"slices"

	"github.com/pcapper/pcapper/wire"
)

const (
	// maxAddresses bounds how many addresses of a host are remembered.
	maxAddresses = 16
	// maxWitnesses is how many different addresses it takes to know that not
	// all packets of an agent come from, or go to, the same host.
	maxWitnesses = 2
)

// addresses knows which addresses are whose.
type addresses struct {
	agents []witness
	// owner is whose an address is.
	owner map[[16]byte]ownership
	// changed: owner is not what the last snapshot has.
	changed bool
	// unsaved: more are certain than the archive has been told.
	unsaved bool
}

// ownership: of a host, which the first of its agents stands for; guessed until
// an agent says so or is dialled there.
type ownership struct {
	host    int
	certain bool
}

// witness is what an agent's packets have told.
type witness struct {
	host  int // the first agent that is dialled at the same address, or itself
	known int // certain addresses
	// For agents that do not tell directions: the sources and unicast
	// destinations of their packets, until there are maxWitnesses.
	srcs, dsts [][16]byte
	guess      [16]byte // what follows from them, if guessed
	guessed    bool
	sends      bool // packets came from its host's address, which is certain
	receives   bool // packets went there
}

func newAddresses(hosts []Host) *addresses {
	a := &addresses{agents: make([]witness, len(hosts)), owner: make(map[[16]byte]ownership)}
	first := make(map[[16]byte]int)
	for i, h := range hosts {
		a.agents[i].host = i
		addr := h.Addr.Unmap()
		if !addr.IsValid() || addr.IsLoopback() {
			continue // a tunnel, perhaps
		}
		key := addr.As16()
		if j, ok := first[key]; ok {
			a.agents[i].host = j
			continue
		}
		first[key] = i
		a.learn(i, key)
	}
	return a
}

// set makes h the host of an agent, which may be a new one: the next.
func (a *addresses) set(agent int, h Host) {
	if agent == len(a.agents) {
		a.agents = append(a.agents, witness{host: agent})
	}
	addr := h.Addr.Unmap()
	if !addr.IsValid() || addr.IsLoopback() {
		return
	}
	key := addr.As16()
	if o := a.owner[key]; o.certain {
		a.agents[agent].host = o.host
		return
	}
	a.learn(agent, key)
}

// learn: addr is certainly one of the agent's host.
func (a *addresses) learn(agent int, addr [16]byte) {
	w := &a.agents[a.agents[agent].host]
	if a.owner[addr].certain || w.known == maxAddresses {
		return
	}
	w.known++
	a.owner[addr] = ownership{w.host, true}
	a.changed, a.unsaved = true, true
}

// certain are the addresses that hosts certainly have.
func (a *addresses) certain() map[[16]byte]int {
	owners := make(map[[16]byte]int)
	for addr, o := range a.owner {
		if o.certain {
			owners[addr] = o.host
		}
	}
	return owners
}

func (a *addresses) has(agent int, addr [16]byte) bool {
	o, ok := a.owner[addr]
	return ok && o.host == a.agents[agent].host
}

// witness takes note of a new conversation.
func (a *addresses) witness(k *connKey) {
	host, flags := k.host(), k.flags()
	switch {
	case flags&(wire.Outgoing|wire.Relayed) == wire.Outgoing:
		a.learn(host, k.src())
	case flags&(wire.Outgoing|wire.Relayed|wire.Incoming) == 0:
		a.guess(host, k)
	}
}

// guess finds out what an agent reports that does not say so: if all packets
// come from one address, what its host sends; if they come from many and go to
// one, what it receives.
func (a *addresses) guess(agent int, k *connKey) {
	w := &a.agents[agent]
	src, dst := k.src(), k.dst()
	multicast := isGroup(dst, k.flags()&wire.IPv6 != 0)
	if len(w.srcs) < maxWitnesses && !slices.Contains(w.srcs, src) {
		w.srcs = append(w.srcs, src)
	}
	if len(w.dsts) < maxWitnesses && !slices.Contains(w.dsts, dst) && !multicast {
		w.dsts = append(w.dsts, dst)
	}
	was, had := w.guess, w.guessed
	switch {
	case len(w.srcs) == 1:
		w.guess, w.guessed = w.srcs[0], true
	case len(w.dsts) == 1:
		w.guess, w.guessed = w.dsts[0], true
	default:
		w.guessed = false
	}
	if had && (!w.guessed || was != w.guess) && a.owner[was] == (ownership{w.host, false}) {
		delete(a.owner, was)
		a.changed = true
	}
	if _, taken := a.owner[w.guess]; w.guessed && !taken {
		a.owner[w.guess] = ownership{w.host, false}
		a.changed = true
	}
	own := ownership{w.host, true}
	w.sends = w.sends || a.owner[src] == own
	w.receives = w.receives || a.owner[dst] == own
}

// side is where the observer of k saw its packets.
func (a *addresses) side(k *connKey) Side {
	flags := k.flags()
	switch {
	case flags&wire.Relayed != 0:
		return Relayed
	case flags&wire.Outgoing != 0:
		return Sent
	case flags&wire.Incoming != 0:
		return Received
	}
	agent, src, dst := k.host(), k.src(), k.dst()
	w := &a.agents[agent]
	_, known := a.owner[src]
	switch {
	case a.has(agent, src) || !known && !a.has(agent, dst):
		return Sent // if nothing is known, as is the agents' default
	case a.has(agent, dst):
		return Received
	// It is another host's, and not for this one.
	case a.sends(agent) && (!w.receives || !isGroup(dst, flags&wire.IPv6 != 0)):
		return Relayed
	}
	return Received
}

// sends: the agent reports what its host sends.
func (a *addresses) sends(agent int) bool {
	w := &a.agents[agent]
	return w.sends || w.guessed && slices.Contains(w.srcs, w.guess) && a.has(agent, w.guess)
}
