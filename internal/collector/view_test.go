package collector

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
)

// TestRunView: what agents send can be asked for beside the lines on stdout,
// and so can the agents' states.
func TestRunView(t *testing.T) {
	views := make(chan *View, 1)
	r := startRun(t, 2, "4=2000\n7=M9\n4=2001", func(cfg *Config) {
		cfg.View = func(ctx context.Context, v *View) error {
			views <- v
			<-ctx.Done()
			return nil
		}
	})
	go func() { // nobody may be slow on stdout
		for _, err := r.stdout.ReadString('\n'); err == nil; _, err = r.stdout.ReadString('\n') {
		}
	}()
	v := <-views
	if rows := v.Rows(); len(rows) != 3 || rows[0].Name != "4" || rows[0].Detail != "2000, 2001" || rows[1].Detail != "M9" || rows[2].Name != wire.Unmatched {
		t.Errorf("rows %+v", rows)
	}
	conn := r.accept(t, 0)
	now := time.Now().UnixNano()
	packet := func(src byte, port uint16, flow uint32, at int64) wire.Record {
		p := udp(port, flow, 100, 0)
		p.SetSrc4([4]byte{10, 0, 0, src})
		p.SetDst4([4]byte{10, 0, 0, 9})
		p.Time = at
		if flow > 0 {
			p.Flags |= wire.MGEN
		}
		return p
	}
	send(t, conn, packet(1, 2000, 0, now), packet(1, 2001, 9, now), packet(1, 53, 0, now), packet(1, 53, 0, now-3600e9),
		wire.CPUStat(now, 42))
	snap := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == 4 && s.Hosts[0].HasCPU })
	o := snap.Overview(rollup.Window{From: now/1e9 - 30, To: now/1e9 + 30})
	if o.Total.Packets != 4 || o.Total.Bytes != 400 || len(o.Hosts) != 1 || len(o.Flows) != 3 {
		t.Errorf("overview %+v", o)
	}
	want := []rollup.FlowCounts{
		{Row: 0, Primary: rollup.Counts{Packets: 1, Bytes: 100}, Secondary: rollup.Counts{Packets: 1, Bytes: 100}},
		{Row: 1, Primary: rollup.Counts{Packets: 1, Bytes: 100}},
		{Row: 2, Primary: rollup.Counts{Packets: 2, Bytes: 200}},
	}
	for i, f := range o.Hosts[0].Flows {
		if f != want[i] {
			t.Errorf("flow %+v, want %+v", f, want[i])
		}
	}
	if h := snap.Hosts[0]; h.Late != 1 || !h.LateNow || h.CPU != 42 || !h.HasAge || h.Age < 0 || h.Age > patience {
		t.Errorf("host %+v", h)
	}
	agents := v.Agents()
	if a := agents[0]; a.Phase != feed.Connected || a.Records != 5 || a.Connections != 1 || a.Status != "" || a.Failed || a.HasLosses {
		t.Errorf("agent %+v", a)
	}
	conn.Close()
	r.agents[0].Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if a := v.Agents()[0]; a.Failed && a.Status != "" && a.Phase != feed.Connected {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("agent %+v", v.Agents()[0])
		}
	}
	// What arrives last is counted, too.
	conn = r.accept(t, 1)
	send(t, conn, packet(2, 2000, 0, time.Now().UnixNano()))
	for deadline := time.Now().Add(patience); v.Agents()[1].Records < 1 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	if snap := v.Store().Snapshot(); snap.Records != 5 {
		t.Errorf("%d records at the end, want 5", snap.Records)
	}
	if n := v.Counting(); n.Records != 6 || n.Lost != 0 { // with the statistic
		t.Errorf("counting %+v", n)
	}
}

// TestRunViewFails: an error of the view ends the collector.
func TestRunViewFails(t *testing.T) {
	r := startRun(t, 1, "", func(cfg *Config) {
		cfg.View = func(context.Context, *View) error { return errView }
	})
	if err := r.wait(); err != errView {
		t.Errorf("%v, want %v", err, errView)
	}
}

// TestViewOverload: snapshots go on while more arrives than can be counted, and
// what is lost is told.
func TestViewOverload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	c := variedCollector(t)
	v, _ := newView(c, nil)
	done := make(chan error, 1)
	go func() { done <- v.run() }()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		batch := make([]wire.Record, 256)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			for i := range batch { // each of a conversation of its own
				batch[i] = udp(2000, 0, 100, 0)
				batch[i].Time = time.Now().UnixNano()
				batch[i].SrcPort, batch[i].Src = uint16(i+n), [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: byte(n), 14: byte(i), 15: byte(n >> 8)}
			}
			c.all()[0].take(batch)
		}
	}()
	first := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records > 0 })
	awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Seq > first.Seq+1 && s.Records > first.Records })
	close(stop)
	<-stopped
	c.hub.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	taken := c.all()[0].records.Load()
	if n := v.Counting(); n.Records+n.Lost != taken || v.Store().Snapshot().Records != n.Records {
		t.Errorf("%+v of %d, store has %d", n, taken, v.Store().Snapshot().Records)
	}
}

func awaitSnapshot(t *testing.T, v *View, done func(*rollup.Snapshot) bool) *rollup.Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for seq := uint64(0); ; {
		snap, err := v.Store().Next(ctx, seq)
		if err != nil {
			t.Fatalf("%v; last %+v", err, v.Store().Snapshot())
		}
		if done(snap) {
			return snap
		}
		seq = snap.Seq
	}
}

var errView = errors.New("cannot show")
