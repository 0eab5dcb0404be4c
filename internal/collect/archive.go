package collect

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pcapper/pcapper/internal/rollup"
	"github.com/pcapper/pcapper/wire"
)

// Archive is where the View's history is kept, so that it outlives the program.
type Archive struct {
	Dir string // made if it is not there
	// Keep and Size as in rollup.ArchiveConfig; 0 are its defaults.
	Keep time.Duration
	Size int64
	// Records, if it is not nil, gives the records of agents, by label, whose
	// packets were seen at from or later, in order of time, until yield says that
	// it is enough. The last seconds before a crash are counted again from it.
	Records func(ctx context.Context, from time.Time, yield func(agent string, r *wire.Record) bool) error
}

// KeepFor sets Keep and Size by what is kept of records, each 0 for no limit:
// rollups are kept ten times as long, in a tenth of the size.
func (a *Archive) KeepFor(age time.Duration, size int64) {
	a.Keep, a.Size = min(age, rollup.DefaultArchiveKeep)*10, size/10
}

// openArchive makes the store's archive. hosts and rows are those of the
// configuration.
func (v *View) openArchive(cfg *Archive, hosts []rollup.Host) error {
	if v.c.player != nil {
		return fmt.Errorf("history in %q: logs that are played are no new history; leave out one of them", cfg.Dir)
	}
	dir, err := filepath.Abs(cfg.Dir) // confinement wants to know where that is
	if err != nil {
		return err
	}
	rows := make([]rollup.Row, len(v.rows))
	for i, row := range v.rows {
		rows[i] = rollup.Row{Name: row.Name, Detail: row.Detail}
	}
	v.records = cfg.Records
	v.archive, err = rollup.OpenArchive(rollup.ArchiveConfig{Dir: dir, Hosts: hosts, Rows: rows, Keep: cfg.Keep, Size: cfg.Size})
	if err != nil {
		return err
	}
	known := v.archive.Rows()
	none := v.rows[len(v.rows)-1]
	v.rows = v.rows[:len(v.rows)-1]
	for _, row := range known[len(v.rows) : len(known)-1] {
		number, _ := strconv.ParseUint(row.Name, 10, 32) // as rowsOf has written it
		v.rows = append(v.rows, Row{Name: row.Name, Number: uint32(number), Detail: row.Detail, Former: true})
	}
	v.rows = append(v.rows, none)
	return nil
}

// Former are hosts that only the archive knows. The store numbers them after
// Hosts.
func (v *View) Former() []rollup.Host {
	if v.archive == nil {
		return nil
	}
	return v.archive.Hosts()[len(v.c.file.Hosts):]
}

// refill counts what a run before this one has not lived to put on disk.
func (v *View) refill() {
	last := v.archive.LastSecond()
	if !v.archive.Cut() || last == 0 {
		return
	}
	end := time.Unix(last, 0).Format(time.DateTime)
	if v.records == nil {
		v.c.say.printf("the run before was cut off: its history ends at %s", end)
		return
	}
	from, n := time.Unix(last+1, 0), uint64(0)
	hostOf := make(map[string]int)
	for i, h := range v.archive.Hosts() {
		if _, ok := hostOf[h.Label]; !ok {
			hostOf[h.Label] = i
		}
	}
	var err error
	v.store.Refill(time.Now().UnixNano(), func(yield func(int, *wire.Record) bool) {
		err = v.records(context.Background(), from, func(agent string, r *wire.Record) bool {
			host, ok := hostOf[agent]
			if !ok || r.Time < from.UnixNano() {
				return true
			}
			n++
			return yield(host, r)
		})
	})
	if err != nil {
		v.c.say.printf("the run before was cut off: its history ends at %s, and its records cannot be read: %v", end, err)
		return
	}
	v.c.say.printf("the run before was cut off: its history ended at %s; %s brought the rest back", end, count(n, "record"))
}
