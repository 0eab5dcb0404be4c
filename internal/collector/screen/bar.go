package screen

import (
	"math"
	"strings"
)

// eighths of a cell, from the left (U+258F to U+2588).
var eighths = [...]string{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"}

// bar returns exactly width cells, of which part (0 to 1) is filled. Any value above 0
// is visible.
func bar(part float64, width int) string {
	n := int(math.Round(min(part, 1) * float64(8*width)))
	if part > 0 {
		n = max(n, 1)
	}
	text := strings.Repeat("█", n/8) + eighths[n%8]
	return text + strings.Repeat(" ", width-(n+7)/8)
}

// stack returns an agent's bar, composed of its flows' colors in their order. Traffic
// counted by several flows is cut off at the agent's total.
func (p *Painter) stack(a *Agent, width int, full float64) string {
	total := min(1, a.Rate.Bits/full) * float64(width)
	end := int(math.Round(total))
	if end == 0 {
		return bar(a.Rate.Bits/full, width)
	}
	var b strings.Builder
	sum, done := 0.0, 0
	for i := range a.Flows {
		sum += a.Flows[i].Rate.Bits / full * float64(width)
		if to := min(int(math.Round(sum)), end); to > done {
			b.WriteString(p.paint(p.flowStyle(a.Flows[i].Color), strings.Repeat("█", to-done)))
			done = to
		}
	}
	return b.String() + strings.Repeat("█", end-done) + strings.Repeat(" ", width-end)
}

// scale chooses the value of a full bar: 1, 2, or 5 times a power of ten. It grows
// immediately and shrinks only after a while, so that bars can be compared from second
// to second.
type scale struct {
	full float64
	low  int // calls since the scale was last needed
}

const (
	scaleFloor = 1000 // bit/s
	scalePause = 15   // calls
)

func (s *scale) fit(peak float64) float64 {
	need := nice(max(peak, scaleFloor))
	s.low++
	if need >= s.full || s.low > scalePause {
		s.full = need
	}
	if need >= s.full {
		s.low = 0
	}
	return s.full
}

// nice returns the smallest of 1, 2, or 5 times a power of ten that is at least v.
func nice(v float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5} {
		if m*decade >= v {
			return m * decade
		}
	}
	return 10 * decade
}
