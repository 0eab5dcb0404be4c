package web

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// archived is a source whose store has an archive, and what ends it.
func archived(t *testing.T, dir string) (*source, func()) {
	t.Helper()
	a, err := rollup.OpenArchive(rollup.ArchiveConfig{
		Dir: dir, Hosts: []rollup.Host{{Label: "a"}, {Label: hostile}}, Rows: []rollup.Row{{Name: "1"}, {Name: "X"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	go a.Run()
	s := newSource()
	s.Store = rollup.New(rollup.Config{
		Hosts: a.Hosts(), Rows: 1, Archive: a,
		Classify: func(rows []int, r *wire.Record) []int { return append(rows, 0) },
	})
	return s, s.Close
}

// Windows reach into the past of other runs, and tell the time between them.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	before := time.Now().Add(-3 * time.Hour).Truncate(time.Hour)
	s, end := archived(t, dir)
	for i := range 30 {
		at := before.Add(time.Duration(i) * time.Second).UnixNano()
		r := wire.Record{Time: at, Length: 100, Src: [16]byte{10: 255, 11: 255, 15: 1}, Flags: wire.Outgoing}
		s.Add(at, 0, &r)
		s.Tick(at)
	}
	end()
	s, end = archived(t, dir)
	defer end()
	s.tick()
	server := start(t, s)
	_, body := get(t, server, fmt.Sprintf("/api/v1/overview?from=%d&to=%d&step=10", before.Unix(), before.Unix()+3*3600), nil)
	var o struct {
		Window struct{ Gaps [][2]int64 }
		Total  struct{ Packets int }
	}
	if err := json.Unmarshal(body, &o); err != nil {
		t.Fatal(err)
	}
	if o.Total.Packets != 30 || len(o.Window.Gaps) != 1 || o.Window.Gaps[0][0] != before.Unix()+30 {
		t.Errorf("%+v; began %d", o, before.Unix())
	}
	_, body = get(t, server, "/api/v1/frame", nil)
	var f struct {
		Oldest int64
		Store  struct{ Archive struct{ Size, Most int64 } }
	}
	if err := json.Unmarshal(body, &f); err != nil {
		t.Fatal(err)
	}
	if f.Oldest > before.Unix() || f.Oldest == 0 || f.Store.Archive.Size == 0 || f.Store.Archive.Most == 0 {
		t.Errorf("%+v", f)
	}
	// Counters begin with the run.
	_, body = get(t, server, "/metrics", nil)
	for _, want := range []string{"recollect_collector_archive_bytes ", "recollect_collector_archive_failing 0"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
	if strings.Contains(string(body), `recollect_packets_total{`) {
		t.Error("/metrics has packets of another run")
	}
}
