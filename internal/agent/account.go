package agent

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// ledger returns the accounts of the agent's packets, from the kernel to each reader.
func (a *agent) ledger() ledger.Ledger {
	book := new(ledger.Book)
	book.Add(a.account)
	return book.Read()
}

func (a *agent) account() []ledger.Entry {
	list := []ledger.Entry{a.accountCapture()}
	list = append(list, a.accountCollectors())
	for _, x := range a.exports {
		list = append(list, x.account())
	}
	if a.log != nil {
		list = append(list, a.accountLog())
	}
	return list
}

// accountCapture accounts for packets from the kernel to the hub: those that the kernel
// dropped, and those that the decoder found in its frames.
func (a *agent) accountCapture() ledger.Entry {
	stats := uint64(0)
	if a.stats != nil {
		stats = a.stats.sent.Load()
	}
	published := a.hub.Published()
	e := ledger.Entry{
		Stage: ledger.Capture, Unit: "packets", Passed: published - stats - a.drops.Load().counts().sum - a.groups.count(),
		As: []ledger.Amount{{Unit: "records", Count: published}},
	}
	packets, leftOut, _ := a.capture.counters.get()
	e.Lose("dropped by the kernel", a.capture.stats().Dropped)
	e.Received = packets.Records - leftOut + e.LostSum()
	return e
}

// accountCollectors is from the hub to all sockets: of each collector, what was published while it was attached.
func (a *agent) accountCollectors() ledger.Entry {
	var sum hub.Status
	e := ledger.Entry{Stage: ledger.Collectors, Unit: "records"}
	a.feed.Snapshot(func(c collector) {
		e.Passed += c.Sent
		addStatus(&sum, c.Reader.Status())
	}, func() {
		a.past.mu.Lock()
		defer a.past.mu.Unlock()
		e.Passed += a.past.sent
		addStatus(&sum, a.past.total)
	})
	e.Received, e.Held = sum.Published, sum.Pending
	e.Lose("too slow, or gone", sum.Lost)
	return e
}

// account accounts for records from the hub to the receiver. Those that the format cannot
// express count as passed on.
func (x *exporting) account() ledger.Entry {
	c, s := x.exporter.Counts(), x.reader.Status()
	e := ledger.Entry{
		Stage: ledger.Export, Name: x.target.Receiver(), Unit: "records", Source: ledger.Capture,
		Received: s.Published, Passed: c.Packets + s.Skipped, Held: s.Pending + c.Waiting,
	}
	if x.target.Kind == export.NATS {
		e.Passed += c.Failed
	}
	e.Lose("too slow, or gone", s.Lost)
	e.Lose("not sent", c.Lost)
	if x.queue != nil {
		q := x.queue.Status()
		e.Earlier = x.before.Waiting.Weight
		e.Received += e.Earlier
		e.Held += q.Waiting.Weight
		e.Lose("spool full or not writable", q.Dropped.Weight-x.before.Dropped.Weight)
	}
	return e
}

// accountLog accounts for records from the hub to the log file. Those that the log is
// not meant to have count as passed on.
func (a *agent) accountLog() ledger.Entry {
	s := a.log.reader.Status()
	written, lost := a.log.file.Lines()
	e := ledger.Entry{
		Stage: ledger.Log, Unit: "records", Source: ledger.Capture, Received: s.Published, Passed: written + a.log.skipped.Load(),
		Held: s.Pending + uint64(a.log.waiting.Load()) + a.log.file.Waiting(),
	}
	e.Lose("too slow", s.Lost)
	e.Lose("not written", lost)
	return e
}

// health returns the health of each of the agent's stages.
func (a *agent) health() []ledger.Health {
	list := []ledger.Health{a.healthCapture(time.Now())}
	if a.log != nil {
		why, since := a.log.file.Failing()
		list = append(list, ledger.Health{Stage: ledger.Log, Name: a.cfg.Log, Failing: why, Since: since})
	}
	for _, x := range a.exports {
		h := ledger.Health{Stage: ledger.Export, Name: x.target.Receiver()}
		if x.queue != nil {
			s := x.queue.Status()
			h.Oldest = s.Since
			list = append(list, ledger.Health{Stage: ledger.Spool, Name: h.Name, Failing: s.Failing})
		}
		if f, ok := x.exporter.(interface{ Failing() string }); ok {
			h.Failing = f.Failing()
		}
		list = append(list, h)
	}
	return list
}

// lossAge is for how long after a loss capturing counts as failing.
const lossAge = 10 * time.Second

// losing remembers when packets were last found to be lost.
type losing struct {
	mu      sync.Mutex
	dropped uint64
	at      time.Time
}

// healthCapture reports capturing as failing for a while after the kernel was found to have
// dropped packets.
func (a *agent) healthCapture(now time.Time) ledger.Health {
	h := ledger.Health{Stage: ledger.Capture}
	dropped := a.capture.stats().Dropped
	l := &a.losing
	l.mu.Lock()
	defer l.mu.Unlock()
	if dropped > l.dropped {
		l.dropped, l.at = dropped, now
	}
	if dropped > 0 && now.Sub(l.at) < lossAge {
		h.Failing = fmt.Sprintf("the kernel's ring is full: %s packets dropped so far", number(dropped))
	}
	return h
}

// patients are the agents whose health /healthz reports.
type patients struct {
	mu     sync.Mutex
	agents []*agent
}

func (p *patients) add(a *agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agents = append(p.agents, a)
}

func (p *patients) remove(a *agent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.agents = slices.DeleteFunc(p.agents, func(b *agent) bool { return b == a })
}

// failing returns which stage of which agent is failing, why, and since when, or "".
func (p *patients) failing() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.agents {
		for _, h := range a.health() {
			if text := h.Sentence(); text != "" {
				return a.cfg.Interface + ": " + text
			}
		}
	}
	return ""
}
