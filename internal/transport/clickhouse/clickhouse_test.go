package clickhouse

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// sums is what was published.
type sums struct{ records, packets, bytes uint64 }

func (s sums) String() string { return fmt.Sprintf("%d\t%d\t%d", s.records, s.packets, s.bytes) }

// midnight is a moment shortly before one.
var midnight = time.Date(2026, 11, 26, 0, 0, 0, 0, time.UTC)

// publish gives a sink batches of several agents, around midnight.
func publish(s *Sink, boot uint64, batches int) sums { return publishTo(s, boot, batches) }

func publishTo(s interface{ Publish(b *batch.Batch) }, boot uint64, batches int) (total sums) {
	for i := range batches {
		b := &batch.Batch{Agent: fmt.Sprintf(`agent '%d\`, i%3), Boot: boot<<32 + uint64(i%3) + 1<<63, First: uint64(i/3) * 1000}
		for j := range 1000 {
			r := wire.Record{Time: midnight.Add(time.Duration(i*1000+j-5000) * time.Millisecond).UnixNano(), SrcPort: 5000, DstPort: uint16(j), Proto: 17, Length: uint32(j), Flags: wire.Outgoing}
			r.SetSrc4([4]byte{10, 0, 0, 1})
			r.SetDst4([4]byte{10, 0, 0, byte(j)})
			if j%3 == 0 {
				r.Packets = uint32(j)
			}
			b.Records = append(b.Records, r)
			total.records++
			total.packets += r.Count()
			total.bytes += uint64(r.Length)
		}
		s.Publish(b)
	}
	return total
}

const (
	ofRecords = "SELECT count(), sum(packets), sum(bytes) FROM records"
	ofMinutes = "SELECT sum(records), sum(packets), sum(bytes) FROM minutes"
)

func (s *server) holds(total sums) {
	s.t.Helper()
	for _, query := range []string{ofRecords, ofMinutes} {
		if got := s.Query("lab", query); got != total.String() {
			s.t.Errorf("%s:\ngot  %s\nwant %s", query, got, total)
		}
	}
}

func TestSums(t *testing.T) {
	server := startServer(t)
	for _, query := range []string{"", "?compress=gzip"} {
		server.Query("lab", "TRUNCATE TABLE records")
		server.Query("lab", "TRUNCATE TABLE `.inner.minutes`")
		sink, end := runSink(t, server.target(query))
		total := publish(sink, 1, 120)
		if err := end(); err != nil {
			t.Fatal(err)
		}
		server.holds(total)
		if st := sink.Status(); st.Written != total.records || st.Dropped != 0 || st.Again != 0 {
			t.Errorf("status %+v", st)
		}
	}
	t.Run("board", func(t *testing.T) { testBoard(t, server) })
}

// testBoard: the dashboard's queries give rows.
func testBoard(t *testing.T, server *server) {
	text, err := os.ReadFile("../../../docs/clickhouse/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ RawSQL string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, p := range board.Panels {
		sql := p.Targets[0].RawSQL
		for _, column := range []string{"minute", "time"} {
			sql = strings.ReplaceAll(sql, "$__timeFilter("+column+")", column+" >= toDateTime(0) AND "+column+" <= toDateTime(4000000000)")
		}
		rows[p.Title] = server.Query("lab", sql)
	}
	if got := rows["Records that are missing"]; got != "" {
		t.Errorf("missing: %s", got)
	}
	if got := rows["MGEN flows"]; got != "" { // there is no MGEN
		t.Errorf("MGEN: %s", got)
	}
	if got := rows["Who talks most"]; !strings.HasPrefix(got, "10.0.0.1\t10.0.0.") {
		t.Errorf("talkers: %s", got)
	}
	for _, title := range []string{"Traffic by agent", "Packets by protocol"} {
		if rows[title] == "" {
			t.Errorf("%s: nothing", title)
		}
	}
}

func TestTypes(t *testing.T) {
	server := startServer(t)
	sink, end := runSink(t, server.target(""))
	six := wire.Record{Time: midnight.UnixNano() + 123456789, Proto: 6, SrcPort: 65535, DstPort: 443, Length: 4294967295, Packets: 4294967295, Flags: wire.IPv6 | wire.Incoming | wire.Relayed}
	six.Src, six.Dst = netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("ff02::fb").As16()
	mgen := wire.Record{Time: 1e9 + 1, Proto: 17, Length: 28, FlowID: 4294967295, MGENSeq: 7, MGENTime: 1234567890123456, Flags: wire.MGEN | wire.MGENHeader}
	mgen.SetSrc4([4]byte{10, 0, 0, 1})
	mgen.SetDst4([4]byte{224, 0, 0, 1})
	late := wire.Record{Time: 1<<62 + 1}
	sink.Publish(&batch.Batch{Agent: "größe", Boot: 18446744073709551615, First: 18446744073709551000, Level: batch.Top, Records: []wire.Record{six, mgen, late}})
	if err := end(); err != nil {
		t.Fatal(err)
	}
	got := server.Query("lab", "SELECT time, ns, agent, level, src, dst, src_port, dst_port, proto, bytes, packets, mgen_flow, mgen_seq, mgen_time, direction, relayed FROM packets ORDER BY time")
	want := "1970-01-01 00:00:01\t1\tgröße\ttop\t10.0.0.1\t224.0.0.1\t0\t0\t17\t28\t1\t4294967295\t7\t1234567890123456\tunknown\t0\n" +
		"2026-11-26 00:00:00\t123456789\tgröße\ttop\t2001:db8::1\tff02::fb\t65535\t443\t6\t4294967295\t4294967295\t\\N\t\\N\t\\N\tin\t1"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := server.Query("lab", "SELECT boot, number FROM records ORDER BY number"); got != "18446744073709551615\t18446744073709551000\n18446744073709551615\t18446744073709551001" {
		t.Errorf("numbers %s", got)
	}
	if st := sink.Status(); st.Written != 2 || st.Dropped != 1 {
		t.Errorf("status %+v: want the record of 2116 dropped", st)
	}
}

// TestBrokenConnections: whatever becomes of an INSERT, each row counts once, also in
// what is summed up as rows come in.
func TestBrokenConnections(t *testing.T) {
	server := startServer(t)
	faults := []spoiling{unsaid, none, midway, unsaid, untouched, unsaid, midway}
	cut := startCutter(t, server.Port, func(n int) spoiling {
		if n < len(faults) {
			return faults[n]
		}
		return none
	})
	sink, end := runSink(t, server.at(cut.port, ""))
	total := publish(sink, 1, 300)
	deadline := time.Now().Add(time.Minute)
	for sink.Status().Written < total.records && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	server.holds(total)
	if st := sink.Status(); st.Written != total.records || st.Again == 0 || int(cut.n.Load()) < len(faults) {
		t.Errorf("status %+v after %d of %d faults", st, cut.n.Load(), len(faults))
	}
}

// TestServerAway: rows wait for a server that is killed and comes back, and what
// there is no room for is counted.
func TestServerAway(t *testing.T) {
	server := startServer(t)
	sink, end := runSink(t, server.target("?memory=16"))
	first := publish(sink, 1, 30)
	for sink.Status().Written < first.records {
		time.Sleep(50 * time.Millisecond)
	}
	server.Kill()
	publish(sink, 2, 600)
	st := sink.Status()
	sink.mu.Lock()
	kept := sink.bytes
	sink.mu.Unlock()
	if st.Dropped == 0 || st.Dropped > 550_000 || kept > 17<<20 {
		t.Errorf("%+v, and %d bytes: want some of 600,000 rows dropped, and 16 MiB kept", st, kept)
	}
	server.Restart()
	for deadline := time.Now().Add(time.Minute); sink.Status().Written+sink.Status().Dropped < st.Published && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	st = sink.Status()
	if st.Written+st.Dropped != st.Published {
		t.Errorf("%+v does not add up", st)
	}
	if got, want := server.Query("lab", "SELECT sum(records) FROM minutes"), fmt.Sprint(st.Written); got != want {
		t.Errorf("%s rows, want %s", got, want)
	}
}

func TestRefusals(t *testing.T) {
	server := startServer(t)
	server.Query("lab", "CREATE TABLE narrow (time DateTime, ns UInt64) ENGINE = Log")
	wrong := server.target("")
	wrong.Password = "open"
	for _, c := range []struct {
		target     *TableURL
		text, hint string
	}{
		{wrong, "rong password", "CLICKHOUSE_PASSWORD"},
		{server.target("?table=nothing"), "nothing", "tables.sql"},
		{server.target("?table=narrow"), `column "ns": type "UInt64": want UInt32`, "tables.sql"},
	} {
		sink, end := runSink(t, c.target)
		total := publish(sink, 1, 3)
		time.Sleep(200 * time.Millisecond)
		err := end()
		e, ok := err.(*fault.Error)
		if !ok || !strings.Contains(e.Error(), c.text) || !strings.Contains(e.Hint(), c.hint) || strings.Contains(e.Error(), "sesame") {
			t.Errorf("error %v, want %q and a hint of %q", err, c.text, c.hint)
		}
		if st := sink.Status(); st.Dropped != total.records {
			t.Errorf("status %+v, want all dropped", st)
		}
	}
}

// TestHTTPS: Debian's server has no TLS, so that something stands in front of it,
// as is usual.
func TestHTTPS(t *testing.T) {
	server := startServer(t)
	front := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", server.Port)})
	}})
	defer front.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	target := server.target("?ca=" + ca)
	target.URL = front.URL
	sink, end := runSink(t, target)
	total := publish(sink, 1, 10)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	server.holds(total)
}

func TestParse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("of a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CLICKHOUSE_USER", "env")
	t.Setenv("CLICKHOUSE_PASSWORD", "secret")
	for _, c := range []struct{ text, want string }{
		{"clickhouse+http://h", "{http://h:8123 env secret default records  false 67108864 }"},
		{"clickhouse+https://h/db?table=t&compress=gzip&memory=20&ca=x", "{https://h:8443 env secret db t x true 20971520 }"},
		{"clickhouse+http://u:p%40@[::1]:81/?password-file=" + file, "{http://[::1]:81 u p@ default records  false 67108864 }"},
		{"clickhouse+http://h?spool=/s", "{http://h:8123 env secret default records  false 67108864 /s}"},
		{"clickhouse+http://u@h?password-file=" + file, "{http://h:8123 u of a file default records  false 67108864 }"},
	} {
		if got, err := Parse(c.text); err != nil || fmt.Sprint(*got) != c.want {
			t.Errorf("%s: %v, %v; want %s", c.text, got, err, c.want)
		}
	}
	for text, want := range map[string]string{
		"clickhouse+ftp://u:sesame@h":                  "want clickhouse+http://",
		"clickhouse+http://u:sesame@":                  "no host",
		"clickhouse+http://u:ses ame@h%":               "not a host name",
		"clickhouse+http://u:sesame@h/a-b":             `"a-b"`,
		"clickhouse+http://h?table=t;drop":             "not parameters",
		"clickhouse+http://h?table=t&table=u":          "2 times",
		"clickhouse+http://h?memory=1":                 "at least 16",
		"clickhouse+http://h?compress=zstd":            "want none or gzip",
		"clickhouse+http://h?speed=1":                  `unknown parameter "speed": want table`,
		"clickhouse+http://h?password-file=/none/such": "/none/such",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
