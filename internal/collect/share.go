package collect

import (
	"context"

	"github.com/pcapper/pcapper/internal/feed"
	"github.com/pcapper/pcapper/wire"
)

// Share divides agents among collectors.
type Share interface {
	// Mine tells whether the agent with that label is ours. The channel is closed
	// when that may have changed.
	Mine(label string) (bool, <-chan struct{})
	// Holds tells whether any agent may be ours now.
	Holds() bool
}

// runClient collects from an agent as long as it is ours.
func (c *collector) runClient(ctx context.Context, a *agent) error {
	if c.share == nil {
		return a.client.Run(ctx)
	}
	for ctx.Err() == nil {
		mine, changed := c.share.Mine(a.host.Label)
		if mine {
			if err := c.runWhileOurs(ctx, a); err != nil {
				return err
			}
			a.state.Store(&feed.ClientState{Phase: feed.Dialling})
			a.failed.Store(nil)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return nil
}

func (c *collector) runWhileOurs(ctx context.Context, a *agent) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for {
			mine, changed := c.share.Mine(a.host.Label)
			if !mine {
				stop()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return a.client.Run(ctx)
}

// Follow is records of agents that other collectors have.
type Follow struct {
	// Agents are those that are known; all others are shown as one.
	Agents []string
	// Run gives take the records of all agents until ctx is done. take keeps nothing.
	Run func(ctx context.Context, take func(agent string, records []wire.Record)) error

	take func(agent string, records []wire.Record)
}

// followAgents makes room for agents that are not dialled by us.
func (c *collector) followAgents(f *Follow) {
	c.follow = f
	file := &File{Flows: c.file.Flows}
	for _, name := range append(f.Agents[:len(f.Agents):len(f.Agents)], othersLabel) {
		file.Hosts = append(file.Hosts, Host{Label: name, Name: "on the bus", From: true})
	}
	c.file = file
	by := map[string]*agent{}
	for i := range file.Hosts {
		a := &agent{c: c, index: uint32(i), host: &file.Hosts[i]}
		a.state.Store(&feed.ClientState{Phase: feed.Dialling})
		c.agents = append(c.agents, a)
		by[a.host.Label] = a
	}
	f.take = func(name string, records []wire.Record) {
		a := by[name]
		if a == nil {
			a = by[othersLabel]
			by[name] = a
			c.say.printf("%s: new on the bus; shown as %q until this is started again", name, othersLabel)
		}
		if a.records.Load() == 0 {
			a.connections.Store(1)
			a.state.Store(&feed.ClientState{Phase: feed.Connected})
		}
		a.take(records)
	}
}
