package agent

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/transport/sink"
)

// flushEvery is the longest that a line waits in memory.
const flushEvery = time.Second

// logTask writes the text log from a reader of its own, so that a slow disk
// delays nothing else. It reads all the time: while no collector is attached
// nothing is captured, so there is nothing to write, and the file is closed.
type logTask struct {
	file   *sink.LogFile
	reader *recordReader
	wanted atomic.Bool
	// always: captures run without collectors, too; what they see meanwhile is
	// not for the log.
	always  bool
	skipped atomic.Uint64 // records
}

func newLogTask(file *sink.LogFile, reader *recordReader) *logTask {
	return &logTask{file: file, reader: reader}
}

func (l *logTask) attached(yes bool) { l.wanted.Store(yes) }

// run ends when the hub does. It never fails: what a log cannot write it
// counts.
func (l *logTask) run(context.Context) error {
	defer l.reader.Close()
	defer l.file.Close()
	open := false // there may be something to flush or close
	flushed := time.Now()
	for {
		err := l.wait(open, flushed)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			l.write()
			open = true
		}
		if open && time.Since(flushed) >= flushEvery {
			l.file.Flush()
			flushed = time.Now()
			if !l.wanted.Load() {
				l.file.Close()
				open = false
			}
		}
	}
}

// wait waits for lines, but while the file is open not beyond the next flush.
func (l *logTask) wait(open bool, flushed time.Time) error {
	if !open {
		return l.reader.Wait(context.Background())
	}
	ctx, cancel := context.WithDeadline(context.Background(), flushed.Add(flushEvery))
	defer cancel()
	return l.reader.Wait(ctx)
}

func (l *logTask) write() {
	for {
		lines, ends := l.reader.Encoded(formatText)
		if len(ends) == 0 {
			return
		}
		if l.always && !l.wanted.Load() {
			l.skipped.Add(uint64(len(ends) - 1))
		} else {
			l.file.Write(lines, len(ends)-1)
		}
		l.reader.Advance(len(ends) - 1)
	}
}
