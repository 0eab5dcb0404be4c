package pcapfile

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// exactNS computes what clock.ns does with numbers of any size.
func exactNS(resolution uint8, offset int64, stamp uint64) int64 {
	base := int64(10)
	if resolution&0x80 != 0 {
		base = 2
	}
	units := new(big.Int).Exp(big.NewInt(base), big.NewInt(int64(resolution&0x7f)), nil)
	ns := new(big.Int).SetUint64(stamp)
	ns.Mul(ns, big.NewInt(nsPerSec)).Div(ns, units)
	ns.Add(ns, new(big.Int).Mul(big.NewInt(offset), big.NewInt(nsPerSec)))
	switch {
	case ns.IsInt64():
		return ns.Int64()
	case ns.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// near allows for times beyond int64 being cut a second early.
func near(got, want int64) bool {
	switch {
	case got == want:
		return true
	case want > math.MaxInt64-2*nsPerSec:
		return got >= math.MaxInt64-2*nsPerSec
	case want < math.MinInt64+2*nsPerSec:
		return got <= math.MinInt64+2*nsPerSec
	}
	return false
}

func TestClock(t *testing.T) {
	const now = 1_700_000_000
	tests := []struct {
		resolution uint8
		offset     int64
		stamp      uint64
		want       int64
	}{
		{6, 0, now*1e6 + 123456, now*1e9 + 123456000},
		{9, 0, now*1e9 + 123456789, now*1e9 + 123456789},
		{0, 0, now, now * 1e9},
		{3, 0, now*1e3 + 7, now*1e9 + 7e6},
		{6, -3600, now * 1e6, (now - 3600) * 1e9},
		{6, now, 5, now*1e9 + 5000},
		{6, -5, 1, -5e9 + 1000},
		{12, now, 1999, now*1e9 + 1},
		{0x80, 0, now, now * 1e9},
		{0x80 | 20, 0, now<<20 | 1<<19, now*1e9 + 5e8},
		{0x80 | 32, 0, now<<32 | 1<<31, now*1e9 + 5e8},
		{0x80 | 63, 1, 1 << 62, 15e8},
		{0x80 | 64, 0, 1 << 63, 5e8},
		{0x80 | 127, 0, math.MaxUint64, 0},
		{127, 0, math.MaxUint64, 0},
		{28, 0, math.MaxUint64, 1},
		{6, 0, math.MaxUint64, math.MaxInt64},
		{6, 1, math.MaxInt64/1000 - 1, math.MaxInt64},
		{9, math.MinInt64, 0, math.MinInt64},
		{9, math.MaxInt64, math.MaxUint64, math.MaxInt64},
	}
	for _, tt := range tests {
		c := newClock(tt.resolution, tt.offset)
		if got := c.ns(tt.stamp); got != tt.want {
			t.Errorf("resolution %#02x offset %d stamp %d: %d, want %d", tt.resolution, tt.offset, tt.stamp, got, tt.want)
		}
	}
}

// TestClockExact compares all resolutions with arithmetic of any precision.
func TestClockExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for resolution := range 256 {
		for range 300 {
			stamp := rnd.Uint64() >> rnd.UintN(64)
			offset := int64(rnd.Uint64()) >> rnd.UintN(64)
			c := newClock(uint8(resolution), offset)
			want := exactNS(uint8(resolution), offset, stamp)
			if got := c.ns(stamp); !near(got, want) {
				t.Fatalf("resolution %#02x offset %d stamp %d: %d, want %d", resolution, offset, stamp, got, want)
			}
		}
	}
}
