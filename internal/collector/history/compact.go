package history

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// maintainEvery is the interval at which Run calls Maintain.
	maintainEvery = 10 * time.Second
	// fanIn is the number of files of a generation that are compacted into one of the
	// next.
	fanIn = 8
	// maxCursors bounds the number of sorted runs merged at once: each has a row group
	// in memory, of 5 MB.
	maxCursors = 12
	// compactRows is the maximum number of rows in a file created by compaction.
	compactRows = 1 << 22
	// settle is how long after its end an hour is considered complete.
	settle = 2 * time.Minute
)

// Maintain compacts files where possible, and removes what is beyond the limits of
// Keep. Run calls it every ten seconds. It must not be called concurrently.
func (s *Store) Maintain(ctx context.Context) error {
	now := time.Now()
	err := errors.Join(s.retain(now), s.pruneGaps(now))
	hours, err2 := listHours(s.dir)
	for _, hour := range hours {
		if _, done := s.settled[hour]; !done && err2 == nil {
			err2 = s.compactHour(ctx, hour, now)
		}
	}
	if err2 == nil && !s.renewed {
		err2 = s.renewSummary(ctx, hours)
	}
	return errors.Join(err, err2)
}

// renewSummary makes the newest summary of an earlier format again, as Parquet: one at a
// time, since it has to read the records.
func (s *Store) renewSummary(ctx context.Context, hours []string) error {
	for _, hour := range slices.Backward(hours) {
		dir := filepath.Join(s.dir, hour)
		names, err := listHour(dir)
		if err != nil {
			return err
		}
		for _, n := range names {
			if path := summaryPath(dir, n.id); isOldSummary(path) {
				delete(s.settled, hour) // its size will change
				return s.summarize(ctx, filepath.Join(dir, n.String()), path)
			}
		}
	}
	s.renewed = true
	return nil
}

// summarize replaces the summary of a file. A damaged file gets none.
func (s *Store) summarize(ctx context.Context, file, summary string) error {
	tmp := filepath.Join(s.dir, tmpDir, filepath.Base(summary))
	s.summarizer.reset()
	err := s.summarizer.readFile(ctx, file)
	if bad := new(FileError); errors.As(err, &bad) {
		return os.Remove(summary)
	}
	if err != nil {
		return err
	}
	s.summarizer.write(tmp)
	if err := os.Rename(tmp, summary); !vanished(err) {
		return err
	}
	return os.Remove(summary) // there is none to be made
}

// compactHour compacts until there is nothing left to compact.
func (s *Store) compactHour(ctx context.Context, hour string, now time.Time) error {
	dir := filepath.Join(s.dir, hour)
	start, _ := parseHour(hour)
	over := now.After(start.Add(time.Hour + settle))
	for ctx.Err() == nil {
		names, err := listHour(dir)
		if err != nil {
			return err
		}
		some := s.pick(hour, names, over)
		if some == nil {
			if over {
				s.settled[hour] = dirSize(dir)
			}
			return nil
		}
		err = s.compact(ctx, dir, some)
		if bad := new(FileError); errors.As(err, &bad) {
			s.distrust(bad)
			continue
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pick returns files to compact into one: fanIn of the same generation or, in a
// complete hour, any. It returns nil if there are none.
func (s *Store) pick(hour string, names []name, over bool) []name {
	byAge := make(map[int][]name)
	for _, n := range names {
		if s.distrusted(filepath.Join(hour, n.String())) || n.rows > compactRows/2 {
			continue
		}
		g := n.generation
		if over {
			g = 0
		}
		byAge[g] = append(byAge[g], n)
	}
	for _, list := range byAge {
		some := fitOneFile(list)
		if len(some) >= fanIn || len(some) > 1 && (over || len(some) < len(list)) {
			return some
		}
	}
	return nil
}

// fitOneFile returns as many of list, from the first, as can become one file.
func fitOneFile(list []name) []name {
	var rows int64
	runs := 0
	for i, n := range list {
		rows += n.rows
		runs += n.runs()
		if i == fanIn || rows > compactRows || runs > maxCursors {
			return list[:i]
		}
	}
	return list
}

// runs returns the number of sorted runs in a file: see Segment.
func (n name) runs() int {
	if n.generation > 0 {
		return 1
	}
	return int((n.rows + sortRows - 1) / sortRows)
}

// distrust marks a file that turned out to be damaged, which is then left alone.
func (s *Store) distrust(bad *FileError) {
	file, err := filepath.Rel(s.dir, bad.File)
	if err != nil {
		file = bad.File
	}
	s.mu.Lock()
	s.status.Damaged = append(s.status.Damaged, file)
	s.broken[file] = true
	s.mu.Unlock()
	s.cfg.Logf("history: %v; it stays, and is not compacted", bad)
}

func (s *Store) distrusted(file string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken[file]
}

// compact compacts several files in a directory into one. The error is a *FileError if
// one of them is damaged.
func (s *Store) compact(ctx context.Context, dir string, old []name) error {
	id := newID("m")
	tmp := filepath.Join(s.dir, tmpDir, id+suffix)
	n, err := s.merge(ctx, dir, old, tmp, id)
	if err != nil {
		return err
	}
	if err := s.replace(dir, tmp, n, old); err != nil {
		os.Remove(tmp)
		if _, there := os.Lstat(filepath.Join(dir, n.String())); there != nil {
			return errors.Join(err, removeSummary(dir, id))
		}
		return err
	}
	s.mu.Lock()
	s.status.Compacted += uint64(len(old))
	s.mu.Unlock()
	return nil
}

// merge makes a file of others, and of records its summary.
func (s *Store) merge(ctx context.Context, dir string, old []name, tmp, id string) (name, error) {
	if s.cfg.table != nil {
		return s.cfg.table.merge(ctx, dir, old, tmp, id)
	}
	out, err := newOutput(tmp)
	if err != nil {
		return name{}, err
	}
	out.summary = s.summarizer
	out.summary.reset()
	n, err := mergeFiles(ctx, dir, old, id, out)
	if err != nil {
		out.file.remove()
		return n, err
	}
	out.summary.write(summaryPath(dir, id))
	return n, nil
}

// replace replaces files with another one, with a single rename.
func (s *Store) replace(dir, tmp string, n name, old []name) error {
	ids := make([]string, len(old))
	for i := range old {
		ids[i] = old[i].id
	}
	list := n.id + replaces
	if err := writeFile(filepath.Join(s.dir, tmpDir, list), joinIDs(ids)); err != nil {
		return err
	}
	if err := move(filepath.Join(s.dir, tmpDir, list), filepath.Join(dir, list)); err != nil {
		return err
	}
	if err := move(tmp, filepath.Join(dir, n.String())); err != nil {
		if _, there := os.Lstat(tmp); there == nil { // nothing has happened yet
			os.Remove(filepath.Join(dir, list))
		}
		return err
	}
	return s.endReplacing(dir, list)
}

// endReplacing completes a compaction: it removes the files on a list, then the list. A
// list whose file does not exist is void.
func (s *Store) endReplacing(dir, list string) error {
	entries, err := readNames(dir)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, list))
	if err != nil {
		return err
	}
	var names []name
	for _, e := range entries {
		if n, ok := parseName(e); ok {
			names = append(names, n)
		}
	}
	if hasID(names, list[:len(list)-len(replaces)]) {
		old := make(map[string]bool)
		for _, id := range splitIDs(string(text)) {
			old[id] = true
		}
		for _, n := range names {
			if !old[n.id] {
				continue
			}
			if err := removeFile(dir, n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(filepath.Join(dir, list)), syncDir(dir))
}
