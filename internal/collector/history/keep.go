package history

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Keep limits what is kept: what exceeds a limit is removed, oldest first.
type Keep struct {
	// Age since a file was committed; 0 means no limit. Whole hours are removed.
	Age time.Duration
	// Size of all committed files in bytes; 0 means no limit.
	Size int64
}

// ParseKeep parses an age of at least an hour, a size, or both: 7d,50GB. Units are
// those of option.ParseDuration and option.ParseSize.
func ParseKeep(text string) (k Keep, err error) {
	for part := range strings.SplitSeq(text, ",") {
		age, notAge := option.ParseDuration(part)
		size, notSize := option.ParseSize(part)
		switch {
		case notAge == nil && age >= time.Hour && k.Age == 0:
			k.Age = age
		case notSize == nil && size > 0 && !option.IsDigits(part) && k.Size == 0:
			k.Size = size
		default:
			return Keep{}, fmt.Errorf("keep %q: want an age such as 36h, 7d or 2w, a size such as 50GB, or both, as 7d,50GB", text)
		}
	}
	return k, nil
}

// kept is an hour and its size.
type kept struct {
	hour string
	size int64
}

// retain removes whole hours that are too old, and then files, oldest first, until the
// rest is within the size limit.
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

// retire removes files of an hour, oldest first, until enough bytes have been freed.
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
		s.hours[h.hour] -= min(uint64(n.rows), s.hours[h.hour])
		s.mu.Unlock()
	}
	return freed, s.removeEmpty(h.hour)
}

// removeEmpty removes an hour's directory without files, and its day's if that is
// empty. The current hour's is kept.
func (s *Store) removeEmpty(hour string) error {
	if hour >= time.Now().UTC().Format(hourLayout) {
		return nil
	}
	for _, dir := range []string{hour, filepath.Dir(hour)} {
		err := os.Remove(filepath.Join(s.dir, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil // not empty: another hour, or other files
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
