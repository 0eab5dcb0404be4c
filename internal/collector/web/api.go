package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

const (
	// maxSteps is the most values of a series that are given at once.
	maxPoints = 7200
	// maxRange is the longest range, in seconds, and maxTime the last second
	// that may be asked for (year 2106, as far as the 28-byte feed reaches).
	maxRange = 10 * 366 * 86400
	maxTime  = 1<<32 - 1
)

func (s *Server) addAPI(mux *http.ServeMux) {
	mux.HandleFunc("GET "+streamPath, taking(s.stream, "topic..."))
	mux.HandleFunc("GET /api/v1/setup", taking(func(w http.ResponseWriter, r *http.Request) {
		send(w, r, encode(s.source.Setup()))
	}))
	mux.HandleFunc("POST "+replayPath, taking(s.steer))
	mux.HandleFunc("GET "+replayPath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", "POST")
		fail(w, http.StatusMethodNotAllowed, "only POST; the state of a replay is in /api/v1/frame")
	})
	mux.HandleFunc("GET /api/v1/frame", taking(func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, query{kind: "frame"})
	}))
	mux.HandleFunc("GET /api/v1/ledger", taking(s.ledgerAnswer))
	mux.HandleFunc("GET /api/v1/problems", taking(s.problemsAnswer, "limit"))
	for path, v := range views {
		mux.HandleFunc("GET /api/v1/"+path, taking(func(w http.ResponseWriter, r *http.Request) {
			q := query{kind: v.kind}
			if err := q.parse(r.URL.Query()); err != nil {
				fail(w, http.StatusBadRequest, err.Error())
				return
			}
			s.answer(w, r, q)
		}, v.parameters...))
	}
}

// views are what a snapshot can be asked for, by their address below /api/v1/.
var views = map[string]struct {
	kind       string
	parameters []string
}{
	"overview":     {"overview", []string{"from", "to", "step"}},
	"hosts":        {"hosts", []string{"from", "to", "step"}},
	"matrix":       {"matrix", []string{"from", "to", "limit"}},
	"talkers":      {"talkers", []string{"from", "to", "limit"}},
	"mgen":         {"mgen", []string{"from", "to", "limit"}},
	"mgen/history": {"history", []string{"from", "to", "step", "id", "src", "srcPort", "dst", "dstPort", "proto"}},
}

// taking refuses requests with parameters that next does not use, or that are given twice
// although their name does not end in "...": a misspelled one would change the answer silently.
func taking(next http.HandlerFunc, names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := checkParameters(r.URL.RawQuery, names); err != nil {
			fail(w, http.StatusBadRequest, err.Error())
			return
		}
		next(w, r)
	}
}

func checkParameters(raw string, names []string) error {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("the parameters cannot be read: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case slices.Contains(names, name+"..."):
		case !slices.Contains(names, name) && len(names) == 0:
			return fmt.Errorf("parameter %.40q: this address takes none", name)
		case !slices.Contains(names, name):
			return fmt.Errorf("parameter %.40q: this address takes only %s", name, strings.ReplaceAll(strings.Join(names, ", "), "...", ""))
		case len(values[name]) > 1:
			return fmt.Errorf("parameter %q is given %d times", name, len(values[name]))
		}
	}
	return nil
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, q query) {
	sendPart(w, r, &s.cache.get(s.source, s.source.Snapshot(), q).json)
}

// parse reads from, to and step, and what names an MGEN flow.
func (q *query) parse(values url.Values) error {
	p := parameters{values: values}
	w := &q.window
	w.From, w.To, w.Step = p.number("from", -300), p.number("to", 0), p.number("step", 0)
	// Neither is a time when there were packets to count.
	q.relative = w.From < 0
	if p.values.Has("limit") {
		if q.limit = int(p.unsigned("limit", maxRows)); q.limit == 0 {
			p.failed("limit", fmt.Sprintf("a number from 1 to %d", maxRows))
		}
	}
	if q.kind == "history" {
		q.id = uint32(p.unsigned("id", 1<<32-1))
		q.tuple = rollup.Tuple{
			Src: p.address("src"), Dst: p.address("dst"),
			SrcPort: uint16(p.unsigned("srcPort", 1<<16-1)), DstPort: uint16(p.unsigned("dstPort", 1<<16-1)),
			Proto: uint8(p.unsigned("proto", 1<<8-1)),
		}
	}
	switch length := w.To - w.From; {
	case p.err != nil:
		return p.err
	case w.To <= w.From || w.From < -maxRange || w.To > maxTime || length > maxRange:
		return errors.New("want from < to, both in UNIX seconds, or both relative to now, as from=-300&to=0")
	case w.Step < 0 || w.Step > 0 && length/w.Step > maxPoints:
		return fmt.Errorf("step=%d: want at least 1 and at most %d points", w.Step, maxPoints)
	}
	return nil
}

// parameters reads a query string; err is the first thing that was wrong.
type parameters struct {
	values url.Values
	err    error
}

func (p *parameters) failed(name, want string) {
	if p.err == nil {
		p.err = fmt.Errorf("%s=%.40q: want %s", name, p.values.Get(name), want)
	}
}

func (p *parameters) number(name string, otherwise int64) int64 {
	if !p.values.Has(name) {
		return otherwise
	}
	n, err := strconv.ParseInt(p.values.Get(name), 10, 64)
	if err != nil {
		p.failed(name, "a number of seconds")
	}
	return n
}

func (p *parameters) unsigned(name string, limit uint64) uint64 {
	n, err := strconv.ParseUint(p.values.Get(name), 10, 64)
	if err != nil || n > limit {
		p.failed(name, fmt.Sprintf("a number up to %d", limit))
	}
	return n
}

func (p *parameters) address(name string) netip.Addr {
	a, err := netip.ParseAddr(p.values.Get(name))
	if err != nil || a.Zone() != "" {
		p.failed(name, "an IP address")
	}
	return a.Unmap()
}

// send answers with JSON.
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

// fail is an answer that says what is wrong.
func fail(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(encode(map[string]string{"error": text}))
}

// staleAfter is how old the newest snapshot may be while the program is well.
const staleAfter = 10 * time.Second

// watch notes when snapshots come, and adds up the totals, until ctx is done.
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

// health is 200 while snapshots are made; whether agents answer is not this
// program's health.
func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	agents, connected := slices.DeleteFunc(s.source.Agents(), func(a Agent) bool { return a.State == Removed }), 0
	for i := range agents {
		if agents[i].State == Connected {
			connected++
		}
	}
	age := time.Since(time.Unix(0, s.newest.Load()))
	body := map[string]any{"status": "ok", "snapshotAge": age.Seconds(), "agents": len(agents), "connected": connected}
	if why := s.unhealthy(age); why != "" {
		body["status"] = why
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		w.Write(encode(body))
		return
	}
	send(w, r, encode(body))
}

// unhealthy says what does not work, or "".
func (s *Server) unhealthy(snapshotAge time.Duration) string {
	if snapshotAge > staleAfter {
		return "no new snapshot for too long"
	}
	for _, failing := range s.failing {
		if why := failing(); why != "" {
			return why
		}
	}
	return ""
}
