package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/collector/keep"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/clickhouse"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// keepOptions are the options about what is kept, and shared.
type keepOptions struct {
	dir, bus, keep string
	digests        string // of packets: how long; "" is not at all
	spool          spool.Spec
	table          *clickhouse.TableStore // nil if there is none
}

// openPaths has what an engine joins kept beside the records, if there is a history. On a bus one that shows
// a page does, or that is to keep packets: others have the same agents.
func (o *options) openPaths(cfg *collector.Config, list sinks) (sinks, error) {
	if o.keep.dir == "" || o.http == "" && (o.keep.bus != "" && o.keep.digests == "" || !collecting(cfg)) {
		return list, nil
	}
	cfg.Paths = path.New(path.Config{})
	c := keep.PathsConfig{Dir: o.keep.dir, Engine: cfg.Paths, Say: say}
	var err error
	if c.Keep, err = history.ParseKeep(o.keep.keep); err != nil {
		return list, err // openKeeper has told the hint
	}
	if o.keep.digests != "" {
		digests, err := history.ParseKeep(o.keep.digests)
		if err != nil {
			return list, fault.WithHint(err, "an age, a size, or both: -keep-digests 1h,5GB")
		}
		digests.Size = cmp.Or(digests.Size, c.Keep.Size)
		c.Digests = &digests
	}
	p, err := keep.OpenPaths(c)
	if err != nil {
		return list, err
	}
	cfg.Ledger.Watch(p.Health)
	list = append(list, pathKeeper{p, o.keep.dir})
	cfg.Report = list.done
	cfg.Ledger.Add(func() []ledger.Entry { return p.Account() })
	return list, nil
}

// pathKeeper is keep.Paths as a sink, of no batches.
type pathKeeper struct {
	*keep.Paths
	dir string
}

func (pathKeeper) Publish(*batch.Batch)    {}
func (pathKeeper) measure(meter)           {}             // the ledger has it all
func (pathKeeper) account() []ledger.Entry { return nil } // it has an entry of its own

// past is what was kept of paths, or nil.
func (s sinks) past() path.Archive {
	for _, one := range s {
		if p, ok := one.(pathKeeper); ok {
			return keep.Past{Dir: p.dir}
		}
	}
	return nil
}

const defaultKeep = "7d,50GB"

func (o *keepOptions) any() bool { return o.dir != "" || o.bus != "" }

// knownTime is how long a bus may take to list the agents whose records it has.
const knownTime = 10 * time.Second

// openKeeper opens a bus, a history, or both. cfg's collector will send its records
// there or, if it has no agents, receive them from there.
func (o *options) openKeeper(cfg *collector.Config) (*keep.Keeper, error) {
	rules, err := history.ParseKeep(o.keep.keep)
	if err != nil {
		return nil, fault.WithHint(err, "an age, a size, or both: -keep 7d,50GB")
	}
	collecting := collecting(cfg)
	if o.keep.spool.Dir != "" && !collecting {
		return nil, fault.WithHint(errors.New("-spool: there are no agents whose records could wait"), "name agents in collector.conf, or give -listen")
	}
	k, err := keep.Open(keep.Config{Dir: o.keep.dir, URL: o.keep.bus, Keep: rules, Collect: collecting, Spool: o.keep.spool, Table: o.keep.table, Say: say})
	if err != nil {
		return nil, err
	}
	if dir := k.Dir(); dir != "" {
		cfg.Writes = append(cfg.Writes, dir)
		if o.http != "" || collecting {
			cfg.Archive = rollups(dir, rules)
		}
	}
	if dir := k.SpoolDir(); dir != "" {
		cfg.Writes = append(cfg.Writes, dir)
	}
	if s := k.Agents(); s != nil {
		cfg.Share, cfg.AllBatches = s, k.Follow
	}
	if !collecting && (o.http != "" || o.keep.dir == "" && o.keep.table == nil) {
		cfg.Follow = &collector.Follow{Agents: known(k), Run: k.Follow, Connected: k.Connected}
	}
	return k, nil
}

// writtenAfter is the time until records that a bus in this process still had at its
// start are in files: segments take ten seconds.
const writtenAfter = 20 * time.Second

// rollups are kept next to the records, from which what was lost in a crash is
// recovered.
func rollups(dir string, rules history.Keep) *collector.Archive {
	a := &collector.Archive{Dir: filepath.Join(dir, "rollup"), After: writtenAfter}
	a.KeepFor(rules.Age, rules.Size)
	a.Records = func(ctx context.Context, from, to time.Time, yield func(string, *wire.Record) bool) error {
		enough := errors.New("enough")
		_, err := history.Read(ctx, filepath.Join(dir, "records"), &history.Query{From: from, To: to}, func(rows []history.Row) error {
			for i := range rows {
				if !yield(rows[i].Host, &rows[i].Record) {
					return enough
				}
			}
			return nil
		})
		if errors.Is(err, enough) {
			return nil
		}
		return err
	}
	return a
}

// known returns the agents whose records the bus has.
func known(k *keep.Keeper) []string {
	ctx, stop := context.WithTimeout(context.Background(), knownTime)
	defer stop()
	agents, err := k.Known(ctx)
	if err != nil {
		say("the bus does not say whose records it has: %v", err)
	}
	return agents
}
