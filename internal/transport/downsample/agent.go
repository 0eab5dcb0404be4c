package downsample

import (
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Cause is the limit that keeps an agent at its level.
type Cause uint8

const (
	NoCause      Cause = iota // at level packets
	AgentPackets              // its records per second
	AgentFlows                // its flows per second
	FleetPackets              // all agents' records per second
	FleetFlows                // all agents' flows per second
	Configured                // a limit of 0
	causes
)

func (c Cause) String() string {
	if c < causes {
		return [...]string{"", "packets", "flows", "fleet-packets", "fleet-flows", "rule"}[c]
	}
	return "?"
}

// Status is an agent's level, and the reason for it.
type Status struct {
	Level   batch.Level
	Since   int64 // nanoseconds since 1970, by the clock of Tick; 0 means from the start
	Cause   Cause
	Limit   uint64 // per second, the limit exceeded; valid unless Cause is Configured or NoCause
	Changes uint64 // since the start
}

// Change describes a change of level.
type Change struct {
	From batch.Level
	Status
}

// Agent decides the level of one agent and aggregates its records. Except for Status,
// it must not be used by several goroutines at once.
type Agent struct {
	limits Limits
	emit   func(batch.Level, *wire.Record)
	change func(Change)
	status atomic.Pointer[Status]

	level   batch.Level
	now     int64         // of the last Tick
	due     int64         // when the next second's work is due
	settled time.Duration // offset of that work within a second

	// The current second, by the records' times.
	second        int64
	records, rows uint64 // in it

	newest  int64 // newest record since the last second's work
	any     bool  // there was a record
	idle    int   // number of times without one
	arrived rates // since Fleet last looked

	packets, flows pressure // reasons for level flows, and for level top

	left  uint64      // see LeftOut
	table *flow.Table // one second; nil at level packets
	top   *top        // ten seconds; nil unless at level top
}

// rates are numbers of records and flows.
type rates struct{ records, rows uint64 }

// pressure is when a limit was last exceeded.
type pressure struct {
	at    int64
	ever  bool
	cause Cause
	limit uint64
}

// NewAgent returns an agent that calls emit with each record, which emit must not keep,
// and change, unless it is nil, with each change of level.
func NewAgent(limits Limits, emit func(batch.Level, *wire.Record), change func(Change)) *Agent {
	limits.Top = max(limits.Top, 1)
	a := &Agent{limits: limits, emit: emit, change: change, settled: settledFrom}
	a.status.Store(&Status{})
	switch {
	case limits.Flows == 0:
		a.flows = pressure{cause: Configured, ever: true}
		a.packets = a.flows
		a.enter(batch.Top)
	case limits.Packets == 0:
		a.packets = pressure{cause: Configured, ever: true}
		a.enter(batch.Flows)
	}
	a.status.Store(&Status{Level: a.level, Cause: a.cause(a.level).cause})
	return a
}

// Status returns the agent's level. It may be called concurrently.
func (a *Agent) Status() Status { return *a.status.Load() }

// Held returns the number of packets in flows that have not been emitted yet. It must be
// called by the goroutine that calls Add.
func (a *Agent) Held() (packets uint64) {
	if a.table != nil {
		packets += a.table.Packets()
	}
	if a.top != nil {
		packets += a.top.heavy.Packets() + a.top.rest.Packets()
	}
	return packets
}

// LeftOut returns the number of packets that reduced detail says nothing of: drops, and
// second observations of packets. It must be called by the goroutine that calls Add.
func (a *Agent) LeftOut() uint64 { return a.left }

// Add adds a packet, or a record that stands for several; not a host statistic.
func (a *Agent) Add(r *wire.Record) {
	if r.Flags&wire.Member != 0 { // there are few, and every level includes them
		a.emit(a.level, r)
		return
	}
	if r.Time > a.newest || !a.any {
		a.newest, a.any = r.Time, true
	}
	if s := r.Time / 1e9; s > a.second {
		a.second, a.records, a.rows = s, 0, 0
	}
	a.records++
	a.arrived.records++
	if a.records > a.limits.Packets {
		a.press(batch.Flows, AgentPackets, a.limits.Packets)
	}
	if a.level == batch.Packets {
		a.emit(batch.Packets, r)
		return
	}
	if r.Flags&wire.Uncounted != 0 {
		a.left += r.Count()
		return // another record counts it; without a digest it has no further use
	}
	if a.table.Add(r) {
		a.row()
	}
}

// row counts a new flow.
func (a *Agent) row() {
	a.rows++
	a.arrived.rows++
	if a.rows > a.limits.Flows {
		a.press(batch.Top, AgentFlows, a.limits.Flows)
	}
}

// press records that a limit is exceeded, so that the level must be at least to.
func (a *Agent) press(to batch.Level, cause Cause, limit uint64) {
	p := &a.packets
	if to == batch.Top {
		p = &a.flows
	}
	if p.cause == Configured {
		return
	}
	*p = pressure{at: a.now, ever: true, cause: cause, limit: limit}
	if a.level < to {
		a.set(to)
	}
}

// active reports whether the limit is exceeded, or was until recently.
func (a *Agent) active(p *pressure) bool {
	return p.cause == Configured || p.ever && a.now-p.at < int64(a.limits.Calm)
}

// cause returns what keeps the agent at a level.
func (a *Agent) cause(l batch.Level) pressure {
	switch l {
	case batch.Flows:
		return a.packets
	case batch.Top:
		return a.flows
	}
	return pressure{}
}

// Tick sets the time, in nanoseconds since 1970. It must be called about ten times a
// second, and before the first Add.
func (a *Agent) Tick(now int64) {
	if now < a.now { // the clock was set back
		a.packets.at, a.flows.at = min(a.packets.at, now), min(a.flows.at, now)
	}
	a.now = now
	if now < a.due && a.due-now <= int64(2*time.Second) {
		return
	}
	a.due = nextDue(now, a.settled)
	a.finish()
	wanted := batch.Packets
	switch {
	case a.active(&a.flows):
		wanted = batch.Top
	case a.active(&a.packets):
		wanted = batch.Flows
	}
	if wanted < a.level {
		a.set(wanted)
	}
	if a.any && a.newest/1e9 < a.second { // a clock that was ahead has been set back
		a.second, a.records, a.rows = a.newest/1e9, 0, 0
	}
	a.any = false
}

// Flows of a second are emitted between settledFrom and settledTo into the next one,
// because packets may arrive late. The agents of a fleet are spread over that interval.
const settledFrom, settledTo = 300 * time.Millisecond, 700 * time.Millisecond

// nextDue returns the next time at this offset within a second.
func nextDue(now int64, settled time.Duration) int64 {
	now -= int64(settled)
	return now - now%int64(time.Second) + int64(time.Second+settled)
}

// finish emits what lies before the newest record's second, or everything if there were
// no records.
func (a *Agent) finish() {
	if a.any {
		a.idle = 0
	} else {
		a.idle++
	}
	switch {
	case a.table == nil:
		return
	case a.any:
		a.table.FlushBefore(a.newest)
	default:
		a.table.Flush()
	}
	switch {
	case a.top == nil:
	case a.any:
		a.top.flushBefore(a.newest)
	case a.idle > int(topSpan/time.Second):
		a.top.flush()
	}
}

// Flush emits everything that is left, at the end.
func (a *Agent) Flush() {
	if a.table != nil {
		a.table.Flush()
	}
	if a.top != nil {
		a.top.flush()
	}
}

// set changes the level, and reports it.
func (a *Agent) set(to batch.Level) {
	from := a.level
	a.enter(to)
	p := a.cause(to)
	s := &Status{Level: to, Since: a.now, Cause: p.cause, Limit: p.limit, Changes: a.status.Load().Changes + 1}
	a.status.Store(s)
	if a.change != nil {
		a.change(Change{From: from, Status: *s})
	}
}

// enter emits what the new level does not aggregate, and creates what it needs.
func (a *Agent) enter(to batch.Level) {
	switch {
	case to == batch.Packets:
		a.Flush()
		a.table, a.top = nil, nil
	case to == batch.Flows && a.top != nil:
		a.top.flush()
		a.top = nil
	}
	if to >= batch.Flows && a.table == nil {
		a.table = flow.New(tableSize(a.limits.Flows), a.give)
	}
	if to == batch.Top && a.top == nil {
		a.top = newTop(a.limits.Top, a.emit)
	}
	a.level = to
}

// give receives the flows of one second.
func (a *Agent) give(f *flow.Flow) {
	if a.top != nil {
		if f.Flags&wire.Dropped == 0 {
			a.top.addFlow(&f.Record)
		} else {
			a.left += uint64(f.Packets)
		}
		return
	}
	a.emit(batch.Flows, &f.Record)
}

const (
	leastTable = 256
	mostTable  = 1 << 16 // some 12 MB
)

// tableSize returns room for the flows of several seconds, because packets may arrive
// late.
func tableSize(flows uint64) int {
	if flows > mostTable {
		return mostTable
	}
	return max(leastTable, 3*int(flows))
}
