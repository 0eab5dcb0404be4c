package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// Config configures a Store.
type Config struct {
	// Keep limits what Run keeps; the zero value keeps everything.
	Keep Keep
	// Logf is called with messages for the user; it may be nil.
	Logf func(format string, args ...any)

	table table // of a Table
}

// Store is a directory to which records are written. It is safe for concurrent use.
type Store struct {
	dir  string
	cfg  Config
	lock *os.File

	locking sync.Mutex // held while the lock is taken again

	summarizer *summarizer // Maintain's alone
	renewed    bool        // likewise: no summaries of an earlier format are left

	mu        sync.Mutex
	pending   map[string]name
	committed map[string]struct{} // by this Store
	broken    map[string]bool     // damaged files, relative to dir
	settled   map[string]int64    // sizes of complete and compacted hours; used by Maintain only
	status    Status
	cause     string // of status.Failed

	gaps   sync.Mutex // guards writing their file
	pruned time.Time  // when old ones were last removed

	counting sync.Mutex
	counted  map[string]hourRows // for Count
	atOpen   uint64              // rows
	hours    map[string]uint64   // rows that each hour's directory should have; guarded by mu
	removed  uint64              // rows of directories that others have removed and that are there again; guarded by mu
	left     map[string]struct{} // pending when it was opened; guarded by mu
}

// maxRemembered bounds Store.committed.
const maxRemembered = 10_000

// Status is the state of a store.
type Status struct {
	Segments, Rows uint64 // committed since Open
	RecoveredRows  uint64 // of these, those that had been sealed before
	// Damaged are the files that could not be read and were set aside since Open.
	Damaged []string
	// Compacted is the number of files that were replaced by compaction. Retired and
	// RetiredRows are the numbers of files and rows removed because of Keep.
	Compacted, Retired, RetiredRows uint64
	// Size is the size of all committed files, in bytes, when Run last checked.
	Size int64
	// Failed is why nothing can be written, compacted, or removed now, or "".
	Failed string
}

// Open opens a directory for writing, and creates it if necessary. It fails if another
// Store has it open. Files that a killed process left incomplete are removed, and
// unreadable files are set aside. The caller must Close the store.
func Open(dir string, cfg Config) (*Store, error) {
	s := &Store{dir: dir, cfg: cfg, summarizer: newSummarizer(), pending: make(map[string]name), committed: make(map[string]struct{}), broken: make(map[string]bool), settled: make(map[string]int64)}
	if s.cfg.Logf == nil {
		s.cfg.Logf = func(string, ...any) {}
	}
	if err := s.makeDirs(); err != nil {
		return nil, s.explain(err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.recover(); err != nil {
		s.Close()
		return nil, s.explain(err)
	}
	var err error
	if s.hours, err = s.rows(); err != nil {
		s.Close()
		return nil, s.explain(err)
	}
	for _, n := range s.hours {
		s.atOpen += n
	}
	s.left = make(map[string]struct{})
	for id := range s.pending {
		s.left[id] = struct{}{}
	}
	return s, nil
}

func (s *Store) makeDirs() error {
	for _, d := range []string{tmpDir, pendingDir, damagedDir} {
		if err := makeDirs(filepath.Join(s.dir, d)); err != nil {
			return err
		}
	}
	return nil
}

// revive creates the directory again if another program has removed it.
func (s *Store) revive() error {
	s.locking.Lock()
	defer s.locking.Unlock()
	var st syscall.Stat_t
	if syscall.Fstat(int(s.lock.Fd()), &st) != nil || st.Nlink > 0 {
		return nil
	}
	if err := s.makeDirs(); err != nil {
		return err
	}
	old := s.lock
	if err := s.takeLock(); err != nil {
		s.lock = old
		return err
	}
	return old.Close()
}

// Close releases the directory. Segments that are not sealed are lost.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) takeLock() (err error) {
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o640); err != nil {
		return s.explain(err)
	}
	err = syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fault.WithHint(fmt.Errorf("history %s: another process writes to it", s.dir), "each recollect wants a directory of its own; any number may read one with -query")
	}
	if err != nil {
		s.lock.Close()
	}
	return err
}

// explain adds the subject to an error.
func (s *Store) explain(err error) error {
	var known *fault.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.WithHint(fmt.Errorf("history %s: no room on the disk: %w", s.dir, err), "free some, or keep less with -keep")
	case errors.Is(err, fs.ErrPermission):
		return fault.WithHint(fmt.Errorf("history %s: %w", s.dir, err), "it must belong to the user that recollect runs as")
	}
	return fmt.Errorf("history %s: %w", s.dir, err)
}

// Logf says something to whom Config names.
func (s *Store) Logf(format string, args ...any) { s.cfg.Logf(format, args...) }

// Status returns the state of the store.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	st.Damaged = slices.Clone(st.Damaged)
	return st
}

func (s *Store) sealed(n name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[n.id] = n
}

// Pending returns the IDs of the segments that are sealed but not committed.
func (s *Store) Pending() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.pending))
}

// Commit makes a sealed segment visible to queries, durably. It is not an error if it
// is committed already and has not been removed since.
func (s *Store) Commit(id string) error {
	s.mu.Lock()
	n, ok := s.pending[id]
	_, before := s.committed[id]
	s.mu.Unlock()
	if before {
		return nil
	}
	if !ok {
		return s.committedBefore(id)
	}
	hour := time.Now().UTC().Format(hourLayout)
	to := filepath.Join(s.dir, hour, n.String())
	from := filepath.Join(s.dir, pendingDir, n.String())
	s.mu.Lock()
	had, removed := s.hours[hour], s.removed
	s.mu.Unlock()
	_, missing := os.Stat(filepath.Dir(to))
	err := move(from, to)
	if _, gone := os.Lstat(from); err != nil && !errors.Is(gone, fs.ErrNotExist) {
		return s.explain(err)
	}
	// The file is there, if perhaps not durably.
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, id)
	if len(s.committed) >= maxRemembered {
		clear(s.committed) // the disk has the information, too
	}
	s.committed[id] = struct{}{}
	s.status.Segments++
	s.status.Rows += uint64(n.rows)
	// Others have removed what was there, unless another commit has noticed that first.
	// What was committed since is not among it: that commit has made the directory.
	if errors.Is(missing, fs.ErrNotExist) && s.removed == removed {
		s.removed += had
		s.hours[hour] -= had
	}
	s.hours[hour] += uint64(n.rows)
	if _, ok := s.left[id]; ok {
		s.status.RecoveredRows += uint64(n.rows)
	}
	return s.explain(err)
}

// committedBefore looks for a segment that was not committed by this Store.
func (s *Store) committedBefore(id string) error {
	hours, err := listHours(s.dir)
	if err != nil {
		return s.explain(err)
	}
	for _, hour := range slices.Backward(hours) {
		names, err := listHour(filepath.Join(s.dir, hour))
		if err != nil {
			return s.explain(err)
		}
		for _, n := range names {
			if n.id == id || n.generation > 0 && holds(filepath.Join(s.dir, hour, n.String()), id) {
				return nil
			}
		}
	}
	return fmt.Errorf("history %s: no segment %s is sealed or committed", s.dir, id)
}

// holds reports whether a compacted file contains a segment.
func holds(path, id string) bool {
	f, err := openParquet(path)
	if err != nil {
		return false
	}
	defer f.close()
	return slices.Contains(f.segments(), id)
}

// Discard removes a sealed segment. It is not an error if it does not exist.
func (s *Store) Discard(id string) error {
	s.mu.Lock()
	n, ok := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	err := os.Remove(filepath.Join(s.dir, pendingDir, n.String()))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s.explain(errors.Join(err, syncDir(filepath.Join(s.dir, pendingDir))))
}

// recover repairs the directory.
func (s *Store) recover() error {
	tmp, err := os.ReadDir(filepath.Join(s.dir, tmpDir))
	if err != nil {
		return err
	}
	for _, e := range tmp {
		if err := os.RemoveAll(filepath.Join(s.dir, tmpDir, e.Name())); err != nil {
			return err
		}
	}
	if err := s.recoverPending(); err != nil {
		return err
	}
	hours, err := listHours(s.dir)
	if err != nil {
		return err
	}
	for i, hour := range hours {
		if err := s.recoverHour(hour, i >= len(hours)-recentHours); err != nil {
			return err
		}
	}
	return nil
}

// recentHours is the number of hours for whose files Open reads the metadata. For older
// files it only checks both ends, which detects truncated files.
const recentHours = 2

func (s *Store) recoverPending() error {
	entries, err := os.ReadDir(filepath.Join(s.dir, pendingDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		n, ok := parseName(e.Name())
		if !ok {
			s.cfg.Logf("history %s: pending/%s is not a segment; it is left alone", s.dir, e.Name())
			continue
		}
		if err := s.examine(filepath.Join(pendingDir, e.Name()), true); err != nil {
			return err
		} else if _, err := os.Stat(filepath.Join(s.dir, pendingDir, e.Name())); err == nil {
			s.pending[n.id] = n
		}
	}
	return nil
}

// recoverHour completes interrupted compactions of an hour, and sets damaged files
// aside.
func (s *Store) recoverHour(hour string, recent bool) error {
	dir := filepath.Join(s.dir, hour)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			if err := s.examine(filepath.Join(hour, e.Name()), recent); err != nil {
				return err
			}
		}
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), replaces) {
			if err := s.endReplacing(dir, e.Name()); err != nil {
				return err
			}
		}
	}
	return removeLoneSummaries(dir)
}

// removeLoneSummaries removes summaries whose file was never completed, or was set
// aside.
func removeLoneSummaries(dir string) error {
	entries, err := readNames(dir)
	if err != nil {
		return err
	}
	whole := make(map[string]bool)
	for _, e := range entries {
		if n, ok := parseName(e); ok {
			whole[n.id] = true
		}
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e, summarySuffix); ok && !whole[id] {
			if err := removeSummary(dir, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// examine sets a file aside if it is damaged. If thorough, it reads the metadata.
func (s *Store) examine(file string, thorough bool) error {
	err := checkEnds(filepath.Join(s.dir, file))
	if err == nil && thorough {
		var f *dataFile
		if f, err = s.openFile(filepath.Join(s.dir, file)); err == nil {
			f.close()
		}
	}
	if err == nil {
		return nil
	}
	if bad := new(FileError); !errors.As(err, &bad) {
		return err
	}
	aside := filepath.Join(s.dir, damagedDir, filepath.Base(file))
	s.cfg.Logf("%v: it is set aside as %s", err, aside)
	s.status.Damaged = append(s.status.Damaged, file)
	return move(filepath.Join(s.dir, file), aside)
}

func (s *Store) openFile(path string) (*dataFile, error) {
	if s.cfg.table != nil {
		return openTable(path, s.cfg.table.title())
	}
	return openParquet(path)
}

// Run compacts files, and removes what is beyond the limits of Keep, until ctx is done.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(maintainEvery)
	defer tick.Stop()
	for {
		s.note(s.Maintain(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// note puts a failure in the status, and reports it once per cause: each attempt may
// name another file.
func (s *Store) note(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	text, why := "", ""
	if err = s.explain(err); err != nil {
		text, why = err.Error(), fault.Cause(err)
	}
	s.mu.Lock()
	news := text != "" && (s.status.Failed == "" || why != s.cause)
	s.status.Failed, s.cause = text, why
	s.mu.Unlock()
	if news {
		s.cfg.Logf("%s; trying again", text)
	}
}
