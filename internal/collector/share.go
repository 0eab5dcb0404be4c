package collector

import (
	"context"
	"time"

	"github.com/pcapper/pcapper/internal/transport/feed"
)

// Share divides agents among collectors. While nobody knows who the others are, an agent
// may have more than one.
type Share interface {
	// Mine reports whether the agent with that label is ours. The channel is closed
	// when that, or Stopped, may have changed.
	Mine(label string) (bool, <-chan struct{})
	// Stopped reports whether this process has stood still for so long that others may
	// have taken our agents, and has not heard since whose they are.
	Stopped() bool
	// Leave lets the others have our agents.
	Leave()
}

// handTime is how long an agent is read on that another collector has now: by then that one
// has connected. Of records that both have, one is kept, by their numbers.
const handTime = 1500 * time.Millisecond

// runClient collects from an agent as long as it is ours.
func (c *collector) runClient(ctx context.Context, a *agent) error {
	if c.share == nil {
		return a.client.Run(ctx)
	}
	for ctx.Err() == nil {
		mine, changed := c.share.Mine(a.host.Label)
		a.elsewhere.Store(!mine)
		if mine && !a.withholds() {
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
		defer stop()
		c.watchShare(ctx, a)
	}()
	return a.client.Run(ctx)
}

// watchShare returns when an agent is not to be read by us any more, or ctx is done.
func (c *collector) watchShare(ctx context.Context, a *agent) {
	var handed <-chan time.Time // set while somebody else has it
	for {
		mine, changed := c.share.Mine(a.host.Label)
		switch {
		case mine && a.withholds(), !mine && !a.numbered.Load():
			return
		case mine:
			handed = nil
		case handed == nil:
			handed = time.After(handTime)
		}
		select {
		case <-changed:
		case <-handed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// withholds reports whether another collector may have read a's records while this process
// stood still, and nothing tells them apart.
func (a *agent) withholds() bool {
	return a.c.share != nil && !a.numbered.Load() && a.c.share.Stopped()
}
