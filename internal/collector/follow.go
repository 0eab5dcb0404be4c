package collector

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Follow is records of agents that other collectors have.
type Follow struct {
	// Agents are those that are known; all others are shown as one.
	Agents []string
	// Run gives take the batches of all agents, one at a time, until ctx is done.
	// take keeps nothing.
	Run func(ctx context.Context, take func(*batch.Batch)) error
	// Connected reports whether records can come. Nil: always.
	Connected func() bool

	by     map[string]*agent
	others *agent
	said   bool // that there are others
	spread []wire.Record
}

// followLate is how late records of followed agents may come: top flows are told
// when their ten seconds are over.
const followLate = 15 * time.Second

// followed is what is known of an agent's batches.
type followed struct {
	level atomic.Pointer[Detail]
	boot  uint64
	given uint64 // up in that boot, as the last batch said
}

// followAgents makes room for agents that are not dialled by us.
func (c *collector) followAgents(f *Follow) {
	c.follow = f
	file := &File{Flows: c.file.Flows}
	for _, name := range append(f.Agents[:len(f.Agents):len(f.Agents)], othersLabel) {
		file.Hosts = append(file.Hosts, Host{Label: wire.Printable(name), Name: "on the bus", From: true})
	}
	c.file = file
	f.by = make(map[string]*agent)
	for i := range file.Hosts {
		a := &agent{c: c, index: uint32(i), host: &file.Hosts[i], followed: &followed{}}
		a.state.Store(&feed.ClientState{Phase: feed.Dialling})
		a.followed.level.Store(&Detail{})
		c.add(a)
		f.by[a.host.Label] = a
	}
	f.others = c.all()[len(c.all())-1]
}

// take takes a batch. What stands for ten seconds is spread over them.
func (f *Follow) take(b *batch.Batch) {
	a := f.by[b.Agent]
	if a == nil {
		a = f.others
		if !f.said {
			f.said = true
			a.c.say.printf("%s: new on the bus; it and others that are new are shown as %q until this is started again", b.Agent, othersLabel)
		}
	}
	if a.records.Load() == 0 {
		a.connections.Store(1)
		a.state.Store(&feed.ClientState{Phase: feed.Connected})
	}
	a.followed.see(b)
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

// see brings the agent's Detail up to date.
func (s *followed) see(b *batch.Batch) {
	old := s.level.Load()
	d := *old
	d.Records += uint64(len(b.Records))
	if b.Boot == s.boot {
		d.Lost += b.Dropped - min(s.given, b.Dropped)
	}
	s.boot, s.given = b.Boot, b.Dropped
	if d.Level != b.Level {
		d.Level, d.Since, d.Changes = b.Level, time.Now(), d.Changes+1
		d.Limit, d.Why = "", ""
		if b.Level > batch.Packets {
			d.Limit, d.Why = "bus", "as its collector has decided"
		}
	}
	s.level.Store(&d)
}
