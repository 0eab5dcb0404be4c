package replay

import (
	"math"
	"time"
)

// clock is the time in the records' timeline as they are played.
type clock struct {
	wall   time.Time // when it was set
	play   int64     // the played time at that moment, nanoseconds since the epoch
	speed  float64
	paused bool
}

func (c *clock) set(wall time.Time, play int64) { c.wall, c.play = wall, play }

// at returns the played time at wall.
func (c *clock) at(wall time.Time) int64 {
	if c.paused {
		return c.play
	}
	passed := float64(wall.Sub(c.wall)) * c.speed
	if passed >= math.MaxInt64/2 || c.play > math.MaxInt64-int64(passed) {
		return math.MaxInt64
	}
	return c.play + int64(passed)
}

// wallAt returns when the time play is reached, in nanoseconds since the epoch. The
// speed must not be Max.
func (c *clock) wallAt(play int64) int64 {
	passed := (float64(play) - float64(c.play)) / c.speed
	return c.wall.UnixNano() + int64(max(-float64(math.MaxInt64/4), min(passed, float64(math.MaxInt64/4))))
}

// until returns how long it takes from wall to reach play.
func (c *clock) until(wall time.Time, play int64) time.Duration {
	d := (float64(play) - float64(c.at(wall))) / c.speed
	return time.Duration(min(d, float64(time.Hour)))
}

// change preserves the played time while f changes something else.
func (c *clock) change(f func()) {
	now := time.Now()
	c.set(now, c.at(now))
	f()
}
