package collector

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/collector/screen"
	"github.com/pcapper/pcapper/wire"
)

// mgenSeconds is the time over which loss and delay are measured: long enough for slow
// flows, short enough to follow changes.
const mgenSeconds = 10

// hostRow is a flow at a receiver.
type hostRow struct{ host, row int }

// quality adds up the outcomes of MGEN messages.
type quality struct {
	expected, lost uint64
	delayed        uint64
	delay          float64 // sum, seconds
}

func (q *quality) loss() screen.Gauge {
	if q == nil || q.expected == 0 {
		return screen.Gauge{}
	}
	return screen.Gauge{Value: 100 * float64(q.lost) / float64(q.expected), Valid: true}
}

func (q *quality) meanDelay() screen.Gauge {
	if q == nil || q.delayed == 0 {
		return screen.Gauge{}
	}
	return screen.Gauge{Value: q.delay / float64(q.delayed), Valid: true}
}

// last returns the newest snapshot, and the window of this many seconds before the
// displayed time.
func (l *liveView) last(seconds int64) (*rollup.Snapshot, rollup.Window) {
	snap := l.c.view.Store().Snapshot()
	w := snap.Last(seconds)
	if l.c.player != nil { // the player may have been rewound
		if now := l.played / int64(time.Second); now < w.To {
			w = rollup.Window{From: now - seconds, To: now}
		}
	}
	return snap, w
}

// updateMGEN updates loss and delay, of each flow number at each host, and the table of
// MGEN flows.
func (l *liveView) updateMGEN() {
	snap, w := l.last(mgenSeconds)
	m := snap.MGEN(w)
	clear(l.quality)
	l.view.MGEN = l.view.MGEN[:0]
	l.view.HasMGEN = len(m.Flows) > 0
	seconds := float64(max(1, m.Window.Seconds()))
	for i := range m.Flows {
		f := &m.Flows[i]
		for j := range f.Receivers {
			l.addQuality(f, &f.Receivers[j])
		}
		if l.view.ShowMGEN {
			l.view.MGEN = append(l.view.MGEN, l.mgenRows(f, seconds)...)
		}
	}
}

// addQuality counts a receiver's part of a flow for all flow numbers that it
// belongs to, unless it only relays or overhears it.
func (l *liveView) addQuality(f *rollup.MGENFlow, r *rollup.MGENReceiver) {
	if !r.Role.Wants() {
		return
	}
	record := wire.Record{DstPort: f.DstPort, Proto: f.Proto, FlowID: f.ID, Flags: wire.MGEN}
	lines := l.classes.lines(l.classes.match(&record), l.scratch)
	if len(lines) == 0 {
		l.addTo(len(l.rows)-1, r)
	}
	for i, line := range lines {
		row := l.rowOf[line]
		if !slices.ContainsFunc(lines[:i], func(other uint32) bool { return l.rowOf[other] == row }) {
			l.addTo(row, r)
		}
	}
}

func (l *liveView) addTo(row int, r *rollup.MGENReceiver) {
	key := hostRow{r.Host, row}
	q := l.quality[key]
	if q == nil {
		q = &quality{}
		l.quality[key] = q
	}
	if r.Loss.Valid {
		q.expected += r.Loss.Expected
		q.lost += r.Loss.Lost
	}
	q.delayed += r.Delayed
	q.delay += r.MeanDelay.Seconds() * float64(r.Delayed)
}

// mgenRows returns the table rows of a flow: one per receiver, or a single one.
func (l *liveView) mgenRows(f *rollup.MGENFlow, seconds float64) (rows []screen.MGENFlow) {
	row := screen.MGENFlow{ID: f.ID, Path: l.endpoint(f.Src, f.SrcHost, f.SrcPort) + " → " + l.endpoint(f.Dst, -1, f.DstPort)}
	for i := range f.Receivers {
		r := &f.Receivers[i]
		if !r.Role.Wants() {
			continue
		}
		row.At = l.c.all()[r.Host].host.Label
		row.Rate = rateOf(r.Received.Counts, seconds)
		row.Loss = screen.Gauge{Value: 100 * r.Loss.Fraction(), Valid: r.Loss.Valid && r.Loss.Expected > 0}
		row.Delay = screen.Seconds(r.MeanDelay, r.Delayed > 0)
		row.Jitter = screen.Seconds(r.Jitter, r.Delayed > 0)
		row.Reordered = screen.Gauge{Value: float64(r.Reordered), Valid: r.Received.Messages > 0}
		row.Duplicates = screen.Gauge{Value: float64(r.Duplicates), Valid: r.Received.Messages > 0}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		row.Rate = rateOf(f.Sent.Plus(f.Relayed), seconds)
		rows = append(rows, row)
	}
	return rows
}

func rateOf(n rollup.Counts, seconds float64) screen.Rate {
	return screen.Rate{Packets: float64(n.Packets) / seconds, Bits: float64(n.Bits()) / seconds}
}

// endpoint formats a host, by its name, its agent's label, or its address, and a port.
func (l *liveView) endpoint(a netip.Addr, host int, port uint16) string {
	name := l.c.names.Addr(a)
	switch {
	case name != "":
	case host >= 0:
		name = l.c.all()[host].host.Label
	default:
		name = a.String()
	}
	return net.JoinHostPort(name, strconv.Itoa(int(port)))
}
