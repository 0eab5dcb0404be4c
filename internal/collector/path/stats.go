package path

import (
	"math"
	"math/bits"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Counts of a hop. Packets + Lost + Unobserved is how many were seen at its beginning.
type Counts struct {
	Packets    uint64 `json:"packets"` // seen at both ends
	Bytes      uint64 `json:"bytes"`   // of these
	Lost       uint64 `json:"lost"`    // seen at the beginning, and surely not at the end
	Unobserved uint64 `json:"unobserved,omitempty"`
	Duplicates uint64 `json:"duplicates,omitempty"` // more than one of a packet, beside Packets
	Reordered  uint64 `json:"reordered,omitempty"`  // came before a packet of their flow that had begun the hop earlier
}

// Delay of a hop over the last one to two minutes, in nanoseconds.
type Delay struct {
	Count  uint64 `json:"count"`
	Min    int64  `json:"min_ns"`
	Mean   int64  `json:"mean_ns"`
	P50    int64  `json:"p50_ns"`
	P95    int64  `json:"p95_ns"`
	P99    int64  `json:"p99_ns"`
	Jitter int64  `json:"jitter_ns"` // as RFC 3550, section 6.4.1, of one flow's packets
	// Clock says what the delay depends on: "same" (one node's clock), "common" (two clocks
	// that agree as far as can be told), "estimated" (corrected by an estimate), or "unknown":
	// no packets go both ways.
	Clock string `json:"clock" enum:"same,common,estimated,unknown"`
	// Offset is how far the end's clock is ahead, and Uncertainty how far off that may be.
	// Valid unless Clock is "same" or "unknown".
	Offset      int64 `json:"offset_ns,omitempty"`
	Uncertainty int64 `json:"uncertainty_ns,omitempty"`
}

// histogram of delays: 8 buckets for each power of two, from 1 µs to 275 s. What is less,
// also below 0, is in the first.
const (
	histSub   = 3 // bits
	histFirst = 10
	histLast  = 38
	histSize  = (histLast - histFirst) << histSub
)

type histogram struct {
	count    uint64
	sum      float64
	min, max int64
	buckets  [histSize]uint32
}

func bucketOf(d int64) int {
	if d < 1<<histFirst {
		return 0
	}
	e := bits.Len64(uint64(d)) - 1
	i := (e-histFirst)<<histSub + int(d>>(e-histSub))&(1<<histSub-1)
	return min(i, histSize-1)
}

// bucketStart is the least delay in a bucket.
func bucketStart(i int) float64 {
	e := histFirst + i>>histSub
	return math.Ldexp(1+float64(i&(1<<histSub-1))/(1<<histSub), e)
}

func (h *histogram) add(d int64) {
	if h.count == 0 {
		h.min, h.max = d, d
	}
	h.count++
	h.sum += float64(d)
	h.min, h.max = min(h.min, d), max(h.max, d)
	h.buckets[bucketOf(d)]++
}

// quantile interpolates within a bucket.
func (h *histogram) quantile(q float64) int64 {
	rank := q * float64(h.count)
	seen := 0.0
	for i, n := range h.buckets {
		if n > 0 && seen+float64(n) >= rank {
			from := bucketStart(i)
			if i == 0 {
				from = float64(min(h.min, 0))
			}
			v := from + (bucketStart(i+1)-from)*(rank-seen)/float64(n)
			return min(max(int64(v), h.min), h.max)
		}
		seen += float64(n)
	}
	return h.max
}

// recentSpan is how long one of the two histograms of a hop is filled.
const recentSpan = int64(time.Minute)

// stats of one hop.
type stats struct {
	Counts
	drops  map[wire.Reason]uint64
	span   int64 // number of the minute that recent[0] is of
	recent [2]*histogram
	jitter float64
}

// delay adds one at a time.
func (s *stats) delay(at, d int64) {
	if span := at / recentSpan; span != s.span || s.recent[0] == nil {
		s.recent[0], s.recent[1] = s.recent[1], s.recent[0]
		if span != s.span+1 {
			s.recent[1] = nil
		}
		if s.recent[0] == nil {
			s.recent[0] = new(histogram)
		} else {
			*s.recent[0] = histogram{}
		}
		s.span = span
	}
	s.recent[0].add(d)
}

func (s *stats) drop(r wire.Reason) {
	if s.drops == nil {
		s.drops = map[wire.Reason]uint64{}
	}
	s.drops[r]++
}

// report of the delays, corrected by how far the end's clock is ahead.
func (s *stats) report(offset int64) (d Delay) {
	var all histogram
	for _, h := range s.recent {
		if h == nil || h.count == 0 {
			continue
		}
		if all.count == 0 {
			all = *h
			continue
		}
		all.count += h.count
		all.sum += h.sum
		all.min, all.max = min(all.min, h.min), max(all.max, h.max)
		for i, n := range h.buckets {
			all.buckets[i] += n
		}
	}
	if all.count == 0 {
		return d
	}
	return Delay{
		Count: all.count, Min: all.min - offset, Mean: int64(all.sum/float64(all.count)) - offset,
		P50: all.quantile(.5) - offset, P95: all.quantile(.95) - offset, P99: all.quantile(.99) - offset,
		Jitter: int64(s.jitter),
	}
}
