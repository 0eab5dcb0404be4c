package collector

import (
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// account returns the collector's part of the ledger: what arrived from the agents, and
// what each reader of the hub has made of it.
func (c *collector) account(out output) []ledger.Entry {
	list := []ledger.Entry{readerEntry(ledger.Lines, out.status().hub)}
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
	e := ledger.Entry{Stage: ledger.Feed, Unit: "records", Passed: c.hub.Published() - c.again.Load()}
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
	e.Received += e.LostSum()
	return e
}

// readerEntry accounts for a reader of the hub.
func readerEntry(stage string, s hub.Status) ledger.Entry {
	e := ledger.Entry{Stage: stage, Unit: "records", Received: s.Published, Passed: s.Delivered + s.Skipped, Held: s.Pending}
	e.Lose("too slow", s.Lost)
	return e
}

func (v *View) account() ledger.Entry {
	e := readerEntry(ledger.Page, v.reader.Status())
	unplaced := v.store.Snapshot().Unplaced
	e.Passed = v.counted.Load() - unplaced
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
	e := readerEntry(ledger.Batches, b.reader.Status())
	e.Passed = b.taken.Load()
	d := ledger.Entry{Stage: ledger.Detail, Unit: "packets", Passed: b.out.Load()}
	d.Lose("before 1970", b.untimely.Load())
	d.Received = b.in.Load()
	d.Held = d.Received - min(d.Received, d.Passed+d.LostSum())
	return []ledger.Entry{e, d}
}

// health returns the health of the collector's own stages.
func (c *collector) health() (list []ledger.Health) {
	if c.view == nil || c.view.archive == nil {
		return nil
	}
	h := ledger.Health{Stage: ledger.Aggregates}
	if a := c.view.store.Snapshot().Archive; a != nil {
		h.Failing = a.Err
	}
	return []ledger.Health{h}
}
