package rollup

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// mgenFound is an MGEN flow at one observer in a window, or in one step.
type mgenFound struct {
	key  entryKey
	stat mgenStat
	aside
}

// MGEN returns all MGEN flows in w.
func (s *Snapshot) MGEN(w Window) *MGEN {
	w = s.Fit(w)
	m := &MGEN{Window: w}
	sums := make(map[uint32]*mgenFound)
	of := make(map[entryKey]*mgenFound)
	blind := s.blindness(w)
	receives := make(map[int]bool) // agents that report what they receive
	s.timeline.eachKeyed(w, func(f *frame, key func(uint32) *entryKey) {
		f.receiving(receives)
		hosts := blind.during(f)
		m.Other = m.Other.Plus(f.other.mgens)
		f.eachMGEN(func(id uint32, n *mgenStat) {
			e := sums[id]
			if e == nil {
				e = new(mgenFound)
				sums[id] = e
			}
			e.stat.addStat(n)
			if len(hosts) > 0 {
				if k := key(id); k != nil {
					e.put(k.host, hosts, n)
					if slices.Contains(blind.lossy, k.host) {
						e.lossy.count(n)
					}
				}
			}
		})
	}, func(key func(uint32) *entryKey) {
		resolve(of, sums, key, &m.Other)
		clear(sums)
	})
	var flows []*mgenParts
	for _, x := range observers(of) {
		subject := x.key.subject()
		n := len(m.Flows)
		if n == 0 || m.Flows[n-1].ID != x.key.flow || m.Flows[n-1].Tuple != subject.tuple() {
			m.Flows = append(m.Flows, MGENFlow{ID: x.key.flow, Tuple: subject.tuple(), SrcHost: s.timeline.owner(x.key.src)})
			flows = append(flows, &mgenParts{})
			n++
		}
		m.Flows[n-1].addObserver(x, flows[n-1], s.timeline.sends(int(x.key.host), x.key.src))
	}
	known := map[netip.Addr]Membership{}
	for i := range m.Flows {
		f := &m.Flows[i]
		who := s.audience(f.Dst, f.SrcHost, w, known)
		var seen []int
		for j := range f.Receivers {
			r := &f.Receivers[j]
			seen = append(seen, r.Host)
			r.Role = who.role(r.Host, slices.Contains(flows[i].relays, r.Host))
		}
		if f.Watched {
			for _, host := range who.silent(receives, max(w.From, s.Oldest), seen) {
				f.Receivers = append(f.Receivers, MGENReceiver{Host: host, Role: who.role(host, false)})
				flows[i].received = append(flows[i].received, &mgenFound{})
			}
		}
		f.setLoss(flows[i], time.Duration(w.Seconds())*time.Second)
		slices.SortStableFunc(f.Receivers, func(a, b MGENReceiver) int {
			return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Host, b.Host))
		})
	}
	return m
}

// receiving records the agents that have received something.
func (f *frame) receiving(hosts map[int]bool) {
	f.eachCell(func(k cellKey, c Counts) {
		if k.row == allRows && Side(k.which) == Received && c.Packets > 0 {
			hosts[int(k.host)] = true
		}
	})
}

// resolve adds the sums of entries to those of keys.
func resolve(of map[entryKey]*mgenFound, sums map[uint32]*mgenFound, key func(uint32) *entryKey, other *Counts) {
	for _, id := range sortedIDs(sums) {
		k := key(id)
		if k == nil {
			*other = other.Plus(Counts{sums[id].stat.packets, sums[id].stat.bytes})
			continue
		}
		if e := of[*k]; e != nil {
			e.stat.addStat(&sums[id].stat)
			e.merge(&sums[id].aside)
		} else {
			sums[id].key = *k
			of[*k] = sums[id]
		}
	}
}

// observers sorts MGEN entries by flow, side, and host.
func observers(of map[entryKey]*mgenFound) []*mgenFound {
	list := slices.Collect(maps.Values(of))
	slices.SortFunc(list, func(a, b *mgenFound) int {
		return cmp.Or(compareSubjects(&a.key, &b.key), cmp.Compare(a.key.side, b.key.side), cmp.Compare(a.key.host, b.key.host))
	})
	return list
}

func sortedIDs(sums map[uint32]*mgenFound) []uint32 {
	ids := make([]uint32, 0, len(sums))
	for id := range sums {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// mgenParts is the data from which a flow's losses are computed.
type mgenParts struct {
	sent     *mgenFound
	received []*mgenFound // agents that forwarded it
	relays   []int        // agents that sent it on
}

// addObserver takes what an observer saw. watched: if it was the sender's agent that saw
// the flow being sent, it certainly was.
func (f *MGENFlow) addObserver(x *mgenFound, parts *mgenParts, watched bool) {
	c := Counts{x.stat.packets, x.stat.bytes}
	switch x.key.side {
	case Sent:
		f.Watched = f.Watched || watched
		if c.Packets > f.Sent.Packets {
			f.Sent, parts.sent = MGENCounts{c, x.stat.messages}, x
		}
	case Relayed:
		f.Relayed = f.Relayed.Plus(c)
		parts.relays = append(parts.relays, int(x.key.host))
	case Received:
		f.Receivers = append(f.Receivers, newReceiver(x))
		parts.received = append(parts.received, x)
	}
}

func newReceiver(x *mgenFound) MGENReceiver {
	m := &x.stat
	r := MGENReceiver{
		Host:       int(x.key.host),
		Received:   MGENCounts{Counts{m.packets, m.bytes}, m.messages},
		Duplicates: m.duplicates, Reordered: m.reordered, Restarts: m.restarts,
		Delayed: m.delayed, NegativeDelays: m.negative,
	}
	if m.delayed > 0 {
		r.MinDelay, r.MaxDelay = time.Duration(m.delayMin), time.Duration(m.delayMax)
		r.MeanDelay = time.Duration(m.delaySum / int64(m.delayed))
		r.Jitter = time.Duration(m.jitter)
	}
	if m.messages > 0 {
		own := *m
		own.uncount(&x.lossy)
		lost := min(max(own.lost(), 0), int64(own.expected))
		r.Loss = Loss{Valid: own.expected > 0, BySequence: true, Expected: own.expected, Lost: uint64(lost)}
	}
	return r
}

// setLoss sets losses that sequence numbers do not reveal: all losses of a feed without
// them, and those before the first and after the last message that arrived. It compares
// what was seen while both agents were watching.
func (f *MGENFlow) setLoss(parts *mgenParts, window time.Duration) {
	if !f.Watched || parts.sent == nil {
		return
	}
	for i := range f.Receivers {
		r, received := &f.Receivers[i], parts.received[i]
		sent := parts.sent.compared(parts.sent.stat, r.Host)
		got := received.compared(received.stat, int(parts.sent.key.host))
		if r.Received.Messages == 0 {
			r.Loss = lossByCounts(sent.packets, got.packets)
			continue
		}
		arrived := got.messages - got.duplicates
		missing := sent.messages - min(sent.messages, arrived)
		// Some of those sent in the window may still be in transit, and a loss by
		// sequence numbers is not overridden because of a few messages.
		way := min(max(r.MaxDelay, 0)+time.Second, window)
		doubt := uint64(float64(sent.messages)*way.Seconds()/window.Seconds()) + sent.messages/50 + 5
		skipped := r.Loss.Lost > missing+doubt && got.messages == received.stat.messages // watched the whole time
		if skipped || missing > r.Loss.Lost+doubt {
			r.Loss = lossByCounts(sent.messages, arrived)
		}
	}
}

// MGENSeries returns one MGEN flow, identified by its ID and tuple, in w over time.
func (s *Snapshot) MGENSeries(id uint32, t Tuple, w Window) *MGENSeries {
	w = s.Fit(w)
	n := w.Points()
	m := &MGENSeries{Window: w, Sent: make([]Counts, n), SentHost: -1}
	points := make(map[entryKey][]mgenStat)
	series := make(map[uint32][]mgenStat) // by number; nil: another flow
	find := func(number uint32, key func(uint32) *entryKey) []mgenStat {
		k := key(number)
		if k == nil || k.kind != mgens || k.flow != id || k.tuple() != t {
			return nil
		}
		if points[*k] == nil {
			points[*k] = make([]mgenStat, n)
		}
		return points[*k]
	}
	s.timeline.eachKeyed(w, func(f *frame, key func(uint32) *entryKey) {
		at := w.point(f)
		f.eachMGEN(func(number uint32, x *mgenStat) {
			p, ok := series[number]
			if !ok {
				p = find(number, key)
				series[number] = p
			}
			if p != nil {
				p[at].addStat(x)
			}
		})
	}, func(func(uint32) *entryKey) { clear(series) })
	sent := uint64(0)
	for k, p := range points {
		switch k.side {
		case Sent:
			if sum := packetsOf(p); sum > sent {
				sent = sum
				m.SentHost = int(k.host)
				for i := range p {
					m.Sent[i] = Counts{p[i].packets, p[i].bytes}
				}
			}
		case Received:
			m.Receivers = append(m.Receivers, receiverSeries(int(k.host), p))
		}
	}
	slices.SortFunc(m.Receivers, func(a, b MGENReceiverSeries) int { return cmp.Compare(a.Host, b.Host) })
	return m
}

func packetsOf(points []mgenStat) (sum uint64) {
	for i := range points {
		sum += points[i].packets
	}
	return sum
}

func receiverSeries(host int, points []mgenStat) MGENReceiverSeries {
	n := len(points)
	r := MGENReceiverSeries{
		Host: host, Received: make([]Counts, n), Expected: make([]uint64, n), Lost: make([]int64, n),
		Duplicates: make([]uint64, n), Reordered: make([]uint64, n), Delayed: make([]uint64, n),
		MinDelay: make([]int64, n), MeanDelay: make([]int64, n), MaxDelay: make([]int64, n),
		Jitter: make([]int64, n), NegativeDelays: make([]uint64, n),
	}
	for i := range points {
		m := &points[i]
		r.Received[i] = Counts{m.packets, m.bytes}
		r.Expected[i], r.Lost[i] = m.expected, m.lost()
		r.Duplicates[i], r.Reordered[i] = m.duplicates, m.reordered
		r.Delayed[i], r.NegativeDelays[i] = m.delayed, m.negative
		if m.delayed > 0 {
			r.MinDelay[i], r.MaxDelay[i], r.Jitter[i] = m.delayMin, m.delayMax, m.jitter
			r.MeanDelay[i] = m.delaySum / int64(m.delayed)
		}
	}
	return r
}
