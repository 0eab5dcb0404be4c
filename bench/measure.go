package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// sample is one measurement of one tap.
type sample struct {
	rate        float64 // frames per second past the tap
	tapNs       float64 // CPU of the tap's process, per frame
	machineNs   float64 // CPU of the whole machine, per frame
	sent, lost  uint64
	toldDropped uint64 // what the tap itself says it has lost
	rss         uint64
}

// contender is a row of the table.
type contender struct {
	name string
	tap  func() tap
}

// contenders in the order of each round; the first is the base.
var contenders = []contender{
	{"no tap", func() tap { return nothing{} }},
	{"tcpdump -w /dev/null", func() tap { return &dump{} }},
	{"pcapper, silent collector", func() tap { return &agent{} }},
	{"pcapper, bulk collector", func() tap { return &agent{announce: "bulk\n"} }},
}

// result is all that was measured of a contender.
type result struct {
	name    string
	samples []sample
	// lossless is the highest rate without loss; valid iff found.
	lossless float64
	found    bool
}

// measure takes the rounds in turn, so that a slow minute of the machine hits
// all alike, and then looks for the rate at which those that lost do not.
func (b *bench) measure(ctx context.Context) ([]result, error) {
	results := make([]result, len(contenders))
	for round := range b.opt.rounds {
		for i, c := range contenders {
			s, err := b.trial(ctx, c.tap(), b.opt.duration, 0)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			results[i].name = c.name
			results[i].samples = append(results[i].samples, s)
			fmt.Fprintf(os.Stderr, "round %d: %-26s %9.0f/s, tap %5.0f ns, machine %5.0f ns, lost %d of %d\n",
				round+1, c.name, s.rate, s.tapNs, s.machineNs, s.lost, s.sent)
		}
	}
	for i := range results {
		if err := b.search(ctx, &results[i], contenders[i].tap); err != nil {
			return nil, fmt.Errorf("%s: %w", results[i].name, err)
		}
	}
	return results, nil
}

// trial measures a tap once.
func (b *bench) trial(ctx context.Context, t tap, d time.Duration, rate float64) (s sample, err error) {
	defer func() {
		if err != nil {
			t.kill()
		}
	}()
	if err := t.start(ctx, b); err != nil {
		return s, err
	}
	tapBefore, err1 := processCPU(t.pid())
	machineBefore, err2 := machineCPU()
	l, err3 := b.send(ctx, d, rate)
	// What is still in buffers is work, too, but waiting is not: the machine's
	// time is read at once, the tap's after a moment to finish.
	machineAfter, err4 := machineCPU()
	time.Sleep(warmUp)
	tapAfter, err5 := processCPU(t.pid())
	rss, err6 := peakRSS(t.pid())
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return s, err
	}
	got, dropped, err := t.received(l.frames)
	if err != nil {
		return s, err
	}
	if got > l.frames {
		return s, fmt.Errorf("received %d frames of %d", got, l.frames)
	}
	return sample{
		rate:        l.rate(),
		tapNs:       perFrame(tapAfter-tapBefore, l.frames),
		machineNs:   perFrame(machineAfter-machineBefore, l.frames),
		sent:        l.frames,
		lost:        l.frames - got,
		toldDropped: dropped,
		rss:         rss,
	}, ctx.Err()
}

func perFrame(d time.Duration, frames uint64) float64 { return float64(d) / float64(frames) }

const (
	searchSteps = 7 // to 1 % of full speed
	searchTime  = time.Second
)

// search halves the range in which the highest lossless rate lies. At full speed
// the sender is only as fast as the tap lets it be: lossless there is all.
func (b *bench) search(ctx context.Context, r *result, make func() tap) error {
	full := median(r.samples, func(s sample) float64 { return s.rate })
	if r.lost() == 0 {
		r.lossless, r.found = full, true
		return nil
	}
	low, high := 0.0, full
	for range searchSteps {
		rate := (low + high) / 2
		s, err := b.trial(ctx, make(), searchTime, rate)
		if err != nil {
			return err
		}
		if s.lost > 0 {
			high = rate
			continue
		}
		low = s.rate
		r.lossless, r.found = low, true
	}
	return nil
}

// lost frames in all samples.
func (r *result) lost() (n uint64) {
	for _, s := range r.samples {
		n += s.lost
	}
	return n
}

func (r *result) sent() (n uint64) {
	for _, s := range r.samples {
		n += s.sent
	}
	return n
}
