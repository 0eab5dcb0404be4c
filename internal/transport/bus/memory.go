package bus

import (
	"context"
	"sync"
)

// Queue keeps encoded batches, first in, first out, until they are
// acknowledged. It is bounded, gives up the oldest to make room, and never makes
// Append wait. A *spool.Queue is one that outlives the process.
//
// One goroutine calls Append, another one the rest.
type Queue interface {
	// Append adds a copy of data. weight is how many packets it stands for.
	Append(data []byte, weight uint32) error
	// Wait blocks until Next has something to give. The error is ctx's.
	Wait(ctx context.Context) error
	// Next appends to dst the oldest that it has not given yet.
	Next(dst []byte) (data []byte, weight uint32, ok bool)
	// Ack forgets the oldest n that Next has given.
	Ack(n int)
	// Rewind makes Next begin again with the oldest that was not acknowledged.
	Rewind()
}

// memory is a Queue that ends with the process.
type memory struct {
	limit   int64
	dropped func(data []byte) // called for what is given up, by who appends
	wake    chan struct{}

	mu      sync.Mutex
	entries []memoryEntry
	given   int // of entries
	bytes   int64
	weight  uint64
}

type memoryEntry struct {
	data   []byte
	weight uint32
}

// size is what an entry costs, its place in the list included.
func (e *memoryEntry) size() int64 { return int64(cap(e.data)) + 64 }

func newMemory(limit int64, dropped func(data []byte)) *memory {
	return &memory{limit: limit, dropped: dropped, wake: make(chan struct{}, 1)}
}

func (m *memory) Append(data []byte, weight uint32) error {
	m.mu.Lock()
	m.entries = append(m.entries, memoryEntry{append([]byte(nil), data...), weight})
	m.bytes += m.entries[len(m.entries)-1].size()
	m.weight += uint64(weight)
	doomed := m.shed()
	m.mu.Unlock()
	for _, e := range doomed {
		m.dropped(e.data)
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return nil
}

// shed makes room. What is on its way goes last, since it may have arrived.
func (m *memory) shed() (doomed []memoryEntry) {
	for m.bytes > m.limit && len(m.entries) > m.given {
		e := m.entries[m.given]
		copy(m.entries[1:], m.entries[:m.given])
		m.entries[0] = memoryEntry{}
		m.entries = m.entries[1:]
		m.bytes -= e.size()
		m.weight -= uint64(e.weight)
		doomed = append(doomed, e)
	}
	return doomed
}

func (m *memory) Wait(ctx context.Context) error {
	for {
		m.mu.Lock()
		some := m.given < len(m.entries)
		m.mu.Unlock()
		if some {
			return nil
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *memory) Next(dst []byte) (data []byte, weight uint32, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.given == len(m.entries) {
		return dst, 0, false
	}
	e := &m.entries[m.given]
	m.given++
	return append(dst, e.data...), e.weight, true
}

func (m *memory) Ack(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n = min(n, m.given)
	for i := range n {
		m.bytes -= m.entries[i].size()
		m.weight -= uint64(m.entries[i].weight)
		m.entries[i] = memoryEntry{}
	}
	m.entries = m.entries[n:]
	m.given -= n
}

// waiting is the weight of all that was not acknowledged.
func (m *memory) waiting() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.weight
}

func (m *memory) Rewind() {
	m.mu.Lock()
	m.given = 0
	m.mu.Unlock()
}
