package rollup

import (
	"cmp"
	"math"
	"slices"
)

// maxPoints is how many points a series has if the query may choose.
const maxPoints = 600

// mostPoints is how many it has at most, whatever is asked for: a day of
// minutes, an hour of seconds.
const mostPoints = 3600

// Last is the window of the newest complete seconds.
func (s *Snapshot) Last(seconds int64) Window {
	return Window{From: s.Complete + 1 - seconds, To: s.Complete + 1}
}

// Span is the window of all that is known.
func (s *Snapshot) Span() Window {
	if s.Oldest == 0 {
		return Window{}
	}
	return Window{From: s.Oldest, To: max(s.Complete+1, s.Oldest)}
}

// Fit is the window that a result for w has.
func (s *Snapshot) Fit(w Window) Window {
	const far = 1 << 40 // seconds; nothing overflows
	w.From = min(max(w.From, -far), far)
	w.To = min(max(w.To, w.From), far)
	w.Step = min(w.Step, 2*far)
	if h := s.history; len(h.open)+len(h.tiers[0]) > 0 {
		// Beyond what is known there is nothing; a day more on each side lets
		// charts have their margins.
		const day = 24 * 3600
		w.From = min(max(w.From, s.Oldest-day), s.Complete+day)
		w.To = max(min(w.To, s.Complete+day), w.From)
	}
	length := w.To - w.From
	if w.Step <= 0 {
		w.Step = (length + maxPoints - 1) / maxPoints
		if w.Step > tierSpecs[1].span/2 {
			w.Step = roundUp(w.Step, tierSpecs[1].span) // ten times less to look at
		}
	}
	w.Step = max(w.Step, (length+mostPoints-1)/mostPoints, 1)
	w.Step = roundUp(w.Step, s.history.finest(w.From))
	for i := len(tierSpecs) - 1; i > 0; i-- {
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

// finest is the span of the finest frames that reach back to from, or as far as
// any do.
func (h *history) finest(from int64) int64 {
	for i, frames := range h.tiers {
		if len(frames) == 0 {
			continue
		}
		first := frames[0].start
		if first <= from || !h.knowsBefore(i+1, first) {
			return tierSpecs[i].span
		}
	}
	return 1
}

// knowsBefore: one of the tiers from i on has a frame that ends by t.
func (h *history) knowsBefore(i int, t int64) bool {
	for _, frames := range h.tiers[i:] {
		if len(frames) > 0 && frames[0].end() <= t {
			return true
		}
	}
	return false
}

func (h *history) oldest() int64 {
	oldest := int64(math.MaxInt64)
	for _, frames := range h.tiers {
		if len(frames) > 0 {
			oldest = min(oldest, frames[0].start)
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

// each gives the frames of a fitted window in order of time, each second once:
// the longest that fit into its steps, and shorter ones where there are none
// of those yet.
func (h *history) each(w Window, yield func(*frame)) {
	from := w.From
	for i := len(tierSpecs) - 1; i >= 0; i-- {
		if w.Step%tierSpecs[i].span != 0 || !h.begun[i] {
			continue
		}
		frames := h.tiers[i]
		at, _ := slices.BinarySearchFunc(frames, from, func(f *frame, t int64) int { return cmp.Compare(f.start, t) })
		for _, f := range frames[at:] {
			if f.start >= w.To {
				break
			}
			yield(f)
		}
		from = max(from, h.until[i])
	}
	for _, f := range h.open {
		if f.start >= w.From && f.start < w.To {
			yield(f)
		}
	}
}

// point is which step of w the frame belongs to.
func (w Window) point(f *frame) int { return int((f.start - w.From) / w.Step) }
