package history

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// maintainEvery is how often Run looks.
const maintainEvery = 10 * time.Second

// Maintain compacts what can be, and removes what is not to be kept: what Run does
// every ten seconds. It is for one goroutine.
func (s *Store) Maintain(ctx context.Context) error {
	return s.retain(time.Now())
}

// endReplacing ends a compaction: what a list names is removed, then the list. A
// list whose file is not there means nothing.
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
			if err := os.Remove(filepath.Join(dir, n.String())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := syncDir(dir); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(filepath.Join(dir, list)), syncDir(dir))
}
