package collector

import (
	"context"
	"time"

	"github.com/pcapper/pcapper/internal/transport/feed"
)

// Share divides agents among collectors. While the members are unknown, an agent may
// have more than one collector.
type Share interface {
	// Mine reports whether the agent with this label is ours. The channel is closed
	// when that, or Stopped, may have changed.
	Mine(label string) (bool, <-chan struct{})
	// Stopped reports whether this process was suspended for so long that others may
	// have taken our agents, and has not learned since who has them.
	Stopped() bool
	// Leave gives our agents to the others.
	Leave()
}

// handTime is how long an agent is still read after another collector has taken it
// over: by then, that one has connected. Records that both have read are deduplicated
// by their numbers.
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

// watchShare returns when we should no longer read from an agent, or ctx is done.
func (c *collector) watchShare(ctx context.Context, a *agent) {
	var handed <-chan time.Time // set while another collector has it
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

// withholds reports whether another collector may have read a's records while this
// process was suspended, and they have no numbers by which to deduplicate them.
func (a *agent) withholds() bool {
	return a.c.share != nil && !a.numbered.Load() && a.c.share.Stopped()
}
