package replay

import (
	"context"
	"time"
)

// do runs a command between two records. If too many are waiting, the command is
// dropped: somebody is holding a key down.
func (p *Player) do(command func(ctx context.Context) error) {
	select {
	case p.commands <- command:
	default:
	}
}

// set is do for a command that cannot fail.
func (p *Player) set(command func()) {
	p.do(func(context.Context) error { command(); return nil })
}

// Pause pauses or resumes playing.
func (p *Player) Pause() {
	p.set(func() { p.clock.change(func() { p.clock.paused = !p.clock.paused }) })
}

// Faster and Slower double and halve the speed, between 1/16 and 1024; beyond that is
// Max.
func (p *Player) Faster() {
	p.set(func() {
		switch s := p.clock.speed; {
		case s >= 1024:
			p.setSpeed(Max)
		case s != Max:
			p.setSpeed(2 * s)
		}
	})
}

// Slower is the opposite of Faster.
func (p *Player) Slower() {
	p.set(func() {
		switch s := p.clock.speed; {
		case s == Max:
			p.setSpeed(1024)
		case s > 1.0/16:
			p.setSpeed(s / 2)
		}
	})
}

func (p *Player) setSpeed(s float64) {
	if p.clock.speed == Max && len(p.queue) > 0 {
		p.jump(p.queue[0].rec.Time)
	}
	p.clock.change(func() { p.clock.speed = s })
}

// Step goes forward or back by a duration. Going forward, the records in between are
// played as fast as possible, so that nothing is missing from what has been counted;
// after going back, records are passed on again.
func (p *Player) Step(d time.Duration) {
	p.do(func(ctx context.Context) error {
		now := max(p.position(), p.fast) // further steps add up
		if d < 0 {
			return p.back(ctx, max(p.first, now+int64(d)))
		}
		p.forward(now + int64(d))
		return nil
	})
}

// Restart goes back to the first record.
func (p *Player) Restart() {
	p.do(func(ctx context.Context) error { return p.back(ctx, p.first) })
}

// Next skips to the next record.
func (p *Player) Next() {
	p.set(func() {
		if len(p.queue) > 0 {
			p.jump(p.queue[0].rec.Time)
		}
	})
}
