package web

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

const (
	// judgeEvery is the interval at which problems are looked for.
	judgeEvery = 5 * time.Second
	// endAfter is how long a problem has to be away to have ended: one at the edge of a threshold neither
	// begins again and again nor tells everyone so.
	endAfter = 3 * judgeEvery
	// maxProblems is the maximum number of problems in a response; maxKnown is that of problems
	// that are followed.
	maxProblems, maxKnown = 100, 10_000
)

// Severities of problems; higher is worse. A loss in the network adds up to 40 in
// proportion to its share.
const (
	severeFailing = 100
	SevereSilent  = 95 // a member of a group that receives nothing
	severeAgent   = 80
	SevereLoss    = 50
	severeDrops   = 45
	severeClock   = 40
)

// Problem is something that is wrong now.
type Problem struct {
	// ID stays the same while the problem lasts: its kind, a colon, and what it is about.
	ID string `json:"id"`
	// Kind is loss, silent, agent, clock, drops, or failing.
	Kind string `json:"kind" enum:"loss,silent,agent,clock,drops,failing"`
	// Monitoring means that the monitoring is at fault, not the network.
	Monitoring bool   `json:"monitoring"`
	Text       string `json:"text"`            // a sentence without a period
	Since      int64  `json:"since,omitempty"` // seconds since 1970: when it was noticed first
	View       string `json:"view"`            // the page's view that shows it
	Pick       string `json:"pick,omitempty"`  // what to select there: "@" and a node's name, or a flow as in the page's addresses
	Link       string `json:"link"`            // of view and pick, relative to the page's address
	Severity   int    `json:"severity"`        // 0 to 100, for sorting
}

// Judge registers a function that returns problems, which is called every few seconds.
// Call it before Run.
func (s *Server) Judge(judge func(now time.Time) []Problem) { s.judges = append(s.judges, judge) }

// Alert has the server follow these rules instead of DefaultRules. Call it before Run, and after Account.
func (s *Server) Alert(r *Rules) {
	s.rules = r
	for _, h := range r.webhooks {
		s.book.Add(h.account)
		s.book.Watch(h.health)
	}
}

// problems is what is wrong, and the state needed to detect that.
type problems struct {
	mu     sync.Mutex
	list   []Problem
	judged time.Time
	known  map[string]*known // by ID
	down   map[int]time.Time // agents that are not connected, and since when
	drops  map[string]*drops
}

// known is a problem that has begun and not ended.
type known struct {
	Problem
	last time.Time // when it was found
}

// drops are the drops of a part of the monitoring.
type drops struct {
	count       uint64
	first, last time.Time // when the count increased
}

func (p *problems) get() []Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Problem{}, p.list...)
}

// judge looks for problems, unless that was done recently.
func (s *Server) judge(now time.Time, snap *rollup.Snapshot) {
	p := &s.problems
	if now.Sub(p.judged) < judgeEvery {
		return
	}
	p.judged = now
	list := append(p.agents(now, s, snap), p.dropped(now, s, snap)...)
	for i, failing := range s.failing {
		if why := failing(); why != "" {
			list = append(list, Problem{ID: fmt.Sprint("failing:", i), Kind: "failing", Monitoring: true, Text: why, View: "overview", Severity: severeFailing})
		}
	}
	// Each agent that is not connected is a problem of its own, so the feed's is none.
	for _, h := range s.book.Health() {
		if h.Failing != "" && h.Stage != ledger.Feed {
			list = append(list, Problem{
				ID: "failing:" + h.Stage + " " + h.Name, Kind: "failing", Monitoring: true, Text: h.Sentence(), View: "monitoring", Severity: severeFailing,
			})
		}
	}
	for _, judge := range s.judges {
		list = append(list, judge(now)...)
	}
	list = slices.DeleteFunc(list, func(p Problem) bool { return s.rules.Off(p.Kind) })
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(b.Severity, a.Severity) })
	for _, n := range p.follow(now, list[:min(len(list), maxKnown)]) {
		n.Collector = s.address
		n.Link = s.address + n.Problem.Link
		for _, h := range s.rules.webhooks {
			h.put(n)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
}

// follow completes what was found, and returns what has begun and ended.
func (p *problems) follow(now time.Time, list []Problem) (notices []Notice) {
	if p.known == nil {
		p.known = map[string]*known{}
	}
	for i := range list {
		found := &list[i]
		found.Link = "#" + found.View
		if found.Pick != "" {
			found.Link += "?pick=" + url.QueryEscape(found.Pick)
		}
		k := p.known[found.ID]
		if k == nil {
			k = &known{Problem: Problem{Since: cmp.Or(found.Since, now.Unix())}}
			p.known[found.ID] = k
		}
		found.Since = cmp.Or(found.Since, k.Since)
		begins := k.last.IsZero()
		k.Problem, k.last = *found, now
		if begins {
			notices = append(notices, Notice{Event: "begin", Time: now.Unix(), Problem: *found})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.known)) {
		if k := p.known[id]; now.Sub(k.last) >= endAfter {
			delete(p.known, id)
			notices = append(notices, Notice{Event: "end", Time: now.Unix(), Problem: k.Problem})
		}
	}
	return notices
}

// agents returns problems of agents that are not connected, or whose clocks are wrong.
func (p *problems) agents(now time.Time, s *Server, snap *rollup.Snapshot) (list []Problem) {
	if p.down == nil {
		p.down = map[int]time.Time{}
	}
	setup := s.source.Setup()
	for i, h := range hostStates(s.source, snap) {
		if i >= len(setup.Hosts) || h.State == Removed {
			continue
		}
		name := cmp.Or(setup.Hosts[i].Name, setup.Hosts[i].Label)
		if h.State == Connected {
			delete(p.down, i)
			if text := s.rules.clockText(&h); text != "" {
				list = append(list, Problem{ID: "clock:" + setup.Hosts[i].Label, Kind: "clock", Monitoring: true, Text: name + ": " + text, View: "hosts", Severity: severeClock})
			}
			continue
		}
		if p.down[i].IsZero() {
			p.down[i] = now
		}
		if now.Sub(p.down[i]) < s.rules.Agent {
			continue
		}
		text := fmt.Sprintf("agent %s is not connected", name)
		if h.Status != "" {
			text += ": " + h.Status
		}
		list = append(list, Problem{ID: "agent:" + setup.Hosts[i].Label, Kind: "agent", Monitoring: true, Text: text, Since: p.down[i].Unix(), View: "overview", Severity: severeAgent})
	}
	return list
}

// clockText describes what is wrong with an agent's clock, or returns "".
func (r *Rules) clockText(h *hostStateJSON) string {
	switch {
	case h.Age != nil && *h.Age < -r.ClockAhead.Seconds():
		return fmt.Sprintf("its clock is at least %.1f s ahead of the collector's", -*h.Age)
	case h.FutureNow:
		return "its clock is ahead of the collector's"
	case h.Age != nil && *h.Age > r.ClockBehind.Seconds():
		return fmt.Sprintf("its records are at least %.1f s old on arrival: its clock is behind, or something is overloaded", *h.Age)
	case h.LateNow:
		return "its records are late: its clock is behind, or something is overloaded"
	}
	return ""
}

// elsewhere are stages whose losses are told as those of agents, or of what the page shows.
var elsewhere = map[string]bool{ledger.Feed: true, ledger.Lines: true, ledger.Page: true, ledger.Detail: true, ledger.Aggregates: true}

// dropped returns problems for records that the monitoring lost recently.
func (p *problems) dropped(now time.Time, s *Server, snap *rollup.Snapshot) (list []Problem) {
	source := s.source
	if p.drops == nil {
		p.drops = map[string]*drops{}
	}
	note := func(who, view string, count uint64) {
		d := p.drops[who]
		if d == nil {
			d = &drops{}
			p.drops[who] = d
		}
		if count > d.count {
			if now.Sub(d.last) > s.rules.Drops {
				d.first = now
			}
			d.count, d.last = count, now
		}
		if count > 0 && now.Sub(d.last) < s.rules.Drops {
			list = append(list, Problem{ID: "drops:" + who, Kind: "drops", Monitoring: true, Text: fmt.Sprintf("%s: %d since the start", who, count), Since: d.first.Unix(), View: view, Severity: severeDrops})
		}
	}
	note("records lost before they were counted, as the collector was too slow", "overview", source.Lost())
	if a := snap.Archive; a != nil {
		note("parts of the history that could not be written", "overview", a.Lost)
	}
	for _, e := range s.book.Now() { // losses need not add up
		if elsewhere[e.Stage] {
			continue
		}
		for _, l := range e.Lost {
			note(fmt.Sprintf("%s of %s lost (%s)", e.Unit, e.Title(), l.Reason), "monitoring", l.Count)
		}
	}
	setup := source.Setup()
	for i, a := range source.Agents() {
		if i >= len(setup.Hosts) || a.State == Removed {
			continue
		}
		name := cmp.Or(setup.Hosts[i].Name, setup.Hosts[i].Label)
		for _, l := range a.Losses {
			note(fmt.Sprintf("records of agent %s lost (%s)", name, l.Stage), "overview", l.Count)
		}
		if a.Detail != nil {
			note(fmt.Sprintf("records of agent %s that were not kept", name), "hosts", a.Detail.Lost)
		}
	}
	return list
}

// Problems is the response of /api/v1/problems.
type Problems struct {
	Problems []Problem `json:"problems"` // the worst first
	More     int       `json:"more"`     // number left out
}

func (s *Server) problemsAnswer(v api.Values) (any, error) {
	list := s.problems.get()
	shown := min(len(list), int(v.Int("limit")))
	return Problems{list[:shown], len(list) - shown}, nil
}

var descProblems = desc("problems", "What is wrong now, by kind.", "kind")

// Describe implements prometheus.Collector.
func (p *problems) Describe(ch chan<- *prometheus.Desc) { ch <- descProblems }

// Collect implements prometheus.Collector.
func (p *problems) Collect(ch chan<- prometheus.Metric) {
	count := map[string]int{}
	for _, one := range p.get() {
		count[one.Kind]++
	}
	for _, kind := range kinds {
		ch <- prometheus.MustNewConstMetric(descProblems, prometheus.GaugeValue, float64(count[kind]), kind)
	}
}
