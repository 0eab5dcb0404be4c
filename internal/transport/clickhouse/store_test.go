package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/test/natstest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/wire/batch"
)

// TestStore: a writer that takes records from a bus, and is ended in the middle of an
// INSERT, again and again, puts each into the table once.
func TestStore(t *testing.T) {
	server := startServer(t)
	cut := startCutter(t, server.Port, func(n int) spoiling { return []spoiling{unsaid, none, midway}[n%3] })
	nats, err := natstest.Start(natstest.Config{Dir: t.TempDir(), Size: 1 << 30, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	conn, err := bus.Connect(bus.Config{Name: "test", InProcess: nats, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	streams := bus.Streams{Partitions: 1, Replicas: 1, MaxBytes: 256 << 20}
	publisher := bus.NewPublisher(conn, bus.PublisherConfig{})
	publishing, stop := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return publisher.Run(publishing) })
	defer func() { stop(); _ = g.Wait() }()
	dir := t.TempDir()
	var total sums
	for round := range 4 {
		total.add(publishTo(publisher, uint64(round), 40))
		writeFor(t, conn, streams, server.at(cut.port, ""), dir, 700*time.Millisecond, func() bool { return false })
		cut.idle() // what has a killed process's request does not begin with it later
	}
	store := writeFor(t, conn, streams, server.target(""), dir, 60*time.Second, func() bool {
		return server.Query("lab", ofRecords) == total.String()
	})
	server.holds(total)
	if left := append(store.Pending(), store.list(ready)...); len(left) > 0 {
		t.Errorf("segments are left: %v", left)
	}
}

func (s *sums) add(o sums) {
	s.records, s.packets, s.bytes = s.records+o.records, s.packets+o.packets, s.bytes+o.bytes
}

// writeFor writes for a while, and then ends without letting an INSERT end, as when
// the process is killed; or until it is done and nothing waits.
func writeFor(t *testing.T, conn *bus.Conn, streams bus.Streams, target *TableURL, dir string, d time.Duration, done func() bool) *TableStore {
	t.Helper()
	s, err := OpenStore(target, dir, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	w := bus.NewWriter(conn, bus.WriterConfig{
		Store: s, Streams: streams, Group: "clickhouse", Age: 100 * time.Millisecond,
		NewSegment: func(id string) (bus.SegmentWriter, error) { return s.NewSegment(id) },
	})
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error {
		for ctx.Err() == nil {
			for _, id := range s.list(ready) {
				if err := s.send(ctx, id); err != nil {
					return err
				}
			}
			time.Sleep(20 * time.Millisecond)
			if len(s.list(ready))+len(s.Pending()) == 0 && done() {
				cancel()
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Logf("%v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	return s
}

// TestStoreRun: Run ends with what is left, and says what it cannot do.
func TestStoreRun(t *testing.T) {
	server := startServer(t)
	dir := t.TempDir()
	s, err := OpenStore(server.target(""), dir, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := OpenStore(server.target(""), dir, t.Logf); err == nil || !strings.Contains(err.Error(), "another recollect has it") {
		t.Errorf("a second one may have the directory: %v", err)
	}
	var total sums
	for i := range 3 {
		g, err := s.NewSegment(fmt.Sprint("segment-", i))
		if err != nil {
			t.Fatal(err)
		}
		total.add(publishTo(segmentPublisher{t, g}, uint64(i), 70))
		if err := g.Seal(); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Pending(); len(got) != 3 {
		t.Fatalf("pending %v", got)
	}
	for _, id := range s.Pending()[:2] {
		if err := errors.Join(s.Commit(id), s.Commit(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Discard("segment-2"); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := s.Run(ended); err != nil {
		t.Fatal(err)
	}
	if got, want := server.Query("lab", "SELECT count() FROM records"), "140000"; got != want || s.Written() != 140_000 {
		t.Errorf("%s rows, %d written, want %s", got, s.Written(), want)
	}
}

type segmentPublisher struct {
	t *testing.T
	g *TableSegment
}

func (p segmentPublisher) Publish(b *batch.Batch) {
	if err := p.g.Add(b); err != nil {
		p.t.Fatal(err)
	}
}
