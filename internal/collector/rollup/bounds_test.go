package rollup

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// TestSketch: nothing is invented, nothing disappears, and whoever has more than
// his part is known.
func TestSketch(t *testing.T) {
	const most = 50
	rng := rand.New(rand.NewPCG(5, 6))
	evicted := make(map[int]uint64)
	s := newSketch(most, func(k *int, v *uint64) { evicted[*k] += *v })
	truth := make(map[int]uint64)
	total := uint64(0)
	for range 20000 {
		k := int(rng.ExpFloat64() * rng.ExpFloat64() * 100)
		w := uint64(rng.IntN(1500))
		*s.addWeight(&k, w) += w
		truth[k] += w
		total += w
		if len(truth) <= most && len(s.slots) != len(truth) {
			t.Fatalf("%d slots for %d keys", len(s.slots), len(truth))
		}
	}
	if len(truth) < 4*most || len(s.slots) != most || len(evicted) == 0 {
		t.Fatalf("%d keys, %d slots, %d evicted: not much of a test", len(truth), len(s.slots), len(evicted))
	}
	for k, w := range truth {
		i, kept := s.index[k]
		got := evicted[k]
		if kept {
			got += s.slots[i].value
			if s.slots[i].weight < w {
				t.Errorf("key %d weighs %d, but has had %d", k, s.slots[i].weight, w)
			}
		} else if w > total/most {
			t.Errorf("key %d with %d of %d is not kept", k, w, total)
		}
		if got != w {
			t.Errorf("key %d: %d in its slot and evicted, want %d", k, got, w)
		}
	}
	for at, i := range s.heap {
		if int(s.slots[i].at) != at || at > 0 && s.slots[s.heap[(at-1)/2]].weight > s.slots[i].weight {
			t.Fatalf("heap is out of order at %d", at)
		}
	}
	s.reset()
	k := 7
	if v := s.addWeight(&k, 1); *v != 0 || len(s.slots) != 1 {
		t.Errorf("after reset: value %d, %d slots", *v, len(s.slots))
	}
}

func udp(host int, src, dst [16]byte, sport, dport uint16, length uint32, t int64, flags wire.Flags) wire.Record {
	return wire.Record{Time: t, Src: src, Dst: dst, SrcPort: sport, DstPort: dport, Proto: wire.ProtoUDP, Length: length, Flags: flags}
}

// TestOverflow: with more conversations than there is room for, totals stay
// exact, and the heavy ones are known.
func TestOverflow(t *testing.T) {
	s := New(testConfig(2))
	now := base * 1e9
	var total Counts
	add := func(r wire.Record) {
		s.Add(now, 0, &r)
		total = total.Plus(Counts{1, uint64(r.Length)})
	}
	many := 3 * openEntries[pairs]
	heavy := hostAddr(99)
	for i := range many {
		src := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).As16()
		add(udp(0, src, hostAddr(1), 1, uint16(5000+i%4), 100, now, wire.Outgoing))
		add(udp(0, heavy, hostAddr(1), 1, 5000, 1000, now, wire.Outgoing))
	}
	s.Tick(now)
	snap := s.Snapshot()
	w := Window{base, base + 1, 1}
	o := snap.Overview(w)
	if o.Total != total || o.Seen != total || snap.Forgotten == 0 {
		t.Errorf("total %v, seen %v, want %v; %d forgotten", o.Total, o.Seen, total, snap.Forgotten)
	}
	var rows Counts
	for _, f := range o.Flows {
		rows = rows.Plus(f.Primary).Plus(f.Secondary)
	}
	if rows != total {
		t.Errorf("rows %v, want %v", rows, total)
	}
	want := Counts{uint64(many), uint64(many) * 1000}
	m, k := snap.Matrix(w, 10), snap.Talkers(w, 10)
	if m.Total != total || m.Cells[0].Once != want || len(m.Cells) != 10 {
		t.Errorf("matrix: total %v, want %v; first %+v, want %v", m.Total, total, m.Cells[0], want)
	}
	if k.Total != total || k.Talkers[0].Once != want {
		t.Errorf("talkers: total %v, want %v; first %+v, want %v", k.Total, total, k.Talkers[0], want)
	}
}

// TestDay: seconds for an hour, then tens of seconds, then minutes for a day; no
// number changes on the way.
func TestDay(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const day = 24 * 3600
	s := New(testConfig(2))
	rng := rand.New(rand.NewPCG(7, 8))
	perSecond := make(map[int64]Counts)
	sent := make(map[int64]uint64)
	end := base + day + 2*3600
	for sec := base; sec < end; sec++ {
		now := sec*1e9 + 350e6
		for range rng.IntN(3) {
			r := udp(0, hostAddr(0), hostAddr(1), 4000, uint16(5000+rng.IntN(2)), uint32(100+rng.IntN(900)), sec*1e9, wire.Outgoing)
			s.Add(now, 0, &r)
			perSecond[sec] = perSecond[sec].Plus(Counts{1, uint64(r.Length)})
			sent[sec]++
			if rng.IntN(4) > 0 {
				r.Flags = wire.Incoming
				s.Add(now, 1, &r)
			}
		}
		if sec%10 == 0 { // to be quick
			s.Tick(now)
		}
	}
	s.Tick(end * 1e9)
	snap := s.Snapshot()
	if age := end - snap.Oldest; age < day || age > day+120 {
		t.Errorf("oldest is %d s old", age)
	}
	if snap.Memory > snap.Budget || snap.Memory < 100<<10 || snap.Forgotten != 0 {
		t.Errorf("%d bytes of %d, %d forgotten", snap.Memory, snap.Budget, snap.Forgotten)
	}
	for _, tt := range []struct {
		from, to, step int64 // before end
		want           int64 // step
	}{
		{600, 0, 1, 1}, {3500, 0, 0, 10}, {3500, 3000, 0, 1}, {3500, 3400, 7, 7},
		{5000, 4000, 1, 10}, {5000, 4000, 30, 30}, {6 * 3600, 0, 0, 40}, {20 * 3600, 19 * 3600, 1, 60},
		{day, 0, 0, 180}, {day, 0, 100, 120}, {7000, 0, 1, 10}, {30, -30, 1, 1},
	} {
		w := Window{end - tt.from, end - tt.to, tt.step}
		o := snap.Overview(w)
		if o.Window.Step != tt.want || o.Window.From > w.From || o.Window.To < w.To ||
			o.Window.From < w.From-tt.want || o.Window.To > w.To+tt.want || len(o.Series) != o.Window.Points() {
			t.Errorf("%+v: got %+v, want a step of %d", w, o.Window, tt.want)
		}
		want := make([]Counts, o.Window.Points())
		for sec, c := range perSecond {
			if sec >= max(o.Window.From, snap.Oldest) && sec < o.Window.To {
				at := (sec - o.Window.From) / o.Window.Step
				want[at] = want[at].Plus(c)
			}
		}
		if !slices.Equal(o.Series, want) {
			t.Errorf("%+v: wrong series", o.Window)
		}
		if m := snap.Matrix(w, 5); m.Total != sum(want) || len(m.Cells) != 1 || m.Cells[0].Loss.Expected != sum(want).Packets {
			t.Errorf("%+v: matrix %+v, want %v", o.Window, m, sum(want))
		}
	}
}

// TestBudget: memory stays within its bound, whatever comes; what there is no
// room for is in Other, and hosts and flows stay exact.
func TestBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	cfg := testConfig(20)
	cfg.Budget = 1 << 18
	s := New(cfg)
	rng := rand.New(rand.NewPCG(9, 10))
	const seconds = 1000
	last := make(map[int]Counts)
	for sec := base; sec < base+seconds; sec++ {
		clear(last)
		now := sec*1e9 + 350e6
		for range 300 {
			host := rng.IntN(20)
			src := netip.AddrFrom4([4]byte{10, byte(host), byte(rng.IntN(256)), byte(rng.IntN(256))}).As16()
			r := udp(host, src, hostAddr(1), 1, uint16(5000+rng.IntN(4)), 100, sec*1e9, wire.Outgoing)
			if rng.IntN(3) == 0 {
				r.Flags |= wire.MGEN | wire.MGENHeader
				r.FlowID = rng.Uint32N(1000)
			}
			s.Add(now, host, &r)
			last[host] = last[host].Plus(Counts{1, 100})
		}
		s.Tick(now)
		if snap := s.Snapshot(); snap.Memory > cfg.Budget*5/4 {
			t.Fatalf("%d bytes after %d s, budget %d", snap.Memory, sec-base, cfg.Budget)
		}
	}
	snap := s.Snapshot()
	if snap.Forgotten == 0 || len(s.dir.keys) > maxKeys || len(s.dir.of) > maxKeys {
		t.Errorf("%d forgotten, %d keys", snap.Forgotten, len(s.dir.keys))
	}
	end := base + seconds
	o := snap.Overview(Window{end - 1, end, 1})
	for _, h := range o.Hosts {
		if h.Sent != last[h.Host] {
			t.Errorf("host %d: %v, want %v", h.Host, h.Sent, last[h.Host])
		}
	}
	if len(o.Hosts) != len(slices.Collect(maps.Keys(last))) {
		t.Errorf("%d hosts", len(o.Hosts))
	}
	// All of them together: what is gone from the directory is in Other, too.
	all := snap.Talkers(snap.Span(), 10)
	if over := snap.Overview(snap.Span()); all.Total.Packets != over.Total.Packets || all.Other.Packets == 0 {
		t.Errorf("talkers %v, overview %v, other %v", all.Total, over.Total, all.Other)
	}
}

// TestDirectory: numbers are never used for another key, and the keys in use
// stay.
func TestDirectory(t *testing.T) {
	d := newDirectory()
	key := func(i int) *entryKey { return &entryKey{flow: uint32(i)} }
	used := d.id(key(0))
	old := d.keys
	byID := map[uint32]uint32{}
	for i := 1; i < 3*maxKeys; i++ {
		d.now = int64(i)
		id := d.id(key(i))
		if _, taken := byID[id]; taken {
			t.Fatalf("number %d is used again", id)
		}
		byID[id] = uint32(i)
		if i%1000 == 0 && d.id(key(0)) != used {
			t.Fatal("a key in use was forgotten")
		}
	}
	if len(d.keys) > maxKeys || len(d.keys) < maxKeys/4 || len(d.of) != len(d.keys) {
		t.Errorf("%d keys, %d names", len(d.keys), len(d.of))
	}
	for _, n := range d.keys {
		if i, ok := d.find(n.id); !ok || d.keys[i].key != n.key || n.id != used && byID[n.id] != n.key.flow {
			t.Fatalf("number %d is not found", n.id)
		}
	}
	if _, ok := d.find(used + 5); ok {
		t.Error("a forgotten number is found")
	}
	if len(old) != 1 || old[0].key != *key(0) {
		t.Error("an older list has changed")
	}
}

// TestSides: who is who in a feed that does not say.
func TestSides(t *testing.T) {
	a, b, c := hostAddr(0), hostAddr(1), hostAddr(2)
	type packet struct {
		host     int
		src, dst [16]byte
		want     Side
	}
	dialled := func(list ...[16]byte) (hosts []Host) {
		for _, x := range list {
			hosts = append(hosts, Host{Addr: netip.AddrFrom16(x)})
		}
		return hosts
	}
	control := []Host{{}, {}, {}}
	for name, tt := range map[string]struct {
		hosts   []Host
		packets []packet
	}{
		"dialled at the addresses that they report": {dialled(a, b, c), []packet{
			{0, a, b, Sent}, {1, a, b, Received}, {2, a, b, Received}, {0, a, group, Sent}, {1, a, group, Received}, {1, b, c, Sent}}},
		"sources only, elsewhere dialled": {control, []packet{{0, a, b, Sent}, {0, a, c, Sent}, {1, b, a, Sent}, {2, c, group, Sent}}},
		"one sends, one receives": {control, []packet{{0, a, b, Sent}, {0, a, group, Sent},
			{1, c, b, Received}, {1, a, b, Received}, {1, a, group, Received}}},
		"the other sends now and then": {control, []packet{{1, b, a, Sent}, {0, a, b, Sent}, {1, a, b, Received}}},
		"a router is dialled":          {dialled(a, b, c), []packet{{1, b, c, Sent}, {1, a, c, Relayed}, {1, a, b, Received}, {1, a, group, Received}}},
		"two agents of one host":       {dialled(a, a, c), []packet{{0, a, c, Sent}, {1, c, a, Received}, {1, c, group, Received}}},
		"nobody is known":              {control, []packet{{0, a, b, Sent}, {0, b, a, Sent}, {0, c, a, Sent}}},
	} {
		addrs := newAddresses(tt.hosts)
		key := func(p packet) *connKey {
			var k connKey
			r := udp(p.host, p.src, p.dst, 1, 2, 100, 0, 0)
			k.set(p.host, &r)
			return &k
		}
		for _, p := range tt.packets {
			addrs.witness(key(p))
		}
		for _, p := range tt.packets {
			if got := addrs.side(key(p)); got != p.want {
				t.Errorf("%s: host %d, %v to %v: %v, want %v", name, p.host, netip.AddrFrom16(p.src), netip.AddrFrom16(p.dst), got, p.want)
			}
		}
	}
}

// TestPlainFeed: what 28 bytes can tell: who sends, who receives what part of it.
func TestPlainFeed(t *testing.T) {
	cfg := testConfig(3)
	for i := range cfg.Hosts {
		cfg.Hosts[i].Addr = netip.AddrFrom16(hostAddr(i))
	}
	s := New(cfg)
	for i := range 1000 {
		now := base*1e9 + int64(i)*1e7
		r := udp(0, hostAddr(0), hostAddr(1), 1, 5000, 100, now, wire.MGEN)
		r.FlowID = 7
		m := udp(0, hostAddr(0), group, 1, 5001, 200, now, 0)
		for host := range 3 {
			if i%10 != 0 || host == 0 {
				s.Add(now, host, &m)
			}
		}
		s.Add(now, 0, &r)
		if i%4 != 0 {
			s.Add(now, 1, &r)
		}
		if i%100 == 0 {
			s.Tick(now)
		}
	}
	s.Tick((base + 10) * 1e9)
	snap := s.Snapshot()
	w := Window{base, base + 10, 1}
	if o := snap.Overview(w); o.Total.Packets != 2000 || o.Seen.Packets != 2000+750+1800 || snap.Hosts[0].Directions {
		t.Errorf("total %v, seen %v", o.Total, o.Seen)
	}
	f := snap.MGEN(w).Flows
	if len(f) != 1 || f[0].ID != 7 || f[0].SrcHost != 0 || f[0].Sent.Packets != 1000 || len(f[0].Receivers) != 1 ||
		f[0].Receivers[0].Loss != (Loss{Valid: true, Expected: 1000, Lost: 250}) || f[0].Receivers[0].Delayed != 0 {
		t.Errorf("MGEN %+v", f)
	}
	g := snap.Groups(w).Groups
	if len(g) != 1 || g[0].Once.Packets != 1000 || len(g[0].Senders) != 1 || len(g[0].Senders[0].Receivers) != 2 || g[0].Senders[0].Receivers[1].Fraction != 0.9 {
		t.Errorf("groups %+v", g)
	}
	if m := snap.Matrix(w, 10); m.Cells[0].Dst != netip.AddrFrom16(group).Unmap() || m.Cells[1].Loss.Fraction() != 0.25 || m.Cells[1].DstHost != 1 || m.Cells[0].Loss.Valid {
		t.Errorf("matrix %+v", m)
	}
}

// TestNewestClock: packets of years ago, at any speed.
func TestNewestClock(t *testing.T) {
	cfg := testConfig(1)
	cfg.Clock = ByNewest
	s := New(cfg)
	const then = 1_000_000_000
	play := func() {
		for i := range 100 {
			r := udp(0, hostAddr(0), hostAddr(1), 1, 5000, 100, (then+int64(i))*1e9, wire.Outgoing)
			s.Add(0, 0, &r)
		}
		r := udp(0, hostAddr(0), hostAddr(1), 1, 5000, 100, (then+40)*1e9, wire.Outgoing)
		s.Add(0, 0, &r)
		s.Tick(time.Now().UnixNano())
	}
	play()
	check := func(late uint64) {
		t.Helper()
		snap := s.Snapshot()
		o := snap.Overview(Window{then, then + 100, 1})
		if snap.Now != (then+99)*1e9 || snap.Complete != then+98 || o.Total.Packets != 101 || o.Series[94].Packets != 2 || o.Series[50].Packets != 1 {
			t.Errorf("now %d, complete %d, total %v", snap.Now, snap.Complete, o.Total)
		}
		if h := snap.Hosts[0]; h.Late != late || h.Future != 0 || h.HasAge {
			t.Errorf("host %+v", h)
		}
	}
	check(1)
	before := s.Snapshot()
	s.Reset()
	s.Tick(0)
	if snap := s.Snapshot(); snap.Oldest != 0 || snap.Overview(Window{then, then + 100, 1}).Total != (Counts{}) || snap.Seq != before.Seq+1 {
		t.Errorf("after Reset: %+v", snap)
	}
	if before.Overview(Window{then, then + 50, 1}).Total.Packets != 50 {
		t.Error("an older snapshot has changed")
	}
	play()
	check(2)
}

// TestWallClockSetBack: a little is late, much begins anew.
func TestWallClockSetBack(t *testing.T) {
	s := New(testConfig(1))
	add := func(sec int64) {
		r := udp(0, hostAddr(0), hostAddr(1), 1, 5000, 100, sec*1e9, wire.Outgoing)
		s.Add(sec*1e9, 0, &r)
	}
	add(base)
	add(base - 30)
	s.Tick((base - 30) * 1e9)
	if snap := s.Snapshot(); snap.Late != 1 || snap.Now != base*1e9 {
		t.Errorf("%d late, now %d", snap.Late, snap.Now)
	}
	add(base - 3600)
	s.Tick((base - 3600) * 1e9)
	if snap := s.Snapshot(); snap.Late != 1 || snap.Oldest != base-3600 {
		t.Errorf("%d late, oldest %d", snap.Late, snap.Oldest)
	}
}

func mgenRecord(seq uint32, txMicros, delay int64) wire.Record {
	r := udp(1, hostAddr(0), hostAddr(1), 1, 5001, 100, txMicros*1000+delay, wire.Incoming|wire.MGEN|wire.MGENHeader)
	r.FlowID, r.MGENSeq, r.MGENTime = 3, seq, txMicros
	return r
}

// TestMGENNumbers: numbers that begin anew, wrap, or come from far behind.
func TestMGENNumbers(t *testing.T) {
	type message struct {
		seq uint32
		tx  int64 // ms after base
	}
	run := func(first uint32, n int, tx int64) (list []message) {
		for i := range n {
			list = append(list, message{first + uint32(i), tx + int64(i)})
		}
		return list
	}
	for name, tt := range map[string]struct {
		messages                                        []message
		expected, lost, duplicates, reordered, restarts uint64
	}{
		"in order":                   {run(0, 100, 0), 100, 0, 0, 0, 0},
		"a script that is run twice": {append(run(0, 50, 0), run(0, 50, 1000)...), 100, 0, 0, 0, 1},
		"a gap":                      {append(run(0, 50, 0), run(60, 40, 60)...), 100, 10, 0, 0, 0},
		"wrapped":                    {append(run(1<<32-50, 50, 0), run(0, 50, 50)...), 100, 0, 0, 0, 0},
		"doubled":                    {append(run(0, 50, 0), run(40, 10, 40)...), 50, 0, 10, 0, 0},
		"a late one":                 {append(append(run(0, 10, 0), run(11, 10, 11)...), message{10, 10}), 21, 0, 0, 1, 0},
		"a very late one":            {append(append(run(0, 10, 0), run(11, 2*seqWindow, 11)...), message{10, 10}), 2*seqWindow + 11, 0, 0, 1, 0},
		"a long gap":                 {append(run(0, 10, 0), run(1_000_000, 10, 500)...), 1_000_010, 999_990, 0, 0, 0},
	} {
		s := New(testConfig(2))
		for _, m := range tt.messages {
			r := mgenRecord(m.seq, base*1e6+m.tx*1000, 5e6)
			s.Add(r.Time, 1, &r)
		}
		s.Tick((base + 20) * 1e9)
		f := s.Snapshot().MGEN(Window{base, base + 20, 1}).Flows
		if len(f) != 1 || len(f[0].Receivers) != 1 {
			t.Fatalf("%s: %+v", name, f)
		}
		r := f[0].Receivers[0]
		if r.Loss != (Loss{Valid: true, BySequence: true, Expected: tt.expected, Lost: tt.lost}) || r.Duplicates != tt.duplicates ||
			r.Reordered != tt.reordered || r.Restarts != tt.restarts || r.Received.Messages != uint64(len(tt.messages)) {
			t.Errorf("%s: %+v", name, r)
		}
		if r.MinDelay != 5*time.Millisecond || r.MaxDelay != r.MinDelay || r.MeanDelay != r.MinDelay || r.NegativeDelays != 0 {
			t.Errorf("%s: delays %+v", name, r)
		}
	}
}

// TestMGENOutage: what sequence numbers cannot tell, as nothing comes after it.
func TestMGENOutage(t *testing.T) {
	s := New(testConfig(2))
	for i := range 1000 { // 100 a second
		r := mgenRecord(uint32(i), base*1e6+int64(i)*10_000, 5e6)
		sent := r
		sent.Flags, sent.Time = wire.Outgoing|wire.MGEN|wire.MGENHeader, sent.MGENTime*1000
		other := sent
		other.FlowID = 8
		s.Add(r.Time, 0, &sent)
		s.Add(r.Time, 0, &other)
		if i < 600 && i%10 > 0 {
			s.Add(r.Time, 1, &r)
		}
		back := udp(1, hostAddr(1), hostAddr(0), 1, 2, 100, r.Time, wire.Outgoing) // whose address that is
		s.Add(r.Time, 1, &back)
	}
	s.Tick((base + 20) * 1e9)
	snap := s.Snapshot()
	for _, tt := range []struct {
		from, to int64
		flow     int
		want     Loss
	}{
		{0, 10, 0, Loss{Valid: true, Expected: 1000, Lost: 460}},
		{0, 6, 0, Loss{Valid: true, BySequence: true, Expected: 598, Lost: 59}},
		{0, 10, 1, Loss{Valid: true, Expected: 1000, Lost: 1000}},
	} {
		m := snap.MGEN(Window{base + tt.from, base + tt.to, 1})
		if len(m.Flows) != 2 || len(m.Flows[tt.flow].Receivers) != 1 || m.Flows[tt.flow].Receivers[0].Host != 1 {
			t.Fatalf("%+v", m)
		}
		l := m.Flows[tt.flow].Receivers[0].Loss
		if d := int64(l.Expected - tt.want.Expected); l.Valid != tt.want.Valid || l.BySequence != tt.want.BySequence || d < -1 || d > 1 || l.Lost != tt.want.Lost {
			t.Errorf("%+v: %+v", tt, l)
		}
	}
}

// TestManyTrackers: more MGEN flows than can be followed lose no packets, and
// those that go on are followed.
func TestManyTrackers(t *testing.T) {
	s := New(testConfig(2))
	now := base * 1e9
	for i := range 3 * maxTrackers {
		r := mgenRecord(1, now/1000, 1e6)
		r.FlowID = uint32(1000 + i)
		s.Add(now, 1, &r)
	}
	for i := range 10 {
		r := mgenRecord(uint32(i), now/1000+int64(i), 1e6)
		s.Add(now, 1, &r)
	}
	s.Tick(now)
	snap := s.Snapshot()
	if len(s.trackers) != maxTrackers || len(s.trackerOf) != maxTrackers {
		t.Errorf("%d trackers, %d names", len(s.trackers), len(s.trackerOf))
	}
	m := snap.MGEN(Window{base, base + 1, 1})
	all := m.Other
	for _, f := range m.Flows {
		for _, r := range f.Receivers {
			all = all.Plus(r.Received.Counts)
			if f.ID == 3 && (r.Loss.Lost != 0 || r.Loss.Expected != 10) {
				t.Errorf("flow 3: %+v", r)
			}
		}
	}
	if want := uint64(3*maxTrackers + 10); all.Packets != want {
		t.Errorf("%d packets, want %d", all.Packets, want)
	}
}

// TestAddDoesNotAllocate in a known conversation.
func TestAddDoesNotAllocate(t *testing.T) {
	s := New(testConfig(2))
	now, seq := base*1e9, uint32(0)
	var r wire.Record
	if n := testing.AllocsPerRun(1000, func() {
		seq++
		r = mgenRecord(seq, now/1000, 1e6)
		s.Add(now, 1, &r)
		r.Flags = wire.Outgoing
		s.Add(now, 0, &r)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestAnyWindow: no window is too strange, and no answer too long.
func TestAnyWindow(t *testing.T) {
	s := New(testConfig(1))
	numbers := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, 7, base - 3600, base, base + 1, base + 86400, 1 << 40, math.MaxInt64 - 1, math.MaxInt64}
	for range 2 { // empty, then with a packet
		snap := s.Snapshot()
		for _, from := range numbers {
			for _, to := range numbers {
				for _, step := range numbers {
					w := Window{from, to, step}
					o := snap.Overview(w)
					got := o.Window
					if got.Step < 1 || got.To < got.From || len(o.Series) != got.Points() || got.Points() > mostPoints+1 {
						t.Fatalf("%+v: %+v with %d points", w, got, len(o.Series))
					}
					if has := from <= base && to > base && snap.Records > 0; has && o.Total.Packets != 1 {
						t.Fatalf("%+v: %v", w, o.Total)
					}
					snap.Matrix(w, -1)
					snap.MGEN(w)
				}
			}
		}
		r := mgenRecord(1, base*1e6, 5e6)
		s.Add(base*1e9, 0, &r)
		s.Tick((base + 2) * 1e9)
	}
}

func ExampleWindow_Points() {
	fmt.Println(Window{From: 100, To: 160, Step: 10}.Points())
	// Output: 6
}

// TestTrafficOnly: drops and second observations are added to no sum.
func TestTrafficOnly(t *testing.T) {
	cfg := testConfig(1)
	cfg.Clock = ByNewest
	s := New(cfg)
	for _, flags := range []wire.Flags{0, wire.Dropped, wire.Uncounted | wire.BeforeQueue} {
		r := udp(0, hostAddr(0), hostAddr(1), 1, 5000, 100, 1_000_000_000e9, wire.Outgoing|flags)
		s.Add(0, 0, &r)
	}
	s.Tick(time.Now().UnixNano())
	snap := s.Snapshot()
	if o := snap.Overview(Window{1_000_000_000, 1_000_000_001, 1}); o.Total.Packets != 1 || snap.Hosts[0].Records != 1 {
		t.Errorf("%v of %d records, want 1 packet", o.Total, snap.Hosts[0].Records)
	}
}
