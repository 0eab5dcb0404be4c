package history

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

type testRow struct {
	Time  int64      `parquet:"time,timestamp(nanosecond)"`
	Name  string     `parquet:"name,dict"`
	Parts []testPart `parquet:"parts,list"`
}

type testPart struct {
	N    int64  `parquet:"n"`
	Text string `parquet:"text,dict"`
}

func openTestTable(t *testing.T, dir string) *Table[testRow] {
	t.Helper()
	s, err := OpenTable(dir, "test", Config{Logf: t.Logf}, func(r *testRow) (int64, int64) { return r.Time, r.Time + 1e9 })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// readTest checks that rows are read with all their parts, each once, and gives their number.
func readTest(t *testing.T, dir string, from, to int64) int {
	t.Helper()
	had := map[int64]bool{}
	damaged, err := ReadTable(t.Context(), dir, "test", from, to, func(rows []testRow) error {
		for _, r := range rows {
			k := r.Time / 1e9
			if had[k] || r.Name != fmt.Sprint("name", k%3) || len(r.Parts) != int(k%4) || len(r.Parts) > 0 && r.Parts[len(r.Parts)-1] != (testPart{k % 4, "x"}) {
				t.Errorf("row %+v, had before: %v", r, had[k])
			}
			had[k] = true
		}
		return nil
	})
	if err != nil || damaged != nil {
		t.Errorf("%v, damaged %v", err, damaged)
	}
	return len(had)
}

// TestTable: a table's rows are read once each, before and after compaction and in another life; what
// was not committed is gone, and a damaged file is set aside.
func TestTable(t *testing.T) {
	dir := t.TempDir()
	s := openTestTable(t, dir)
	const files, each = 9, 100
	for i := range files {
		rows := make([]testRow, each)
		for k := range rows {
			n := int64(i*each + k)
			rows[k] = testRow{Time: n * 1e9, Name: fmt.Sprint("name", n%3)}
			for p := range n % 4 {
				rows[k].Parts = append(rows[k].Parts, testPart{p + 1, "x"})
			}
		}
		for _, part := range [][]testRow{rows[:30], rows[30:]} {
			if lost, err := s.Add(part); err != nil || lost != 0 {
				t.Fatal(lost, err)
			}
		}
		if s.Added() != each {
			t.Errorf("%d rows added, want %d", s.Added(), each)
		}
		if lost, err := s.Commit(); err != nil || lost != 0 {
			t.Fatal(lost, err)
		}
	}
	if got := readTest(t, dir, 0, 1<<62); got != files*each {
		t.Errorf("%d rows, want %d", got, files*each)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	hours, _ := listHours(dir)
	left := 0
	for _, hour := range hours {
		names, err := listHour(filepath.Join(dir, hour))
		if err != nil {
			t.Fatal(err)
		}
		left += len(names)
	}
	if left >= files || s.Status().Compacted == 0 {
		t.Errorf("%d files after compaction, %d compacted", left, s.Status().Compacted)
	}
	if got := readTest(t, dir, 0, 1<<62); got != files*each {
		t.Errorf("%d rows after compaction, want %d", got, files*each)
	}
	if got := readTest(t, dir, 850e9, 1<<62); got < 50 || got == files*each {
		t.Errorf("%d rows of files that reach beyond 850 s", got)
	}
	var names []string
	if _, err := ReadTable(t.Context(), dir, "test", 0, 10e9, func(rows []struct {
		Name string `parquet:"name,dict"`
	}) error {
		names = append(names, rows[4].Name)
		return nil
	}); err != nil || names[0] != "name1" {
		t.Errorf("one column: %v, %v", names, err)
	}
	if _, err := s.Add([]testRow{{Time: 1e15}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	pending := filepath.Join(dir, pendingDir, nameOf(0, 1, 0, 5, "cut").String())
	if err := os.WriteFile(pending, []byte("PAR1 cut short PAR1"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openTestTable(t, dir)
	if got := readTest(t, dir, 0, 1<<62); got != files*each || len(s.Status().Damaged) != 1 {
		t.Errorf("%d rows in another life, damaged: %v", got, s.Status().Damaged)
	}
	if c, err := s.Count(); err != nil || c.Held != files*each {
		t.Errorf("count %+v, %v", c, err)
	}
	s.Close()
	if _, err := ReadTable(t.Context(), dir, "another", 0, time.Now().UnixNano(), func([]testRow) error { return nil }); err != nil {
		t.Error(err)
	}
	if damaged, _ := ReadTable(t.Context(), dir, "another", 0, time.Now().UnixNano(), func([]testRow) error { return nil }); len(damaged) == 0 {
		t.Error("files of another table were read")
	}
}

// TestTableDiskFull: rows that cannot be written are told, and nothing is left of them.
func TestTableDiskFull(t *testing.T) {
	dir := t.TempDir()
	s := openTestTable(t, dir)
	if lost, err := s.Add([]testRow{{Time: 1}}); lost != 0 || err != nil {
		t.Fatal(lost, err)
	}
	if err := s.file.f.Close(); err != nil { // as good as a disk that is full
		t.Fatal(err)
	}
	if lost, err := s.Commit(); lost != 1 || err == nil {
		t.Errorf("%d lost, %v", lost, err)
	}
	if lost, err := s.Add([]testRow{{Time: 2}}); lost != 0 || err != nil {
		t.Fatal(lost, err)
	}
	if lost, err := s.Commit(); lost != 0 || err != nil || s.Added() != 0 {
		t.Errorf("%d lost, %v", lost, err)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, tmpDir)); len(entries) != 0 {
		t.Errorf("left in tmp: %v", entries)
	}
}
