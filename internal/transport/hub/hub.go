// Package hub provides a stream with many readers. Publishing never waits for a
// reader: each reader has its own position, and one that falls behind by more
// than the hub keeps loses the oldest items, which its counter reports.
// Memory is bounded, and depends on what the slowest reader still has to read.
//
// The hub does not interpret its items. It can cache their encodings: an item
// is encoded once per format, by the first reader that needs it, however many
// readers use it.
package hub

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// Encoding appends encoded items to dst, and the length of dst after each item
// to ends. An item that the format cannot express appends nothing to dst. An
// Encoding must be pure: the same item always results in the same bytes.
type Encoding[T any] func(dst []byte, ends []uint32, items []T) ([]byte, []uint32)

// Each returns an Encoding that encodes items one by one. encode reports false,
// and appends nothing, if the format cannot express the item.
func Each[T any](encode func(dst []byte, item *T) ([]byte, bool)) Encoding[T] {
	return func(dst []byte, ends []uint32, items []T) ([]byte, []uint32) {
		for i := range items {
			dst, _ = encode(dst, &items[i])
			ends = append(ends, uint32(len(dst)))
		}
		return dst, ends
	}
}

// Config configures a hub. Chunk and Chunks bound its memory: the hub keeps at
// most Chunk x Chunks items, plus the chunk that each reader currently holds.
type Config[T any] struct {
	// Chunk is the number of items that are stored and reclaimed together, a
	// power of two.
	Chunk int
	// Chunks is the maximum number of chunks kept, at least 2.
	Chunks int
	// Encodings are the formats that Reader.Encoded can give, by index.
	Encodings []Encoding[T]
	// Sizes are the typical numbers of bytes of an item in each format, so that the
	// room for a chunk is allocated at once. It may be shorter than Encodings.
	Sizes []int
	// Count returns how many of items have a number, see Reader.Number. Nil means all.
	// It must be pure.
	Count func(items []T) uint64
}

// Chunks that are no longer needed are kept for reuse, so that readers that lag by
// varying amounts do not constantly produce garbage. After every trimEvery turns, those
// that were not reused in that time are released.
const (
	trimEvery  = 256
	fewestKept = 2
)

// Hub is a stream of items. It is safe for concurrent use.
type Hub[T any] struct {
	cfg   Config[T]
	shift uint

	slots  []atomic.Pointer[chunk[T]] // chunk number n is in slot n % len
	tail   atomic.Uint64              // items published since the start
	oldest atomic.Uint64              // number of the oldest chunk kept
	closed atomic.Bool

	mu      sync.Mutex  // guards publishing and the set of readers
	open    *chunk[T]   // the one being filled, nil until the first item
	spare   []*chunk[T] // the most recently used one is last
	idle    int         // chunks of spare not reused since the last trim
	turns   int         // since then
	readers map[*Reader[T]]struct{}

	attending  atomic.Int32 // len(attendants)
	attendMu   sync.Mutex   // held while attendants run
	attendants []attendant[T]

	waiting atomic.Bool // a reader is waiting on wake
	wakeMu  sync.Mutex
	wake    chan struct{} // closed when there is something new
}

// New returns a hub. It panics if the Config is invalid.
func New[T any](cfg Config[T]) *Hub[T] {
	if cfg.Chunk < 1 || cfg.Chunk&(cfg.Chunk-1) != 0 || cfg.Chunks < 2 {
		panic(fmt.Sprintf("hub: chunk of %d items, %d chunks", cfg.Chunk, cfg.Chunks))
	}
	h := &Hub[T]{
		cfg:     cfg,
		slots:   make([]atomic.Pointer[chunk[T]], cfg.Chunks),
		readers: map[*Reader[T]]struct{}{},
		wake:    make(chan struct{}),
	}
	for 1<<h.shift < cfg.Chunk {
		h.shift++
	}
	return h
}

// Published returns the number of items published since the start.
func (h *Hub[T]) Published() uint64 { return h.tail.Load() }

// Fill lets f write items in place. It calls f once with free space (at least one item,
// at most a chunk) and publishes the first n items, where n is the result of f. It
// never waits for readers. Only one publisher runs f at a time, so f must not block.
// Nothing may be published after Close.
//
// Before Fill returns, attendants read what was published.
func (h *Hub[T]) Fill(f func(free []T) int) {
	if h.fill(f) && h.attending.Load() > 0 {
		h.attend()
	}
}

// fill reports whether anything was published.
func (h *Hub[T]) fill(f func(free []T) int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	tail := h.tail.Load()
	at := tail & uint64(h.cfg.Chunk-1)
	if at == 0 && (h.open == nil || h.open.number.Load() != tail>>h.shift) {
		h.turn(tail >> h.shift)
	}
	n := f(h.open.items[at:])
	if n > 0 {
		h.tail.Store(tail + uint64(n))
		h.wakeReaders()
	}
	return n > 0
}

// Publish copies items into the hub. It never waits for readers.
func (h *Hub[T]) Publish(items ...T) {
	for len(items) > 0 {
		h.Fill(func(free []T) int {
			n := copy(free, items)
			items = items[n:]
			return n
		})
	}
}

// turn opens chunk number n, after releasing the chunks that no reader needs and, if
// there are still too many, the oldest ones.
func (h *Hub[T]) turn(n uint64) {
	keep := n
	for r := range h.readers {
		keep = min(keep, r.pos.Load()>>h.shift)
	}
	if limit := uint64(h.cfg.Chunks); n >= limit {
		keep = max(keep, n-limit+1)
	}
	for old := h.oldest.Load(); old < keep; old++ {
		// The order matters to Reader.pin: first the number, then the slot.
		h.oldest.Store(old + 1)
		h.reclaim(h.slots[old%uint64(len(h.slots))].Swap(nil))
	}
	before := uint64(0)
	if h.open != nil {
		before = h.open.before + h.count(h.open.items)
	}
	h.open = h.newChunk(n)
	h.open.before = before
	h.trim()
	h.slots[n%uint64(len(h.slots))].Store(h.open)
}

// count applies Config.Count.
func (h *Hub[T]) count(items []T) uint64 {
	if h.cfg.Count == nil {
		return uint64(len(items))
	}
	return h.cfg.Count(items)
}

// reclaim keeps c for reuse, unless a reader is holding it at this moment; in that case
// it is garbage collected once the reader is done.
func (h *Hub[T]) reclaim(c *chunk[T]) {
	if c != nil && c.refs.Load() == 0 {
		h.spare = append(h.spare, c)
	}
}

// trim releases the spare chunks that have not been needed for a while.
func (h *Hub[T]) trim() {
	if h.turns++; h.turns >= trimEvery {
		if unused := min(h.idle, len(h.spare)-fewestKept); unused > 0 {
			kept := copy(h.spare, h.spare[unused:]) // the least recently used are at the front
			clear(h.spare[kept:])
			h.spare = h.spare[:kept]
		}
		h.turns, h.idle = 0, len(h.spare)
	}
	h.idle = min(h.idle, len(h.spare))
}

func (h *Hub[T]) newChunk(n uint64) *chunk[T] {
	var c *chunk[T]
	if last := len(h.spare) - 1; last >= 0 {
		c, h.spare = h.spare[last], h.spare[:last]
		c.reset()
	} else {
		c = &chunk[T]{
			items:   make([]T, h.cfg.Chunk),
			encoded: make([]encoded, len(h.cfg.Encodings)),
		}
	}
	c.number.Store(n)
	return c
}

// Backlog returns the number of items that the slowest reader still has to read.
func (h *Hub[T]) Backlog() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	tail := h.tail.Load()
	most := uint64(0)
	for r := range h.readers {
		most = max(most, tail-r.pos.Load())
	}
	return most
}

// Close ends the stream: readers get the remaining items, followed by io.EOF.
func (h *Hub[T]) Close() {
	h.mu.Lock()
	h.closed.Store(true)
	h.wakeReaders()
	h.mu.Unlock()
	h.dismissAll()
}

// wakeReaders is called after tail or closed has changed. A reader announces that it
// waits before it checks them for the last time, so none is missed.
func (h *Hub[T]) wakeReaders() {
	if !h.waiting.Load() {
		return
	}
	h.wakeMu.Lock()
	defer h.wakeMu.Unlock()
	close(h.wake)
	h.wake = make(chan struct{})
	h.waiting.Store(false)
}

func (h *Hub[T]) waitChannel() <-chan struct{} {
	h.wakeMu.Lock()
	defer h.wakeMu.Unlock()
	h.waiting.Store(true)
	return h.wake
}

// wait blocks until there is an item at pos, the hub is closed (io.EOF), or ctx is
// done.
func (h *Hub[T]) wait(ctx context.Context, pos uint64) error {
	for {
		wake := h.waitChannel()
		if pos < h.tail.Load() {
			return nil
		}
		if h.closed.Load() {
			return io.EOF
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
