package bustest_test

import (
	"os"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/bus/bustest"
)

func TestMain(m *testing.M) {
	bustest.Main()
	code := m.Run()
	bustest.RemoveProgram()
	os.Exit(code)
}

// TestEmbedded: a collector with a bus of its own that is killed at any moment
// loses nothing that was acknowledged, and has nothing twice.
func TestEmbedded(t *testing.T) {
	run(t, bustest.Siege{Embedded: true, Rate: 50_000, Kills: 5, Pause: time.Second})
}

// TestCluster: nor does a cluster whose leader, writers and publishers are killed,
// and publishing goes on within ten seconds.
func TestCluster(t *testing.T) {
	run(t, bustest.Siege{
		Publishers: 2, Writers: 2, Rate: 20_000, Kills: 4, Pause: 2 * time.Second,
		Only: []string{"writer", "leader", "publisher", "node"},
	})
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
