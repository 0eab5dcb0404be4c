package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

const (
	// logBuffer is how much is gathered for one write(2).
	logBuffer = 64 << 10
	// logReserve is how much space is asked for at once while much is written:
	// writing into it costs the file system half as much.
	logReserve = 1 << 20
	// logComplain is how often a log that fails says so.
	logComplain = 30 * time.Second
	// logRetry is how long a log that failed leaves the disk in peace.
	logRetry = 250 * time.Millisecond
)

// LogFile is a text log that never gets in the way: what it cannot write it
// counts, and it tries again by itself. The file is appended to, created when
// there is a line for it, and consists of whole lines also after a disk has
// been full.
//
// One goroutine owns it; Reopen and Lines may be called from any.
type LogFile struct {
	path   string
	report func(error)

	file  *os.File
	buf   []byte // whole lines that are not written yet
	lines uint64 // in buf
	half  []byte // the rest of a line that the file ends with, if it cannot be taken back

	end      int64 // of the file as far as we know; valid iff reserved is not 0
	reserved int64 // up to where there is space: beyond the end of the file, which is not moved; -1: there can be none

	reopen         atomic.Bool
	written, lost  atomic.Uint64
	reported, skip time.Time // last report; no attempt before
	failing        atomic.Pointer[logFailure]
}

// logFailure is why nothing can be written since when.
type logFailure struct {
	why   string
	since time.Time
}

// Failing returns why nothing can be written, and since when; "" if it can. It may be called from any
// goroutine.
func (l *LogFile) Failing() (why string, since time.Time) {
	if f := l.failing.Load(); f != nil {
		return f.why, f.since
	}
	return "", time.Time{}
}

// NewLogFile returns a log; nothing is opened yet. report is told of failures,
// at most every 30 seconds.
func NewLogFile(path string, report func(error)) *LogFile {
	return &LogFile{path: path, report: report, buf: make([]byte, 0, 2*logBuffer)}
}

// Lines tells how many lines were written, and how many were lost because they
// could not be. Lines still in memory are neither.
func (l *LogFile) Lines() (written, lost uint64) { return l.written.Load(), l.lost.Load() }

// Reopen lets the next write go to a file that is opened anew, as after a
// rotation. Everything from before still goes to the old one.
func (l *LogFile) Reopen() { l.reopen.Store(true) }

// Write takes n whole lines, newlines included. It waits for the file only.
func (l *LogFile) Write(lines []byte, n int) {
	if l.reopen.CompareAndSwap(true, false) {
		l.Close()
	}
	if len(l.buf) == 0 && len(lines) >= logBuffer { // worth a write(2) as they are
		own := l.buf
		l.buf, l.lines = lines, uint64(n)
		l.Flush()
		l.buf = own
		return
	}
	l.buf = append(l.buf, lines...)
	l.lines += uint64(n)
	if len(l.buf) >= logBuffer {
		l.Flush()
	}
}

// Flush writes what is in memory.
func (l *LogFile) Flush() {
	if len(l.buf) == 0 && len(l.half) == 0 {
		return
	}
	done, err := l.flush()
	l.written.Add(done)
	if err != nil {
		l.lost.Add(l.lines - done)
		l.fail(err)
	} else {
		l.failing.Store(nil)
	}
	l.buf, l.lines = l.buf[:0], 0
}

// errWaiting: the last failure was a moment ago.
var errWaiting = errors.New("waiting before the next attempt")

// flush writes the buffer and tells how many whole lines of it that were.
func (l *LogFile) flush() (done uint64, err error) {
	if time.Now().Before(l.skip) {
		return 0, errWaiting
	}
	if err := l.open(); err != nil {
		return 0, err
	}
	if len(l.half) > 0 {
		n, err := l.file.Write(l.half)
		if l.half = l.half[n:]; err != nil {
			return 0, err
		}
	}
	if len(l.buf) == 0 {
		return 0, nil
	}
	if len(l.buf) >= logBuffer {
		l.reserve(int64(len(l.buf)))
	}
	n, err := l.file.Write(l.buf)
	l.end += int64(n)
	if err == nil {
		return l.lines, nil
	}
	return l.repair(n), err
}

// reserve makes space for n bytes and more. The file's size stays what it is, so
// whoever reads it, also after we were killed, finds nothing but lines.
func (l *LogFile) reserve(n int64) {
	if l.reserved < 0 {
		return
	}
	var err error
	if l.reserved == 0 {
		l.end, err = l.file.Seek(0, io.SeekEnd)
	}
	if err == nil && l.end+n > l.reserved {
		l.reserved = l.end + n + logReserve
		err = reserve(l.file, l.end, l.reserved-l.end)
	}
	if err != nil {
		l.reserved = -1 // it is no file, there is no space, or the file system cannot
	}
}

// unreserve gives back what was not used.
func (l *LogFile) unreserve() {
	if l.reserved > l.end {
		l.cutBack(0)
	}
	l.reserved = 0
}

// repair makes the file end with a whole line again, after the first n bytes
// of the buffer were written.
func (l *LogFile) repair(n int) (done uint64) {
	whole := bytes.LastIndexByte(l.buf[:n], '\n') + 1
	done = uint64(bytes.Count(l.buf[:whole], []byte{'\n'}))
	if whole == n {
		return done
	}
	if l.cutBack(int64(n - whole)) {
		return done
	}
	end := bytes.IndexByte(l.buf[n:], '\n') + 1
	l.half = append(l.half[:0], l.buf[n:n+end]...)
	return done + 1 // it will be whole before anything else is written
}

// cutBack takes the last bytes that were written out of the file again, unless
// it is no regular file or another program has written to it since.
func (l *LogFile) cutBack(n int64) bool {
	end, err := l.file.Seek(0, io.SeekCurrent) // behind what was appended, see write(2)
	if err != nil {
		return false
	}
	info, err := l.file.Stat()
	return err == nil && info.Mode().IsRegular() && info.Size() == end && l.file.Truncate(end-n) == nil
}

func (l *LogFile) open() error {
	if l.file != nil {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	l.file, l.reserved = f, 0
	return nil
}

// fail reports err, if it is time to, and lets the file be opened anew: the
// cause may be gone with the old one.
func (l *LogFile) fail(err error) {
	if errors.Is(err, errWaiting) {
		return
	}
	now := time.Now()
	l.skip = now.Add(logRetry)
	failure := logFailure{fault.Cause(err), now}
	if old := l.failing.Load(); old != nil {
		failure.since = old.since
	}
	l.failing.Store(&failure)
	if l.file != nil && len(l.half) == 0 {
		l.file.Close()
		l.file = nil
	}
	if now.Sub(l.reported) < logComplain {
		return
	}
	l.reported = now
	// The path is the caller's to name.
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = fmt.Errorf("cannot %s it: %w", pathErr.Op, pathErr.Err)
	}
	l.report(err)
}

// Close writes what is in memory and closes the file. A later Write opens it
// again.
func (l *LogFile) Close() {
	l.Flush()
	if l.file == nil {
		return
	}
	l.unreserve()
	if err := l.file.Close(); err != nil {
		l.fail(err)
	}
	l.file = nil
	if len(l.half) > 0 { // its line was counted as written
		l.half = nil
		l.written.Add(^uint64(0))
		l.lost.Add(1)
	}
}
