package history

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// By selects what is summed separately: each combination of the columns' values.
type By struct {
	// Step is the length of a time span; 0 means a single one.
	Step time.Duration
	// Columns are names from SumColumns.
	Columns []string
	// Flows returns the names of a record's flows, for the column flow: a record counts
	// in each.
	Flows func(r *wire.Record) []string
}

// SumColumns are the columns by which records can be summed.
var SumColumns = []string{"host", "level", "src", "dst", "src_port", "dst_port", "proto", "direction", "relayed", "mgen_flow", "flow"}

// maxSums bounds the memory of sums, at about 200 MB.
const maxSums = 1 << 20

// ParseBy parses columns and a step: 1m,host,proto.
func ParseBy(text string) (by By, err error) {
	for part := range strings.SplitSeq(text, ",") {
		if slices.Contains(SumColumns, part) && !slices.Contains(by.Columns, part) {
			by.Columns = append(by.Columns, part)
			continue
		}
		step, err := time.ParseDuration(part)
		if err != nil || step <= 0 || by.Step != 0 {
			return By{}, fmt.Errorf("sums by %q: want a step of time as 10s, 1m or 1h, and any of %s", part, strings.Join(SumColumns, ", "))
		}
		by.Step = step
	}
	return by, nil
}

// Key identifies a sum. Columns that were not requested are zero.
type Key struct {
	Time             int64 // beginning of the step, nanoseconds
	Host, Flow       string
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
	Level            batch.Level
	Direction        wire.Flags // Outgoing, Incoming, both or none
	Relayed, MGEN    bool       // MGEN means that MGENFlow is valid
	MGENFlow         uint32
}

// Sum is the sum of the records with one Key.
type Sum struct {
	Key
	Records, Packets, Bytes uint64
}

// Sums adds up the matching committed records of a store's directory, and returns the
// sums ordered by time and then by the columns in the order of By.
func Sums(ctx context.Context, dir string, q *Query, by By) ([]Sum, Stats, error) {
	n := min(runtime.GOMAXPROCS(0), maxWorkers)
	if q.Match != nil || by.Flows != nil {
		n = 1 // these must not be called concurrently
	}
	adders := make([]*adder, n)
	var total atomic.Int64
	s := &scanner{ctx: ctx, filter: newFilter(q)}
	for i := range adders {
		adders[i] = newAdder(by, &total)
		s.workers = append(s.workers, &worker{scanner: s, each: adders[i].addRows, tally: adders[i].tally})
	}
	s.want, s.summaries = adders[0].want, newSummaries(q, by, adders[0].want)
	if q.Match != nil {
		s.want = allColumns
	}
	stats, err := s.scan(dir)
	if err != nil {
		return nil, stats, err
	}
	a := adders[0]
	for _, other := range adders[1:] {
		a.join(other)
	}
	return a.sorted(), stats, nil
}

// sorted returns the sums in order. It sorts indexes, because sums are large.
func (a *adder) sorted() []Sum {
	at := make([]int, len(a.sums))
	for i := range at {
		at[i] = i
	}
	slices.SortFunc(at, a.compare)
	list := make([]Sum, len(at))
	for i, k := range at {
		list[i] = a.sums[k]
	}
	return list
}

// maxWorkers is the maximum number of readers for sums, each with about 5 MB.
const maxWorkers = 8

// join adds another adder's sums.
func (a *adder) join(other *adder) {
	for i := range other.sums {
		o := &other.sums[i]
		at, ok := a.at[o.Key]
		if !ok {
			a.at[o.Key] = len(a.sums)
			a.sums = append(a.sums, *o)
			continue
		}
		s := &a.sums[at]
		s.count(counted{o.Records, o.Packets, o.Bytes})
	}
}

// adder adds up records.
type adder struct {
	by    By
	want  columnSet
	step  int64
	parts []func(k *Key, r *Row)
	order []func(x, y *Key) int // by the columns
	flow  bool
	at    map[Key]int
	sums  []Sum
	last  int           // index of the last sum: most consecutive rows have the same key
	key   Key           // of the current row
	total *atomic.Int64 // number of sums of all adders
}

func newAdder(by By, total *atomic.Int64) *adder {
	a := &adder{by: by, total: total, want: setOf(colBytes, colPackets), step: int64(by.Step), at: make(map[Key]int), last: -1}
	if a.step > 0 {
		a.want |= setOf(colTime)
		a.parts = append(a.parts, func(k *Key, r *Row) { k.Time = floor(r.Record.Time, a.step) })
	}
	for _, c := range by.Columns {
		a.order = append(a.order, compareBy[c])
		if c == "flow" {
			a.flow = true
			a.want |= setOf(colProto, colDstPort, colMGENFlow, colFlags)
			continue
		}
		p := sumParts[c]
		a.want |= p.want
		a.parts = append(a.parts, p.set)
	}
	return a
}

// floor returns the largest multiple of step that is not after t.
func floor(t, step int64) int64 {
	rest := t % step
	if rest < 0 {
		rest += step
	}
	return t - rest
}

// sumParts describes how keys get their columns.
var sumParts = map[string]struct {
	want columnSet
	set  func(k *Key, r *Row)
}{
	"host":      {setOf(colHost), func(k *Key, r *Row) { k.Host = r.Host }},
	"level":     {setOf(colLevel), func(k *Key, r *Row) { k.Level = r.Level }},
	"src":       {setOf(colSrc, colFlags), func(k *Key, r *Row) { k.Src = r.Record.SrcAddr() }},
	"dst":       {setOf(colDst, colFlags), func(k *Key, r *Row) { k.Dst = r.Record.DstAddr() }},
	"src_port":  {setOf(colSrcPort), func(k *Key, r *Row) { k.SrcPort = r.Record.SrcPort }},
	"dst_port":  {setOf(colDstPort), func(k *Key, r *Row) { k.DstPort = r.Record.DstPort }},
	"proto":     {setOf(colProto), func(k *Key, r *Row) { k.Proto = r.Record.Proto }},
	"direction": {setOf(colFlags), func(k *Key, r *Row) { k.Direction = r.Record.Flags & (wire.Outgoing | wire.Incoming) }},
	"relayed":   {setOf(colFlags), func(k *Key, r *Row) { k.Relayed = r.Record.Flags&wire.Relayed != 0 }},
	"mgen_flow": {setOf(colMGENFlow, colFlags), func(k *Key, r *Row) {
		k.MGEN = r.Record.Flags&wire.MGEN != 0
		k.MGENFlow = r.Record.Flow()
	}},
}

func (a *adder) addRows(rows []Row) error {
	for i := range rows {
		r := &rows[i].Record
		if err := a.row(&rows[i], counted{1, r.Count(), uint64(r.Length)}); err != nil {
			return err
		}
	}
	return nil
}

// tally adds the chosen sums of a summary.
func (a *adder) tally(g *group) error {
	var r Row
	for _, at := range g.chosen {
		g.row(int(at), &r)
		if err := a.row(&r, g.sums[at]); err != nil {
			return err
		}
	}
	return nil
}

// row adds the counters of records that have the values of r in the summed columns.
func (a *adder) row(r *Row, n counted) error {
	a.key = Key{}
	for _, set := range a.parts {
		set(&a.key, r)
	}
	if !a.flow {
		return a.count(n)
	}
	for _, a.key.Flow = range a.by.Flows(&r.Record) {
		if err := a.count(n); err != nil {
			return err
		}
	}
	return nil
}

// count adds to the sum of the current key.
func (a *adder) count(n counted) error {
	if a.last < 0 || a.sums[a.last].Key != a.key {
		at, ok := a.at[a.key]
		if !ok {
			at = len(a.sums)
			if a.total.Add(1) > maxSums {
				return fault.WithHint(fmt.Errorf("more than %d sums", maxSums), "ask for a shorter time, longer steps or fewer columns")
			}
			a.sums = append(a.sums, Sum{Key: a.key})
			a.at[a.key] = at
		}
		a.last = at
	}
	a.sums[a.last].count(n)
	return nil
}

func (s *Sum) count(n counted) {
	s.Records += n.records
	s.Packets += n.packets
	s.Bytes += n.bytes
}

// compare orders by time, and then by the columns.
func (a *adder) compare(i, j int) int {
	x, y := &a.sums[i], &a.sums[j]
	if c := cmp.Compare(x.Time, y.Time); c != 0 {
		return c
	}
	for _, compare := range a.order {
		if c := compare(&x.Key, &y.Key); c != 0 {
			return c
		}
	}
	return 0
}

var compareBy = map[string]func(x, y *Key) int{
	"host":      func(x, y *Key) int { return cmp.Compare(x.Host, y.Host) },
	"level":     func(x, y *Key) int { return cmp.Compare(x.Level, y.Level) },
	"src":       func(x, y *Key) int { return x.Src.Compare(y.Src) },
	"dst":       func(x, y *Key) int { return x.Dst.Compare(y.Dst) },
	"src_port":  func(x, y *Key) int { return cmp.Compare(x.SrcPort, y.SrcPort) },
	"dst_port":  func(x, y *Key) int { return cmp.Compare(x.DstPort, y.DstPort) },
	"proto":     func(x, y *Key) int { return cmp.Compare(x.Proto, y.Proto) },
	"direction": func(x, y *Key) int { return cmp.Compare(x.Direction, y.Direction) },
	"relayed":   func(x, y *Key) int { return cmp.Compare(bit(x.Relayed), bit(y.Relayed)) },
	"mgen_flow": func(x, y *Key) int {
		return cmp.Or(cmp.Compare(bit(x.MGEN), bit(y.MGEN)), cmp.Compare(x.MGENFlow, y.MGENFlow))
	},
	"flow": func(x, y *Key) int { return cmp.Compare(x.Flow, y.Flow) },
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}
