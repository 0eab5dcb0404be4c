package path

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// send sends an answer as it is.
func send(w http.ResponseWriter, _ *http.Request, body []byte) { w.Write(body) }

// TestAPI asks every address, rightly and wrongly.
func TestAPI(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 100 {
		p := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
		if i != 50 {
			p.got("d")
		}
	}
	w.packet("10.0.0.1", "239.1.1.1", 5000).sent("s").got("d")
	w.e.Flush()
	waiting := w.packet("10.0.0.1", "10.0.0.2", 5000).sent("s")
	mux := http.NewServeMux()
	for _, e := range Endpoints(w.e, nil) {
		mux.Handle(e.Pattern(), e.Handler(send))
	}
	get := func(path string, code int, to any) {
		t.Helper()
		r := httptest.NewRecorder()
		mux.ServeHTTP(r, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		if r.Code != code {
			t.Fatalf("%s: %d, want %d: %s", path, r.Code, code, r.Body)
		}
		if err := json.Unmarshal(r.Body.Bytes(), to); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	var report Report
	if get("paths?dst=10.0.0.2", 200, &report); len(report.Flows) != 1 || report.Flows[0].Lost != 1 || report.Flows[0].Arrived != 99 || report.Waiting != 1 {
		t.Errorf("%+v", report)
	}
	if get("tree", 200, &report); len(report.Flows) != 1 || !report.Flows[0].Multicast {
		t.Errorf("%+v", report)
	}
	var hops struct {
		Hops []Hop
		More int
	}
	if get("hops?limit=1", 200, &hops); len(hops.Hops) != 1 || hops.Hops[0].Packets != 100 || hops.Hops[0].Lost != 1 || hops.More != 0 {
		t.Errorf("%+v", hops)
	}
	var lost struct{ Packets []Ended }
	if get("packets", 200, &lost); len(lost.Packets) != 1 || lost.Packets[0].Outcome != Lost || lost.Packets[0].Towards.Node != "d" {
		t.Fatalf("%+v", lost)
	}
	var p Packet
	if get(fmt.Sprintf("packet/%d", lost.Packets[0].Digest), 200, &p); p.Ended == nil || p.Ended.At.Node != "s" {
		t.Errorf("%+v", p)
	}
	if get(fmt.Sprintf("packet/%d", waiting.r.Digest), 200, &p); len(p.Seen) != 1 || p.Seen[0].Node != "s" || p.Seen[0].TTL != 64 {
		t.Errorf("%+v", p)
	}
	var fault struct{ Error string }
	for path, code := range map[string]int{"packet/1": 404, "paths?from=-60": 404, "packets?from=-60&to=0": 404, "packet/x": 400, "paths?src=n1": 400, "paths?mgen=x": 400, "hops?limit=0": 400} {
		if get(path, code, &fault); fault.Error == "" {
			t.Errorf("%s: no error is named", path)
		}
	}
}

// TestMetrics: hops are in /metrics, and their number is bounded.
func TestMetrics(t *testing.T) {
	w := newWorld(t, Config{})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(Metrics{w.e})
	if _, err := r.Gather(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxMetrics {
		w.packet("10.0.0.1", "10.0.0.2", 5000).sent(fmt.Sprintf("s%d", i)).got("d")
	}
	w.e.Flush()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		got[f.GetName()] = len(f.GetMetric())
		if f.GetName() == "recollect_path_packets_total" && f.GetMetric()[0].GetCounter().GetValue() != 2*maxMetrics {
			t.Errorf("%v", f)
		}
	}
	if got["recollect_path_hop_packets_total"] != maxMetrics || got["recollect_path_packets_total"] != 1 || got["recollect_path_sampled_ratio"] != 1 {
		t.Errorf("%v", got)
	}
}
