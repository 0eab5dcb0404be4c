package option

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

var (
	// decimal are the prefixes of counts, rates, and sizes: powers of 1000.
	decimal = map[string]int64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
	// sizes are the units of bytes.
	sizes = map[string]int64{
		"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}
	longUnits = map[byte]time.Duration{'d': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
)

// scaled parses a whole number followed by a unit.
func scaled(text string, units map[string]int64) (int64, bool) {
	digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	factor, known := units[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n > math.MaxInt64/factor {
		return 0, false
	}
	return n * factor, true
}

// ParseSize parses a number of bytes. The units are k, M, G, and T, with or without a
// B, which are powers of 1000, and KiB, MiB, GiB, and TiB, which are powers of 1024.
func ParseSize(text string) (int64, error) {
	n, ok := scaled(text, sizes)
	if !ok {
		return 0, fmt.Errorf("want bytes such as 500MB, 2GB, or 1GiB")
	}
	return n, nil
}

// ParseRate parses a whole number per second, optionally followed by k, M, G, or T for
// powers of 1000.
func ParseRate(text string) (int64, error) {
	n, ok := scaled(text, decimal)
	if !ok {
		return 0, fmt.Errorf("want a whole number per second such as 500, 20k, or 1M")
	}
	return n, nil
}

// ParseDuration parses a time as [time.ParseDuration] does, but also accepts whole days
// (d) and weeks (w) at the beginning: 90s, 1h30m, 7d, 2w, 1d12h.
func ParseDuration(text string) (time.Duration, error) {
	bad := fmt.Errorf("want a time such as 30s, 12h, 7d, or 2w")
	sum, rest := time.Duration(0), text
	for {
		number := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if number == 0 || number == len(rest) || longUnits[rest[number]] == 0 {
			break
		}
		n, err := strconv.ParseInt(rest[:number], 10, 64)
		unit := longUnits[rest[number]]
		if err != nil || n > int64((math.MaxInt64-sum)/unit) {
			return 0, bad
		}
		sum += time.Duration(n) * unit
		if rest = rest[number+1:]; rest == "" {
			return sum, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || len(rest) < len(text) && (d < 0 || d > math.MaxInt64-sum) {
		return 0, bad
	}
	return sum + d, nil
}

// ParseTime parses seconds since 1970 (1560390672.895279), with microsecond precision,
// or a date with an optional time, in the local time zone (2019-06-13 03:51:12,
// 2019-06-13T03:51) or in an explicit one (2019-06-13T01:51:12Z).
func ParseTime(text string) (time.Time, error) {
	if s, err := strconv.ParseFloat(text, 64); err == nil && math.Abs(s) < math.MaxInt64/1e9 {
		whole := math.Floor(s)
		return time.Unix(int64(whole), int64(math.Round((s-whole)*1e6))*1e3), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, time.DateTime, "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", time.DateOnly,
	} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("want a time such as 2019-06-13 03:51:12 or 1560390672.895279")
}

// ParseClock parses a time of day, 03:51:12 or 03:51, and returns the time since
// midnight.
func ParseClock(text string) (time.Duration, error) {
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.Sub(t.Truncate(24 * time.Hour)), nil
		}
	}
	return 0, fmt.Errorf("want a time of day such as 03:51:12 or 03:51")
}

// ReadSecret reads a password or a token, which is the first line of a file.
func ReadSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimRight(line, "\r"), nil
}
