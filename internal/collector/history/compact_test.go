package history_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire/batch"
)

func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	var all []*batch.Batch
	for i := range 70 {
		b := makeBatch(fmt.Sprintf("n%d", i%3), uint64(i)*100, 100)
		commit(t, s, fmt.Sprintf("s%d", i), b)
		all = append(all, b)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) > 14 {
		t.Errorf("still %d files: %v", len(got), got)
	}
	got, _ := read(t, dir, &history.Query{})
	if !slices.Equal(sorted(got), sorted(rowsOf(all...))) {
		t.Errorf("%d rows instead of %d, or others", len(got), 7000)
	}
	for i := range 70 { // compacted is committed
		if err := s.Commit(fmt.Sprintf("s%d", i)); err != nil {
			t.Error(err)
		}
	}
	s.Close()
	s = open(t, dir, history.Config{})
	for i := range 70 {
		if err := s.Commit(fmt.Sprintf("s%d", i)); err != nil {
			t.Error(err)
		}
	}
}

// TestCompactionOfPastHours makes files of an hour that is over one, and leaves a
// damaged one as it is.
func TestCompactionOfPastHours(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	var all []*batch.Batch
	for i := range 5 {
		b := makeBatch(fmt.Sprintf("n%d", i%2), uint64(i)*2000, 2000)
		commit(t, s, fmt.Sprintf("s%d", i), b)
		if i != 2 {
			all = append(all, b)
		}
	}
	old := filepath.Join(dir, "2001-02-03", "04")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	var bad string
	for _, f := range files(t, dir) {
		to := filepath.Join(old, filepath.Base(f))
		if err := os.Rename(filepath.Join(dir, f), to); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, "_s2.parquet") {
			bad = to
		}
	}
	data, err := os.ReadFile(bad)
	if err != nil {
		t.Fatal(err)
	}
	data[200] ^= 0xff // in a page
	if err := os.WriteFile(bad, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := files(t, dir); len(got) != 2 {
		t.Errorf("files: %v", got)
	}
	if st := s.Status(); st.Compacted != 4 || len(st.Damaged) != 1 || filepath.Base(st.Damaged[0]) != filepath.Base(bad) {
		t.Errorf("%+v", st)
	}
	var rows []history.Row
	stats, err := s.Query(context.Background(), &history.Query{}, func(r []history.Row) error {
		rows = append(rows, r...)
		return nil
	})
	if err != nil || len(stats.Damaged) != 1 || !strings.Contains(stats.Damaged[0].Error(), bad) {
		t.Error(stats, err)
	}
	if !slices.Equal(sorted(rows), sorted(rowsOf(all...))) {
		t.Errorf("%d rows, or others", len(rows))
	}
}
