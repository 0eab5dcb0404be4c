package clickhouse

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// inserter inserts blocks, each row exactly once.
type inserter struct {
	client *client
	say    func(format string, args ...any)
	again  atomic.Uint64 // blocks whose INSERT had an uncertain outcome
}

// trying calls f until it succeeds, ctx is done, quit is closed, or the user must act.
func (s *inserter) trying(ctx context.Context, quit <-chan struct{}, f func(context.Context) error) error {
	said := false
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := f(ctx)
		if err == nil {
			if said {
				s.say("clickhouse %s: rows are taken again", s.client.t)
			}
			return nil
		}
		if _, ok := errors.AsType[*fault.Error](err); ok || ctx.Err() != nil {
			return err
		}
		if !said {
			said = true
			s.say("clickhouse %s: %v; still trying", s.client.t, err)
		}
		select {
		case <-time.After(pause):
		case <-quit:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// write writes a block, and retries until it succeeds. certain means that no part of it
// was written before.
func (s *inserter) write(ctx context.Context, k *block, certain bool) error {
	return s.trying(ctx, nil, func(ctx context.Context) (err error) {
		if !certain {
			if k, err = s.missing(ctx, k); err != nil {
				return err
			}
		}
		if k.rows == 0 {
			return nil
		}
		if err = s.client.insert(ctx, k); err != nil && certain {
			certain = false
			s.again.Add(1)
		}
		return err
	})
}

// missing returns the rows of a block that the table lacks, once the server has stopped
// processing it.
func (s *inserter) missing(ctx context.Context, k *block) (*block, error) {
	if busy, err := s.client.running(ctx, k.id); err != nil {
		return k, err
	} else if busy {
		return k, errors.New("the server is still busy with a block")
	}
	there, err := s.client.there(ctx, k)
	if err != nil {
		return k, err
	}
	return k.without(there), nil
}
