package collector

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// turns is a Share that gives all agents away and takes them back.
type turns struct {
	mu            sync.Mutex
	mine, stopped bool
	changed       chan struct{}
}

func (s *turns) Mine(string) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mine, s.changed
}

func (s *turns) Stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

func (s *turns) Leave() {}

func (s *turns) set(mine, stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine, s.stopped = mine, stopped
	close(s.changed)
	s.changed = make(chan struct{})
}

// TestShare: an agent is dialled while it is ours; while it is not, its state says
// who has it.
func TestShare(t *testing.T) {
	share := &turns{changed: make(chan struct{})}
	views := make(chan *View, 1)
	r := startRun(t, 1, "", func(cfg *Config) {
		cfg.Share = share
		cfg.View = func(ctx context.Context, v *View) error {
			views <- v
			<-ctx.Done()
			return nil
		}
	})
	v := <-views
	await := func(status string) {
		t.Helper()
		if !nettest.Eventually(patience, func() bool { return v.Agents()[0].Status == status }) {
			t.Fatalf("the agent's state is %+v, want %q", v.Agents()[0], status)
		}
	}
	await(atAnother)
	for range 2 {
		share.set(true, false)
		conn := r.accept(t, 0)
		if _, err := io.ReadFull(conn, make([]byte, len("numbers\n"))); err != nil {
			t.Fatal(err)
		}
		send(t, conn, udp(1, 0, 100, 0))
		r.expect(t, "1560390672.895279:h0:X:800:0")
		await("")
		share.set(false, false)
		await(atAnother)
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes from a collector that has given the agent away", n)
		}
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}

// TestShareStopped: what arrives while others may have an agent is withheld and counted if
// nothing tells the records apart, and the agent is dialled anew. An agent that numbers its
// records is read on, also for a while after it was given away.
func TestShareStopped(t *testing.T) {
	for name, numbered := range map[string]bool{"numbered": true, "not numbered": false} {
		t.Run(name, func(t *testing.T) {
			share := &turns{mine: true, changed: make(chan struct{})}
			kept := &keepAll{}
			views := make(chan *View, 1)
			r := startRun(t, 1, "", func(cfg *Config) {
				cfg.Share, cfg.Batches = share, kept
				cfg.View = func(ctx context.Context, v *View) error {
					views <- v
					<-ctx.Done()
					return nil
				}
			})
			v := <-views
			conn := r.accept(t, 0)
			if numbered {
				if _, err := conn.Write(wire.AppendMark(nil, 7, 100)); err != nil {
					t.Fatal(err)
				}
			}
			send(t, conn, udp(1, 0, 100, 0))
			r.expect(t, "1560390672.895279:h0:X:800:0")
			share.mu.Lock()
			share.stopped = true // nobody is told: the records come first
			share.mu.Unlock()
			send(t, conn, udp(1, 0, 100, 0))
			if !numbered {
				if !nettest.Eventually(patience, func() bool { return v.Withheld() == 1 && v.Agents()[0].Withheld == 1 }) {
					t.Fatalf("%d records withheld, want 1", v.Withheld())
				}
				share.set(true, true)
				if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
					t.Fatal(err)
				}
				share.set(true, false)
				r.accept(t, 0)
			} else {
				r.expect(t, "1560390672.895279:h0:X:800:0")
				share.set(false, false)
				send(t, conn, udp(1, 0, 100, 0))
				r.expect(t, "1560390672.895279:h0:X:800:0")
				if n := v.Withheld(); n != 0 {
					t.Errorf("%d records withheld, want 0", n)
				}
			}
			r.cancel()
			if err := r.wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestBatchesNumbered: batches have the agent's numbers, whatever the reader of the hub is
// given at once, and go on where the agent says; without them they have ours.
func TestBatchesNumbered(t *testing.T) {
	got := &keepAll{}
	b := benchBatcher(t, 1, got, "packets=all")
	a := b.c.all()[0]
	records := make([]wire.Record, 5)
	for i := range records {
		records[i] = udp(1, 0, 100, 0)
	}
	a.take(records[:2]) // before the first mark
	a.mark(7, 100)
	a.take(append([]wire.Record{wire.CPUStat(1e18, 5)}, records[:3]...))
	a.mark(7, 110) // the agent has lost some
	a.take(records)
	b.take()
	a.mark(0, 0)
	a.mark(9, 0) // another life of the agent
	a.take(records[:1])
	a.mark(0, 0) // another agent, which has no numbers
	a.take(records[:4])
	b.take()
	b.flushOlder(b.now.Add(time.Second))
	ours := b.agents[0].ours.boot
	want := []batch.Batch{
		{Boot: ours, First: 0}, {Boot: 7, First: 100}, {Boot: 7, First: 110}, {Boot: 9, First: 0}, {Boot: ours, First: 2},
	}
	if len(got.list) != len(want) {
		t.Fatalf("%d batches, want %d: %+v", len(got.list), len(want), got.list)
	}
	for i, n := range []uint64{2, 3, 5, 1, 4} {
		g := got.list[i]
		if g.Boot != want[i].Boot || g.First != want[i].First || g.Next() != want[i].First+n || g.Dropped != 0 {
			t.Errorf("batch %d: boot %x, [%d, %d), %d dropped; want boot %x, [%d, %d), 0", i, g.Boot, g.First, g.Next(), g.Dropped, want[i].Boot, want[i].First, want[i].First+n)
		}
	}
}

// keepAll keeps batches.
type keepAll struct{ list []batch.Batch }

func (k *keepAll) Publish(b *batch.Batch) {
	c := *b
	c.Records = slices.Clone(b.Records)
	k.list = append(k.list, c)
}
