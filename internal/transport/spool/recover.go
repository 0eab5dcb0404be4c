package spool

import (
	"cmp"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Open opens a queue of the directory, creates it if necessary, and recovers what an
// earlier process has left. It fails if files cannot be created or read, but not
// because of a full disk.
func (d *Dir) Open(cfg Config) (*Queue, error) {
	q := &Queue{
		dir: d, cfg: cfg, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), wrote: make(chan struct{}, 1),
		ending: make(chan struct{}), alarm: time.NewTimer(time.Hour),
	}
	q.segmentSize = segmentSize(min(cfg.Size, diskSize(d.path)))
	var err error
	switch q.state, err = openState(filepath.Join(d.path, cfg.Name+".state")); {
	case errors.Is(err, errState):
		cfg.Say("spool %q: %s: %v", d.path, cfg.Name, err)
	case err != nil:
		return nil, err
	}
	if err := q.recover(); err != nil {
		q.state.Close()
		return nil, err
	}
	q.running.Go(q.runFlusher)
	q.running.Go(q.runSync)
	return q, nil
}

func segmentSize(size int64) int64 { return min(max(size/segmentsPerQueue, minSegment), maxSegment) }

// diskSize returns the size of a file system in bytes.
func diskSize(path string) int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(path, &st) != nil || st.Blocks > math.MaxInt64/uint64(st.Bsize) {
		return math.MaxInt64
	}
	return int64(st.Blocks) * int64(st.Bsize)
}

// recover takes over what is on disk.
func (q *Queue) recover() error {
	files, err := os.ReadDir(q.dir.path)
	if err != nil {
		return err
	}
	for _, f := range files {
		name, first, ok := parseSegment(f.Name())
		if !ok || name != q.cfg.Name {
			continue
		}
		s, err := q.inspect(filepath.Join(q.dir.path, f.Name()), first)
		if err != nil {
			return err
		}
		if s.size > 0 {
			q.segs = append(q.segs, s)
		}
	}
	slices.SortFunc(q.segs, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	if err := q.complete(); err != nil {
		return err
	}
	q.begin()
	return nil
}

// inspect reads a segment's header. A file whose header was never completed is removed;
// one that is not ours is set aside.
func (q *Queue) inspect(path string, first uint64) (s segment, err error) {
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	var b [segmentHeader]byte
	n, _ := f.ReadAt(b[:], 0)
	s = segment{path: path, size: info.Size()}
	s.first, s.before, err = readSegmentHeader(b[:n])
	if err == nil && s.first == first {
		return s, nil
	}
	if s.size <= segmentHeader {
		return segment{}, os.Remove(path)
	}
	q.cfg.Say("spool %q: %s is not a segment that this version knows: renamed to %s.bad (%d bytes)", q.dir.path, path, filepath.Base(path), s.size)
	return segment{}, os.Rename(path, path+".bad")
}

// complete determines where the segments end: where the next one begins and, for the
// last one, where an entry is torn.
func (q *Queue) complete() error {
	for i := range q.segs {
		s := &q.segs[i]
		if i < len(q.segs)-1 {
			s.next, s.weight = q.segs[i+1].first, q.segs[i+1].before-s.before
		} else if err := q.cutTail(s); err != nil {
			return err
		}
		q.disk += s.size
	}
	return nil
}

func (q *Queue) cutTail(s *segment) error {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	found, err := scan(f)
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if found.size < s.size {
		q.cfg.Say("spool %q: %s: %d bytes at its end are cut off: they were not finished", q.dir.path, s.path, s.size-found.size)
		if err := f.Truncate(found.size); err != nil {
			return err
		}
	}
	s.next, s.weight, s.size = found.next, found.weight, found.size
	return nil
}

// begin determines where reading and writing start.
func (q *Queue) begin() {
	q.written, q.weight = q.state.head, q.state.before
	q.read, q.readWeight = q.written, q.weight
	if n := len(q.segs); n > 0 {
		last, oldest := &q.segs[n-1], &q.segs[0]
		if last.next >= q.written {
			q.written, q.weight = last.next, last.end()
		}
		if q.read < oldest.first {
			// The state is older than the segments, because of a loss of power.
			if oldest.before > q.readWeight {
				q.giveUp(Amount{oldest.first - q.read, oldest.before - q.readWeight}, 0)
			}
			q.read, q.readWeight = oldest.first, oldest.before
		}
	}
	q.opened, q.openedWeight = q.written, q.weight
	q.missedBefore = q.state.missed
	q.remove(q.settle())
}
