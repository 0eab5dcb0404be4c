package history_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/pcapper/pcapper/internal/batch"
	"github.com/pcapper/pcapper/internal/history"
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
