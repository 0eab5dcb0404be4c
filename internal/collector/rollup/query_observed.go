package rollup

import (
	"math"
	"slices"
)

// Blank is a time when a host's agent was not watching, or not all of the time:
// seconds From to To, without To. What happened on the host then is unknown,
// which is not the same as nothing.
type Blank struct {
	Run
	// Partial: the agent was watching, but some of its records were lost. What
	// is left is shown, but not compared with what other agents saw.
	Partial bool
}

// forever is the end of a Blank that is not over.
const forever = math.MaxInt64

// mostBlanks bounds the blanks of a host that are remembered; the oldest go first.
const mostBlanks = 1024

// Watch says whether a host's agent is being watched from now (nanoseconds since
// the epoch) on. A host of which Watch never says anything is taken for watched.
// It is called by who calls Add. The second in which an agent comes or goes is
// unknown too, as only a part of it was seen.
func (s *Store) Watch(now int64, host int, watching bool) {
	list := s.hosts[host].blanks
	n := len(list)
	open := n > 0 && list[n-1].To == forever
	switch {
	case watching && open:
		s.setBlanks(host, append(slices.Clone(list[:n-1]), Blank{Run: Run{list[n-1].From, floorSec(now) + 1}}))
		s.hosts[host].epoch++
	case !watching && !open:
		from := floorSec(now)
		if n > 0 && list[n-1].To >= from && !list[n-1].Partial { // it came back and went within a second
			from, list = list[n-1].From, list[:n-1]
		}
		s.setBlanks(host, append(slices.Clone(list), Blank{Run: Run{from, forever}}))
		s.hosts[host].epoch++
	}
}

// Missed says that some records of a host's agent, of seconds from to to, without
// to, were lost on their way. It is called by who calls Add.
func (s *Store) Missed(host int, from, to int64) {
	list := s.hosts[host].blanks
	n := len(list)
	if n > 0 && list[n-1].To == forever {
		return
	}
	s.hosts[host].epoch++
	if n > 0 && list[n-1].Partial && from <= list[n-1].To {
		list = slices.Clone(list)
		list[n-1].From, list[n-1].To = min(list[n-1].From, from), max(list[n-1].To, to)
		s.setBlanks(host, list)
		return
	}
	s.setBlanks(host, append(slices.Clone(list), Blank{Run{from, to}, true}))
}

// unwatch adds a time, until now, in which nobody was watching a host's agent.
func (s *Store) unwatch(host int, r Run) {
	list := s.hosts[host].blanks
	s.hosts[host].epoch++
	if n := len(list); n == 0 || list[n-1].To < r.From {
		s.setBlanks(host, append(slices.Clone(list), Blank{Run: r}))
	}
}

// Newest is the newest packet's time of a host, nanoseconds since the epoch. It is
// called by who calls Add.
func (s *Store) Newest(host int) int64 { return s.hosts[host].Newest }

// setBlanks replaces the list, which snapshots have too, and tells the archive of
// its last entry.
func (s *Store) setBlanks(host int, list []Blank) {
	if len(list) > mostBlanks {
		list = list[len(list)-mostBlanks:]
	}
	s.hosts[host].blanks = list
	if s.cfg.Archive != nil {
		s.cfg.Archive.blankLog.add(s.cfg.Archive.names.at(uint32(host)), list[len(list)-1])
	}
}

// hostBlank is a Blank of a host.
type hostBlank struct {
	host int
	Blank
}

// Blanks are the times in w when a host's agent was not watching all of the time,
// in order, without those when nobody wrote the history; see Gaps.
func (s *Snapshot) Blanks(host int, w Window) (list []Blank) {
	end := min(w.To, s.Complete+1)
	for _, b := range s.history.blanksOf(host) {
		if b.From < end && b.To > w.From {
			b.From, b.To = max(b.From, w.From), min(b.To, end)
			list = append(list, b)
		}
	}
	return list
}

func (h *history) blanksOf(host int) []Blank {
	if host < 0 || host >= len(h.blanks) {
		return nil
	}
	return h.blanks[host]
}

// Unknown says of each point of a fitted window's series whether there is no whole
// second in which one of the hosts, or of all hosts if none is named, was watched.
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

// covered reports whether all of from to to is in runs, which are sorted.
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

// Unobserved are the times in w, in order, when nobody wrote the history, or none
// of the hosts' agents was watching. If no hosts are named, all are meant.
func (s *Snapshot) Unobserved(w Window, hosts ...int) []Run {
	gaps := s.Gaps(w)
	if len(hosts) == 0 {
		for host := range s.history.blanks {
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

// unwatched are the times in w when a host's agent was not watching at all: without
// the seconds in which it came or went, whose packets are counted.
func (s *Snapshot) unwatched(host int, w Window) (runs []Run) {
	end := min(w.To, s.Complete+1)
	for _, b := range s.history.blanksOf(host) {
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

// merged sorts runs and joins those that touch.
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

// intersect is what two sorted lists have in common.
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

// blindness answers which agents were not watching during a frame.
type blindness struct {
	blanks []hostBlank
	hosts  []uint32 // of the last frame asked for
	lossy  []uint32 // those of hosts that lost records
}

func (s *Snapshot) blindness(w Window) *blindness {
	b := &blindness{}
	for host := range s.history.blanks {
		for _, blank := range s.Blanks(host, w) {
			b.blanks = append(b.blanks, hostBlank{host, blank})
		}
	}
	return b
}

// during are the hosts that were not watching for some of f's time. The list is
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

// aside is what an observer saw in frames that must not be compared: while it was
// not watching all of the time itself, and by which other one was not.
type aside struct {
	own   mgenStat
	lossy mgenStat // of own, when records were lost: sequence numbers tell of those too
	with  map[uint32]mgenStat
}

// put notes what an observer on host saw in a frame while others were blind.
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

// compared is what is left of m to be compared with what host saw.
func (a *aside) compared(m mgenStat, host int) mgenStat {
	m.uncount(&a.own)
	if host >= 0 {
		w := a.with[uint32(host)]
		m.uncount(&w)
	}
	return m
}

// count adds what losses are worked out from.
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
