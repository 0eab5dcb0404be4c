package collector

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// pathReader passes what agents saw to a path engine, and tells it when agents are away or have
// lost records. Without a bus it reads the hub, in a goroutine of its own. With one, it takes the
// batches of all agents: those that saw one packet may have different collectors.
type pathReader struct {
	c      *collector
	engine *path.Engine
	reader *hub.Reader[Item]
	agents []pathAgent // by host index
	lost   uint64      // items lost because it was too slow
	looked int64
	bus    map[string]*busAgent // by name; nil without a bus
	taken  atomic.Uint64        // records
}

// busAgent is one whose batches are on a bus.
type busAgent struct {
	number              int // the engine's
	boot, next, dropped uint64
	heard               int64 // when the last batch came
}

type pathAgent struct {
	number int // the agent's number in the engine
	there  bool
	losses feed.Losses
}

func newPathReader(c *collector, e *path.Engine) *pathReader {
	return &pathReader{c: c, engine: e, reader: c.hub.NewReader()}
}

func (p *pathReader) run() error {
	defer p.reader.Close()
	look := time.NewTicker(countEvery)
	defer look.Stop()
	for now := range look.C {
		if p.bus == nil {
			p.watch(now.UnixNano())
		}
		p.take(now.UnixNano())
		p.engine.Tick(now.UnixNano())
		if ended(p.reader) {
			break
		}
	}
	p.engine.Flush()
	return nil
}

func (p *pathReader) take(now int64) {
	for items := p.reader.Items(); len(items) > 0; items = p.reader.Items() {
		for i := range items {
			if !items[i].Again && p.bus == nil {
				p.engine.AddOne(now, p.agent(items[i].Host).number, &items[i].Record)
			}
		}
		p.taken.Add(uint64(len(items)))
		p.reader.Advance(len(items))
	}
}

// agent returns the agent of a host, which may be new.
func (p *pathReader) agent(host uint32) *pathAgent {
	for uint32(len(p.agents)) <= host {
		h := p.c.all()[len(p.agents)].host
		number := p.engine.Agent(h.Label)
		if addr, err := netip.ParseAddr(h.Name); err == nil && !addr.IsLoopback() {
			p.engine.Own(number, addr)
		}
		p.agents = append(p.agents, pathAgent{number: number})
	}
	return &p.agents[host]
}

// watch compares the agents' connections and losses with those at the last call.
func (p *pathReader) watch(now int64) {
	since := p.looked
	if since == 0 {
		since = now
	}
	p.looked = now
	lost := p.reader.Status().Lost
	for i, a := range p.c.all() {
		o := p.agent(uint32(i))
		if there := !a.gone.Load() && a.state.Load().Phase == feed.Connected; there != o.there {
			o.there = there
			p.engine.Watch(o.number, now, there)
		}
		l := a.losses()
		if l.Missing > o.losses.Missing || l.NotSent > o.losses.NotSent || l.Ignored > o.losses.Ignored {
			// Exporters' own statistics may be some seconds old.
			p.engine.Missed(o.number, since-lossesAge, now)
		} else if lost > p.lost {
			p.engine.Missed(o.number, since, now)
		}
		o.losses = l
	}
	p.lost = lost
}

// lossesAge is the maximum age of an exporter's statistics, in nanoseconds.
const lossesAge = int64(5 * time.Second)

// account is this stage's part of the ledger. Between a bus and the engine nothing is queued.
func (p *pathReader) account() ledger.Entry {
	if p.bus == nil {
		return readerEntry(ledger.Paths, p.reader.Status(), p.taken.Load())
	}
	n := p.taken.Load()
	return ledger.Entry{Stage: ledger.Paths, Name: "of the bus", Unit: "records", Received: n, Passed: n}
}

// batch takes one of an agent's batches from a bus. Records that are missing, or that were summed up, are of packets that it
// may have seen all the same.
func (p *pathReader) batch(b *batch.Batch) {
	now := time.Now().UnixNano()
	a := p.bus[b.Agent]
	if a == nil {
		a = &busAgent{number: p.onBus(wire.Printable(b.Agent)), boot: b.Boot, next: b.First, dropped: b.Dropped, heard: now}
		p.bus[b.Agent] = a
	}
	if b.Boot != a.boot || b.First > a.next || b.Dropped > a.dropped || b.Level != batch.Packets {
		p.engine.Missed(a.number, a.heard, now)
	}
	a.boot, a.next, a.dropped, a.heard = b.Boot, b.Next(), b.Dropped, now
	p.engine.Add(now, a.number, b.Records...)
	p.taken.Add(uint64(len(b.Records)))
}

// onBus is the engine's number of an agent that is new on the bus.
func (p *pathReader) onBus(label string) int {
	number := p.engine.Agent(label)
	p.engine.Unsure(number)
	for _, a := range p.c.all() {
		if addr, err := netip.ParseAddr(a.host.Name); err == nil && a.host.Label == label && !addr.IsLoopback() {
			p.engine.Own(number, addr)
		}
	}
	return number
}
