package history

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Count is the number of rows in a store's committed files, and their origin:
//
//	AtOpen + Committed = Retired + Removed + Held
//
// regardless of compaction. Held is read from the files' names. Removed rows are those of
// hours whose directories another program has removed. Recovered is the part of Committed
// that an earlier process had sealed.
type Count struct{ AtOpen, Committed, Recovered, Retired, Removed, Held uint64 }

// Count counts the rows by the names of all files. It is safe for concurrent use.
func (s *Store) Count() (c Count, err error) {
	for range countTries {
		before := s.Status()
		var held map[string]uint64
		if held, err = s.rows(); err != nil {
			return c, s.explain(err)
		}
		c.AtOpen, c.Committed, c.Recovered, c.Retired = s.atOpen, before.Rows, before.RecoveredRows, before.RetiredRows
		c.Held = 0
		for _, n := range held {
			c.Held += n
		}
		s.mu.Lock()
		c.Removed = s.removed
		for hour, n := range s.hours {
			if _, ok := held[hour]; !ok {
				c.Removed += n
			}
		}
		s.mu.Unlock()
		if now := s.Status(); now.Rows == before.Rows && now.RetiredRows == before.RetiredRows {
			break
		}
	}
	return c, nil
}

// countTries is how often Count starts over if files change meanwhile.
const countTries = 5

// hourRows is the number of rows of an hour's files when its directory had this
// modification time.
type hourRows struct {
	changed time.Time
	rows    uint64
}

// stableAfter is the age from which a directory's modification time reveals every later
// change, given the resolution of the kernel's clock.
const stableAfter = time.Second

// rows counts the rows of each hour's committed files. It reads only directories that
// have changed.
func (s *Store) rows() (of map[string]uint64, err error) {
	s.counting.Lock()
	defer s.counting.Unlock()
	hours, err := listHours(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // removed by others
	}
	if err != nil {
		return nil, err
	}
	of = make(map[string]uint64, len(hours))
	known := make(map[string]hourRows, len(hours))
	for _, hour := range hours {
		dir := filepath.Join(s.dir, hour)
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h, ok := s.counted[hour]
		if !ok || !h.changed.Equal(info.ModTime()) {
			names, err := listHour(dir)
			if err != nil {
				return nil, err
			}
			h = hourRows{changed: info.ModTime()}
			for _, n := range names {
				h.rows += uint64(n.rows)
			}
		}
		of[hour] = h.rows
		if time.Since(h.changed) > stableAfter {
			known[hour] = h
		}
	}
	s.counted = known
	return of, nil
}
