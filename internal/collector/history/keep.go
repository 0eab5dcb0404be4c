package history

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Keep is what is kept: what is older, or more, is removed, the oldest first.
type Keep struct {
	// Age is since a file was committed: 0 is no limit. Whole hours are removed.
	Age time.Duration
	// Size of all committed files in bytes; 0 is any.
	Size int64
}

var keepUnits = map[string]time.Duration{"h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
var sizeUnits = map[string]int64{"MB": 1e6, "GB": 1e9, "TB": 1e12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// ParseKeep reads an age, a size, or both: 7d,50GB. Ages are in hours, days and
// weeks (h, d, w), sizes in MB, GB, TB, MiB, GiB, TiB.
func ParseKeep(text string) (k Keep, err error) {
	for part := range strings.SplitSeq(text, ",") {
		number := strings.TrimRight(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
		n, err := strconv.ParseInt(number, 10, 32)
		age, size := keepUnits[part[len(number):]], sizeUnits[part[len(number):]]
		if err != nil || n <= 0 || age == 0 && size == 0 || age != 0 && k.Age != 0 || size != 0 && k.Size != 0 {
			return Keep{}, fmt.Errorf("keep %q: want an age in h, d or w, a size in MB, GB or TB, or both, as 7d,50GB", text)
		}
		k.Age, k.Size = cmp.Or(k.Age, time.Duration(n)*age), cmp.Or(k.Size, n*size)
	}
	return k, nil
}

// kept is an hour and its size.
type kept struct {
	hour string
	size int64
}

// retain removes whole hours that are too old, and files, oldest first, until the
// rest is small enough.
func (s *Store) retain(now time.Time) error {
	hours, err := listHours(s.dir)
	if err != nil {
		return err
	}
	var list []kept
	var size int64
	for _, hour := range hours {
		h := kept{hour, s.hourSize(hour)}
		start, _ := parseHour(hour)
		if s.cfg.Keep.Age != 0 && start.Add(time.Hour+s.cfg.Keep.Age).Before(now) {
			if _, err := s.retire(h, h.size); err != nil {
				return err
			}
			continue
		}
		list = append(list, h)
		size += h.size
	}
	for _, h := range list {
		if s.cfg.Keep.Size == 0 || size <= s.cfg.Keep.Size {
			break
		}
		freed, err := s.retire(h, size-s.cfg.Keep.Size)
		if err != nil {
			return err
		}
		size -= freed
	}
	s.mu.Lock()
	s.status.Size = size
	s.mu.Unlock()
	return nil
}

// retire removes files of an hour, oldest first, until enough bytes are free.
func (s *Store) retire(h kept, enough int64) (freed int64, err error) {
	delete(s.settled, h.hour)
	dir := filepath.Join(s.dir, h.hour)
	names, err := listHour(dir)
	if err != nil {
		return 0, err
	}
	for _, n := range names {
		if freed >= enough {
			return freed, nil
		}
		path := filepath.Join(dir, n.String())
		info, err := os.Stat(path)
		if err != nil {
			return freed, err
		}
		freed += info.Size()
		if summary, err := os.Stat(summaryPath(dir, n.id)); err == nil {
			freed += summary.Size()
		}
		if err := removeFile(dir, n); err != nil {
			return freed, err
		}
		s.mu.Lock()
		s.status.Retired++
		s.status.RetiredRows += uint64(n.rows)
		s.mu.Unlock()
	}
	return freed, s.removeEmpty(h.hour)
}

// removeEmpty removes an hour's directory that has no files, and its day's. The
// current hour's stays.
func (s *Store) removeEmpty(hour string) error {
	if hour >= time.Now().UTC().Format(hourLayout) {
		return nil
	}
	for _, dir := range []string{hour, filepath.Dir(hour)} {
		err := os.Remove(filepath.Join(s.dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil // not empty: the next hour's, or somebody else's files
		}
	}
	return syncDir(s.dir)
}

func (s *Store) hourSize(hour string) int64 {
	if size, ok := s.settled[hour]; ok {
		return size
	}
	return dirSize(filepath.Join(s.dir, hour))
}

func dirSize(dir string) (size int64) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}
