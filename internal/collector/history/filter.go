package history

import (
	"math"
	"net/netip"
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// filter is a prepared Query.
type filter struct {
	q        *Query
	from, to int64 // nanoseconds; to is exclusive
	hosts    []string
	match    func(host string, r *wire.Record) bool
}

func newFilter(q *Query) *filter {
	f := &filter{q: q, from: math.MinInt64, to: math.MaxInt64, match: q.Match}
	if !q.From.IsZero() {
		f.from = q.From.UnixNano()
	}
	if !q.To.IsZero() {
		f.to = q.To.UnixNano()
	}
	f.hosts = slices.Sorted(slices.Values(q.Hosts))
	return f
}

// overlaps reports whether there may be matching records with times in [min, max).
func (f *filter) overlaps(min, max int64) bool { return min < f.to && max > f.from }

// mayHave reports whether a row group may contain matching records, according to the
// file's statistics.
func (f *filter) mayHave(g *group) bool {
	if lo, hi, ok := g.bounds(colTime); ok && (lo.Int64() >= f.to || hi.Int64() < f.from) {
		return false
	}
	lo, hi, ok := g.bounds(colHost)
	if !ok || len(f.hosts) == 0 {
		return true
	}
	first, last := string(lo.ByteArray()), string(hi.ByteArray())
	return slices.ContainsFunc(f.hosts, func(h string) bool { return h >= first && h <= last })
}

// choose stores in g.chosen the rows that match everything except Match.
func (f *filter) choose(g *group) error {
	g.chosen = slices.Grow(g.chosen[:0], g.rows)[:g.rows]
	for i := range g.chosen {
		g.chosen[i] = uint32(i)
	}
	for _, test := range []func(*group) error{f.byHost, f.byTime, f.byLevel, f.byFlags, f.byMGEN, f.byProto, f.byPort, f.byAddr} {
		if err := test(g); err != nil || len(g.chosen) == 0 {
			return err
		}
	}
	return nil
}

// keep removes the chosen rows that do not pass.
func (g *group) keep(pass func(at uint32) bool) {
	n := 0
	for _, at := range g.chosen {
		g.chosen[n] = at
		if pass(at) {
			n++
		}
	}
	g.chosen = g.chosen[:n]
}

// keepTexts removes the rows whose text in a column does not pass. pass is called once
// per text.
func (g *group) keepTexts(c int, pass func(i int) bool) {
	t := &g.texts[c]
	good := goodOf(t, pass)
	g.keep(func(at uint32) bool { return good[t.at[at]] })
}

func goodOf(t *textCol, pass func(i int) bool) []bool {
	good := make([]bool, len(t.dict))
	for i := range good {
		good[i] = pass(i)
	}
	return good
}

func (f *filter) byHost(g *group) error {
	if len(f.hosts) == 0 {
		return nil
	}
	err := g.load(setOf(colHost))
	if err == nil {
		g.keepTexts(colHost, func(i int) bool { _, ok := slices.BinarySearch(f.hosts, g.texts[colHost].dict[i]); return ok })
	}
	return err
}

func (f *filter) byTime(g *group) error {
	if lo, hi, ok := g.bounds(colTime); ok && lo.Int64() >= f.from && hi.Int64() < f.to {
		return nil
	}
	err := g.load(setOf(colTime))
	if err == nil {
		times := g.times[colTime]
		g.keep(func(at uint32) bool { return times[at] >= f.from && times[at] < f.to })
	}
	return err
}

func (f *filter) byLevel(g *group) error {
	if len(f.q.Levels) == 0 {
		return nil
	}
	err := g.load(setOf(colLevel))
	if err == nil {
		g.keepTexts(colLevel, func(i int) bool { return slices.Contains(f.q.Levels, g.levels[i]) })
	}
	return err
}

func (f *filter) byFlags(g *group) error {
	if f.q.Flags|f.q.Not == 0 {
		return nil
	}
	err := g.load(setOf(colFlags))
	if err == nil {
		mask, want := uint32(f.q.Flags|f.q.Not), uint32(f.q.Flags)
		g.keep(func(at uint32) bool { return g.ints[colFlags][at]&mask == want })
	}
	return err
}

func (f *filter) byMGEN(g *group) error {
	if len(f.q.MGEN) == 0 {
		return nil
	}
	err := g.load(setOf(colFlags, colMGENFlow))
	if err == nil {
		g.keep(func(at uint32) bool {
			return g.ints[colFlags][at]&uint32(wire.MGEN) != 0 && within(f.q.MGEN, g.ints[colMGENFlow][at])
		})
	}
	return err
}

func (f *filter) byProto(g *group) error { return f.bySpans(g, f.q.Protos, colProto) }

func (f *filter) bySpans(g *group, spans []Span, c int) error {
	if len(spans) == 0 {
		return nil
	}
	err := g.load(setOf(c))
	if err == nil {
		g.keep(func(at uint32) bool { return within(spans, g.ints[c][at]) })
	}
	return err
}

func (f *filter) byPort(g *group) error {
	if err := f.bySpans(g, f.q.SrcPorts, colSrcPort); err != nil {
		return err
	}
	if err := f.bySpans(g, f.q.DstPorts, colDstPort); err != nil || len(f.q.Ports) == 0 {
		return err
	}
	err := g.load(setOf(colSrcPort, colDstPort))
	if err == nil {
		src, dst := g.ints[colSrcPort], g.ints[colDstPort]
		g.keep(func(at uint32) bool { return within(f.q.Ports, src[at]) || within(f.q.Ports, dst[at]) })
	}
	return err
}

func (f *filter) byAddr(g *group) error {
	if len(f.q.Src)+len(f.q.Dst)+len(f.q.Addrs) == 0 {
		return nil
	}
	if err := g.load(setOf(colSrc, colDst)); err != nil {
		return err
	}
	if len(f.q.Src) > 0 {
		g.keepTexts(colSrc, g.inAny(colSrc, f.q.Src))
	}
	if len(f.q.Dst) > 0 {
		g.keepTexts(colDst, g.inAny(colDst, f.q.Dst))
	}
	if len(f.q.Addrs) > 0 {
		src, dst := &g.texts[colSrc], &g.texts[colDst]
		from, to := goodOf(src, g.inAny(colSrc, f.q.Addrs)), goodOf(dst, g.inAny(colDst, f.q.Addrs))
		g.keep(func(at uint32) bool { return from[src.at[at]] || to[dst.at[at]] })
	}
	return nil
}

// inAny returns a test of the i-th text of a column of addresses. IPv6 addresses that
// contain IPv4 ones do not match IPv4 prefixes.
func (g *group) inAny(c int, prefixes []netip.Prefix) func(i int) bool {
	return func(i int) bool {
		a, err := netip.ParseAddr(g.texts[c].dict[i])
		return err == nil && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}
}

func within(spans []Span, n uint32) bool {
	for _, s := range spans {
		if s.has(n) {
			return true
		}
	}
	return false
}
