package history

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Count is the number of rows in a store's committed files, and their origin. Unless
// another program removes files,
//
//	AtOpen + Committed = Retired + Held
//
// regardless of compaction.
type Count struct{ AtOpen, Committed, Retired, Held uint64 }

// Count counts the rows by the names of all files. It is safe for concurrent use.
func (s *Store) Count() (c Count, err error) {
	for range countTries {
		before := s.Status()
		if c.Held, err = s.rows(); err != nil {
			return c, s.explain(err)
		}
		c.AtOpen, c.Committed, c.Retired = s.atOpen, before.Rows, before.RetiredRows
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

// rows counts the rows of all committed files. It reads only directories that have
// changed.
func (s *Store) rows() (sum uint64, err error) {
	s.counting.Lock()
	defer s.counting.Unlock()
	hours, err := listHours(s.dir)
	if err != nil {
		return 0, err
	}
	known := make(map[string]hourRows, len(hours))
	for _, hour := range hours {
		dir := filepath.Join(s.dir, hour)
		info, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		h, ok := s.counted[hour]
		if !ok || !h.changed.Equal(info.ModTime()) {
			names, err := listHour(dir)
			if err != nil {
				return 0, err
			}
			h = hourRows{changed: info.ModTime()}
			for _, n := range names {
				h.rows += uint64(n.rows)
			}
		}
		sum += h.rows
		if time.Since(h.changed) > stableAfter {
			known[hour] = h
		}
	}
	s.counted = known
	return sum, nil
}
