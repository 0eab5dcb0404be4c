package hub

// attendant is a reader that is served by the publishing goroutine.
type attendant[T any] struct {
	reader *Reader[T]
	serve  func() bool
	over   func()
}

// Attend hands r over to the publishing goroutine: after each publication, it calls
// serve, which uses r. serve must read everything available and never block; it reports
// false if it cannot. After that, or when the hub is closed, over is called, which must
// not block either, and r belongs to its own goroutine again. A reader that keeps up
// thus costs no wake-up, and reads what is still in the processor's caches.
//
// Attend does nothing and reports false if there is already something to read, or if
// the hub is closed.
func (r *Reader[T]) Attend(serve func() bool, over func()) bool {
	h := r.hub
	h.attendMu.Lock()
	defer h.attendMu.Unlock()
	// First the counter: a publisher that comes after this sees it, and then waits for
	// the lock.
	h.attending.Add(1)
	if r.Pending() || h.closed.Load() {
		h.attending.Add(-1)
		return false
	}
	h.attendants = append(h.attendants, attendant[T]{r, serve, over})
	return true
}

// Dismiss takes r back. When it returns, serve is not running and will not be called
// again, and over will not be called if it was not before.
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

// drop removes an attendant. The caller must hold attendMu.
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
