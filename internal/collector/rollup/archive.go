package rollup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// ArchiveConfig is a directory where history is kept.
type ArchiveConfig struct {
	Dir string
	// Hosts and Rows are those of the configuration, the traffic of no flow as the
	// last row. See Archive.Hosts.
	Hosts []Host
	Rows  []Row
	// Keep is for how long, and Size how many bytes all files may have; 0 is
	// DefaultArchiveKeep and DefaultArchiveSize. Fine steps are given up long
	// before: seconds after 6 hours, ten seconds after 2 days, minutes after
	// a month, ten minutes after a year; or when the size is used up, each kind's
	// oldest first.
	Keep time.Duration
	Size int64
}

// Defaults of ArchiveConfig: of 200 busy hosts, a month of minutes and years of
// hours.
const (
	DefaultArchiveKeep = 5 * 366 * 24 * time.Hour
	DefaultArchiveSize = 5 << 30
)

// Archive keeps a store's history on disk, so that it outlives the program and
// what memory has room for. The store hands it frames and never waits for it; Run
// writes them. It keeps all seconds, and sums of them for longer and longer spans.
//
// What a SIGKILL may cost is the seconds that were still open. A power failure
// may cost a minute. A file whose end was cut off is cut at its last whole block,
// which is counted. What cannot be written, since the disk is full, is counted, and
// the next is tried.
type Archive struct {
	cfg   ArchiveConfig
	names *names
	jobs  chan job
	// holes are those of earlier runs; see Missing.
	holes []Hole
	done  chan struct{} // closed when Run has ended

	writer *archiveWriter
	// blanks are those of earlier runs, by host; they do not change.
	blanks   [][]Blank
	blankLog *blankLog

	view atomic.Pointer[archived]
	// The store's first second and its newest; 0 before there are any.
	began, now atomic.Int64
	sealed     atomic.Int64 // the store's oldest open second
	damaged    atomic.Uint64
	handed     atomic.Uint64 // frames that the store has handed over,
	written    atomic.Uint64 // of these, those that are in files,
	shed       atomic.Uint64 // and those that found the queue full
	refused    atomic.Uint64 // could not be written
	reading    chan struct{} // as many as may read at once
}

// ArchiveStatus is how an archive does.
type ArchiveStatus struct {
	Dir string
	// Size of all files in bytes, and the most it may be.
	Size, Most int64
	// Lost frames (most of them seconds) could not be written, since the start.
	Lost uint64
	// Damaged files were found: what was readable of them is shown.
	Damaged uint64
	// Err is why the last frame could not be written, "" if it could; Full: it is
	// that there is no room on the disk.
	Err  string
	Full bool
	// Cut: the run before this one did not end by itself, its last seconds are
	// missing.
	Cut bool
}

// archived is an archive at one moment; it never changes.
type archived struct {
	archive *Archive
	tiers   [len(tierSpecs)]struct {
		parts         []part
		last, current int64
		begun         bool
	}
	runs   []Run
	owners map[[16]byte]int
	status ArchiveStatus
}

// queue is how many frames may wait for the disk: some minutes.
const queue = 512

// maxReading is how many queries read files at once; others wait.
const maxReading = 3

// OpenArchive opens a directory, or makes it. Files whose end is missing are
// repaired. Run must follow, and a Store that has it.
func OpenArchive(cfg ArchiveConfig) (*Archive, error) {
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultArchiveKeep
	}
	if cfg.Size <= 0 {
		cfg.Size = DefaultArchiveSize
	}
	a := &Archive{cfg: cfg, jobs: make(chan job, queue), done: make(chan struct{}), reading: make(chan struct{}, maxReading)}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("history in %q: %w", cfg.Dir, err)
	}
	return a, nil
}

func (a *Archive) open() (err error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o750); err != nil {
		return err
	}
	w := &archiveWriter{Archive: a}
	a.writer = w
	if w.runs, err = openRuns(a.cfg.Dir); err != nil { // it has the lock
		return err
	}
	defer func() {
		if err != nil {
			w.runs.file.Close()
		}
	}()
	var known bool
	if a.names, known, err = openNames(a.cfg.Dir, a.cfg.Hosts, a.cfg.Rows); err != nil {
		return err
	}
	if err := w.recoverFiles(known); err != nil {
		return err
	}
	a.findHoles(w.runs)
	a.blankLog, a.blanks, err = openBlanks(a.cfg.Dir, a.names, w.runs.past, time.Now().Add(-a.cfg.Keep).Unix())
	if err != nil {
		return err
	}
	w.publish(nil)
	return nil
}

// Frames counts the frames that stores have handed over since the start: what became of them, and how
// many wait in the queue. Refused ones could not be written. A frame that is being written just now is
// in none of the counts but Handed.
type Frames struct{ Handed, Written, Shed, Refused, Queued uint64 }

// setHost makes h the host with a number, and setRow r the flow: another one, or a new one with
// the next number.
func (a *Archive) setHost(host int, h Host) { a.names.setHost(host, h) }
func (a *Archive) setRow(row int, r Row)    { a.names.setRow(row, r) }

// noteBlank is told of a host's newest Blank, and again when it is over.
func (a *Archive) noteBlank(host int, b Blank) { a.blankLog.note(a.names.at(uint32(host)), b) }

// earlierBlanks are those of a host in earlier runs.
func (a *Archive) earlierBlanks(host int) []Blank {
	if host >= len(a.blanks) {
		return nil
	}
	return slices.Clip(a.blanks[host])
}

// noteTime is told the first second of the store, its newest, and its oldest that is open.
func (a *Archive) noteTime(began, now, sealed int64) {
	a.began.Store(began)
	a.sealed.Store(sealed)
	a.now.Store(now)
}

// latest is what is on disk, and how the archive does.
func (a *Archive) latest() (*archived, ArchiveStatus) {
	v := a.view.Load()
	status := v.status
	status.Lost, status.Damaged = a.shed.Load()+a.refused.Load(), a.damaged.Load()
	return v, status
}

// finish has all that was handed over written, and returns when it is.
func (a *Archive) finish() {
	close(a.jobs)
	<-a.done
}

// Run writes what the store hands over until the store is closed, and returns
// when all is on disk.
func (a *Archive) Run() { a.writer.writeAll() }

// Frames may be called by any goroutine.
func (a *Archive) Frames() Frames {
	return Frames{Handed: a.handed.Load(), Written: a.written.Load(), Shed: a.shed.Load(), Refused: a.refused.Load(), Queued: uint64(len(a.jobs))}
}

// Dir is where the files are.
func (a *Archive) Dir() string { return a.cfg.Dir }

// holesFor is for how many seconds back ends of runs are looked after.
const holesFor = day

// findHoles is for what Missing says. Each begins where its run has certainly
// written all, and ends where the next run begins, or is math.MaxInt64.
func (a *Archive) findHoles(runs *runLog) {
	past := runs.past
	for _, h := range runs.holes {
		h.Run = Run{past[h.past].To, math.MaxInt64}
		if h.past+1 < len(past) {
			h.To = past[h.past+1].From
		}
		if h.From > past[len(past)-1].To-holesFor {
			a.holes = append(a.holes, h)
		}
	}
}

// Hosts are those of the configuration and, after them, the ones that only the
// past knows; then those that Store.SetHost has added.
func (a *Archive) Hosts() []Host {
	a.names.mu.Lock()
	defer a.names.mu.Unlock()
	return slices.Clone(a.names.hosts)
}

// Rows are the flows of the configuration, then those that only the past knows,
// then the traffic of no flow.
func (a *Archive) Rows() []Row { return a.names.rows }

// LastSecond is the latest one that is on disk; 0 if there is none.
func (a *Archive) LastSecond() int64 {
	v := a.view.Load()
	if len(v.parts(0)) == 0 {
		return 0
	}
	return v.tiers[0].last
}

// Missing are the times of what runs before this one had counted, but not written,
// when they were cut off, in order: from the second after the last one that each
// has written to when it was last known to run. late is the stores' Config.Late.
func (a *Archive) Missing(late time.Duration) (holes []Hole) {
	open := wholeSeconds(late, 5)
	beat := int64(beatEvery/time.Second) + 1
	for _, h := range a.holes {
		known, next := h.From, h.To
		h.From -= open + beat // lines of earlier versions end with the newest second
		h.To = min(next, known+open+beat)
		// What there is in the last seconds before the next run is of that run.
		a.view.Load().each(0, h.From, min(h.To, next-open), func(f *frame) { h.From = f.start + 1 })
		if h.To > h.From {
			holes = append(holes, h)
		}
	}
	return holes
}

// fileTime is how a file is named: by its first second, UTC.
const fileTime = "20060102T150405Z.roll"

func (a *Archive) tierDir(i int) string {
	return filepath.Join(a.cfg.Dir, strconv.FormatInt(tierSpecs[i].span, 10)+"s")
}

// fail notes why something could not be written.
func failure(err error) (text string, full bool) {
	if err == nil {
		return "", false
	}
	return err.Error(), errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// parts are a tier's files. v may be nil, for no archive.
func (v *archived) parts(i int) []part {
	if v == nil {
		return nil
	}
	return v.tiers[i].parts
}

// has reports whether the span that begins at start has been written, unless it
// could not be.
func (v *archived) has(i int, start int64) bool {
	return v != nil && len(v.tiers[i].parts) > 0 && v.tiers[i].last >= start
}

// each gives a tier's frames of some time, in order. They are valid until yield
// returns.
func (v *archived) each(i int, from, to int64, yield func(*frame)) {
	parts := v.parts(i)
	for n, p := range parts {
		if p.first >= to {
			break
		}
		if n+1 < len(parts) && parts[n+1].first <= from {
			continue
		}
		v.archive.read(p, from, to, yield)
	}
}

// read gives the frames of a file. It waits while others read.
func (a *Archive) read(p part, from, to int64, yield func(*frame)) {
	a.reading <- struct{}{}
	defer func() { <-a.reading }()
	c, release, err := a.names.load(p)
	if err != nil {
		a.damaged.Add(1)
		return
	}
	defer release()
	if c.size < p.size {
		a.damaged.Add(1)
	}
	for _, f := range c.frames {
		if f.start >= from && f.start < to {
			yield(f)
		}
	}
}

// Backlog is how many frames wait for the disk.
func (a *Archive) Backlog() int { return len(a.jobs) }
