package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire/batch"
)

// SegmentStore holds segments.
type SegmentStore interface {
	// Pending returns the segments that are sealed but not committed.
	Pending() []string
	// Commit makes a sealed segment permanent. It is not an error if it is committed
	// already.
	Commit(id string) error
	// Discard removes a sealed segment.
	Discard(id string) error
}

// SegmentWriter is a group of records that are kept together.
type SegmentWriter interface {
	// Add adds the records of a batch, which it does not retain.
	Add(b *batch.Batch) error
	// Seal makes the segment survive a kill and a loss of power, as pending.
	Seal() error
	// Abort discards the segment.
	Abort()
}

const (
	// All open segments together hold at most defaultRows records, and a segment is
	// sealed after segmentTime.
	defaultRows = 1 << 18
	segmentTime = 10 * time.Second
	// lookEvery is the interval at which a writer checks the time.
	lookEvery = 200 * time.Millisecond
)

// WriterConfig configures a Writer.
type WriterConfig struct {
	Store SegmentStore
	// NewSegment begins a segment in Store. id consists of letters, digits, and "-".
	NewSegment func(id string) (SegmentWriter, error)
	Streams    Streams // the streams to create if there are none
	// Group identifies the progress: each group of writers processes all records. "" is
	// the group that writes the history. It consists of letters, digits, and "-".
	Group string
	// Share decides which partitions are ours. Nil means all.
	Share *Share
	// Rows is the maximum number of records in all open segments; 0 means 262,144. Age
	// is the time after which a segment is sealed; 0 means 10 s.
	Rows int
	Age  time.Duration
}

// Writer writes the records of the streams into segments. Any number of writers may
// share the partitions of a bus. Each record ends up in exactly one committed segment
// of one of them, no matter which of them are killed when:
//
//  1. A writer reads a partition from the position in its key, builds a segment, and
//     seals it.
//  2. It advances the key by compare-and-set. If that succeeds, the segment counts; if
//     another writer has changed the key, the segment is discarded.
//  3. It commits the segment. A segment that is found sealed after a crash is committed
//     if the key says that it counts, and discarded otherwise.
type Writer struct {
	conn   *Conn
	cfg    WriterConfig
	ledger *stateBucket

	mu     sync.Mutex
	status WriterStatus
	cause  string // of Status.Failed
}

// WriterStatus holds the counters of a writer since its start.
type WriterStatus struct {
	Partitions int    // being written now
	Segments   uint64 // committed
	Records    uint64 // in them
	Read       uint64 // records, whatever becomes of them
	Open       uint64 // of these, those in segments that are not committed yet
	Again      uint64 // of these, those that are read again, by us or another writer, after a failure
	Duplicates uint64 // duplicate records
	Malformed  uint64 // messages that are not batches
	Gone       uint64 // messages that a stream dropped before they were written
	// Missing is the number of numbered records that have not arrived in the partitions
	// being written, for all writers, as long as their agents are remembered.
	Missing uint64
	Lag     uint64 // messages waiting in the streams of its partitions
	Failed  string // why nothing can be written now, or ""
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

// NewWriter returns a Writer.
func NewWriter(conn *Conn, cfg WriterConfig) *Writer {
	if cfg.Rows == 0 {
		cfg.Rows = defaultRows
	}
	if cfg.Age == 0 {
		cfg.Age = segmentTime
	}
	return &Writer{conn: conn, cfg: cfg}
}

// Run writes until ctx is done, and then finishes what it has begun. The error is a
// *fault.Error, or the store's.
func (w *Writer) Run(ctx context.Context) error {
	partitions, err := w.conn.EnsureStreams(ctx, w.cfg.Streams)
	if err != nil {
		return ended(ctx, err)
	}
	if w.ledger, err = w.conn.openLedger(ctx, w.cfg.Group, w.cfg.Streams); err != nil {
		return ended(ctx, err)
	}
	if err := w.recover(ctx); err != nil {
		return ended(ctx, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range partitions {
		g.Go(func() error { return ended(ctx, w.partition(ctx, i)) })
	}
	return g.Wait()
}

// ended returns err, unless it was caused by ctx being done.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// recover settles the segments sealed by a process that then died.
func (w *Writer) recover(ctx context.Context) error {
	for _, id := range w.cfg.Store.Pending() {
		bus, partition, ok := parseSegment(id)
		if !ok || bus != w.ledger.id {
			w.conn.say("bus %s: segment %s is another bus's; it stays aside", w.conn.target, id)
			continue
		}
		var s *state
		if err := w.conn.retry(ctx, "segment "+id, func() (err error) {
			s, err = w.ledger.fresh(ctx, partition)
			return err
		}); err != nil {
			return err
		}
		if err := w.judge(s, id); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) judge(s *state, id string) error {
	for _, sealed := range s.Sealed {
		if sealed == id {
			return w.cfg.Store.Commit(id)
		}
	}
	return w.cfg.Store.Discard(id)
}

// segmentID returns the ID of a segment: the bus's name, the partition, where it
// begins, and a random number.
func (w *Writer) segmentID(partition int, next uint64) string {
	return fmt.Sprintf("%s-%02d-%012d-%08x", w.ledger.id, partition, next, rand.Uint32())
}

func parseSegment(id string) (bus string, partition int, ok bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 4 {
		return "", 0, false
	}
	partition, err := strconv.Atoi(parts[1])
	return parts[0], partition, err == nil
}

// partition writes a partition whenever we own it.
func (w *Writer) partition(ctx context.Context, i int) error {
	for {
		ours, changed := w.cfg.Share.Mine(key(i))
		if !ours {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		err := w.write(ctx, i)
		var other *taken
		switch {
		case ctx.Err() != nil:
			return err
		case err == nil, errors.As(err, &other):
		case final(err):
			return err
		default:
			w.fail(err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// fail reports why nothing can be written and that it is retried, once per cause: each
// attempt names another file.
func (w *Writer) fail(err error) {
	why := fault.Cause(err)
	w.update(func(s *WriterStatus) {
		if s.Failed == "" || w.cause != why {
			w.cause = why
			w.conn.say("bus %s: cannot write records: %v; still trying", w.conn.target, err)
		}
		s.Failed = err.Error()
	})
}

// write writes a partition until we no longer own it, or something fails. When ctx
// ends, it finishes what it has begun.
func (w *Writer) write(ctx context.Context, i int) error {
	p, err := w.open(ctx, i)
	if err != nil {
		return err
	}
	defer p.close()
	return p.runPartition(ctx)
}

// partition is a partition that is being written.
type partition struct {
	w         *Writer
	number    int
	base      *state // the key, and its revision
	revision  uint64
	now       state // the next value of the key; Marks are in marks
	marks     *marks
	cursor    cursor
	decoder   batch.Decoder
	batch     batch.Batch
	segment   SegmentWriter
	id        string
	rows      int
	begun     time.Time
	committed []string // the key need not list them any longer
	lag       uint64
	missing   uint64
	open      uint64 // records read since the last commit
	counted   counts
}

// counts are added to the status once the segment is committed.
type counts struct{ duplicates, malformed, gone uint64 }

// open reads where to continue from a partition's key.
func (w *Writer) open(ctx context.Context, i int) (*partition, error) {
	p := &partition{w: w, number: i}
	var err error
	if p.base, p.revision, err = w.ledger.get(ctx, i); err != nil {
		return nil, err
	}
	p.now = *p.base
	p.marks = newMarks(p.base.Marks)
	if err := p.checkStream(ctx); err != nil {
		return nil, err
	}
	p.cursor = cursor{conn: w.conn, stream: w.conn.target.streamName(i), next: p.now.Next}
	w.mu.Lock()
	w.status.Partitions++
	w.mu.Unlock()
	return p, nil
}

// checkStream determines whether the stream has lost messages that the key says were
// read, because it was recreated or its disk lost them. The marks then identify what is
// new in it.
func (p *partition) checkStream(ctx context.Context) error {
	s, err := p.w.conn.js.Stream(ctx, p.w.conn.target.streamName(p.number))
	if err != nil {
		return err
	}
	if have := s.CachedInfo().State; have.LastSeq+1 < p.now.Next {
		p.w.conn.say("bus %s: stream %s ends at message %d, and %d were written: it was recreated; reading all of it",
			p.w.conn.target, s.CachedInfo().Config.Name, have.LastSeq, p.now.Next-1)
		p.now.Next = max(have.FirstSeq, 1)
	}
	return nil
}

func (p *partition) close() {
	p.cursor.close()
	if p.segment != nil {
		p.segment.Abort()
	}
	p.w.update(func(s *WriterStatus) {
		s.Partitions--
		s.Lag -= p.lag
		s.Missing -= p.missing
		s.Open -= p.open
		s.Again += p.open
	})
}

func (p *partition) runPartition(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		m, ok, err := p.cursor.read(ctx, look.C)
		if ctx.Err() != nil {
			return p.finishOpen(ctx)
		}
		if err != nil {
			return err
		}
		if ours, _ := p.w.cfg.Share.Mine(key(p.number)); !ours {
			return nil // what was begun is left to the next writer
		}
		if ok {
			if err := p.takeMessage(&m); err != nil {
				return err
			}
		}
		if p.full() {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// finishOpen finishes writing what was begun, for a limited time.
func (p *partition) finishOpen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	return p.flush(ctx)
}

func (p *partition) full() bool {
	if p.now.Next == p.base.Next {
		return false
	}
	if p.begun.IsZero() {
		p.begun = time.Now()
	}
	share := max(p.w.Status().Partitions, 1)
	return p.rows >= p.w.cfg.Rows/share || time.Since(p.begun) >= p.w.cfg.Age
}

// takeMessage adds a message's records to the segment.
func (p *partition) takeMessage(m *message) error {
	if m.seq < p.now.Next {
		return nil
	}
	gone := m.seq - p.now.Next
	p.now.Gone += gone
	p.counted.gone += gone
	p.now.Next = m.seq + 1
	err := p.decoder.Decode(m.data, &p.batch)
	p.w.update(func(s *WriterStatus) {
		s.Lag += m.pending - p.lag
		if err == nil {
			s.Read += uint64(len(p.batch.Records))
			s.Open += uint64(len(p.batch.Records))
			p.open += uint64(len(p.batch.Records))
		}
	})
	p.lag = m.pending
	if err != nil {
		p.counted.malformed++
		return nil
	}
	rows := p.rows
	if err := p.marks.each(&p.batch, p.addBatch); err != nil {
		return err
	}
	p.counted.duplicates += uint64(len(p.batch.Records) - (p.rows - rows))
	return nil
}

func (p *partition) addBatch(b *batch.Batch) (err error) {
	if p.segment == nil {
		p.id = p.w.segmentID(p.number, p.base.Next)
		if p.segment, err = p.w.cfg.NewSegment(p.id); err != nil {
			return err
		}
	}
	p.rows += len(b.Records)
	return p.segment.Add(b)
}

// flush seals what has been read, and makes it count.
func (p *partition) flush(ctx context.Context) error {
	if p.now.Next == p.base.Next {
		return nil
	}
	id := ""
	if p.segment != nil {
		segment := p.segment
		p.segment, id = nil, p.id
		if err := segment.Seal(); err != nil {
			segment.Abort()
			return err
		}
	}
	if err := p.settle(ctx, id); err != nil {
		return err
	}
	p.report(id)
	return nil
}

// settle advances the key, and commits the segment that then counts.
func (p *partition) settle(ctx context.Context, id string) error {
	want := p.now
	want.Records += uint64(p.rows)
	want.Marks = p.marks.list()
	want.Sealed = p.sealed(id)
	revision, err := p.w.ledger.seal(ctx, p.number, p.base, &want, p.revision, id)
	if err != nil {
		return p.unsettled(id, err)
	}
	if id != "" {
		if err := p.commit(ctx, id); err != nil {
			return err // the next process will
		}
		p.committed = append(p.committed, id)
	}
	p.now, p.revision = want, revision
	p.base = &want
	return nil
}

// commit commits a segment that counts, and retries until it succeeds.
func (p *partition) commit(ctx context.Context, id string) error {
	for {
		err := p.w.cfg.Store.Commit(id)
		if err == nil {
			return nil
		}
		p.w.fail(err)
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// unsettled discards a segment that certainly does not count. For others, the next
// process will learn from the key.
func (p *partition) unsettled(id string, err error) error {
	var other *taken
	if id != "" && errors.As(err, &other) {
		err = errors.Join(err, p.w.cfg.Store.Discard(id))
	}
	return err
}

// sealed returns the segments that the key should list: all that count, except those
// known to be committed.
func (p *partition) sealed(id string) (list []string) {
	for _, s := range p.base.Sealed {
		done := false
		for _, c := range p.committed {
			done = done || c == s
		}
		if !done {
			list = append(list, s)
		}
	}
	p.committed = p.committed[:0]
	if id != "" {
		list = append(list, id)
	}
	return list[max(0, len(list)-maxSealed):]
}

// report updates the counters.
func (p *partition) report(id string) {
	missing := uint64(0)
	for _, m := range p.marks.of {
		missing += m.missing()
	}
	p.w.update(func(s *WriterStatus) {
		if id != "" {
			s.Segments++
		}
		s.Records += uint64(p.rows)
		s.Duplicates += p.counted.duplicates
		s.Malformed += p.counted.malformed
		s.Gone += p.counted.gone
		s.Missing += missing - p.missing
		s.Open -= p.open
		if s.Failed != "" {
			s.Failed = ""
			p.w.conn.say("bus %s: records are written again", p.w.conn.target)
		}
	})
	p.missing = missing
	p.open = 0
	p.rows, p.begun, p.counted = 0, time.Time{}, counts{}
}
