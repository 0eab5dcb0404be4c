package collector

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Follow provides records of agents that other collectors are connected to.
type Follow struct {
	// Agents are those known at the start. Agents that appear later are added.
	Agents []string
	// Run calls take with the batches of all agents, one at a time, until ctx is done.
	// take does not retain them.
	Run func(ctx context.Context, take func(*batch.Batch)) error
	// Connected reports whether records can arrive. Nil means always.
	Connected func() bool

	c      *collector
	by     map[string]*agent
	others *agent // collects those for which there is no room
	said   bool   // it has been reported that there are some
	spread []wire.Record
}

// followLate is how late records of followed agents may arrive: top flows are published
// after their ten seconds.
const followLate = 15 * time.Second

// followed is what is known about an agent's batches.
type followed struct {
	level atomic.Pointer[Detail]
	boot  uint64
	given uint64 // dropped in that boot, according to the last batch
}

// followAgents adds the agents that other collectors are connected to.
func (c *collector) followAgents(f *Follow) {
	c.follow, f.c = f, c
	file := &File{Flows: c.file.Flows}
	for _, name := range append(f.Agents[:len(f.Agents):len(f.Agents)], othersLabel) {
		file.Hosts = append(file.Hosts, Host{Label: wire.Printable(name), Name: "on the bus", From: true})
	}
	c.file = file
	f.by = make(map[string]*agent)
	for i := range file.Hosts {
		a := c.newFollowed(uint32(i), &file.Hosts[i])
		c.add(a)
		f.by[a.host.Label] = a
	}
	f.others = c.all()[len(c.all())-1]
}

func (c *collector) newFollowed(index uint32, h *Host) *agent {
	a := &agent{c: c, index: index, host: h, followed: &followed{}}
	a.state.Store(&feed.ClientState{Phase: feed.Dialling})
	a.followed.level.Store(&Detail{})
	return a
}

// maxFollowed is the maximum number of agents with an entry of their own.
const maxFollowed = 1 << 14

// agent returns the agent of a batch. A new one is added, with its index in the archive
// if it has one.
func (f *Follow) agent(name string) *agent {
	if a := f.by[name]; a != nil {
		return a
	}
	c := f.c
	if len(f.by) >= maxFollowed {
		if !f.said {
			f.said = true
			c.say.printf("%s: new on the bus, which has more than %d agents: it and others that are new are shown as %q", name, maxFollowed, othersLabel)
		}
		return f.others
	}
	c.adding.Lock()
	defer c.adding.Unlock()
	h := &Host{Label: wire.Printable(name), Name: "on the bus", From: true}
	list := c.all()
	index := slices.IndexFunc(list, func(a *agent) bool { return a.gone.Load() && a.host.Label == h.Label })
	if index < 0 {
		index = len(list)
	}
	a := c.newFollowed(uint32(index), h)
	if index < len(list) {
		a.inherit(list[index])
	}
	c.add(a)
	f.by[name] = a
	c.edition.Add(1)
	c.say.printf("%s: new on the bus", name)
	return a
}

// take processes a batch. Records for ten seconds are spread over them.
func (f *Follow) take(b *batch.Batch) {
	a := f.agent(b.Agent)
	if a.records.Load() == 0 {
		a.connections.Store(1)
		a.state.Store(&feed.ClientState{Phase: feed.Connected})
	}
	a.followed.see(b)
	if paths := f.c.paths; paths != nil {
		paths.batch(b)
	}
	records := b.Records
	if b.Level == batch.Top {
		f.spread = f.spread[:0]
		for i := range b.Records {
			f.spread = downsample.Spread(f.spread, &b.Records[i])
		}
		records = f.spread
	}
	a.take(records)
}

// see updates the agent's Detail.
func (s *followed) see(b *batch.Batch) {
	old := s.level.Load()
	d := *old
	d.Records += uint64(len(b.Records))
	if b.Boot == s.boot {
		d.Lost += b.Dropped - min(s.given, b.Dropped)
	}
	if b.Boot == s.boot { // collectors with the same records each report their own losses
		s.given = max(s.given, b.Dropped)
	} else {
		s.boot, s.given = b.Boot, b.Dropped
	}
	if d.Level != b.Level {
		d.Level, d.Since, d.Changes = b.Level, time.Now(), d.Changes+1
		d.Limit, d.Why = "", ""
		if b.Level > batch.Packets {
			d.Limit, d.Why = "bus", "as its collector has decided"
		}
	}
	s.level.Store(&d)
}
