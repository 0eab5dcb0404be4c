package rollup

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

const base = int64(1_700_000_000) // a second, divisible by 100

// testRows: ports 5000 to 5002 are rows 0 to 2; MGEN flows 1 to 9 row 2 too.
func testRows(rows []int, r *wire.Record) []int {
	if r.DstPort >= 5000 && r.DstPort <= 5002 {
		rows = append(rows, int(r.DstPort-5000))
	}
	if r.Flags&wire.MGEN != 0 && r.FlowID >= 1 && r.FlowID <= 9 {
		rows = append(rows, 2)
	}
	return rows
}

func testConfig(hosts int) Config {
	return Config{Hosts: make([]Host, hosts), Rows: 3, Classify: testRows}
}

// scene makes records of packets as agents at both ends and a relay see them.
type scene struct {
	rng *rand.Rand
	seq map[uint32]uint32
}

func hostAddr(i int) [16]byte { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).As16() }

var group = netip.MustParseAddr("239.1.2.3").As16()

// arrival is a record that reaches the store at a time.
type arrival struct {
	at   int64 // ns
	host int
	wire.Record
}

// packet gives what all agents see of one packet sent at t.
func (s *scene) packet(t int64, hosts int) (list []arrival) {
	src := s.rng.IntN(hosts)
	dst := (src + 1 + s.rng.IntN(hosts-1)) % hosts
	r := wire.Record{
		Time: t, Src: hostAddr(src), Dst: hostAddr(dst), Proto: wire.ProtoUDP,
		SrcPort: uint16(4000 + s.rng.IntN(3)), DstPort: uint16(5000 + s.rng.IntN(5)),
		Length: uint32(28 + s.rng.IntN(1400)),
	}
	multicast := s.rng.IntN(4) == 0
	if multicast {
		r.Dst = group
	}
	if s.rng.IntN(2) == 0 {
		// One source port and one destination for each ID, so that its numbers
		// make one flow.
		r.FlowID = uint32(src*2 + 1)
		if multicast {
			r.FlowID++
		} else {
			r.Dst = hostAddr((src + 1) % hosts)
			dst = (src + 1) % hosts
		}
		r.SrcPort, r.DstPort = 4500, 5001
		s.seq[r.FlowID]++
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.MGENSeq, r.MGENTime = s.seq[r.FlowID], t/1000-s.rng.Int64N(100)
	}
	see := func(host int, flags wire.Flags, after int64) {
		x := arrival{at: t + after + s.rng.Int64N(3e9), host: host, Record: r}
		if s.rng.IntN(200) == 0 {
			x.at += 20e9 // late
		}
		x.Flags |= flags
		x.Time += after
		if s.rng.IntN(300) == 0 && r.Flags&wire.MGEN == 0 {
			x.Time += 60e9 // from the future
		}
		list = append(list, x)
	}
	if src != 0 { // host 0 runs no agent that sees what it sends
		see(src, wire.Outgoing, 0)
	}
	if s.rng.IntN(5) == 0 {
		see((dst+1)%hosts, wire.Outgoing|wire.Relayed, 1e6)
	}
	if multicast {
		for h := range hosts {
			if h != src && s.rng.IntN(10) > 0 {
				see(h, wire.Incoming, s.rng.Int64N(50e6)-1e6)
			}
		}
	} else if s.rng.IntN(10) > 0 {
		see(dst, wire.Incoming, s.rng.Int64N(50e6)-1e6)
		if s.rng.IntN(30) == 0 {
			see(dst, wire.Incoming, s.rng.Int64N(50e6)) // a duplicate
		}
	}
	return list
}

// run feeds a store and the reference with the same random stream, out of
// order, and ticks once a second.
func (s *scene) run(cfg Config, seconds, perSecond int, tick func(*Store, *reference)) (*Store, *reference) {
	var list []arrival
	for sec := range seconds {
		for i := range perSecond {
			// In order, since senders number their messages in that order.
			t := (base+int64(sec))*1e9 + (int64(i)*1e9+s.rng.Int64N(1e9))/int64(perSecond)
			list = append(list, s.packet(t, len(cfg.Hosts))...)
		}
	}
	slices.SortStableFunc(list, func(a, b arrival) int { return int(a.at - b.at) })
	store, ref := New(cfg), newReference(cfg)
	next := base * 1e9
	for i := range list {
		for ; list[i].at >= next; next += 1e9 {
			store.Tick(next)
			ref.now = max(ref.now, next/1e9)
			if tick != nil {
				tick(store, ref)
			}
		}
		store.Add(list[i].at, list[i].host, &list[i].Record)
		ref.add(list[i].at, list[i].host, &list[i].Record)
	}
	store.Tick(max(next, list[len(list)-1].at))
	return store, ref
}

func newScene(t testing.TB, seed uint64) *scene {
	t.Logf("seed %d", seed)
	return &scene{rng: rand.New(rand.NewPCG(seed, 1)), seq: make(map[uint32]uint32)}
}

// TestAgainstReference: all numbers of random streams with late, future, lost,
// doubled and reordered packets, at several observers, are exactly those of an
// implementation that keeps everything.
func TestAgainstReference(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, seed := range []uint64{1, 2, 3, 6677797713465085610, rand.Uint64()} {
		s := newScene(t, seed)
		cfg := testConfig(4)
		store, ref := s.run(cfg, 40, 120, func(store *Store, ref *reference) {
			if s.rng.IntN(8) == 0 { // in the middle, too
				compareTraffic(t, store.Snapshot(), ref, Window{ref.now - 9, ref.now + 5, 1})
			}
		})
		snap := store.Snapshot()
		for _, w := range []Window{{base - 5, base + 105, 1}, {base + 3, base + 17, 1}, {base, base + 40, 7}, {base - 20, base + 80, 10}} {
			compareTraffic(t, snap, ref, w)
		}
		compareMGEN(t, snap, ref)
		compareSum(t, snap, ref)
		for h := range cfg.Hosts {
			if st := snap.Hosts[h]; st.Late != ref.lates[h] || st.Future != ref.futures[h] {
				t.Errorf("host %d: %d late, %d future: want %d, %d", h, st.Late, st.Future, ref.lates[h], ref.futures[h])
			}
		}
		if snap.Late == 0 || snap.Future == 0 || snap.Records != uint64(len(ref.records)) || snap.Forgotten != 0 {
			t.Errorf("%d records, %d late, %d future, %d forgotten; reference has %d records", snap.Records, snap.Late, snap.Future, snap.Forgotten, len(ref.records))
		}
		if t.Failed() {
			return
		}
	}
}

func compareTraffic(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	w = snap.Fit(w)
	compareCellsOf(t, snap, ref, w)
	compareOverview(t, snap, ref, w)
	compareMatrix(t, snap, ref, w)
	compareTalkers(t, snap, ref, w)
	compareGroups(t, snap, ref, w)
}

func compareCellsOf(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	want := ref.cells(w)
	got := snap.Cells(w)
	if len(got.Cells) != len(want) {
		t.Errorf("%v: %d cells, want %d", w, len(got.Cells), len(want))
	}
	for _, c := range got.Cells {
		series := want[CellCounts{Host: c.Host, Row: c.Row, Level: c.Level}]
		if !slices.Equal(c.Series, series) || c.Counts != sum(series) {
			t.Errorf("%v: cell %+v: series %v, want %v", w, c.CellCounts, c.Series, series)
		}
	}
}

func sum(list []Counts) (c Counts) {
	for _, x := range list {
		c = c.Plus(x)
	}
	return c
}

func compareOverview(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	o := snap.Overview(w)
	var total, seen Counts
	for _, c := range ref.onceCounts(w, false) {
		total = total.Plus(c)
	}
	bySide := make(map[watcher]Counts)
	for _, p := range ref.in(w) {
		seen = seen.Plus(p.counts())
		k := watcher{p.side(), p.host}
		bySide[k] = bySide[k].Plus(p.counts())
	}
	if o.Total != total || o.Seen != seen || sum(o.Series) != total {
		t.Errorf("%v: total %v, seen %v, series %v: want %v, %v", w, o.Total, o.Seen, sum(o.Series), total, seen)
	}
	for _, h := range o.Hosts {
		for side, c := range map[Side]Counts{Sent: h.Sent, Relayed: h.Relayed, Received: h.Received} {
			if c != bySide[watcher{side, h.Host}] {
				t.Errorf("%v: host %d %v: %v, want %v", w, h.Host, side, c, bySide[watcher{side, h.Host}])
			}
		}
		for i, v := range snap.HostViews(w) {
			if v.Host == h.Host && (sum(v.SentSeries) != h.Sent || sum(v.ReceivedSeries) != h.Received || sum(v.RelayedSeries) != h.Relayed) {
				t.Errorf("%v: host view %d differs from the overview", w, i)
			}
		}
	}
	rows := ref.rows(w)
	found := 0
	for _, f := range o.Flows {
		for level, series := range [][]Counts{f.PrimarySeries, f.SecondarySeries} {
			want, ok := rows[rowKey{uint32(f.Row), uint8(level)}]
			if ok {
				found++
			} else {
				want = make([]Counts, w.Points())
			}
			if !slices.Equal(series, want) {
				t.Errorf("%v: row %d level %d: %v, want %v", w, f.Row, level, series, want)
			}
		}
		v := snap.Flow(f.Row, w)
		if !slices.Equal(v.Flow.PrimarySeries, f.PrimarySeries) || v.Flow.Secondary != f.Secondary {
			t.Errorf("%v: row %d: Flow differs from Overview", w, f.Row)
		}
	}
	if found != len(rows) {
		t.Errorf("%v: %d rows and levels, want %d", w, found, len(rows))
	}
}

func compareMatrix(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	want := ref.onceCounts(w, false)
	got := snap.Matrix(w, 1000)
	if len(got.Cells) != len(want) || got.Other != (Counts{}) {
		t.Errorf("%v: %d cells, other %v: want %d", w, len(got.Cells), got.Other, len(want))
	}
	for _, c := range got.Cells {
		if k := (subject{tuple: Tuple{Src: c.Src, Dst: c.Dst}}); c.Once != want[k] {
			t.Errorf("%v: %v to %v: %v, want %v", w, c.Src, c.Dst, c.Once, want[k])
		}
	}
	few := snap.Matrix(w, 3)
	if few.Total != got.Total || len(few.Cells) != min(3, len(want)) {
		t.Errorf("%v: 3 cells: total %v, want %v", w, few.Total, got.Total)
	}
}

func compareTalkers(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	want := ref.onceCounts(w, true)
	got := snap.Talkers(w, 1000)
	if len(got.Talkers) != len(want) || got.Other != (Counts{}) {
		t.Errorf("%v: %d talkers, other %v: want %d", w, len(got.Talkers), got.Other, len(want))
	}
	last := ^uint64(0)
	for _, k := range got.Talkers {
		if s := (subject{tuple: k.Tuple, row: k.Row}); k.Once != want[s] || k.Once.Bytes > last {
			t.Errorf("%v: talker %v: %v, want %v", w, k.Tuple, k.Once, want[s])
		}
		last = k.Once.Bytes
	}
}

func compareGroups(t *testing.T, snap *Snapshot, ref *reference, w Window) {
	t.Helper()
	type member struct {
		src  netip.Addr
		host int
	}
	want := make(map[member]Counts)
	senders := make(map[netip.Addr]Counts) // of several agents, the one who saw most
	bySender := make(map[member]Counts)
	for _, p := range ref.in(w) {
		if p.Dst != group {
			continue
		}
		switch p.side() {
		case Received:
			k := member{p.SrcAddr(), p.host}
			want[k] = want[k].Plus(p.counts())
		case Sent:
			k := member{p.SrcAddr(), p.host}
			bySender[k] = bySender[k].Plus(p.counts())
			if bySender[k].Packets > senders[k.src].Packets {
				senders[k.src] = bySender[k]
			}
		}
	}
	found := 0
	for _, g := range snap.Groups(w).Groups {
		for _, s := range g.Senders {
			if _, watched := senders[s.Src]; s.Watched != watched {
				t.Errorf("%v: sender %v watched: %v", w, s.Src, s.Watched)
			}
			for _, r := range s.Receivers {
				found++
				c := want[member{s.Src, r.Host}]
				if r.Received != c {
					t.Errorf("%v: %v at %d: %v, want %v", w, s.Src, r.Host, r.Received, c)
				}
				if s.Watched {
					if f := min(float64(c.Packets)/float64(senders[s.Src].Packets), 1); r.Fraction != f {
						t.Errorf("%v: %v at %d: fraction %v, want %v", w, s.Src, r.Host, r.Fraction, f)
					}
				}
			}
		}
	}
	if found != len(want) {
		t.Errorf("%v: %d receivers of groups, want %d", w, found, len(want))
	}
}

func compareMGEN(t *testing.T, snap *Snapshot, ref *reference) {
	t.Helper()
	m := snap.MGEN(Window{base - 10, base + 110, 10})
	receivers := 0
	for _, f := range m.Flows {
		series := snap.MGENSeries(f.ID, f.Tuple, m.Window)
		if f.Watched != (sum(series.Sent) != Counts{}) || sum(series.Sent) != f.Sent.Counts {
			t.Errorf("flow %d: sent series %v, want %v", f.ID, sum(series.Sent), f.Sent)
		}
		for _, r := range f.Receivers {
			receivers++
			x := ref.mgen(f.ID, f.Src, f.Dst, r.Host)
			if r.Received.Messages != x.messages || r.Duplicates != x.duplicates || r.Reordered != x.reordered ||
				r.Loss != x.loss(f.Sent.Messages, time.Duration(m.Window.To-m.Window.From)*time.Second) {
				t.Errorf("flow %d at %d: got %+v, want %+v", f.ID, r.Host, r, x)
			}
			if r.Delayed != x.unique || int64(r.MinDelay) != x.min || int64(r.MaxDelay) != x.max ||
				int64(r.MeanDelay) != x.sum/int64(x.unique) || r.NegativeDelays != x.negative {
				t.Errorf("flow %d at %d: delays %+v, want %+v", f.ID, r.Host, r, x)
			}
			if d := float64(r.Jitter) - x.jitter; d > 1 || d < -1 {
				t.Errorf("flow %d at %d: jitter %v, want %v", f.ID, r.Host, r.Jitter, time.Duration(x.jitter))
			}
			lost := int64(0)
			i := slices.IndexFunc(series.Receivers, func(s MGENReceiverSeries) bool { return s.Host == r.Host })
			for _, n := range series.Receivers[i].Lost {
				lost += n
			}
			if lost != int64(x.expected-x.unique) {
				t.Errorf("flow %d at %d: series lost %d, want %d", f.ID, r.Host, lost, x.expected-x.unique)
			}
		}
	}
	if receivers < 8 {
		t.Errorf("only %d MGEN receivers", receivers)
	}
}

// loss is what MGENFlow says: by sequence numbers, unless far more was sent than
// they tell of, as when the first and last messages are missing.
func (x *mgenRef) loss(sent uint64, window time.Duration) Loss {
	lost, missing := x.expected-x.unique, sent-min(sent, x.unique)
	way := min(time.Duration(max(x.max, 0))+time.Second, window)
	doubt := uint64(float64(sent)*way.Seconds()/window.Seconds()) + sent/50 + 5
	if sent > 0 && (missing > lost+doubt || lost > missing+doubt) {
		return Loss{Valid: true, Expected: sent, Lost: missing}
	}
	return Loss{Valid: true, BySequence: true, Expected: x.expected, Lost: lost}
}

func compareSum(t *testing.T, snap *Snapshot, ref *reference) {
	t.Helper()
	want := ref.cells(Window{base - 1000, base + 1000, 2000})
	if len(snap.Sum) != len(want) {
		t.Errorf("%d sums, want %d", len(snap.Sum), len(want))
	}
	for _, c := range snap.Sum {
		if w := sum(want[CellCounts{Host: c.Host, Row: c.Row, Level: c.Level}]); c.Counts != w {
			t.Errorf("sum %+v, want %v", c, w)
		}
	}
}
