package rollup

import (
	"iter"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Refill counts records of a time that is Missing, up to to, and writes them. Run must
// be running, and the archive's store must not be closed before Refill returns. Within
// a minute, the order of records matters for MGEN sequence numbers only. cfg is the
// store's.
func (a *Archive) Refill(cfg Config, hole Hole, to int64, records iter.Seq2[int, *wire.Record]) {
	cfg.Archive, cfg.Clock, cfg.Late = a, ByNewest, maxOpen*time.Second
	cfg.Budget = DefaultBudget / 4 // little is kept: it is for one minute
	s := New(cfg)
	s.patient = true
	for host, r := range records {
		s.Add(0, host, r)
	}
	s.sealAll()
	a.jobs <- job{refilled: to, hole: hole}
}

// archive passes a frame to the archive, if there is one.
func (s *Store) archive(i int, f *frame) {
	if s.cfg.Archive == nil {
		return
	}
	j := job{tier: i, frame: f, keys: s.dir.keys}
	if s.addrs.unsaved {
		j.owners = s.addrs.certain()
		s.addrs.unsaved = false
	}
	s.cfg.Archive.offer(j, s.patient)
}

// Close moves everything counted to the archive, and waits until it is written.
// Nothing may be added after.
func (s *Store) Close() {
	if s.cfg.Archive == nil {
		return
	}
	s.sealAll()
	s.cfg.Archive.finish()
}

// showArchive adds what is on disk.
func (s *Store) showArchive(snap *Snapshot) {
	snap.Since = s.since
	a := s.cfg.Archive
	if a == nil {
		return
	}
	snap.Budget /= archivedTo
	h := snap.timeline
	v, status := a.latest()
	h.disk = v
	for i := range tierSpecs {
		t := &v.tiers[i]
		switch {
		case i >= memoryTiers:
			h.begun[i], h.until[i] = t.begun, t.current
		case !h.begun[i] && len(t.parts) > 0:
			h.begun[i], h.until[i] = true, t.last+tierSpecs[i].span
		}
	}
	snap.Archive = &status
	snap.Runs = v.runs
	if s.started {
		a.noteTime(s.began, s.nowSec, s.first)
		snap.Runs = append(slices.Clip(v.runs), Run{s.began, max(snap.Complete+1, s.began)})
	}
}
