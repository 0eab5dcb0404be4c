package path

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pcapper/pcapper/internal/collector/api"
)

// maxAnswer is the most flows or packets that an answer has.
const maxAnswer = 200

// Hops is the answer of /api/v1/hops.
type Hops struct {
	Hops []Hop `json:"hops"` // those with most packets first
	More int   `json:"more"` // that were left out
}

// Briefs is the answer of /api/v1/flows.
type Briefs struct {
	Flows []Brief `json:"flows"` // those that lose the largest share first
	More  int     `json:"more"`  // that were left out
}

// EndedList is the answer of /api/v1/packets.
type EndedList struct {
	Packets []Ended `json:"packets"` // oldest first
}

// Endpoints are the addresses that tell what e knows.
func Endpoints(e *Engine) []api.Endpoint {
	limit := api.Parameter{Name: "limit", Kind: api.Integer, Min: 1, Max: maxAnswer, Default: int64(maxAnswer), Meaning: "The most rows of the answer"}
	flows := []api.Parameter{
		{Name: "src", Kind: api.Address, Meaning: "Only flows from this address"},
		{Name: "dst", Kind: api.Address, Meaning: "Only flows to this address"},
		{Name: "group", Kind: api.Address, Meaning: "Another name of dst"},
		{Name: "mgen", Kind: api.Integer, Max: 1<<32 - 1, Want: "a flow ID", Meaning: "Only flows with this ID of MGEN"},
		limit,
	}
	return []api.Endpoint{
		{
			Path: "/api/v1/paths", Summary: "Flows, their hops, and the ways that their packets took; those with most packets first",
			Parameters: flows, Answer: Report{},
			Get: func(v api.Values) (any, error) {
				q, err := queryOf(v)
				return e.Report(q, int(v.Int("limit"))), err
			},
		}, {
			Path: "/api/v1/hops", Summary: "The hops of all flows together, those with most packets first",
			Parameters: []api.Parameter{limit}, Answer: Hops{},
			Get: func(v api.Values) (any, error) {
				hops := e.Hops()
				shown := min(len(hops), int(v.Int("limit")))
				return Hops{hops[:shown], len(hops) - shown}, nil
			},
		}, {
			Path: "/api/v1/map", Summary: "What went directly from one node to another in a time",
			Parameters: []api.Parameter{
				{Name: "from", Kind: api.Integer, Min: -maxTime, Max: maxTime, Default: int64(-60),
					Meaning: "The first second: since 1970, or, if negative, relative to the newest"},
				{Name: "to", Kind: api.Integer, Min: -maxTime, Max: maxTime, Default: int64(0),
					Meaning: "The second after the last one, as from"},
			},
			Answer: Map{},
			Get: func(v api.Values) (any, error) {
				from, to := v.Int("from"), v.Int("to")
				if to <= from || from < 0 && to > 0 {
					return nil, errors.New("want from < to, both in UNIX seconds, or both relative to now, as from=-60&to=0")
				}
				return e.Map(from, to), nil
			},
		}, {
			Path: "/api/v1/flows", Summary: "Flows in a few words, since they began; those that lose the largest share first",
			Parameters: []api.Parameter{limit}, Answer: Briefs{},
			Get: func(v api.Values) (any, error) {
				list := e.Brief()
				shown := min(len(list), int(v.Int("limit")))
				return Briefs{list[:shown], len(list) - shown}, nil
			},
		}, {
			Path: "/api/v1/tree", Summary: "As paths, of multicasts only",
			Parameters: flows, Answer: Report{},
			Get: func(v api.Values) (any, error) {
				q, err := queryOf(v)
				r := e.Report(q, 0)
				r.Flows = slices.DeleteFunc(r.Flows, func(f Flow) bool { return !f.Multicast })
				r.Flows = r.Flows[:min(len(r.Flows), int(v.Int("limit")))]
				return r, err
			},
		}, {
			Path: "/api/v1/packets", Summary: "The newest packets that did not arrive, and where each ended",
			Parameters: flows, Answer: EndedList{},
			Get: func(v api.Values) (any, error) {
				q, err := queryOf(v)
				list := e.Ended(q)
				return EndedList{list[max(0, len(list)-int(v.Int("limit"))):]}, err
			},
		}, {
			Path: "/api/v1/packet/{digest}", Summary: "A packet by its digest: where it was seen while it is waited for, or how it ended",
			Parameters: []api.Parameter{{Name: "digest", InPath: true, Required: true, Pattern: "^[0-9]{1,20}$", Want: digestWant, Meaning: "The digest in decimal"}},
			Answer:     Packet{},
			Errors:     map[int]string{http.StatusNotFound: "The packet is neither waited for, nor among the newest that did not arrive"},
			Get: func(v api.Values) (any, error) {
				digest, err := strconv.ParseUint(v.Text("digest"), 10, 64)
				if err != nil {
					return nil, fmt.Errorf("digest=%q: want %s", v.Text("digest"), digestWant)
				}
				p, ok := e.Packet(digest)
				if !ok {
					return nil, &api.Error{Status: http.StatusNotFound, Text: "no such packet is waited for, nor among the newest that did not arrive"}
				}
				return p, nil
			},
		},
	}
}

const (
	digestWant = "a number of 64 bits in decimal"
	maxTime    = 1 << 33 // seconds since 1970, or in the past
)

// queryOf reads src, dst (or group), and mgen.
func queryOf(v api.Values) (q Query, err error) {
	if v.Has("dst") && v.Has("group") {
		return q, errors.New("group is another name of dst: give one of them")
	}
	q.Src, q.Dst = v.Addr("src"), v.Addr("dst")
	if v.Has("group") {
		q.Dst = v.Addr("group")
	}
	if v.Has("mgen") {
		id := uint32(v.Int("mgen"))
		q.MGEN = &id
	}
	return q, nil
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
