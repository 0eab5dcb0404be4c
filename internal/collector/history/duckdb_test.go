package history_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// duckdb asks DuckDB, which is fetched by npm if it is not here yet, and gives its
// answer as JSON values.
func duckdb(t *testing.T, sql string) (rows [][]any) {
	t.Helper()
	dir := filepath.Join("testdata", "duckdb")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		npm := exec.Command("npm", "ci", "--no-progress", "--silent")
		npm.Dir = dir
		if out, err := npm.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: install Node.js, 20 or newer\n%s", npm, err, out)
		}
	}
	ask := exec.Command("node", filepath.Join(dir, "query.mjs"), "SET TimeZone='UTC'; "+sql)
	ask.Stderr = os.Stderr
	out, err := ask.Output()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	answer := json.NewDecoder(bytes.NewReader(out))
	answer.UseNumber()
	if err := answer.Decode(&rows); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return rows
}

// textOf is a record as DuckDB has it, whose times with a zone are microseconds.
func textOf(r *history.Row) string {
	x := &r.Record
	flow, seq, at := "<nil>", "<nil>", "<nil>"
	if x.Flags&wire.MGEN != 0 {
		flow = strconv.Itoa(int(x.FlowID))
	}
	if x.Flags&wire.MGENHeader != 0 {
		seq, at = strconv.Itoa(int(x.MGENSeq)), strconv.FormatInt(x.MGENTime, 10)
	}
	way := map[wire.Flags]string{wire.Outgoing: "out", wire.Incoming: "in"}[x.Flags&(wire.Outgoing|wire.Incoming)]
	return fmt.Sprint([]any{x.Time / 1e3, r.Host, r.Level, x.SrcAddr(), x.DstAddr(), x.SrcPort, x.DstPort, x.Proto, way,
		x.Length, x.Count(), flow, seq, at, x.Flags&wire.Relayed != 0, int(x.Flags)})
}

const allByDuckDB = `SELECT epoch_us(time), host, level, src, dst, src_port, dst_port, proto, direction, bytes, packets,
	mgen_flow, mgen_seq, epoch_us(mgen_time), relayed, flags FROM '%s' ORDER BY host, time`

// TestDuckDB: another program reads what is in our files: segments, compacted ones,
// and what queries print.
func TestDuckDB(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	for i := range 9 {
		a, b := makeBatch("n1", uint64(i)*300, 300), makeBatch("né,\"2", uint64(i)*300, 300)
		b.Level = batch.Top
		commit(t, s, fmt.Sprint(i), a, b)
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	commit(t, s, "one-more", makeBatch("n3", 0, 100))
	rows, _ := read(t, dir, &history.Query{})
	same := func(files string, want []history.Row) {
		t.Helper()
		got := duckdb(t, fmt.Sprintf(allByDuckDB, files))
		if len(got) != len(want) {
			t.Fatalf("%d rows instead of %d", len(got), len(want))
		}
		for i := range want {
			if got, want := fmt.Sprint(got[i]), textOf(&want[i]); got != want {
				t.Fatalf("row %d: %s\nwant %s", i, got, want)
			}
		}
	}
	same(dir+"/2*/*/*.parquet", sorted(rows))

	printed := filepath.Join(t.TempDir(), "printed.parquet")
	some := &history.Query{MGEN: []history.Span{{First: 1, Last: 9}}}
	printRows(t, dir, printed, some)
	want, _ := read(t, dir, some)
	same(printed, sorted(want))

	by, _ := history.ParseBy("1s,host,mgen_flow,relayed")
	sums, _, err := history.Sums(context.Background(), dir, &history.Query{}, by)
	if err != nil {
		t.Fatal(err)
	}
	printSums(t, printed, sums, by)
	const columns = "minute, host, mgen_flow, relayed, records::INT, packets::INT, bytes::INT FROM "
	theirs := duckdb(t, "SELECT "+columns+"(SELECT epoch_ns(time_bucket(INTERVAL 1 SECOND, time)) AS minute, host, mgen_flow, relayed, count(*) AS records, "+
		"sum(packets) AS packets, sum(bytes) AS bytes FROM '"+dir+"/2*/*/*.parquet' GROUP BY ALL) ORDER BY ALL")
	ours := duckdb(t, "SELECT "+columns+"(SELECT epoch_ns(time) AS minute, * FROM '"+printed+"') ORDER BY ALL")
	if len(ours) != len(sums) || fmt.Sprint(ours) != fmt.Sprint(theirs) {
		t.Errorf("%d sums, DuckDB has %d, or others", len(sums), len(theirs))
	}
}

// TestDuckDBSummaries: another program reads summaries, each of which is of all records.
func TestDuckDBSummaries(t *testing.T) {
	_, dir := summarized(t, false)
	const totals = "count(*), sum(packets)::INT, sum(bytes)::INT"
	rows := duckdb(t, "SELECT "+totals+" FROM '"+dir+"/2*/*/*.parquet'")[0]
	theirs := duckdb(t, "SELECT summed_by, "+strings.Replace(totals, "count(*)", "sum(records)::INT", 1)+" FROM read_parquet('"+dir+"/2*/*/*.sums') GROUP BY ALL ORDER BY ALL")
	var want [][]any
	for _, by := range []string{"host", "host,dst_port", "host,mgen_flow", "host,src,dst,src_port,dst_port,mgen_flow"} {
		want = append(want, append([]any{by}, rows...))
	}
	if fmt.Sprint(theirs) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", theirs, want)
	}

	const columns = "epoch_ns(time_bucket(INTERVAL 1 MINUTE, time)) AS minute, host, level, src, dst, src_port, dst_port, proto, direction, mgen_flow, relayed, flags"
	got := duckdb(t, "SELECT "+columns+", records::INT, packets::INT, bytes::INT FROM read_parquet('"+dir+"/2*/*/*.sums') WHERE len(string_split(summed_by, ',')) = 6 ORDER BY ALL")
	all := duckdb(t, "SELECT "+columns+", "+totals+" FROM '"+dir+"/2*/*/*.parquet' GROUP BY ALL ORDER BY ALL")
	if len(got) != len(all) || fmt.Sprint(got) != fmt.Sprint(all) {
		t.Errorf("%d sums by all columns, want %d, or they differ", len(got), len(all))
	}
}

func printRows(t *testing.T, dir, path string, q *history.Query) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	p := history.NewRowPrinter(f, "parquet", nil)
	if _, err := history.Read(context.Background(), dir, q, p.Rows); err != nil {
		t.Fatal(err)
	}
	closeBoth(t, p, f)
}

func printSums(t *testing.T, path string, sums []history.Sum, by history.By) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	p := history.NewSumPrinter(f, "parquet", by)
	if err := p.Sums(sums); err != nil {
		t.Fatal(err)
	}
	closeBoth(t, p, f)
}

func closeBoth(t *testing.T, p *history.Printer, f *os.File) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDuckDBPaths: another program adds up what was kept of paths, also delays and what was dropped.
func TestDuckDBPaths(t *testing.T) {
	dir := t.TempDir()
	s, err := history.OpenTable(dir, "paths", history.Config{}, (*path.Row).Span)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range int64(10) {
		r := path.Row{Time: start + i*10e9, Seconds: 10, Kind: path.KindHop, Src: "10.0.0.1", Dst: "10.0.0.2", From: "s", FromStage: "out", To: "d", ToStage: "in", Packets: 90, Lost: 10,
			Drops: []path.DropRow{{Reason: "QDISC_DROP", Packets: 7}}, Delays: []path.DelayRow{{NS: 1 << 20, Packets: 80}, {NS: 1 << 21, Packets: 10}}}
		way := path.Row{Time: r.Time, Seconds: 10, Kind: path.KindPath, Src: r.Src, Dst: r.Dst, Path: []string{"s", "d"}, Packets: 90}
		if _, err := s.Add([]path.Row{r, way}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Maintain(context.Background()); err != nil {
		t.Fatal(err)
	}
	files := "'" + dir + "/2*/*/*.parquet'"
	for _, q := range []struct{ ask, want string }{
		{`SELECT "from", "to", sum(packets)::INT, sum(lost)::INT, 1 - sum(lost) / sum(packets + lost) FROM ` + files + " WHERE kind = 'hop' GROUP BY ALL", "[[s d 900 100 0.9]]"},
		{`SELECT d.ns, sum(d.packets)::INT FROM (SELECT unnest(delays) AS d FROM ` + files + ") GROUP BY ALL ORDER BY ALL", "[[1048576 800] [2097152 100]]"},
		{`SELECT d.reason, sum(d.packets)::INT FROM (SELECT unnest(drops) AS d FROM ` + files + ") GROUP BY ALL", "[[QDISC_DROP 70]]"},
		{`SELECT array_to_string(path, ' > '), epoch_ns(min(time)), count(*)::INT FROM ` + files + " WHERE kind = 'path' GROUP BY ALL", fmt.Sprintf("[[s > d %d 10]]", start)},
	} {
		if got := fmt.Sprint(duckdb(t, q.ask)); got != q.want {
			t.Errorf("%s: got %s, want %s", q.ask, got, q.want)
		}
	}
}

// TestCancel: a query ends when it is told to.
func TestCancel(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, history.Config{})
	for i := range 3 {
		commit(t, s, fmt.Sprint(i), makeBatch("n", uint64(i)*2000, 2000))
	}
	ctx, cancel := context.WithCancel(context.Background())
	rows := 0
	_, err := history.Read(ctx, dir, &history.Query{From: time.Unix(0, start)}, func(r []history.Row) error {
		rows += len(r)
		cancel()
		return nil
	})
	if err != context.Canceled || rows == 0 || rows > 2000 {
		t.Errorf("%v, %d rows", err, rows)
	}
}
