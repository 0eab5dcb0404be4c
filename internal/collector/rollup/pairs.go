package rollup

import (
	"bytes"
	"cmp"
	"slices"
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
}

// find adds up the entries of a kind in w. Forgotten ones are in other.
func (s *Snapshot) find(kind entryKind, w Window, want func(*entryKey) bool) (list []*found, other Counts) {
	sums := make(map[uint32]observed)
	of := make(map[entryKey]*found)
	s.history.eachKeyed(w, func(f *frame, _ func(uint32) *entryKey) {
		if kind == pairs {
			other = other.Plus(f.other.pairs)
		} else {
			other = other.Plus(f.other.talks)
		}
		f.eachEntry(kind, func(id uint32, o observed) {
			e := sums[id]
			sums[id] = observed{e.seen.Plus(o.seen), e.once.Plus(o.once)}
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
			x.see(k.side, k.host, o.seen)
		}
		clear(sums)
	})
	for _, x := range list {
		slices.SortFunc(x.by, func(a, b foundBy) int {
			return cmp.Or(cmp.Compare(a.side, b.side), cmp.Compare(a.host, b.host))
		})
	}
	return list, other
}

// see adds what an observer saw; a key that was forgotten and came back has two
// numbers.
func (x *found) see(side Side, host uint32, c Counts) {
	for i := range x.by {
		if x.by[i].side == side && x.by[i].host == host {
			x.by[i].seen = x.by[i].seen.Plus(c)
			return
		}
	}
	x.by = append(x.by, foundBy{side, host, c})
}

// sent, relayed, received: of several agents that saw the same as senders or
// receivers, that of the destination, or the one that saw most.
func (x *found) counts(dstHost int) (sent, relayed, received Counts) {
	atDst := false
	for _, b := range x.by {
		switch b.side {
		case Sent:
			if b.seen.Packets > sent.Packets {
				sent = b.seen
			}
		case Relayed:
			relayed = relayed.Plus(b.seen)
		case Received:
			if int(b.host) == dstHost {
				received, atDst = b.seen, true
			} else if !atDst && b.seen.Packets > received.Packets {
				received = b.seen
			}
		}
	}
	return sent, relayed, received
}

func heavierFirst(a, b *found) int {
	return cmp.Or(cmp.Compare(b.weight(), a.weight()), compareSubjects(&a.key, &b.key))
}

// weight orders what never counted once (seen by relays alone) last.
func (x *found) weight() uint64 { return x.once.Bytes }

func compareSubjects(a, b *entryKey) int {
	return cmp.Or(
		cmp.Compare(a.flow, b.flow), bytes.Compare(a.src[:], b.src[:]), bytes.Compare(a.dst[:], b.dst[:]),
		cmp.Compare(a.sport, b.sport), cmp.Compare(a.dport, b.dport), cmp.Compare(a.proto, b.proto),
		cmp.Compare(a.row, b.row),
	)
}

// Matrix is who sent to whom in w: the heaviest cells, at most so many.
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
			SrcHost: s.history.owner(x.key.src), DstHost: s.history.owner(x.key.dst), Once: x.once,
		}
		c.Sent, c.Relayed, c.Received = x.counts(c.DstHost)
		if !isGroup(x.key.dst, x.key.v6) && c.Sent.Packets > 0 && (c.Received.Packets > 0 || receives[c.DstHost]) {
			c.Loss = lossByCounts(c.Sent.Packets, c.Received.Packets)
		}
		m.Cells = append(m.Cells, c)
	}
	return m
}

// receivers are the hosts whose agents report what they receive.
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

func lossByCounts(sent, received uint64) Loss {
	return Loss{Valid: true, Expected: sent, Lost: sent - min(sent, received)}
}

// Groups are the multicast groups in w.
func (s *Snapshot) Groups(w Window) *Groups {
	w = s.Fit(w)
	list, _ := s.find(pairs, w, func(k *entryKey) bool { return isGroup(k.dst, k.v6) })
	slices.SortFunc(list, heavierFirst)
	of := make(map[[16]byte]*Group)
	g := &Groups{Window: w}
	var order []*Group
	for _, x := range list {
		group := of[x.key.dst]
		if group == nil {
			group = &Group{Addr: x.key.addr(&x.key.dst)}
			of[x.key.dst] = group
			order = append(order, group)
		}
		group.Once = group.Once.Plus(x.once)
		group.Senders = append(group.Senders, s.groupSender(x))
	}
	slices.SortStableFunc(order, func(a, b *Group) int { return cmp.Compare(b.Once.Bytes, a.Once.Bytes) })
	for _, group := range order {
		g.Groups = append(g.Groups, *group)
	}
	return g
}

func (s *Snapshot) groupSender(x *found) GroupSender {
	m := GroupSender{Src: x.key.addr(&x.key.src), Host: s.history.owner(x.key.src), Once: x.once}
	sent, _, best := x.counts(-1)
	m.Watched = sent.Packets > 0
	of := best.Packets
	if m.Watched {
		of = sent.Packets
	}
	for _, b := range x.by {
		if b.side != Received {
			continue
		}
		r := GroupReceiver{Host: int(b.host), Received: b.seen}
		if of > 0 {
			r.Fraction = min(float64(b.seen.Packets)/float64(of), 1)
		}
		m.Receivers = append(m.Receivers, r)
	}
	return m
}

// Talkers are the heaviest conversations in w, at most so many.
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
		k.Sent, k.Relayed, k.Received = x.counts(s.history.owner(x.key.dst))
		t.Talkers = append(t.Talkers, k)
	}
	return t
}
