package web

import (
	"sync"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// settled is the number of seconds after its end from which a second no longer changes:
// by default, twice as long as the store waits for late packets.
const settled = 10

// chunk is the number of seconds queried at once: a window that is never widened to
// longer steps.
const chunk = 600

// totals adds up what hosts have seen since the start, second by second, each once it
// is settled, because counters must not decrease.
type totals struct {
	mu   sync.Mutex
	next int64 // the first second that has not been added
	sums map[totalKey]rollup.Counts
}

type totalKey struct {
	host, row int
	secondary bool
}

// add extends the totals to a snapshot. After a replay has been rewound, what is
// repeated is not added again.
func (t *totals) add(snap *rollup.Snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if snap.Oldest == 0 || snap.Since == 0 {
		return
	}
	if t.sums == nil {
		t.sums = make(map[totalKey]rollup.Counts)
		t.next = snap.Since // earlier seconds were counted by another run
	}
	end := snap.Complete + 1 - settled
	for t.next < end {
		w := rollup.Window{From: t.next, To: min(t.next+chunk, end), Step: 1}
		t.next = w.To
		o := snap.Overview(w)
		for i := range o.Hosts {
			h := &o.Hosts[i]
			for _, f := range h.Flows {
				t.count(totalKey{h.Host, f.Row, false}, f.Primary)
				t.count(totalKey{h.Host, f.Row, true}, f.Secondary)
			}
		}
	}
}

func (t *totals) count(k totalKey, c rollup.Counts) {
	if c.Packets > 0 {
		t.sums[k] = t.sums[k].Plus(c)
	}
}

// each calls f with every sum that is not zero.
func (t *totals) each(f func(totalKey, rollup.Counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, c := range t.sums {
		f(k, c)
	}
}
