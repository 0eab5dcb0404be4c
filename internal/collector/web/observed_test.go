package web

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/wire"
)

// Seconds in which nobody watched are null in every series, and gaps of the host
// whose they are; 0 is for those in which somebody did, and there was nothing.
func TestUnobservedIsNull(t *testing.T) {
	const start = 1_700_000_000
	src := newSource()
	src.Watch(start*1e9, 0, true)
	src.Watch(start*1e9, 1, false)
	p := wire.Record{Time: start * 1e9, Src: [16]byte{1}, Dst: [16]byte{2}, Length: 100, Flags: wire.Outgoing}
	src.Add(p.Time, 0, &p)
	src.Watch((start+3)*1e9, 0, false)
	src.Watch((start+5)*1e9+1, 0, true)
	src.Tick((start + 9) * int64(time.Second))
	w := rollup.Window{From: start, To: start + 8, Step: 1}
	want := "[1,0,0,0,null,0,0,0]"
	snap := src.Snapshot()
	overview := overviewOf(snap, snap.Overview(w))
	hosts := hostsOf(snap, w)
	for name, got := range map[string]any{
		"total": overview.Series.Packets, "flow": overview.Flows[0].PrimarySeries.Packets, "host": hosts.Hosts[0].SentSeries.Packets,
	} {
		if text, err := json.Marshal(got); string(text) != want || err != nil {
			t.Errorf("%s: %s, %v, want %s", name, text, err, want)
		}
	}
	gap := [2]int64{start + 4, start + 5}
	if got := hosts.Hosts[0].Gaps; len(got) != 1 || got[0] != gap {
		t.Errorf("the host's gaps are %v, want %v", got, gap)
	}
	if got := overview.Window.Gaps; len(got) != 1 || got[0] != gap {
		t.Errorf("the window's gaps are %v, want %v", got, gap)
	}
}
