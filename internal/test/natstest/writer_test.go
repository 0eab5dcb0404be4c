package natstest_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// numbered are n records, each with its number as MGEN sequence number.
func numbered(first uint64, n int) []wire.Record {
	list := records(first, n)
	for i := range list {
		list[i].Flags |= wire.MGEN | wire.MGENHeader
		list[i].MGENSeq = uint32(first) + uint32(i)
	}
	return list
}

// fill publishes batches of one agent, and returns when they are acknowledged.
func fill(t *testing.T, c *bus.Conn, list ...*batch.Batch) {
	t.Helper()
	if _, err := c.EnsureStreams(t.Context(), oneStream); err != nil {
		t.Fatal(err)
	}
	p := bus.NewPublisher(c, bus.PublisherConfig{})
	for _, b := range list {
		b.Records = numbered(b.First, 100)
		p.Publish(b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if s := p.Status(); s.Acknowledged != s.Published {
		t.Fatalf("%+v", s)
	}
}

var oneStream = bus.Streams{Partitions: 1, MaxBytes: 64 << 20}

// run runs a writer until it has written so many records, or until stop says so.
func run(t *testing.T, c *bus.Conn, cfg bus.WriterConfig, stop func(w *bus.Writer) bool) bus.WriterStatus {
	t.Helper()
	cfg.Streams, cfg.Age = oneStream, 50*time.Millisecond
	w := bus.NewWriter(c, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	late := time.AfterFunc(20*time.Second, func() {
		t.Errorf("it has not come to an end: %+v", w.Status())
		cancel()
	})
	defer late.Stop()
	go func() {
		for ctx.Err() == nil && !stop(w) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return w.Status()
}

func checkKept(t *testing.T, want map[string]uint64, dirs ...string) {
	t.Helper()
	k := bustest.NewKept()
	for _, dir := range dirs {
		if err := k.Read(dir); err != nil {
			t.Fatal(err)
		}
	}
	if lost, double := k.Check(want); lost+double > 0 {
		t.Errorf("%d records lost, %d double", lost, double)
	}
}

func batches(n int) (list []*batch.Batch) {
	for i := range n {
		list = append(list, &batch.Batch{Agent: "a", Boot: 1, First: uint64(i * 100)})
	}
	return list
}

// TestRivals: writers that know nothing of each other, all of the same partition.
func TestRivals(t *testing.T) {
	s := start(t, t.TempDir())
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	fill(t, connect(t, s), batches(300)...)
	var mu sync.Mutex
	sum := map[*bus.Writer]uint64{}
	var wait sync.WaitGroup
	for _, dir := range dirs {
		c := connect(t, s)
		files := bustest.Files{Dir: dir}
		wait.Go(func() {
			run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment, Rows: 700}, func(w *bus.Writer) bool {
				mu.Lock()
				defer mu.Unlock()
				sum[w] = w.Status().Records
				total := uint64(0)
				for _, n := range sum {
					total += n
				}
				return total >= 300*100
			})
		})
	}
	wait.Wait()
	checkKept(t, map[string]uint64{"a/1": 300 * 100}, dirs...)
}

// TestTwiceAndTangled: a stream that has batches twice, in any order, in part, and
// with gaps.
func TestTwiceAndTangled(t *testing.T) {
	s := start(t, t.TempDir())
	c := connect(t, s)
	dir := t.TempDir()
	at := func(first uint64) *batch.Batch { return &batch.Batch{Agent: "a", Boot: 1, First: first} }
	fill(t, c, at(100), at(50), at(300), at(350), at(0), at(120), at(360), at(250), at(449), at(1000))
	files := bustest.Files{Dir: dir}
	got := run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment}, func(w *bus.Writer) bool {
		return w.Status().Records >= 619
	})
	checkKept(t, map[string]uint64{"a/1": 220}, dir) // 220 to 249 are missing, and 549 to 999
	if got.Records != 619 || got.Duplicates != 1000-619 {
		t.Errorf("%+v", got)
	}
}

// broken is a store that fails at a step.
type broken struct {
	bustest.Files
	commit, seal func() error
}

func (b broken) Commit(id string) error {
	if b.commit != nil {
		return b.commit()
	}
	return b.Files.Commit(id)
}

func (b broken) newSegment(id string) (bus.SegmentWriter, error) {
	s, err := b.NewSegment(id)
	return brokenSegment{s, b.seal}, err
}

type brokenSegment struct {
	bus.SegmentWriter
	after func() error
}

func (s brokenSegment) Seal() error {
	err := s.SegmentWriter.Seal()
	if err == nil && s.after != nil {
		err = s.after()
	}
	return err
}

// TestSealedAndCounted: a writer that ends when its segment counts, but is not
// committed yet.
func TestSealedAndCounted(t *testing.T) {
	s := start(t, t.TempDir())
	c := connect(t, s)
	files := bustest.Files{Dir: t.TempDir()}
	fill(t, c, batches(10)...)
	failed := false
	var mu sync.Mutex
	run(t, c, bus.WriterConfig{Store: broken{Files: files, commit: func() error {
		mu.Lock()
		defer mu.Unlock()
		failed = true
		return errors.New("the disk is broken")
	}}, NewSegment: files.NewSegment}, func(*bus.Writer) bool { mu.Lock(); defer mu.Unlock(); return failed })
	if n := len(files.Pending()); n != 1 {
		t.Fatalf("%d segments are pending", n)
	}
	fill(t, c, batches(12)[10:]...)
	got := run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment}, func(w *bus.Writer) bool { return w.Status().Records >= 200 })
	if got.Records != 200 {
		t.Errorf("%+v", got)
	}
	checkKept(t, map[string]uint64{"a/1": 1200}, files.Dir)
}

// TestSealedAndForgotten: a writer that is cut off before its segment counts.
func TestSealedAndForgotten(t *testing.T) {
	s := start(t, t.TempDir())
	files := bustest.Files{Dir: t.TempDir()}
	c := connect(t, s)
	fill(t, c, batches(10)...)
	cut, err := bus.Connect(bus.Config{InProcess: s})
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	ended := make(chan bool)
	run(t, cut, bus.WriterConfig{Store: files, NewSegment: broken{Files: files, seal: func() error {
		once.Do(func() { cut.Close(); close(ended) })
		return nil
	}}.newSegment}, func(*bus.Writer) bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if n := len(files.Pending()); n != 1 {
		t.Fatalf("%d segments are pending", n)
	}
	got := run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment}, func(w *bus.Writer) bool { return w.Status().Records >= 1000 })
	if got.Records != 1000 || len(files.Pending()) != 0 {
		t.Errorf("%+v, pending: %q", got, files.Pending())
	}
	checkKept(t, map[string]uint64{"a/1": 1000}, files.Dir)
}

// TestStreamMadeAnew: a stream that has lost what was written already.
func TestStreamMadeAnew(t *testing.T) {
	s := start(t, t.TempDir())
	c := connect(t, s)
	files := bustest.Files{Dir: t.TempDir()}
	fill(t, c, batches(10)...)
	run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment}, func(w *bus.Writer) bool { return w.Status().Records >= 1000 })
	deleteStream(t, s)
	fill(t, c, batches(12)[8:]...)
	got := run(t, c, bus.WriterConfig{Store: files, NewSegment: files.NewSegment}, func(w *bus.Writer) bool { return w.Status().Records >= 200 })
	if got.Records != 200 || got.Duplicates != 200 {
		t.Errorf("%+v", got)
	}
	checkKept(t, map[string]uint64{"a/1": 1200}, files.Dir)
}
