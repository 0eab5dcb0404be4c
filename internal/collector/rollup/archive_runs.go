package rollup

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// runLog is a file with a line of runSize bytes for each run: from and to, 8 bytes
// each, and the CRC-32C of both in 8 bytes, all little-endian. The last line is
// rewritten periodically. The file is locked (flock(2)) while the archive is open.
type runLog struct {
	file *os.File
	at   int64
	past []Run
	now  Run // valid iff now.From != 0
	// cut means that the previous run did not end properly.
	cut bool
	// holes are the ends of runs that did not end properly, unless they have been
	// counted again.
	holes []Hole
}

// Hole is the end of a run that was killed: the seconds [From, To) that it had counted
// but not written.
type Hole struct {
	Run
	at   int64 // of the run's line
	past int   // its index
}

const (
	runsFile = "runs"
	runSize  = 24
	// ended, in the upper half of the CRC, marks a run that ended properly, or whose
	// end has been counted again.
	ended = 1 << 32
)

func openRuns(dir string) (*runLog, error) {
	file, err := os.OpenFile(filepath.Join(dir, runsFile), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another program keeps its history there")
		}
		return nil, err
	}
	data, err := io.ReadAll(file)
	if err != nil {
		file.Close()
		return nil, err
	}
	l := &runLog{file: file}
	for ; len(data) >= runSize; data = data[runSize:] {
		at := l.at
		l.at += runSize
		sum := binary.LittleEndian.Uint64(data[16:])
		if uint32(sum) != crc32.Checksum(data[:16], castagnoli) {
			continue
		}
		l.past = append(l.past, Run{int64(binary.LittleEndian.Uint64(data)), int64(binary.LittleEndian.Uint64(data[8:]))})
		if l.cut = sum&ended == 0; l.cut {
			l.holes = append(l.holes, Hole{at: at, past: len(l.past) - 1})
		}
	}
	return l, nil
}

// heal records that a run is known up to a second, and whether that is its end.
func (l *runLog) heal(h Hole, to int64) error {
	l.past = slices.Clone(l.past)
	r := &l.past[h.past]
	r.To = max(r.To, to)
	return l.put(h.at, *r, to >= h.To)
}

// extend records up to when the previous run has certainly written.
func (l *runLog) extend(to int64) {
	if n := len(l.past); n > 0 && l.cut && l.past[n-1].To < to {
		l.past = slices.Clone(l.past)
		l.past[n-1].To = to
	}
}

// beat says that the history is being written at now, since began, and that all
// before sealed has been.
func (l *runLog) beat(began, now, sealed int64, last bool) error {
	if l.now.From == 0 || now < l.now.From {
		if l.now.From != 0 { // the clock was set back
			l.past = append(slices.Clip(l.past), l.now)
			l.at += runSize
		}
		l.now.From = min(began, now)
	}
	l.now.To = max(sealed, l.now.From)
	if last {
		l.now.To = now + 1
	}
	return l.put(l.at, l.now, last)
}

// put writes a line.
func (l *runLog) put(at int64, r Run, whole bool) error {
	var b [runSize]byte
	binary.LittleEndian.PutUint64(b[:], uint64(r.From))
	binary.LittleEndian.PutUint64(b[8:], uint64(r.To))
	sum := uint64(crc32.Checksum(b[:16], castagnoli))
	if whole {
		sum |= ended
	}
	binary.LittleEndian.PutUint64(b[16:], sum)
	_, err := l.file.WriteAt(b[:], at)
	return err
}
