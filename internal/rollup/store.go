package rollup

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pcapper/pcapper/wire"
)

// Store is owned by one goroutine, which alone may call Add, Tick and Reset.
// Snapshot and Next are for everybody.
type Store struct {
	cfg  Config
	last atomic.Pointer[Snapshot]

	mu   sync.Mutex
	wake chan struct{} // closed at the next publication
}

// New makes an empty store.
func New(cfg Config) *Store {
	s := &Store{cfg: cfg, wake: make(chan struct{})}
	s.last.Store(&Snapshot{Seq: 1, Hosts: make([]HostStatus, len(cfg.Hosts))})
	return s
}

// Add counts a record of a host's agent. now is the wall clock's time of its
// arrival in nanoseconds since the epoch, as exact as ages are wanted; ByNewest
// ignores it. Host statistics are taken too. It does not allocate, as a rule.
func (s *Store) Add(now int64, host int, r *wire.Record) {}

// Tick publishes a new snapshot. It is to be called about once a second, now as
// in Add.
func (s *Store) Tick(now int64) {
	old := s.last.Load()
	s.publish(&Snapshot{Seq: old.Seq + 1, Now: now, Hosts: old.Hosts})
}

func (s *Store) publish(snap *Snapshot) {
	s.last.Store(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.wake)
	s.wake = make(chan struct{})
}

// Reset forgets all traffic, for a replay that goes back in time. Snapshots
// keep what they have, and their numbering goes on.
func (s *Store) Reset() {}

// Snapshot is the newest one. There always is one; it may be empty.
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
