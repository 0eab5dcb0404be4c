package path

import (
	"cmp"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Interval is how much time a Row is of.
const Interval = 10 * time.Second

// Kinds of Row.
const (
	KindAll    = "all"    // of all flows, also if there were none: nothing is known of intervals without
	KindFlow   = "flow"   // of one flow
	KindHop    = "hop"    // of a flow's hop; To is empty where nobody is known who comes next
	KindPath   = "path"   // packets of a flow that arrived this way
	KindChange = "change" // of a flow's path
	KindNode   = "node"   // what a node did with a multicast
)

// Row is what was counted in an interval. It has tags for Parquet files; docs/history.md explains
// the columns. What a kind does not have is 0.
type Row struct {
	Time    int64  `parquet:"time,timestamp(nanosecond)"` // when the interval began, by the packets' arrival at the collector
	Seconds uint32 `parquet:"seconds,dict"`
	Kind    string `parquet:"kind,dict"`

	// The flow, as its sender names it.
	Src      string  `parquet:"src,dict"`
	Dst      string  `parquet:"dst,dict"`
	SrcPort  uint16  `parquet:"src_port,dict"`
	DstPort  uint16  `parquet:"dst_port,dict"`
	Proto    uint8   `parquet:"proto,dict"`
	MGENFlow *uint32 `parquet:"mgen_flow,optional,dict"`

	FromNode  string   `parquet:"from_node,dict"` // of a node, itself
	From      string   `parquet:"from,dict"`      // an agent
	FromStage string   `parquet:"from_stage,dict"`
	ToNode    string   `parquet:"to_node,dict"`
	To        string   `parquet:"to,dict"`
	ToStage   string   `parquet:"to_stage,dict"`
	Path      []string `parquet:"path,list"`     // nodes
	OldPath   []string `parquet:"old_path,list"` // of a change
	Role      string   `parquet:"role,dict"`
	Last      int64    `parquet:"last,timestamp(nanosecond)"` // of a path, when its last packet was seen; of a change, when it was

	Packets    uint64 `parquet:"packets,dict"`
	Bytes      uint64 `parquet:"bytes,dict"`
	Lost       uint64 `parquet:"lost,dict"`
	Unobserved uint64 `parquet:"unobserved,dict"`
	Unheard    uint64 `parquet:"unheard,dict"`
	Arrived    uint64 `parquet:"arrived,dict"`
	Loops      uint64 `parquet:"loops,dict"`
	Duplicates uint64 `parquet:"duplicates,dict"`
	Reordered  uint64 `parquet:"reordered,dict"`
	Copies     uint64 `parquet:"copies,dict"`
	Relayed    uint64 `parquet:"relayed,dict"`
	Expected   uint64 `parquet:"expected,dict"`
	MinHops    uint8  `parquet:"min_hops,dict"`
	MaxHops    uint8  `parquet:"max_hops,dict"`
	// Of all: records without a digest, packets that look alike, observations that memory did not
	// suffice for, and what share of packets was looked at in the end.
	NoDigest    uint64  `parquet:"no_digest,dict"`
	Ambiguous   uint64  `parquet:"ambiguous,dict"`
	NotSelected uint64  `parquet:"not_selected,dict"`
	Sampled     float64 `parquet:"sampled,dict"`

	Drops []DropRow `parquet:"drops,list"` // of Lost, by the kernels' reasons

	// Delays in nanoseconds. If Clock is "estimated", they are corrected by ClockOffset already.
	DelayMin  int64      `parquet:"delay_min_ns"`
	DelayMax  int64      `parquet:"delay_max_ns"`
	DelaySum  float64    `parquet:"delay_sum_ns"`
	Jitter    int64      `parquet:"jitter_ns"`
	Delays    []DelayRow `parquet:"delays,list"` // a histogram: add them up
	Clock     string     `parquet:"clock,dict"`
	Offset    int64      `parquet:"clock_offset_ns,dict"`
	Uncertain int64      `parquet:"clock_uncertainty_ns,dict"`
}

// DropRow is how many packets were dropped for a reason.
type DropRow struct {
	Reason  string `parquet:"reason,dict"`
	Packets uint64 `parquet:"packets"`
}

// DelayRow is how many packets took at least NS nanoseconds, and less than the next such step: each
// power of two is divided by eight. The first step, 1024, also has what took less.
type DelayRow struct {
	NS      int64  `parquet:"ns"`
	Packets uint64 `parquet:"packets"`
}

// Span is the time of a row, for [history.OpenTable].
func (r *Row) Span() (from, to int64) { return r.Time, r.Time + int64(r.Seconds)*1e9 - 1 }

// noted is what of a flow has gone into rows.
type noted struct {
	packets, bytes, arrived, lost, unseen, unheard, loops, changed uint64
	drops                                                          map[wire.Reason]uint64
}

// keeping makes rows of what is counted.
type keeping struct {
	on       bool
	last     int64 // the second up to which there are rows
	rows     []Row
	shed     uint64 // rows that nobody took in time
	counters Counters
	spare    []*histogram
}

// maxRows are kept until somebody takes them.
const maxRows = 1 << 18

// Keep has the engine make rows of each Interval, for TakeRows.
func (e *Engine) Keep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keeping.on = true
}

// TakeRows are the rows since the last call, and how many were given up since the start since they were not taken
// in time.
func (e *Engine) TakeRows() (rows []Row, shed uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rows, e.keeping.rows = e.keeping.rows, nil
	return rows, e.keeping.shed
}

// keepUntil finishes the packets that arrived before the end of intervals that are over, and makes rows of
// these.
func (e *Engine) keepUntil(until int64) {
	k := &e.keeping
	if !k.on {
		return
	}
	end := until / int64(Interval) * int64(Interval) / 1e9
	if k.last == 0 {
		k.last = end
	}
	if end > k.last {
		e.tick(end*1e9 - 1)
		e.keep(end)
	}
}

// keep makes rows of what was counted up to a second.
func (e *Engine) keep(end int64) {
	k := &e.keeping
	was := k.counters
	k.counters = e.counters
	base := Row{Time: k.last * 1e9, Seconds: uint32(end - k.last)}
	k.last = end
	all := base
	all.Kind, all.Sampled = KindAll, 1/float64(uint64(1)<<e.shift)
	all.Packets, all.NoDigest = e.counters.Packets-was.Packets, e.counters.NoDigest-was.NoDigest
	all.Ambiguous, all.NotSelected = e.counters.Ambiguous-was.Ambiguous, e.counters.NotSelected-was.NotSelected
	e.put(all)
	for _, f := range e.flows {
		e.keepFlow(f, base)
	}
	e.keepFlow(&e.others, base)
}

func (e *Engine) put(r Row) {
	if len(e.keeping.rows) >= maxRows {
		e.keeping.shed++
		return
	}
	e.keeping.rows = append(e.keeping.rows, r)
}

func (e *Engine) keepFlow(f *flow, base Row) {
	if f != &e.others {
		t := f.key.tuple()
		base.Src, base.Dst, base.SrcPort, base.DstPort, base.Proto, base.MGENFlow = t.Src.String(), t.Dst.String(), t.SrcPort, t.DstPort, t.Proto, t.MGEN
	}
	is := noted{packets: f.packets, bytes: f.bytes, arrived: f.arrivals(), lost: f.lost, unseen: f.unseen, unheard: f.unheard(), loops: f.loops, changed: f.changed}
	was := f.noted
	if is.packets != was.packets || is.lost != was.lost || is.unseen != was.unseen {
		r := base
		r.Kind = KindFlow
		r.Packets, r.Bytes, r.Lost, r.Loops = is.packets-was.packets, is.bytes-was.bytes, is.lost-was.lost, is.loops-was.loops
		r.Arrived, r.Unobserved, r.Unheard = increase(is.arrived, was.arrived), is.unseen-was.unseen, increase(is.unheard, was.unheard)
		r.MinHops, r.MaxHops = f.hopsTTL[0], f.hopsTTL[1]
		r.Drops, is.drops = moreDrops(f.dropped, was.drops)
		e.put(r)
	} else {
		is.drops = was.drops
	}
	f.noted = is
	for i := range f.hops {
		e.keepHop(&f.hops[i], base)
	}
	for i := range f.ends {
		if en := &f.ends[i]; en.from.stage() != in && en.packets > en.noted {
			r := base
			r.Kind, r.Unobserved = KindHop, en.packets-en.noted
			r.FromNode, r.From, r.FromStage = e.placed(en.from)
			en.noted = en.packets
			e.put(r)
		}
	}
	for i := range f.paths {
		if p := &f.paths[i]; p.Packets > p.noted {
			r := base
			r.Kind, r.Path, r.Packets, r.Last = KindPath, p.Nodes, p.Packets-p.noted, p.Last
			p.noted = p.Packets
			e.put(r)
		}
	}
	for _, c := range f.changes[len(f.changes)-int(min(is.changed-was.changed, uint64(len(f.changes)))):] {
		r := base
		r.Kind, r.OldPath, r.Path, r.Last = KindChange, c.Old, c.New, c.Time
		e.put(r)
	}
	e.keepNodes(f, base)
}

func (e *Engine) placed(p place) (node, agent, stage string) {
	a := e.at(p)
	return a.Node, a.Agent, a.Stage
}

// moreDrops is what has come to drops, and a copy of these.
func moreDrops(is, was map[wire.Reason]uint64) (rows []DropRow, copied map[wire.Reason]uint64) {
	if len(is) == 0 {
		return nil, nil
	}
	copied = make(map[wire.Reason]uint64, len(is))
	more := map[wire.Reason]uint64{}
	for reason, n := range is {
		copied[reason] = n
		if n > was[reason] {
			more[reason] = n - was[reason]
		}
	}
	for name, n := range reasons(more) {
		rows = append(rows, DropRow{name, n})
	}
	slices.SortFunc(rows, func(a, b DropRow) int { return cmp.Compare(a.Reason, b.Reason) })
	return rows, copied
}

func (e *Engine) keepHop(h *hop, base Row) {
	if h.Counts == h.noted {
		return
	}
	r := base
	r.Kind = KindHop
	r.FromNode, r.From, r.FromStage = e.placed(h.from)
	if h.to != nowhere {
		r.ToNode, r.To, r.ToStage = e.placed(h.to)
	}
	r.Packets, r.Bytes, r.Lost, r.Unobserved = h.Packets-h.noted.Packets, h.Bytes-h.noted.Bytes, h.Lost-h.noted.Lost, h.Unobserved-h.noted.Unobserved
	r.Duplicates, r.Reordered = h.Duplicates-h.noted.Duplicates, h.Reordered-h.noted.Reordered
	h.noted = h.Counts
	r.Drops, h.notedDrops = moreDrops(h.drops, h.notedDrops)
	if d := h.fresh; d != nil {
		r.delays(d, e.clockOf(h.link))
		r.Jitter = int64(h.jitter)
		*d = histogram{}
		e.keeping.spare = append(e.keeping.spare, d)
		h.fresh = nil
	}
	e.put(r)
}

// delays makes a row's delays of a histogram.
func (r *Row) delays(h *histogram, c hopClock) {
	r.Clock, r.Offset, r.Uncertain = c.Clock, c.Offset, c.Uncertainty
	fix := c.correction()
	h.rebase(fix)
	r.DelayMin, r.DelayMax, r.DelaySum = h.min-fix, h.max-fix, h.sum-float64(h.count)*float64(fix)
	for i, n := range h.buckets {
		if n > 0 {
			r.Delays = append(r.Delays, DelayRow{int64(bucketStart(i)), uint64(n)})
		}
	}
}

// keepNodes is of a multicast.
func (e *Engine) keepNodes(f *flow, base Row) {
	if !f.key.multicast() {
		return
	}
	e.membersOf(f) // those that have joined since the last packet
	for n, is := range f.nodes {
		was := is.noted
		r := base
		r.Kind, r.FromNode, r.Role = KindNode, e.nodes[n], e.roleOf(n, is)
		r.Packets, r.Copies, r.Relayed = is.received-was.received, is.copies-was.copies, is.relayed-was.relayed
		if r.Role == "member" {
			r.Packets = is.wanted - was.wanted
		}
		r.Expected, r.Unobserved = increase(is.expected, was.expected), is.unobserved-was.unobserved
		if r.Packets+r.Copies+r.Relayed+r.Expected+r.Unobserved == 0 && is.sent == was.sent && r.Role == was.role {
			continue
		}
		is.noted = notedRole{r.Role, is.sent, is.received, is.copies, is.relayed, is.expected, is.wanted, is.unobserved}
		e.put(r)
	}
}

// notedRole is what of a role has gone into rows.
type notedRole struct {
	role                                                          string
	sent, received, copies, relayed, expected, wanted, unobserved uint64
}
