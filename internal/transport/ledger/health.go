package ledger

import (
	"cmp"
	"slices"
	"time"
)

// Health is the state of a stage.
type Health struct {
	Stage string
	Name  string // to distinguish several of a stage; otherwise ""
	// Oldest is when the oldest item not passed on yet arrived. Zero means that there
	// is none, or that the time is unknown.
	Oldest time.Time
	// Failing says in a few words why nothing has been passed on since Since; it is ""
	// if the stage works. Since may be zero.
	Failing string
	Since   time.Time
}

// Sentence says what fails, why, and since when, or is "".
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

// Watch registers a function that returns the state of stages. It may be called
// concurrently.
func (b *Book) Watch(health func() []Health) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.health = append(b.health, health)
}

// Health returns the state of all stages, failing ones first.
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

// date fills in Since for stages that do not provide it: the first time that a failure
// was seen here.
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

// Failing returns what is failing now, or "".
func (b *Book) Failing() string {
	for _, h := range b.Health() {
		return h.Sentence() // the first is the worst
	}
	return ""
}
