package rollup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

	// These are Run's alone.
	tiers [len(tierSpecs)]archiveTier
	runs  *runLog
	// blanks are those of earlier runs, by host; they do not change.
	blanks   [][]Blank
	blankLog *blankLog
	buf      []byte

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

// archiveTier is the files of one tier.
type archiveTier struct {
	parts   []part // by their first frames, whose spans do not overlap
	open    *appender
	size    int64
	last    int64 // start of the latest frame; valid iff parts is not empty
	current int64 // start of the span, of a tier that is made of another, that is not over
	begun   bool  // current is valid
	// due are spans that are over, but could not be written.
	due []int64
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

// readers is how many questions read files at once; others wait.
const readers = 3

// OpenArchive opens a directory, or makes it. Files whose end is missing are
// repaired. Run must follow, and a Store that has it.
func OpenArchive(cfg ArchiveConfig) (*Archive, error) {
	if cfg.Keep <= 0 {
		cfg.Keep = DefaultArchiveKeep
	}
	if cfg.Size <= 0 {
		cfg.Size = DefaultArchiveSize
	}
	a := &Archive{cfg: cfg, jobs: make(chan job, queue), done: make(chan struct{}), reading: make(chan struct{}, readers)}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("history in %q: %w", cfg.Dir, err)
	}
	return a, nil
}

func (a *Archive) open() (err error) {
	if err := os.MkdirAll(a.cfg.Dir, 0o750); err != nil {
		return err
	}
	if a.runs, err = openRuns(a.cfg.Dir); err != nil { // it has the lock
		return err
	}
	defer func() {
		if err != nil {
			a.runs.file.Close()
		}
	}()
	var known bool
	if a.names, known, err = openNames(a.cfg.Dir, a.cfg.Hosts, a.cfg.Rows); err != nil {
		return err
	}
	for i := range a.tiers {
		if err := a.list(i); err != nil {
			return err
		}
	}
	if !known {
		a.learnNames()
	}
	for i := range a.tiers {
		if err := a.repair(i); err != nil {
			return err
		}
	}
	for i := 1; i < len(a.tiers); i++ {
		a.catchUp(i)
	}
	if t := &a.tiers[0]; len(t.parts) > 0 {
		a.runs.extend(t.last + 1)
	}
	a.findHoles()
	a.blankLog, a.blanks, err = openBlanks(a.cfg.Dir, a.names, a.runs.past, time.Now().Add(-a.cfg.Keep).Unix())
	if err != nil {
		return err
	}
	a.publish(nil)
	return nil
}

// Frames counts the frames that stores have handed over since the start: what became of them, and how
// many wait in the queue. Refused ones could not be written. A frame that is being written just now is
// in none of the counts but Handed.
type Frames struct{ Handed, Written, Shed, Refused, Queued uint64 }

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
func (a *Archive) findHoles() {
	past := a.runs.past
	for _, h := range a.runs.holes {
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

// list finds a tier's files.
func (a *Archive) list(i int) error {
	dir := a.tierDir(i)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	t := &a.tiers[i]
	for _, e := range entries {
		first, err := time.Parse(fileTime, e.Name())
		info, statErr := e.Info()
		if err != nil || statErr != nil || !strings.HasSuffix(e.Name(), ".roll") {
			continue // not ours
		}
		t.parts = append(t.parts, part{&volume{filepath.Join(dir, e.Name()), first.Unix()}, info.Size()})
		t.size += info.Size()
	}
	slices.SortFunc(t.parts, func(a, b part) int { return int(a.first - b.first) })
	return nil
}

// learnNames reads all files, for an archive whose list of names is gone.
func (a *Archive) learnNames() {
	for i := range a.tiers {
		for _, p := range a.tiers[i].parts {
			buf, err := readFile(nil, p)
			if err != nil || len(buf) < len(volumeMagic) {
				continue
			}
			kind, payload, rest, ok := nextBlock(buf[len(volumeMagic):])
			for ; ok; kind, payload, rest, ok = nextBlock(rest) {
				u := unpacker{payload}
				for len(u.b) > 0 && kind == hostsBlock {
					a.names.rememberHost(Host{Label: u.string(), Address: u.string()})
				}
				for len(u.b) > 0 && kind == rowsBlock {
					a.names.rememberRow(Row{Name: u.string(), Detail: u.string()})
				}
			}
		}
	}
}

// repair finds out what the newest file of a tier has, and cuts off what is not
// whole: only there may somebody have been writing.
func (a *Archive) repair(i int) error {
	t := &a.tiers[i]
	for n := len(t.parts) - 1; n >= 0; n-- {
		p := &t.parts[n]
		c, release, err := a.names.load(*p)
		if err != nil || len(c.frames) == 0 {
			if err == nil {
				release()
			}
			a.setAside(p.path, err)
			t.size -= p.size
			t.parts = t.parts[:n]
			continue
		}
		t.last = c.frames[len(c.frames)-1].start
		whole := c.size
		release()
		if whole == p.size {
			return nil
		}
		a.damaged.Add(1)
		t.size -= p.size - whole
		p.size = whole
		return os.Truncate(p.path, whole)
	}
	return nil
}

// setAside renames what is no file of ours, or has nothing in it.
func (a *Archive) setAside(path string, err error) {
	if err == nil {
		os.Remove(path)
		return
	}
	a.damaged.Add(1)
	os.Rename(path, path+".bad")
}

// fail notes why something could not be written.
func failure(err error) (text string, full bool) {
	if err == nil {
		return "", false
	}
	return err.Error(), errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// publish makes what is written visible to the next snapshot. err is what came of
// the last write.
func (a *Archive) publish(err error) {
	v := &archived{archive: a, owners: a.names.owners}
	v.runs = a.runs.past
	for i := range a.tiers {
		t := &a.tiers[i]
		to := &v.tiers[i]
		to.parts, to.last, to.current, to.begun = slices.Clone(t.parts), t.last, t.current, t.begun
		v.status.Size += t.size
	}
	v.status.Dir, v.status.Most, v.status.Cut = a.cfg.Dir, a.cfg.Size, a.runs.cut
	v.status.Err, v.status.Full = failure(err)
	a.view.Store(v)
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
