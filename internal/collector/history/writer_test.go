package history

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// local is a Writer with its queue and store, as one process has them.
type local struct {
	store *Store
	dir   *spool.Dir
	queue *spool.Queue
	*Writer
	stop  context.CancelFunc
	ended chan error
}

func openLocal(t *testing.T, root string, age time.Duration) *local {
	t.Helper()
	var l local
	var err error
	if l.store, err = Open(filepath.Join(root, "records"), Config{Logf: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if l.dir, err = spool.OpenDir(filepath.Join(root, "queue")); err != nil {
		t.Fatal(err)
	}
	if l.queue, err = l.dir.Open(spool.Config{Name: "history", Size: 64 << 20, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if l.Writer, err = l.store.NewWriter(WriterConfig{Queue: l.queue, Age: age}); err != nil {
		t.Fatal(err)
	}
	return &l
}

func (l *local) run() {
	ctx, stop := context.WithCancel(context.Background())
	l.stop, l.ended = stop, make(chan error, 1)
	go func() { l.ended <- l.Run(ctx) }()
}

func (l *local) close(t *testing.T) {
	t.Helper()
	if l.stop != nil {
		l.stop()
		if err := <-l.ended; err != nil {
			t.Error(err)
		}
	}
	if err := l.queue.Close(); err != nil {
		t.Error(err)
	}
	l.dir.Close()
	l.store.Close()
}

// publishTo publishes n batches of 10 records each, the first of which is number
// first of its boot. MGEN sequence numbers count all records of a test; 500 are
// of each earlier boot.
func publishTo(w *Writer, boot uint64, first, n int) {
	b := batch.Batch{Agent: "a", Boot: boot, First: uint64(first) * 10}
	first += int(boot-1) * 50
	for i := range n {
		b.Records = b.Records[:0]
		for k := range 10 {
			r := wire.Record{Time: time.Now().UnixNano(), Length: 100, Proto: wire.ProtoUDP, MGENSeq: uint32((first+i)*10 + k), Flags: wire.MGEN | wire.MGENHeader}
			r.SetSrc4([4]byte{10, 0, 0, 1})
			r.SetDst4([4]byte{10, 0, 0, 2})
			b.Records = append(b.Records, r)
		}
		w.Publish(&b)
		b.First = b.Next()
	}
}

// checkStored fails unless the records 0 to n-1 are stored, once each.
func checkStored(t *testing.T, root string, n int) {
	t.Helper()
	got := map[uint32]int{}
	var mu sync.Mutex
	if _, err := Read(t.Context(), filepath.Join(root, "records"), &Query{}, func(rows []Row) error {
		mu.Lock()
		defer mu.Unlock()
		for i := range rows {
			got[rows[i].Record.MGENSeq]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(n) {
		if got[i] != 1 {
			t.Fatalf("record %d is stored %d times, want once", i, got[i])
		}
	}
	if len(got) != n {
		t.Errorf("%d records are stored, want %d", len(got), n)
	}
}

func TestWriterStoresWhatIsPublished(t *testing.T) {
	root := t.TempDir()
	l := openLocal(t, root, 50*time.Millisecond)
	l.run()
	publishTo(l.Writer, 1, 0, 100)
	for l.Status().Written == 0 {
		time.Sleep(time.Millisecond)
	}
	publishTo(l.Writer, 1, 100, 100)
	l.close(t)
	if got := l.Status(); got.Published != 2000 || got.Written != 2000 || got.Missing+got.Skipped+got.Malformed+got.Refused != 0 {
		t.Errorf("got %+v, want 2000 published and written", got)
	}
	checkStored(t, root, 2000)
}

// TestWriterKilled leaves each state that a killed process can leave, and starts
// again from it.
func TestWriterKilled(t *testing.T) {
	ctx := context.Background()
	for name, until := range map[string]func(t *testing.T, l *local){
		"before anything is written": func(*testing.T, *local) {},
		"while a segment is open":    func(t *testing.T, l *local) { fill(t, l) },
		"after a segment is sealed": func(t *testing.T, l *local) {
			fill(t, l)
			if err := l.segment.Seal(); err != nil {
				t.Fatal(err)
			}
		},
		"after the progress is noted": func(t *testing.T, l *local) {
			fill(t, l)
			if err := l.segment.Seal(); err != nil {
				t.Fatal(err)
			}
			if err := l.save(progress{Life: l.progress.Life, Next: l.pending.next, Segment: l.id}); err != nil {
				t.Fatal(err)
			}
		},
		"after the segment is committed, before it is acknowledged": func(t *testing.T, l *local) {
			fill(t, l)
			if err := l.seal(ctx); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			l := openLocal(t, root, time.Hour)
			publishTo(l.Writer, 1, 0, 50)
			if err := l.queue.Sync(); err != nil {
				t.Fatal(err)
			}
			until(t, l)
			// As a kill leaves it: nothing is closed in order, but for the locks.
			l.store.lock.Close()
			l.dir.Close()
			l.queue.Close()

			l = openLocal(t, root, time.Hour)
			l.run()
			publishTo(l.Writer, 2, 0, 50)
			l.close(t)
			checkStored(t, root, 1000)
			if got := l.Status(); got.Written+got.Skipped < 500 || got.Missing != 0 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// fill puts all that is queued into the open segment.
func fill(t *testing.T, l *local) {
	t.Helper()
	for {
		ok, err := l.addNextEntry()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
	}
}

// smallDisk is a file system of 16 MiB.
func smallDisk(t *testing.T) (root string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	root = t.TempDir()
	if err := syscall.Mount("pcapper-test", root, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(root, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return root
}

// TestWriterFullDisk fills a file system for a while: what is published meanwhile
// waits, and is stored within five seconds of there being room.
func TestWriterFullDisk(t *testing.T) {
	root := smallDisk(t)
	l := openLocal(t, root, 100*time.Millisecond)
	l.run()
	publishTo(l.Writer, 1, 0, 100)
	waitFor(t, func() bool { return l.Status().Written == 1000 })
	ballast := filepath.Join(root, "ballast")
	fillDisk(t, ballast)
	publishTo(l.Writer, 1, 100, 1000)
	waitFor(t, func() bool {
		fillDisk(t, ballast) // what the queue has removed meanwhile, too
		return l.Status().Failed != ""
	})
	if s := l.Status(); s.Since.IsZero() {
		t.Errorf("it fails, but since when is not said: %+v", s)
	}
	time.Sleep(2 * retryInterval)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	waitFor(t, func() bool { return l.Status().Written == 11000 })
	if d := time.Since(freed); d > 5*time.Second {
		t.Errorf("stored %v after there was room, want at most 5 s", d)
	}
	if s := l.Status(); s.Failed != "" || s.Missing != 0 || s.Refused != 0 {
		t.Errorf("got %+v, want no failure and no loss", s)
	}
	l.close(t)
	checkStored(t, root, 11000)
}

// TestWriterStartsOnFullDisk: a process that is started on a full disk takes records, says that it
// fails, and writes all once there is room; what an earlier one had published and sealed, too.
func TestWriterStartsOnFullDisk(t *testing.T) {
	root := smallDisk(t)
	l := openLocal(t, root, 100*time.Millisecond)
	publishTo(l.Writer, 1, 0, 50)
	fill(t, l) // a segment that counts, and is not committed
	if err := l.segment.Seal(); err != nil {
		t.Fatal(err)
	}
	if err := l.save(progress{Life: l.progress.Life, Next: l.pending.next, Segment: l.id}); err != nil {
		t.Fatal(err)
	}
	l.queue.Close()
	l.dir.Close()
	l.store.Close()
	ballast := filepath.Join(root, "ballast")
	fillDisk(t, ballast)
	l = openLocal(t, root, 100*time.Millisecond)
	l.run()
	publishTo(l.Writer, 2, 0, 50)
	waitFor(t, func() bool { return l.Status().Failed != "" })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return l.Status().Written == 500 })
	l.close(t)
	checkStored(t, root, 1000)
}

// TestWriterNotesGaps: what the queue had to drop while the disk was full is known by agent, time, number,
// and reason; so is what was dropped before it was numbered. What was noted twice counts once.
func TestWriterNotesGaps(t *testing.T) {
	root := t.TempDir()
	l := openLocal(t, root, 50*time.Millisecond)
	publishTo(l.Writer, 1, 0, 10)
	l.failed(syscall.ENOSPC)
	l.brokenAt = time.Now().Add(time.Hour) // whenever records come
	publishTo(l.Writer, 1, 15, 10)         // 50 records are missing
	l.last.Number++
	b := batch.Batch{Agent: "a", Boot: 1, First: 250, Dropped: 7, Records: []wire.Record{{Time: time.Now().UnixNano(), Length: 100, Proto: wire.ProtoUDP}}}
	l.Publish(&b)
	l.run()
	waitFor(t, func() bool { return l.Status().Written == 201 })
	l.close(t)
	dir := filepath.Join(root, "records")
	if err := l.store.addGaps([]Gap{{Agent: "a", Boot: 1, First: 100, Records: 50, Why: "disk full"}}); err != nil {
		t.Fatal(err)
	}
	gaps, err := ReadGaps(dir, &Query{})
	if err != nil || len(gaps) != 2 {
		t.Fatalf("got %+v, %v, want two gaps", gaps, err)
	}
	if g := gaps[0]; g.Agent != "a" || g.Records != 50 || g.Why != "disk full" || g.To.Before(g.From) || time.Since(g.From) > time.Minute {
		t.Errorf("got %+v, want 50 records of a: disk full", g)
	}
	if g := gaps[1]; g.Records != 7 || g.Why != "more at once than the collector could take" {
		t.Errorf("got %+v, want 7 records that were dropped before", g)
	}
	for name, q := range map[string]Query{
		"another host":  {Hosts: []string{"b"}},
		"another time":  {To: time.Now().Add(-time.Hour)},
		"a later one":   {From: time.Now().Add(time.Hour)},
		"another's too": {Hosts: []string{"b"}, From: time.Now().Add(-time.Hour)},
	} {
		if gaps, err := ReadGaps(dir, &q); err != nil || len(gaps) != 0 {
			t.Errorf("%s: got %+v, %v, want no gap", name, gaps, err)
		}
	}
}

func fillDisk(t *testing.T, name string) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{1 << 16, 1 << 12, 1} {
		for b := make([]byte, size); err == nil; {
			_, err = f.Write(b)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for 30 s")
		}
	}
}

// TestWriterCountsDropped drops batches from a queue that is too small.
func TestWriterCountsDropped(t *testing.T) {
	root := t.TempDir()
	l := openLocal(t, root, time.Hour)
	l.cfg.Queue = &lossy{Queue: l.queue, every: 10}
	publishTo(l.Writer, 1, 0, 100)
	l.run()
	l.close(t)
	if got := l.Status(); got.Written != 900 || got.Missing != 100 {
		t.Errorf("got %d written and %d missing, want 900 and 100", got.Written, got.Missing)
	}
}

// lossy drops an entry now and then.
type lossy struct {
	Queue
	every, n int
}

func (q *lossy) Append(data []byte, weight uint32) error {
	if q.n++; q.n%q.every == 5 {
		return nil
	}
	return q.Queue.Append(data, weight)
}

func TestWriterDamagedProgress(t *testing.T) {
	root := t.TempDir()
	l := openLocal(t, root, time.Hour)
	l.close(t)
	path := filepath.Join(root, "records", progressFile)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(root, "records"), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.NewWriter(WriterConfig{}); err == nil || !errors.As(err, new(*fault.Error)) {
		t.Errorf("got %v, want an error with a hint", err)
	}
}
