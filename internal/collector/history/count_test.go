package history_test

import (
	"os"
	"path/filepath"
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
