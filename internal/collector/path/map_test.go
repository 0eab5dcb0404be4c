package path

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// TestMap: in the first seconds a relay forwards everything, then it loses half. What is asked for
// is what was counted in that time, by row and node; a silent member counts as lost.
func TestMap(t *testing.T) {
	w := newWorld(t, Config{})
	w.e.Classify(func(r *wire.Record) int { return int(r.DstPort) - 5000 }, func(a netip.Addr) string {
		if a.IsMulticast() {
			return "all"
		}
		return ""
	})
	for _, label := range []string{"s", "r/a", "r/b", "d", "m", "q"} {
		w.e.Watch(w.e.Agent(label), w.now, true)
	}
	group := netip.MustParseAddr("239.1.1.1")
	for _, node := range []string{"m", "q", "away"} { // nobody watches the last one
		w.e.Join(0, w.e.Agent(node), group.As16(), true)
	}
	second := func(lossy bool) {
		for i := range 100 {
			p := w.packet("10.0.0.1", "10.0.0.2", 5001).sent("s").got("r/a").forward("r/b")
			if !lossy || i%2 == 0 {
				p.got("d")
			}
			w.packet("10.0.0.1", group.String(), 5002).sent("s").got("m")
			w.now += 8e6
			w.e.Tick(w.now)
		}
	}
	for range 10 {
		second(false)
	}
	for range 10 {
		second(true)
	}
	w.now += 6e9
	w.e.Tick(w.now)

	begin := start / 1e9
	all := w.e.Map(begin-1, begin+100)
	link := func(m *Map, from, to string, row int) (l LinkRow) {
		for _, one := range m.Links {
			for _, f := range one.Flows {
				if one.From == from && one.To == to && f.Row == row {
					l = f
				}
			}
		}
		return l
	}
	ends := func(m *Map, row int) (d Delivery) {
		for _, one := range m.Delivery {
			if one.Row == row {
				d = one
			}
		}
		return d
	}
	if got, want := link(&all, "r", "d", 1), (LinkRow{Row: 1, Packets: 1500, Bytes: 150000, Lost: 500}); got != want {
		t.Errorf("r to d: %+v, want %+v", got, want)
	}
	if got, want := link(&all, "s", "r", 1).Packets, uint64(2000); got != want {
		t.Errorf("s to r: %d packets, want %d", got, want)
	}
	if got, want := link(&all, "r", "r", 1).Packets, uint64(2000); got != want {
		t.Errorf("through r: %d packets, want %d", got, want)
	}
	if got, want := ends(&all, 1), (Delivery{Row: 1, Delivered: 1500, Lost: 500}); got != want {
		t.Errorf("ends of row 1: %+v, want %+v", got, want)
	}
	if got, want := ends(&all, 2), (Delivery{Row: 2, Delivered: 2000, Lost: 2000, Unobserved: 2000}); got != want {
		t.Errorf("ends of the multicast: %+v, want %+v", got, want)
	}
	early := w.e.Map(begin-1, begin+9)
	if got := link(&early, "r", "d", 1); got.Lost != 0 || got.Packets < 700 || got.Packets > 1000 {
		t.Errorf("in the first seconds, r to d: %+v, want some hundred packets and no loss", got)
	}
	if late := w.e.Map(begin+11, begin+100); link(&late, "r", "d", 1).Packets+link(&early, "r", "d", 1).Packets > 1500 {
		t.Errorf("counted twice: %+v and %+v", link(&early, "r", "d", 1), link(&late, "r", "d", 1))
	}
	if got := w.e.Map(begin+50, begin+60); got.From != 0 || len(got.Links) != 0 || len(got.Nodes) != 6 { // s r d m q away
		t.Errorf("a time of which nothing is known: %+v", got)
	}

	mux := http.NewServeMux()
	for _, e := range Endpoints(w.e, nil) {
		mux.Handle(e.Pattern(), e.Handler(send))
	}
	get := func(path string, code int, to any) {
		t.Helper()
		r := httptest.NewRecorder()
		mux.ServeHTTP(r, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		if err := json.Unmarshal(r.Body.Bytes(), to); err != nil || r.Code != code {
			t.Fatalf("%s: %d, %v, want %d: %s", path, r.Code, err, code, r.Body)
		}
	}
	var m Map
	if get("map?from=-3600", 200, &m); link(&m, "r", "d", 1) != link(&all, "r", "d", 1) || m.To <= m.From {
		t.Errorf("/map: %+v, want what Map gives", m)
	}
	var flows struct {
		Flows []Brief
		More  int
	}
	if get("flows?limit=1", 200, &flows); len(flows.Flows) != 1 || flows.More != 1 {
		t.Fatalf("/flows: %+v, want 1 of 2", flows)
	}
	// Half of both is lost: the one with more packets, or else the first group, comes first.
	want := Brief{SrcName: "s", DstName: "all", Row: 2, Multicast: true, Packets: 2000, Bytes: 200000, Delivered: 2000, Lost: 2000, Unobserved: 2000, Members: 2, Silent: 1}
	for _, got := range w.e.Brief() {
		got.Tuple = Tuple{}
		if got.Multicast && got != want {
			t.Errorf("the multicast in brief: %+v, want %+v", got, want)
		}
	}
	var fault struct{ Error string }
	for _, bad := range []string{"map?from=x", "map?from=-5&to=5", "map?from=10&to=5", "map?limit=3", "flows?from=1", "map?from=1&from=2"} {
		if get(bad, 400, &fault); fault.Error == "" {
			t.Errorf("%s: no error is named", bad)
		}
	}
}

// TestNothingYet: lists of an engine that has seen nothing are empty, not null.
func TestNothingYet(t *testing.T) {
	mux := http.NewServeMux()
	for _, e := range Endpoints(New(Config{}), nil) {
		mux.Handle(e.Pattern(), e.Handler(send))
	}
	for _, path := range []string{"paths", "hops", "tree", "packets", "map", "flows"} {
		r := httptest.NewRecorder()
		mux.ServeHTTP(r, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		if body := r.Body.String(); r.Code != 200 || strings.Contains(body, "null") {
			t.Errorf("%s: %d, want 200 and no null: %s", path, r.Code, body)
		}
	}
}

// TestMapForgets: the past takes no more than it may, and the newest stays.
func TestMapForgets(t *testing.T) {
	e := New(Config{})
	e.Agent("a")
	f := &flow{}
	for i := range 200 {
		f.hops = append(f.hops, hop{link: link{0, place(4 * i)}})
		e.Agent(string(rune('A' + i)))
	}
	e.flows[flowKey{}] = f
	for second := range int64(2100) {
		for i := range f.hops {
			f.hops[i].Packets++
		}
		e.Tick(start + second*1e9)
	}
	m := e.Map(-3600, 0)
	if e.memory.entries > maxRemembered || m.To != e.memory.last || m.To-m.From < 1900 || m.To-m.From > 2000 {
		t.Errorf("%d entries, from %d to %d", e.memory.entries, m.From, m.To)
	}
}
