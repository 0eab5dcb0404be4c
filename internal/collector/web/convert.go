package web

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

const (
	// tailSeconds exceeds the time in which late packets can change what was pushed,
	// and mostTail the time for packets that had to wait.
	tailSeconds = 16
	mostTail    = 90
	// maxRows bounds tables: the rest is summed up as "other".
	maxRows = 1000
)

func frameOf(source Source, snap *rollup.Snapshot) *frameJSON {
	f := &frameJSON{
		Seq: snap.Seq, Run: source.Setup().Run, Now: float64(snap.Now) / 1e9,
		Complete: snap.Complete, Oldest: snap.Oldest,
		Hosts:  hostStates(source, snap),
		Replay: replayOf(source),
		Store: storeJSON{
			Records: snap.Records, Late: snap.Late, Future: snap.Future, Lost: source.Lost(),
			Forgotten: snap.Forgotten, Memory: snap.Memory, Budget: snap.Budget, Archive: archiveOf(snap.Archive),
		},
		Current: *overviewOf(snap, snap.Overview(rollup.Window{From: snap.Complete, To: snap.Complete + 1, Step: 1})),
	}
	tail := snap.Last(tailSeconds)
	for _, sec := range snap.Changed {
		if sec > snap.Complete-mostTail {
			tail.From = min(tail.From, sec)
		}
	}
	tail.Step = 1
	f.Tail = *overviewOf(snap, snap.Overview(tail))
	return f
}

func hostStates(source Source, snap *rollup.Snapshot) []hostStateJSON {
	agents := source.Agents()
	hosts := make([]hostStateJSON, len(agents))
	for i, a := range agents {
		h := &hosts[i]
		h.Agent = a
		if h.Losses == nil {
			h.Losses = []Loss{}
		}
		if i >= len(snap.Hosts) {
			continue
		}
		s := &snap.Hosts[i]
		h.Late, h.Future, h.LateNow, h.FutureNow = s.Late, s.Future, s.LateNow, s.FutureNow
		if s.HasAge {
			age := s.Age.Seconds()
			h.Age = &age
		}
		if s.HasCPU {
			h.CPU = &s.CPU
		}
		if s.HasMemory {
			h.Memory = &s.Memory
		}
	}
	return hosts
}

// mostGaps is the maximum number of gaps reported for a window, the longest ones.
const mostGaps = 500

// windowOf reports in which parts of the window none of the agents was watched.
func windowOf(snap *rollup.Snapshot, w rollup.Window) spanJSON {
	j := spanJSON{From: w.From, To: w.To, Step: w.Step, Points: w.Points()}
	j.Gaps = gapsOf(snap.Unobserved(w), w)
	return j
}

// gapsOf returns the gaps that are long enough to matter for a point.
func gapsOf(runs []rollup.Run, w rollup.Window) (list [][2]int64) {
	gaps := slices.DeleteFunc(slices.Clone(runs), func(g rollup.Run) bool { return g.To-g.From < w.Step/100 })
	if len(gaps) > mostGaps {
		slices.SortFunc(gaps, func(a, b rollup.Run) int { return cmp.Compare(b.To-b.From, a.To-a.From) })
		gaps = gaps[:mostGaps]
		slices.SortFunc(gaps, func(a, b rollup.Run) int { return cmp.Compare(a.From, b.From) })
	}
	for _, g := range gaps {
		list = append(list, [2]int64{g.From, g.To})
	}
	return list
}

func archiveOf(a *rollup.ArchiveStatus) *archiveJSON {
	if a == nil {
		return nil
	}
	return &archiveJSON{Size: a.Size, Most: a.Most, Lost: a.Lost, Damaged: a.Damaged, Full: a.Full, Error: a.Err, Cut: a.Cut}
}

func countOf(c rollup.Counts) countJSON { return countJSON{c.Packets, c.Bits()} }

// seriesOf returns null where nothing was counted and nothing is known.
func seriesOf(list []rollup.Counts, unobserved []bool) seriesJSON {
	s := seriesJSON{make([]measured, len(list)), make([]measured, len(list))}
	for i, c := range list {
		s.Packets[i], s.Bits[i] = measured(c.Packets), measured(c.Bits())
		if c.Packets == 0 && unobserved[i] {
			s.Packets[i], s.Bits[i] = unknown, unknown
		}
	}
	return s
}

// each applies f to all elements of list. Its result is never nil.
func each[T, U any](list []T, f func(*T) U) []U {
	out := make([]U, len(list))
	for i := range list {
		out[i] = f(&list[i])
	}
	return out
}

func overviewOf(snap *rollup.Snapshot, o *rollup.Overview) *overviewJSON {
	unobserved := snap.Unknown(o.Window)
	return &overviewJSON{
		Window: windowOf(snap, o.Window), Total: countOf(o.Total), Relayed: countOf(o.Relayed), Seen: countOf(o.Seen),
		Series: seriesOf(o.Series, unobserved),
		Flows: each(o.Flows, func(f *rollup.FlowSeries) flowSeriesJSON {
			return flowSeriesJSON{f.Row, countOf(f.Primary), countOf(f.Secondary), seriesOf(f.PrimarySeries, unobserved), seriesOf(f.SecondarySeries, unobserved)}
		}),
		Hosts: each(o.Hosts, hostCounts),
	}
}

func hostCounts(h *rollup.HostCounts) hostCountsJSON {
	return hostCountsJSON{
		h.Host, countOf(h.Sent), countOf(h.Relayed), countOf(h.Received),
		each(h.Flows, func(f *rollup.FlowCounts) flowCountsJSON {
			return flowCountsJSON{f.Row, countOf(f.Primary), countOf(f.Secondary)}
		}),
	}
}

func hostsOf(snap *rollup.Snapshot, w rollup.Window) *hostsJSON {
	return &hostsJSON{
		Window: windowOf(snap, snap.Fit(w)),
		Hosts: each(snap.HostViews(w), func(h *rollup.HostView) hostViewJSON {
			unobserved := snap.Unknown(h.Window, h.Host)
			gaps := gapsOf(snap.Unobserved(h.Window, h.Host), h.Window)
			return hostViewJSON{hostCounts(&h.HostCounts), append([][2]int64{}, gaps...), seriesOf(h.SentSeries, unobserved),
				seriesOf(h.RelayedSeries, unobserved), seriesOf(h.ReceivedSeries, unobserved)}
		}),
	}
}

// namer collects names of addresses.
type namer struct {
	source Source
	names  namesJSON
}

func newNamer(source Source) namer { return namer{source, namesJSON{}} }

// text returns the address in its usual form, and records its name, if any.
func (n namer) text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	text := a.Unmap().String()
	if name := n.source.Name(a.Unmap()); name != "" {
		n.names[text] = name
	}
	return text
}

func (n namer) tuple(t rollup.Tuple) tupleJSON {
	return tupleJSON{n.text(t.Src), n.text(t.Dst), t.SrcPort, t.DstPort, t.Proto}
}

func matrixOf(source Source, snap *rollup.Snapshot, m *rollup.Matrix, g *rollup.Groups) *matrixJSON {
	n := newNamer(source)
	return &matrixJSON{
		Names: n.names,

		Window: windowOf(snap, m.Window), Total: countOf(m.Total), Other: countOf(m.Other),
		Cells: each(m.Cells, func(c *rollup.Cell) cellJSON {
			return cellJSON{n.text(c.Src), n.text(c.Dst), c.SrcHost, c.DstHost,
				countOf(c.Once), countOf(c.Sent), countOf(c.Relayed), countOf(c.Received), lossOf(c.Loss)}
		}),
		Groups: each(g.Groups, func(g *rollup.Group) groupJSON {
			return groupJSON{n.text(g.Addr), countOf(g.Once), each(g.Senders, func(s *rollup.GroupSender) senderJSON {
				return senderJSON{n.text(s.Src), s.Host, s.Watched, countOf(s.Once),
					each(s.Receivers, func(r *rollup.GroupReceiver) receiverJSON {
						return receiverJSON{r.Host, r.Role.String(), countOf(r.Received), fractionOf(r)}
					})}
			})}
		}),
	}
}

func fractionOf(r *rollup.GroupReceiver) *float64 {
	if !r.Compared {
		return nil
	}
	return &r.Fraction
}

func lossOf(l rollup.Loss) *lostJSON {
	if !l.Valid {
		return nil
	}
	return &lostJSON{l.Expected, l.Lost, l.Fraction(), l.BySequence}
}

func talkersOf(source Source, snap *rollup.Snapshot, t *rollup.Talkers) *talkersJSON {
	n, hosts := newNamer(source), map[string]int{}
	for i := range t.Talkers {
		for _, a := range []netip.Addr{t.Talkers[i].Src, t.Talkers[i].Dst} {
			if host := snap.Owner(a); host >= 0 {
				hosts[n.text(a)] = host
			}
		}
	}
	return &talkersJSON{windowOf(snap, t.Window), countOf(t.Total), countOf(t.Other),
		each(t.Talkers, func(t *rollup.Talker) talkerJSON {
			return talkerJSON{n.tuple(t.Tuple), t.Row, countOf(t.Once), countOf(t.Sent), countOf(t.Relayed), countOf(t.Received)}
		}), n.names, hosts}
}

func messagesOf(c rollup.MGENCounts) messagesJSON {
	return messagesJSON{countOf(c.Counts), c.Messages}
}

// mgenOf returns the first flows, at most limit of them, or all if that is 0.
func mgenOf(source Source, snap *rollup.Snapshot, m *rollup.MGEN, limit int) *mgenJSON {
	list, more := m.Flows, 0
	if limit > 0 && len(list) > limit {
		list, more = list[:limit], len(list)-limit
	}
	n := newNamer(source)
	dropped := func(*rollup.MGENFlow, int) (uint64, bool) { return 0, false }
	if s, ok := source.(DropSource); ok {
		dropped = s.SocketDrops(m.Window)
	}
	return &mgenJSON{windowOf(snap, m.Window), countOf(m.Other), more, each(list, func(f *rollup.MGENFlow) mgenFlowJSON {
		return mgenFlowJSON{f.ID, n.tuple(f.Tuple), f.SrcHost, f.Watched, messagesOf(f.Sent), countOf(f.Relayed),
			each(f.Receivers, func(r *rollup.MGENReceiver) mgenReceiverJSON {
				j := mgenReceiver(r)
				if r.Role.Wants() {
					j.Delivery = deliveryOf(f, r)
					if lost, known := dropped(f, r.Host); known {
						got := j.Delivery.Arrived - min(lost, j.Delivery.Arrived)
						j.Delivery.Application = &got
					}
				}
				return j
			})}
	}), n.names}
}

func deliveryOf(f *rollup.MGENFlow, r *rollup.MGENReceiver) *mgenDeliveryJSON {
	d := f.Delivery(r)
	return &mgenDeliveryJSON{Sent: d.Sent, Arrived: d.Arrived, Lost: d.Lost, Unobserved: d.Unobserved, Unseen: d.Unseen}
}

func mgenReceiver(r *rollup.MGENReceiver) mgenReceiverJSON {
	j := mgenReceiverJSON{Host: r.Host, Role: r.Role.String(), Received: messagesOf(r.Received), Loss: lossOf(r.Loss), Negative: r.NegativeDelays}
	if r.Received.Messages > 0 {
		j.Duplicates, j.Reordered, j.Restarts = &r.Duplicates, &r.Reordered, &r.Restarts
	}
	if r.Delayed > 0 {
		j.Delay = &delayJSON{ms(r.MinDelay), ms(r.MeanDelay), ms(r.MaxDelay), ms(r.Jitter)}
	}
	return j
}

func ms(d time.Duration) float64 { return float64(d) / 1e6 }

func mgenHistoryOf(snap *rollup.Snapshot, m *rollup.MGENSeries) *mgenHistoryJSON {
	sent := make([]bool, m.Window.Points())
	for i := range sent {
		sent[i] = true // unless its sender is watched
	}
	if m.SentHost >= 0 {
		sent = snap.Unknown(m.Window, m.SentHost)
	}
	return &mgenHistoryJSON{windowOf(snap, m.Window), seriesOf(m.Sent, sent),
		each(m.Receivers, func(r *rollup.MGENReceiverSeries) mgenReceiverSeries {
			return mgenSeries(r, snap.Unknown(m.Window, r.Host))
		})}
}

func mgenSeries(r *rollup.MGENReceiverSeries, unobserved []bool) mgenReceiverSeries {
	delays := func(list []int64) []*float64 {
		out := make([]*float64, len(list))
		for i, v := range list {
			if r.Delayed[i] > 0 {
				f := float64(v) / 1e6
				out[i] = &f
			}
		}
		return out
	}
	j := mgenReceiverSeries{
		Host: r.Host, Received: seriesOf(r.Received, unobserved), Duplicates: r.Duplicates, Reordered: r.Reordered,
		MinDelay: delays(r.MinDelay), MeanDelay: delays(r.MeanDelay),
		MaxDelay: delays(r.MaxDelay), Jitter: delays(r.Jitter),
	}
	j.Expected, j.Lost = make([]*uint64, len(r.Expected)), make([]*int64, len(r.Lost))
	for i := range r.Expected {
		if r.Expected[i] != 0 || r.Lost[i] != 0 || !unobserved[i] {
			j.Expected[i], j.Lost[i] = &r.Expected[i], &r.Lost[i]
		}
	}
	return j
}
