package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// contender is a tap that is measured.
type contender struct {
	name string
	tap  func() tap
	// others: it is measured with the traffic of the second table, too; slow:
	// at low rates.
	others, slow bool
	// frames: it counts what the kernel hands on, not packets.
	frames    bool
	floor     bool   // it records nothing, and shows what others cannot go below
	engine    string // of our agent
	collected bool   // it has a collector
	log       bool
	few       bool // of the others only those next to a busy process
}

// Names that figures are looked up by.
const (
	noTap    = "no tap"
	countTap = "count-only program"
	clockTap = "count and clock program"
	dumpTap  = "tcpdump -w /dev/null"
	flowTap  = "softflowd"
	cTap     = "C agent, 1 collector, log"
	// minimalTap is the least that an agent with our kernel program can cost.
	minimalTap = "minimal agent, 1 collector"
)

// Of our agent's names, behind that of the engine.
const (
	oneBulk   = ", 1 collector"
	oneLog    = ", 1 collector, log"
	oneSilent = ", 1 silent collector"
	// withDigests: IPFIX has them.
	withDigests = ", 1 collector, 1 of IPFIX"
)

// contenders in the order of each round.
func contenders() []contender {
	list := []contender{
		{name: countTap, tap: func() tap { return &counting{} }, others: true, frames: true, floor: true},
		{name: clockTap, tap: func() tap { return &counting{clock: true} }, frames: true, floor: true},
	}
	for _, engine := range engines {
		list = append(list,
			ours(engine, ", no collector", agent{}),
			ours(engine, oneBulk, agent{collectors: 1}),
			ours(engine, oneLog, agent{collectors: 1, log: true}),
			ours(engine, oneSilent, agent{collectors: 1, silent: true}),
			ours(engine, oneSilent+", log", agent{collectors: 1, silent: true, log: true}),
			ours(engine, ", 3 collectors", agent{collectors: 3}),
			ours(engine, ", 3 collectors, log", agent{collectors: 3, log: true}),
		)
		if engine == "ebpf" { // what following packets' paths costs, each next to the one before
			list = append(list,
				ours(engine, ", 2 collectors", agent{collectors: 2}),
				ours(engine, withDigests+", no drops, no members", agent{collectors: 1, ipfix: true, flags: []string{"-drops=false", "-members=false"}}),
				ours(engine, withDigests+", no members", agent{collectors: 1, ipfix: true, flags: []string{"-members=false"}}),
				ours(engine, withDigests, agent{collectors: 1, ipfix: true}),
				ours(engine, withDigests+", both points", agent{collectors: 1, ipfix: true, flags: []string{"-point", "both"}}),
			)
		}
	}
	return append(list,
		contender{name: minimalTap, tap: func() tap { return &agent{minimal: true, collectors: 1} }, others: true, few: true, slow: true, frames: true},
		contender{name: dumpTap, tap: func() tap { return &dump{} }, others: true, frames: true},
		contender{name: flowTap, tap: func() tap { return &flows{} }, others: true, frames: true},
		contender{name: cTap, tap: func() tap { return &agent{collectors: 1, silent: true, log: true} }, slow: true, log: true},
	)
}

var engines = []string{"ring", "ebpf"}

func ours(engine, name string, like agent) contender {
	return contender{
		name: engine + name, engine: engine, collected: like.collectors > 0, log: like.log,
		tap: func() tap {
			a := like
			a.engine = engine
			return &a
		},
		others: name == oneBulk || name == oneLog || name == oneSilent, few: name == oneSilent, slow: name == oneBulk,
	}
}

// sample is one measurement of one tap with one traffic. Times are of CPU, per
// packet.
type sample struct {
	rate        float64 // packets per second past the tap
	senderNs    float64 // of the sender's threads
	tapNs       float64 // of the tap's process
	collectorNs float64 // of the collectors' threads
	machineNs   float64 // of everything
	sent, lost  uint64  // in what the tap counts; lost is valid iff counted
	counted     bool
	toldDropped uint64 // what the tap itself says it has lost
	rss         uint64
	wall        bool    // the sender's threads are not all that sends
	busy        bool    // a process of ours kept the taps' processor busy
	others      float64 // processors that did anything else, on average; valid iff neither wall nor busy
	base        *sample // without the tap, just before
}

// result is all that was measured of a cell.
type result struct {
	samples []sample
	// lossless is the highest rate without loss; valid iff found.
	lossless float64
	found    bool
}

// slow is what a tap does when there is little to do.
type slow struct {
	cpu      map[string][]float64 // % of a processor, by name of the rate
	p50, p99 map[string][]float64 // ms
}

// results of all cells, in order.
type results struct {
	about   string
	cells   map[[2]string]*result // by contender and traffic
	slows   map[string]*slow
	skipped map[string]string // contender -> why
	notes   map[string]string // engine -> what the agent says of it
}

func newResults() *results {
	return &results{
		cells: map[[2]string]*result{}, slows: map[string]*slow{},
		skipped: map[string]string{}, notes: map[string]string{},
	}
}

func (r *results) add(tap, traffic string, s sample) {
	key := [2]string{tap, traffic}
	if r.cells[key] == nil {
		r.cells[key] = &result{}
	}
	r.cells[key].samples = append(r.cells[key].samples, s)
}

// cell is nil if there is no such measurement.
func (r *results) cell(tap, traffic string) *result { return r.cells[[2]string{tap, traffic}] }

func cellName(tap, traffic string) string { return tap + " / " + traffic }

// slowly names the cells of the third table.
const slowly = "slow"

func cellNames() (names []string) {
	for _, c := range contenders() {
		for _, t := range c.traffics() {
			names = append(names, cellName(c.name, t.name))
		}
		if c.slow {
			names = append(names, cellName(c.name, slowly))
		}
	}
	return names
}

// traffics that a contender is measured with.
func (c contender) traffics() []traffic {
	list := []traffic{basic}
	for _, t := range others {
		// With the log, flows are what makes a difference.
		if c.others && (!c.log || t.manyFlows || t.busy) && (!c.few || t.busy) {
			list = append(list, t)
		}
	}
	return list
}

// measure takes the rounds in turn, so that a slow minute of the machine hits
// all alike, and then looks for the rates at which those that lost do not.
func (b *bench) measure(ctx context.Context) (*results, error) {
	r := newResults()
	for round := range b.opt.rounds {
		for _, c := range contenders() {
			if err := b.contend(ctx, r, c); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			if line := r.line(c); line != "" {
				b.say("round %d of %d: %s: %s", round+1, b.opt.rounds, c.name, line)
			}
		}
	}
	for _, c := range contenders() {
		if err := b.search(ctx, r, c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return r, nil
}

// line tells of a contender's last measurement.
func (r *results) line(c contender) string {
	cell := r.cell(c.name, basic.name)
	if cell == nil || len(cell.samples) == 0 {
		return r.skipped[c.name]
	}
	s := cell.samples[len(cell.samples)-1]
	return fmt.Sprintf("%.2f M/s, sender +%.0f ns, tap %.0f ns, machine +%.0f ns, lost %d",
		s.rate/1e6, s.senderNs-s.base.senderNs, s.tapNs, machineNs(s), s.lost)
}

// contend measures a contender once: a session for each scene.
func (b *bench) contend(ctx context.Context, r *results, c contender) error {
	if r.skipped[c.name] != "" {
		return nil
	}
	for _, scene := range []string{sending, cabled, queueing, receiving, offload} {
		var list []traffic
		for _, t := range c.traffics() {
			if t.scene == scene && b.opt.cells.MatchString(cellName(c.name, t.name)) {
				list = append(list, t)
			}
		}
		if len(list) == 0 {
			continue
		}
		if err := b.session(ctx, r, c, scene, list); err != nil {
			return err
		}
	}
	if c.slow && b.opt.cells.MatchString(cellName(c.name, slowly)) {
		return b.slowSession(ctx, r, c)
	}
	return nil
}

// session starts the tap and measures it with several traffics.
func (b *bench) session(ctx context.Context, r *results, c contender, scene string, list []traffic) error {
	bases := make([]*sample, len(list))
	for i, t := range list {
		base, err := b.base(ctx, t)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		bases[i] = base
		r.add(noTap, t.name, *base)
	}
	return b.with(ctx, r, c, scene, func(t tap) error {
		o := observer{b: b, tap: t, frames: c.frames}
		if err := o.begin(ctx, list[0]); err != nil {
			return err
		}
		for i, traffic := range list {
			s, err := o.quietest(ctx, traffic, b.opt.duration)
			if err != nil {
				return fmt.Errorf("%s: %w", traffic.name, err)
			}
			s.base = bases[i]
			r.add(c.name, traffic.name, s)
		}
		return nil
	})
}

// with runs f with a tap. One that cannot be had here is noted.
func (b *bench) with(ctx context.Context, r *results, c contender, scene string, f func(tap) error) error {
	t := c.tap()
	err := t.start(ctx, b, b.scene(scene))
	var skip skipped
	if errors.As(err, &skip) {
		r.skipped[c.name] = skip.Error()
		return nil
	}
	if a, ok := t.(*agent); ok && a.note != "" && r.notes[c.engine+scene] == "" {
		r.notes[c.engine+scene] = fmt.Sprintf("%s, %s: %s", c.engine, scene, a.note)
	}
	if err == nil {
		err = f(t)
	}
	return errors.Join(err, t.stop(), ctx.Err())
}

// base measures the sender alone.
func (b *bench) base(ctx context.Context, t traffic) (*sample, error) {
	o := observer{b: b, tap: nothing{}}
	s, err := o.quietest(ctx, t, b.opt.duration/2)
	return &s, err
}

// observer measures a tap that runs.
type observer struct {
	b      *bench
	tap    tap
	frames bool
	// What the tap had counted before.
	recorded, dropped uint64
}

// begin lets everything happen once that happens only once.
func (o *observer) begin(ctx context.Context, t traffic) error {
	senders, err := o.b.traffic(t)
	if err != nil {
		return err
	}
	l, err := send(ctx, senders, 50*time.Millisecond, 0)
	if err != nil {
		return err
	}
	if o.recorded, o.dropped, err = o.tap.seen(o.units(l)); err != nil {
		return err
	}
	return resetPeak(o.tap.pid())
}

// units is what was sent as the tap counts it.
func (o *observer) units(l load) uint64 {
	if o.frames {
		return l.frames
	}
	return l.packets
}

// afterwards is how long what is in buffers may take to be dealt with until
// times are read: it is work, too.
const afterwards = 50 * time.Millisecond

const (
	// quiet is how much of a processor other programs may take for a
	// measurement to be believed at once.
	quiet = 0.1
	tries = 3
	// again bounds a run's time: so many measurements are repeated in all.
	again = 60
)

// quietest measures at full speed, again if other programs got in the way, and
// gives the measurement that they disturbed least. What was lost counts
// wherever it was.
func (o *observer) quietest(ctx context.Context, t traffic, d time.Duration) (best sample, err error) {
	var sent, lost, told uint64
	for try := range tries {
		s, err := o.sample(ctx, t, d, 0)
		if err != nil {
			return s, err
		}
		sent, lost, told = sent+s.sent, lost+s.lost, told+s.toldDropped
		if try == 0 || s.others < best.others {
			best = s
		}
		if best.others < quiet || o.b.repeated >= again {
			break
		}
		o.b.repeated++
	}
	best.sent, best.lost, best.toldDropped = sent, lost, told
	return best, nil
}

func (o *observer) sample(ctx context.Context, t traffic, d time.Duration, rate float64) (s sample, err error) {
	senders, err := o.b.traffic(t)
	if err != nil {
		return s, err
	}
	if rate == 0 {
		rate = t.rate
	}
	if t.busy {
		stop, err := keepBusy(tapCPU)
		if err != nil {
			return s, err
		}
		defer stop()
	}
	before, err1 := o.usage()
	l, err2 := send(ctx, senders, d, rate)
	time.Sleep(afterwards)
	after, err3 := o.usage()
	if err := errors.Join(err1, err2, err3, ctx.Err()); err != nil {
		return s, err
	}
	per := func(d time.Duration) float64 { return float64(d) / float64(l.packets) }
	s = sample{
		rate:        l.rate(),
		senderNs:    per(l.cpu),
		tapNs:       per(after.tap - before.tap),
		collectorNs: per(after.collectors - before.collectors),
		machineNs:   per(after.clock.busySince(before.clock)),
		sent:        o.units(l),
		wall:        t.wall,
		busy:        t.busy,
		rss:         after.rss,
	}
	if !s.wall && !s.busy {
		s.others = (s.machineNs - s.senderNs - s.tapNs - s.collectorNs) * s.rate / 1e9
	}
	return s, o.account(&s)
}

// account fills in what was lost.
func (o *observer) account(s *sample) error {
	recorded, dropped, err := o.tap.seen(o.recorded + s.sent)
	if err != nil {
		return err
	}
	if recorded > o.recorded+s.sent {
		return fmt.Errorf("%d recorded of %d that were sent", recorded-o.recorded, s.sent)
	}
	if s.counted = recorded > 0; s.counted {
		s.lost = o.recorded + s.sent - recorded
	}
	s.toldDropped = dropped - o.dropped
	o.recorded, o.dropped = recorded, dropped
	return nil
}

// usage is what has been used until a moment.
type usage struct {
	clock           clock
	tap, collectors time.Duration
	rss             uint64
}

func (o *observer) usage() (u usage, err error) {
	u.clock, err = readClock()
	if err != nil {
		return u, err
	}
	if a, ok := o.tap.(*agent); ok {
		u.collectors = a.collectorCPU()
	}
	var err1, err2 error
	u.tap, err1 = processCPU(o.tap.pid())
	u.rss, err2 = peakRSS(o.tap.pid())
	return u, errors.Join(err1, err2)
}

const (
	searchSteps = 6 // to 2 % of full speed
	searchTime  = 500 * time.Millisecond
)

// search halves the range in which the highest lossless rate lies. At full speed
// the sender is only as fast as the tap lets it be: lossless there is all.
func (b *bench) search(ctx context.Context, r *results, c contender) error {
	cell := r.cell(c.name, basic.name)
	if cell == nil || !cell.counted() {
		return nil
	}
	full := cell.median(rate)
	if cell.lost() == 0 && cell.told() == 0 {
		cell.lossless, cell.found = full, true
		return nil
	}
	b.say("looking for the highest rate without loss: %s", c.name)
	return b.with(ctx, r, c, basic.scene, func(t tap) error {
		o := observer{b: b, tap: t, frames: c.frames}
		if err := o.begin(ctx, basic); err != nil {
			return err
		}
		low, high := 0.0, full
		for range searchSteps {
			s, err := o.sample(ctx, basic, searchTime, (low+high)/2)
			if err != nil {
				return err
			}
			if s.lost > 0 || s.toldDropped > 0 {
				high = (low + high) / 2
				continue
			}
			low = (low + high) / 2
			cell.lossless, cell.found = s.rate, true
		}
		return nil
	})
}

// fullRate is as fast as the sender can.
const fullRate = 0

// The rates of the third table, packets per second.
var (
	lowRates   = []float64{10, 100, 1000, 10_000}
	delayRates = []float64{100_000, 1_000_000, fullRate}
)

// slowSession measures a tap with one collector when there is nothing or little
// to do, and the delay between a packet and its record's arrival.
func (b *bench) slowSession(ctx context.Context, r *results, c contender) error {
	senders, err := b.traffic(basic)
	if err != nil {
		return err
	}
	if r.slows[c.name] == nil {
		r.slows[c.name] = &slow{cpu: map[string][]float64{}, p50: map[string][]float64{}, p99: map[string][]float64{}}
	}
	q := r.slows[c.name]
	return b.with(ctx, r, c, basic.scene, func(t tap) error {
		share := func(what string, f func(d time.Duration) error) error {
			before, err1 := processCPU(t.pid())
			begin := time.Now()
			err2 := f(b.opt.duration * 5 / 2)
			elapsed := time.Since(begin)
			after, err3 := processCPU(t.pid())
			q.cpu[what] = append(q.cpu[what], 100*float64(after-before)/float64(elapsed))
			return errors.Join(err1, err2, err3, ctx.Err())
		}
		time.Sleep(200 * time.Millisecond)
		if err := share(idle, func(d time.Duration) error { time.Sleep(d); return nil }); err != nil {
			return err
		}
		for _, rate := range lowRates {
			if err := share(grouped(rate), func(d time.Duration) error {
				_, err := send(ctx, senders, d, rate)
				return err
			}); err != nil {
				return err
			}
		}
		for _, rate := range delayRates {
			h, err := t.(*agent).readers[0].listen(func() error {
				_, err := send(ctx, senders, b.opt.duration, rate)
				return err
			})
			if err != nil {
				return err
			}
			q.p50[grouped(rate)] = append(q.p50[grouped(rate)], h.quantile(0.50).Seconds()*1e3)
			q.p99[grouped(rate)] = append(q.p99[grouped(rate)], h.quantile(0.99).Seconds()*1e3)
		}
		return nil
	})
}

const idle = "idle"

// counted reports whether losses are known.
func (r *result) counted() bool {
	return slices.ContainsFunc(r.samples, func(s sample) bool { return s.counted })
}

func (r *result) lost() (n uint64) {
	for _, s := range r.samples {
		n += s.lost
	}
	return n
}

func (r *result) told() (n uint64) {
	for _, s := range r.samples {
		n += s.toldDropped
	}
	return n
}

func (r *result) sent() (n uint64) {
	for _, s := range r.samples {
		n += s.sent
	}
	return n
}

// median and values are of the samples' figures, the latter sorted.
func (r *result) median(figure func(sample) float64) float64 { return middle(r.values(figure)) }

func (r *result) values(figure func(sample) float64) []float64 {
	v := make([]float64, len(r.samples))
	for i, s := range r.samples {
		v[i] = figure(s)
	}
	slices.Sort(v)
	return v
}

func middle(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Figures of a sample.
func rate(s sample) float64    { return s.rate }
func agentNs(s sample) float64 { return s.tapNs }
func memory(s sample) float64  { return float64(s.rss) / (1 << 20) }

// addedNs is what the tap costs in the sender's path.
func addedNs(s sample) float64 { return s.senderNs - s.base.senderNs }

// machineNs is what the tap costs all over. Without a tap nothing but the
// sender's threads has a reason to run: what else did is not subtracted, as it
// would make up for what the tap costs. Where other programs were in the way,
// it is what is known of the tap's cost.
func machineNs(s sample) float64 {
	if s.wall {
		return s.machineNs - s.base.machineNs
	}
	if s.disturbed() || s.busy {
		return s.senderNs + s.tapNs + s.collectorNs - s.base.senderNs
	}
	return s.machineNs - s.base.senderNs
}

// disturbed reports whether other programs were in the way.
func (s *sample) disturbed() bool { return s.others >= quiet }

// keeps is the sender's rate with the tap by that without, both for each second
// that its thread ran: what else runs on its processor is not the tap's doing.
func keeps(s sample) float64 {
	if s.wall {
		return s.rate / s.base.rate
	}
	return s.base.senderNs / s.senderNs
}
