package rollup

import (
	"slices"
)

// hostBlank is a Blank of a host.
type hostBlank struct {
	host int
	Blank
}

// Blanks returns, in order, the times in w when a host's agent was not watching all of
// the time, without those when the history was not being written; see Gaps.
func (s *Snapshot) Blanks(host int, w Window) (list []Blank) {
	end := min(w.To, s.Complete+1)
	for _, b := range s.timeline.blanksOf(host) {
		if b.From < end && b.To > w.From {
			b.From, b.To = max(b.From, w.From), min(b.To, end)
			list = append(list, b)
		}
	}
	return list
}

func (h *timeline) blanksOf(host int) []Blank {
	if host < 0 || host >= len(h.blanks) {
		return nil
	}
	return h.blanks[host]
}

// Unknown reports for each point of a fitted window's series whether it contains no
// complete second in which one of the hosts (or of all hosts, if none is named) was
// watched.
func (s *Snapshot) Unknown(w Window, hosts ...int) []bool {
	runs := s.Unobserved(w, hosts...)
	unknown := make([]bool, w.Points())
	for i := range unknown {
		from, to := w.From+int64(i)*w.Step, w.From+int64(i+1)*w.Step
		to = min(to, max(s.Complete+1, from+1))
		unknown[i] = covered(runs, from, to)
	}
	return unknown
}

// covered reports whether all of [from, to) is in runs, which are sorted.
func covered(runs []Run, from, to int64) bool {
	for _, r := range runs {
		if r.From > from {
			break
		}
		if from = max(from, r.To); from >= to {
			return true
		}
	}
	return false
}

// Unobserved returns, in order, the times in w when the history was not being written,
// or none of the hosts' agents was watching. If no hosts are named, all are meant.
func (s *Snapshot) Unobserved(w Window, hosts ...int) []Run {
	gaps := s.Gaps(w)
	if len(hosts) == 0 {
		for host := range s.timeline.blanks {
			hosts = append(hosts, host)
		}
	}
	var blind []Run
	for i, host := range hosts {
		if own := s.unwatched(host, w); i == 0 {
			blind = own
		} else {
			blind = intersect(blind, own)
		}
		if len(blind) == 0 {
			return gaps
		}
	}
	return merged(append(blind, gaps...))
}

// unwatched returns the times in w when a host's agent was not watching at all: without
// the seconds in which it came or went, whose packets are counted.
func (s *Snapshot) unwatched(host int, w Window) (runs []Run) {
	end := min(w.To, s.Complete+1)
	for _, b := range s.timeline.blanksOf(host) {
		from, to := b.From+1, b.To-1
		if b.To == forever {
			to = end
		}
		if from, to = max(from, w.From), min(to, end); from < to && !b.Partial {
			runs = append(runs, Run{from, to})
		}
	}
	return merged(runs)
}

// merged sorts runs and merges adjacent ones.
func merged(runs []Run) []Run {
	slices.SortFunc(runs, func(a, b Run) int { return int(min(max(a.From-b.From, -1), 1)) })
	var out []Run
	for _, r := range runs {
		if n := len(out); n > 0 && r.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// intersect returns the intersection of two sorted lists.
func intersect(a, b []Run) (out []Run) {
	for len(a) > 0 && len(b) > 0 {
		if r := (Run{max(a[0].From, b[0].From), min(a[0].To, b[0].To)}); r.From < r.To {
			out = append(out, r)
		}
		if a[0].To < b[0].To {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}

// blindness determines which agents were not watching during a frame.
type blindness struct {
	blanks []hostBlank
	hosts  []uint32 // for the last frame
	lossy  []uint32 // those of hosts that lost records
}

func (s *Snapshot) blindness(w Window) *blindness {
	b := &blindness{}
	for host := range s.timeline.blanks {
		for _, blank := range s.Blanks(host, w) {
			b.blanks = append(b.blanks, hostBlank{host, blank})
		}
	}
	return b
}

// during returns the hosts that were not watching for some of f's time. The list is
// valid until the next call.
func (b *blindness) during(f *frame) []uint32 {
	b.hosts, b.lossy = b.hosts[:0], b.lossy[:0]
	for i := range b.blanks {
		if x := &b.blanks[i]; x.From < f.end() && x.To > f.start && !slices.Contains(b.hosts, uint32(x.host)) {
			b.hosts = append(b.hosts, uint32(x.host))
		}
		if x := &b.blanks[i]; x.Partial && x.From < f.end() && x.To > f.start {
			b.lossy = append(b.lossy, uint32(x.host))
		}
	}
	return b.hosts
}

// aside is what an observer saw in frames that must not be compared: those in which it
// was not watching all of the time itself and, by host, those in which another one was
// not.
type aside struct {
	own   mgenStat
	lossy mgenStat // part of own, when records were lost: sequence numbers cover those too
	with  map[uint32]mgenStat
}

// put records what an observer on host saw in a frame while others were blind.
func (a *aside) put(host uint32, blind []uint32, m *mgenStat) {
	if slices.Contains(blind, host) {
		a.own.count(m)
		return
	}
	if a.with == nil {
		a.with = make(map[uint32]mgenStat)
	}
	for _, other := range blind {
		w := a.with[other]
		w.count(m)
		a.with[other] = w
	}
}

func (a *aside) merge(b *aside) {
	a.own.count(&b.own)
	a.lossy.count(&b.lossy)
	for host, m := range b.with {
		if a.with == nil {
			a.with = make(map[uint32]mgenStat)
		}
		w := a.with[host]
		w.count(&m)
		a.with[host] = w
	}
}

// compared returns the part of m that may be compared with what host saw.
func (a *aside) compared(m mgenStat, host int) mgenStat {
	m.uncount(&a.own)
	if host >= 0 {
		w := a.with[uint32(host)]
		m.uncount(&w)
	}
	return m
}

// count adds the counters from which losses are computed.
func (m *mgenStat) count(n *mgenStat) {
	m.packets += n.packets
	m.bytes += n.bytes
	m.messages += n.messages
	m.expected += n.expected
	m.duplicates += n.duplicates
}

func (m *mgenStat) uncount(n *mgenStat) {
	m.packets -= n.packets
	m.bytes -= n.bytes
	m.messages -= n.messages
	m.expected -= n.expected
	m.duplicates -= n.duplicates
}

// Gaps returns the times in w, from Oldest to Complete, when the history was not being
// written. Nothing is known of those seconds, which is not the same as no traffic.
func (s *Snapshot) Gaps(w Window) (gaps []Run) {
	if len(s.Runs) == 0 || s.Oldest == 0 {
		return nil
	}
	known := max(w.From, s.Oldest)
	end := min(w.To, s.Complete+1)
	for _, r := range s.Runs {
		if r.From > known && known < end {
			gaps = append(gaps, Run{known, min(r.From, end)})
		}
		known = max(known, r.To)
	}
	if known < end {
		gaps = append(gaps, Run{known, end})
	}
	return gaps
}
