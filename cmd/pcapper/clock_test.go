//go:build clock && !libpcap

package main

import (
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"golang.org/x/sys/unix"
)

// TestGuaranteeClock steps the clock of the whole machine by an hour either
// way, which is why only scripts/soak runs it, in a virtual machine: packets go
// on being reported at once, with the new time.
func TestGuaranteeClock(t *testing.T) {
	for _, engine := range []string{"auto", "ring"} {
		t.Run(engine, func(t *testing.T) {
			a, b := nettest.Pair(t)
			p := startWatched(t, a, "-engine", engine, "-f", "/dev/null")
			c := p.dial(a, "bulk\n")
			for _, step := range []time.Duration{0, time.Hour, -time.Hour, -time.Hour, time.Hour} {
				now := unix.NsecToTimeval(time.Now().Add(step).UnixNano())
				if err := unix.Settimeofday(&now); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second) // a record or two may have the old time
				begin, end := send(t, a, 100, 1000, oneFrame(a, b))
				recs, err := readRecords(c, 100)
				if err != nil {
					t.Fatalf("after a step of %v: %v", step, err)
				}
				for i, r := range recs {
					at := time.Unix(0, r.Time)
					if at.Before(begin.Round(0).Add(-time.Second)) || at.After(end.Round(0).Add(time.Second)) {
						t.Fatalf("after a step of %v: record %d is of %v, not between %v and %v", step, i, at, begin, end)
					}
				}
			}
			p.stop()
		})
	}
}
