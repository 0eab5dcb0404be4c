package collector

import (
	"context"

	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
)

// Source generates records in place of agents.
type Source struct {
	Hosts []Host
	// Run calls take with records of one host after another, by its index, until ctx is
	// done or there are no more, which ends the collector. take does not retain them.
	Run func(ctx context.Context, take func(host int, records []wire.Record)) error
}

// sourceAgents creates an agent for each host, which is connected as long as there are
// records.
func (c *collector) sourceAgents(s *Source) {
	c.file = &File{Name: c.file.Name, Flows: c.file.Flows, Hosts: s.Hosts}
	for i := range c.file.Hosts {
		a := &agent{c: c, index: uint32(i), host: &c.file.Hosts[i]}
		a.connections.Store(1)
		a.state.Store(&feed.ClientState{Phase: feed.Connected})
		c.add(a)
	}
}

func (c *collector) runSource(ctx context.Context, s *Source) error {
	return s.Run(ctx, func(host int, records []wire.Record) { c.all()[host].take(records) })
}
