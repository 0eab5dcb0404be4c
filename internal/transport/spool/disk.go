package spool

import (
	"bufio"
	"cmp"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
)

// runFlusher writes what has been in memory for too long, until Close.
func (q *Queue) runFlusher() {
	defer q.alarm.Stop()
	for {
		select {
		case <-q.ending:
			return
		case <-q.kick:
		case <-q.alarm.C:
		}
		if q.due(time.Now()) {
			q.flush() // errors have been recorded
			notify(q.wrote)
		}
		q.arm()
	}
}

// arm sets the alarm for when the oldest entry in memory is due. If there is none, the
// next Append does it.
func (q *Queue) arm() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.armed = len(q.mem) > 0; !q.armed {
		return
	}
	wait := FlushAge - time.Since(q.mem[0].at)
	if q.failing != "" {
		wait = max(wait, retryAfter-time.Since(q.failed))
	}
	q.alarm.Reset(max(wait, FlushAge/20))
}

// runSync synchronizes what run has written. That may take long; further writes in the
// meantime are covered by the next round.
func (q *Queue) runSync() {
	for {
		select {
		case <-q.ending:
			return
		case <-q.wrote:
			q.sync()
		}
	}
}

func (q *Queue) due(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.mem) == 0 {
		return false
	}
	if q.failing != "" && now.Sub(q.failed) < retryAfter && !(q.full && q.crowded()) {
		return false
	}
	return q.memBytes >= FlushBytes || now.Sub(q.mem[0].at) >= FlushAge
}

// crowded reports whether there is so much in memory that the oldest entries on disk
// should be dropped rather than wait for room on disk.
func (q *Queue) crowded() bool { return q.memBytes > Memory/2 && q.disk > 0 }

// Sync returns once everything appended and not acknowledged is on disk, or with the
// error that prevents it.
func (q *Queue) Sync() error { return cmp.Or(q.flush(), q.sync()) }

// Close writes what was not acknowledged, and ends the queue. It returns the error if
// something could not be written.
func (q *Queue) Close() error {
	q.mu.Lock()
	closed := q.closed
	q.closed = true
	q.mu.Unlock()
	if closed {
		return nil
	}
	close(q.ending)
	q.running.Wait()
	q.Rewind()
	err := q.Sync()
	q.io.Lock()
	defer q.io.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.mem) > 0 {
		q.giveUp(Amount{uint64(len(q.mem)), q.memWeight}, q.written)
		q.cfg.Say("spool %q: %d entries that could not be written are lost", q.dir.path, len(q.mem))
		q.mem, q.memBytes, q.memWeight = nil, 0, 0 // they are no longer waiting
	}
	q.remember()
	q.out.close()
	q.reader.close()
	return errors.Join(err, q.state.Close())
}

// writer is the open segment.
type writer struct {
	file  *os.File // nil if none is open
	first uint64   // number of its first entry
	buf   *bufio.Writer
}

func (w *writer) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

// flush writes everything in memory.
func (q *Queue) flush() error {
	q.io.Lock()
	defer q.io.Unlock()
	for {
		group, doomed := q.group()
		q.remove(doomed)
		if len(group) == 0 {
			return nil
		}
		if err := q.write(group); err != nil {
			if again := q.writeFailed(err); !again {
				return err
			}
		}
	}
}

// sync makes everything written before the call durable.
func (q *Queue) sync() error {
	q.syncing.Lock()
	defer q.syncing.Unlock()
	q.mu.Lock()
	full, open, names, state := q.unsynced, q.open, q.unnamed, q.state.File
	q.unsynced, q.unnamed = nil, false
	q.mu.Unlock()
	var errs []error
	for _, f := range full {
		errs = append(errs, f.Sync(), f.Close())
	}
	if open != nil {
		if err := open.Sync(); !errors.Is(err, os.ErrClosed) { // it was dropped to make room
			errs = append(errs, err)
		}
	}
	if names {
		errs = append(errs, q.dir.sync())
	}
	if err := state.Sync(); !errors.Is(err, os.ErrClosed) { // it was removed
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		q.fail(err)
	} else {
		q.fine()
	}
	return err
}

// group chooses what to write next: as much as fits in the open segment, but at least
// one entry. It makes room on disk.
func (q *Queue) group() (group []entry, doomed []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	doomed = q.settle()
	for len(q.mem) > 0 {
		size, n := int64(0), 0
		room := q.room()
		for n < len(q.mem) && (n == 0 || size+int64(len(q.mem[n].b)) <= room) {
			size += int64(len(q.mem[n].b))
			n++
		}
		for q.disk+size+segmentHeader > q.cfg.Size && len(q.segs) > 0 {
			if len(q.segs) == 1 {
				q.out.close()
			}
			doomed = append(doomed, q.dropOldest())
		}
		if size+segmentHeader <= q.cfg.Size {
			q.flushing = n
			return q.mem[:n:n], doomed
		}
		// The one entry is larger than the whole queue may be.
		q.passOver()
	}
	return nil, doomed
}

// passOver drops the first entry in memory.
func (q *Queue) passOver() {
	w := q.mem[0].weight
	if q.read > q.written {
		q.flightGone.Entries++
		q.flightGone.Weight += uint64(w)
	} else {
		q.giveUp(Amount{1, uint64(w)}, q.written)
		q.read++
		q.readWeight += uint64(w)
	}
	q.forget(0)
	q.written++
	q.weight += uint64(w)
}

// openSegment returns the open segment, or nil.
func (q *Queue) openSegment() *segment {
	if n := len(q.segs); n > 0 && q.out.file != nil && q.segs[n-1].first == q.out.first {
		return &q.segs[n-1]
	}
	return nil
}

// room returns how much more may be written at once to the open segment, or to a new
// one.
func (q *Queue) room() int64 {
	room := q.segmentSize - segmentHeader
	if s := q.openSegment(); s != nil && s.size < q.segmentSize {
		room = q.segmentSize - s.size
	}
	return min(room, groupBytes)
}

// dropOldest drops the oldest segment, and returns its file.
func (q *Queue) dropOldest() (path string) {
	s := &q.segs[0]
	for _, f := range q.flight {
		if f.number >= s.first && f.number < s.next {
			q.flightGone.Entries++
			q.flightGone.Weight += uint64(f.weight)
		}
	}
	if q.read < s.next {
		from, before := max(q.read, s.first), max(q.readWeight, s.before)
		q.giveUp(Amount{s.next - from, s.end() - before}, from)
		q.read, q.readWeight = s.next, s.end()
	}
	path = q.unlist()
	q.remember()
	return path
}

// remove removes files. Files that cannot be removed are left to a later process.
func (q *Queue) remove(paths []string) {
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			q.mu.Lock()
			q.fail(err)
			q.mu.Unlock()
		}
	}
}

// write writes a group of entries to the open segment, or to a new one, and removes
// them from memory.
func (q *Queue) write(group []entry) error {
	var size int64
	var weight uint64
	for i := range group {
		group[i].seal(q.written + uint64(i))
		size += int64(len(group[i].b))
		weight += uint64(group[i].weight)
	}
	s, err := q.last()
	if err != nil {
		return err
	}
	if err := q.out.write(group); err != nil {
		q.out.rewind(s.size)
		return err
	}
	q.mu.Lock()
	s = &q.segs[len(q.segs)-1]
	s.next += uint64(len(group))
	s.weight += weight
	s.size += size
	q.disk += size
	q.flushing = 0
	for range group {
		q.forget(0)
	}
	q.written += uint64(len(group))
	q.weight += weight
	doomed := q.settle()
	q.mu.Unlock()
	q.remove(doomed)
	return nil
}

func (w *writer) write(group []entry) error {
	for i := range group {
		if _, err := w.buf.Write(group[i].b); err != nil {
			return err
		}
	}
	return w.buf.Flush()
}

// rewind undoes a partial write.
func (w *writer) rewind(size int64) {
	_, err := w.file.Seek(size, io.SeekStart)
	if err = errors.Join(err, w.file.Truncate(size)); err != nil {
		w.close() // further entries go to another segment
		return
	}
	w.buf.Reset(w.file)
}

// last returns the segment to write to, and creates it if necessary. The segment does
// not change during a write. The open segment cannot be used if it does not end where
// the next entry begins, which happens if the entries between were acknowledged from
// memory after writing them had failed.
func (q *Queue) last() (*segment, error) {
	if s := q.openSegment(); s != nil && s.next == q.written && s.size < q.segmentSize && linked(q.out.file) {
		return s, nil
	}
	q.retire()
	q.discardEmpty()
	if err := q.revive(); err != nil {
		return nil, err
	}
	s := segment{path: q.dir.segment(q.cfg.Name, q.written), first: q.written, next: q.written, before: q.weight, size: segmentHeader}
	if err := q.create(&s); err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.segs = append(q.segs, s)
	q.disk += s.size
	q.open, q.unnamed = q.out.file, true
	q.remember()
	return &q.segs[len(q.segs)-1], nil
}

// revive makes anew what else somebody has removed.
func (q *Queue) revive() error {
	if err := q.dir.revive(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if linked(q.state.File) {
		return nil
	}
	f, err := os.OpenFile(q.state.Name(), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	q.state.Close()
	q.state.File = f
	return nil
}

// retire leaves the open segment to sync.
func (q *Queue) retire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.out.file == nil {
		return
	}
	if len(q.unsynced) == segmentsPerQueue { // nothing has been synchronized for long
		q.unsynced[0].Close()
		q.unsynced = append(q.unsynced[:0], q.unsynced[1:]...)
	}
	q.unsynced = append(q.unsynced, q.out.file)
	q.out.file, q.open = nil, nil
}

// discardEmpty removes the last segment if it has no entries.
func (q *Queue) discardEmpty() {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.segs) - 1
	if n < 0 || q.segs[n].first < q.segs[n].next {
		return
	}
	os.Remove(q.segs[n].path)
	q.disk -= q.segs[n].size
	q.segs = q.segs[:n]
}

// create creates a segment's file and opens it for writing.
func (q *Queue) create(s *segment) error {
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	if _, err = f.Write(appendSegmentHeader(nil, s.first, s.before)); err != nil {
		f.Close()
		os.Remove(s.path)
		return err
	}
	if q.out.buf == nil {
		q.out.buf = bufio.NewWriterSize(nil, 64<<10)
	}
	q.out.buf.Reset(f)
	q.out.file, q.out.first = f, s.first
	return nil
}

// linked reports whether a file still has a name.
func linked(f *os.File) bool {
	var st syscall.Stat_t
	err := syscall.Fstat(int(f.Fd()), &st)
	return err == nil && st.Nlink > 0
}

// writeFailed records a write error. If both the disk and memory are full, it drops the
// oldest segment on disk; again reports whether that has made room.
func (q *Queue) writeFailed(err error) (again bool) {
	q.mu.Lock()
	q.flushing = 0
	q.fail(err)
	doomed := q.settle()
	if q.full && q.crowded() && len(q.segs) > 0 && q.segs[0].first < q.segs[0].next {
		if len(q.segs) == 1 {
			q.out.close()
		}
		doomed = append(doomed, q.dropOldest())
		again = true
	}
	q.remember()
	q.mu.Unlock()
	q.remove(doomed)
	return again
}
