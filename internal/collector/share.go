package collector

import (
	"context"

	"github.com/pcapper/pcapper/internal/transport/feed"
)

// Share divides agents among collectors.
type Share interface {
	// Mine reports whether the agent with that label is ours. The channel is closed
	// when that may have changed.
	Mine(label string) (bool, <-chan struct{})
	// Holds reports whether any agent may be ours now.
	Holds() bool
}

// runClient collects from an agent as long as it is ours.
func (c *collector) runClient(ctx context.Context, a *agent) error {
	if c.share == nil {
		return a.client.Run(ctx)
	}
	for ctx.Err() == nil {
		mine, changed := c.share.Mine(a.host.Label)
		a.elsewhere.Store(!mine)
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
	watched := make(chan struct{})
	defer func() {
		stop()
		<-watched
	}()
	go func() {
		defer close(watched)
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
