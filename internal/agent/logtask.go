package agent

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/sink"
)

const (
	// flushEvery is the maximum time that a line waits in memory.
	flushEvery = time.Second
	// logBuffers buffers of logBufferSize bytes hold the lines of 10 ms at three
	// million packets per second while another thread writes to the file.
	logBuffers    = 16
	logBufferSize = 128 << 10
	// logWrite is the number of bytes that justify waking that thread.
	logWrite = 64 << 10
)

// logTask writes the text log from a hub reader of its own, so that a slow disk delays
// nothing else. While no collector is attached nothing is captured, there is nothing to
// write, and the file is closed. As long as the file keeps up, the goroutine that
// publishes records copies their lines into buffers (attend), and the task's goroutine
// only writes those. When all buffers are full, the task's goroutine reads the hub
// itself until it has caught up.
type logTask struct {
	file   *sink.LogFile
	reader *recordReader
	wanted atomic.Bool
	// always means that captures also run without collectors; what they see then is not
	// meant for the log.
	always  bool
	skipped atomic.Uint64 // records
	waiting atomic.Int64  // lines that were gathered and not given to file

	open bool // there may be lines to flush or a file to close

	free, full chan *logLines
	mu         sync.Mutex
	gathering  *logLines     // guarded by mu; nil if no buffer was free
	resting    bool          // guarded by mu: no timer is running, see nudge
	nudge      chan struct{} // there are lines to flush or a file to close
	back       chan struct{} // the goroutine reads the hub itself again
}

// logLines is a buffer of whole lines.
type logLines struct {
	text []byte
	n    int
}

func newLogTask(file *sink.LogFile, reader *recordReader) *logTask {
	l := &logTask{
		file: file, reader: reader,
		free: make(chan *logLines, logBuffers), full: make(chan *logLines, logBuffers),
		nudge: make(chan struct{}, 1), back: make(chan struct{}, 1),
	}
	for range logBuffers {
		l.free <- &logLines{text: make([]byte, 0, logBufferSize)}
	}
	l.gathering = <-l.free
	return l
}

func (l *logTask) attached(yes bool) {
	l.wanted.Store(yes)
	if !yes {
		l.wake()
	}
}

func (l *logTask) wake() {
	select {
	case l.nudge <- struct{}{}:
	default:
	}
}

// run ends when the hub is closed. It never fails: lines that cannot be written are
// counted.
func (l *logTask) run(context.Context) error {
	defer l.reader.Close()
	defer l.file.Close()
	for flushed := time.Now(); ; {
		if l.reader.Attend(l.attend, func() { l.back <- struct{}{} }) {
			l.writeGathered()
			continue
		}
		if err := l.wait(flushed); errors.Is(err, io.EOF) {
			return nil
		} else if err == nil {
			l.write()
			l.open = true
		}
		if l.open && time.Since(flushed) >= flushEvery {
			l.flush()
			flushed = time.Now()
		}
	}
}

// flush writes what is in memory, and closes the file if it is not wanted.
func (l *logTask) flush() {
	l.file.Flush()
	if !l.wanted.Load() {
		l.file.Close()
		l.open = false
	}
}

// wait waits for lines, but no longer than until the next flush while the file is open.
func (l *logTask) wait(flushed time.Time) error {
	if !l.open {
		return l.reader.Wait(context.Background())
	}
	ctx, cancel := context.WithDeadline(context.Background(), flushed.Add(flushEvery))
	defer cancel()
	return l.reader.Wait(ctx)
}

// write writes lines that are still in the hub.
func (l *logTask) write() {
	for {
		lines, ends := l.reader.Encoded(formatText)
		if len(ends) == 0 {
			return
		}
		if !l.skip(len(ends) - 1) {
			l.file.Write(lines, l.count(ends))
		}
		l.reader.Advance(len(ends) - 1)
	}
}

// skip reports whether n records are not meant for the log.
func (l *logTask) skip(n int) bool {
	if !l.always || l.wanted.Load() {
		return false
	}
	l.skipped.Add(uint64(n))
	return true
}

// count returns the number of records that have a line, given the line boundaries.
// Dropped packets have none, and are not meant for the log.
func (l *logTask) count(ends []uint32) (n int) {
	for i, end := range ends[1:] {
		if end != ends[i] {
			n++
		}
	}
	if without := len(ends) - 1 - n; without > 0 {
		l.skipped.Add(uint64(without))
	}
	return n
}

// attend is called by the goroutine that publishes records. It reports false if the
// buffers are full.
func (l *logTask) attend() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		lines, ends := l.reader.Encoded(formatText)
		if len(ends) == 0 {
			return true
		}
		n := len(ends) - 1
		if !l.skip(n) {
			n = l.gather(lines, ends)
		}
		l.reader.Advance(n)
		if n == 0 {
			return false
		}
	}
}

// gather copies as many lines as fit and returns their number. The caller must hold mu.
func (l *logTask) gather(lines []byte, ends []uint32) int {
	if l.gathering == nil {
		select {
		case l.gathering = <-l.free:
		default:
			return 0
		}
	}
	g := l.gathering
	n := len(ends) - 1
	if room := cap(g.text) - len(g.text); len(lines) > room {
		at, exact := slices.BinarySearch(ends, ends[0]+uint32(room))
		if n = at; !exact {
			n--
		}
	}
	g.text = append(g.text, lines[:ends[n]-ends[0]]...)
	whole := l.count(ends[:n+1])
	g.n += whole
	l.waiting.Add(int64(whole))
	if n < len(ends)-1 || len(g.text) >= logWrite {
		l.full <- g // has room for all buffers
		l.gathering = nil
	} else if l.resting && g.n > 0 { // what has no line does not start the timer
		l.resting = false
		l.wake()
	}
	if n == 0 { // not even one line fits
		return l.gather(lines, ends)
	}
	return n
}

// writeGathered writes what attend has gathered, until attend gives up or the hub is
// closed.
func (l *logTask) writeGathered() {
	timer := time.NewTimer(flushEvery)
	defer timer.Stop()
	for {
		select {
		case g := <-l.full:
			l.put(g)
		case <-l.nudge:
			if !l.open && !l.gathered() {
				continue
			}
			timer.Reset(flushEvery)
		case <-timer.C:
			if l.flushGathered() {
				timer.Reset(flushEvery)
			}
		case <-l.back:
			l.putAll()
			return
		}
	}
}

func (l *logTask) gathered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gathering != nil && l.gathering.n > 0
}

// put writes a buffer and returns it to the free ones.
func (l *logTask) put(g *logLines) {
	l.file.Write(g.text, g.n)
	l.waiting.Add(-int64(g.n))
	l.open = true
	g.text, g.n = g.text[:0], 0
	l.free <- g
}

// putAll writes everything gathered.
func (l *logTask) putAll() {
	l.mu.Lock()
	if l.gathering != nil && l.gathering.n > 0 {
		l.full <- l.gathering
		l.gathering = nil
	}
	l.mu.Unlock()
	for range len(l.full) {
		l.put(<-l.full)
	}
}

// flushGathered writes everything gathered to the file. It reports false if there was
// nothing since the last call; attend then wakes the goroutine when the next lines
// arrive.
func (l *logTask) flushGathered() bool {
	some := l.gathered()
	l.putAll()
	if l.open {
		l.flush()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resting = !some && (l.gathering == nil || l.gathering.n == 0)
	return !l.resting
}
