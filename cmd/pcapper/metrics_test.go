//go:build !libpcap

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// scrape gets the agent's metrics, as series -> value.
func (a *agentProcess) scrape(addr string) map[string]float64 {
	a.t.Helper()
	return parseMetrics(a.t, exposition(a.t, a.host, addr))
}

// parseMetrics reads the text format, as series -> value.
func parseMetrics(t *testing.T, text string) map[string]float64 {
	t.Helper()
	series := map[string]float64{}
	for line := range strings.Lines(text) {
		name, value, ok := cutLast(strings.TrimSpace(line), ' ')
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		var err error
		if series[name], err = strconv.ParseFloat(value, 64); err != nil {
			t.Errorf("%q: %v", line, err)
		}
	}
	return series
}

func cutLast(s string, sep byte) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// checkAccounts holds the promise of ARCHITECTURE.md against one scrape.
func checkAccounts(t *testing.T, m map[string]float64) {
	t.Helper()
	for _, reader := range []string{"collectors", "log"} {
		of := func(what string) float64 { return m[fmt.Sprintf("pcapper_reader_%s{reader=%q}", what, reader)] }
		sum := of("delivered_total") + of("skipped_total") + of("lost_total") + of("in_flight")
		if of("published_total") != sum {
			t.Errorf("%s: published %.0f, but delivered %.0f + skipped %.0f + lost %.0f + in flight %.0f = %.0f", reader, of("published_total"),
				of("delivered_total"), of("skipped_total"), of("lost_total"), of("in_flight"), sum)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-m", "udp", "-metrics", "127.0.0.1:9173")
	p.await("metrics on http://127.0.0.1:9173/metrics", 1)
	if m := p.scrape("127.0.0.1:9173"); m["pcapper_capturing"] != 0 || m["pcapper_packets_total"] != 0 {
		t.Errorf("at the start: %v", m)
	}
	first, second := p.dial(b, "bulk\n"), p.dial(b, "text\n")
	frame := nettest.Between(a, b, 1000, 2000, make([]byte, 72))
	send(t, a, 1000, 50000, frame.Ethernet())
	collect(t, first, 1000)
	collectLines(t, second, 1000)
	first.Close()
	p.await("detached", 1)
	m := p.scrape("127.0.0.1:9173")
	for series, want := range map[string]float64{
		`pcapper_engine_info{engine="` + engineName(p) + `",interface="eth0",mode="udp"}`: 1,
		"pcapper_capturing":                                                     1,
		"pcapper_packets_total":                                                 1000,
		"pcapper_bytes_total":                                                   100 * 1000,
		"pcapper_kernel_frames_total":                                           1000,
		`pcapper_dropped_total{stage="kernel"}`:                                 0,
		`pcapper_dropped_total{stage="collectors"}`:                             0,
		`pcapper_decoder_total{kind="frames"}`:                                  1000,
		`pcapper_collectors{format="text",transport="tcp"}`:                     1,
		`pcapper_collectors{format="bulk",transport="tcp"}`:                     0,
		"pcapper_collectors_departed_total":                                     1,
		`pcapper_reader_delivered_total{reader="collectors"}`:                   2000,
		`pcapper_connections_refused_total{reason="TLS handshake"}`:             0,
		`pcapper_connections_refused_total{reason="address not allowed"}`:       0,
		`pcapper_connections_refused_total{reason="too many from its address"}`: 0,
	} {
		if got, there := m[series]; !there || got != want {
			t.Errorf("%s is %v (%v), want %v", series, got, there, want)
		}
	}
	checkAccounts(t, m)
	second.Close()
}

// engineName is what the agent says its engine is.
func engineName(p *agentProcess) string {
	m := regexp.MustCompile(`engine: (.*?): `).FindStringSubmatch(p.said())
	if m == nil {
		p.t.Fatalf("no engine in %q", p.said())
	}
	return m[1]
}

// TestPrometheusAndDashboard: a real Prometheus takes the metrics, finds
// nothing to complain of, and has an answer to every query of the dashboard.
func TestPrometheusAndDashboard(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-metrics", "127.0.0.1:9173", "-spool", spoolDir(t)+":10MB", "-export", "ipfix+tcp://127.0.0.1:9")
	conn := p.dial(b, "bulk\n")
	go io.Copy(io.Discard, conn)
	dir := t.TempDir()
	config := "global: {scrape_interval: 1s, scrape_timeout: 1s}\n" +
		"scrape_configs: [{job_name: pcapper, static_configs: [{targets: ['127.0.0.1:9173']}]}]\n"
	if err := os.WriteFile(filepath.Join(dir, "p.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	prometheus := a.Command(t.Context(), "prometheus", "--config.file", filepath.Join(dir, "p.yml"), "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", "127.0.0.1:9090", "--log.level", "warn")
	prometheus.Stderr = os.Stderr
	if err := prometheus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prometheus.Process.Kill(); prometheus.Wait() })

	query := func(expr string) (values int) {
		resp, err := webClient(a).Get("http://127.0.0.1:9090/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			return 0
		}
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable {
			return 0 // still starting
		}
		var answer struct {
			Error string
			Data  struct{ Result []json.RawMessage }
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
			t.Fatalf("%s: %v %s", expr, err, answer.Error)
		}
		return len(answer.Data.Result)
	}
	frame := nettest.Between(a, b, 1000, 2000, nil)
	ready := func() bool {
		send(t, a, 10, 1000, frame.Ethernet())
		return query("rate(pcapper_packets_total[10s]) > 0") > 0
	}
	if !nettest.Eventually(60*time.Second, ready) {
		t.Fatal("Prometheus never had two scrapes")
	}
	queries := dashboardQueries(t)
	if len(queries) < 15 {
		t.Errorf("only %d queries in the dashboard", len(queries))
	}
	for _, q := range queries {
		if query(q) == 0 {
			t.Errorf("no answer to %s", q)
		}
	}

	lint := exec.Command("promtool", "check", "metrics")
	lint.Stdin = strings.NewReader(exposition(t, a, "127.0.0.1:9173"))
	if out, err := lint.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// dashboardQueries are all of docs/grafana.json, with its variables filled in
// as Grafana does.
func dashboardQueries(t *testing.T) (list []string) {
	data, err := os.ReadFile("../../docs/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$job", "pcapper", "$instance", ".+", "$__rate_interval", "10s")
	for _, panel := range dashboard.Panels {
		if len(panel.Targets) == 0 {
			t.Errorf("panel %q asks nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			list = append(list, fill.Replace(target.Expr))
		}
	}
	return list
}

// exposition is the text that Prometheus gets, of the agent's own metrics.
func exposition(t *testing.T, host *nettest.Host, addr string) string {
	t.Helper()
	text, err := fetch(host, addr)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func fetch(host *nettest.Host, addr string) (string, error) {
	resp, err := webClient(host).Get("http://" + addr + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func TestMetricsPortTaken(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	ln, err := a.Listen("tcp", "127.0.0.1:9173")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := launch(t, a, "-metrics", "127.0.0.1:9173")
	if code := p.wait(); code != 2 || !strings.Contains(p.said(), `-metrics: cannot listen on "127.0.0.1:9173"`) {
		t.Errorf("exit code %d:\n%s", code, p.said())
	}
}

// webClient is a browser on a host.
func webClient(host *nettest.Host) *http.Client {
	dial := func(_ context.Context, network, addr string) (net.Conn, error) { return host.Dial(network, addr) }
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}
