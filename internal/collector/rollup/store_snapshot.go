package rollup

import (
	"context"
)

// Tick publishes a new snapshot. It should be called about once a second, preferably a
// third of a second after the clock's seconds change; now is as in Add.
func (s *Store) Tick(now int64) {
	if s.cfg.Clock == ByWall {
		s.advance(now)
	}
	s.flushAll()
	for p, last := range s.lastSent {
		if last < s.first-silence {
			delete(s.lastSent, p)
		}
	}
	s.publish(s.snapshot())
}

func (s *Store) snapshot() *Snapshot {
	h := &timeline{rows: s.cfg.Rows}
	snap := &Snapshot{
		Seq: 1, Now: s.nowNS, Records: s.records, Late: s.lateSum, Future: s.futureSum, Unplaced: s.unplaced,
		Budget: s.cfg.Budget, Hosts: make([]HostStatus, len(s.hosts)), timeline: h,
	}
	if old := s.last.Load(); old != nil {
		snap.Seq = old.Seq + 1
	}
	snap.Complete = s.nowSec - 1
	if s.cfg.Clock == ByWall {
		snap.Complete = floorSec(s.nowNS-int64(reportDelay)) - 1
	}
	if s.nowSec < s.hold.settled {
		snap.Complete = min(snap.Complete, s.hold.complete)
	}
	sum := make(map[cellKey]Counts, len(s.sum))
	for k, c := range s.sum {
		sum[k] = c
	}
	forgotten := s.forgotten
	if s.started {
		for start := s.first; start <= s.nowSec+s.future; start++ {
			x := s.second(start)
			if !x.used {
				continue
			}
			s.freeze(x)
			h.open = append(h.open, x.frame)
			forgotten += x.dropped
			for k, c := range x.cells {
				sum[k] = sum[k].Plus(c)
			}
		}
	}
	snap.Forgotten = forgotten
	snap.Changed, s.changed = s.changed, nil
	snap.Sum = sumCells(sum)
	h.until[0] = s.first
	h.whole = s.whole
	for i := range s.tiers {
		t := &s.tiers[i]
		h.tiers[i] = t.frames
		snap.Memory += t.size
		if i > 0 {
			h.until[i] = t.from
		}
		h.begun[i] = i == 0 || t.begun
	}
	s.showArchive(snap)
	h.keys = s.dir.keys
	h.owners = s.ownersNow()
	h.members = s.cfg.Members
	snap.Oldest = s.oldest(h, snap.Runs)
	h.blanks, h.hostOf, h.directions = make([][]Blank, len(s.hosts)), make([]int, len(s.hosts)), make([]bool, len(s.hosts))
	for i := range s.hosts {
		h.blanks[i], h.hostOf[i] = s.blanks(i), s.addrs.agents[i].host
		h.directions[i] = s.hosts[i].Directions
		snap.Hosts[i] = s.hosts[i].status(s)
	}
	return snap
}

// oldest returns the first second that is known: a frame of a long span may begin
// before it.
func (s *Store) oldest(h *timeline, runs []Run) int64 {
	oldest, first := h.oldest(), s.kept
	if h.disk != nil && len(runs) > 0 {
		first = runs[0].From
		if start, ok := h.first(0); ok { // packets of the seconds that were open then
			first = min(first, start)
		}
	}
	if oldest == 0 || first > oldest+day { // more than a span: runs are missing
		return oldest
	}
	return max(oldest, first)
}

// blanks returns those of an agent, those of earlier runs first.
func (s *Store) blanks(host int) []Blank {
	if a := s.cfg.Archive; a != nil {
		if earlier := a.earlierBlanks(host); len(earlier) > 0 {
			return append(earlier, s.hosts[host].blanks...)
		}
	}
	return s.hosts[host].blanks
}

func (s *Store) ownersNow() map[[16]byte]int {
	if s.addrs.changed || s.owners == nil {
		s.owners = make(map[[16]byte]int, len(s.addrs.owner))
		for a, o := range s.addrs.owner {
			s.owners[a] = o.host
		}
		s.addrs.changed = false
	}
	return s.owners
}

func (h *hostState) status(s *Store) HostStatus {
	st := h.HostStatus
	st.LateNow = h.Late > 0 && s.nowSec-h.lastLate < ageSpan
	st.FutureNow = h.Future > 0 && s.nowSec-h.lastFuture < ageSpan
	st.HasCPU = h.HasCPU && s.nowNS-h.cpuAt < gaugeAge
	st.HasMemory = h.HasMemory && s.nowNS-h.memoryAt < gaugeAge
	for i, at := range h.ageAt {
		if at == 0 || s.nowSec-at >= ageSpan {
			continue
		}
		if !st.HasAge || h.ages[i] < st.Age {
			st.Age, st.HasAge = h.ages[i], true
		}
	}
	return st
}

func (s *Store) publish(snap *Snapshot) {
	s.last.Store(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

// Snapshot returns the newest snapshot. There always is one; it may be empty.
func (s *Store) Snapshot() *Snapshot { return s.last.Load() }

// Next waits for a snapshot with a Seq above after, and returns the newest, or
// ctx's error.
func (s *Store) Next(ctx context.Context, after uint64) (*Snapshot, error) {
	for {
		s.mu.Lock()
		wake := s.wake
		s.mu.Unlock()
		if snap := s.last.Load(); snap.Seq > after {
			return snap, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
