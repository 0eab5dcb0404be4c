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
	// flushEvery is the longest that a line waits in memory.
	flushEvery = time.Second
	// logBuffers of logBufferSize bytes hold the lines of 10 ms of three million
	// packets a second, while the file is written to by another thread.
	logBuffers    = 16
	logBufferSize = 128 << 10
	// logWrite is how many bytes are worth waking that thread.
	logWrite = 64 << 10
)

// logTask writes the text log from a reader of its own, so that a slow disk
// delays nothing else: while no collector is attached nothing is captured, so
// there is nothing to write, and the file is closed. As long as the file keeps
// up, whoever publishes records copies their lines into buffers (attend), and
// the task's goroutine only writes those; when they are full it reads the hub
// itself until there is nothing left.
type logTask struct {
	file   *sink.LogFile
	reader *recordReader
	wanted atomic.Bool
	// always: captures run without collectors, too; what they see meanwhile is
	// not for the log.
	always  bool
	skipped atomic.Uint64 // records

	open bool // there may be something to flush or close

	free, full chan *logLines
	mu         sync.Mutex
	gathering  *logLines     // guarded by mu; nil while none was free
	resting    bool          // guarded by mu: no timer runs, see nudge
	nudge      chan struct{} // there is something to flush or close
	back       chan struct{} // the goroutine reads the hub again
}

// logLines are whole lines.
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

// run ends when the hub does. It never fails: what a log cannot write it
// counts.
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

// flush writes what is in memory, and closes a file that nobody wants.
func (l *logTask) flush() {
	l.file.Flush()
	if !l.wanted.Load() {
		l.file.Close()
		l.open = false
	}
}

// wait waits for lines, but while the file is open not beyond the next flush.
func (l *logTask) wait(flushed time.Time) error {
	if !l.open {
		return l.reader.Wait(context.Background())
	}
	ctx, cancel := context.WithDeadline(context.Background(), flushed.Add(flushEvery))
	defer cancel()
	return l.reader.Wait(ctx)
}

// write is for lines that are still in the hub.
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

// skip reports whether n records are not for the log.
func (l *logTask) skip(n int) bool {
	if !l.always || l.wanted.Load() {
		return false
	}
	l.skipped.Add(uint64(n))
	return true
}

// count returns how many records have a line, given where lines begin and end. Dropped packets
// have none, and are not for the log.
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

// attend is called by whoever publishes records. It reports false if the
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

// gather copies as many lines as there is room for, and tells how many those
// are. With mu held.
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
	g.n += l.count(ends[:n+1])
	if n < len(ends)-1 || len(g.text) >= logWrite {
		l.full <- g // it has room for all buffers
		l.gathering = nil
	} else if l.resting {
		l.resting = false
		l.wake()
	}
	if n == 0 { // there was no room for a line
		return l.gather(lines, ends)
	}
	return n
}

// writeGathered writes what attend has gathered until attend gives up or the
// hub is closed.
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

// put writes a buffer and gives it back.
func (l *logTask) put(g *logLines) {
	l.file.Write(g.text, g.n)
	l.open = true
	g.text, g.n = g.text[:0], 0
	l.free <- g
}

// putAll writes everything that was gathered.
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

// flushGathered brings everything into the file. It reports false if there was
// nothing since the last time: then attend wakes the goroutine for the next
// lines.
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
