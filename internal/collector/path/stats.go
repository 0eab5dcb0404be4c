package path

import (
	"math"
	"math/bits"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Counts of a hop. Packets + Lost + Unobserved is the number seen at its beginning.
type Counts struct {
	Packets    uint64 `json:"packets"` // seen at both ends
	Bytes      uint64 `json:"bytes"`   // of these
	Lost       uint64 `json:"lost"`    // seen at the beginning, and certainly not at the end
	Unobserved uint64 `json:"unobserved,omitempty"`
	Duplicates uint64 `json:"duplicates,omitempty"` // repetitions of packets, in addition to Packets
	Reordered  uint64 `json:"reordered,omitempty"`  // arrived before a packet of their flow that had entered the hop earlier
}

// Delay of a hop over the last one to two minutes, in nanoseconds.
type Delay struct {
	Count  uint64 `json:"count"`
	Min    int64  `json:"min_ns"`
	Mean   int64  `json:"mean_ns"`
	P50    int64  `json:"p50_ns"`
	P95    int64  `json:"p95_ns"`
	P99    int64  `json:"p99_ns"`
	Jitter int64  `json:"jitter_ns"` // as defined in RFC 3550, section 6.4.1, over the packets of one flow
	// Clock is the reference of the delay: "same" (one node's clock), "common" (two
	// clocks that agree as far as can be determined), "estimated" (corrected by an
	// estimate), or "unknown" (there are no packets in both directions).
	Clock string `json:"clock" enum:"same,common,estimated,unknown"`
	// Offset is how far the end's clock is ahead, and Uncertainty the maximum error of
	// that. Valid unless Clock is "same" or "unknown".
	Offset      int64 `json:"offset_ns,omitempty"`
	Uncertainty int64 `json:"uncertainty_ns,omitempty"`
	// Histogram of a flow's delay from end to end; not of a hop's.
	Histogram []Bucket `json:"histogram,omitempty"`
}

// Bucket is how many packets took From to To nanoseconds. The first one's From, and the last one's
// To, are those of the extremes.
type Bucket struct {
	From  int64  `json:"from_ns"`
	To    int64  `json:"to_ns"`
	Count uint64 `json:"count"`
}

// histogram of delays: 8 buckets per power of two, from 1 µs to 275 s. Smaller and
// negative values are in the first.
const (
	histSub   = 3 // bits
	histFirst = 10
	histLast  = 38
	histSize  = (histLast - histFirst) << histSub
)

type histogram struct {
	base     int64 // is taken off before a bucket is chosen: how far the end's clock seems to be ahead
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

// bucketStart returns the lower bound of a bucket.
func bucketStart(i int) float64 {
	e := histFirst + i>>histSub
	return math.Ldexp(1+float64(i&(1<<histSub-1))/(1<<histSub), e)
}

func (h *histogram) addDelay(d int64) {
	if h.count == 0 {
		h.min, h.max = d, d
	}
	h.count++
	h.sum += float64(d)
	h.min, h.max = min(h.min, d), max(h.max, d)
	h.buckets[bucketOf(d-h.base)]++
}

// rebase takes something else off, of what there is as well as buckets allow.
func (h *histogram) rebase(base int64) {
	if base == h.base {
		return
	}
	old := h.buckets
	clear(h.buckets[:])
	for i, n := range old {
		if n == 0 {
			continue
		}
		middle := int64(bucketStart(i)+bucketStart(i+1)) / 2
		if i == 0 {
			middle = min(middle, h.min-h.base)
		}
		h.buckets[bucketOf(middle+h.base-base)] += n
	}
	h.base = base
}

// join adds what another has.
func (h *histogram) join(o *histogram) {
	if o.count == 0 {
		return
	}
	if h.count == 0 {
		*h = *o
		return
	}
	shifted := *o
	shifted.rebase(h.base)
	h.count += o.count
	h.sum += o.sum
	h.min, h.max = min(h.min, o.min), max(h.max, o.max)
	for i, n := range shifted.buckets {
		h.buckets[i] += n
	}
}

// quantile interpolates within a bucket.
func (h *histogram) quantile(q float64) int64 {
	rank := q * float64(h.count)
	seen := 0.0
	for i, n := range h.buckets {
		if n > 0 && seen+float64(n) >= rank {
			from := bucketStart(i)
			if i == 0 {
				from = float64(min(h.min-h.base, 0))
			}
			from = max(from, float64(h.min-h.base))
			v := from + (min(bucketStart(i+1), float64(h.max-h.base))-from)*(rank-seen)/float64(n)
			return min(max(int64(v)+h.base, h.min), h.max)
		}
		seen += float64(n)
	}
	return h.max
}

// list is all buckets from the first to the last that is not empty, less an offset.
func (h *histogram) list(offset int64) (list []Bucket) {
	empty := uint64(0)
	offset -= h.base
	for i, n := range h.buckets {
		switch {
		case n == 0 && len(list) == 0:
		case n == 0:
			empty++
		default:
			for ; empty > 0; empty-- {
				k := i - int(empty)
				list = append(list, Bucket{int64(bucketStart(k)) - offset, int64(bucketStart(k+1)) - offset, 0})
			}
			list = append(list, Bucket{int64(bucketStart(i)) - offset, int64(bucketStart(i+1)) - offset, uint64(n)})
		}
	}
	if n := len(list); n > 0 {
		offset += h.base
		list[0].From, list[n-1].To = h.min-offset, max(h.max, h.min+1)-offset
	}
	return list
}

// recentSpan is how long each of the two histograms of a hop is filled.
const recentSpan = int64(time.Minute)

// stats are the statistics of one hop.
type stats struct {
	Counts
	drops  map[wire.Reason]uint64
	span   int64 // number of the minute of recent[0]
	recent [2]*histogram
	jitter float64
}

// delay adds a delay at a time.
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
	s.recent[0].addDelay(d)
}

func (s *stats) drop(r wire.Reason) {
	if s.drops == nil {
		s.drops = map[wire.Reason]uint64{}
	}
	s.drops[r]++
}

// sum of the newest delays.
func (s *stats) sum() (all histogram) {
	for _, h := range s.recent {
		if h != nil {
			all.join(h)
		}
	}
	return all
}

// report of the delays, corrected by how far the end's clock is ahead.
func (s *stats) report(offset int64) (d Delay) {
	all := s.sum()
	d = all.report(offset)
	d.Jitter = int64(s.jitter)
	return d
}

func (h *histogram) report(offset int64) (d Delay) {
	if h.count == 0 {
		return d
	}
	return Delay{
		Count: h.count, Min: h.min - offset, Mean: int64(h.sum/float64(h.count)) - offset,
		P50: h.quantile(.5) - offset, P95: h.quantile(.95) - offset, P99: h.quantile(.99) - offset,
	}
}

// delayed adds a delay of a hop.
func (e *Engine) delayed(s *stats, l link, at, d int64) {
	s.delay(at, d)
	e.adjust(s.recent[0], l)
}

// keepDelay adds a delay to the interval's.
func (e *Engine) keepDelay(h *hop, d int64) {
	k := &e.keeping
	if !k.on {
		return
	}
	if h.fresh == nil {
		if n := len(k.spare); n > 0 {
			h.fresh, k.spare = k.spare[n-1], k.spare[:n-1]
		} else {
			h.fresh = new(histogram)
		}
	}
	h.fresh.addDelay(d)
	e.adjust(h.fresh, h.link)
}

// adjust has a histogram's buckets fine where the delays are, though the clocks at the hop's ends
// differ: now and then the estimate of that is looked at.
func (e *Engine) adjust(h *histogram, l link) {
	if h.count&(h.count-1) != 0 {
		return
	}
	c := e.clockOf(l)
	if base := c.correction(); max(base-h.base, h.base-base) > c.Uncertainty/4 {
		h.rebase(base)
	}
}
