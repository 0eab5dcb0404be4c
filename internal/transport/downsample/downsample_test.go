package downsample

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

const (
	epoch  = 1764000000e9
	second = int64(time.Second)
)

// class is what sums are exact for at each level.
type class struct {
	span  int64 // of ten seconds
	flags wire.Flags
	proto uint8
}

// exactly is a flow and second.
type exactly struct {
	second   int64
	src, dst [16]byte
	ports    [2]uint16
	flow     uint32
	flags    wire.Flags
	proto    uint8
}

type sum struct{ packets, bytes uint64 }

// ledger adds up one side of the account.
type ledger struct {
	class   map[class]sum
	second  map[int64]sum
	flow    map[exactly]sum
	topped  map[int64]bool // spans of which there is a sum of ten seconds
	records int
	rows    map[int64]int // of level top, by span
}

func newLedger() *ledger {
	return &ledger{map[class]sum{}, map[int64]sum{}, map[exactly]sum{}, map[int64]bool{}, 0, map[int64]int{}}
}

const shared = wire.IPv6 | wire.Outgoing | wire.Incoming | wire.Relayed | wire.MarkRelayed

func add[K comparable](m map[K]sum, k K, r *wire.Record) {
	s := m[k]
	m[k] = sum{s.packets + r.Count(), s.bytes + uint64(r.Length)}
}

func (l *ledger) add(level batch.Level, r *wire.Record) {
	span := r.Time / (10 * second)
	l.records++
	add(l.class, class{span, r.Flags & shared, r.Proto}, r)
	add(l.second, r.Time/second, r)
	add(l.flow, exactly{r.Time / second, r.Src, r.Dst, [2]uint16{r.SrcPort, r.DstPort}, r.Flow(), r.Flags & shared, r.Proto}, r)
	if level == batch.Top {
		l.topped[span] = true
		l.rows[span]++
	}
}

// check compares what came in (l) with what was given out.
func (l *ledger) check(t *testing.T, out *ledger) {
	t.Helper()
	for k, want := range l.class {
		if got := out.class[k]; got != want {
			t.Errorf("%+v: %+v, want %+v", k, got, want)
		}
	}
	if len(out.class) != len(l.class) {
		t.Errorf("%d classes, want %d", len(out.class), len(l.class))
	}
	for s, want := range l.second {
		if got := out.second[s]; got != want && !out.topped[s/10] {
			t.Errorf("second %d: %+v, want %+v", s, got, want)
		}
	}
	for k, want := range l.flow {
		if got := out.flow[k]; got != want && !out.topped[k.second/10] {
			t.Errorf("flow %+v: %+v, want %+v", k, got, want)
		}
	}
}

// traffic makes random packets of so many hosts.
type traffic struct {
	rnd   *rand.Rand
	hosts int
}

func (g traffic) packet(at int64) wire.Record {
	r := wire.Record{
		Time: at, Proto: []uint8{6, 17, 17, 1}[g.rnd.IntN(4)], Length: 40 + g.rnd.Uint32N(1460),
		Flags: []wire.Flags{wire.Outgoing, wire.Incoming, wire.Outgoing | wire.Relayed}[g.rnd.IntN(3)],
	}
	n := g.rnd.IntN(g.hosts) * g.rnd.IntN(g.hosts) / g.hosts // some are heavier
	r.SetSrc4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
	r.SetDst4([4]byte{10, 0, 0, 1})
	if r.Proto != 1 {
		r.DstPort = uint16(g.rnd.IntN(3))
	}
	switch g.rnd.IntN(12) {
	case 0:
		r.Flags |= wire.IPv6
	case 1:
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.FlowID, r.MGENSeq = g.rnd.Uint32N(3), g.rnd.Uint32()
	case 2:
		r.Packets = 1 + g.rnd.Uint32N(50)
	case 3: // as long as a record may say
		r.Packets, r.Length = 1<<20, 1<<31+g.rnd.Uint32N(1<<30)
	}
	return r
}

// TestSumsStayExact: random traffic of random agents with random limits, late
// packets and wrong clocks among them. Nothing is lost, and nothing counts in
// another second, or in another ten where only those are kept.
func TestSumsStayExact(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for seed := range uint64(30) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		limits := Limits{Packets: rnd.Uint64N(300), Flows: rnd.Uint64N(200), Top: 1 + rnd.IntN(30), Calm: time.Duration(1+rnd.IntN(5)) * time.Second}
		if rnd.IntN(4) == 0 {
			limits.Flows = Unlimited
		}
		in, out := newLedger(), newLedger()
		changes := 0
		a := NewAgent(limits, out.add, func(Change) { changes++ })
		f := NewFleet(FleetLimits{rnd.Uint64N(600), rnd.Uint64N(400)}, []*Agent{a})
		g := traffic{rnd, 1 + rnd.IntN(4000)}
		skew := rnd.Int64N(20*second) - 10*second
		per := 0
		for now := int64(epoch); now < epoch+60*second; now += 50e6 {
			if now%(4*second) == 0 {
				per = []int{0, 1, 5, 20, 200}[rnd.IntN(5)]
			}
			for range per {
				at := now + rnd.Int64N(50e6) + skew
				switch rnd.IntN(200) {
				case 0:
					at -= rnd.Int64N(15 * second)
				case 1:
					at += rnd.Int64N(3600 * second)
				}
				r := g.packet(at)
				in.add(0, &r)
				a.Add(&r)
				if a.table != nil && a.table.Len() > mostTable || a.top != nil && a.top.heavy.Len() > a.top.room {
					t.Fatal("a table is larger than it may be")
				}
			}
			f.Tick(now)
		}
		a.Flush()
		in.check(t, out)
		if t.Failed() {
			t.Fatalf("seed %d, %+v, %d changes", seed, limits, changes)
		}
		if s := a.Status(); int(s.Changes) != changes {
			t.Errorf("%d changes counted, %d told", s.Changes, changes)
		}
	}
}

// steps drives an agent: each second so many records of so many flows, and the
// level at its end.
func steps(t *testing.T, a *Agent, tick func(int64), from int64, list ...[3]int) (now int64) {
	t.Helper()
	now = from
	for i, s := range list {
		for part := range int64(20) {
			for n := range s[0] / 20 {
				r := wire.Record{Time: now + part*50e6 + int64(n), Length: 100, Proto: 17, SrcPort: uint16((int(part)*s[0]/20 + n) % s[1])}
				a.Add(&r)
			}
			tick(now + part*50e6 + 49e6)
		}
		now += second
		if got := a.Status().Level; got != batch.Level(s[2]) {
			t.Errorf("after second %d: level %v, want %v", i, got, batch.Level(s[2]))
		}
	}
	return now
}

const (
	p = int(batch.Packets)
	f = int(batch.Flows)
	x = int(batch.Top)
)

// TestUpAtOnceDownLater: a level rises within the second that passes a limit, and
// falls after the calm.
func TestUpAtOnceDownLater(t *testing.T) {
	out := newLedger()
	var changes []Change
	a := NewAgent(Limits{Packets: 1000, Flows: 50, Top: 3, Calm: 3 * time.Second}, out.add, func(c Change) { changes = append(changes, c) })
	steps(t, a, a.Tick, epoch,
		[3]int{1000, 10, p}, [3]int{1020, 10, f}, [3]int{100, 100, x}, [3]int{100, 10, x}, // the records of seconds 1 and 2
		[3]int{100, 10, x}, [3]int{100, 10, x}, [3]int{100, 100, p})
	if len(changes) != 3 {
		t.Fatalf("%+v", changes)
	}
	for i, want := range []Cause{AgentPackets, AgentFlows, NoCause} {
		if c := changes[i]; c.Cause != want || c.Changes != uint64(i+1) || c.Since < epoch || (want != NoCause) != (c.Limit > 0) {
			t.Errorf("change %d: %+v, want cause %v", i, c, want)
		}
	}
	if changes[2].From != batch.Top || changes[2].Level != batch.Packets {
		t.Errorf("%+v", changes[2])
	}
}

// TestLimitOfNothing: a limit of 0 is a rule, not a rate.
func TestLimitOfNothing(t *testing.T) {
	for _, c := range []struct {
		limits Limits
		level  batch.Level
	}{
		{Limits{Packets: 0, Flows: 10, Top: 2, Calm: time.Second}, batch.Flows},
		{Limits{Packets: 10, Flows: 0, Top: 2, Calm: time.Second}, batch.Top},
	} {
		seen := map[batch.Level]int{}
		a := NewAgent(c.limits, func(l batch.Level, r *wire.Record) { seen[l] += int(r.Packets) }, func(c Change) { t.Errorf("%+v", c) })
		if s := a.Status(); s.Level != c.level || s.Cause != Configured {
			t.Errorf("%+v: %+v", c.limits, s)
		}
		steps(t, a, a.Tick, epoch, [3]int{20, 1, int(c.level)}, [3]int{0, 1, int(c.level)}, [3]int{0, 1, int(c.level)}, [3]int{20, 1, int(c.level)})
		a.Flush()
		if len(seen) != 1 || seen[c.level] != 40 {
			t.Errorf("%+v: %v", c.limits, seen)
		}
	}
}

// TestTopAreTheHeaviest: with room for all, the K rows are the K heaviest, and
// the rest is one row for each protocol and direction.
func TestTopAreTheHeaviest(t *testing.T) {
	var rows []wire.Record
	a := NewAgent(Limits{Packets: 0, Flows: 0, Top: 5, Calm: time.Second}, func(_ batch.Level, r *wire.Record) { rows = append(rows, *r) }, nil)
	for i := range 2000 {
		n := i % 100 // a flow, 20 packets each
		r := wire.Record{Time: epoch + int64(i)*1e6, Length: 100 + uint32(n), Proto: []uint8{6, 17}[n%2], SrcPort: uint16(n), Flags: wire.Outgoing}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		a.Add(&r)
	}
	a.Flush()
	if len(rows) != 7 {
		t.Fatalf("%d rows, want 5 and 2", len(rows))
	}
	for i, r := range rows[:5] {
		if n := 99 - i; r.SrcPort != uint16(n) || r.Packets != 20 || r.Length != 20*uint32(100+n) {
			t.Errorf("row %d: %+v", i, r)
		}
	}
	for _, r := range rows[5:] {
		if !r.SrcAddr().IsUnspecified() || !r.DstAddr().IsUnspecified() || r.SrcPort != 0 || r.Packets < 900 || r.Flags != wire.Outgoing {
			t.Errorf("rest: %+v", r)
		}
	}
}

// TestFleet: the busiest gives up detail, no more agents than must, and it gets
// detail back when all is calm.
func TestFleet(t *testing.T) {
	agents := make([]*Agent, 4)
	for i := range agents {
		agents[i] = NewAgent(Limits{Packets: 5000, Flows: 1000, Top: 3, Calm: 3 * time.Second}, func(batch.Level, *wire.Record) {}, nil)
	}
	fleet := NewFleet(FleetLimits{Packets: 4000, Flows: 150}, agents)
	levels := func() (text string) {
		for _, a := range agents {
			text += a.Status().Level.String()[:1]
		}
		return text
	}
	now := int64(epoch)
	run := func(seconds, flows int, rates ...int) string {
		for range seconds * 20 {
			for i, a := range agents {
				for n := range rates[i] / 20 {
					r := wire.Record{Time: now + int64(n), Length: 100, Proto: 17, SrcPort: uint16(n % flows)}
					a.Add(&r)
				}
			}
			now += 50e6
			fleet.Tick(now)
		}
		return levels()
	}
	for _, c := range []struct {
		want    string
		seconds int
		flows   int
		rates   []int
	}{
		{"pppp", 2, 10, []int{1000, 1000, 1000, 900}},
		{"ppfp", 2, 10, []int{1000, 1000, 2000, 900}},   // one is enough
		{"pfpp", 5, 10, []int{1000, 6000, 1000, 900}},   // has its own limit: the others do not suffer
		{"pppp", 5, 10, []int{1000, 1000, 1000, 900}},   // calm
		{"ptft", 1, 100, []int{4000, 4000, 4000, 4020}}, // one is within 4000, and one with its 100 flows within 150
	} {
		if got := run(c.seconds, c.flows, c.rates...); got != c.want {
			t.Errorf("%v: %s, want %s", c.rates, got, c.want)
		}
	}
	if s := agents[1].Status(); s.Changes == 0 {
		t.Errorf("%+v", s)
	}
}

func TestRules(t *testing.T) {
	r := DefaultRules()
	for _, text := range []string{"packets=100,top=5,fleet-flows=all", "edge-*:packets=all,calm=2m", "edge-7:flows=0"} {
		if err := r.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	for label, want := range map[string]Limits{
		"a/b":    {100, 2000, 5, 30 * time.Second},
		"edge-1": {Unlimited, 2000, 5, 2 * time.Minute},
		"edge-7": {Unlimited, 0, 5, 2 * time.Minute},
	} {
		if got := r.For(label); got != want {
			t.Errorf("%s: %+v, want %+v", label, got, want)
		}
	}
	if r.Fleet != (FleetLimits{5_000_000, Unlimited}) {
		t.Errorf("%+v", r.Fleet)
	}
	for text, part := range map[string]string{
		"":                             "want [LABELS:]",
		"packets":                      `whole number per second, or "all"`,
		"packets=-1":                   `packets=-1: want`,
		"flows=1e6":                    `flows=1e6: want`,
		"top=0":                        "1 to 10000",
		"calm=30":                      "such as 30s",
		"calm=0s":                      "such as 30s",
		"speed=3":                      "want packets, flows, top, calm, fleet-packets or fleet-flows",
		"packts=3":                     "did you mean packets?",
		"a:fleet-packets=3":            `without "a:"`,
		":packets=3":                   "not a pattern",
		"[:packets=3":                  "not a pattern",
		"packets=1,,top=3":             "want [LABELS:]",
		"fleet-packets=a lot":          `fleet-packets=a lot: want`,
		"packets=20000000000000000000": "whole number",
	} {
		before := r.Fleet
		if err := r.Set(text); err == nil || !strings.Contains(err.Error(), part) || r.Fleet != before {
			t.Errorf("%q: %v, want %q", text, err, part)
		}
	}
}

// TestSpread: what is spread over seconds has the same sum, and stays within its
// ten seconds.
func TestSpread(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		r := wire.Record{Time: epoch + rnd.Int64N(20*second), Packets: rnd.Uint32N(30), Length: rnd.Uint32N(5000), Proto: 6}
		if rnd.IntN(5) == 0 {
			r.Time -= r.Time % second
		}
		var got sum
		last := int64(0)
		for i, part := range Spread(nil, &r) {
			got = sum{got.packets + part.Count(), got.bytes + uint64(part.Length)}
			if part.Time/(10*second) != r.Time/(10*second) || part.Time < r.Time || i > 0 && part.Time/second != last+1 {
				t.Fatalf("part %d of %+v: %+v", i, r, part)
			}
			last = part.Time / second
		}
		if got != (sum{r.Count(), uint64(r.Length)}) {
			t.Fatalf("%+v: %+v", r, got)
		}
	}
	r := wire.Record{Time: epoch, Packets: 100, Length: 1000}
	if parts := Spread(nil, &r); len(parts) != 10 || parts[9].Packets != 10 || parts[9].Length != 100 || parts[9].Time != epoch+9*second {
		t.Errorf("%+v", parts)
	}
}

func BenchmarkAdd(b *testing.B) {
	for _, c := range []struct {
		name   string
		limits Limits
	}{
		{"packets", Limits{Packets: Unlimited, Flows: 2000, Top: 20}},
		{"flows", Limits{Packets: 0, Flows: Unlimited, Top: 20}},
		{"top", Limits{Packets: 0, Flows: 0, Top: 20}},
	} {
		b.Run(c.name, func(b *testing.B) {
			a := NewAgent(c.limits, func(batch.Level, *wire.Record) {}, nil)
			g := traffic{rand.New(rand.NewPCG(1, 2)), 1000}
			records := make([]wire.Record, 20_000)
			for i := range records {
				records[i] = g.packet(epoch)
				records[i].Packets, records[i].Length = 0, 100
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				r := &records[i%len(records)]
				r.Time = epoch + int64(i)*50_000 // 20,000 each second
				a.Add(r)
				if i%1000 == 0 {
					a.Tick(r.Time)
				}
			}
		})
	}
}

// TestMemberships: lists of groups pass at any level, whole and in order.
func TestMemberships(t *testing.T) {
	for level, limits := range map[batch.Level]Limits{
		batch.Packets: {Packets: Unlimited, Flows: Unlimited}, batch.Flows: {Flows: Unlimited}, batch.Top: {},
	} {
		var got []wire.Record
		a := NewAgent(limits, func(l batch.Level, r *wire.Record) {
			if l != level {
				t.Errorf("level %v, want %v", l, level)
			}
			got = append(got, *r)
		}, nil)
		want := []wire.Record{wire.Membership(5e9, netip.MustParseAddr("239.1.2.3")), wire.Memberships(5e9, 1), wire.Memberships(5e9+1, 0)}
		for i := range want {
			a.Add(&want[i])
		}
		a.Flush()
		if !slices.Equal(got, want) {
			t.Errorf("level %v: got %+v, want %+v", level, got, want)
		}
	}
}
