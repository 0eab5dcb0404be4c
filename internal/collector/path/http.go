package path

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// maxAnswer is the most flows or packets that an answer has.
const maxAnswer = 200

// Handlers are the addresses below /api/v1/ that tell what e knows, by their patterns.
func Handlers(e *Engine) map[string]http.Handler {
	flows := []string{"src", "dst", "group", "mgen", "limit"}
	answer := func(names []string, what func(q Query, limit int) any) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q, limit, err := parse(r, names)
			if err != nil {
				send(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			send(w, http.StatusOK, what(q, limit))
		})
	}
	return map[string]http.Handler{
		"GET /api/v1/paths": answer(flows, func(q Query, limit int) any { return e.Report(q, limit) }),
		"GET /api/v1/hops": answer([]string{"limit"}, func(_ Query, limit int) any {
			hops := e.Hops()
			return map[string]any{"hops": hops[:min(len(hops), limit)], "more": max(0, len(hops)-limit)}
		}),
		"GET /api/v1/map": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from, to, err := parseTime(r)
			if err != nil {
				send(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			send(w, http.StatusOK, e.Map(from, to))
		}),
		"GET /api/v1/flows": answer([]string{"limit"}, func(_ Query, limit int) any {
			list := e.Brief()
			return map[string]any{"flows": list[:min(len(list), limit)], "more": max(0, len(list)-limit)}
		}),
		"GET /api/v1/tree": answer(flows, func(q Query, limit int) any {
			r := e.Report(q, 0)
			trees := []Flow{}
			for _, f := range r.Flows {
				if f.Multicast && len(trees) < limit {
					trees = append(trees, f)
				}
			}
			r.Flows = trees
			return r
		}),
		"GET /api/v1/packets": answer(flows, func(q Query, limit int) any {
			list := e.Ended(q)
			return map[string]any{"packets": list[max(0, len(list)-limit):]}
		}),
		"GET /api/v1/packet/{digest}": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := known(r.URL.Query(), nil); err != nil {
				send(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			digest, err := strconv.ParseUint(r.PathValue("digest"), 10, 64)
			if err != nil {
				send(w, http.StatusBadRequest, map[string]string{"error": fmt.Sprintf("digest %q: want a number of 64 bits in decimal", r.PathValue("digest"))})
				return
			}
			p, ok := e.Packet(digest)
			if !ok {
				send(w, http.StatusNotFound, map[string]string{"error": "no such packet is waited for, nor among the newest that did not arrive"})
				return
			}
			send(w, http.StatusOK, p)
		}),
	}
}

// known refuses parameters that are not among names, or that are given twice.
func known(v url.Values, names []string) error {
	for _, name := range slices.Sorted(maps.Keys(v)) {
		switch {
		case !slices.Contains(names, name) && len(names) == 0:
			return fmt.Errorf("parameter %.40q: this address takes none", name)
		case !slices.Contains(names, name):
			return fmt.Errorf("parameter %.40q: this address takes only %s", name, strings.Join(names, ", "))
		case len(v[name]) > 1:
			return fmt.Errorf("parameter %q is given %d times", name, len(v[name]))
		}
	}
	if v.Has("dst") && v.Has("group") {
		return errors.New("group is another name of dst: give one of them")
	}
	return nil
}

// parse reads those of src, dst (or group), mgen and limit that are among names.
func parse(r *http.Request, names []string) (q Query, limit int, err error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, 0, fmt.Errorf("the parameters cannot be read: %w", err)
	}
	if err := known(v, names); err != nil {
		return q, 0, err
	}
	for name, to := range map[string]*netip.Addr{"src": &q.Src, "dst": &q.Dst, "group": &q.Dst} {
		if text := v.Get(name); text != "" {
			if *to, err = netip.ParseAddr(text); err != nil {
				return q, 0, fmt.Errorf("%s=%q: want an address", name, text)
			}
		}
	}
	if text := v.Get("mgen"); text != "" {
		id, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return q, 0, fmt.Errorf("mgen=%q: want a flow ID", text)
		}
		short := uint32(id)
		q.MGEN = &short
	}
	limit = maxAnswer
	if text := v.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return q, 0, fmt.Errorf("limit=%q: want a number from 1 on", text)
		}
		limit = min(n, maxAnswer)
	}
	return q, limit, nil
}

// parseTime reads from and to, both seconds since 1970 or both relative to the newest.
func parseTime(r *http.Request) (from, to int64, err error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return 0, 0, fmt.Errorf("the parameters cannot be read: %w", err)
	}
	if err := known(v, []string{"from", "to"}); err != nil {
		return 0, 0, err
	}
	from, to = -60, 0
	for name, n := range map[string]*int64{"from": &from, "to": &to} {
		if text := v.Get(name); text != "" {
			if *n, err = strconv.ParseInt(text, 10, 64); err != nil {
				return 0, 0, fmt.Errorf("%s=%.40q: want a number of seconds", name, text)
			}
		}
	}
	if to <= from || from < 0 && to > 0 || max(to, -from) > 1<<33 {
		return 0, 0, errors.New("want from < to, both in UNIX seconds, or both relative to now, as from=-60&to=0")
	}
	return from, to, nil
}

func send(w http.ResponseWriter, code int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(what)
}

// maxMetrics bounds the hops in /metrics: those with most packets.
const maxMetrics = 200

var (
	hopLabels   = []string{"from", "from_stage", "to", "to_stage"}
	descPackets = prometheus.NewDesc("recollect_path_hop_packets_total", "Packets seen at both ends of a hop.", hopLabels, nil)
	descLost    = prometheus.NewDesc("recollect_path_hop_lost_packets_total", "Packets seen at the beginning of a hop only.", hopLabels, nil)
	descDelay   = prometheus.NewDesc("recollect_path_hop_delay_seconds", "Median delay of a hop in the last minutes.", hopLabels, nil)
	descJoined  = prometheus.NewDesc("recollect_path_packets_total", "Packets that were joined.", nil, nil)
	descAlike   = prometheus.NewDesc("recollect_path_ambiguous_packets_total", "Packets that look like another.", nil, nil)
	descSampled = prometheus.NewDesc("recollect_path_sampled_ratio", "Share of the packets that is looked at.", nil, nil)
)

// Metrics are those of the hops, at most 200.
type Metrics struct{ Engine *Engine }

// Describe is of prometheus.Collector.
func (m Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPackets, descLost, descDelay, descJoined, descAlike, descSampled} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (m Metrics) Collect(ch chan<- prometheus.Metric) {
	for i, h := range m.Engine.Hops() {
		if i == maxMetrics {
			break
		}
		to := At{}
		if h.To != nil {
			to = *h.To
		}
		labels := []string{h.From.Agent, h.From.Stage, to.Agent, to.Stage}
		ch <- prometheus.MustNewConstMetric(descPackets, prometheus.CounterValue, float64(h.Packets), labels...)
		ch <- prometheus.MustNewConstMetric(descLost, prometheus.CounterValue, float64(h.Lost), labels...)
		if h.Delay != nil {
			ch <- prometheus.MustNewConstMetric(descDelay, prometheus.GaugeValue, float64(h.Delay.P50)/1e9, labels...)
		}
	}
	r := m.Engine.Report(Query{Src: netip.IPv6Unspecified()}, 1)
	ch <- prometheus.MustNewConstMetric(descJoined, prometheus.CounterValue, float64(r.Packets))
	ch <- prometheus.MustNewConstMetric(descAlike, prometheus.CounterValue, float64(r.Ambiguous))
	ch <- prometheus.MustNewConstMetric(descSampled, prometheus.GaugeValue, r.Sampled)
}
