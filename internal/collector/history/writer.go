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

// Queue holds entries, first in, first out, until they are acknowledged. It is
// bounded, drops the oldest to make room, and never makes Append wait. A
// *spool.Queue, which outlives the process, is one.
//
// Publish calls Append; Run calls the rest.
type Queue interface {
	// Append adds a copy of data. weight is counted if the entry is dropped.
	Append(data []byte, weight uint32) error
	// Wait blocks until Next has an entry. The error is ctx's.
	Wait(ctx context.Context) error
	// Next appends the oldest entry that it has not returned yet to dst.
	Next(dst []byte) (data []byte, weight uint32, ok bool)
	// Ack forgets the oldest n entries that Next has returned.
	Ack(n int)
	// Rewind makes Next start again with the oldest that was not acknowledged.
	Rewind()
}

// WriterConfig configures a Writer.
type WriterConfig struct {
	Queue Queue
	// A segment is sealed when it has Rows records, or is Age old. 0 is 262,144
	// and 10 s.
	Rows int
	Age  time.Duration
}

// Writer writes the batches of this process into a Store. Each batch waits in
// the queue until the segment that holds it is committed, and is in one
// committed segment, whenever the process is killed:
//
//  1. Publish numbers the batch by life and position, and appends it to the queue.
//  2. Run seals a segment of batches: it is pending.
//  3. Run notes in the progress file which batch is next, and the segment's ID.
//     From then on the segment counts.
//  4. Run commits the segment, and acknowledges its batches.
//
// A pending segment that the progress file does not name is discarded at the next
// start, and its batches are read from the queue again. Batches before the next
// one are skipped.
type Writer struct {
	store *Store
	cfg   WriterConfig

	// Of Publish.
	encoder batch.Encoder
	buf     []byte
	last    position // the newest batch's

	// Of Run.
	progress progress
	decoder  batch.Decoder
	batch    batch.Batch
	data     []byte
	segment  *Segment
	id       string
	attempt  int // segments begun
	pending  pending
	started  time.Time
	due      string // a segment that counts, and that there was no room to commit at the start; or ""
	broken   string // why nothing could be written the last time that it could not
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
	Skipped   uint64 // had been written before a restart
	Malformed uint64 // of entries that are no batch; by weight
	Refused   uint64 // could not be encoded, or the queue did not take them
	// Missing is how many records of this process were numbered and then dropped
	// by the queue, as far as batches behind them were written.
	Missing uint64
	// Oldest is when the oldest batch was taken from the queue that is not committed yet; zero if there is
	// none.
	Oldest time.Time
	// Failed says why nothing can be written since Since; "" if it can.
	Failed string
	Since  time.Time
}

// position of a batch: lives count the processes that had the directory.
type position struct {
	Life   uint64 `json:"life"`
	Number uint64 `json:"number"`
}

func (p position) before(q position) bool {
	return p.Life < q.Life || p.Life == q.Life && p.Number < q.Number
}

// progress is the progress file, JSON.
type progress struct {
	Life    uint64   `json:"life"`    // of the newest process
	Next    position `json:"next"`    // all batches before it are in committed segments, or in Segment
	Segment string   `json:"segment"` // the one that was sealed last
}

// pending counts what the open segment has.
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

// expectation is what follows an agent's last batch.
type expectation struct {
	boot, next uint64
	dropped    uint64 // as in the last batch
	at         int64  // time of its last record
}

const (
	progressFile  = "progress.json"
	segmentPrefix = "local." // a bus's segments have no dot
	defaultRows   = sortRows
	defaultAge    = 10 * time.Second
	retryInterval = 500 * time.Millisecond
	// drainTime is how long Run writes after its context is done.
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
	// On a disk that is full now the file cannot be replaced. Numbers of lives go up all the same.
	w.progress.Life = max(w.progress.Life+1, uint64(time.Now().UnixNano()))
	w.last.Life = w.progress.Life
	err = w.save(w.progress)
	if full(err) {
		w.store.cfg.Logf("%v; records wait until there is room", w.store.explain(err))
		return nil
	}
	return err
}

// full reports whether err says that a disk is full.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (w *Writer) path() string { return filepath.Join(w.store.dir, progressFile) }

// save replaces the progress file, synchronously.
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

// Status may be called by any goroutine.
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

// Publish queues a batch, and does not wait. It keeps nothing of b.
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

// Run writes what is published until ctx is done, and then what the queue still
// holds, for a while.
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

// drain writes all that the queue holds now.
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

// commitDue commits what an earlier process has sealed, before the progress file names another segment.
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

// gap returns how many of an agent's records before b did not come.
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

// note notes that n records of b's agent are missing before b, from number first on.
func (w *Writer) note(b *batch.Batch, e expectation, first, n uint64, why string) {
	to := e.at
	if len(b.Records) > 0 {
		to = max(to, b.Records[0].Time)
	}
	w.pending.gaps = append(w.pending.gaps, Gap{Agent: b.Agent, Boot: hex(b.Boot), First: first,
		From: time.Unix(0, e.at).UTC(), To: time.Unix(0, to).UTC(), Records: n, Why: why})
}

// whyMissing is why the queue has dropped records that came since then.
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
		// Whether it counts is up to the file, which may be there all the same.
		return errors.Join(w.store.explain(err), w.settle())
	}
	w.progress = next
	return w.commit(ctx)
}

// commit commits a segment that counts, however often it takes. If ctx is done
// before, the next process commits it.
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

// settle commits or discards the sealed segment, as the progress file says.
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
		return w.store.Commit(w.id)
	}
	return w.store.Discard(w.id)
}

// report counts what flush has done.
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

// failed notes why nothing can be written, and says so once.
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

// rewind gives the batches of the open segment back to the queue.
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
