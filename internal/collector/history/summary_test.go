package history_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// summaries are the files that have them.
func summaries(t *testing.T, dir string) (list []string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "2*/*/*.sums"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// flows is a host's records of some minutes, of few flows, or each with a port of its
// own.
func flows(host string, first uint64, n int, ports bool) *batch.Batch {
	b := makeBatch(host, first, n)
	for i := range b.Records {
		r := &b.Records[i]
		r.Time = start + int64(first+uint64(i))*30e6
		r.Src[15], r.Dst[15] = r.Src[15]%3, r.Dst[15]%3
		r.SrcPort, r.DstPort, r.FlowID = r.SrcPort%3, r.DstPort%3, r.FlowID%3
		if ports {
			r.SrcPort, r.DstPort = uint16(rand.Uint32()), uint16(rand.Uint32())
		}
	}
	return b
}

// summarized is a store of 10 minutes, compacted into one file.
func summarized(t *testing.T, ports bool) (*history.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	for i := range 8 {
		a, b := flows("n1", uint64(i)*2500, 2500, ports), flows("n2", uint64(i)*2500, 2500, ports)
		b.Level = batch.Flows
		commit(t, s, fmt.Sprint("s", i), a, b)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := summaries(t, dir); len(got) != 1 {
		t.Fatalf("%d summaries of one file: %v", len(got), files(t, dir))
	}
	return s, dir
}

func sums(t *testing.T, dir string, q *history.Query, text string) ([]history.Sum, history.Stats) {
	t.Helper()
	by, err := history.ParseBy(text)
	if err != nil {
		t.Fatal(err)
	}
	by.Flows = func(r *wire.Record) []string { return []string{fmt.Sprint(r.Proto, r.DstPort, r.Flow())} }
	list, stats, err := history.Sums(context.Background(), dir, q, by)
	if err != nil || stats.Damaged != nil {
		t.Fatal(err, stats.Damaged)
	}
	return list, stats
}

type summaryTest struct {
	q    history.Query
	by   string
	used bool // the summary is
}

func at(minutes float64) time.Time { return time.Unix(0, start+int64(minutes*60e9)) }

var summaryTests = map[string]summaryTest{
	"all":              {history.Query{}, "host", true},
	"every column":     {history.Query{}, "1m,host,level,src,dst,src_port,dst_port,proto,direction,relayed,mgen_flow", true},
	"minutes":          {history.Query{From: at(2), To: at(5)}, "1m,host", true},
	"five minutes":     {history.Query{From: at(-7), To: at(500.5)}, "5m,proto", true},
	"half a minute":    {history.Query{}, "30s,host", false},
	"within a minute":  {history.Query{From: at(2.5)}, "1m,host", false},
	"until the middle": {history.Query{To: at(2.5)}, "host", false},
	"host":             {history.Query{Hosts: []string{"n2"}}, "direction", true},
	"level":            {history.Query{Levels: []batch.Level{batch.Flows}}, "src", true},
	"flags":            {history.Query{Flags: wire.Outgoing, Not: wire.Relayed}, "dst", true},
	"addresses":        {history.Query{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::2/128")}}, "host", true},
	"source":           {history.Query{Src: []netip.Prefix{netip.MustParsePrefix("fd00::/16")}}, "dst", true},
	"ports":            {history.Query{Ports: []history.Span{{1, 1}}}, "host", true},
	"protocol":         {history.Query{Protos: []history.Span{{6, 6}}}, "1m,relayed", true},
	"mgen":             {history.Query{MGEN: []history.Span{{0, 1}}}, "mgen_flow", true},
	"flows":            {history.Query{}, "1m,flow", true},
	"match":            {history.Query{Match: func(_ string, r *wire.Record) bool { return r.Length > 500 }}, "host", false},
	"nothing":          {history.Query{Hosts: []string{"n3"}}, "host", true},
}

// What a summary tells is what the records do.
func TestSummaries(t *testing.T) {
	_, dir := summarized(t, false)
	got := make(map[string][]history.Sum)
	rows := make(map[string]int64)
	for name, test := range summaryTests {
		list, stats := sums(t, dir, &test.q, test.by)
		got[name], rows[name] = list, stats.Rows
		if (stats.Summed == 1) != test.used || stats.Files != 1 {
			t.Errorf("%s: %+v", name, stats)
		}
		if len(list) == 0 && name != "nothing" {
			t.Errorf("%s: a test of nothing", name)
		}
	}
	for _, file := range summaries(t, dir) {
		os.Remove(file)
	}
	for name, test := range summaryTests {
		want, stats := sums(t, dir, &test.q, test.by)
		if stats.Summed != 0 {
			t.Errorf("%s: %+v without a summary", name, stats)
		}
		if !slices.Equal(got[name], want) || rows[name] != stats.Rows {
			t.Errorf("%s: %d sums of %d records instead of %d of %d, or others", name, len(got[name]), rows[name], len(want), stats.Rows)
		}
	}
}

// Of too many flows there are sums by fewer columns.
func TestSummaryOfManyFlows(t *testing.T) {
	_, dir := summarized(t, true)
	for by, used := range map[string]bool{"src_port": false, "dst_port": false, "src,dst,mgen_flow": true, "host,proto": true} {
		if _, stats := sums(t, dir, &history.Query{}, by); (stats.Summed == 1) != used {
			t.Errorf("by %s: %+v", by, stats)
		}
	}
}

// A query may begin within the minute of a file's first record, before that record.
func TestSummaryOfFirstMinute(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	const first, each = 1000, 2500 // half a minute after start
	for i := range uint64(8) {
		commit(t, s, fmt.Sprint("s", i), flows("n1", first+i*each, each, false))
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, from := range []float64{0.25, 0.5} {
		list, stats := sums(t, dir, &history.Query{From: at(from)}, "1m,host")
		records := uint64(0)
		for _, sum := range list {
			records += sum.Records
		}
		if records != 8*each || stats.Rows != 8*each || stats.Summed != 1 {
			t.Errorf("from minute %v: got %d records (%+v), want %d, from the summary", from, records, stats, 8*each)
		}
	}
}

// Summaries of the format before Parquet are not used, and made again.
func TestOldSummary(t *testing.T) {
	s, dir := summarized(t, false)
	want, _ := sums(t, dir, &history.Query{}, "1m,src,src_port")
	file := summaries(t, dir)[0]
	if err := os.WriteFile(file, []byte("PCSUMS\x00\x01 and so on"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, dir, history.Config{})
	for _, summed := range []int{0, 1} {
		got, stats := sums(t, dir, &history.Query{}, "1m,src,src_port")
		if !slices.Equal(got, want) || stats.Summed != summed {
			t.Errorf("got %d sums (%+v), want the %d of before, from %d summaries", len(got), stats, len(want), summed)
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A summary that is damaged at any place is not believed.
func TestDamagedSummary(t *testing.T) {
	_, dir := summarized(t, false)
	file := summaries(t, dir)[0]
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := sums(t, dir, &history.Query{}, "1m,src,src_port")
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 100 {
		data := slices.Clone(whole)
		switch {
		case i%4 == 0:
			data = data[:rnd.IntN(len(data))]
		case i%4 == 1:
			data[rnd.IntN(80)] ^= 1 << rnd.IntN(8)
		default:
			data[rnd.IntN(len(data))] ^= 1 << rnd.IntN(8)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _ := sums(t, dir, &history.Query{}, "1m,src,src_port"); !slices.Equal(got, want) {
			t.Fatalf("another answer after damage %d", i)
		}
	}
}

// Summaries go with their files.
func TestSummariesGo(t *testing.T) {
	s, dir := summarized(t, false)
	s.Close()
	hour := filepath.Dir(summaries(t, dir)[0])
	for _, name := range []string{"lone.sums", "lone2.sums"} {
		if err := os.WriteFile(filepath.Join(hour, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, history.Config{})
	if got := summaries(t, dir); len(got) != 1 {
		t.Errorf("after opening: %v", got)
	}
	for i := range 7 { // a file of the next generation replaces it
		for j := range 8 {
			commit(t, s, fmt.Sprintf("t%d-%d", i, j), flows("n1", uint64(100_000+i*20_000+j*2500), 2500, false))
		}
		if err := s.Maintain(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := summaries(t, dir); len(got) != 1 {
		t.Errorf("after compaction: %v", files(t, dir))
	}
	s.Close()
	s = open(t, dir, history.Config{Keep: history.Keep{Size: 1}})
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("after all was removed: %v", got)
	}
}
