package collector

import (
	"context"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// The store knows when an agent was away: before it came, between its connections,
// and even if it was back before anybody looked.
func TestViewObserves(t *testing.T) {
	views := make(chan *View, 1)
	r := startRun(t, 2, "4=2000", func(cfg *Config) {
		cfg.Lines = true
		cfg.View = func(ctx context.Context, v *View) error {
			views <- v
			<-ctx.Done()
			return nil
		}
	})
	go func() {
		for _, err := r.stdout.ReadString('\n'); err == nil; _, err = r.stdout.ReadString('\n') {
		}
	}()
	v := <-views
	conn := r.accept(t, 0)
	whole := func(s *rollup.Snapshot, host int) bool { // the newest second was watched from its beginning
		return s.Complete > 0 && len(s.Blanks(host, s.Last(1))) == 0
	}
	p := udp(2000, 0, 100, 0)
	p.Time = time.Now().UnixNano()
	send(t, conn, p)
	snap := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == 1 && whole(s, 0) })
	w := snap.Fit(snap.Last(1))
	if got := snap.Unknown(w); got[0] {
		t.Error("nothing is known, although one agent is watched")
	}
	// The time before the first connection may be no blank: both can be in one second.
	before := len(snap.Blanks(0, rollup.Window{To: snap.Complete + 1}))
	conn.Close()
	awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return len(s.Blanks(0, rollup.Window{To: s.Complete + 1})) > before })
	conn = r.accept(t, 0)
	defer conn.Close()
	snap = awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return whole(s, 0) })
	blanks := snap.Blanks(0, rollup.Window{To: snap.Complete + 1})
	if last := blanks[len(blanks)-1]; last.To > snap.Complete || last.Partial {
		t.Errorf("blanks %+v, want the last one over before %d", blanks, snap.Complete)
	}
	r.cancel()
	r.wait()
}
