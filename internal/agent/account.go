package agent

import (
	"slices"
	"sync"

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
	sum, _, _, _ := a.readers()
	list = append(list, readerEntry(ledger.Collectors, "", sum))
	for _, x := range a.exports {
		list = append(list, readerEntry(ledger.Export, x.target.Receiver(), x.status()))
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
	e := ledger.Entry{Stage: ledger.Capture, Unit: "packets", Passed: a.hub.Published() - stats - a.drops.Load().counts().sum}
	packets, leftOut, _ := a.capture.counters.get()
	e.Lose("dropped by the kernel", a.capture.stats().Dropped)
	e.Received = packets.Records - leftOut + e.LostSum()
	return e
}

func readerEntry(stage, name string, s hub.Status) ledger.Entry {
	e := ledger.Entry{Stage: stage, Name: name, Unit: "records", Received: s.Published, Passed: s.Delivered + s.Skipped, Held: s.Pending}
	e.Lose("too slow, or gone", s.Lost)
	return e
}

// accountLog accounts for records from the hub to the log file. Records that the log is
// not meant to have are not counted.
func (a *agent) accountLog() ledger.Entry {
	s := a.log.reader.Status()
	written, lost := a.log.file.Lines()
	e := ledger.Entry{Stage: ledger.Log, Unit: "records", Received: s.Published - min(a.log.skipped.Load(), s.Published), Passed: written}
	e.Lose("too slow", s.Lost)
	e.Lose("not written", lost)
	e.Held = e.Received - min(e.Received, e.Passed+e.LostSum())
	return e
}

// health returns the health of each of the agent's stages.
func (a *agent) health() (list []ledger.Health) {
	if a.log != nil {
		why, since := a.log.file.Failing()
		list = append(list, ledger.Health{Stage: ledger.Log, Name: a.cfg.Log, Failing: why, Since: since})
	}
	for _, x := range a.exports {
		h := ledger.Health{Stage: ledger.Export, Name: x.target.Receiver()}
		if x.queue != nil {
			if why := x.queue.Status().Failing; why != "" {
				h.Failing = "its spool: " + why
			}
		}
		if f, ok := x.exporter.(interface{ Failing() string }); ok && h.Failing == "" {
			h.Failing = f.Failing()
		}
		list = append(list, h)
	}
	return list
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
