package downsample

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire/batch"
)

// Fleet watches the rates of all agents together. When they exceed its limits, the
// busiest agents lose detail until the rest is within the limits, so that the many
// small ones keep theirs. It belongs to the goroutine of the agents.
type Fleet struct {
	limits FleetLimits
	agents []*Agent
	from   int64 // beginning of the second being measured
	begun  bool
	order  []*Agent
}

// NewFleet watches agents.
func NewFleet(limits FleetLimits, agents []*Agent) *Fleet {
	for i, a := range agents {
		a.settled = settledFrom + (settledTo-settledFrom)*time.Duration(i)/time.Duration(len(agents))
	}
	return &Fleet{limits: limits, agents: agents, order: slices.Clone(agents)}
}

// Add adds an agent to watch.
func (f *Fleet) Add(a *Agent) {
	const golden = 0.6180339887 // spreads any number evenly
	_, part := math.Modf(golden * float64(len(f.agents)))
	a.settled = settledFrom + time.Duration(part*float64(settledTo-settledFrom))
	f.agents = append(f.agents, a)
	f.order = append(f.order, a)
}

// shortest is the minimum time over which rates are measured.
const shortest = 100 * time.Millisecond

// Tick sets the time, in nanoseconds since 1970, of the fleet and its agents. It must
// be called about ten times a second.
func (f *Fleet) Tick(now int64) {
	for _, a := range f.agents {
		a.Tick(now)
	}
	if !f.begun || now < f.from {
		f.begun = true
		f.restart(now)
		return
	}
	if elapsed := now - f.from; elapsed >= int64(shortest) {
		f.judge(max(elapsed, int64(time.Second)))
		if elapsed >= int64(time.Second) {
			f.restart(now)
		}
	}
}

func (f *Fleet) restart(now int64) {
	f.from = now
	for _, a := range f.agents {
		a.arrived = rates{}
	}
}

// judge compares the sums over elapsed nanoseconds, at least a second, with the limits.
func (f *Fleet) judge(elapsed int64) {
	perSecond := func(n uint64) uint64 { return uint64(float64(n) * 1e9 / float64(elapsed)) }
	f.shed(batch.Flows, FleetPackets, f.limits.Packets,
		func(a *Agent) uint64 { return perSecond(a.arrived.records) })
	f.shed(batch.Top, FleetFlows, f.limits.Flows,
		func(a *Agent) uint64 { return perSecond(a.arrived.rows) })
}

// shed presses the busiest agents to a level, except those kept there by their own
// limits, until the rates of the others are within the limit.
func (f *Fleet) shed(to batch.Level, cause Cause, limit uint64, rate func(*Agent) uint64) {
	sum := uint64(0)
	for _, a := range f.agents {
		if !a.ownReason(to) {
			sum += rate(a)
		}
	}
	if sum <= limit {
		return
	}
	slices.SortStableFunc(f.order, func(a, b *Agent) int { return cmp.Compare(rate(b), rate(a)) })
	left := sum
	for _, a := range f.order {
		if left <= limit {
			return
		}
		if a.ownReason(to) {
			continue
		}
		left -= rate(a)
		a.press(to, cause, limit)
	}
}

// ownReason reports whether the agent's own limits keep it at level l or a higher one.
func (a *Agent) ownReason(l batch.Level) bool {
	own := func(p *pressure) bool {
		return a.active(p) && p.cause != FleetPackets && p.cause != FleetFlows
	}
	return own(&a.flows) || l == batch.Flows && own(&a.packets)
}
