package collector

import (
	"net/netip"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
)

// pathReader passes the contents of the hub to a path engine, and tells it when agents
// are away or have lost records. It runs in a goroutine of its own.
type pathReader struct {
	c      *collector
	engine *path.Engine
	reader *hub.Reader[Item]
	agents []pathAgent // by host index
	lost   uint64      // items lost because it was too slow
	looked int64
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
		p.watch(now.UnixNano())
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
			if !items[i].Again {
				p.engine.AddOne(now, p.agent(items[i].Host).number, &items[i].Record)
			}
		}
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
