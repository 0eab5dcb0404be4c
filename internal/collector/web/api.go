package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/rollup"
)

const (
	// maxPoints is the maximum number of points in a series.
	maxPoints = 7200
	// maxRange is the maximum length of a time range, in seconds, and maxTime the last
	// second that may be requested (year 2106, the limit of the 28-byte feed).
	maxRange = 10 * 366 * 86400
	maxTime  = 1<<32 - 1
)

// Endpoints describes the addresses that s serves, except those added with Add.
func Endpoints(s *Server) []api.Endpoint {
	metrics := sync.OnceValue(s.metrics)
	list := []api.Endpoint{
		{
			Path: "/api/v1/setup", Summary: "What stays the same until the configuration changes",
			Answer: Setup{},
			Get:    func(api.Values) (any, error) { return s.source.Setup(), nil },
		}, {
			Path: "/api/v1/frame", Summary: "The newest state: agents, the collector, and the newest seconds",
			Answer: frameJSON{},
			Serve:  func(w http.ResponseWriter, r *http.Request, _ api.Values) { s.answer(w, r, query{kind: "frame"}) },
		}, {
			Path: streamPath, Summary: "Server-sent events: a frame each second, and the requested topics",
			Type:       "text/event-stream",
			Parameters: []api.Parameter{topicParameter},
			Errors:     map[int]string{http.StatusServiceUnavailable: "Too many streams are open"},
			Serve:      s.stream,
		}, {
			Method: http.MethodPost, Path: replayPath, Summary: "Controls the replay of logs",
			Body: Steering{}, Answer: Replay{},
			Errors: map[int]string{http.StatusNotFound: "Nothing is being replayed"},
			Serve:  s.steer,
		}, {
			Path: "/api/v1/ledger", Summary: "What has become of the records that the monitoring handled",
			Answer: ledgerJSON{},
			Get:    func(api.Values) (any, error) { return ledgerOf(s.book), nil },
		}, {
			Path: "/api/v1/problems", Summary: "Current problems, the worst first",
			Parameters: []api.Parameter{limitParameter(maxProblems, maxProblems)},
			Answer:     Problems{},
			Get:        s.problemsAnswer,
		}, {
			Path: "/api/v1/openapi.json", Summary: "This description",
			Answer: map[string]any{},
			Serve:  func(w http.ResponseWriter, r *http.Request, _ api.Values) { send(w, r, api.Document) },
		}, {
			Path: healthPath, Summary: "Whether the collector works, for service managers and load balancers; requires no credentials",
			Answer: healthOfAll{},
			Errors: map[int]string{http.StatusServiceUnavailable: "Something fails: status says what"},
			Serve:  s.health,
		}, {
			Path: "/metrics", Summary: "Counters for Prometheus",
			Type:  "text/plain",
			Serve: func(w http.ResponseWriter, r *http.Request, _ api.Values) { metrics().ServeHTTP(w, r) },
		},
	}
	for _, v := range views {
		list = append(list, api.Endpoint{
			Path: "/api/v1/" + v.path, Summary: v.summary, Parameters: v.parameters, Answer: v.answer,
			Serve: func(w http.ResponseWriter, r *http.Request, values api.Values) {
				q := query{kind: v.kind}
				if err := q.parse(values); err != nil {
					fail(w, http.StatusBadRequest, err.Error())
					return
				}
				s.answer(w, r, q)
			},
		})
	}
	return list
}

// Parameters of several endpoints.
var (
	fromParameter = api.Parameter{
		Name: "from", Kind: api.Integer, Min: -maxRange, Max: maxTime, Default: int64(-300),
		Meaning: "The first second, since 1970 or, if negative, relative to the newest completed second",
	}
	toParameter = api.Parameter{
		Name: "to", Kind: api.Integer, Min: -maxRange, Max: maxTime, Default: int64(0),
		Meaning: "The second after the last one, in the same form as from",
	}
	stepParameter = api.Parameter{
		Name: "step", Kind: api.Integer, Min: 1, Max: maxRange,
		Meaning: "Seconds per point of a series; by default there are at most 600 points",
	}
)

func limitParameter(usual, most int64) api.Parameter {
	return api.Parameter{Name: "limit", Kind: api.Integer, Min: 1, Max: most, Default: usual, Meaning: "Maximum number of rows in the response"}
}

// views are the views of a snapshot that can be requested.
var views = []struct {
	path, kind, summary string
	parameters          []api.Parameter
	answer              any
}{
	{"overview", "overview", "Traffic of all flows and hosts over time", []api.Parameter{fromParameter, toParameter, stepParameter}, overviewJSON{}},
	{"hosts", "hosts", "Traffic of each host over time", []api.Parameter{fromParameter, toParameter, stepParameter}, hostsJSON{}},
	{"matrix", "matrix", "Traffic between each pair of hosts, the heaviest first", []api.Parameter{fromParameter, toParameter, limitParameter(maxRows, maxRows)}, matrixJSON{}},
	{"talkers", "talkers", "Conversations by addresses and ports, the heaviest first", []api.Parameter{fromParameter, toParameter, limitParameter(maxRows, maxRows)}, talkersJSON{}},
	{"mgen", "mgen", "MGEN flows in the order of their IDs", []api.Parameter{fromParameter, toParameter,
		{Name: "limit", Kind: api.Integer, Min: 1, Max: maxRows, Meaning: "Maximum number of flows in the response; all by default"}}, mgenJSON{}},
	{"mgen/history", "history", "An MGEN flow over time", []api.Parameter{fromParameter, toParameter, stepParameter,
		{Name: "id", Kind: api.Integer, Max: 1<<32 - 1, Required: true, Meaning: "The flow's ID"},
		{Name: "src", Kind: api.Address, Required: true, Meaning: "The sender"},
		{Name: "srcPort", Kind: api.Integer, Max: 1<<16 - 1, Required: true, Meaning: "The sender's port"},
		{Name: "dst", Kind: api.Address, Required: true, Meaning: "The receiver, or a group"},
		{Name: "dstPort", Kind: api.Integer, Max: 1<<16 - 1, Required: true, Meaning: "The receiver's port"},
		{Name: "proto", Kind: api.Integer, Max: 1<<8 - 1, Required: true, Meaning: "The IP protocol number"},
	}, mgenHistoryJSON{}},
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, q query) {
	sendPart(w, r, &s.cache.get(s.source, s.source.Snapshot(), q).json)
}

// parse parses from, to, and step, and the parameters that identify an MGEN flow.
func (q *query) parse(v api.Values) error {
	w := &q.window
	w.From, w.To = v.Int("from"), v.Int("to")
	if q.kind == "overview" || q.kind == "hosts" || q.kind == "history" {
		w.Step = v.Int("step")
	} else if v.Has("limit") {
		q.limit = int(v.Int("limit"))
	}
	// In neither case could packets have been counted.
	q.relative = w.From < 0
	if q.kind == "history" {
		q.id = uint32(v.Int("id"))
		q.tuple = rollup.Tuple{
			Src: v.Addr("src"), Dst: v.Addr("dst"),
			SrcPort: uint16(v.Int("srcPort")), DstPort: uint16(v.Int("dstPort")), Proto: uint8(v.Int("proto")),
		}
	}
	switch length := w.To - w.From; {
	case w.To <= w.From || length > maxRange:
		return errors.New("want from < to, both in UNIX seconds, or both relative to now, as from=-300&to=0")
	case w.Step > 0 && length/w.Step > maxPoints:
		return fmt.Errorf("step=%d: want at least 1 and at most %d points", w.Step, maxPoints)
	}
	return nil
}

// send sends a JSON response.
func send(w http.ResponseWriter, r *http.Request, body []byte) { sendPart(w, r, &part{plain: body}) }

func sendPart(w http.ResponseWriter, r *http.Request, p *part) {
	body := p.plain
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	if len(body) > 2048 && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = p.gzip()
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

// fail sends a response that says what is wrong.
func fail(w http.ResponseWriter, code int, text string) { api.Fail(w, code, text) }

// staleAfter is the maximum age of the newest snapshot while the program is healthy.
const staleAfter = 10 * time.Second

// watch records when snapshots arrive, and adds up the totals, until ctx is done.
func (s *Server) watch(ctx context.Context) error {
	for seq := uint64(0); ; {
		snap, err := s.source.Next(ctx, seq)
		if err != nil {
			return nil // ctx is done
		}
		seq = snap.Seq
		s.newest.Store(time.Now().UnixNano())
		s.totals.add(snap)
		s.judge(time.Now(), snap)
	}
}

// healthOfAll is the response of /healthz.
type healthOfAll struct {
	Status      string  `json:"status"`      // "ok", or what fails, why, and since when
	SnapshotAge float64 `json:"snapshotAge"` // seconds
	Agents      int     `json:"agents"`
	Connected   int     `json:"connected"` // number of connected agents
}

// health returns 200 as long as snapshots are created; whether agents respond is not
// this program's health.
func (s *Server) health(w http.ResponseWriter, r *http.Request, _ api.Values) {
	agents := slices.DeleteFunc(s.source.Agents(), func(a Agent) bool { return a.State == Removed })
	age := time.Since(time.Unix(0, s.newest.Load()))
	body := healthOfAll{Status: "ok", SnapshotAge: age.Seconds(), Agents: len(agents)}
	for i := range agents {
		if agents[i].State == Connected {
			body.Connected++
		}
	}
	if why := s.unhealthy(age); why != "" {
		body.Status = why
		w.Header().Set("Content-Type", api.JSON)
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write(encode(body))
		return
	}
	send(w, r, encode(body))
}

// unhealthy returns what fails, or "".
func (s *Server) unhealthy(snapshotAge time.Duration) string {
	if snapshotAge > staleAfter {
		return "no new snapshot for too long"
	}
	for _, failing := range s.failing {
		if why := failing(); why != "" {
			return why
		}
	}
	return s.book.Failing()
}
