package history_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pcapper/pcapper/internal/collector/history"
)

// TestCount: rows are where they were put, whoever sealed them; those of a directory that others have
// removed are counted as such, also once it is there again.
func TestCount(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "records")
	s := open(t, dir, history.Config{})
	commit(t, s, "a-1", makeBatch("n1", 0, 10))
	seal(t, s, "a-2", makeBatch("n1", 10, 20))
	want := func(want history.Count) {
		t.Helper()
		if got, err := s.Count(); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	want(history.Count{Committed: 10, Held: 10})
	s.Close()
	s = open(t, dir, history.Config{})
	if err := s.Commit("a-2"); err != nil {
		t.Fatal(err)
	}
	want(history.Count{AtOpen: 10, Committed: 20, Recovered: 20, Held: 30})
	days, err := filepath.Glob(filepath.Join(dir, "2*"))
	if err != nil || len(days) == 0 {
		t.Fatal(days, err)
	}
	for _, day := range days {
		if err := os.RemoveAll(day); err != nil {
			t.Fatal(err)
		}
	}
	want(history.Count{AtOpen: 10, Committed: 20, Recovered: 20, Removed: 30})
	commit(t, s, "a-3", makeBatch("n1", 30, 5))
	want(history.Count{AtOpen: 10, Committed: 25, Recovered: 20, Removed: 30, Held: 5})
}

// TestCountTogether: segments that are committed at the same time all find that there is
// no directory yet. None of them takes the others' rows for removed.
func TestCountTogether(t *testing.T) {
	for range 30 {
		s := open(t, filepath.Join(t.TempDir(), "records"), history.Config{})
		ids := []string{"a", "b", "c", "d"}
		for i, id := range ids {
			seal(t, s, id, makeBatch("n1", uint64(10*i), 10))
		}
		var all sync.WaitGroup
		for _, id := range ids {
			all.Go(func() {
				if err := s.Commit(id); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got, err := s.Count(); err != nil || got.Removed != 0 || got.Held != 40 {
			t.Fatalf("got %+v, %v, want 40 rows held and none removed", got, err)
		}
		s.Close()
	}
}
