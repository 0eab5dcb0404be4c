package collector

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// Archive configures where the View's history is kept beyond the life of the program.
type Archive struct {
	Dir string // created if necessary
	// Keep and Size are those of rollup.ArchiveConfig; 0 means its defaults.
	Keep time.Duration
	Size int64
	// Records, if not nil, calls yield with agents' records, by label, whose packets
	// were observed in [from, to), in any order, until yield returns false. It is used
	// to count the last seconds before a crash again.
	Records func(ctx context.Context, from, to time.Time, yield func(agent string, r *wire.Record) bool) error
	// After is how long after the start Records needs until it has everything, for
	// example what is still on a bus.
	After time.Duration
}

// KeepFor sets Keep and Size from the limits for records, each 0 for no limit: rollups
// are kept ten times as long, in a tenth of the size.
func (a *Archive) KeepFor(age time.Duration, size int64) {
	a.Keep, a.Size = min(age, rollup.DefaultArchiveKeep)*10, size/10
}

// openArchive opens the store's archive. hosts and rows are those of the configuration.
func (v *View) openArchive(cfg *Archive, hosts []rollup.Host) error {
	if v.c.player != nil {
		return fmt.Errorf("history in %q: logs that are played are no new history; leave out one of them", cfg.Dir)
	}
	dir, err := filepath.Abs(cfg.Dir) // confinement needs an absolute path
	if err != nil {
		return err
	}
	f := v.flows.Load() // not shared with other goroutines yet
	rows := make([]rollup.Row, len(f.rows))
	for i, row := range f.rows {
		rows[i] = rollup.Row{Name: row.Name, Detail: row.Detail}
	}
	v.records, v.after = cfg.Records, cfg.After
	v.archive, err = rollup.OpenArchive(rollup.ArchiveConfig{Dir: dir, Hosts: hosts, Rows: rows, Keep: cfg.Keep, Size: cfg.Size})
	if err != nil {
		return err
	}
	known := v.archive.Rows()
	none := f.rows[v.none]
	f.rows = f.rows[:v.none]
	for _, row := range known[v.none : len(known)-1] {
		number, _ := strconv.ParseUint(row.Name, 10, 32) // as rowsOf has written it
		f.rows = append(f.rows, Row{Name: row.Name, Number: uint32(number), Detail: row.Detail, Former: true})
	}
	v.none = len(f.rows)
	f.rows = append(f.rows, none)
	return nil
}

const (
	// refillSpan is the number of seconds counted again at once.
	refillSpan = 30
)

// refill counts the seconds that earlier runs did not live to write to disk.
func (v *View) refill(ctx context.Context) {
	holes := v.archive.Missing(v.config.Late)
	if len(holes) == 0 {
		return
	}
	end := time.Unix(holes[len(holes)-1].From, 0).Format(time.DateTime)
	if v.records == nil {
		v.c.say.printf("the previous run ended abruptly: its history ends at %s", end)
		return
	}
	select {
	case <-time.After(v.after):
	case <-ctx.Done():
		return
	}
	n, err := uint64(0), error(nil)
	for _, hole := range holes {
		hole.To = min(hole.To, v.c.started.Unix()) // this run counts later ones
		more, recountErr := v.recount(ctx, hole)
		n += more
		if err == nil {
			err = recountErr
		}
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		v.c.say.printf("the previous run ended abruptly: its history ends at %s, and its records cannot be read: %v", end, err)
	default:
		v.c.say.printf("the previous run ended abruptly: its history ended at %s; %s brought the rest back", end, count(n, "record"))
	}
}

// refilling runs refill in the background. The returned function ends it and closes the
// store.
func (v *View) refilling() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.refill(ctx)
	}()
	return func() {
		cancel()
		<-done
		v.store.Close()
	}
}

// recount counts the records of some seconds, and returns their number.
func (v *View) recount(ctx context.Context, hole rollup.Hole) (n uint64, err error) {
	config := v.config
	config.Classify = v.classify()
	config.Hosts = v.archive.Hosts()
	hostOf := make(map[string]int)
	for i, h := range config.Hosts {
		if _, ok := hostOf[h.Label]; !ok {
			hostOf[h.Label] = i
		}
	}
	for from := hole.From; from < hole.To && err == nil && ctx.Err() == nil; from += refillSpan {
		next := min(from+refillSpan, hole.To)
		v.archive.Refill(config, hole, next, func(yield func(int, *wire.Record) bool) {
			err = v.records(ctx, time.Unix(from, 0), time.Unix(next, 0), func(agent string, r *wire.Record) bool {
				host, ok := hostOf[agent]
				if !ok {
					return true
				}
				n++
				return yield(host, r)
			})
		})
	}
	return n, err
}
