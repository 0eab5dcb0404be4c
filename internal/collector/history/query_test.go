package history_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// read is all that a query finds.
func read(t testing.TB, dir string, q *history.Query) (rows []history.Row, stats history.Stats) {
	t.Helper()
	stats, err := history.Read(context.Background(), dir, q, func(r []history.Row) error {
		rows = append(rows, r...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if stats.Damaged != nil {
		t.Error(stats.Damaged)
	}
	return rows, stats
}

// sorted brings rows into one order, whatever files they are from.
func sorted(rows []history.Row) []history.Row {
	slices.SortFunc(rows, func(a, b history.Row) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Record.Time, b.Record.Time))
	})
	return rows
}

func rowsOf(batches ...*batch.Batch) (rows []history.Row) {
	for _, b := range batches {
		for _, r := range b.Records {
			rows = append(rows, history.Row{Host: b.Agent, Level: b.Level, Record: r})
		}
	}
	return rows
}

func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	var all []*batch.Batch
	for i := range 3 {
		var some []*batch.Batch
		for h := range 40 { // more than a row group
			b := makeBatch(fmt.Sprintf("n%d", h), uint64(i)*1e6, 2000)
			b.Level = batch.Level(h % 3)
			some = append(some, b)
		}
		commit(t, s, fmt.Sprintf("s%d", i), some...)
		all = append(all, some...)
	}
	seal(t, s, "not-committed", makeBatch("n1", 5e6, 10))
	got, _ := read(t, dir, &history.Query{})
	if want := sorted(rowsOf(all...)); !slices.Equal(sorted(got), want) {
		t.Fatalf("%d rows instead of %d, or others", len(got), len(want))
	}
}

// manyAddresses do not fit a row group's dictionary.
func TestManyAddresses(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	b := makeBatch("n", 0, 150_000)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range b.Records {
		r := &b.Records[i]
		r.Flags |= wire.IPv6
		for j := range r.Src {
			r.Src[j] = byte(rnd.Uint32())
		}
		r.DstPort, r.Length = uint16(rnd.Uint32()), rnd.Uint32()
	}
	commit(t, s, "x", b)
	got, _ := read(t, dir, &history.Query{})
	if !slices.Equal(sorted(got), sorted(rowsOf(b))) {
		t.Errorf("%d rows instead of %d, or others", len(got), len(b.Records))
	}
}

func TestFilters(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	a, b, c := makeBatch("a", 0, 3000), makeBatch("b", 0, 3000), makeBatch("c", 60_000, 3000)
	c.Level = batch.Flows
	commit(t, s, "1", a, b)
	commit(t, s, "2", c)
	all := rowsOf(a, b, c)
	at := func(ms int64) time.Time { return time.Unix(0, start+ms*1e6) }
	ten, six := netip.MustParsePrefix("10.0.0.0/29"), netip.MustParsePrefix("fd00::3/128")
	dst := netip.MustParsePrefix("fd01::/125")
	for name, test := range map[string]struct {
		q    history.Query
		want func(r *history.Row) bool
	}{
		"time": {history.Query{From: at(100), To: at(2100)}, func(r *history.Row) bool {
			return r.Record.Time >= start+100e6 && r.Record.Time < start+2100e6
		}},
		"host":  {history.Query{Hosts: []string{"c", "b", "zz"}}, func(r *history.Row) bool { return r.Host != "a" }},
		"level": {history.Query{Levels: []batch.Level{batch.Flows}}, func(r *history.Row) bool { return r.Level == batch.Flows }},
		"address": {history.Query{Addrs: []netip.Prefix{ten, six}}, func(r *history.Row) bool {
			x := &r.Record
			return ten.Contains(x.SrcAddr()) || ten.Contains(x.DstAddr()) || six.Contains(x.SrcAddr()) || six.Contains(x.DstAddr())
		}},
		"source":      {history.Query{Src: []netip.Prefix{ten}}, func(r *history.Row) bool { return ten.Contains(r.Record.SrcAddr()) }},
		"destination": {history.Query{Dst: []netip.Prefix{dst}}, func(r *history.Row) bool { return dst.Contains(r.Record.DstAddr()) }},
		"port": {history.Query{Ports: []history.Span{{5003, 5004}, {32800, 32800}}}, func(r *history.Row) bool {
			x := &r.Record
			return x.DstPort == 5003 || x.DstPort == 5004 || x.SrcPort == 32800
		}},
		"source port":      {history.Query{SrcPorts: []history.Span{{32800, 32810}}}, func(r *history.Row) bool { return r.Record.SrcPort >= 32800 && r.Record.SrcPort <= 32810 }},
		"destination port": {history.Query{DstPorts: []history.Span{{5003, 5003}}}, func(r *history.Row) bool { return r.Record.DstPort == 5003 }},
		"protocol":         {history.Query{Protos: []history.Span{{6, 6}}}, func(r *history.Row) bool { return r.Record.Proto == 6 }},
		"mgen": {history.Query{MGEN: []history.Span{{0, 3}}}, func(r *history.Row) bool {
			return r.Record.Flags&wire.MGEN != 0 && r.Record.FlowID <= 3
		}},
		"outgoing, not relayed": {history.Query{Flags: wire.Outgoing, Not: wire.Relayed}, func(r *history.Row) bool {
			return r.Record.Flags&(wire.Outgoing|wire.Relayed) == wire.Outgoing
		}},
		"match": {history.Query{Hosts: []string{"a"}, Match: func(_ string, r *wire.Record) bool { return r.Length > 500 }},
			func(r *history.Row) bool { return r.Host == "a" && r.Record.Length > 500 }},
		"nothing": {history.Query{Hosts: []string{"aa"}}, func(*history.Row) bool { return false }},
	} {
		t.Run(name, func(t *testing.T) {
			want := slices.Clone(all)
			want = sorted(slices.DeleteFunc(want, func(r history.Row) bool { return !test.want(&r) }))
			got, _ := read(t, dir, &test.q)
			if !slices.Equal(sorted(got), want) {
				t.Errorf("%d rows instead of %d, or others", len(got), len(want))
			}
			if len(want) == len(all) || name != "nothing" && len(want) == 0 {
				t.Errorf("a test of nothing: %d of %d rows", len(want), len(all))
			}
		})
	}
}

func TestPruning(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	var batches []*batch.Batch
	for h := range 10 {
		batches = append(batches, makeBatch(fmt.Sprintf("n%d", h), 0, 30_000)) // half a row group
	}
	commit(t, s, "1", batches...)
	commit(t, s, "2", makeBatch("n1", 100_000, 10))
	_, stats := read(t, dir, &history.Query{Hosts: []string{"n4"}, To: time.Unix(0, start+10e9)})
	if stats.Passed != 1 || stats.Files != 1 || stats.Groups > 2 || stats.Rows == 0 {
		t.Errorf("%+v", stats)
	}
}

// TestTrafficOnly: drops and second observations are no rows, also where a segment has
// nothing else.
func TestTrafficOnly(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	mixed, events := makeBatch("n1", 0, 100), makeBatch("n2", 0, 100)
	var want []history.Row
	for i := range mixed.Records {
		events.Records[i].Flags |= wire.Uncounted
		if i%3 == 0 {
			mixed.Records[i].Flags |= wire.Dropped
		} else {
			want = append(want, history.Row{Host: "n1", Level: mixed.Level, Record: mixed.Records[i]})
		}
	}
	commit(t, s, "a", mixed)
	for i := range 40 { // enough to be compacted
		commit(t, s, fmt.Sprintf("b%d", i), events)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, dir, &history.Query{}); !slices.Equal(sorted(got), sorted(want)) {
		t.Fatalf("%d rows instead of %d, or others", len(got), len(want))
	}
}
