package hub

import (
	"sync"
	"sync/atomic"
)

// chunk is a run of items. Only the publisher writes items, and only behind
// the hub's tail; readers read only before it.
type chunk[T any] struct {
	number atomic.Uint64 // which chunk of the stream this is
	refs   atomic.Int32  // readers that look at it now
	items  []T
	before uint64 // how many items before it have a number

	encoded []encoded // by format
}

// encoded is a growing prefix of a chunk's items in one format. What has been
// handed out is never changed, only appended to.
type encoded struct {
	mu   sync.Mutex
	buf  []byte
	ends []uint32 // ends[i] is the length of buf before item i; one more than items
}

// upto encodes items until the first n are there. The ends it returns has n+1
// entries, the first is 0.
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

// reset prepares a chunk that nobody looks at for new items.
func (c *chunk[T]) reset() {
	for i := range c.encoded {
		c.encoded[i].buf = c.encoded[i].buf[:0]
		c.encoded[i].ends = c.encoded[i].ends[:0]
	}
}
