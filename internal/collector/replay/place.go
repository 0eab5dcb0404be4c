package replay

import (
	"fmt"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Place is a time to start from. The zero Place is the beginning.
type Place struct {
	kind placeKind
	t    int64 // nanoseconds: since the epoch, since the first record, or since midnight
}

type placeKind uint8

const (
	sinceFirst placeKind = iota
	sinceEpoch
	sinceMidnight
)

// ParsePlace parses a time in seconds since the epoch as in logs (1560390672.895279), a
// date and time in the local time zone (2019-06-13 03:51:12) or an explicit one
// (2019-06-13T01:51:12Z), a time of day (03:51, 03:51:12), which is on the first
// record's day or the next one, or a duration since the first record (+90s, +1h30m).
func ParsePlace(text string) (Place, error) {
	if rest, ok := strings.CutPrefix(text, "+"); ok {
		if d, err := option.ParseDuration(rest); err == nil && d >= 0 {
			return Place{sinceFirst, int64(d)}, nil
		}
	}
	if t, err := option.ParseTime(text); err == nil {
		return Place{sinceEpoch, t.UnixNano()}, nil
	}
	if d, err := option.ParseClock(text); err == nil {
		return Place{sinceMidnight, int64(d)}, nil
	}
	return Place{}, fmt.Errorf("%q is not a time: want one like 2019-06-13 03:51:12, 03:51:12, 1560390672.895279 or +90s", text)
}

// at returns the place's time in logs that begin at first.
func (p Place) at(first int64) int64 {
	switch p.kind {
	case sinceEpoch:
		return p.t
	case sinceFirst:
		return first + p.t
	}
	begin := time.Unix(0, first)
	y, m, d := begin.Date()
	t := time.Date(y, m, d, 0, 0, 0, int(p.t), time.Local)
	if t.Before(begin) {
		t = time.Date(y, m, d+1, 0, 0, 0, int(p.t), time.Local)
	}
	return t.UnixNano()
}

// Time formats a record's time for display.
func Time(t int64) string { return time.Unix(0, t).Format("2006-01-02 15:04:05.000") }
