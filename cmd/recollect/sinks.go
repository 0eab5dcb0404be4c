package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/transport/clickhouse"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/wire/batch"
)

// sink is where records go beside the collector's own output.
type sink interface {
	collector.Batches
	// Run returns a few seconds after ctx is done. An error is for the user.
	Run(ctx context.Context) error
	// Done says what was written, and given up.
	Done() string
	measure(m meter)
	// account is the sink's part of the ledger.
	account() []ledger.Entry
}

// sinks are all of a collector's.
type sinks []sink

// openSink makes the sink that text, a URL, names.
func openSink(text string) (sink, error) {
	switch {
	case strings.HasPrefix(text, "clickhouse+"):
		t, err := clickhouse.Parse(text)
		if err != nil {
			return nil, err
		}
		if t.Spool != "" {
			return openTable(t)
		}
		s, err := clickhouse.New(t, say)
		return clickhouseSink{s, t.String()}, err
	case strings.HasPrefix(text, "kafka"):
		return openKafka(text)
	}
	return nil, errors.New("not a sink's URL: want clickhouse+http://USER@HOST:8123/DATABASE or kafka://BROKER:9092/TOPIC")
}

type clickhouseSink struct {
	*clickhouse.Sink
	name string
}

func (s clickhouseSink) Done() string { return s.Status().String() }

func (s clickhouseSink) measure(m meter) {
	m.counter(descSinkWritten, s.Status().Written, s.name)
	m.counter(descSinkDropped, s.Status().Dropped, s.name)
}

func (s clickhouseSink) account() []ledger.Entry {
	st := s.Status()
	return accountSink(s.name, st.Published, st.Written, st.Dropped, st.Waiting)
}

// tableSink is a table for what a bus carries; whoever has the bus writes to it.
type tableSink struct {
	store *clickhouse.Store
	dir   string
	sink
}

func openTable(t *clickhouse.Target) (sink, error) {
	dir, err := filepath.Abs(t.Spool)
	if err != nil {
		return nil, err
	}
	s, err := clickhouse.OpenStore(t, dir, say)
	return tableSink{store: s, dir: dir}, err
}

// openSinks opens what the options name, and has cfg's collector use it.
func (o *options) openSinks(cfg *collector.Config) (list sinks, err error) {
	for _, text := range o.sinks {
		s, err := openSink(text)
		if err != nil {
			return nil, fmt.Errorf("-sink: %w", err)
		}
		if table, ok := s.(tableSink); !ok {
			list = append(list, s)
		} else if o.keep.bus == "" || o.keep.table != nil {
			return nil, errors.New("-sink: spool= is for what a bus carries: want -bus, and one such sink")
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
		list = append(list, keeper{k})
	}
	if list != nil {
		cfg.Report = list.done
		cfg.Ledger.Add(list.account)
	}
	// A dashboard on a bus gives nothing back to it.
	if direct || o.keep.any() && collecting(cfg) {
		cfg.Batches = list
	}
	return list, nil
}

// collecting reports whether there are agents, or will be.
func collecting(cfg *collector.Config) bool {
	return cfg.Reload != "" || len(cfg.File.Hosts)+len(cfg.Listen) > 0
}

// Publish passes a batch to all of them.
func (s sinks) Publish(b *batch.Batch) {
	for _, one := range s {
		one.Publish(b)
	}
}

// around runs the sinks as long as run runs, and then until they have written what
// it gave them.
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

// account is the part of all sinks in the ledger.
func (s sinks) account() (list []ledger.Entry) {
	for _, one := range s {
		list = append(list, one.account()...)
	}
	return list
}

// accountSink is of a sink that counts what it has.
func accountSink(name string, published, written, dropped, waiting uint64) []ledger.Entry {
	e := ledger.Entry{Stage: ledger.Sink, Name: name, Unit: "records", Received: published, Passed: written, Held: waiting}
	e.Lose("dropped", dropped)
	return []ledger.Entry{e}
}

// done is what all have done.
func (s sinks) done() (lines []string) {
	for _, one := range s {
		if line := one.Done(); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// abandon closes what will not be used.
func (s sinks) abandon() {
	ended, end := context.WithCancel(context.Background())
	end()
	_ = s.around(ended, func(context.Context) error { return nil })
}
