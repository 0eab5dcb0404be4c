package ledger

import (
	"cmp"
	"slices"
	"time"
)

// Health is how a stage does.
type Health struct {
	Stage string
	Name  string // of several at a stage; else ""
	// Oldest is when the oldest item came that is not passed on yet. Zero: there is none, or it is
	// not known.
	Oldest time.Time
	// Failing says in a few words why nothing is passed on since Since; "" if it works. Since may be
	// zero.
	Failing string
	Since   time.Time
}

// Sentence says what does not work, why, and since when; "" if all is well.
func (h *Health) Sentence() string {
	if h.Failing == "" {
		return ""
	}
	text := h.Stage
	if h.Name != "" {
		text += " " + h.Name
	}
	text += ": " + h.Failing
	if !h.Since.IsZero() {
		text += ", since " + h.Since.Format(time.TimeOnly)
	}
	return text
}

// Watch has health, which any goroutine may call, say how stages do.
func (b *Book) Watch(health func() []Health) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.health = append(b.health, health)
}

// Health returns how all stages do, those that fail first.
func (b *Book) Health() (list []Health) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	sources := slices.Clone(b.health)
	b.mu.Unlock()
	for _, source := range sources {
		list = append(list, source()...)
	}
	b.date(list)
	rank := func(h Health) int {
		if h.Failing != "" {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b Health) int { return cmp.Compare(rank(a), rank(b)) })
	return list
}

// date notes since when stages fail that do not say so: since somebody asked first.
func (b *Book) date(list []Health) {
	b.mu.Lock()
	defer b.mu.Unlock()
	since := map[string]time.Time{}
	for i := range list {
		h := &list[i]
		if h.Failing == "" || !h.Since.IsZero() {
			continue
		}
		key := h.Stage + " " + h.Name
		if h.Since = b.since[key]; h.Since.IsZero() {
			h.Since = time.Now()
		}
		since[key] = h.Since
	}
	b.since = since
}

// Failing says what does not work now, or "".
func (b *Book) Failing() string {
	for _, h := range b.Health() {
		return h.Sentence() // the first is the worst
	}
	return ""
}
