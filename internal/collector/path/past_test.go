package path

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// kept runs a simulated network of several flows for a minute, with rows kept, which are taken now and
// then.
func kept(t *testing.T) (w *world, rows []Row) {
	w = newWorld(t, Config{Window: 2e9})
	w.e.Keep()
	group := netip.MustParseAddr("239.1.2.3").As16()
	for _, a := range []string{"s", "r1/a", "r1/b", "r2/a", "r2/b", "r3/a", "r3/b", "d", "n4"} {
		w.e.Watch(w.e.Agent(a), start, true)
	}
	w.e.Join(start, w.e.Agent("n4"), group, true)
	for i := range 6000 {
		w.now += 9e6
		switch k := w.rnd.IntN(100); {
		case i%20 == 7:
			p := w.packet("10.0.0.1", "239.1.2.3", 5001).sent("s")
			at := p.at
			p.got("n3")
			if p.at = at; k < 70 {
				p.got("n4")
			}
		case i%20 == 8 && i > 3000:
			w.packet("10.0.0.1", "10.0.9.9", 5002).sent("s").got("x/a").forward("x/b").got("d")
		case i%20 == 8:
			w.packet("10.0.0.1", "10.0.9.9", 5002).sent("s").got("y/a").forward("y/b").got("d")
		case i%20 == 9:
			w.packet("10.0.9.9", "10.0.0.1", 5003).sent("d") // nobody hears it
		case k == 0:
			w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s").got("r1/a").drop("r1/a", "NETFILTER_DROP", 0)
		case k < 5:
			w.chain(5000, "r2")
		case k < 9:
			w.chain(5000, "r3 wire")
		default:
			w.chain(5000, "")
		}
		w.e.Tick(w.now)
		if i%1000 == 0 {
			more, _ := w.e.TakeRows()
			rows = append(rows, more...)
		}
	}
	w.e.Flush()
	more, shed := w.e.TakeRows()
	if shed != 0 {
		t.Errorf("%d rows were given up", shed)
	}
	return w, append(rows, more...)
}

// TestPast: the rows of all intervals add up to what the engine says, for each flow, hop, path, change and
// node, and to the histogram of all delays.
func TestPast(t *testing.T) {
	w, rows := kept(t)
	p := NewPast(Query{})
	p.AddBetween(rows, 0, math.MaxInt64)
	from, to, seconds := p.from, p.to, p.seconds
	if from > start+1e9*int64(Interval/1e9) || to < w.now || seconds*1e9 != to-from || from%int64(Interval) != 0 {
		t.Errorf("from %d to %d, %d s; the network ran from %d to %d", from, to, seconds, start, w.now)
	}
	intervals := map[int64]bool{}
	for i := range rows {
		intervals[rows[i].Time] = true
	}
	if len(intervals) < 6 {
		t.Errorf("%d intervals", len(intervals))
	}
	is, was := p.Report(0), w.e.Report(Query{}, 0)
	if is.Packets != was.Packets || is.Ambiguous != was.Ambiguous || is.Sampled != 1 || len(is.Flows) != len(was.Flows) || len(was.Flows) != 4 {
		t.Fatalf("%+v\nwant %+v", is, was)
	}
	for _, r := range []*Report{&is, &was} {
		slices.SortFunc(r.Flows, func(a, b Flow) int { return int(a.DstPort) - int(b.DstPort) })
	}
	for i := range was.Flows {
		was.Flows[i].Delay = nil // from end to end: no row has it
		for k := range was.Flows[i].Nodes {
			was.Flows[i].Nodes[k].Delay = nil
		}
		if got, want := comparable(t, is.Flows[i]), comparable(t, was.Flows[i]); got != want {
			t.Errorf("rows: %s\nlive: %s", got, want)
		}
	}
	hops, live := p.Hops(), w.e.Hops()
	if len(hops) != len(live) {
		t.Fatalf("%d hops, want %d", len(hops), len(live))
	}
	for i := range live {
		if got, want := fmt.Sprint(hops[i].Counts, hopKey(&hops[i])), fmt.Sprint(live[i].Counts, hopKey(&live[i])); got != want {
			t.Errorf("rows: %s\nlive: %s", got, want)
		}
	}
	only := NewPast(Query{Dst: netip.MustParseAddr("239.1.2.3")})
	only.AddBetween(rows, 0, math.MaxInt64)
	if r := only.Report(0); len(r.Flows) != 1 || !r.Flows[0].Multicast || len(only.Hops()) != 2 {
		t.Errorf("a group alone: %+v", r)
	}
}

// comparable is a flow without what is known of the last minutes only, or less exactly of the past.
func comparable(t *testing.T, f Flow) string {
	t.Helper()
	hops := map[string]string{}
	for _, h := range f.Hops {
		text := fmt.Sprint(h.Counts, h.Delivered, h.Drops)
		if h.Delay != nil {
			text += fmt.Sprint(h.Delay.Min, h.Delay.Clock, h.Delay.P50*8/h.Delay.Min)
		}
		hops[hopKey(&h)] = text
	}
	f.Hops = nil
	for i := range f.Paths {
		f.Paths[i].First = 0
	}
	text, err := json.Marshal(struct {
		Flow
		All map[string]string
	}{f, hops})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestSkewedDelays: where the clocks at the ends of a hop differ by more than the delay, its percentiles are
// as fine as elsewhere, live and of the past.
func TestSkewedDelays(t *testing.T) {
	for _, skew := range []int64{25e6, -25e6} {
		w := newWorld(t, Config{Window: 1e9})
		w.e.Keep()
		w.skew["d"] = skew
		for i := range 20_000 {
			p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
			p.at += int64(i % 1000 * 1000)
			p.got("d")
			w.packet("10.0.0.2", "10.0.0.1", 5001).sent("d").got("s")
			w.e.Tick(w.now)
		}
		r := w.report()
		rows, _ := w.e.TakeRows()
		p := NewPast(Query{})
		p.AddBetween(rows, 0, math.MaxInt64)
		for name, r := range map[string]Report{"live": r, "past": p.Report(0)} {
			for _, f := range r.Flows {
				if f.DstPort != 5000 {
					continue
				}
				d := hopOf(t, &f, "s out", "d in").Delay
				near := func(got, want int64) bool {
					return got > want-want/8-2*d.Uncertainty && got < want+want/8+2*d.Uncertainty
				}
				if d.Clock != "estimated" || d.Uncertainty > 2e5 || d.Offset-skew > d.Uncertainty || skew-d.Offset > d.Uncertainty ||
					!near(d.P50, 6e5) || !near(d.P95, 1.05e6) || !near(d.Mean, 6e5) {
					t.Errorf("%s, clock %d ns ahead: %+v", name, skew, d)
				}
			}
		}
	}
}

// TestKeptPackets: each packet that was joined has a row, with all that was seen of it, and those that did not
// arrive end as the engine says.
func TestKeptPackets(t *testing.T) {
	w := newWorld(t, Config{})
	w.e.KeepPackets()
	for _, a := range []string{"s", "r1/a", "r1/b", "r2/a", "r2/b", "r3/a", "r3/b", "d"} {
		w.e.Watch(w.e.Agent(a), start, true)
	}
	for i := range 100 {
		switch {
		case i%10 == 5:
			w.chain(5000, "r3 wire")
		case i%10 == 6:
			w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s").got("r1/a").drop("r1/a", "NETFILTER_DROP", wire.Incoming)
		case i%10 == 7:
			p := w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s")
			p.at += 1e6
			p.sent("s")
		default:
			w.chain(5000, "")
		}
	}
	r := w.report()
	rows, shed := w.e.TakePackets()
	if len(rows) != 100 || shed != 0 {
		t.Fatalf("%d rows, %d given up", len(rows), shed)
	}
	outcomes := map[string]int{}
	var ended []Ended
	for i := range rows {
		outcomes[rows[i].Outcome]++
		if o, ok := rows[i].Ended(); ok {
			ended = append(ended, o)
		}
		if p := rows[i].Packet(); p.Outcome == Delivered && (len(p.Seen) != 8 || p.Seen[7].Node != "d" || p.Seen[1].Agent != "r1/a" || p.Seen[7].TTL != 61 || p.Ended != nil) {
			t.Errorf("%+v", p)
		}
	}
	if fmt.Sprint(outcomes) != "map[ambiguous:10 delivered:70 dropped:10 lost:10]" || r.Ambiguous != 10 {
		t.Errorf("outcomes %v", outcomes)
	}
	got, _ := json.Marshal(ended)
	want, _ := json.Marshal(w.e.Ended(Query{}))
	if string(got) != string(want) {
		t.Errorf("rows: %s\nengine: %s", got, want)
	}
}
