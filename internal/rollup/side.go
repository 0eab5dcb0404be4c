package rollup

import "github.com/pcapper/pcapper/wire"

const (
	// maxAddresses bounds how many addresses of a host are remembered.
	maxAddresses = 16
	// maxWitnesses is how many different addresses it takes to know that not
	// all packets of an agent come from, or go to, the same host.
	maxWitnesses = 2
)

// addresses knows which addresses are whose. Several agents may run on one
// host and have the same.
type addresses struct {
	hosts []hostAddresses
	// owner is the first host that was found to have an address.
	owner map[[16]byte]int
	// changed: owner is not what the last snapshot has.
	changed bool
}

type hostAddresses struct {
	own [][16]byte // certain
	// For agents that do not tell directions: the sources and unicast
	// destinations of their packets, until there are maxWitnesses, and what
	// follows from them.
	srcs, dsts [][16]byte
	guess      [16]byte
	guessed    bool
	sends      bool // it reports what its host sends
}

func newAddresses(hosts []Host) *addresses {
	a := &addresses{hosts: make([]hostAddresses, len(hosts)), owner: make(map[[16]byte]int)}
	for i, h := range hosts {
		if addr := h.Addr.Unmap(); addr.IsValid() && !addr.IsLoopback() {
			a.learn(i, addr.As16())
		}
	}
	return a
}

func (a *addresses) learn(host int, addr [16]byte) {
	h := &a.hosts[host]
	if has(h.own, addr) || len(h.own) == maxAddresses {
		return
	}
	h.own = append(h.own, addr)
	a.claim(host, addr)
}

func (a *addresses) claim(host int, addr [16]byte) {
	if _, taken := a.owner[addr]; !taken {
		a.owner[addr] = host
		a.changed = true
	}
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
func (a *addresses) guess(host int, k *connKey) {
	h := &a.hosts[host]
	src, dst := k.src(), k.dst()
	if len(h.srcs) < maxWitnesses && !has(h.srcs, src) {
		h.srcs = append(h.srcs, src)
	}
	if len(h.dsts) < maxWitnesses && !has(h.dsts, dst) && !isGroup(dst, k.flags()&wire.IPv6 != 0) {
		h.dsts = append(h.dsts, dst)
	}
	h.sends = h.sends || has(h.own, src)
	was, had := h.guess, h.guessed
	switch {
	case len(h.srcs) == 1:
		h.guess, h.guessed = h.srcs[0], true
	case len(h.dsts) == 1:
		h.guess, h.guessed = h.dsts[0], true
	default:
		h.guessed = false
	}
	if had && a.owner[was] == host && !has(h.own, was) && (!h.guessed || was != h.guess) {
		delete(a.owner, was)
		a.changed = true
	}
	if h.guessed {
		a.claim(host, h.guess)
	}
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
	host := k.host()
	h := &a.hosts[host]
	src, dst := k.src(), k.dst()
	switch {
	case h.has(src):
		return Sent
	case h.has(dst):
		return Received
	}
	if _, others := a.owner[src]; !others {
		return Sent // as is the agents' default
	}
	if h.sends || h.guessed && has(h.srcs, h.guess) {
		return Relayed
	}
	return Received
}

func (h *hostAddresses) has(addr [16]byte) bool {
	return has(h.own, addr) || h.guessed && h.guess == addr
}

func has(list [][16]byte, addr [16]byte) bool {
	for i := range list {
		if list[i] == addr {
			return true
		}
	}
	return false
}
