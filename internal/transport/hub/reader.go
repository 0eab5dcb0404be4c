package hub

import (
	"context"
	"math"
	"sync/atomic"
)

// Reader reads a hub's stream from the position at which it was created. It must not be
// used by several goroutines at once, except for Status. A Reader must be closed,
// otherwise the hub keeps items for it.
type Reader[T any] struct {
	hub   *Hub[T]
	start uint64
	pos   atomic.Uint64 // next item to read
	lost  atomic.Uint64
	skip  atomic.Uint64 // items that the format cannot express
	end   atomic.Uint64 // position of the stream's end at Close

	held    *chunk[T] // pinned by Items or Encoded until Advance
	offsets []uint32  // of the held encoding, nil for Items
}

// Status holds the counters of a reader. At any moment
//
//	Published = Delivered + Skipped + Lost + Pending
//
// where Published counts from the creation of the reader until it is closed.
type Status struct {
	Published uint64 // items published since the reader was created
	Delivered uint64 // items read
	Skipped   uint64 // items read, but not expressible in the reader's format
	Lost      uint64 // items that were overwritten before they were read
	Pending   uint64 // items still to be read
}

// NewReader returns a reader of all items that are published from now on.
func (h *Hub[T]) NewReader() *Reader[T] {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &Reader[T]{hub: h, start: h.tail.Load()}
	r.pos.Store(r.start)
	r.end.Store(math.MaxUint64)
	h.readers[r] = struct{}{}
	return r
}

// Close ends the reader. Items that it has not read are counted as lost.
func (r *Reader[T]) Close() {
	r.Dismiss()
	r.release()
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, open := h.readers[r]; !open {
		return
	}
	delete(h.readers, r)
	tail := h.tail.Load()
	r.end.Store(tail)
	r.lost.Add(tail - r.pos.Load())
	r.pos.Store(tail)
}

// Wait blocks until there is something to read. It returns io.EOF once the hub
// is closed and everything has been read, or ctx's error.
func (r *Reader[T]) Wait(ctx context.Context) error {
	pos := r.pos.Load()
	if pos < r.hub.tail.Load() {
		return nil
	}
	return r.hub.wait(ctx, pos)
}

// Items returns unread items, in order, without copying them: at least one if
// there are any, and at most the rest of a chunk. They are valid until Advance,
// which must be called before the next Items or Encoded.
func (r *Reader[T]) Items() []T {
	c, from, to := r.pin()
	if c == nil {
		return nil
	}
	return c.items[from:to]
}

// Encoded returns unread items in one of the hub's formats. Item i of n is
// buf[ends[i]-ends[0] : ends[i+1]-ends[0]], and empty if the format cannot
// express it; len(ends) is n+1, or 0 if there is nothing to read.
func (r *Reader[T]) Encoded(format int) (buf []byte, ends []uint32) {
	c, from, to := r.pin()
	if c == nil {
		return nil, nil
	}
	buf, ends = c.upto(to, format, &r.hub.cfg)
	r.offsets = ends[from:]
	return buf[ends[from]:ends[to]], r.offsets
}

// Advance marks the first n items of the last Items or Encoded as delivered; the
// rest remains unread.
func (r *Reader[T]) Advance(n int) {
	if r.offsets != nil {
		r.countSkipped(n)
	}
	r.release()
	r.pos.Add(uint64(n))
}

// Position returns the number of items published before the next one to be read.
func (r *Reader[T]) Position() uint64 { return r.pos.Load() }

// Number returns the number of the next item that has one: how many such items were
// published before it. It may be called only between Items or Encoded, if they returned
// items, and Advance.
func (r *Reader[T]) Number() uint64 {
	at := r.pos.Load() & uint64(r.hub.cfg.Chunk-1)
	return r.held.before + r.hub.count(r.held.items[:at])
}

// Disown counts n items as lost that Advance has counted as delivered.
func (r *Reader[T]) Disown(n int) { r.lost.Add(uint64(n)) }

func (r *Reader[T]) countSkipped(n int) {
	skipped := uint64(0)
	for i := range n {
		if r.offsets[i+1] == r.offsets[i] {
			skipped++
		}
	}
	if skipped > 0 {
		r.skip.Add(skipped)
	}
}

func (r *Reader[T]) release() {
	if r.held != nil {
		r.held.refs.Add(-1)
	}
	r.held, r.offsets = nil, nil
}

// pin holds the chunk at the reader's position and returns the unread part of it, or
// nil if there is nothing to read. If the chunk is gone, the reader moves on to the
// oldest one and counts what it lost.
func (r *Reader[T]) pin() (c *chunk[T], from, to int) {
	h := r.hub
	for {
		pos, tail := r.pos.Load(), h.tail.Load()
		if pos >= tail {
			return nil, 0, 0
		}
		number := pos >> h.shift
		slot := &h.slots[number%uint64(len(h.slots))]
		if c := slot.Load(); c != nil {
			// First hold, then check again: the publisher first empties the slot, and
			// then checks for holders.
			c.refs.Add(1)
			if slot.Load() == c && c.number.Load() == number {
				r.held = c
				first := number << h.shift
				return c, int(pos - first), int(min(tail-first, uint64(len(c.items))))
			}
			c.refs.Add(-1)
		}
		if oldest := h.oldest.Load() << h.shift; oldest > pos {
			r.lost.Add(oldest - pos)
			r.pos.Store(oldest)
		}
	}
}

// Status returns the reader's counters. It may be called concurrently. While the reader
// is reading, items may move from one counter to another; their sum is exact.
func (r *Reader[T]) Status() Status {
	pos, lost, skipped := r.pos.Load(), r.lost.Load(), r.skip.Load()
	tail := max(min(r.hub.tail.Load(), r.end.Load()), pos)
	s := Status{Published: tail - r.start}
	s.Lost = min(lost, pos-r.start)
	s.Skipped = min(skipped, pos-r.start-s.Lost)
	// A blocked reader has not yet noticed what it has lost.
	if oldest := min(r.hub.oldest.Load()<<r.hub.shift, tail); oldest > pos {
		s.Lost += oldest - pos
		pos = oldest
	}
	s.Pending = tail - pos
	s.Delivered = s.Published - s.Pending - s.Lost - s.Skipped
	return s
}
