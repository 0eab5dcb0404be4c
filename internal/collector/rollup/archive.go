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

// ArchiveConfig configures the directory where history is kept.
type ArchiveConfig struct {
	Dir string
	// Hosts and Rows are those of the configuration, with the traffic of no flow as the
	// last row. See Archive.Hosts.
	Hosts []Host
	Rows  []Row
	// Keep is how long history is kept, and Size the maximum size of all files in
	// bytes; 0 means DefaultArchiveKeep and DefaultArchiveSize. Fine steps are removed
	// long before that: seconds after 6 hours, ten seconds after 2 days, minutes after
	// a month, ten minutes after a year; or when the size is used up, the oldest of
	// each kind first.
	Keep time.Duration
	Size int64
}

// Defaults of ArchiveConfig. For 200 busy hosts, they keep a month of minutes and years
// of hours.
const (
	DefaultArchiveKeep = 5 * 366 * 24 * time.Hour
	DefaultArchiveSize = 5 << 30
)

// Archive keeps a store's history on disk, beyond the life of the program and the
// capacity of memory. The store passes frames to it and never waits for it; Run writes
// them. It keeps all seconds, and sums of them over longer and longer spans.
//
// A SIGKILL may lose the seconds that were still open, and a power failure up to a
// minute. A truncated file is cut at the end of its last whole block, which is counted.
// Frames that cannot be written because the disk is full are counted, and the next one
// is tried.
type Archive struct {
	cfg   ArchiveConfig
	names *names
	jobs  chan job
	// holes are those of earlier runs; see Missing.
	holes []Hole
	done  chan struct{} // closed when Run has ended

	writer *archiveWriter
	// blanks are those of earlier runs, by host; they never change.
	blanks   [][]Blank
	blankLog *blankLog

	view atomic.Pointer[archived]
	// The store's first second and its newest one; 0 if there are none yet.
	began, now atomic.Int64
	sealed     atomic.Int64 // the store's oldest open second
	damaged    atomic.Uint64
	handed     atomic.Uint64 // frames that the store has passed on,
	written    atomic.Uint64 // of these, those written to files,
	shed       atomic.Uint64 // and those dropped because the queue was full
	refused    atomic.Uint64 // frames that could not be written
	reading    chan struct{} // limits the number of concurrent readers
}

// ArchiveStatus is the state of an archive.
type ArchiveStatus struct {
	Dir string
	// Size is the size of all files in bytes, and Most its limit.
	Size, Most int64
	// Lost is the number of frames (mostly seconds) that could not be written since the
	// start.
	Lost uint64
	// Damaged is the number of damaged files found; their readable parts are used.
	Damaged uint64
	// Err is why the last frame could not be written, or ""; Full means that the disk
	// is full.
	Err  string
	Full bool
	// Cut means that the previous run was killed, and its last seconds are missing.
	Cut bool
}

// archived is an immutable view of an archive at one moment.
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

// queue is the number of frames that may wait for the disk: some minutes.
const queue = 512

// maxReading is how many queries read files at once; others wait.
const maxReading = 3

// OpenArchive opens a directory, or creates it. Truncated files are repaired. Run must
// be called afterwards, and a Store must use the archive.
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
	if w.runs, err = openRuns(a.cfg.Dir); err != nil { // it holds the lock
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

// Frames accounts for the frames passed on by stores since the start. Refused frames
// could not be written. A frame that is being written is counted in Handed only.
type Frames struct{ Handed, Written, Shed, Refused, Queued uint64 }

// setHost sets the host with this number, which may be the next unused one, and setRow
// the flow.
func (a *Archive) setHost(host int, h Host) { a.names.setHost(host, h) }
func (a *Archive) setRow(row int, r Row)    { a.names.setRow(row, r) }

// noteBlank is told of a host's newest Blank, and again when it is over.
func (a *Archive) noteBlank(host int, b Blank) { a.blankLog.note(a.names.at(uint32(host)), b) }

// earlierBlanks returns the blanks of a host in earlier runs.
func (a *Archive) earlierBlanks(host int) []Blank {
	if host >= len(a.blanks) {
		return nil
	}
	return slices.Clip(a.blanks[host])
}

// noteTime is called with the store's first second, its newest, and its oldest open
// one.
func (a *Archive) noteTime(began, now, sealed int64) {
	a.began.Store(began)
	a.sealed.Store(sealed)
	a.now.Store(now)
}

// latest returns what is on disk, and the state of the archive.
func (a *Archive) latest() (*archived, ArchiveStatus) {
	v := a.view.Load()
	status := v.status
	status.Lost, status.Damaged = a.shed.Load()+a.refused.Load(), a.damaged.Load()
	return v, status
}

// finish waits until everything passed on has been written.
func (a *Archive) finish() {
	close(a.jobs)
	<-a.done
}

// Run writes what the store passes on until the store is closed, and returns once
// everything is on disk.
func (a *Archive) Run() { a.writer.writeAll() }

// Frames returns the account of frames. It is safe for concurrent use.
func (a *Archive) Frames() Frames {
	return Frames{Handed: a.handed.Load(), Written: a.written.Load(), Shed: a.shed.Load(), Refused: a.refused.Load(), Queued: uint64(len(a.jobs))}
}

// Dir returns the directory of the files.
func (a *Archive) Dir() string { return a.cfg.Dir }

// holesFor is the number of seconds for which the ends of earlier runs are examined.
const holesFor = day

// findHoles finds the holes for Missing. Each begins where its run has certainly
// written everything, and ends where the next run begins, or at math.MaxInt64.
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

// Hosts returns the configured hosts, followed by those that only the history knows,
// and those added by Store.SetHost.
func (a *Archive) Hosts() []Host {
	a.names.mu.Lock()
	defer a.names.mu.Unlock()
	return slices.Clone(a.names.hosts)
}

// Rows returns the configured flows, followed by those that only the history knows, and
// the traffic of no flow.
func (a *Archive) Rows() []Row { return a.names.rows }

// LastSecond returns the latest second on disk, or 0 if there is none.
func (a *Archive) LastSecond() int64 {
	v := a.view.Load()
	if len(v.parts(0)) == 0 {
		return 0
	}
	return v.tiers[0].last
}

// Missing returns, in order, the times that earlier runs had counted but not written
// when they were killed: from the second after the last one that each had written, to
// when it was last known to run. late is the stores' Config.Late.
func (a *Archive) Missing(late time.Duration) (holes []Hole) {
	open := wholeSeconds(late, 5)
	beat := int64(beatEvery/time.Second) + 1
	for _, h := range a.holes {
		known, next := h.From, h.To
		h.From -= open + beat // lines of earlier versions end with the newest second
		h.To = min(next, known+open+beat)
		// Anything in the last seconds before the next run belongs to that run.
		a.view.Load().each(0, h.From, min(h.To, next-open), func(f *frame) { h.From = f.start + 1 })
		if h.To > h.From {
			holes = append(holes, h)
		}
	}
	return holes
}

// fileTime is the name of a file: its first second, UTC.
const fileTime = "20060102T150405Z.roll"

func (a *Archive) tierDir(i int) string {
	return filepath.Join(a.cfg.Dir, strconv.FormatInt(tierSpecs[i].span, 10)+"s")
}

// failure describes why something could not be written, and whether that is because the
// disk is full.
func failure(err error) (text string, full bool) {
	if err == nil {
		return "", false
	}
	return err.Error(), errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// parts returns a tier's files. v may be nil if there is no archive.
func (v *archived) parts(i int) []part {
	if v == nil {
		return nil
	}
	return v.tiers[i].parts
}

// has reports whether the span that begins at start has been written, or could not be.
func (v *archived) has(i int, start int64) bool {
	return v != nil && len(v.tiers[i].parts) > 0 && v.tiers[i].last >= start
}

// each calls yield with a tier's frames of a time range, in order. A frame is valid
// until yield returns.
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

// read reads the frames of a file. It waits while too many others are reading.
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

// Backlog returns the number of frames waiting for the disk.
func (a *Archive) Backlog() int { return len(a.jobs) }
