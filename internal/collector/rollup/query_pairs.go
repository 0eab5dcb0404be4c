package rollup

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"sync"
)

// found is the traffic of one subject in a window, by observer.
type found struct {
	key  entryKey // a subject
	once Counts
	by   []foundBy // ordered by side and host
}

type foundBy struct {
	side Side
	host uint32
	seen Counts
	aside
}

// with returns the part that may be compared with what host saw.
func (b *foundBy) with(host int) Counts {
	m := b.compared(mgenStat{packets: b.seen.Packets, bytes: b.seen.Bytes}, host)
	return Counts{m.packets, m.bytes}
}

// find adds up the entries of a kind in w. Forgotten ones are added to other.
func (s *Snapshot) find(kind entryKind, w Window, want func(*entryKey) bool) (list []*found, other Counts) {
	sums := make(map[uint32]observed)
	of := make(map[entryKey]*found)
	asides := make(map[uint32]*aside)
	blind := s.blindness(w)
	s.timeline.eachKeyed(w, func(f *frame, key func(uint32) *entryKey) {
		hosts := blind.during(f)
		if kind == pairs {
			other = other.Plus(f.other.pairs)
		} else {
			other = other.Plus(f.other.talks)
		}
		f.eachEntry(kind, func(id uint32, o observed) {
			e := sums[id]
			sums[id] = observed{e.seen.Plus(o.seen), e.once.Plus(o.once)}
			if k := key(id); len(hosts) > 0 && k != nil {
				putAside(asides, id, k.host, hosts, &mgenStat{packets: o.seen.Packets, bytes: o.seen.Bytes})
			}
		})
	}, func(key func(uint32) *entryKey) {
		for id, o := range sums {
			k := key(id)
			if k == nil {
				other = other.Plus(o.once)
				continue
			}
			if want != nil && !want(k) {
				continue
			}
			subject := k.subject()
			x := of[subject]
			if x == nil {
				x = &found{key: subject}
				of[subject] = x
				list = append(list, x)
			}
			x.once = x.once.Plus(o.once)
			x.see(k.side, k.host, o.seen, asides[id])
		}
		clear(sums)
		clear(asides)
	})
	for _, x := range list {
		slices.SortFunc(x.by, func(a, b foundBy) int {
			return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(a.host, b.host))
		})
	}
	return list, other
}

// see adds what an observer saw. A key that was forgotten and reappeared has two
// numbers.
func (x *found) see(side Side, host uint32, c Counts, a *aside) {
	i := slices.IndexFunc(x.by, func(b foundBy) bool { return b.side == side && b.host == host })
	if i < 0 {
		i = len(x.by)
		x.by = append(x.by, foundBy{side: side, host: host})
	}
	x.by[i].seen = x.by[i].seen.Plus(c)
	if a != nil {
		x.by[i].merge(a)
	}
}

func putAside(asides map[uint32]*aside, id, host uint32, blind []uint32, m *mgenStat) {
	a := asides[id]
	if a == nil {
		a = new(aside)
		asides[id] = a
	}
	a.put(host, blind, m)
}

// counts returns what was sent, relayed, and received. Of several agents that saw the
// packets as senders, or as receivers, it uses the one that saw most; if dstHost, the
// destination's, is known, no other is a receiver. sender and receiver are their parts,
// or nil.
func (h *timeline) counts(x *found, dstHost int) (sent, relayed, received Counts, sender, receiver *foundBy) {
	for i := range x.by {
		b := &x.by[i]
		switch b.side {
		case Sent:
			if b.seen.Packets > sent.Packets {
				sent, sender = b.seen, b
			}
		case Relayed:
			relayed = relayed.Plus(b.seen)
		case Received:
			if (dstHost < 0 || h.on(int(b.host), dstHost)) && (receiver == nil || b.seen.Packets > received.Packets) {
				received, receiver = b.seen, b
			}
		}
	}
	return sent, relayed, received, sender, receiver
}

func heavierFirst(a, b *found) int {
	return cmp.Or(cmp.Compare(b.weight(), a.weight()), compareSubjects(&a.key, &b.key))
}

// weight sorts last what never counts once, because only relays saw it.
func (x *found) weight() uint64 { return x.once.Bytes }

func compareSubjects(a, b *entryKey) int {
	return cmp.Or(
		cmp.Compare(a.flow, b.flow), bytes.Compare(a.src[:], b.src[:]), bytes.Compare(a.dst[:], b.dst[:]),
		cmp.Compare(a.sport, b.sport), cmp.Compare(a.dport, b.dport), cmp.Compare(a.proto, b.proto),
		cmp.Compare(a.row, b.row),
	)
}

// Matrix returns who sent to whom in w: the heaviest cells, up to most.
func (s *Snapshot) Matrix(w Window, most int) *Matrix {
	w = s.Fit(w)
	list, other := s.find(pairs, w, nil)
	slices.SortFunc(list, heavierFirst)
	m := &Matrix{Window: w, Other: other, Total: other}
	receives := receivers(list)
	for i, x := range list {
		m.Total = m.Total.Plus(x.once)
		if i >= most {
			m.Other = m.Other.Plus(x.once)
			continue
		}
		c := Cell{
			Src: x.key.addr(&x.key.src), Dst: x.key.addr(&x.key.dst),
			SrcHost: s.timeline.owner(x.key.src), DstHost: s.timeline.owner(x.key.dst), Once: x.once,
		}
		var sender, receiver *foundBy
		c.Sent, c.Relayed, c.Received, sender, receiver = s.timeline.counts(x, c.DstHost)
		if !isGroup(x.key.dst, x.key.v6) && s.watches(sender, x.key.src) && (receiver != nil || receives[c.DstHost]) {
			c.Loss = lossBetween(sender, receiver, c.DstHost)
		}
		m.Cells = append(m.Cells, c)
	}
	return m
}

// receivers returns the hosts whose agents report what they receive.
func receivers(list []*found) map[int]bool {
	hosts := make(map[int]bool)
	for _, x := range list {
		for _, b := range x.by {
			if b.side == Received {
				hosts[int(b.host)] = true
			}
		}
	}
	return hosts
}

// watches reports whether a sender's agent certainly saw what the host at src sent:
// either it reports the side on which it sees packets, or src is an address of its
// host. A 28-byte feed of other hosts' packets looks like that of a sender.
func (s *Snapshot) watches(sender *foundBy, src [16]byte) bool {
	return sender != nil && s.timeline.sends(int(sender.host), src)
}

func (h *timeline) sends(host int, src [16]byte) bool {
	if host < len(h.directions) && h.directions[host] {
		return true
	}
	return h.on(host, h.owner(src))
}

// on reports whether an agent is on the host of owner, an address's.
func (h *timeline) on(agent, owner int) bool {
	return agent == owner || agent < len(h.hostOf) && h.hostOf[agent] == owner
}

// lossBetween compares what two agents saw while both were watching. receiver is nil if
// nothing has arrived at dst.
func lossBetween(sender, receiver *foundBy, dst int) Loss {
	if receiver == nil {
		return lossByCounts(sender.with(dst).Packets, 0)
	}
	return lossByCounts(sender.with(int(receiver.host)).Packets, receiver.with(int(sender.host)).Packets)
}

// lossByCounts returns a loss that is valid unless there was nothing to compare.
func lossByCounts(sent, received uint64) Loss {
	return Loss{Valid: sent > 0, Expected: sent, Lost: sent - min(sent, received)}
}

// Groups returns the multicast groups in w.
func (s *Snapshot) Groups(w Window) *Groups {
	w = s.Fit(w)
	list, _ := s.find(pairs, w, func(k *entryKey) bool { return isGroup(k.dst, k.v6) })
	g := &Groups{Window: w}
	if len(list) == 0 {
		return g
	}
	receives := make(map[int]bool)
	s.timeline.each(w, func(f *frame) { f.receiving(receives) })
	// What hosts tell routers of their memberships (RFC 2236, RFC 2710) goes to the group, and no member waits for it.
	data := sync.OnceValue(func() map[[2][16]byte]bool {
		waited, _ := s.find(talks, w, func(k *entryKey) bool { return isGroup(k.dst, k.v6) && k.proto != 2 && k.proto != 58 })
		pairs := make(map[[2][16]byte]bool)
		for _, x := range waited {
			pairs[[2][16]byte{x.key.src, x.key.dst}] = true
		}
		return pairs
	})
	silent := func(r GroupReceiver) bool { return r.Received.Packets == 0 }
	slices.SortFunc(list, heavierFirst)
	of := make(map[[16]byte]*Group)
	known := map[netip.Addr]Membership{}
	var order []*Group
	for _, x := range list {
		group := of[x.key.dst]
		if group == nil {
			group = &Group{Addr: x.key.addr(&x.key.dst)}
			of[x.key.dst] = group
			order = append(order, group)
		}
		group.Once = group.Once.Plus(x.once)
		m := s.groupSender(x, group.Addr, receives, known, w)
		if slices.ContainsFunc(m.Receivers, silent) && !data()[[2][16]byte{x.key.src, x.key.dst}] {
			m.Receivers = slices.DeleteFunc(m.Receivers, silent)
		}
		group.Senders = append(group.Senders, m)
	}
	slices.SortStableFunc(order, func(a, b *Group) int { return cmp.Compare(b.Once.Bytes, a.Once.Bytes) })
	for _, group := range order {
		g.Groups = append(g.Groups, *group)
	}
	return g
}

func (s *Snapshot) groupSender(x *found, addr netip.Addr, receives map[int]bool, known map[netip.Addr]Membership, w Window) GroupSender {
	m := GroupSender{Src: x.key.addr(&x.key.src), Host: s.timeline.owner(x.key.src), Once: x.once}
	_, _, _, sender, best := s.timeline.counts(x, -1)
	m.Watched = s.watches(sender, x.key.src)
	if m.Watched {
		best = sender
	}
	who := s.audience(addr, m.Host, w, known)
	var seen []int
	for i := range x.by {
		b := &x.by[i]
		if b.side != Received {
			continue
		}
		relays := slices.ContainsFunc(x.by, func(o foundBy) bool { return o.host == b.host && o.side == Relayed })
		r := GroupReceiver{Host: int(b.host), Role: who.role(int(b.host), relays), Received: b.seen}
		if of := best.with(r.Host).Packets; of > 0 {
			r.Compared = true
			r.Fraction = min(float64(b.with(int(best.host)).Packets)/float64(of), 1)
		}
		m.Receivers = append(m.Receivers, r)
		seen = append(seen, r.Host)
	}
	if m.Watched {
		for _, host := range who.silent(receives, max(w.From, s.Oldest), seen) {
			m.Receivers = append(m.Receivers, GroupReceiver{Host: host, Role: Member, Compared: sender.with(host).Packets > 0})
		}
	}
	slices.SortStableFunc(m.Receivers, func(a, b GroupReceiver) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Host, b.Host))
	})
	return m
}

// Talkers returns the heaviest conversations in w, up to most.
func (s *Snapshot) Talkers(w Window, most int) *Talkers {
	w = s.Fit(w)
	list, other := s.find(talks, w, nil)
	slices.SortFunc(list, heavierFirst)
	t := &Talkers{Window: w, Other: other, Total: other}
	for i, x := range list {
		t.Total = t.Total.Plus(x.once)
		if i >= most {
			t.Other = t.Other.Plus(x.once)
			continue
		}
		k := Talker{Tuple: x.key.tuple(), Once: x.once, Row: int(x.key.row)}
		k.Sent, k.Relayed, k.Received, _, _ = s.timeline.counts(x, s.timeline.owner(x.key.dst))
		t.Talkers = append(t.Talkers, k)
	}
	return t
}
