package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/sandbox"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// SpoolShare returns the share of -spool for each export, and the number n of exports
// that use it. With too many of them, the share is less than spool.MinSize.
func (cfg *Config) SpoolShare() (share int64, n int) {
	for _, t := range cfg.Exports {
		if t.Spools() {
			n++
		}
	}
	if n == 0 {
		return 0, 0
	}
	return cfg.Spool.Size / int64(n), n
}

// makeSpool creates the directory while that is still permitted, owned by the owner of
// its parent.
func (a *agent) makeSpool() error {
	dir := a.cfg.Spool.Dir
	if dir == "" {
		return nil
	}
	err := os.Mkdir(dir, 0o750)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return spoolError(dir, err)
	}
	var above syscall.Stat_t
	if syscall.Stat(filepath.Dir(dir), &above) == nil {
		_ = os.Chown(dir, int(above.Uid), int(above.Gid)) // other users than root may not
	}
	return nil
}

func spoolError(dir string, err error) error {
	err = fmt.Errorf("-spool: cannot use %q: %w", dir, err)
	switch {
	case errors.Is(err, spool.ErrInUse):
		err = fault.WithHint(err, "each agent needs a directory of its own")
	case errors.Is(err, os.ErrPermission):
		err = fault.WithHint(err, "the directory and its files must belong to who the agent becomes (-v says who, -user takes another)")
	case errors.Is(err, os.ErrNotExist):
		err = fault.WithHint(err, "make the directory above it first")
	}
	return fault.WithCode(ExitSpool, err)
}

// spoolNeeds adds what the spool does after privileges are dropped.
func (a *agent) spoolNeeds(cfg *sandbox.Config) {
	dir := a.cfg.Spool.Dir
	if dir == "" {
		return
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	cfg.Write = append(cfg.Write, dir)
	for _, pattern := range []string{"lock", "*.state", "*.seg"} {
		files, _ := filepath.Glob(filepath.Join(dir, pattern))
		cfg.Append = append(cfg.Append, files...)
	}
}

// openSpool opens a queue for each export that has one, as the user that the agent runs
// as from now on.
func (a *agent) openSpool() (err error) {
	if a.cfg.Spool.Dir == "" {
		return nil
	}
	if a.spoolDir, err = spool.OpenDir(a.cfg.Spool.Dir); err != nil {
		return spoolError(a.cfg.Spool.Dir, err)
	}
	share, _ := a.cfg.SpoolShare()
	var names []string
	for _, x := range a.exports {
		if !x.target.Spools() {
			continue
		}
		name := spoolName(&x.target, names)
		names = append(names, name)
		if x.queue, err = a.spoolDir.Open(spool.Config{Name: name, Size: share, Say: a.out.printf}); err != nil {
			a.closeSpool()
			return spoolError(a.cfg.Spool.Dir, err)
		}
		x.before = x.queue.Status()
		x.setSpool(countedSpool{x.queue, x.reader})
	}
	for name, bytes := range a.spoolDir.Others(names...) {
		a.out.printf("spool %q: %s bytes wait for %q, which is not among the exports: export there again, or remove its files",
			a.cfg.Spool.Dir, number(uint64(bytes)), name)
	}
	return nil
}

// countedSpool is an export's queue, which also remembers how many packets its reader was
// too slow for: the collector must be told even if the agent is killed.
type countedSpool struct {
	*spool.Queue
	reader *recordReader
}

func (s countedSpool) Append(data []byte, packets uint32) error {
	s.Missed(s.reader.Status().Lost)
	return s.Queue.Append(data, packets)
}

// GivenUp is needed by publish.Exporter.
func (s countedSpool) GivenUp() uint64 { return s.Status().DroppedNew }

// spoolName derives the name of an export's queue from its destination only: if
// parameters change, it is still the same receiver's.
func spoolName(t *export.Target, taken []string) string {
	base := strings.Map(func(r rune) rune {
		if r < '!' || r > '~' || strings.ContainsRune(`/\:*?[]%`, r) {
			return '_'
		}
		return r
	}, t.Receiver())
	name := base
	for i := 2; slices.Contains(taken, name); i++ {
		name = fmt.Sprintf("%s+%d", base, i)
	}
	return name
}

// closeSpool writes what is queued in memory.
func (a *agent) closeSpool() {
	for _, x := range a.exports {
		if x.queue == nil {
			continue
		}
		if err := x.queue.Close(); err != nil {
			a.out.printf("spool %q: %v", a.cfg.Spool.Dir, err)
		}
	}
	if a.spoolDir != nil {
		a.spoolDir.Close()
	}
}

// status returns the reader's status, with packets waiting in the spool counted as in
// flight, and packets dropped by the spool as lost.
func (x *exporting) status() hub.Status {
	waiting, lost := x.held()
	s := x.reader.Status() // after that: there is no more waiting than was delivered
	lost = min(lost, s.Delivered)
	s.Delivered -= lost
	s.Lost += lost
	waiting = min(waiting, s.Delivered)
	s.Delivered -= waiting
	s.Pending += waiting
	return s
}

// lost returns the number of packets that the receiver is told it will not get. With a
// spool they are counted since its directory was created, because the receiver gets
// everything captured since then.
func (x *exporting) lost() uint64 {
	lost := x.reader.Status().Lost
	if x.queue != nil {
		lost += x.queue.Status().Dropped.Weight + x.before.Missed
	}
	return lost
}

// held returns how many of the packets delivered by the reader are waiting in a queue,
// and how many were dropped there.
func (x *exporting) held() (waiting, lost uint64) {
	c := x.exporter.Counts()
	waiting, lost = c.Waiting, c.Lost
	if x.queue != nil {
		s := x.queue.Status()
		waiting += s.WaitingNew
		lost += s.DroppedNew
	}
	return waiting, lost
}

// spooled returns the summary of a queue.
func spooled(s spool.Status) string {
	line := fmt.Sprintf("spool: %s packets in %s bytes wait", number(s.Waiting.Weight), number(uint64(s.Disk+s.InMemory)))
	if s.Dropped.Weight > 0 {
		line += fmt.Sprintf(", %s were dropped in all its runs", number(s.Dropped.Weight))
	}
	if s.Missed > 0 {
		line += fmt.Sprintf(", %s came too fast for it", number(s.Missed))
	}
	if s.Errors > 0 {
		line += fmt.Sprintf(", %s disk errors", number(s.Errors))
	}
	if s.Failing != "" {
		line += ": " + s.Failing
	}
	return line
}
