package history

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// Query says which records are wanted: those that match every field that is set.
type Query struct {
	// From and To are times of records, To not included. The zero time is no limit.
	From, To time.Time
	Hosts    []string // any of them
	Levels   []batch.Level
	// Addrs is for packets from or to any of them, Src from, Dst to.
	Addrs, Src, Dst []netip.Prefix
	// Ports is likewise.
	Ports, SrcPorts, DstPorts []Span
	Protos                    []Span
	// MGEN is for packets of MGEN flows with these IDs.
	MGEN []Span
	// Flags and Not are bits that must be set, and must not: wire.Outgoing, say.
	Flags, Not wire.Flags
	// Match is asked last, about what matches everything else. It must be safe to
	// call, and must not keep the record.
	Match func(host string, r *wire.Record) bool
}

// Span is numbers from First to Last.
type Span struct{ First, Last uint32 }

func (s Span) has(n uint32) bool { return n >= s.First && n <= s.Last }

// Row is a record and whose it is.
type Row struct {
	Host   string
	Level  batch.Level
	Record wire.Record
}

// Stats is what a query did.
type Stats struct {
	Files  int // of which something was read
	Passed int // files that are of other times, by their names
	Summed int // of Files, those of which the summary told all
	Groups int // row groups read
	Read   int64
	Rows   int64 // that match
	// Damaged are files of which some or all could not be read.
	Damaged []error
}

// Query is Read of the store's directory.
func (s *Store) Query(ctx context.Context, q *Query, each func(rows []Row) error) (Stats, error) {
	return Read(ctx, s.dir, q, each)
}

// Read calls each with the committed records of a store's directory that match, some
// at a time, which are each's until it returns. They come hour by hour as they were
// committed, within an hour file by file, and within a file sorted by host, then time,
// for each 65,536 rows. Others may write to the directory, and compact it, meanwhile:
// each record comes once.
//
// It ends with each's first error, or ctx's. Files that cannot be read are no error,
// but in Stats.
func Read(ctx context.Context, dir string, q *Query, each func(rows []Row) error) (Stats, error) {
	s := &scanner{ctx: ctx, filter: newFilter(q), want: allColumns}
	s.workers = []*worker{{scanner: s, each: each}}
	return s.scan(dir)
}

// scan reads a directory with as many goroutines as there are workers.
func (s *scanner) scan(dir string) (Stats, error) {
	err := s.hours(dir)
	for _, w := range s.workers {
		s.stats.addStats(&w.stats)
	}
	return s.stats, err
}

func (s *Stats) addStats(t *Stats) {
	s.Files += t.Files
	s.Passed += t.Passed
	s.Summed += t.Summed
	s.Groups += t.Groups
	s.Read += t.Read
	s.Rows += t.Rows
	s.Damaged = append(s.Damaged, t.Damaged...)
}

// scanner reads for one query.
type scanner struct {
	ctx       context.Context
	filter    *filter
	want      columnSet  // that records have
	summaries *summaries // nil: it wants records
	workers   []*worker
	stats     Stats // what the workers do not count
}

// source is an open file, and its summary if it has one that is of use.
type source struct {
	name          name
	file, summary *os.File
}

func (s *source) close() {
	s.file.Close()
	if s.summary != nil {
		s.summary.Close()
	}
}

func (s *scanner) hours(dir string) error {
	hours, err := listHours(dir)
	if err != nil {
		return fault.WithHint(err, "name the directory that recollect -store keeps, or its records directory")
	}
	for _, hour := range hours {
		if err := s.hour(filepath.Join(dir, hour)); err != nil {
			return err
		}
	}
	return nil
}

// hour reads the files of a directory. All are opened before one is read, so that
// none is compacted into one that was not.
func (s *scanner) hour(dir string) error {
	files, err := s.openHour(dir)
	defer closeAll(files)
	if err != nil {
		return err
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(s.ctx)
	for _, w := range s.workers {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
				if err := w.source(ctx, &files[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func closeAll(files []source) {
	for i := range files {
		files[i].close()
	}
}

func (s *scanner) openHour(dir string) ([]source, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		files, passed, err := s.tryHour(dir)
		if !vanished(err) {
			s.stats.Passed += passed
			return files, err
		}
		closeAll(files) // one went meanwhile: look again
	}
}

func (s *scanner) tryHour(dir string) (files []source, passed int, err error) {
	names, err := listHour(dir)
	if err != nil {
		return nil, 0, err
	}
	for _, n := range names {
		if !s.filter.overlaps(n.min*1e9, n.max*1e9) {
			passed++
			continue
		}
		f := source{name: n}
		if f.file, err = os.Open(filepath.Join(dir, n.String())); err != nil {
			return files, 0, err
		}
		if s.summaries != nil && s.filter.suits(n) {
			f.summary, _ = os.Open(summaryPath(dir, n.id)) // or the records tell
		}
		files = append(files, f)
	}
	return files, passed, nil
}

// worker reads files, one after the other.
type worker struct {
	*scanner
	each  func(rows []Row) error
	tally func(g *group) error // takes a summary's sums, of which g.chosen match
	stats Stats
	group group // its memory is used again
	rows  []Row
}

func (w *worker) source(ctx context.Context, s *source) error {
	done, err := w.fromSummary(s)
	if done || err != nil {
		return err
	}
	return w.file(ctx, s.file)
}

// file reads the row groups that may have something.
func (w *worker) file(ctx context.Context, open *os.File) error {
	f, err := readMetadata(open)
	if bad := new(FileError); errors.As(err, &bad) {
		w.stats.Damaged = append(w.stats.Damaged, err)
		return nil
	}
	if err != nil {
		return err
	}
	w.stats.Files++
	for i := range f.RowGroups() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !w.group.open(f, i) || !w.filter.mayHave(&w.group) {
			continue
		}
		w.stats.Groups++
		w.stats.Read += int64(w.group.rows)
		if err := w.filter.choose(&w.group); err != nil {
			w.stats.Damaged = append(w.stats.Damaged, &FileError{f.path, err})
			continue
		}
		if err := w.emit(f); err != nil {
			return err
		}
	}
	return nil
}

// emit makes rows of those that were chosen.
func (w *worker) emit(f *dataFile) error {
	if len(w.group.chosen) == 0 {
		return nil
	}
	if err := w.group.load(w.want); err != nil {
		w.stats.Damaged = append(w.stats.Damaged, &FileError{f.path, err})
		return nil
	}
	if w.rows == nil {
		w.rows = make([]Row, 0, rowBuffer)
	}
	for _, at := range w.group.chosen {
		w.rows = w.rows[:len(w.rows)+1]
		last := &w.rows[len(w.rows)-1]
		w.group.row(int(at), last)
		if w.filter.match != nil && !w.filter.match(last.Host, &last.Record) {
			w.rows = w.rows[:len(w.rows)-1]
		}
		if len(w.rows) == rowBuffer {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return w.flush()
}

func (w *worker) flush() error {
	if len(w.rows) == 0 {
		return nil
	}
	w.stats.Rows += int64(len(w.rows))
	err := w.each(w.rows)
	w.rows = w.rows[:0]
	return err
}
