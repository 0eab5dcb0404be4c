package collector

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// reloadRun is a collector with two agents that may be in its configuration, a
// View with an archive, and somebody who keeps batches.
type reloadRun struct {
	*testRun
	path string
	view *View
	kept keptBatches
}

// keptBatches counts records by agent; it is read when the collector has ended.
type keptBatches map[string]int

func (k keptBatches) Publish(b *batch.Batch) { k[b.Agent] += len(b.Records) }

func startReload(t *testing.T, dir string, config func(addresses []string) string) *reloadRun {
	t.Helper()
	r := &reloadRun{path: filepath.Join(t.TempDir(), "collector.conf"), kept: keptBatches{}}
	views := make(chan *View, 1)
	r.testRun = startRun(t, 3, "", func(cfg *Config) {
		var addresses []string
		for i := range cfg.File.Hosts {
			addresses = append(addresses, cfg.File.Hosts[i].Address())
		}
		r.write(t, config(addresses))
		file, err := ReadFile(r.path)
		if err != nil {
			t.Fatal(err)
		}
		cfg.File, cfg.Reload, cfg.Batches, cfg.Lines = file, r.path, r.kept, true
		cfg.Archive = &Archive{Dir: dir}
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
	r.view = <-views
	return r
}

// write replaces the configuration.
func (r *reloadRun) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(r.path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		t.Fatal(err)
	}
}

// await waits until the View has so many changes behind it.
func (r *reloadRun) await(t *testing.T, edition uint64) {
	t.Helper()
	for deadline := time.Now().Add(patience); r.view.Edition() != edition; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("edition %d, want %d", r.view.Edition(), edition)
		}
	}
}

// packets are those of a host and a row, by its name.
func (r *reloadRun) packets(snap *rollup.Snapshot, host int, row string) (n uint64) {
	rows := r.view.Rows()
	at := time.Now().Unix()
	for _, h := range snap.Overview(rollup.Window{From: at - 120, To: at + 5}).Hosts {
		for _, f := range h.Flows {
			if h.Host == host && rows[f.Row].Name == row {
				n += f.Primary.Packets
			}
		}
	}
	return n
}

// TestReload: agents and flows that come to the configuration are counted in rows
// of their own, also packets of conversations that there were before; what goes
// keeps its number, and comes back to it, also at another address and in another
// run.
func TestReload(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "history")
	var at []string
	r := startReload(t, dir, func(addresses []string) string {
		at = addresses
		return "1=2000\na:" + at[0] + "\n"
	})
	p := udp(2000, 0, 100, 0)
	p.Time = time.Now().UnixNano()
	sum := func(n uint64) *rollup.Snapshot {
		return awaitSnapshot(t, r.view, func(s *rollup.Snapshot) bool { return s.Records == n })
	}
	a := r.accept(t, 0)
	send(t, a, p)
	sum(1)

	r.write(t, fmt.Sprintf("1=2001\n9=2000\na:%s\nb:%s\n", at[0], at[1]))
	b := r.accept(t, 1)
	r.await(t, 1)
	send(t, a, p)
	send(t, b, p)
	snap := sum(3)
	for _, want := range []struct {
		host int
		row  string
	}{{0, "1"}, {0, "9"}, {1, "9"}} {
		if n := r.packets(snap, want.host, want.row); n != 1 {
			t.Errorf("host %d, flow %s: %d packets, want 1", want.host, want.row, n)
		}
	}
	rows := r.view.Rows()
	if len(rows) != 3 || rows[1].Name != wire.Unmatched || rows[0].Detail != "2001" || rows[2].Name != "9" {
		t.Errorf("rows %+v", rows)
	}

	r.write(t, fmt.Sprintf("9=2000\na:%s\n", at[0]))
	r.await(t, 2)
	if agents := r.view.Agents(); len(agents) != 2 || agents[0].Gone || !agents[1].Gone || !r.view.Rows()[0].Former {
		t.Errorf("agents %+v, rows %+v", agents, r.view.Rows())
	}
	r.write(t, fmt.Sprintf("9=2000\na:%s\nb:%s\n", at[0], at[2])) // at another address
	b = r.accept(t, 2)
	r.await(t, 3)
	send(t, b, p)
	if n := r.packets(sum(4), 1, "9"); n != 2 {
		t.Errorf("host 1 has %d packets, want 2", n)
	}
	if agents := r.view.Agents(); len(agents) != 2 || agents[1].Gone || agents[1].Records != 2 || agents[1].Connections != 2 {
		t.Errorf("agents %+v", agents)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if r.kept["a"] != 2 || r.kept["b"] != 2 {
		t.Errorf("kept %v", r.kept)
	}
	for _, want := range []string{": read again: added b (", "; flows have changed\n", ": read again: removed b ("} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("said\n%swant %q", r.stderr, want)
		}
	}

	// The next run does not know b, and then it does.
	r = startReload(t, dir, func(addresses []string) string {
		at = addresses
		return "9=2000\na:" + at[0] + "\n"
	})
	if hosts, agents := r.view.Hosts(), r.view.Agents(); len(hosts) != 2 || hosts[1].Label != "b" || !agents[1].Gone {
		t.Fatalf("hosts %+v, agents %+v", hosts, agents)
	}
	if n := r.packets(r.view.Store().Snapshot(), 1, "9"); n != 2 {
		awaitSnapshot(t, r.view, func(s *rollup.Snapshot) bool { return r.packets(s, 1, "9") == 2 })
	}
	r.write(t, fmt.Sprintf("9=2000\na:%s\nb:%s\n", at[0], at[1]))
	b = r.accept(t, 1)
	r.await(t, 1)
	send(t, b, p)
	awaitSnapshot(t, r.view, func(s *rollup.Snapshot) bool { return s.Records == 1 && r.packets(s, 1, "9") == 3 })
	if agents := r.view.Agents(); len(agents) != 2 || agents[1].Gone {
		t.Errorf("agents %+v", agents)
	}
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
}

// TestReloadRefused: an edit with an error changes nothing at all; what is bad
// already, and what is there twice, is no such edit.
func TestReloadRefused(t *testing.T) {
	var at []string
	r := startReload(t, filepath.Join(t.TempDir(), "history"), func(addresses []string) string {
		at = addresses
		return "1=20x\na:" + at[0] + "\n"
	})
	r.accept(t, 0)
	for _, edit := range []struct{ text, says string }{
		{"1=20x\nb:" + at[1] + ":x\n", "more than one colon"},
		{"1=20x\nb:tls://" + at[1] + "\n", "tls:// takes a certificate"},
		{"1=20x\nb:from://10.0.0.1\n", "an agent that is not dialled takes -listen URL"},
	} {
		r.write(t, edit.text)
		for line := range r.said {
			if strings.Contains(line, edit.says) {
				break
			}
		}
		if hosts := r.view.Hosts(); len(hosts) != 1 || r.view.Edition() != 0 {
			t.Errorf("%s: hosts %v, edition %d", edit.text, hosts, r.view.Edition())
		}
	}
	r.write(t, "# a line\n1=20x\na:"+at[0]+"\na:"+at[1]+"\n")
	r.accept(t, 1)
	r.await(t, 1)
	r.write(t, "") // no agents, for now
	r.await(t, 2)
	r.cancel()
	if err := r.wait(); err != nil {
		t.Fatal(err)
	}
	if strings.Count(r.stderr, "all goes on as it was before that") != 3 {
		t.Errorf("said\n%s", r.stderr)
	}
}
