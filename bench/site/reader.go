package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/wire/batch"
)

// lookInto is of how many batches one is read for the age of its records.
const lookInto = 16

// reader reads all that collectors publish, and counts each record once.
type reader struct {
	conn    *nats.Conn
	batches atomic.Uint64
	bytes   atomic.Uint64
	newest  atomic.Int64 // when the last batch came

	mu      sync.Mutex
	had     map[string][]span // by agent/boot
	records uint64            // counted once
	again   uint64            // that were had before
	given   map[string]uint64 // up by the collectors, by agent/boot
	lags    []time.Duration   // from a record's time to here
	decoder batch.Decoder
	batch   batch.Batch
}

// span is the numbers [from, to).
type span struct{ from, to uint64 }

// newReader reads the streams once there are so many.
func newReader(ctx context.Context, urls string, streams int) (*reader, error) {
	conn, err := nats.Connect(urls, nats.MaxReconnects(-1))
	if err != nil {
		return nil, err
	}
	r := &reader{conn: conn, had: map[string][]span{}, given: map[string]uint64{}}
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, err
	}
	for i := range streams {
		name := fmt.Sprintf("PC_%02d", i)
		for {
			// Servers that have no leader yet do not answer.
			try, cancel := context.WithTimeout(ctx, time.Second)
			_, err = js.Stream(try, name)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return nil, fmt.Errorf("stream %s: %w", name, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if _, err := consumer.Consume(func(m jetstream.Msg) { r.take(m.Data()) }); err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
	}
	return r, nil
}

func (r *reader) take(data []byte) {
	now := time.Now()
	h, err := batch.ReadHeader(data)
	if err != nil {
		fmt.Println("site: a message is no batch:", err)
		return
	}
	r.newest.Store(now.UnixNano())
	r.bytes.Add(uint64(len(data)))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.batches.Add(1)%lookInto == 0 && r.decoder.Decode(data, &r.batch) == nil {
		newest := r.batch.Records[len(r.batch.Records)-1].Time
		r.lags = append(r.lags, now.Sub(time.Unix(0, newest)))
	}
	stream := fmt.Sprintf("%s/%d", h.Agent, h.Boot)
	r.given[stream] = max(r.given[stream], h.Dropped)
	n := r.mark(stream, span{h.First, h.Next()})
	r.records += n
	r.again += uint64(h.Count) - n
}

// mark counts those of s that were not had before.
func (r *reader) mark(stream string, s span) (fresh uint64) {
	list := r.had[stream]
	if n := len(list); n > 0 && list[n-1].to == s.from { // as almost always
		list[n-1].to = s.to
		return s.to - s.from
	}
	fresh = s.to - s.from
	for _, h := range list {
		if from, to := max(h.from, s.from), min(h.to, s.to); from < to {
			fresh -= to - from
		}
	}
	list = append(list, s)
	slices.SortFunc(list, func(a, b span) int { return int(int64(a.from - b.from)) })
	merged := list[:1]
	for _, s := range list[1:] {
		if last := &merged[len(merged)-1]; s.from <= last.to {
			last.to = max(last.to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	r.had[stream] = merged
	return fresh
}

// clear forgets the lags so far.
func (r *reader) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lags = nil
}

// lag gives the qth quantile of the lags.
func (r *reader) lag(q float64) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lags) == 0 {
		return 0
	}
	slices.Sort(r.lags)
	return r.lags[min(int(q*float64(len(r.lags))), len(r.lags)-1)]
}

// counts gives records that were counted, had twice, and given up by collectors.
func (r *reader) counts() (records, again, given uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.given {
		given += n
	}
	return r.records, r.again, given
}
