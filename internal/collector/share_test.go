package collector

import (
	"context"
	"sync"
	"testing"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// turns is a Share that gives all agents away and takes them back.
type turns struct {
	mu      sync.Mutex
	mine    bool
	changed chan struct{}
}

func (s *turns) Mine(string) (bool, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mine, s.changed
}

func (s *turns) Holds() bool { return true }

func (s *turns) set(mine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mine = mine
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
		share.set(true)
		conn := r.accept(t, 0)
		send(t, conn, udp(1, 0, 100, 0))
		r.expect(t, "1560390672.895279:h0:X:800:0")
		await("")
		share.set(false)
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
