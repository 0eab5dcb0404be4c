package pcapfile

import (
	"math"
	"math/bits"
)

const nsPerSec = 1_000_000_000

// clock converts the timestamps of a pcapng interface to nanoseconds since the UNIX
// epoch. Times that int64 cannot represent (before 1677, after 2262) become the nearest
// value: a wrong clock does not damage a file.
type clock struct {
	// Stamps below limit are stamp*unit + shift: the fast path, for units that are a
	// multiple of a nanosecond. limit is 0 for other clocks.
	limit, unit uint64
	shift       int64

	binary   bool  // units are 2^-exponent seconds, otherwise 10^-exponent
	exponent uint8 // 0 to 127
	offset   int64 // seconds to add
}

// newClock takes the values of the options if_tsresol and if_tsoffset.
func newClock(resolution uint8, offset int64) clock {
	c := clock{binary: resolution&0x80 != 0, exponent: resolution & 0x7f, offset: offset}
	if c.binary || c.exponent > 9 || offset > math.MaxInt64/nsPerSec || offset < math.MinInt64/nsPerSec {
		return c
	}
	c.unit = pow10(9 - c.exponent)
	c.shift = offset * nsPerSec
	c.limit = uint64(math.MaxInt64-max(c.shift, 0)) / c.unit
	return c
}

// ns converts a stamp to nanoseconds since the epoch.
func (c *clock) ns(stamp uint64) int64 {
	if stamp < c.limit {
		return int64(stamp*c.unit) + c.shift
	}
	return c.anyNS(stamp)
}

func (c *clock) anyNS(stamp uint64) int64 {
	sec, ns := c.split(stamp)
	s := int64(min(sec, math.MaxInt64))
	switch {
	case c.offset > 0 && s > math.MaxInt64-c.offset:
		return math.MaxInt64
	case s+c.offset >= math.MaxInt64/nsPerSec:
		return math.MaxInt64
	case s+c.offset <= math.MinInt64/nsPerSec:
		return math.MinInt64
	}
	return (s+c.offset)*nsPerSec + ns
}

// split returns a stamp's whole seconds and the rest in nanoseconds, truncated but
// exact for every unit.
func (c *clock) split(stamp uint64) (sec uint64, ns int64) {
	e := c.exponent
	switch {
	case c.binary && e >= 64:
		hi, _ := bits.Mul64(stamp, nsPerSec)
		return 0, int64(hi >> (e - 64))
	case c.binary:
		hi, lo := bits.Mul64(stamp&(1<<e-1), nsPerSec)
		return stamp >> e, int64(hi<<(64-e) | lo>>e)
	case e <= 9:
		return stamp / pow10(e), int64(stamp % pow10(e) * pow10(9-e))
	case e <= 28:
		all := stamp / pow10(e-9)
		return all / nsPerSec, int64(all % nsPerSec)
	}
	return 0, 0 // 2^64 units are less than a nanosecond
}

// pow10 returns 10^n for n up to 19.
func pow10(n uint8) uint64 {
	p := uint64(1)
	for range n {
		p *= 10
	}
	return p
}
