package bus

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/wire/batch"
)

// Follow calls f with each batch from now on, one at a time, each record once, until
// ctx is done. f must not keep the batch. The error is a *fault.Error.
func (c *Conn) Follow(ctx context.Context, cfg Streams, f func(*batch.Batch)) error {
	partitions, err := c.EnsureStreams(ctx, cfg)
	if err != nil {
		return ended(ctx, err)
	}
	var one sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	for i := range partitions {
		g.Go(func() error {
			return ended(ctx, c.follow(ctx, i, func(b *batch.Batch) error {
				one.Lock()
				defer one.Unlock()
				f(b)
				return nil
			}))
		})
	}
	return g.Wait()
}

func (c *Conn) follow(ctx context.Context, partition int, f func(*batch.Batch) error) error {
	r := cursor{conn: c, stream: c.target.streamName(partition)}
	defer r.close()
	var d batch.Decoder
	var b batch.Batch
	had := newMarks(nil)
	for {
		m, ok, err := r.read(ctx, nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if err := pause(ctx); err != nil {
				return err
			}
		}
		if ok && d.Decode(m.data, &b) == nil {
			_ = had.each(&b, f) // f never fails
		}
	}
}

// Agents returns the names of the agents whose batches are in the streams, in order.
func (c *Conn) Agents(ctx context.Context, cfg Streams) (names []string, err error) {
	partitions, err := c.EnsureStreams(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for i := range partitions {
		s, err := c.js.Stream(ctx, c.target.streamName(i))
		if err != nil {
			return nil, err
		}
		info, err := s.Info(ctx, jetstream.WithSubjectFilter(c.target.streamSubjects(i)))
		if err != nil {
			return nil, err
		}
		for subject := range info.State.Subjects {
			if name, ok := untoken(subject[strings.LastIndexByte(subject, '.')+1:]); ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// untoken is the inverse of token.
func untoken(text string) (string, bool) {
	var b strings.Builder
	for len(text) > 0 {
		if text[0] != '=' {
			b.WriteByte(text[0])
			text = text[1:]
			continue
		}
		if len(text) < 3 {
			return "", false
		}
		n, err := strconv.ParseUint(text[1:3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(n))
		text = text[3:]
	}
	return b.String(), true
}
