package bus

import (
	"context"
	"sync"
)

// Queue is a bounded first-in, first-out queue of encoded batches that keeps them until
// they are acknowledged. It drops the oldest to make room, and Append never blocks. A
// *spool.Queue is a Queue that outlives the process.
//
// One goroutine may call Append, and another one the other methods.
type Queue interface {
	// Append adds a copy of data. weight is the number of packets that it stands for.
	Append(data []byte, weight uint32) error
	// Wait blocks until Next has a batch to return. The error is ctx's.
	Wait(ctx context.Context) error
	// Next appends the oldest batch that it has not returned yet to dst.
	Next(dst []byte) (data []byte, weight uint32, ok bool)
	// Ack removes the oldest n batches that Next has returned.
	Ack(n int)
	// Rewind makes Next start again with the oldest unacknowledged batch.
	Rewind()
}

// memory is a Queue in memory.
type memory struct {
	limit   int64
	dropped func(data []byte) // called by the appending goroutine for each batch that is dropped
	wake    chan struct{}

	mu      sync.Mutex
	entries []memoryEntry
	given   int // number of entries returned by Next
	bytes   int64
	weight  uint64
}

type memoryEntry struct {
	data   []byte
	weight uint32
}

// size is the memory taken by an entry, including its place in the list.
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

// shed makes room. Entries in flight are dropped last, because they may have arrived.
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

// waiting returns the weight of all unacknowledged entries.
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
