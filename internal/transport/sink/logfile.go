package sink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

const (
	// logBuffer is how much is gathered for one write(2).
	logBuffer = 64 << 10
	// logReserve is how much space is preallocated while much is written: writing to
	// preallocated space costs the file system half as much.
	logReserve = 1 << 20
	// logComplain is the minimum interval between messages about a failing log.
	logComplain = 30 * time.Second
	// logRetry is the pause before a failed write is retried.
	logRetry = 250 * time.Millisecond
)

// LogFile is a text log that never blocks its user for long: it counts what it cannot
// write, and retries by itself. The file is appended to, is created when there is a
// line for it, and consists of whole lines even after the disk was full.
//
// Only one goroutine may use it, except for Reopen and Lines.
type LogFile struct {
	path   string
	report func(error)

	file  *os.File
	buf   []byte // whole lines that are not yet written
	lines uint64 // in buf
	half  []byte // the rest of a partial line at the end of the file that could not be removed

	end      int64 // known end of the file; valid iff reserved is not 0
	reserved int64 // end of the preallocated space, which does not change the file's size; -1 if that is impossible

	reopen         atomic.Bool
	written, lost  atomic.Uint64
	waiting        atomic.Uint64 // a copy of lines
	reported, skip time.Time     // time of the last report, and of the next attempt
	failing        atomic.Pointer[logFailure]
}

// logFailure is the reason why nothing can be written, and since when.
type logFailure struct {
	why   string
	since time.Time
}

// Failing returns why nothing can be written, and since when, or "". It may be called
// concurrently.
func (l *LogFile) Failing() (why string, since time.Time) {
	if f := l.failing.Load(); f != nil {
		return f.why, f.since
	}
	return "", time.Time{}
}

// NewLogFile returns a log that does not open the file yet. report is called with
// failures, at most every 30 seconds.
func NewLogFile(path string, report func(error)) *LogFile {
	return &LogFile{path: path, report: report, buf: make([]byte, 0, 2*logBuffer)}
}

// Lines returns the number of lines written, and of lines lost because they could not
// be written. Lines still in memory are in neither: Waiting returns their number. Both
// may be called concurrently.
func (l *LogFile) Lines() (written, lost uint64) { return l.written.Load(), l.lost.Load() }
func (l *LogFile) Waiting() uint64               { return l.waiting.Load() }

// Reopen makes the next write reopen the file, as after a rotation. Earlier lines still
// go to the old file. It may be called concurrently.
func (l *LogFile) Reopen() { l.reopen.Store(true) }

// Write adds n whole lines, including newlines. It blocks on the file only.
func (l *LogFile) Write(lines []byte, n int) {
	if l.reopen.CompareAndSwap(true, false) {
		l.Close()
	}
	if len(l.buf) == 0 && len(lines) >= logBuffer { // large enough to be written directly
		own := l.buf
		l.buf, l.lines = lines, uint64(n)
		l.Flush()
		l.buf = own
		return
	}
	l.buf = append(l.buf, lines...)
	l.lines += uint64(n)
	l.waiting.Store(l.lines)
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
	l.waiting.Store(0)
}

// errWaiting means that the last failure was a moment ago.
var errWaiting = errors.New("waiting before the next attempt")

// flush writes the buffer and returns the number of whole lines written.
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

// reserve preallocates space for n bytes and more. The file's size does not change, so
// a reader finds nothing but lines, even after we are killed.
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
		l.reserved = -1 // not a file, no space, or not supported by the file system
	}
}

// unreserve releases the space that was not used.
func (l *LogFile) unreserve() {
	if l.reserved > l.end {
		l.cutBack(0)
	}
	l.reserved = 0
}

// repair makes the file end with a whole line again, after the first n bytes of the
// buffer were written.
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
	return done + 1 // it will be completed before anything else is written
}

// cutBack removes the last bytes written from the file, unless it is not a regular file
// or another program has written to it since.
func (l *LogFile) cutBack(n int64) bool {
	end, err := l.file.Seek(0, io.SeekCurrent) // after what was appended, see write(2)
	if err != nil {
		return false
	}
	info, err := l.file.Stat()
	return err == nil && info.Mode().IsRegular() && info.Size() == end && l.file.Truncate(end-n) == nil
}

func (l *LogFile) open() error {
	if l.file != nil {
		var st syscall.Stat_t
		if syscall.Fstat(int(l.file.Fd()), &st) != nil || st.Nlink > 0 {
			return nil
		}
		l.forget() // somebody has removed it
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	l.file, l.reserved = f, 0
	return nil
}

// fail reports err, if a report is due, and closes the file, because reopening it may
// remove the cause.
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
	// The caller names the path.
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = fmt.Errorf("cannot %s it: %w", pathErr.Op, pathErr.Err)
	}
	l.report(err)
}

// Close writes what is in memory and closes the file. A later Write reopens it.
func (l *LogFile) Close() {
	l.Flush()
	if l.file == nil {
		return
	}
	l.unreserve()
	l.forget()
}

// forget closes the file as it is.
func (l *LogFile) forget() {
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
