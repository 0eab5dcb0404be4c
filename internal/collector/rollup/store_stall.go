package rollup

const (
	// mostHeld is how many seconds late delayed records may be.
	mostHeld = maxOpen
	// catchUp is the number of seconds for counting delayed records.
	catchUp = 5
)

// hold keeps seconds open for longer than Config.Late, for records that were delayed,
// at their sender or in between.
type hold struct {
	// first is where the open seconds begin before until, or while paused.
	first, until int64
	paused       bool
	// Records of the seconds [lostFrom, lostTo) were delayed for too long. They are
	// counted in no second.
	lostFrom, lostTo int64
	// Until settled, Snapshot.Complete does not exceed complete.
	complete, settled int64
}

// Pause declares that records are delayed from now on, until Resume. Only the owner may
// call it.
func (s *Store) Pause(now int64) {
	s.advance(now)
	if !s.hold.paused {
		s.holdFrom(s.first)
		s.hold.paused = true
	}
}

// Resume declares that the delayed records arrive now.
func (s *Store) Resume(now int64) {
	s.advance(now)
	if s.hold.paused {
		s.hold.paused, s.hold.until = false, s.nowSec+max(s.late, catchUp)
	}
}

// holdFrom keeps the seconds from first on open, in addition to those already held.
func (s *Store) holdFrom(first int64) {
	if h := &s.hold; s.nowSec >= h.until && !h.paused {
		h.first = first
	}
}

// Stalled declares that nothing could be counted since the last call of Add or Tick,
// because the program or the machine was suspended. Delayed records arrive now and are
// counted in their own seconds; those delayed by more than a minute are counted in
// none, and that time is unknown. Only the owner may call it.
func (s *Store) Stalled(now int64) {
	sec := floorSec(now)
	if s.cfg.Clock != ByWall || !s.started || sec <= s.nowSec {
		return
	}
	s.holdFrom(s.first)
	s.hold.until = sec + max(s.late, catchUp)
	s.hold.complete, s.hold.settled = s.nowSec-1, sec+catchUp-1
	if held := sec - mostHeld; held > s.nowSec {
		for host := range s.hosts {
			s.unwatch(host, Run{s.nowSec, held + 1})
		}
	}
	s.advance(now)
}

// opens returns where the open seconds begin at second sec.
func (s *Store) opens(sec int64) int64 {
	first := sec - s.late
	if h := &s.hold; h.paused || sec < h.until {
		first = min(first, max(h.first, sec-mostHeld))
		if first > h.first {
			h.lostFrom, h.lostTo = h.first, first
		}
	}
	return max(first, s.first)
}

// makeRoom allocates the seconds from first to last.
func (s *Store) makeRoom(first, last int64) {
	usual := int(s.late + s.future + 1)
	n := max(int(last-first+1), usual)
	if n == len(s.seconds) || n < len(s.seconds) && n > usual {
		return
	}
	old := s.seconds
	s.seconds = make([]*second, n)
	var spare []*second
	for _, x := range old {
		if at := floorMod(x.start, n); x.used && x.start >= first && x.start <= last && s.seconds[at] == nil {
			s.seconds[at] = x
		} else {
			spare = append(spare, x)
		}
	}
	for i := range s.seconds {
		switch {
		case s.seconds[i] != nil:
		case len(spare) > 0:
			s.seconds[i], spare = spare[0], spare[1:]
			s.seconds[i].reset(0)
		default:
			s.seconds[i] = s.newSecond()
		}
	}
}

func floorMod(t int64, n int) int64 { return t - floorTo(t, int64(n)) }
