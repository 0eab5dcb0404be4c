package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire/batch"
)

const (
	// A block is sent when it has blockRows rows, or when its first row is blockAge
	// old: a server creates files for each, and works best with few large ones.
	blockRows = 50_000
	blockAge  = time.Second
	// drainTime is how long Run continues at its end with what is left.
	drainTime = 5 * time.Second
	// Failures are retried after firstPause, then after twice as long each time, up to
	// lastPause.
	firstPause, lastPause = 250 * time.Millisecond, 10 * time.Second
	// runCost is the approximate memory of a run in addition to its rows.
	runCost = 64
)

// Status holds the counters of a sink, in rows.
//
//	Published = Written + Dropped + Waiting
type Status struct {
	Published uint64
	Written   uint64 // the server has confirmed them
	Dropped   uint64 // for lack of room, or because of a time after 2106
	Waiting   uint64
	Again     uint64 // blocks whose INSERT had an uncertain outcome
}

// Sink writes batches. One goroutine may call Publish, and another one Run.
type Sink struct {
	inserter
	wake chan struct{}

	mu       sync.Mutex
	filling  *block    // may be nil
	since    time.Time // when filling got its first rows
	waiting  []*block  // oldest first
	inFlight *block    // the oldest, which Run is sending; nil if none
	bytes    int64     // of all of them
	full     bool      // it has been reported that blocks are dropped
	ended    bool      // Run has ended: nothing is sent any more
	status   Status
}

// New returns a sink. say prints messages for the user.
func New(t *TableURL, say func(format string, args ...any)) (*Sink, error) {
	c, err := newClient(t)
	if err != nil {
		return nil, err
	}
	return &Sink{inserter: inserter{client: c, say: say}, wake: make(chan struct{}, 1)}, nil
}

// Status returns the counters. It may be called concurrently.
func (s *Sink) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Again = s.again.Load()
	for _, k := range append([]*block{s.filling, s.inFlight}, s.waiting...) {
		if k != nil {
			st.Waiting += uint64(k.rows)
		}
	}
	return st
}

func (st Status) String() string {
	return fmt.Sprintf("%d rows in ClickHouse, %d dropped", st.Written, st.Dropped)
}

// Publish queues a batch without blocking. It does not retain b.
func (s *Sink) Publish(b *batch.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Published += uint64(len(b.Records))
	if s.ended {
		s.status.Dropped += uint64(len(b.Records))
		return
	}
	if s.filling == nil {
		s.filling, s.since = newBlock(), time.Now()
	}
	k := s.filling
	before := k.cost()
	unfit := k.addTraffic(b)
	s.bytes += k.cost() - before
	s.status.Dropped += uint64(unfit)
	if k.rows >= blockRows {
		s.close()
	}
	s.shed()
}

func newBlock() *block {
	return &block{id: fmt.Sprintf("pcapper-%016x%016x", rand.Uint64(), rand.Uint64())}
}

// cost returns the memory taken by a block.
func (k *block) cost() int64 { return int64(cap(k.data)) + int64(len(k.runs))*runCost }

// close ends the block that is being filled.
func (s *Sink) close() {
	if s.filling.rows > 0 {
		s.waiting = append(s.waiting, s.filling)
	} else {
		s.bytes -= s.filling.cost()
	}
	s.filling = nil
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// shed makes room. The block in flight stays.
func (s *Sink) shed() {
	for s.bytes > s.client.t.Memory && len(s.waiting) > 0 {
		k := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		s.bytes -= k.cost()
		s.status.Dropped += uint64(k.rows)
		if !s.full {
			s.full = true
			s.say("clickhouse %s: more than memory=%d MiB is queued; the oldest rows are dropped and counted", s.client.t, s.client.t.Memory>>20)
		}
	}
}

// next returns the oldest block that is due, if any.
func (s *Sink) next(all bool) *block {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 && s.filling != nil && (all || time.Since(s.since) >= blockAge) {
		s.close()
	}
	if len(s.waiting) == 0 {
		return nil
	}
	s.inFlight = s.waiting[0]
	s.waiting[0] = nil
	s.waiting = s.waiting[1:]
	return s.inFlight
}

func (s *Sink) landed(rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes -= s.inFlight.cost()
	s.inFlight = nil
	s.full = false
	s.status.Written += uint64(rows)
}

// Run writes until ctx is done, and then, for a few seconds, what is left; what remains
// after that counts as dropped. It fails with a *fault.Error if nothing can be written.
func (s *Sink) Run(ctx context.Context) error {
	defer s.client.http.CloseIdleConnections()
	sending, stop := lasting(ctx)
	defer stop()
	defer s.abandon()
	if err := s.trying(sending, ctx.Done(), s.client.check); err != nil {
		return final(err)
	}
	look := time.NewTicker(blockAge / 4)
	defer look.Stop()
	for {
		ended := ctx.Err() != nil
		for k := s.next(ended); k != nil; k = s.next(ended) {
			if err := s.write(sending, k, true); err != nil {
				return final(err)
			}
			s.landed(k.rows)
		}
		if ended {
			return nil
		}
		select {
		case <-s.wake:
		case <-look.C:
		case <-ctx.Done():
		}
	}
}

// lasting returns a context that is done a few seconds after ctx.
func lasting(ctx context.Context) (context.Context, context.CancelFunc) {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() { time.AfterFunc(drainTime, stop) })
	return sending, func() { forget(); stop() }
}

// final returns err if the user must be told about it.
func final(err error) error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	return nil // ctx ended first
}

// abandon drops what was not written.
func (s *Sink) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight != nil {
		s.waiting = append(s.waiting, s.inFlight)
	}
	if s.filling != nil {
		s.waiting = append(s.waiting, s.filling)
	}
	for _, k := range s.waiting {
		s.status.Dropped += uint64(k.rows)
	}
	s.waiting, s.filling, s.inFlight, s.bytes, s.ended = nil, nil, nil, 0, true
}
