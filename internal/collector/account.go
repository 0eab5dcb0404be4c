package collector

import (
	"fmt"
	"time"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// account returns the collector's part of the ledger: what arrived from the agents, and
// what each reader of the hub has made of it.
func (c *collector) account(out output) []ledger.Entry {
	shown := out.status()
	list := []ledger.Entry{readerEntry(ledger.Lines, shown.hub, shown.taken)}
	if v := c.view; v != nil {
		list = append(list, v.account())
		if v.archive != nil {
			list = append(list, v.accountArchive())
		}
	}
	if c.paths != nil {
		list = append(list, c.paths.account())
	}
	if c.batcher != nil {
		list = append(list, c.batcher.account()...)
	}
	// The hub's contents are read last, so that no reader can have more, but shown
	// first.
	return append([]ledger.Entry{c.accountFeed()}, list...)
}

// accountFeed accounts for what the agents have sent, as far as that is known.
func (c *collector) accountFeed() ledger.Entry {
	e := ledger.Entry{Stage: ledger.Feed, Unit: "records", Passed: c.hub.Published()}
	var ignored, notSent, missing, malformed uint64
	for _, a := range c.all() {
		l := a.losses()
		ignored += l.Ignored
		notSent += l.NotSent
		missing += l.Missing
		malformed += l.Malformed
		e.Received += a.records.Load()
	}
	e.Lose("not captured by agents", ignored)
	e.Lose("not sent by agents", notSent)
	e.Lose("in transit", missing)
	e.Lose("malformed", malformed)
	e.Lose("withheld", c.withheld())
	e.Received += c.again.Load() + e.LostSum()
	return e
}

// readerEntry accounts for a reader of the hub; taken is its own count of the records that
// it has read.
func readerEntry(stage string, s hub.Status, taken uint64) ledger.Entry {
	e := ledger.Entry{Stage: stage, Unit: "records", Source: ledger.Feed, Received: s.Published, Passed: taken, Held: s.Pending}
	e.Lose("too slow", s.Lost)
	return e
}

func (v *View) account() ledger.Entry {
	unplaced := v.store.Snapshot().Unplaced
	e := readerEntry(ledger.Page, v.reader.Status(), v.counted.Load()-unplaced)
	e.Lose("of unknown time, after a stall", unplaced)
	return e
}

func (v *View) accountArchive() ledger.Entry {
	f := v.archive.Frames()
	e := ledger.Entry{Stage: ledger.Aggregates, Unit: "frames", Received: f.Handed, Passed: f.Written, Held: f.Queued}
	e.Lose("queue full", f.Shed)
	e.Lose("not written", f.Refused)
	return e
}

func (b *batcher) account() []ledger.Entry {
	n := b.counts()
	e := readerEntry(ledger.Batches, b.reader.Status(), n.taken)
	e.As = []ledger.Amount{{Unit: "packets", Count: n.in}}
	d := ledger.Entry{
		Stage: ledger.Detail, Unit: "packets", Source: ledger.Batches, Received: n.in, Passed: n.out, Held: n.held,
		As: []ledger.Amount{{Unit: "records", Count: n.records}},
	}
	d.Lose("before 1970", n.untimely)
	d.Lose("drops and second observations, of which less detail does not tell", n.leftOut)
	return []ledger.Entry{e, d}
}

// health returns the health of the collector's own stages.
func (c *collector) health() []ledger.Health {
	list := []ledger.Health{c.healthFeed()}
	if c.view == nil {
		return list
	}
	list = append(list, c.view.health(time.Now()))
	if c.view.archive != nil {
		h := ledger.Health{Stage: ledger.Aggregates}
		if a := c.view.store.Snapshot().Archive; a != nil {
			h.Failing = a.Err
		}
		list = append(list, h)
	}
	return list
}

// healthFeed fails if there are agents to dial, and not one is connected.
func (c *collector) healthFeed() ledger.Health {
	h := ledger.Health{Stage: ledger.Feed}
	why := ""
	for _, a := range c.present() {
		if a.client == nil { // it may have nothing to say
			return h
		}
		if a.elsewhere.Load() {
			continue
		}
		failed := a.failed.Load()
		if failed == nil { // it is connected, or being dialled for the first time
			return h
		}
		if why == "" {
			why = fmt.Sprintf("no agent is connected: %v: %s", a, stateText(failed))
		}
	}
	h.Failing = why
	return h
}

// lossAge is how long a loss makes a stage one that fails.
const lossAge = 5 * time.Second

// health fails if records do not get into the page's seconds, or not all of them.
func (v *View) health(now time.Time) ledger.Health {
	h := ledger.Health{Stage: ledger.Page}
	s := v.reader.Status()
	if emptied := v.emptied.Load(); s.Pending > 0 && emptied != 0 {
		h.Oldest = time.Unix(0, emptied)
	}
	switch {
	case !h.Oldest.IsZero() && now.Sub(h.Oldest) > stalled:
		h.Failing, h.Since = fmt.Sprintf("it is behind by %s", count(s.Pending, "record")), h.Oldest
	case now.Sub(time.Unix(v.losing.Load(), 0)) < lossAge:
		h.Failing = fmt.Sprintf("it is too slow: %s lost so far", count(s.Lost, "record"))
	}
	return h
}
