package downsample

import (
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Spread appends a record of level top to dst as records of single seconds, from its
// first packet's second to the end of its ten. Packets and bytes are divided evenly;
// the first records get the remainder. The sums stay exact, but the actual distribution
// within the ten seconds is unknown.
func Spread(dst []wire.Record, r *wire.Record) []wire.Record {
	const step = int64(time.Second)
	end := r.Time - r.Time%int64(topSpan) + int64(topSpan)
	packets := r.Count()
	n := min(uint64((end-r.Time+step-1)/step), packets)
	for i := range n {
		part := *r
		if i > 0 {
			part.Time = (r.Time/step + int64(i)) * step
		}
		part.Packets = uint32(share(packets, i, n))
		part.Length = uint32(share(uint64(r.Length), i, n))
		dst = append(dst, part)
	}
	return dst
}

// share returns part i of n of a sum.
func share(sum, i, n uint64) uint64 {
	part := sum / n
	if i < sum%n {
		part++
	}
	return part
}
