package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/parquet-go/parquet-go"
)

// metaTable is what a table's files are of; files of records have none.
const metaTable = "pcapper.table"

// A Table is a Store of other rows than records: T is a struct with tags for Parquet. It has the
// same directory, compaction and retention. One goroutine adds rows.
type Table[T any] struct {
	*Store
	span func(*T) (from, to int64)

	file     *file
	rows     *parquet.GenericWriter[T]
	id       string
	added    int64 // rows of file
	min, max int64
}

// table is what a Store needs to know of a Table.
type table interface {
	title() string
	merge(ctx context.Context, dir string, old []name, out, id string) (name, error)
}

type titled[T any] struct{ name string }

// OpenTable is Open for rows of a kind that name tells. span is the time of a row: the first and
// the last nanosecond.
func OpenTable[T any](dir, name string, cfg Config, span func(*T) (from, to int64)) (*Table[T], error) {
	cfg.table = titled[T]{name}
	s, err := Open(dir, cfg)
	if err != nil {
		return nil, err
	}
	return &Table[T]{Store: s, span: span}, nil
}

func newTableWriter[T any](w io.Writer, name string) *parquet.GenericWriter[T] {
	p := parquet.NewGenericWriter[T](w, writerOptions(parquet.MaxRowsPerRowGroup(groupRows))...)
	p.SetKeyValueMetadata(metaVersion, "1")
	p.SetKeyValueMetadata(metaTable, name)
	return p
}

// Add writes rows to a file that Commit ends. After an error nothing is left of that file, and lost
// is how many rows it had, these included.
func (t *Table[T]) Add(rows []T) (lost int64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	if t.file == nil {
		t.id = newID("t")
		if t.file, err = createFile(filepath.Join(t.dir, tmpDir, t.id+suffix)); err != nil {
			return int64(len(rows)), t.explain(err)
		}
		t.rows, t.added = newTableWriter[T](t.file, t.cfg.table.title()), 0
		t.min, t.max = t.span(&rows[0])
	}
	for i := range rows {
		from, to := t.span(&rows[i])
		t.min, t.max = min(t.min, from), max(t.max, to)
	}
	t.added += int64(len(rows))
	if _, err := t.rows.Write(rows); err != nil {
		return t.abort(err)
	}
	return 0, nil
}

func (t *Table[T]) abort(err error) (lost int64, _ error) {
	t.file.remove()
	t.file = nil
	return t.added, t.explain(err)
}

// Commit makes the rows that were added part of what Read sees, for good. After an error nothing is
// left of them, and lost is how many there were.
func (t *Table[T]) Commit() (lost int64, err error) {
	if t.file == nil {
		return 0, nil
	}
	if err := errors.Join(t.rows.Close(), t.file.finish()); err != nil {
		return t.abort(err)
	}
	n := nameOf(t.min, t.max, 0, t.added, t.id)
	if err := move(t.file.f.Name(), filepath.Join(t.dir, pendingDir, n.String())); err != nil {
		return t.abort(err)
	}
	t.file = nil
	t.sealed(n)
	if err := t.Store.Commit(n.id); err != nil {
		return t.added, errors.Join(err, t.Discard(n.id))
	}
	return 0, nil
}

// Added is how many rows were added since the last Commit.
func (t *Table[T]) Added() int64 {
	if t.file == nil {
		return 0
	}
	return t.added
}

func newID(kind string) string {
	return fmt.Sprintf("%s%x-%08x", kind, time.Now().UnixNano(), rand.Uint32())
}

func (t titled[T]) title() string { return t.name }

// merge makes one file of others, one after the other.
func (t titled[T]) merge(ctx context.Context, dir string, old []name, out, id string) (n name, err error) {
	f, err := createFile(out)
	if err != nil {
		return n, err
	}
	defer func() {
		if err != nil {
			f.remove()
		}
	}()
	w := newTableWriter[T](f, t.name)
	n = name{min: old[0].min, max: old[0].max, id: id}
	var want int64
	for _, o := range old {
		want += o.rows
		n.min, n.max, n.generation = min(n.min, o.min), max(n.max, o.max), max(n.generation, o.generation+1)
		r, err := openTable(filepath.Join(dir, o.String()), t.name)
		if err != nil {
			return n, err
		}
		err = eachRows(ctx, r, func(rows []T) error {
			n.rows += int64(len(rows))
			_, err := w.Write(rows)
			return err
		})
		r.close()
		if err != nil {
			return n, err
		}
	}
	if n.rows != want {
		return n, fmt.Errorf("compaction turned %[2]d rows into %[1]d: discarded", n.rows, want)
	}
	return n, errors.Join(w.Close(), f.finish())
}

// eachRows gives a file's rows, some at a time. The error is a *FileError if the file is damaged.
func eachRows[T any](ctx context.Context, r *dataFile, each func(rows []T) error) (err error) {
	defer func() {
		if x := recover(); x != nil { // the library's answer to some garbage
			err = &FileError{r.path, fmt.Errorf("no such rows: %v", x)}
		}
	}()
	rows := parquet.NewGenericReader[T](r.File)
	defer rows.Close()
	buf := make([]T, rowBuffer)
	for {
		clear(buf) // Read keeps what it finds in slices
		n, err := rows.Read(buf)
		if n > 0 {
			if err := each(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &FileError{r.path, err}
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// openTable opens a file of a table.
func openTable(path, table string) (*dataFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := readTable(f, table)
	if err != nil {
		f.Close()
	}
	return r, err
}

func readTable(f *os.File, table string) (*dataFile, error) {
	p, err := parquetFile(f)
	if err != nil {
		return nil, &FileError{f.Name(), err}
	}
	if have, _ := p.Lookup(metaTable); have != table {
		return nil, &FileError{f.Name(), fmt.Errorf("its %s is %q instead of %q", metaTable, have, table)}
	}
	return &dataFile{p, f, f.Name()}, nil
}

// ReadTable calls each with the committed rows of files of a table that have any of a time, from the
// one and before the other nanosecond, some at a time, oldest files first. It may have fewer columns
// than T has. Others may write to the directory meanwhile. Damaged files are no error, but returned.
func ReadTable[T any](ctx context.Context, dir, table string, from, to int64, each func(rows []T) error) (damaged []error, err error) {
	hours, err := listHours(dir)
	if err != nil {
		return nil, err
	}
	s := scanner{ctx: ctx, filter: &filter{from: from, to: to}}
	for _, hour := range hours {
		files, err := s.openHour(filepath.Join(dir, hour))
		if err != nil {
			closeAll(files)
			return damaged, err
		}
		for i := range files {
			err := readOne(ctx, files[i].file, table, each)
			if bad := new(FileError); errors.As(err, &bad) {
				damaged, err = append(damaged, bad), nil
			}
			if err != nil {
				closeAll(files[i:])
				return damaged, err
			}
			files[i].close()
		}
	}
	return damaged, nil
}

func readOne[T any](ctx context.Context, f *os.File, table string, each func(rows []T) error) error {
	r, err := readTable(f, table)
	if err != nil {
		return err
	}
	return eachRows(ctx, r, each)
}
