package hub

// attendant is a reader that the publisher itself serves.
type attendant[T any] struct {
	reader *Reader[T]
	serve  func() bool
	over   func()
}

// Attend hands r over to whoever publishes: after each publication serve is
// called, in the publisher's goroutine, and uses r. It must read all that there
// is, and never block; it reports false if it cannot. Then, or when the hub is
// closed, over is called, which must not block either, and r belongs to its
// goroutine again. So a reader that keeps up costs no wake-up, and reads what is
// still in the processor's caches.
//
// Attend reports false, and does nothing, if there is something to read already
// or the hub is closed.
func (r *Reader[T]) Attend(serve func() bool, over func()) bool {
	h := r.hub
	h.attendMu.Lock()
	defer h.attendMu.Unlock()
	// The number first: who publishes afterwards looks at it, and then waits for
	// the lock.
	h.attending.Add(1)
	if r.Pending() || h.closed.Load() {
		h.attending.Add(-1)
		return false
	}
	h.attendants = append(h.attendants, attendant[T]{r, serve, over})
	return true
}

// Dismiss takes r back. When it returns, r's serve does not run and will not,
// and over is not called if it was not before.
func (r *Reader[T]) Dismiss() {
	h := r.hub
	if h.attending.Load() == 0 {
		return
	}
	h.attendMu.Lock()
	defer h.attendMu.Unlock()
	for i := range h.attendants {
		if h.attendants[i].reader == r {
			h.drop(i)
			return
		}
	}
}

// Pending reports whether there is something to read.
func (r *Reader[T]) Pending() bool { return r.pos.Load() < r.hub.tail.Load() }

// attend serves all attendants.
func (h *Hub[T]) attend() {
	h.attendMu.Lock()
	defer h.attendMu.Unlock()
	for i := 0; i < len(h.attendants); {
		a := &h.attendants[i]
		if a.serve() {
			i++
			continue
		}
		over := a.over
		h.drop(i)
		over()
	}
}

// drop forgets an attendant. With attendMu held.
func (h *Hub[T]) drop(i int) {
	last := len(h.attendants) - 1
	copy(h.attendants[i:], h.attendants[i+1:])
	h.attendants[last] = attendant[T]{}
	h.attendants = h.attendants[:last]
	h.attending.Add(-1)
}

func (h *Hub[T]) dismissAll() {
	h.attendMu.Lock()
	defer h.attendMu.Unlock()
	for len(h.attendants) > 0 {
		over := h.attendants[0].over
		h.drop(0)
		over()
	}
}
