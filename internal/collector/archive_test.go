package collector

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// archiveRun is a collector with an archive, whose View runs until its end.
func archiveRun(t *testing.T, agents int, flows string, archive *Archive) (*testRun, *View) {
	t.Helper()
	views := make(chan *View, 1)
	r := startRun(t, agents, flows, func(cfg *Config) {
		cfg.Archive, cfg.Lines = archive, true
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
	return r, <-views
}

// What one run has counted the next one shows, under the names it had.
func TestArchiveOverRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history")
	r, v := archiveRun(t, 2, "4=2000\n7=2001", &Archive{Dir: dir})
	at := time.Now().UnixNano()
	for i := range 2 {
		p := udp(uint16(2000+i), 0, 100, 0)
		p.Time = at
		send(t, r.accept(t, i), p, p, p)
	}
	awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == 6 })
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	// Now there are one agent and one flow, which is another one than the first.
	r, v = archiveRun(t, 1, "7=2001", &Archive{Dir: dir})
	if rows := v.Rows(); len(rows) != 3 || rows[0].Name != "7" || rows[1].Name != "4" || !rows[1].Former || rows[2].Name != wire.Unmatched {
		t.Fatalf("rows %+v", rows)
	}
	if all, agents := v.Hosts(), v.Agents(); len(all) != 2 || all[1].Label != "h1" || agents[0].Gone || !agents[1].Gone {
		t.Fatalf("hosts %+v, agents %+v", all, agents)
	}
	snap := awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Oldest != 0 && s.Complete >= at/1e9 })
	if snap.Since <= at/1e9-30 || snap.Records != 0 {
		t.Errorf("this run counted since %d, %d records", snap.Since, snap.Records)
	}
	o := snap.Overview(rollup.Window{From: at/1e9 - 1, To: at/1e9 + 2, Step: 1})
	want := map[[2]int]uint64{{0, 1}: 3, {1, 0}: 3}
	for _, h := range o.Hosts {
		for _, f := range h.Flows {
			if want[[2]int{h.Host, f.Row}] != f.Primary.Packets {
				t.Errorf("host %d, row %d: %d packets", h.Host, f.Row, f.Primary.Packets)
			}
			delete(want, [2]int{h.Host, f.Row})
		}
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	r.cancel()
	r.wait()
}

// After a crash the seconds that were not on disk come back from records, if there
// are any; if not, it is said that they are gone.
func TestArchiveAfterCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	dir := filepath.Join(t.TempDir(), "history")
	r, v := archiveRun(t, 1, "4=2000", &Archive{Dir: dir})
	conn := r.accept(t, 0)
	var all []wire.Record
	packet := func() {
		p := udp(2000, 0, 100, 0)
		p.Time = time.Now().UnixNano()
		all = append(all, p)
		send(t, conn, p)
	}
	packet()
	awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return v.archive.LastSecond() != 0 })
	packet()
	awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Records == 2 })
	crashed := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	r.cancel()
	r.wait()

	for _, test := range []struct {
		records func(context.Context, time.Time, time.Time, func(string, *wire.Record) bool) error
		packets uint64
		says    string
	}{
		{nil, 1, "the previous run ended abruptly: its history ends at"},
		{func(_ context.Context, from, to time.Time, yield func(string, *wire.Record) bool) error {
			for i := range all {
				if all[i].Time >= from.UnixNano() && all[i].Time < to.UnixNano() && !yield("h0", &all[i]) {
					break
				}
			}
			return nil
		}, 2, "1 record brought the rest back"},
	} {
		again := filepath.Join(t.TempDir(), "again")
		if err := os.CopyFS(again, os.DirFS(crashed)); err != nil {
			t.Fatal(err)
		}
		r, v := archiveRun(t, 1, "4=2000", &Archive{Dir: again, Records: test.records})
		w := rollup.Window{From: all[0].Time/1e9 - 5, To: all[1].Time/1e9 + 5, Step: 1}
		awaitSnapshot(t, v, func(s *rollup.Snapshot) bool { return s.Overview(w).Total.Packets == test.packets })
		r.cancel()
		r.wait()
		if !strings.Contains(r.stderr, test.says) {
			t.Errorf("said %q, want %q", r.stderr, test.says)
		}
	}
}

// Two programs must not write the same history, and logs are no new history.
func TestArchiveRefused(t *testing.T) {
	dir := t.TempDir()
	r, _ := archiveRun(t, 1, "", &Archive{Dir: dir})
	if _, err := rollup.OpenArchive(rollup.ArchiveConfig{Dir: dir, Rows: []rollup.Row{{Name: "X"}}}); err == nil || !strings.Contains(err.Error(), "another program keeps its history there") {
		t.Errorf("two at once: %v", err)
	}
	r.cancel()
	r.wait()
	replayed := startRun(t, 1, "", func(cfg *Config) { cfg.Archive, cfg.Replay = &Archive{Dir: dir}, &Replay{} })
	if err := replayed.wait(); err == nil || !strings.Contains(err.Error(), "logs that are played are no new history") {
		t.Errorf("with a replay: %v", err)
	}
}
