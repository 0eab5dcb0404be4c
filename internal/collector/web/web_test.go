package web

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hostile is a label that would do harm if it were taken for markup.
const hostile = `<img src=x onerror=alert(1)>`

// source is a real store with two agents and one flow.
type source struct {
	*rollup.Store
	mu     sync.Mutex // of what only a store's owner may do
	agents []Agent
}

func newSource() *source {
	return &source{
		Store: rollup.New(rollup.Config{
			Hosts:    []rollup.Host{{Label: "a"}, {Label: hostile}},
			Rows:     1,
			Classify: func(rows []int, r *wire.Record) []int { return append(rows, 0) },
		}),
		agents: []Agent{{State: Connected, Records: 3, Connections: 1, Losses: []Loss{{"kernel", 7}}, Detail: &Detail{Level: "top", Since: 1700000000, Limit: "flows", Why: "more than 5 flows/s", Changes: 2, Records: 9, Lost: 1}}, {State: Failed, Status: "no answer"}},
	}
}

func (s *source) Setup() *Setup {
	return &Setup{
		Version: "1.2.3", Run: "run",
		Flows: []Flow{{ID: "1", Detail: "2000"}, {ID: "X"}},
		Hosts: []Host{{Label: "a", Address: "10.0.0.1:7073"}, {Label: hostile, Address: "10.0.0.2:7073"}},
	}
}
func (s *source) Agents() []Agent { return append([]Agent(nil), s.agents...) }
func (s *source) Lost() uint64    { return 11 }

func (s *source) Name(a netip.Addr) string {
	if a == netip.MustParseAddr("10.0.0.1") {
		return hostile
	}
	return ""
}

func (s *source) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Tick(time.Now().UnixNano())
}

// start serves src on a free port until the test ends.
func start(t testing.TB, src Source) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", Access{})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, src)
	return s
}

// serve runs s until the test ends.
func serve(t testing.TB, s *Server, src Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, src) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
}

// get is an answer and its body.
func get(t *testing.T, s *Server, path string, edit func(*http.Request)) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequest(http.MethodGet, strings.TrimSuffix(s.URL(), "/")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, body
}

// TestRefuses: what no page of ours asks for is not answered.
func TestRefuses(t *testing.T) {
	s := start(t, newSource())
	for _, test := range []struct {
		name string
		edit func(*http.Request)
		code int
	}{
		{"as it is", nil, 200},
		{"localhost", func(r *http.Request) { r.Host = "localhost:7080" }, 200},
		{"localhost.", func(r *http.Request) { r.Host = "localhost.:7080" }, 200},
		{"IPv6 loopback", func(r *http.Request) { r.Host = "[::1]:7080" }, 200},
		{"DNS rebinding", func(r *http.Request) { r.Host = "evil.example:7080" }, 403},
		{"DNS rebinding, no port", func(r *http.Request) { r.Host = "localhost.evil.example" }, 403},
		{"another address", func(r *http.Request) { r.Host = "192.0.2.1:7080" }, 403},
		{"another site's script", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"a link on another site", func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Mode", "navigate")
		}, 200},
		{"POST", func(r *http.Request) { r.Method = http.MethodPost }, 405},
		{"DELETE", func(r *http.Request) { r.Method = http.MethodDelete }, 405},
	} {
		answer, _ := get(t, s, "/api/v1/frame", test.edit)
		if answer.StatusCode != test.code {
			t.Errorf("%s: status %d, want %d", test.name, answer.StatusCode, test.code)
		}
		policy := answer.Header.Get("Content-Security-Policy")
		if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: policy %q", test.name, policy)
		}
		for _, name := range []string{"X-Content-Type-Options", "Referrer-Policy", "X-Frame-Options"} {
			if answer.Header.Get(name) == "" {
				t.Errorf("%s: no %s", test.name, name)
			}
		}
	}
}

// TestForeignHostsElsewhere: who asked for all addresses may be called by any name.
func TestForeignHostsElsewhere(t *testing.T) {
	for host, want := range map[string]int{"0.0.0.0": 200, "::": 200, "127.0.0.1": 403, "::1": 403} {
		h := secure(host, nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
		w := &recorder{header: http.Header{}, code: 200}
		h.ServeHTTP(w, &http.Request{Method: "GET", Host: "lab.example", URL: mustURL("/")})
		if w.code != want {
			t.Errorf("listening on %s: status %d, want %d", host, w.code, want)
		}
	}
}

// TestAPI: each address answers with JSON that has what docs/api.md says.
func TestAPI(t *testing.T) {
	src := newSource()
	src.tick()
	s := start(t, src)
	for path, fields := range map[string][]string{
		"/api/v1/setup":                       {"version", "run", "flows", "hosts"},
		"/api/v1/frame":                       {"seq", "run", "now", "complete", "oldest", "hosts", "store", "current", "tail"},
		"/api/v1/overview":                    {"window", "total", "relayed", "seen", "series", "flows", "hosts"},
		"/api/v1/overview?from=1000&to=2000":  {"window"},
		"/api/v1/hosts?from=-60&to=0&step=10": {"window", "hosts"},
		"/api/v1/matrix":                      {"window", "total", "other", "cells", "groups"},
		"/api/v1/talkers":                     {"window", "total", "other", "talkers"},
		"/api/v1/mgen":                        {"window", "other", "flows"},
		"/api/v1/mgen/history?id=1&src=10.0.0.1&srcPort=1&dst=10.0.0.2&dstPort=2&proto=17": {"window", "sent", "receivers"},
		"/healthz": {"status", "agents", "connected", "snapshotAge"},
	} {
		answer, body := get(t, s, path, nil)
		var v map[string]json.RawMessage
		if err := json.Unmarshal(body, &v); err != nil || answer.StatusCode != 200 {
			t.Errorf("%s: status %d, %v: %s", path, answer.StatusCode, err, body)
			continue
		}
		for _, field := range fields {
			if raw, ok := v[field]; !ok || string(raw) == "null" {
				t.Errorf("%s: %q is %s", path, field, raw)
			}
		}
		if kind := answer.Header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("%s: type %q", path, kind)
		}
	}
}

// TestAPIRefusesNonsense: with a sentence that says what was expected.
func TestAPIRefusesNonsense(t *testing.T) {
	s := start(t, newSource())
	for path, want := range map[string]string{
		"/api/v1/overview?from=x":                    `from="x": want a number from -316224000 to 4294967295`,
		"/api/v1/overview?from=20&to=10":             "from < to",
		"/api/v1/overview?from=-10&to=99999999999":   "to 4294967295",
		"/api/v1/overview?from=0&to=99999&step=1":    "at most 7200 points",
		"/api/v1/overview?step=-1":                   `step="-1": want a number from 1`,
		"/api/v1/overview?from=9223372036854775807":  "to 4294967295",
		"/api/v1/overview?from=-9223372036854775808": "from -316224000",
		"/api/v1/mgen/history?id=1":                  "src",
		"/api/v1/mgen/history?id=4294967296&src=10.0.0.1&srcPort=1&dst=10.0.0.2&dstPort=2&proto=17": "0 to 4294967295",
		"/api/v1/stream?topic=matrix:7":  "want one of",
		"/api/v1/stream?topic=passwords": "want one of",
		"/api/v1/nothing":                "openapi.json",
	} {
		answer, body := get(t, s, path, nil)
		var v struct{ Error string }
		if err := json.Unmarshal(body, &v); err != nil || answer.StatusCode/100 != 4 || !strings.Contains(v.Error, want) {
			t.Errorf("%s: status %d, %s; want a sentence with %q", path, answer.StatusCode, body, want)
		}
	}
}

// TestCompressed: large answers are gzipped for those who take it.
func TestCompressed(t *testing.T) {
	s := start(t, newSource())
	for accept, want := range map[string]string{"gzip": "gzip", "br, gzip;q=0.5": "gzip", "gzip;q=0": "", "identity": ""} {
		answer, body := get(t, s, "/api/v1/overview?from=1000&to=2000&step=1", func(r *http.Request) { r.Header.Set("Accept-Encoding", accept) })
		if got := answer.Header.Get("Content-Encoding"); got != want {
			t.Errorf("Accept-Encoding %q: encoded as %q, want %q", accept, got, want)
		}
		if want == "gzip" {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !json.Valid(body) {
			t.Errorf("Accept-Encoding %q: no JSON", accept)
		}
	}
}

// TestAssets: the page if it was built, else a placeholder that says what to run.
func TestAssets(t *testing.T) {
	built := fstest.MapFS{"index.html": {Data: []byte("page")}, "app.js": {Data: []byte(strings.Repeat("x", 5000))}, placeholder: {Data: []byte("make build")}}
	assets, ok, err := loadAssets(built)
	if err != nil || !ok || string(assets["/"].plain) != "page" || assets["/index.html"] != nil || assets["/app.js"].zipped == nil {
		t.Errorf("built %v, %v, %v", ok, err, assets)
	}
	delete(built, "index.html")
	assets, ok, err = loadAssets(built)
	if err != nil || ok || !strings.Contains(string(assets["/"].plain), "make build") {
		t.Errorf("without a bundle: built %v, %v", ok, err)
	}
	s := start(t, newSource())
	answer, _ := get(t, s, "/", nil)
	again, body := get(t, s, "/", func(r *http.Request) { r.Header.Set("If-None-Match", answer.Header.Get("ETag")) })
	if again.StatusCode != http.StatusNotModified || len(body) > 0 {
		t.Errorf("asked again: status %d, %d bytes", again.StatusCode, len(body))
	}
}

// TestListenErrors name the address and the next step.
func TestListenErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, test := range []struct{ address, text, hint string }{
		{taken.Addr().String(), "another program has this port", "ss -ltnp"},
		{"192.0.2.7:7080", "this host has no such address", "ip address"},
		{"127.0.0.1:", "no address", "-http 127.0.0.1:7080"},
		{"127.0.0.1:http:1", "no address", "-http 127.0.0.1:7080"},
	} {
		_, err := Listen(test.address, Access{Open: true})
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint(), test.hint) {
			t.Errorf("%s: %v (%+v), want %q and the hint %q", test.address, err, e, test.text, test.hint)
		}
	}
	for address, want := range map[string]string{"7080": "127.0.0.1:7080", ":7080": "127.0.0.1:7080", "[::1]:0": "[::1]:0", "0.0.0.0:1": "0.0.0.0:1"} {
		if got, err := fullAddress(address); got != want || err != nil {
			t.Errorf("%q is %q, %v; want %q", address, got, err, want)
		}
	}
}

// events reads a stream's events as name and data.
type events struct {
	lines *bufio.Scanner
	close func() error
}

func follow(t testing.TB, s *Server, query string) *events {
	t.Helper()
	answer, err := http.Get(s.URL() + "api/v1/stream" + query)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: %v", answer.Status)
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 16<<20)
	return &events{lines, answer.Body.Close}
}

func (e *events) next() (name, data string, err error) {
	for e.lines.Scan() {
		line := e.lines.Text()
		if rest, ok := strings.CutPrefix(line, "event: "); ok {
			name = rest
		}
		if rest, ok := strings.CutPrefix(line, "data: "); ok && name != "" {
			return name, rest, nil
		}
	}
	return "", "", fmt.Errorf("the stream ended: %w", errors.Join(e.lines.Err(), io.EOF))
}

// TestStream: a frame at once, one for each snapshot, and the topics with it.
func TestStream(t *testing.T) {
	src := newSource()
	s := start(t, src)
	e := follow(t, s, "?topic=matrix:60&topic=mgen:10&topic=matrix:60")
	defer e.close()
	seq := uint64(0)
	for range 3 {
		for _, want := range []string{"frame", "matrix", "mgen"} {
			name, data, err := e.next()
			if err != nil || name != want {
				t.Fatalf("event %q, %v; want %q", name, err, want)
			}
			var v struct {
				Seq   uint64
				Hosts []json.RawMessage
			}
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				t.Fatalf("%s: %v: %s", name, err, data)
			}
			if name == "frame" {
				if v.Seq <= seq || len(v.Hosts) != 2 {
					t.Errorf("frame %d after %d, with %d hosts", v.Seq, seq, len(v.Hosts))
				}
				seq = v.Seq
			}
		}
		src.tick()
	}
}

// TestStreamsAreBounded: one more than allowed is told to come again.
func TestStreamsAreBounded(t *testing.T) {
	s := start(t, newSource())
	s.streams.max = 2
	for range 2 {
		e := follow(t, s, "")
		defer e.close()
		if _, _, err := e.next(); err != nil {
			t.Fatal(err)
		}
	}
	answer, body := get(t, s, "/api/v1/stream", nil)
	if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		t.Errorf("third stream: %s, %s", answer.Status, body)
	}
}

// TestSlowPageSkips: a page that does not read costs nothing, gets the newest
// frame when it reads again, and is told how many it missed.
func TestSlowPageSkips(t *testing.T) {
	src := newSource()
	s := start(t, src)
	conn, err := net.Dial("tcp", s.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(conn, "GET /api/v1/stream?topic=hosts:10 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	for open := 0; open == 0; open, _ = s.streams.count() {
		time.Sleep(time.Millisecond)
	}
	for range 500 { // more than all buffers on the way hold
		src.tick()
	}
	// Time goes on while it reads at last.
	conn.SetDeadline(time.Now().Add(time.Minute))
	ctx, cancel := context.WithCancel(context.Background())
	var ticking sync.WaitGroup
	defer ticking.Wait()
	defer cancel()
	ticking.Go(func() {
		for ctx.Err() == nil {
			src.tick()
			time.Sleep(time.Millisecond)
		}
	})
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, 1<<20)
	name := ""
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			name = rest
		}
		if name == "skipped" {
			return
		}
	}
	t.Errorf("the page was not told that it skipped frames: %v", lines.Err())
}

// TestMetrics are the numbers of the frames, with labels of the configuration.
func TestMetrics(t *testing.T) {
	s := start(t, newSource())
	_, body := get(t, s, "/metrics", nil)
	for _, want := range []string{
		`recollect_agent_connected{address="10.0.0.1:7073",host="a"} 1`,
		`recollect_agent_connected{address="10.0.0.2:7073",host="<img src=x onerror=alert(1)>"} 0`,
		`recollect_agent_records_total{address="10.0.0.1:7073",host="a"} 3`,
		`recollect_agent_lost_total{address="10.0.0.1:7073",host="a",stage="kernel"} 7`,
		`recollect_agent_detail_level{address="10.0.0.1:7073",host="a"} 2`,
		`recollect_agent_detail_changes_total{address="10.0.0.1:7073",host="a"} 2`,
		`recollect_agent_kept_records_total{address="10.0.0.1:7073",host="a"} 9`,
		`recollect_agent_unkept_records_total{address="10.0.0.1:7073",host="a"} 1`,
		`recollect_collector_lost_records_total 11`,
		`recollect_web_streams 0`,
		`go_goroutines `,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}

// TestTotals: what was seen is counted once, when it no longer changes, late
// packets included.
func TestTotals(t *testing.T) {
	src := newSource()
	now := time.Unix(1_700_000_000, 0)
	tick := func(seconds int, packets ...time.Duration) *rollup.Snapshot {
		now = now.Add(time.Duration(seconds) * time.Second)
		for _, ago := range packets {
			r := wire.Record{Time: now.Add(-ago).UnixNano(), Length: 100, Proto: 17}
			r.SetSrc4([4]byte{10, 0, 0, 1})
			r.SetDst4([4]byte{10, 0, 0, 2})
			src.Add(now.UnixNano(), 0, &r)
		}
		src.Tick(now.UnixNano())
		return src.Snapshot()
	}
	var sums totals
	got := func() (c rollup.Counts) {
		sums.each(func(k totalKey, n rollup.Counts) {
			if k != (totalKey{0, 0, false}) {
				t.Errorf("counted for %+v", k)
			}
			c = c.Plus(n)
		})
		return c
	}
	sums.add(tick(0))
	sums.add(tick(1, 0, 0, 0))
	sums.add(tick(1, time.Second, 3*time.Second, 3600*time.Second))
	if c := got(); c.Packets != 0 {
		t.Errorf("%d packets counted while they may still change", c.Packets)
	}
	for range 20 {
		sums.add(tick(1))
	}
	if c := got(); c.Packets != 6 || c.Bytes != 600 {
		t.Errorf("counted %+v, want 6 packets of 100 bytes", c)
	}
	for range 3 {
		sums.add(tick(2000, 0)) // a pause longer than a chunk
	}
	sums.add(tick(30))
	if c := got(); c.Packets != 9 {
		t.Errorf("%d packets after pauses, want 9", c.Packets)
	}
}

// TestHealth: /healthz succeeds while snapshots come and nothing fails.
func TestHealth(t *testing.T) {
	s, err := Listen("127.0.0.1:0", Access{})
	if err != nil {
		t.Fatal(err)
	}
	var why atomic.Pointer[string]
	s.Watch(func() string {
		if text := why.Load(); text != nil {
			return *text
		}
		return ""
	})
	serve(t, s, newSource())
	why.Store(new("no room on the disk"))
	if answer, body := get(t, s, "/healthz", nil); answer.StatusCode != 503 || !strings.Contains(string(body), "no room on the disk") {
		t.Errorf("while something fails: got %s: %s, want 503 and the reason", answer.Status, body)
	}
	why.Store(nil)
	if answer, body := get(t, s, "/healthz", nil); answer.StatusCode != 200 {
		t.Errorf("%s: %s", answer.Status, body)
	}
	s.newest.Store(time.Now().Add(-time.Minute).UnixNano())
	if answer, body := get(t, s, "/healthz", nil); answer.StatusCode != 503 {
		t.Errorf("a minute without a snapshot: %s: %s", answer.Status, body)
	}
}

// TestEndsWithOpenStreams: Run returns though pages are open.
func TestEndsWithOpenStreams(t *testing.T) {
	s, err := Listen("127.0.0.1:0", Access{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx, newSource()) }()
	e := follow(t, s, "")
	defer e.close()
	if _, _, err := e.next(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}
