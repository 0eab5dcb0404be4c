package main

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/wire/batch"
)

// sink is a destination of records besides the collector's own output.
type sink interface {
	collector.Batches
	// Run returns a few seconds after ctx is done. Its error is for the user.
	Run(ctx context.Context) error
	// Done describes what was written, and what was dropped.
	Done() string
	measure(m meter)
	// account returns the sink's part of the ledger.
	account() []ledger.Entry
}

// sinks are all sinks of a collector.
type sinks []sink

// serverSink is a sink that writes to an external server.
type serverSink struct {
	server interface {
		collector.Batches
		Run(ctx context.Context) error
	}
	name   string
	counts func() sinkCounts
}

// sinkCounts counts records: published = written + dropped + waiting. line prints them.
type sinkCounts struct {
	published, written, dropped, waiting uint64
	line                                 string
}

func (s serverSink) Publish(b *batch.Batch)        { s.server.Publish(b) }
func (s serverSink) Run(ctx context.Context) error { return s.server.Run(ctx) }
func (s serverSink) Done() string                  { return s.counts().line }

func (s serverSink) measure(m meter) {
	c := s.counts()
	m.counter(descSinkWritten, c.written, s.name)
	m.counter(descSinkDropped, c.dropped, s.name)
}

func (s serverSink) account() []ledger.Entry {
	c := s.counts()
	e := ledger.Entry{Stage: ledger.Sink, Name: s.name, Unit: "records", Source: ledger.Detail, Received: c.published, Passed: c.written, Held: c.waiting}
	e.Lose("dropped", c.dropped)
	return []ledger.Entry{e}
}

// openSinks opens the sinks named by the options, and makes cfg's collector use them.
func (o *options) openSinks(cfg *collector.Config) (list sinks, err error) {
	for _, open := range o.open {
		s, err := open()
		if err != nil {
			return nil, fmt.Errorf("-export: %w", err)
		}
		if table, ok := s.(tableSink); !ok {
			list = append(list, s)
		} else if o.keep.bus == "" || o.keep.table != nil {
			return nil, errors.New("-export: spool= is for what a bus carries: want -bus, and one such sink")
		} else {
			o.keep.table = table.store
			cfg.Writes = append(cfg.Writes, table.dir)
		}
	}
	direct := list != nil
	if o.keep.any() {
		k, err := o.openKeeper(cfg)
		if err != nil {
			return nil, err
		}
		cfg.Ledger.Watch(k.Health)
		list = append(list, keeper{k})
	}
	if list != nil {
		cfg.Report = list.done
		cfg.Ledger.Add(list.account)
	}
	// A collector that reads from a bus does not publish back to it.
	if direct || o.keep.any() && collecting(cfg) {
		cfg.Batches = list
	}
	return list, nil
}

// collecting reports whether there are agents, or may be later.
func collecting(cfg *collector.Config) bool {
	return cfg.Reload != "" || len(cfg.File.Hosts)+len(cfg.Listen) > 0
}

// Publish passes a batch to all of them.
func (s sinks) Publish(b *batch.Batch) {
	for _, one := range s {
		one.Publish(b)
	}
}

// around runs the sinks while run runs, and then until they have written what it passed
// to them.
func (s sinks) around(ctx context.Context, run func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	last, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	for _, one := range s {
		g.Go(func() error { return one.Run(last) })
	}
	g.Go(func() error {
		defer end()
		return run(ctx)
	})
	err := g.Wait()
	for _, line := range s.done() {
		say("%s", line)
	}
	return err
}

// account returns the part of all sinks in the ledger.
func (s sinks) account() (list []ledger.Entry) {
	for _, one := range s {
		list = append(list, one.account()...)
	}
	return list
}

// done describes what all sinks have done.
func (s sinks) done() (lines []string) {
	for _, one := range s {
		if line := one.Done(); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// abandon closes sinks that will not be used.
func (s sinks) abandon() {
	ended, end := context.WithCancel(context.Background())
	end()
	_ = s.around(ended, func(context.Context) error { return nil })
}
