package path

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// maxAnswer is the maximum number of flows or packets in a response.
const maxAnswer = 200

// Hops is the response of /api/v1/hops.
type Hops struct {
	Hops []Hop `json:"hops"` // those with the most packets first
	More int   `json:"more"` // number left out
}

// Briefs is the response of /api/v1/flows.
type Briefs struct {
	Flows []Brief `json:"flows"` // those that lose the largest share first
	More  int     `json:"more"`  // number left out
}

// EndedList is the response of /api/v1/packets.
type EndedList struct {
	Packets []Ended `json:"packets"` // oldest first
}

// Archive is what was kept of the past, between two times in nanoseconds since 1970.
type Archive interface {
	Paths(ctx context.Context, from, to int64, q Query) (*Past, error)
	// Ended lists the packets that did not arrive, by time: the last ones if there are more than limit.
	Ended(ctx context.Context, from, to int64, q Query, limit int) ([]Ended, error)
	// Packet finds the newest one with a digest.
	Packet(ctx context.Context, digest uint64) (p Packet, ok bool, err error)
}

// source is what answers are made of.
type source struct {
	e       *Engine
	archive Archive       // nil: nothing is kept
	reading chan struct{} // those who read the archive
}

// Reading the archive has limits.
const (
	maxReading  = 2
	readingTime = 30 * time.Second
)

// Endpoints are the addresses that tell what e knows, and what a has kept of the past; a may be nil.
func Endpoints(e *Engine, a Archive) []api.Endpoint {
	s := &source{e, a, make(chan struct{}, maxReading)}
	limit := api.Parameter{Name: "limit", Kind: api.Integer, Min: 1, Max: maxAnswer, Default: int64(maxAnswer), Meaning: "The most rows of the answer"}
	from := api.Parameter{Name: "from", Kind: api.Integer, Min: -maxTime, Max: maxTime,
		Meaning: "The first second, of what -store has kept: since 1970, or, if negative, relative to now; without it the answer is of the time since the start"}
	to := api.Parameter{Name: "to", Kind: api.Integer, Min: -maxTime, Max: maxTime, Default: int64(0), Meaning: "The second after the last one, as from"}
	flows := []api.Parameter{
		{Name: "src", Kind: api.Address, Meaning: "Only flows from this address"},
		{Name: "dst", Kind: api.Address, Meaning: "Only flows to this address"},
		{Name: "group", Kind: api.Address, Meaning: "Another name of dst"},
		{Name: "mgen", Kind: api.Integer, Max: 1<<32 - 1, Want: "a flow ID", Meaning: "Only flows with this ID of MGEN"},
		from, to, limit,
	}
	notKept := map[int]string{http.StatusNotFound: "Nothing is kept of the past", http.StatusInternalServerError: "What was kept cannot be read"}
	oldest := api.Parameter{Name: "from", Kind: api.Integer, Min: -maxTime, Max: maxTime, Default: int64(-60),
		Meaning: "The first second: since 1970, or, if negative, relative to the newest"}
	return []api.Endpoint{
		{
			Path: "/api/v1/paths", Summary: "Flows, their hops, and the ways that their packets took; those with most packets first",
			Parameters: flows, Answer: Report{}, Errors: notKept,
			Get: func(v api.Values) (any, error) { return s.report(v, int(v.Int("limit"))) },
		}, {
			Path: "/api/v1/hops", Summary: "The hops of all flows together, those with most packets first",
			Parameters: []api.Parameter{from, to, limit}, Answer: Hops{}, Errors: notKept,
			Get: func(v api.Values) (any, error) {
				hops, err := s.hops(v)
				shown := min(len(hops), int(v.Int("limit")))
				return Hops{hops[:shown], len(hops) - shown}, err
			},
		}, {
			Path: "/api/v1/map", Summary: "What went directly from one node to another in a time",
			Parameters: []api.Parameter{oldest, to}, Answer: Map{},
			Get: func(v api.Values) (any, error) {
				from, to, err := spanOf(v)
				if err != nil {
					return nil, err
				}
				return e.Map(from, to), nil
			},
		}, {
			Path: "/api/v1/flows", Summary: "Flows in a few words, since they began; those that lose the largest share first",
			Parameters: []api.Parameter{from, to, limit}, Answer: Briefs{}, Errors: notKept,
			Get: func(v api.Values) (any, error) {
				list, err := s.flows(v)
				shown := min(len(list), int(v.Int("limit")))
				return Briefs{list[:shown], len(list) - shown}, err
			},
		}, {
			Path: "/api/v1/tree", Summary: "As paths, of multicasts only",
			Parameters: flows, Answer: Report{}, Errors: notKept,
			Get: func(v api.Values) (any, error) {
				r, err := s.report(v, 0)
				r.Flows = slices.DeleteFunc(r.Flows, func(f Flow) bool { return !f.Multicast })
				r.Flows = r.Flows[:min(len(r.Flows), int(v.Int("limit")))]
				return r, err
			},
		}, {
			Path: "/api/v1/packets", Summary: "The newest packets that did not arrive, and where each ended",
			Parameters: flows, Answer: EndedList{}, Errors: notKept,
			Get: func(v api.Values) (any, error) {
				list, err := s.ended(v)
				return EndedList{list[max(0, len(list)-int(v.Int("limit"))):]}, err
			},
		}, {
			Path: "/api/v1/packet/{digest}", Summary: "A packet by its digest: where it was seen while it is waited for, or kept, or how it ended",
			Parameters: []api.Parameter{{Name: "digest", InPath: true, Required: true, Pattern: "^[0-9]{1,20}$", Want: digestWant, Meaning: "The digest in decimal"}},
			Answer:     Packet{},
			Errors: map[int]string{
				http.StatusNotFound:            "The packet is neither waited for, nor kept, nor among the newest that did not arrive",
				http.StatusInternalServerError: notKept[http.StatusInternalServerError],
			},
			Get: func(v api.Values) (any, error) {
				digest, err := strconv.ParseUint(v.Text("digest"), 10, 64)
				if err != nil {
					return nil, fmt.Errorf("digest=%q: want %s", v.Text("digest"), digestWant)
				}
				return s.packet(digest)
			},
		},
	}
}

// spanOf reads from and to.
func spanOf(v api.Values) (from, to int64, err error) {
	from, to = v.Int("from"), v.Int("to")
	if to <= from || from < 0 && to > 0 {
		err = errors.New("want from < to, both in UNIX seconds, or both relative to now, as from=-60&to=0")
	}
	return from, to, err
}

// past reports whether the archive is asked for.
func past(v api.Values) bool { return v.Has("from") || v.Has("to") }

// read has read read the archive, between the times that v gives if it has any.
func (s *source) read(v api.Values, read func(ctx context.Context, from, to int64) error) error {
	from, to, err := spanOf(v)
	if err != nil {
		return err
	}
	if from < 0 {
		now := s.e.now1970()
		from, to = from+now, to+now
	}
	return s.readAll(func(ctx context.Context) error { return read(ctx, from*1e9, to*1e9) })
}

func (s *source) readAll(read func(ctx context.Context) error) error {
	if s.archive == nil {
		return &api.Error{Status: http.StatusNotFound, Text: "nothing is kept of the past: start recollect with -store"}
	}
	ctx, stop := context.WithTimeout(context.Background(), readingTime)
	defer stop()
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-ctx.Done():
		return &api.Error{Status: http.StatusInternalServerError, Text: "others read the past"}
	}
	err := read(ctx)
	if err == nil {
		return nil
	}
	failure := &api.Error{Status: http.StatusInternalServerError, Text: err.Error()}
	if errors.Is(err, fs.ErrNotExist) {
		failure.Status = http.StatusNotFound
	}
	if hint := fault.Hint(err); hint != "" {
		failure.Text += ": " + hint
	}
	return failure
}

func (s *source) past(v api.Values, q Query) (p *Past, err error) {
	err = s.read(v, func(ctx context.Context, from, to int64) error {
		p, err = s.archive.Paths(ctx, from, to, q)
		return err
	})
	return p, err
}

func (s *source) report(v api.Values, limit int) (r Report, err error) {
	q, err := queryOf(v)
	switch {
	case err != nil:
		return r, err
	case !past(v):
		return s.e.Report(q, limit), nil
	}
	p, err := s.past(v, q)
	if err != nil {
		return r, err
	}
	return p.Report(limit), nil
}

func (s *source) hops(v api.Values) ([]Hop, error) {
	if !past(v) {
		return s.e.Hops(), nil
	}
	p, err := s.past(v, Query{})
	if err != nil {
		return nil, err
	}
	return p.Hops(), nil
}

func (s *source) flows(v api.Values) ([]Brief, error) {
	if !past(v) {
		return s.e.Brief(), nil
	}
	p, err := s.past(v, Query{})
	if err != nil {
		return nil, err
	}
	return s.e.BriefOf(p), nil
}

func (s *source) ended(v api.Values) (list []Ended, err error) {
	q, err := queryOf(v)
	switch {
	case err != nil:
		return nil, err
	case !past(v):
		return s.e.Ended(q), nil
	}
	err = s.read(v, func(ctx context.Context, from, to int64) error {
		list, err = s.archive.Ended(ctx, from, to, q, int(v.Int("limit")))
		return err
	})
	return append([]Ended{}, list...), err
}

func (s *source) packet(digest uint64) (any, error) {
	p, ok := s.e.Packet(digest)
	if s.archive != nil && len(p.Seen) == 0 {
		err := s.readAll(func(ctx context.Context) error {
			kept, found, err := s.archive.Packet(ctx, digest)
			if found {
				p, ok = kept, true
			}
			if errors.Is(err, fs.ErrNotExist) { // no packets are kept
				err = nil
			}
			return err
		})
		if err != nil && !ok {
			return nil, err
		}
	}
	if !ok {
		return nil, &api.Error{Status: http.StatusNotFound, Text: "no such packet is waited for, nor kept, nor among the newest that did not arrive"}
	}
	return p, nil
}

const (
	digestWant = "a number of 64 bits in decimal"
	maxTime    = 1 << 33 // seconds since 1970, or in the past
)

// queryOf parses src, dst (or group), and mgen.
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

// maxMetrics bounds the number of hops in /metrics: those with the most packets.
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

// Metrics are the metrics of the hops with the most packets, at most 200.
type Metrics struct{ Engine *Engine }

// Describe implements prometheus.Collector.
func (m Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPackets, descLost, descDelay, descJoined, descAlike, descSampled} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
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
