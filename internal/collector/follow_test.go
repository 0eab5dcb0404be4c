package collector

import (
	"context"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// TestFollow: what others collect is counted by its agents, also sums of ten
// seconds, which come late and are spread over them; levels and losses show.
func TestFollow(t *testing.T) {
	views := make(chan *View, 1)
	start := time.Now().Unix() - 11
	seconds := 10 - start%10 // to the end of its ten
	r := startRun(t, 1, "5=80", func(cfg *Config) {
		cfg.Lines = true
		cfg.View = func(ctx context.Context, v *View) error {
			views <- v
			<-ctx.Done()
			return nil
		}
		cfg.Follow = &Follow{Agents: []string{"a", "b"}, Run: func(ctx context.Context, take func(*batch.Batch)) error {
			one := udp(80, 0, 100, wire.Outgoing)
			one.Time = time.Now().UnixNano()
			sum := one
			sum.Time, sum.Packets, sum.Length = start*1e9, 2520, 252_000
			take(&batch.Batch{Agent: "a", Boot: 1, Records: []wire.Record{one, one}})
			take(&batch.Batch{Agent: "b", Boot: 2, Dropped: 50, Level: batch.Top, Records: []wire.Record{sum}})
			take(&batch.Batch{Agent: "b", Boot: 2, First: 1, Dropped: 57, Level: batch.Top, Records: []wire.Record{sum}})
			take(&batch.Batch{Agent: "new", Boot: 3, Records: []wire.Record{one}})
			<-ctx.Done()
			return nil
		}}
	})
	go func() {
		for _, err := r.stdout.ReadString('\n'); err == nil; _, err = r.stdout.ReadString('\n') {
		}
	}()
	v := <-views
	snap := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == uint64(3+2*seconds) })
	if snap.Late != 0 || snap.Future != 0 {
		t.Errorf("%d late, %d from the future", snap.Late, snap.Future)
	}
	each := rollup.Counts{Packets: uint64(5040 / seconds), Bytes: uint64(504_000 / seconds)}
	cells := snap.Cells(rollup.Window{From: start, To: start + seconds, Step: 1}).Cells
	if len(cells) != 1 || cells[0].Host != 1 || cells[0].Row != 0 {
		t.Fatalf("cells %+v", cells)
	}
	for i, c := range cells[0].Series {
		if c != each {
			t.Errorf("second %d: %+v, want %+v", i, c, each)
		}
	}
	agents := v.Agents()
	if d := agents[0].Detail; d.Level != batch.Packets || d.Records != 2 || d.Limit != "" {
		t.Errorf("a: %+v", d)
	}
	if d := agents[1].Detail; d.Level != batch.Top || d.Records != 2 || d.Lost != 7 || d.Limit != "bus" || d.Since.IsZero() || d.Changes != 1 {
		t.Errorf("b: %+v", d)
	}
	if len(agents) != 4 || agents[2].Records != 0 || agents[3].Records != 1 || v.Hosts()[3].Label != "new" {
		t.Errorf("others, and the one that is new: %+v, %+v", agents[2:], v.Hosts()[2:])
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}
