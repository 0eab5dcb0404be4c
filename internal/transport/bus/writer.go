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

// Store is where segments are.
type Store interface {
	// Pending are the segments that were sealed and not committed.
	Pending() []string
	// Commit makes a sealed segment part of what is kept, for good. One that was
	// committed before is no error.
	Commit(id string) error
	// Discard removes a sealed segment.
	Discard(id string) error
}

// Segment is records that are kept together.
type Segment interface {
	// Add adds a batch's records. It keeps nothing of it.
	Add(b *batch.Batch) error
	// Seal makes the segment outlive kill and loss of power, as pending.
	Seal() error
	// Abort discards it.
	Abort()
}

const (
	// A segment has defaultRows records at most, as many among all partitions that
	// are written at once, and is sealed after segmentTime.
	defaultRows = 1 << 18
	segmentTime = 10 * time.Second
	// lookEvery is how often a writer looks at the clock.
	lookEvery = 200 * time.Millisecond
)

// WriterConfig of a Writer.
type WriterConfig struct {
	Store Store
	// NewSegment begins one in Store. id is of letters, digits and "-".
	NewSegment func(id string) (Segment, error)
	Streams    Streams // how streams are made if there are none
	// Group is whose progress this is: each group of writers has all records. "" is
	// those that write the history. It is of letters, digits and "-".
	Group string
	// Share tells which partitions are ours. Nil: all.
	Share *Share
	// Rows is the most records in all open segments; 0 is 262,144. Age is after how
	// long one is sealed; 0 is 10 s.
	Rows int
	Age  time.Duration
}

// Writer writes what the streams carry into segments. Any number of writers may
// share the partitions of a bus; each record is in one committed segment of one of
// them, whoever is killed when:
//
//  1. A writer reads a partition from where its key says, builds a segment, and
//     seals it.
//  2. It moves the key on by compare-and-set. If that succeeds, the segment
//     counts; if somebody else has moved it, the segment is discarded.
//  3. It commits the segment. One that is found sealed after a crash is committed
//     if the key says that it counts, or else discarded.
type Writer struct {
	conn   *Conn
	cfg    WriterConfig
	ledger *ledger

	mu     sync.Mutex
	status WriterStatus
	cause  string // of Status.Failed
}

// WriterStatus is what a writer has done since it was started.
type WriterStatus struct {
	Partitions int    // that it writes now
	Segments   uint64 // committed
	Records    uint64 // in them
	Read       uint64 // records, whatever becomes of them
	Open       uint64 // of these, those in segments that are not committed yet
	Again      uint64 // of these, those that are read again, by us or another writer, as something failed
	Duplicates uint64 // records that were had before
	Malformed  uint64 // messages that are no batch
	Gone       uint64 // messages that a stream dropped before they were written
	// Missing are records that were numbered, and have not come: of the partitions
	// that it writes, by all writers, as long as the agents are remembered.
	Missing uint64
	Lag     uint64 // messages that wait in the streams of its partitions
	Failed  string // why nothing can be written now; "" if it can
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

// Run writes until ctx is done, and then what it has begun. The error is a *fault.Error,
// or the store's.
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

// ended is err, unless it is because ctx is done.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// recover judges the segments that were sealed by a process that then died.
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

// segmentID names a segment: the bus's name, the partition, where it begins, and a
// random number.
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

// partition writes a partition whenever it is ours.
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

// fail says why nothing can be written, and that it is tried again, once for each
// cause: each try names another file.
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

// write writes a partition until it is not ours, or something fails. At the end of
// ctx it writes what it has begun.
func (w *Writer) write(ctx context.Context, i int) error {
	p, err := w.open(ctx, i)
	if err != nil {
		return err
	}
	defer p.close()
	return p.run(ctx)
}

// partition is one that is being written.
type partition struct {
	w         *Writer
	number    int
	base      *state // the key, and its revision
	revision  uint64
	now       state // what the key will be; Marks are in marks
	marks     *marks
	cursor    cursor
	decoder   batch.Decoder
	batch     batch.Batch
	segment   Segment
	id        string
	rows      int
	begun     time.Time
	committed []string // the key need not keep them any more
	lag       uint64
	missing   uint64
	open      uint64 // records that were read since the last commit
	counted   counts
}

// counts are for the status, once the segment is committed.
type counts struct{ duplicates, malformed, gone uint64 }

// open reads where a partition's key says that it goes on.
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

// checkStream finds out whether the stream has lost what the key says was read: it
// was made anew, or on a disk that forgets. The marks tell what is new in it.
func (p *partition) checkStream(ctx context.Context) error {
	s, err := p.w.conn.js.Stream(ctx, p.w.conn.target.streamName(p.number))
	if err != nil {
		return err
	}
	if have := s.CachedInfo().State; have.LastSeq+1 < p.now.Next {
		p.w.conn.say("bus %s: stream %s ends at message %d, and %d were written: it was made anew; reading all of it",
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

func (p *partition) run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		m, ok, err := p.cursor.read(ctx, look.C)
		if ctx.Err() != nil {
			return p.end(ctx)
		}
		if err != nil {
			return err
		}
		if ours, _ := p.w.cfg.Share.Mine(key(p.number)); !ours {
			return nil // what was begun is the next writer's
		}
		if ok {
			if err := p.take(&m); err != nil {
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

// end writes what was begun, for a while.
func (p *partition) end(ctx context.Context) error {
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

// take adds a message's records to the segment.
func (p *partition) take(m *message) error {
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
	if err := p.marks.each(&p.batch, p.add); err != nil {
		return err
	}
	p.counted.duplicates += uint64(len(p.batch.Records) - (p.rows - rows))
	return nil
}

func (p *partition) add(b *batch.Batch) (err error) {
	if p.segment == nil {
		p.id = p.w.segmentID(p.number, p.base.Next)
		if p.segment, err = p.w.cfg.NewSegment(p.id); err != nil {
			return err
		}
	}
	p.rows += len(b.Records)
	return p.segment.Add(b)
}

// flush makes what was read count.
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

// settle moves the key on, and commits the segment that then counts.
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

// commit commits a segment that counts, however often it takes.
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

// unsettled discards a segment that does not count for certain. Of others the key
// will tell when the next process asks.
func (p *partition) unsettled(id string, err error) error {
	var other *taken
	if id != "" && errors.As(err, &other) {
		err = errors.Join(err, p.w.cfg.Store.Discard(id))
	}
	return err
}

// sealed is what the key should say: all that counts, without what was committed.
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

// report counts what is done.
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
