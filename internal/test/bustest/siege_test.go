package bustest_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
)

func TestMain(m *testing.M) {
	bustest.Main()
	code := m.Run()
	bustest.RemoveProgram()
	os.Exit(code)
}

// TestLocal kills a process that writes without a bus at any moment: it loses
// nothing that had reached its disk, and stores nothing twice.
func TestLocal(t *testing.T) {
	run(t, bustest.Siege{Local: true, Rate: 50_000, Kills: 5, Pause: time.Second})
}

// TestCluster: nor does a cluster whose leader, writers and publishers are killed,
// and publishing goes on within ten seconds.
func TestCluster(t *testing.T) {
	run(t, bustest.Siege{
		Publishers: 2, Writers: 2, Rate: 20_000, Kills: 4, Pause: 2 * time.Second,
		Only: []string{"writer", "leader", "publisher", "node"},
	})
}

// TestOwners: collectors that share agents lose no record of any while a server is killed,
// and store none twice; the agents of one that is killed and started again are read again
// within four seconds. bench/siege -owners all has all that can fail.
func TestOwners(t *testing.T) {
	o := bustest.Owners{
		Dir: t.TempDir(), Agents: 24, Rate: 50, Say: t.Logf, Down: 2 * time.Second, Rest: time.Second,
		Events: []string{"server-killed", "collector-restarted"},
	}
	list, err := o.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
}

// TestFewReplicas: streams that somebody has made for one server of three are used,
// and that is said; ours are on three.
func TestFewReplicas(t *testing.T) {
	s, err := bustest.StartServers(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	said := func(url string, cfg bus.Streams) string {
		t.Helper()
		target, err := bus.Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var text strings.Builder
		c, err := bus.Connect(bus.Config{Target: target, Say: func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintf(&text, format+"\n", args...)
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.EnsureStreams(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		return text.String()
	}
	small := bus.Streams{Partitions: 1, MaxBytes: 1 << 20}
	if text := said(s.URL(), small); strings.Contains(text, "replicas") {
		t.Errorf("of our own streams: %s", text)
	}
	one := small
	one.Replicas = 1
	if text := said(s.URL()+"?tenant=b", one); strings.Contains(text, "replicas") {
		t.Errorf("of streams as they were asked for: %s", text)
	}
	if text := said(s.URL()+"?tenant=b", small); !strings.Contains(text, "is on 1 of the servers, where 3 are better") {
		t.Errorf("of streams on one server: %q", text)
	}
}

func run(t *testing.T, s bustest.Siege) {
	t.Helper()
	s.Dir, s.Say, s.Batch = t.TempDir(), t.Logf, 200
	r, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *r)
	if r.Lost > 0 || r.Doubled > 0 {
		t.Errorf("%d records lost, %d double", r.Lost, r.Doubled)
	}
	if r.Kept < 10_000 {
		t.Errorf("only %d records were kept", r.Kept)
	}
}
