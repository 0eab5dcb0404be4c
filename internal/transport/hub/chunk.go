package hub

import (
	"sync"
	"sync/atomic"
)

// chunk is a run of items. Only the publisher writes items, and only at the hub's tail;
// readers read only before it.
type chunk[T any] struct {
	number atomic.Uint64 // which chunk of the stream this is
	refs   atomic.Int32  // readers currently holding it
	items  []T
	before uint64 // number of earlier items that have a number

	encoded []encoded // by format
}

// encoded is a growing prefix of a chunk's items in one format. It is only ever
// appended to, because readers hold slices of it.
type encoded struct {
	mu   sync.Mutex
	buf  []byte
	ends []uint32 // ends[i] is the length of buf before item i; one longer than the number of items
}

// upto encodes items until the first n are encoded. The returned ends has n+1 elements,
// of which the first is 0.
func (c *chunk[T]) upto(n, format int, cfg *Config[T]) (buf []byte, ends []uint32) {
	e := &c.encoded[format]
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ends == nil {
		e.ends = make([]uint32, 0, len(c.items)+1)
		if format < len(cfg.Sizes) {
			e.buf = make([]byte, 0, len(c.items)*cfg.Sizes[format])
		}
	}
	if len(e.ends) == 0 {
		e.ends = append(e.ends, 0)
	}
	if done := len(e.ends) - 1; done < n {
		e.buf, e.ends = cfg.Encodings[format](e.buf, e.ends, c.items[done:n])
	}
	return e.buf, e.ends[:n+1]
}

// reset prepares a chunk that no reader holds for new items.
func (c *chunk[T]) reset() {
	for i := range c.encoded {
		c.encoded[i].buf = c.encoded[i].buf[:0]
		c.encoded[i].ends = c.encoded[i].ends[:0]
	}
}
