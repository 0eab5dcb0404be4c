package history

import (
	"context"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/pcapper/pcapper/internal/batch"
	"github.com/pcapper/pcapper/wire"
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
	Files  int // opened
	Passed int // files that were not, by their names
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
	return scan(ctx, dir, q, allColumns, each)
}

// scan is Read with only some columns in the records.
func scan(ctx context.Context, dir string, q *Query, want columnSet, each func(rows []Row) error) (Stats, error) {
	s := &scanner{ctx: ctx, filter: newFilter(q), each: each}
	s.want = want
	if q.Match != nil {
		s.want = allColumns
	}
	hours, err := listHours(dir)
	if err != nil {
		return s.stats, &Error{err, "name the directory that recollect -store keeps, or its records directory"}
	}
	for _, hour := range hours {
		if err := s.hour(filepath.Join(dir, hour)); err != nil {
			return s.stats, err
		}
	}
	return s.stats, nil
}

// scanner reads for one query.
type scanner struct {
	ctx    context.Context
	filter *filter
	want   columnSet
	each   func(rows []Row) error
	stats  Stats
	group  group // its memory is used again
	rows   []Row
}

// hour reads the files of a directory. All are opened before one is read, so that
// none is compacted into one that was not.
func (s *scanner) hour(dir string) error {
	files, err := s.openHour(dir)
	defer func() {
		for _, f := range files {
			f.close()
		}
	}()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := s.file(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) openHour(dir string) ([]*reader, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		before := s.stats
		files, err := s.tryHour(dir)
		if !vanished(err) {
			return files, err
		}
		for _, f := range files {
			f.close()
		}
		s.stats = before // a file went meanwhile: look again
	}
}

func (s *scanner) tryHour(dir string) (files []*reader, err error) {
	names, err := listHour(dir)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if !s.filter.overlaps(n.min*1e9, n.max*1e9) {
			s.stats.Passed++
			continue
		}
		f, err := openParquet(filepath.Join(dir, n.String()))
		if bad, ok := err.(*FileError); ok {
			s.stats.Damaged = append(s.stats.Damaged, bad)
			continue
		}
		if err != nil {
			return files, err
		}
		s.stats.Files++
		files = append(files, f)
	}
	return files, nil
}

// file reads the row groups that may have something.
func (s *scanner) file(f *reader) error {
	for i := range f.RowGroups() {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if !s.group.open(f, i) || !s.filter.mayHave(&s.group) {
			continue
		}
		s.stats.Groups++
		s.stats.Read += int64(s.group.rows)
		if err := s.filter.choose(&s.group); err != nil {
			s.stats.Damaged = append(s.stats.Damaged, &FileError{f.path, err})
			continue
		}
		if err := s.emit(f); err != nil {
			return err
		}
	}
	return nil
}

// emit makes rows of those that were chosen.
func (s *scanner) emit(f *reader) error {
	if len(s.group.chosen) == 0 {
		return nil
	}
	if err := s.group.load(s.want); err != nil {
		s.stats.Damaged = append(s.stats.Damaged, &FileError{f.path, err})
		return nil
	}
	if s.rows == nil {
		s.rows = make([]Row, 0, rowBuffer)
	}
	for _, at := range s.group.chosen {
		s.rows = s.rows[:len(s.rows)+1]
		last := &s.rows[len(s.rows)-1]
		s.group.row(int(at), last)
		if s.filter.match != nil && !s.filter.match(last.Host, &last.Record) {
			s.rows = s.rows[:len(s.rows)-1]
		}
		if len(s.rows) == rowBuffer {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return s.flush()
}

func (s *scanner) flush() error {
	if len(s.rows) == 0 {
		return nil
	}
	s.stats.Rows += int64(len(s.rows))
	err := s.each(s.rows)
	s.rows = s.rows[:0]
	return err
}
