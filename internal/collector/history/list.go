package history

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// listHours returns the directories of a store that have committed files, relative to
// the store, by time.
func listHours(dir string) ([]string, error) {
	days, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var hours []string
	for _, day := range days {
		if _, ok := parseHour(day.Name() + "/00"); !ok {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(dir, day.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if hour := day.Name() + "/" + e.Name(); e.IsDir() {
				if _, ok := parseHour(hour); ok {
					hours = append(hours, hour)
				}
			}
		}
	}
	slices.Sort(hours)
	return hours, nil
}

// listHour returns the files to read in an hour's directory, by time, while others may
// compact it. A directory that does not exist has none.
//
// Reading a directory is not atomic. Once two consecutive reads find the same names,
// those were exactly the names at the moment in between: a name is never reused, and
// one that appeared during the first read was seen by the second.
func listHour(dir string) ([]name, error) {
	before, err := readNames(dir)
	for err == nil {
		var now []string
		if now, err = readNames(dir); err != nil || !slices.Equal(before, now) {
			before = now
			continue
		}
		names, err := current(dir, now)
		if !vanished(err) {
			return names, err
		}
		before = nil // a list was removed in the meantime
	}
	if vanished(err) {
		return nil, nil
	}
	return nil, err
}

func vanished(err error) bool { return errors.Is(err, fs.ErrNotExist) }

func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// current returns the files among entries that no other file replaces.
func current(dir string, entries []string) ([]name, error) {
	var names []name
	for _, e := range entries {
		if n, ok := parseName(e); ok {
			names = append(names, n)
		}
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e, replaces)
		if !ok || !hasID(names, id) {
			continue
		}
		gone, err := os.ReadFile(filepath.Join(dir, e))
		if err != nil {
			return nil, err
		}
		old := splitIDs(string(gone))
		names = slices.DeleteFunc(names, func(n name) bool { return slices.Contains(old, n.id) })
	}
	slices.SortFunc(names, func(a, b name) int { return cmp.Or(cmp.Compare(a.min, b.min), cmp.Compare(a.id, b.id)) })
	return names, nil
}

func hasID(names []name, id string) bool {
	return slices.ContainsFunc(names, func(n name) bool { return n.id == id })
}
