package clickhouse

import (
	"cmp"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire/batch"
)

// TableStore writes segments of records to a table, for a bus.Writer, which decides which
// segments count. A sealed segment is a file, which survives a kill. A committed one is
// renamed; Run inserts it into the table and then removes it. Rows that a killed
// process may have written are looked up before they are sent again.
type TableStore struct {
	inserter
	dir  string
	lock *os.File
	wake chan struct{}

	mu    sync.Mutex
	fresh map[string]bool // committed by this process, and not tried yet
	bytes atomic.Int64    // of committed files

	written atomic.Uint64
}

const (
	sealed, ready = ".sealed", ".ready"
	// maxReady is the number of bytes of committed segments that may wait for a server
	// that is away. Beyond it, no segments are begun, and records stay at their source.
	maxReady = 1 << 30
)

// OpenStore opens a store whose files are in dir, which is created if necessary.
func OpenStore(t *TableURL, dir string, say func(format string, args ...any)) (*TableStore, error) {
	c, err := newClient(t)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fault.WithHint(fmt.Errorf("spool: %w", err), "spool=DIR wants a directory that recollect may write to")
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fault.WithHint(fmt.Errorf("spool: %w", err), "spool=DIR wants a directory that recollect may write to")
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fault.WithHint(fmt.Errorf("spool %q: another recollect has it", dir), "give each a directory of its own")
	}
	s := &TableStore{inserter: inserter{client: c, say: say}, dir: dir, lock: lock, wake: make(chan struct{}, 1), fresh: map[string]bool{}}
	for _, id := range s.list(ready) {
		if info, err := os.Stat(s.path(id, ready)); err == nil {
			s.bytes.Add(info.Size())
		}
	}
	return s, nil
}

func (s *TableStore) path(id, kind string) string { return filepath.Join(s.dir, id+kind) }

// list returns the segments of a kind, oldest first.
func (s *TableStore) list(kind string) (ids []string) {
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), kind); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// TableSegment is a segment that is being filled.
type TableSegment struct {
	s      *TableStore
	id     string
	blocks []*block
}

// NewSegment begins a segment. id consists of letters, digits, and "-".
func (s *TableStore) NewSegment(id string) (*TableSegment, error) {
	if s.bytes.Load() > maxReady {
		return nil, fmt.Errorf("clickhouse %s: %d MiB wait for it", s.client.t, s.bytes.Load()>>20)
	}
	return &TableSegment{s: s, id: id}, nil
}

// Add adds the records of a batch, which it does not retain.
func (g *TableSegment) Add(b *batch.Batch) error {
	if n := len(g.blocks); n == 0 || g.blocks[n-1].rows >= blockRows {
		g.blocks = append(g.blocks, newBlock())
	}
	g.blocks[len(g.blocks)-1].addTraffic(b)
	return nil
}

// stored is a block in a file.
type stored struct {
	ID          string
	Data        []byte
	Runs        []storedRun
	Rows        int
	First, Last uint32
}

type storedRun struct {
	Agent          string
	Boot, From, To uint64
	Begin, End     int
}

// Seal writes the segment to a file that survives a kill and a loss of power.
func (g *TableSegment) Seal() error {
	list := make([]stored, len(g.blocks))
	for i, k := range g.blocks {
		list[i] = stored{ID: k.id, Data: k.data, Rows: k.rows, First: k.first, Last: k.last}
		for _, r := range k.runs {
			list[i].Runs = append(list[i].Runs, storedRun{r.agent, r.boot, r.from, r.to, r.begin, r.end})
		}
	}
	temporary := g.s.path(g.id, ".tmp")
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	if err := cmp.Or(gob.NewEncoder(f).Encode(list), f.Sync(), f.Close()); err != nil {
		f.Close()
		os.Remove(temporary)
		return err
	}
	return g.s.rename(temporary, g.s.path(g.id, sealed))
}

// Abort discards the segment.
func (g *TableSegment) Abort() { _ = os.Remove(g.s.path(g.id, ".tmp")) }

// rename renames a file durably.
func (s *TableStore) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Pending returns the segments that are sealed but not committed.
func (s *TableStore) Pending() []string { return s.list(sealed) }

// Commit makes Run insert a sealed segment into the table. It is not an error if it is
// committed already.
func (s *TableStore) Commit(id string) error {
	info, err := os.Stat(s.path(id, sealed))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.fresh[id] = true
	s.mu.Unlock()
	if err := s.rename(s.path(id, sealed), s.path(id, ready)); err != nil {
		return err
	}
	s.bytes.Add(info.Size())
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// Discard removes a sealed segment.
func (s *TableStore) Discard(id string) error { return os.Remove(s.path(id, sealed)) }

// Close releases the directory for other processes.
func (s *TableStore) Close() error { return s.lock.Close() }

// Written returns the number of rows written to the table by this process.
func (s *TableStore) Written() uint64 { return s.written.Load() }

// Run inserts committed segments into the table until ctx is done, and then, for a few
// seconds, those that are left. The error is for the user.
func (s *TableStore) Run(ctx context.Context) error {
	defer s.client.http.CloseIdleConnections()
	sending, stop := lasting(ctx)
	defer stop()
	if err := s.trying(sending, ctx.Done(), s.client.check); err != nil {
		return final(err)
	}
	for {
		ended := ctx.Err() != nil
		for _, id := range s.list(ready) {
			if err := s.send(sending, id); err != nil {
				return final(err)
			}
		}
		if ended {
			return nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// send inserts a segment into the table.
func (s *TableStore) send(ctx context.Context, id string) error {
	f, err := os.Open(s.path(id, ready))
	if err != nil {
		return fault.WithHint(err, "spool=DIR is recollect's own")
	}
	defer f.Close()
	var list []stored
	if err := gob.NewDecoder(f).Decode(&list); err != nil {
		return fault.WithHint(fmt.Errorf("spool: %s: %w", f.Name(), err), "the file is damaged: move it away, its records are lost")
	}
	s.mu.Lock()
	certain := s.fresh[id]
	delete(s.fresh, id)
	s.mu.Unlock()
	for i := range list {
		if err := s.write(ctx, list[i].block(), certain); err != nil {
			return err
		}
		s.written.Add(uint64(list[i].Rows))
	}
	if info, err := f.Stat(); err == nil {
		s.bytes.Add(-info.Size())
	}
	return os.Remove(f.Name())
}

func (b *stored) block() *block {
	k := &block{id: b.ID, data: b.Data, rows: b.Rows, first: b.First, last: b.Last}
	for _, r := range b.Runs {
		k.runs = append(k.runs, run{r.Agent, r.Boot, r.From, r.To, r.Begin, r.End})
	}
	return k
}
