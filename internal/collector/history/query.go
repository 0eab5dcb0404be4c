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

// Query selects records: those that match every field that is set.
type Query struct {
	// From and To are times of records; To is exclusive. A zero time means no limit.
	From, To time.Time
	Hosts    []string // any of these
	Levels   []batch.Level
	// Addrs matches packets from or to any of the prefixes, Src those from, and Dst
	// those to.
	Addrs, Src, Dst []netip.Prefix
	// Ports, SrcPorts, and DstPorts work likewise.
	Ports, SrcPorts, DstPorts []Span
	Protos                    []Span
	// MGEN matches packets of MGEN flows with these IDs.
	MGEN []Span
	// Flags must be set, and Not must not be set, for example wire.Outgoing.
	Flags, Not wire.Flags
	// Match is called last, for records that match everything else. It must be safe for
	// concurrent use, and must not keep the record.
	Match func(host string, r *wire.Record) bool
}

// Span is the numbers from First to Last.
type Span struct{ First, Last uint32 }

func (s Span) has(n uint32) bool { return n >= s.First && n <= s.Last }

// Row is a record and its host.
type Row struct {
	Host   string
	Level  batch.Level
	Record wire.Record
}

// Stats describes the execution of a query.
type Stats struct {
	Files  int // of which something was read
	Passed int // files skipped because of the times in their names
	Summed int // of Files, those answered from the summary alone
	Groups int // row groups read
	Read   int64
	Rows   int64 // that match
	// Damaged has an error for each file that could not be read completely.
	Damaged []error
}

// Query is Read for the store's directory.
func (s *Store) Query(ctx context.Context, q *Query, each func(rows []Row) error) (Stats, error) {
	return Read(ctx, s.dir, q, each)
}

// Read calls each with the matching committed records of a store's directory, some at a
// time; the slice is valid until each returns. Records come hour by hour in the order
// of commit, within an hour file by file, and within a file sorted by host and then
// time, in runs of 65,536 rows. The directory may be written to and compacted at the
// same time: each record is returned once.
//
// It returns each's first error, or ctx's. Files that cannot be read are reported in
// Stats instead.
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
	want      columnSet  // columns of the records that are needed
	summaries *summaries // nil if records are needed
	workers   []*worker
	stats     Stats // what the workers do not count
}

// source is an open file, and its summary if it has a usable one.
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

// hour reads the files of a directory.
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

// openHour opens all files of a directory before the first is read, so that none can be
// compacted into a file that was not opened. After an error, some may be open.
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
		closeAll(files) // one has disappeared in the meantime: list again
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
			f.summary, _ = os.Open(summaryPath(dir, n.id)) // without it, the records are read
		}
		files = append(files, f)
	}
	return files, passed, nil
}

// worker reads files, one after another.
type worker struct {
	*scanner
	each  func(rows []Row) error
	tally func(g *group) error // receives a summary's sums, of which g.chosen match
	stats Stats
	group group // reused
	rows  []Row
}

func (w *worker) source(ctx context.Context, s *source) error {
	done, err := w.fromSummary(s)
	if done || err != nil {
		return err
	}
	return w.file(ctx, s.file)
}

// file reads the row groups that may contain matching records.
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
