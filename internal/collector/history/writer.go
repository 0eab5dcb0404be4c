package history

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire/batch"
)

// Queue is a bounded first-in, first-out queue that keeps entries until they are
// acknowledged. It drops the oldest to make room, and Append never blocks. A
// *spool.Queue, which outlives the process, is a Queue.
//
// Publish calls Append; Run calls the other methods.
type Queue interface {
	// Append adds a copy of data. weight is counted if the entry is dropped.
	Append(data []byte, weight uint32) error
	// Wait blocks until Next has an entry. The error is ctx's.
	Wait(ctx context.Context) error
	// Next appends the oldest entry that it has not returned yet to dst.
	Next(dst []byte) (data []byte, weight uint32, ok bool)
	// Ack removes the oldest n entries that Next has returned.
	Ack(n int)
	// Rewind makes Next start again with the oldest unacknowledged entry.
	Rewind()
}

// WriterConfig configures a Writer.
type WriterConfig struct {
	Queue Queue
	// A segment is sealed when it has Rows records or is Age old. 0 means 262,144 and
	// 10 s.
	Rows int
	Age  time.Duration
}

// Writer writes the batches of this process to a Store. Each batch stays in the queue
// until the segment that contains it is committed, and is in exactly one committed
// segment, whenever the process is killed:
//
//  1. Publish numbers the batch by life and position, and appends it to the queue.
//  2. Run seals a segment of batches: it is pending.
//  3. Run records in the progress file which batch is next, and the segment's ID. From
//     then on the segment counts.
//  4. Run commits the segment, and acknowledges its batches.
//
// A pending segment that the progress file does not name is discarded at the next
// start, and its batches are read from the queue again. Batches before the next one are
// skipped.
type Writer struct {
	store *Store
	cfg   WriterConfig

	// Used by Publish only.
	encoder batch.Encoder
	buf     []byte
	last    position // position of the newest batch

	// Used by Run only.
	progress progress
	decoder  batch.Decoder
	batch    batch.Batch
	data     []byte
	segment  *Segment
	id       string
	attempt  int // segments begun
	pending  pending
	started  time.Time
	due      string // a segment that counts but could not be committed at the start for lack of room, or ""
	broken   string // why nothing could be written at the last failure
	brokenAt time.Time
	expected map[string]expectation // by agent

	mu     sync.Mutex
	status WriterStatus
}

// WriterStatus counts records.
//
//	Published + those that an earlier process left in the queue
//	  = Written + Skipped + Malformed + what the queue holds + what it dropped
type WriterStatus struct {
	Published uint64 // by this process
	Segments  uint64 // committed
	Written   uint64 // in committed segments
	Skipped   uint64 // already written before a restart
	// Settled is the part of Skipped in segments that turned out to count after an error.
	Settled   uint64
	Malformed uint64 // weight of entries that are not batches
	Refused   uint64 // could not be encoded, or not accepted by the queue
	// Missing is the number of this process's records that were numbered and then
	// dropped by the queue, as far as later batches have been written.
	Missing uint64
	// Oldest is when the oldest batch that is not committed yet was taken from the
	// queue; zero if there is none.
	Oldest time.Time
	// Failed is why nothing has been written since Since, or "".
	Failed string
	Since  time.Time
}

// position identifies a batch: lives count the processes that have used the directory.
type position struct {
	Life   uint64 `json:"life"`
	Number uint64 `json:"number"`
}

func (p position) before(q position) bool {
	return p.Life < q.Life || p.Life == q.Life && p.Number < q.Number
}

// progress is the contents of the progress file, in JSON.
type progress struct {
	Life    uint64   `json:"life"`    // of the newest process
	Next    position `json:"next"`    // all batches before it are in committed segments, or in Segment
	Segment string   `json:"segment"` // the segment sealed last
}

// pending describes the contents of the open segment.
type pending struct {
	entries            int
	rows               int
	skipped, malformed uint64
	missing            uint64
	next               position
	since              time.Time
	expected           map[string]expectation
	gaps               []Gap
}

// expectation is what should follow an agent's last batch.
type expectation struct {
	boot, next uint64
	dropped    uint64 // as in the last batch
	at         int64  // time of its last record
}

const (
	progressFile  = "progress.json"
	segmentPrefix = "local." // the segments of a bus have no dot
	defaultRows   = sortRows
	defaultAge    = 10 * time.Second
	retryInterval = 500 * time.Millisecond
	// drainTime is how long Run continues to write after its context is done.
	drainTime = 5 * time.Second
	stampSize = 16
)

// NewWriter returns a Writer, and settles what an earlier process left behind.
func (s *Store) NewWriter(cfg WriterConfig) (*Writer, error) {
	if cfg.Rows == 0 {
		cfg.Rows = defaultRows
	}
	if cfg.Age == 0 {
		cfg.Age = defaultAge
	}
	w := &Writer{store: s, cfg: cfg, started: time.Now(), expected: map[string]expectation{}}
	if err := w.recover(); err != nil {
		return nil, s.explain(err)
	}
	return w, nil
}

func (w *Writer) recover() error {
	text, err := os.ReadFile(w.path())
	if err == nil {
		err = json.Unmarshal(text, &w.progress)
		if err != nil {
			return fault.WithHint(fmt.Errorf("history %s: %s is damaged: %w", w.store.dir, progressFile, err),
				"remove it; records that were being written when the process ended may then be there twice")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, id := range w.store.Pending() {
		switch {
		case id == w.progress.Segment:
			if err = w.store.Commit(id); full(err) {
				w.due, err = id, nil
			}
		case strings.HasPrefix(id, segmentPrefix):
			err = w.store.Discard(id)
		default:
			w.store.cfg.Logf("history %s: segment %s is a bus's; it stays aside", w.store.dir, id)
			continue
		}
		if err != nil {
			return err
		}
	}
	// If the disk is full now, the file cannot be replaced; the numbers of lives must
	// increase nevertheless.
	w.progress.Life = max(w.progress.Life+1, uint64(time.Now().UnixNano()))
	w.last.Life = w.progress.Life
	err = w.save(w.progress)
	if full(err) {
		w.store.cfg.Logf("%v; records wait until there is room", w.store.explain(err))
		return nil
	}
	return err
}

// full reports whether err means that a disk is full.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (w *Writer) path() string { return filepath.Join(w.store.dir, progressFile) }

// save replaces the progress file, durably.
func (w *Writer) save(p progress) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	tmp := filepath.Join(w.store.dir, tmpDir, progressFile)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeFile(tmp, string(text)); err != nil {
		return err
	}
	return move(tmp, w.path())
}

// Status returns the counters. It may be called concurrently.
func (w *Writer) Status() WriterStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *Writer) update(f func(s *WriterStatus)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
}

// Publish queues a batch without blocking. It does not retain b.
func (w *Writer) Publish(b *batch.Batch) {
	n := uint64(len(b.Records))
	w.last.Number++
	w.buf = binary.BigEndian.AppendUint64(w.buf[:0], w.last.Life)
	w.buf = binary.BigEndian.AppendUint64(w.buf, w.last.Number)
	data, err := w.encoder.Append(w.buf, b)
	if err == nil {
		w.buf = data
		err = w.cfg.Queue.Append(data, uint32(n))
	}
	first := false
	w.update(func(s *WriterStatus) {
		s.Published += n
		if err != nil {
			first = s.Refused == 0
			s.Refused += n
		}
	})
	if first {
		w.store.cfg.Logf("history %s: a batch of %d records is dropped: %v", w.store.dir, n, err)
	}
}

// Run writes what is published until ctx is done, and then, for a limited time, what
// the queue still holds.
func (w *Writer) Run(ctx context.Context) error {
	defer w.abort()
	for ctx.Err() == nil {
		if err := w.write(ctx); err != nil {
			w.failed(err)
			w.rewind()
			pause(ctx, retryInterval)
		}
	}
	draining, stop := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer stop()
	for draining.Err() == nil {
		err := w.drain(draining)
		if err == nil {
			return nil
		}
		w.failed(err)
		w.rewind()
		pause(draining, retryInterval)
	}
	return nil // the rest stays in the queue
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// write fills and flushes segments until ctx is done.
func (w *Writer) write(ctx context.Context) error {
	if err := w.commitDue(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		wait, stop := ctx, context.CancelFunc(func() {})
		if w.pending.entries > 0 {
			wait, stop = context.WithDeadline(ctx, w.pending.since.Add(w.cfg.Age))
		}
		err := w.cfg.Queue.Wait(wait)
		stop()
		if err == nil {
			if _, err := w.addNextEntry(); err != nil {
				return err
			}
		}
		if w.full() {
			if err := w.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// drain writes everything that the queue holds now.
func (w *Writer) drain(ctx context.Context) error {
	if err := w.commitDue(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		ok, err := w.addNextEntry()
		if err != nil {
			return err
		}
		if ok && !w.full() {
			continue
		}
		if err := w.flush(ctx); err != nil {
			return err
		}
		if !ok {
			return nil
		}
	}
	return ctx.Err()
}

// commitDue commits what an earlier process sealed, before the progress file names
// another segment.
func (w *Writer) commitDue() error {
	if w.due == "" {
		return nil
	}
	if err := w.store.Commit(w.due); err != nil {
		return err
	}
	w.due = ""
	return nil
}

func (w *Writer) full() bool {
	return w.pending.entries > 0 && (w.pending.rows >= w.cfg.Rows || time.Since(w.pending.since) >= w.cfg.Age)
}

// addNextEntry adds the queue's next entry to the segment, if there is one.
func (w *Writer) addNextEntry() (ok bool, err error) {
	var weight uint32
	w.data, weight, ok = w.cfg.Queue.Next(w.data[:0])
	if !ok {
		return false, nil
	}
	p := &w.pending
	if p.entries == 0 {
		*p = pending{since: time.Now(), next: w.progress.Next, expected: map[string]expectation{}}
		w.update(func(s *WriterStatus) {
			if s.Oldest.IsZero() {
				s.Oldest = p.since
			}
		})
	}
	p.entries++
	at, err := w.decode(w.data)
	switch {
	case err != nil:
		p.malformed += uint64(weight)
		return true, nil
	case at.before(w.progress.Next):
		p.skipped += uint64(len(w.batch.Records))
		return true, nil
	}
	if at.Life == w.last.Life {
		p.missing += w.gap(&w.batch)
	}
	if err := w.addBatch(&w.batch, at); err != nil {
		return true, err
	}
	p.next = position{at.Life, at.Number + 1}
	return true, nil
}

func (w *Writer) decode(data []byte) (at position, err error) {
	if len(data) < stampSize {
		return at, batch.ErrMalformed
	}
	at = position{binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])}
	return at, w.decoder.Decode(data[stampSize:], &w.batch)
}

// gap returns how many of an agent's records before b are missing.
func (w *Writer) gap(b *batch.Batch) (n uint64) {
	e, ok := w.pending.expected[b.Agent]
	if !ok {
		e = w.expected[b.Agent]
	}
	if e.boot != b.Boot {
		e = expectation{boot: b.Boot}
	}
	if e.at == 0 {
		e.at = w.started.UnixNano()
	}
	if b.First > e.next {
		n = b.First - e.next
		w.note(b, e, e.next, n, w.whyMissing(e.at))
	}
	if b.Dropped > e.dropped {
		w.note(b, e, b.First, b.Dropped-e.dropped, "more at once than the collector could take")
	}
	e.next, e.dropped = b.Next(), b.Dropped
	if len(b.Records) > 0 {
		e.at = b.Records[len(b.Records)-1].Time
	}
	w.pending.expected[b.Agent] = e
	return n
}

// note records that n records of b's agent before b are missing, starting at number
// first.
func (w *Writer) note(b *batch.Batch, e expectation, first, n uint64, why string) {
	to := e.at
	if len(b.Records) > 0 {
		to = max(to, b.Records[0].Time)
	}
	w.pending.gaps = append(w.pending.gaps, Gap{Agent: b.Agent, Boot: hex(b.Boot), First: first,
		From: time.Unix(0, e.at).UTC(), To: time.Unix(0, to).UTC(), Records: n, Why: why})
}

// whyMissing returns why the queue has dropped records that were received since then.
func (w *Writer) whyMissing(then int64) string {
	if w.broken != "" && w.brokenAt.UnixNano() >= then {
		return w.broken
	}
	return "more than the queue holds"
}

func (w *Writer) addBatch(b *batch.Batch, at position) (err error) {
	if w.segment == nil {
		w.attempt++
		w.id = fmt.Sprintf("%s%d.%d.%d", segmentPrefix, w.last.Life, at.Number, w.attempt)
		if w.segment, err = w.store.NewSegment(w.id); err != nil {
			return err
		}
	}
	w.pending.rows += len(b.Records)
	return w.segment.Add(b)
}

// flush makes the open segment part of the history.
func (w *Writer) flush(ctx context.Context) error {
	if w.pending.entries == 0 {
		return nil
	}
	if err := w.store.addGaps(w.pending.gaps); err != nil {
		return w.store.explain(err)
	}
	w.pending.gaps = nil
	if w.segment != nil {
		if err := w.seal(ctx); err != nil {
			return err
		}
	}
	w.cfg.Queue.Ack(w.pending.entries)
	w.report()
	return nil
}

func (w *Writer) seal(ctx context.Context) error {
	segment := w.segment
	w.segment = nil
	if err := segment.Seal(); err != nil {
		return err
	}
	next := progress{Life: w.progress.Life, Next: w.pending.next, Segment: w.id}
	if err := w.save(next); err != nil {
		// Whether it counts depends on the file, which may have been written
		// nevertheless.
		return errors.Join(w.store.explain(err), w.settle())
	}
	w.progress = next
	return w.commit(ctx)
}

// commit commits a segment that counts, and retries until it succeeds. If ctx ends
// first, the next process commits it.
func (w *Writer) commit(ctx context.Context) error {
	for {
		err := w.store.Commit(w.id)
		if err == nil || ctx.Err() != nil {
			return err
		}
		w.failed(err)
		pause(ctx, retryInterval)
	}
}

// settle commits or discards the sealed segment, depending on the progress file.
func (w *Writer) settle() error {
	var p progress
	text, err := os.ReadFile(w.path())
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return err
	}
	if p.Segment == w.id {
		w.progress = p
		w.update(func(s *WriterStatus) { s.Settled += uint64(w.pending.rows) })
		return w.store.Commit(w.id)
	}
	return w.store.Discard(w.id)
}

// report updates the counters after a flush.
func (w *Writer) report() {
	p := &w.pending
	for agent, e := range p.expected {
		w.expected[agent] = e
	}
	recovered := false
	w.update(func(s *WriterStatus) {
		if p.rows > 0 {
			s.Segments++
		}
		s.Written += uint64(p.rows)
		s.Skipped += p.skipped
		s.Malformed += p.malformed
		s.Missing += p.missing
		recovered, s.Failed, s.Since, s.Oldest = s.Failed != "", "", time.Time{}, time.Time{}
	})
	if recovered {
		w.store.cfg.Logf("history %s: records are written again", w.store.dir)
	}
	w.pending = pending{}
}

// failed records why nothing can be written, and reports it once.
func (w *Writer) failed(err error) {
	w.broken, w.brokenAt = reason(err), time.Now()
	first := false
	w.update(func(s *WriterStatus) {
		first = s.Failed == ""
		if first {
			s.Since = time.Now()
		}
		s.Failed = err.Error()
	})
	if first {
		w.store.cfg.Logf("%v; records wait, and writing is tried again", err)
	}
}

// rewind returns the batches of the open segment to the queue.
func (w *Writer) rewind() {
	w.abort()
	w.cfg.Queue.Rewind()
	w.pending = pending{}
}

func (w *Writer) abort() {
	if w.segment != nil {
		w.segment.Abort()
		w.segment = nil
	}
}
