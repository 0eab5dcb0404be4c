package path

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

const start = int64(1764000000e9)

// world makes the observations of a simulated network.
type world struct {
	t   *testing.T
	e   *Engine
	now int64
	rnd *rand.Rand
	// skew is how far a node's clock is ahead, nanoseconds.
	skew map[string]int64
	mute map[string]bool // agents that report nothing
}

func newWorld(t *testing.T, cfg Config) *world {
	return &world{t: t, e: New(cfg), now: start, rnd: rand.New(rand.NewPCG(1, 2)), skew: map[string]int64{}, mute: map[string]bool{}}
}

// trip is a packet under way.
type trip struct {
	w   *world
	r   wire.Record
	at  int64
	ttl uint8
}

func (w *world) packet(src, dst string, port uint16) *trip {
	w.now += 1e6
	p := &trip{w: w, at: w.now, ttl: 64}
	p.r = wire.Record{Src: netip.MustParseAddr(src).As16(), Dst: netip.MustParseAddr(dst).As16(), SrcPort: 1000, DstPort: port, Proto: wire.ProtoUDP, Length: 100, Digest: w.rnd.Uint64() | 1}
	return p
}

// seen has an agent report the packet, some time later.
func (p *trip) seen(agent string, flags wire.Flags, later int64) *trip {
	p.at += later
	if p.w.mute[agent] {
		return p
	}
	r := p.r
	r.Flags, r.TTL, r.Time = flags, p.ttl, p.at+p.w.skew[NodeOf(agent)]
	p.w.e.AddOne(p.w.now, p.w.e.Agent(agent), &r)
	return p
}

func (p *trip) sent(agent string) *trip { return p.seen(agent, wire.Outgoing, 1e4) }
func (p *trip) got(agent string) *trip  { return p.seen(agent, wire.Incoming, 1e5) }
func (p *trip) before(agent string) *trip {
	return p.seen(agent, wire.Outgoing|wire.BeforeQueue|wire.Uncounted, 1e4)
}
func (p *trip) forward(agent string) *trip { p.ttl--; return p.relay(agent) }
func (p *trip) relay(agent string) *trip {
	return p.seen(agent, wire.Outgoing|wire.Relayed, 1e4)
}

func (p *trip) drop(agent, reason string, flags wire.Flags) {
	p.r.Reason = wire.ReasonNamed(reason)
	p.seen(agent, flags|wire.Dropped, 1e3)
}

func (w *world) report() Report {
	w.t.Helper()
	w.e.Flush()
	return w.e.Report(Query{}, 0)
}

func (w *world) one() Flow {
	w.t.Helper()
	r := w.report()
	if len(r.Flows) != 1 {
		w.t.Fatalf("%d flows, want 1: %+v", len(r.Flows), r.Flows)
	}
	return r.Flows[0]
}

// hopOf is the hop between two agents' places, as "r1/a in".
func hopOf(t *testing.T, f *Flow, from, to string) Hop {
	t.Helper()
	name := func(a At) string { return a.Agent + " " + a.Stage }
	for _, h := range f.Hops {
		if name(h.From) == from && (h.To == nil && to == "" || h.To != nil && name(*h.To) == to) {
			return h
		}
	}
	t.Fatalf("no hop from %s to %s in %+v", from, to, f.Hops)
	return Hop{}
}

// chain5 sends a packet over routers r1 to r3, which end where stop says.
func (w *world) chain(port uint16, stop string) {
	p := w.packet("10.0.0.1", "10.0.9.9", port).sent("s")
	for i := range 3 {
		r := fmt.Sprintf("r%d", i+1)
		if stop == r+" wire" {
			return
		}
		p.got(r + "/a")
		if stop == r {
			return
		}
		p.forward(r + "/b")
	}
	if stop != "d wire" {
		p.got("d")
	}
}

// TestChain: losses on wires and in routers are counted on their hops, exactly, and those before
// the first packet that got through as well.
func TestChain(t *testing.T) {
	w := newWorld(t, Config{})
	for _, a := range []string{"s", "r1/a", "r1/b", "r2/a", "r2/b", "r3/a", "r3/b", "d"} {
		w.e.Watch(w.e.Agent(a), start, true)
	}
	lost := map[string]uint64{}
	const n = 3000
	for i := range n {
		stop := ""
		switch k := w.rnd.IntN(100); {
		case i < 5 || k < 3:
			stop = "r2"
		case k < 10:
			stop = "r3 wire"
		case k < 12:
			stop = "r1"
		case k < 15:
			stop = "d wire"
		}
		lost[stop]++
		w.chain(5000, stop)
	}
	f := w.one()
	for hop, stop := range map[[2]string]string{
		{"r1/a in", "r1/b out"}: "r1", {"r2/a in", "r2/b out"}: "r2", {"r2/b out", "r3/a in"}: "r3 wire", {"r3/b out", "d in"}: "d wire",
		{"s out", "r1/a in"}: "none", {"r1/b out", "r2/a in"}: "none",
	} {
		if h := hopOf(t, &f, hop[0], hop[1]); h.Lost != lost[stop] || h.Unobserved != 0 {
			t.Errorf("%v: %d lost, %d unobserved, want %d", hop, h.Lost, h.Unobserved, lost[stop])
		}
	}
	if f.Packets != n || f.Arrived != lost[""] || f.Lost != n-lost[""] || f.MinHops != 3 || f.MaxHops != 3 || f.Unheard+f.Unobserved != 0 {
		t.Errorf("%+v, want %d arrived", f, lost[""])
	}
	if len(f.Paths) != 1 || fmt.Sprint(f.Paths[0].Nodes) != "[s r1 r2 r3 d]" || f.Paths[0].Packets != lost[""] {
		t.Errorf("paths %+v", f.Paths)
	}
	if h := hopOf(t, &f, "s out", "r1/a in"); h.Delay.Min != 1e5 || h.Delay.Mean != 1e5 || h.Delay.P99 != 1e5 || h.Delay.Clock != "unknown" {
		t.Errorf("delay %+v", h.Delay)
	}
	if ended := w.e.Ended(Query{}); len(ended) != int(n-lost[""])-5 {
		t.Errorf("%d packets ended, want %d without the first 5", len(ended), n-lost[""])
	}
}

// TestNothingArrives: where a network never let a packet through it is not taken for delivered if
// the destination's node is known, and kernels' reasons are kept.
func TestNothingArrives(t *testing.T) {
	w := newWorld(t, Config{})
	w.packet("10.0.9.9", "10.0.0.77", 9).sent("d") // d has its address
	for range 10 {
		w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s").got("r1/a")
		w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s").got("r1/a").drop("r1/a", "NETFILTER_DROP", wire.Incoming)
		w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s")
	}
	w.e.Flush()
	r := w.e.Report(Query{Dst: netip.MustParseAddr("10.0.9.9")}, 0)
	f := r.Flows[0]
	if f.Packets != 30 || f.Arrived != 0 || f.Lost != 30 || f.Drops["NETFILTER_DROP"] != 10 {
		t.Errorf("%+v", f)
	}
	if h := hopOf(t, &f, "r1/a in", ""); h.Lost != 20 || h.Drops["NETFILTER_DROP"] != 10 {
		t.Errorf("%+v", h)
	}
	if h := hopOf(t, &f, "s out", "r1/a in"); h.Lost != 10 || h.Packets != 20 {
		t.Errorf("%+v", h)
	}
}

// TestOwnAddress: a destination that never sends is known by its agent's address.
func TestOwnAddress(t *testing.T) {
	w := newWorld(t, Config{})
	w.e.Own(w.e.Agent("d"), netip.MustParseAddr("10.0.9.9"))
	for range 10 {
		w.packet("10.0.0.1", "10.0.9.9", 5000).sent("s").got("r1/a")
	}
	if f := w.one(); f.Arrived != 0 || f.Lost != 10 {
		t.Errorf("%+v", f)
	}
}

// TestTranslatedBack: answers to an address that a router has by translation arrive at the host behind
// it, whatever agent tells first.
func TestTranslatedBack(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 10 {
		p := w.packet("10.0.0.1", "10.0.9.9", 5000)
		s := *p
		if i%2 == 0 {
			s.sent("s")
		}
		p.at += 1e5
		p.got("r/a")
		p.r.Src, p.ttl = netip.MustParseAddr("203.0.113.7").As16(), 63
		p.sent("r/b").got("d") // a router's own, as its agent sees it
		if i%2 != 0 {
			s.sent("s")
		}
	}
	w.packet("203.0.113.7", "10.0.9.9", 1).sent("r/b").got("d")
	for range 10 {
		p := w.packet("10.0.9.9", "203.0.113.7", 1000).sent("d").got("r/b")
		p.r.Dst = netip.MustParseAddr("10.0.0.1").As16()
		p.forward("r/a").got("s")
	}
	w.e.Flush()
	for _, q := range []Query{{Src: netip.MustParseAddr("10.0.0.1")}, {Src: netip.MustParseAddr("10.0.9.9")}} {
		r := w.e.Report(q, 0)
		if len(r.Flows) != 1 || r.Flows[0].Packets != 10 || r.Flows[0].Arrived != 10 || r.Flows[0].Lost != 0 {
			t.Errorf("%+v", r.Flows)
		}
	}
}

// TestQueue: what is lost between both sides of a queue is the queue's.
func TestQueue(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).before("s")
		switch {
		case i%10 == 0:
			p.drop("s", "QDISC_DROP", wire.Outgoing)
		case i%10 != 1:
			p.seen("s", wire.Outgoing, 5e6).got("d")
		}
	}
	f := w.one()
	h := hopOf(t, &f, "s queue", "s out")
	if h.Packets != 80 || h.Lost != 20 || h.Drops["QDISC_DROP"] != 10 || h.Delay.Mean != 5e6 || h.Delay.Clock != "same" {
		t.Errorf("%+v, %+v", h, h.Delay)
	}
	if f.Arrived != 80 || f.Lost != 20 {
		t.Errorf("%+v", f)
	}
}

// TestBlindness: agents that are late, gone, or have lost records do not make a link lossy.
func TestBlindness(t *testing.T) {
	w := newWorld(t, Config{})
	send := func(n int, heard bool) {
		for range n {
			p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
			if heard {
				p.got("d")
			}
		}
	}
	send(100, false) // d's agent has not begun
	w.now += 10e9
	w.e.Watch(w.e.Agent("d"), w.now, true)
	w.now += 2e9
	send(100, true)
	w.now += 2e9
	w.e.Watch(w.e.Agent("d"), w.now, false)
	send(100, false)
	w.now += 2e9
	w.e.Watch(w.e.Agent("d"), w.now, true)
	w.now += 2e9
	send(100, true)
	w.now += 2e9
	w.e.Missed(w.e.Agent("d"), w.now, w.now+1e9)
	send(50, false)
	w.now += 4e9
	send(7, false) // this is loss
	f := w.one()
	h := hopOf(t, &f, "s out", "d in")
	if h.Packets != 200 || h.Lost != 7 || h.Unobserved != 250 {
		t.Errorf("%+v", h)
	}
	w = newWorld(t, Config{}) // d has no agent
	send(100, false)
	if f := w.one(); f.Lost != 0 || f.Unheard != 100 {
		t.Errorf("%+v", f)
	}
}

// TestAmbiguous: packets that look alike are counted as such only.
func TestAmbiguous(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		if i%4 == 0 {
			p.at += 1e6
			p.sent("s")
		}
		p.got("d")
	}
	r := w.report()
	if f := r.Flows[0]; r.Ambiguous != 25 || r.Packets != 75 || f.Packets != 75 || f.Arrived != 75 {
		t.Errorf("%+v", r)
	}
}

// TestDuplicates: a packet that was sent once and came twice.
func TestDuplicates(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s").got("r/a")
		p.forward("r/b")
		if i%10 == 0 {
			p.relay("r/b")
			p.got("d")
		}
		p.got("d")
		if i%20 == 1 {
			p.got("d")
		}
	}
	f := w.one()
	if h := hopOf(t, &f, "r/a in", "r/b out"); h.Packets != 100 || h.Duplicates != 10 {
		t.Errorf("%+v", h.Counts)
	}
	if h := hopOf(t, &f, "r/b out", "d in"); h.Packets != 110 || h.Duplicates != 5 || h.Lost != 0 {
		t.Errorf("%+v", h.Counts)
	}
	if f.Arrived != 100 {
		t.Errorf("%+v", f)
	}
}

// TestWays: ECMP by packet, a change of route, a loop, a bridge, NAT, and reordering.
func TestWays(t *testing.T) {
	w := newWorld(t, Config{})
	way := func(via string) *trip {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		p.got("r/a").forward("r/" + via).got(via + "/a")
		p.r.Src = netip.MustParseAddr("203.0.113.7").As16() // NAT
		return p.forward(via + "/b").got("br/1").relay("br/2").got("d")
	}
	for range 50 {
		way("x")
	}
	changed := w.now
	for range 30 {
		way("y")
	}
	p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s").got("r/a").forward("r/x").got("x/a").forward("x/a").got("r/x")
	p.forward("r/x").got("x/a")
	f := w.one()
	if len(f.Paths) != 2 || f.Paths[0].Packets != 50 || f.Paths[1].Packets != 30 || fmt.Sprint(f.Paths[1].Nodes) != "[s r y br d]" {
		t.Errorf("paths %+v", f.Paths)
	}
	if f.Changed != 1 || f.Changes[0].Time < changed || f.Changes[0].Time > changed+1e9 {
		t.Errorf("changes %+v", f.Changes)
	}
	if f.Loops != 1 || f.Arrived != 80 || f.MinHops != 2 || f.MaxHops != 2 {
		t.Errorf("%+v", f)
	}
	w = newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		if i%10 == 5 {
			p.at += 25e5 // overtaken by two
		}
		p.got("d")
	}
	f = w.one()
	if h := hopOf(t, &f, "s out", "d in"); h.Reordered != 10 && h.Reordered != 20 {
		t.Errorf("%+v", h.Counts)
	}
}

// TestStamps: the receiver's stamp may be before the sender's.
func TestStamps(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		p.at -= int64(i%3) * 2e5
		p.got("r/a")
		p.at += 1e6
		p.forward("r/b").seen("d", wire.Incoming, -2e4)
	}
	f := w.one()
	if f.Arrived != 100 || len(f.Paths) != 1 || fmt.Sprint(f.Paths[0].Nodes) != "[s r d]" {
		t.Errorf("%+v", f)
	}
}

// TestMulticast: relays, copies, members that receive nothing, and overhearers.
func TestMulticast(t *testing.T) {
	w := newWorld(t, Config{})
	group := netip.MustParseAddr("239.1.2.3").As16()
	for _, n := range []string{"n3", "n4", "n5", "n9"} {
		w.e.Watch(w.e.Agent(n), 1, true)
		w.e.Join(1, w.e.Agent(n), group, n != "n5")
	}
	w.e.Join(1, w.e.Agent("n5"), netip.MustParseAddr("239.1.2.4").As16(), true)
	for i := range 100 {
		p := w.packet("10.0.0.1", "239.1.2.3", 5000).sent("n1")
		at := p.at
		p.got("n2")
		p.at = at
		p.got("n3")
		p.at = at
		p.ttl--
		p.at += 1e6
		p.relay("n2")
		at = p.at
		p.got("n1")
		p.at = at
		p.got("n3")
		p.at = at
		if i%4 != 0 {
			p.got("n4")
		}
		p.at = at
		p.got("n5")
	}
	f := w.one()
	got := map[string]Role{}
	for _, r := range f.Nodes {
		got[r.Node] = r
	}
	for n, want := range map[string]Role{
		"n1": {Role: "source", Received: 100, Share: 1}, "n2": {Role: "relay", Received: 100, Relayed: 100, Share: 1},
		"n3": {Role: "member", Received: 100, Copies: 100, Share: 1, Expected: 100}, "n4": {Role: "member", Received: 75, Share: .75, Expected: 100},
		"n5": {Role: "overhearer", Received: 100, Share: 1}, "n9": {Role: "member", Expected: 100},
	} {
		want.Node = n
		is := got[n]
		is.Delay = nil
		if is != want {
			t.Errorf("%+v, want %+v", is, want)
		}
	}
	if d := got["n4"].Delay; d == nil || d.Count != 75 || sumOf(d.Histogram) != 75 || d.Min > d.P50 || d.Histogram[0].From != d.Min {
		t.Errorf("n4's delay from end to end is %+v", d)
	}
	if h := hopOf(t, &f, "n2 out", "n4 in"); h.Packets != 75 || h.Lost != 24 {
		t.Errorf("%+v", h.Counts) // the first was before the hop was known
	}
	if h := hopOf(t, &f, "n1 out", "n3 in"); h.Packets != 100 || h.Lost != 0 {
		t.Errorf("%+v", h.Counts)
	}
}

// TestClocks: an offset is estimated within its uncertainty, and delays corrected by it.
func TestClocks(t *testing.T) {
	w := newWorld(t, Config{})
	w.skew["d"] = 3e9
	for range 200 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		p.at += w.rnd.Int64N(5e5)
		p.got("d")
		p = w.packet("10.0.0.2", "10.0.0.1", 5001).sent("d")
		p.at += 4e5 + w.rnd.Int64N(5e5)
		p.got("s")
	}
	r := w.report()
	for _, f := range r.Flows {
		from, to, want := "s out", "d in", int64(3e9)
		if f.DstPort == 5001 {
			from, to, want = "d out", "s in", -3e9
		}
		d := hopOf(t, &f, from, to).Delay
		if d.Clock != "estimated" || d.Offset-want > d.Uncertainty || want-d.Offset > d.Uncertainty || d.Uncertainty > 1e6 || d.Min < 0 || d.Mean > 1e6 {
			t.Errorf("%+v", d)
		}
	}
}

// TestSampling: with too little memory packets are kept whole or not at all, and the share is
// told; later all are kept again.
func TestSampling(t *testing.T) {
	w := newWorld(t, Config{Memory: 200_000, Window: 1e9})
	busy := func(n int, every int64) {
		for range n {
			w.now += every - 1e6
			p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s").got("r/a").forward("r/b")
			if w.rnd.IntN(10) > 0 {
				p.got("d")
			}
			w.e.Tick(w.now)
		}
	}
	busy(30_000, 5e4)
	r := w.e.Report(Query{}, 0)
	if r.Sampled > .25 || r.NotSelected == 0 {
		t.Fatalf("%+v", r)
	}
	if f := r.Flows[0]; f.Unheard+f.Unobserved != 0 || float64(f.Lost) < .05*float64(f.Packets) || float64(f.Lost) > .16*float64(f.Packets) {
		t.Errorf("of a sample %+v", f)
	}
	for range 10 {
		busy(100, 1e8)
	}
	r = w.report()
	if f := r.Flows[0]; r.Sampled != 1 || len(f.Paths) != 1 || f.Packets != f.Arrived+f.Lost {
		t.Errorf("%+v", r)
	}
}

// TestNoFalseJoins: among random packets, each seen once, none are joined. It takes 1e8 of them with
// -timeout 0 and PATH_LONG=1.
func TestNoFalseJoins(t *testing.T) {
	n := 1_000_000
	if os.Getenv("PATH_LONG") != "" {
		n = 100_000_000
	}
	e := New(Config{Memory: 2 << 30, Window: 2e9})
	a := e.Agent("a")
	rnd := rand.New(rand.NewPCG(rand.Uint64(), 3))
	r := wire.Record{Flags: wire.Incoming, TTL: 64, Proto: wire.ProtoUDP, Length: 100}
	var in [wire.DigestSize]byte
	for i := range n {
		now := start + int64(i)*1000 // 1e6 a second
		for k := 2; k < len(in); k++ {
			in[k] = 0
		}
		in[0], in[1], in[7] = 4, 17, 100
		binary.BigEndian.PutUint32(in[8:], uint32(i)) // a counter, as in MGEN and RTP, and noise
		binary.BigEndian.PutUint16(in[2:], uint16(rnd.Uint32()))
		r.Digest, r.Time = wire.Digest(&in), now
		e.AddOne(now, a, &r)
		if i%1000 == 0 {
			e.Tick(now)
		}
	}
	e.Flush()
	if c := e.Report(Query{}, 0).Counters; c.Packets != uint64(n) || c.Ambiguous != 0 || c.NotSelected != 0 {
		t.Errorf("%+v of %d packets", c, n)
	}
}

func sumOf(list []Bucket) (n uint64) {
	for _, b := range list {
		n += b.Count
	}
	return n
}

// TestUnsure: an agent of which nobody says whether it is watching makes no link lossy while it is silent, or by what it
// would have seen just before that.
func TestUnsure(t *testing.T) {
	w := newWorld(t, Config{})
	w.e.Unsure(w.e.Agent("d"))
	send := func(n int, heard func(i int) bool) {
		for i := range n {
			w.now += 49e6
			p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
			if heard(i) {
				p.got("d")
			}
		}
	}
	send(100, func(i int) bool { return i < 30 || i > 60 || i%2 == 0 }) // 15 are lost
	send(200, func(int) bool { return false })                          // the agent is gone
	send(100, func(i int) bool { return i != 50 })
	send(10, func(int) bool { return false })
	f := w.one()
	if h := hopOf(t, &f, "s out", "d in"); h.Packets != 85+99 || h.Lost != 16 || h.Unobserved != 210 {
		t.Errorf("%+v", h.Counts)
	}
}
