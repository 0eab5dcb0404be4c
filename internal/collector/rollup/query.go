package rollup

import (
	"math"
	"net/netip"
)

// maxPoints is the maximum number of points of a series if the query may choose.
const maxPoints = 600

// mostPoints is the maximum number of points in any case: a day of minutes, an hour of
// seconds.
const mostPoints = 3600

// Last returns the window of the newest complete seconds.
func (s *Snapshot) Last(seconds int64) Window {
	return Window{From: s.Complete + 1 - seconds, To: s.Complete + 1}
}

// Span returns the window of everything known.
func (s *Snapshot) Span() Window {
	if s.Oldest == 0 {
		return Window{}
	}
	return Window{From: s.Oldest, To: max(s.Complete+1, s.Oldest)}
}

// Owner returns the agent that has the address, or -1.
func (s *Snapshot) Owner(a netip.Addr) int { return s.timeline.owner(a.As16()) }

// Fit returns the window that a result for w will have.
func (s *Snapshot) Fit(w Window) Window {
	const far = 1 << 40 // seconds; nothing overflows
	w.From = min(max(w.From, -far), far)
	w.To = min(max(w.To, w.From), far)
	w.Step = min(w.Step, 2*far)
	if s.Oldest != 0 {
		// Beyond what is known there is nothing; an extra day on each side gives charts
		// their margins.
		w.From = min(max(w.From, s.Oldest-day), s.Complete+day)
		w.To = max(min(w.To, s.Complete+day), w.From)
	}
	length := w.To - w.From
	if w.Step <= 0 {
		w.Step = s.timeline.cheap((length + maxPoints - 1) / maxPoints)
	}
	w.Step = max(w.Step, (length+mostPoints-1)/mostPoints, 1)
	w.Step = roundUp(w.Step, s.timeline.finest(w.From))
	for i := s.timeline.kinds() - 1; i > 0; i-- {
		if w.Step > tierSpecs[i].span {
			w.Step = roundUp(w.Step, tierSpecs[i].span)
			break
		}
	}
	w.From = floorTo(w.From, w.Step)
	w.To = floorTo(w.To+w.Step-1, w.Step)
	return w
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// kinds returns the number of tiers.
func (h *timeline) kinds() int {
	if h.disk == nil {
		return memoryTiers
	}
	return len(tierSpecs)
}

// cheap returns a step of at least this many seconds, or a longer one if that greatly
// reduces the number of frames to read.
func (h *timeline) cheap(step int64) int64 {
	for i := h.kinds() - 1; i > 0; i-- {
		if span := tierSpecs[i].span; step > span/2 && i != 2 {
			return roundUp(step, span)
		}
	}
	return step
}

// finest returns the span of the finest frames that reach back to from, or as far back
// as any do.
func (h *timeline) finest(from int64) int64 {
	for i := range tierSpecs {
		first, ok := h.first(i)
		if ok && (first <= from || !h.knowsBefore(i+1, first)) {
			return tierSpecs[i].span
		}
	}
	return 1
}

// knowsBefore reports whether one of the tiers from i on has a frame that ends by t.
func (h *timeline) knowsBefore(i int, t int64) bool {
	for ; i < len(tierSpecs); i++ {
		if first, ok := h.first(i); ok && first+tierSpecs[i].span <= t {
			return true
		}
	}
	return false
}

func (h *timeline) oldest() int64 {
	oldest := int64(math.MaxInt64)
	for i := range tierSpecs {
		if first, ok := h.first(i); ok {
			oldest = min(oldest, first)
		}
	}
	if len(h.open) > 0 {
		oldest = min(oldest, h.open[0].start)
	}
	if oldest == math.MaxInt64 {
		return 0
	}
	return oldest
}

// point returns the index of the step of w that contains the frame.
func (w Window) point(f *frame) int { return int((f.start - w.From) / w.Step) }
