package downsample

import (
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Cause is which limit holds an agent at its level.
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

// Status is an agent's level and how it came to it.
type Status struct {
	Level   batch.Level
	Since   int64 // nanoseconds since 1970, by the clock of Tick; 0: from the start
	Cause   Cause
	Limit   uint64 // per second, what was passed; valid unless Cause is Configured or none
	Changes uint64 // since the start
}

// Change is told whenever a level changes.
type Change struct {
	From batch.Level
	Status
}

// Agent decides for one agent and sums up its records. It is for one goroutine,
// but for Status.
type Agent struct {
	limits Limits
	emit   func(batch.Level, *wire.Record)
	change func(Change)
	status atomic.Pointer[Status]

	level   batch.Level
	now     int64         // of the last Tick
	due     int64         // when the next second's work is to be done
	settled time.Duration // so far into a second

	// A second of the records' time.
	second        int64
	records, rows uint64 // in it

	newest  int64 // record since the last second's work
	any     bool  // there was one
	idle    int   // seconds' work without one
	arrived rates // since Fleet has looked

	packets, flows pressure // what speaks for level flows, for level top

	table *flow.Table // one second; nil at level packets
	top   *top        // ten seconds; nil unless at level top
}

// rates are sums of records and flows.
type rates struct{ records, rows uint64 }

// pressure is when a limit was passed the last time.
type pressure struct {
	at    int64
	ever  bool
	cause Cause
	limit uint64
}

// NewAgent returns an agent whose records go to emit, which must not keep them,
// and changes to change, which may be nil.
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

// Status may be called by any goroutine.
func (a *Agent) Status() Status { return *a.status.Load() }

// Add takes a packet, or several that a record stands for; no host statistic.
func (a *Agent) Add(r *wire.Record) {
	if r.Flags&wire.Member != 0 { // there are few, and every level tells of them
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
		return // another record has it; without a digest it tells nothing more
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

// press says that a limit is passed, so that the level must be at least to.
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

// active reports whether the limit was passed, and things are not calm since.
func (a *Agent) active(p *pressure) bool {
	return p.cause == Configured || p.ever && a.now-p.at < int64(a.limits.Calm)
}

// cause is what holds the agent at a level.
func (a *Agent) cause(l batch.Level) pressure {
	switch l {
	case batch.Flows:
		return a.packets
	case batch.Top:
		return a.flows
	}
	return pressure{}
}

// Tick tells the time, in nanoseconds since 1970, some ten times a second, and
// before the first Add.
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
	if a.any && a.newest/1e9 < a.second { // a clock that went ahead has come back
		a.second, a.records, a.rows = a.newest/1e9, 0, 0
	}
	a.any = false
}

// Flows of a second are given out so far into the next one: packets may come
// late. A fleet's agents take turns.
const settledFrom, settledTo = 300 * time.Millisecond, 700 * time.Millisecond

// nextDue is the next time that lies so far behind the beginning of a second.
func nextDue(now int64, settled time.Duration) int64 {
	now -= int64(settled)
	return now - now%int64(time.Second) + int64(time.Second+settled)
}

// finish gives out what lies before the newest record's second; all, if there
// were no records.
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

// Flush gives out all that there is, at the end.
func (a *Agent) Flush() {
	if a.table != nil {
		a.table.Flush()
	}
	if a.top != nil {
		a.top.flush()
	}
}

// set changes the level, and tells.
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

// enter gives out what the new level does not sum up, and makes what it needs.
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

// give is given the flows of one second.
func (a *Agent) give(f *flow.Flow) {
	if a.top != nil {
		if f.Flags&wire.Dropped == 0 {
			a.top.add(&f.Record)
		}
		return
	}
	a.emit(batch.Flows, &f.Record)
}

const (
	leastTable = 256
	mostTable  = 1 << 16 // some 12 MB
)

// tableSize is room for the flows of some seconds: packets may come late.
func tableSize(flows uint64) int {
	if flows > mostTable {
		return mostTable
	}
	return max(leastTable, 3*int(flows))
}
