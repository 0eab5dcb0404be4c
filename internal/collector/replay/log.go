package replay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"sync/atomic"

	"github.com/pcapper/pcapper/wire"
)

const (
	readSize  = 64 << 10 // buffer of a file, and the maximum length of a line
	markEvery = 1 << 20  // bytes between two marks
)

// log is a file being played: the position, and the record there.
type log struct {
	path string
	file int // number, see Config.Records
	say  func(format string, args ...any)

	f      *os.File
	in     *bufio.Reader
	packed bool   // or not text: it can be rewound to its beginning only
	parse  parser // of its lines

	rec     wire.Record // the next record to play
	line    uint64      // its number in the file, from 1
	offset  int64       // in the text, of the next line
	newest  int64       // the latest time of a line so far
	partial []byte      // an incomplete last line
	marks   []mark

	played uint64 // the highest number of a line that was passed on
	looked uint64 // the highest number of a line that was read
	broken error  // why the rest of the file cannot be read

	consumed atomic.Int64 // bytes read from the file
	counts   counts
}

// mark is a position to continue from: the beginning of a line, the number of lines
// before it, and the latest time in them.
type mark struct {
	offset int64
	lines  uint64
	newest int64
}

type counts struct {
	records, foreign atomic.Uint64
	torn             atomic.Bool
}

func (l *log) close() {
	if l.f != nil {
		l.f.Close()
	}
}

// Read counts what is read from the file.
func (l *log) Read(b []byte) (int, error) {
	n, err := l.f.Read(b)
	l.consumed.Add(int64(n))
	return n, err
}

// rewind goes to a mark, or to the beginning if the file is compressed.
func (l *log) rewind(m mark) (err error) {
	if l.f == nil {
		if l.f, err = os.Open(l.path); err != nil {
			return fmt.Errorf("cannot replay %q: %w", l.path, reason(err))
		}
	}
	if _, err = l.f.Seek(m.offset, io.SeekStart); err != nil {
		return fmt.Errorf("cannot go back in %q: %w", l.path, reason(err))
	}
	l.consumed.Store(m.offset)
	l.partial, l.broken = nil, nil
	l.line, l.offset, l.newest = m.lines, m.offset, m.newest
	if m.offset > 0 {
		l.in.Reset(l)
		return nil
	}
	l.newest = minTime
	if l.in, l.packed, l.parse, err = unpack(l); err != nil {
		l.fail(err)
	}
	return nil
}

// minTime is before all records.
const minTime = -1 << 63

// next reads the next record; it reports false at the current end.
func (l *log) next() bool {
	for {
		line, ok := l.read()
		if !ok {
			return false
		}
		err := l.parse(line, &l.rec)
		if err == nil {
			l.newest = max(l.newest, l.rec.Time)
			l.look()
			return true
		}
		l.foreign(err)
	}
}

// skipTo reads the next record that is not before t.
func (l *log) skipTo(ctx context.Context, t int64) (bool, error) {
	if err := l.rewind(l.markBefore(t)); err != nil {
		return false, err
	}
	for ctx.Err() == nil {
		line, ok := l.read()
		if !ok {
			return false, nil
		}
		if tm, ok := wire.LineTime(line); ok && tm < t {
			l.newest = max(l.newest, tm)
			l.look()
			continue
		}
		err := l.parse(line, &l.rec)
		if err == nil {
			l.newest = max(l.newest, l.rec.Time)
			l.look()
			if l.rec.Time < t { // its line does not begin with its time
				continue
			}
			return true, nil
		}
		l.foreign(err)
	}
	return false, ctx.Err()
}

// markBefore returns the last mark with no records at or after t before it.
func (l *log) markBefore(t int64) mark {
	i := sort.Search(len(l.marks), func(i int) bool { return l.marks[i].newest >= t })
	if i == 0 {
		return mark{}
	}
	return l.marks[i-1]
}

// read returns the next whole line, including its newline. It is valid until the next
// call.
func (l *log) read() ([]byte, bool) {
	if l.broken != nil {
		return nil, false
	}
	l.mark()
	line, err := l.in.ReadSlice('\n')
	if err == nil && l.partial == nil {
		l.line++
		l.offset += int64(len(line))
		return line, true
	}
	return l.readLong(line, err)
}

// readLong assembles a line that was read in pieces. No log line exceeds the buffer, so
// only the beginning of a longer line is kept, to quote it.
func (l *log) readLong(line []byte, err error) ([]byte, bool) {
	for {
		l.offset += int64(len(line))
		l.partial = append(l.partial, line[:min(len(line), readSize-min(len(l.partial), readSize))]...)
		switch {
		case err == nil:
			line, l.partial = l.partial, nil
			l.line++
			return line, true
		case errors.Is(err, bufio.ErrBufferFull):
			line, err = l.in.ReadSlice('\n')
		case err == io.EOF:
			return nil, false
		case errors.Is(err, io.ErrUnexpectedEOF):
			// A gzip file that is being written, or whose writer was killed.
			l.broken = err
			return nil, false
		default:
			l.fail(err)
			return nil, false
		}
	}
}

func (l *log) fail(err error) {
	l.broken = err
	l.say("%q cannot be read on after line %d: %v", l.path, l.line, reason(err))
}

// mark remembers this position for rewinding.
func (l *log) mark() {
	if l.packed || l.partial != nil {
		return
	}
	last := int64(0)
	if n := len(l.marks); n > 0 {
		last = l.marks[n-1].offset
	}
	if l.offset >= last+markEvery {
		l.marks = append(l.marks, mark{l.offset, l.line, l.newest})
	}
}

// look reports whether the line is read for the first time.
func (l *log) look() bool {
	if l.line <= l.looked {
		return false
	}
	l.looked = l.line
	return true
}

// foreign counts a line that is not a log line, and reports the first.
func (l *log) foreign(err error) {
	if l.look() && l.counts.foreign.Add(1) == 1 {
		l.say("%q, line %d: not a log line; such lines are skipped and counted: %v", l.path, l.line, err)
	}
}

// ended records an incomplete last line, once nothing more is expected.
func (l *log) ended() {
	l.counts.torn.Store(len(l.partial) > 0 || l.broken != nil)
}
