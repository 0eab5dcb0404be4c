package rollup

import "slices"

// mostBlanks is the number of blanks remembered per host; the oldest are forgotten
// first.
const mostBlanks = 1024

// Watch declares whether a host's agent is being watched from now (nanoseconds since
// the epoch) on. A host for which Watch is never called is considered watched. Only the
// owner may call it. The second in which an agent comes or goes is unknown too, because
// only a part of it was seen.
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

// Missed declares that some records of a host's agent, from the seconds [from, to),
// were lost in transit. Only the owner may call it.
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

// unwatch adds a time range, until now, in which a host's agent was not being watched.
func (s *Store) unwatch(host int, r Run) {
	list := s.hosts[host].blanks
	s.hosts[host].epoch++
	if n := len(list); n == 0 || list[n-1].To < r.From {
		s.setBlanks(host, append(slices.Clone(list), Blank{Run: r}))
	}
}

// Newest returns the newest packet's time of a host, in nanoseconds since the epoch.
// Only the owner may call it.
func (s *Store) Newest(host int) int64 { return s.hosts[host].Newest }

// setBlanks replaces the list, which snapshots share, and tells the archive of its last
// entry.
func (s *Store) setBlanks(host int, list []Blank) {
	if len(list) > mostBlanks {
		list = list[len(list)-mostBlanks:]
	}
	s.hosts[host].blanks = list
	if s.cfg.Archive != nil {
		s.cfg.Archive.noteBlank(host, list[len(list)-1])
	}
}
