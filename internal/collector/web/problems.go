package web

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/collector/rollup"
)

// Thresholds for problems; those of the network are LossShare and LossPackets.
const (
	// LossShare is the share of lost packets on a hop that counts as a problem, from 0
	// to 1, if at least LossPackets were sent.
	LossShare   = 0.01
	LossPackets = 20
	// clockAhead and clockBehind bound the normal age of an agent's most recent packet
	// on arrival, in seconds.
	clockAhead, clockBehind = -0.5, 1.5
	// dropsShown is how long dropped records are reported as a current problem.
	dropsShown = 5 * time.Minute
	// judgeEvery is the interval at which problems are looked for.
	judgeEvery = 5 * time.Second
	// maxProblems is the maximum number of problems in a response.
	maxProblems = 100
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
	// Kind is loss, silent, agent, clock, drops, or failing.
	Kind string `json:"kind" enum:"loss,silent,agent,clock,drops,failing"`
	// Monitoring means that the monitoring is at fault, not the network.
	Monitoring bool   `json:"monitoring"`
	Text       string `json:"text"`            // a sentence without a period
	Since      int64  `json:"since,omitempty"` // seconds since 1970; 0 if unknown
	View       string `json:"view"`            // the page's view that shows it
	Pick       string `json:"pick,omitempty"`  // what to select there: "@" and a node's name, or a flow as in the page's addresses
	Severity   int    `json:"severity"`        // 0 to 100, for sorting
}

// Judge registers a function that returns problems, which is called every few seconds.
// Call it before Run.
func (s *Server) Judge(judge func(now time.Time) []Problem) { s.judges = append(s.judges, judge) }

// problems is what is wrong, and the state needed to detect that.
type problems struct {
	mu     sync.Mutex
	list   []Problem
	judged time.Time
	down   map[int]time.Time // agents that are not connected, and since when
	drops  map[string]*drops
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
	list := append(p.agents(now, s.source, snap), p.dropped(now, s.source, snap)...)
	for _, failing := range s.failing {
		if why := failing(); why != "" {
			list = append(list, Problem{Kind: "failing", Monitoring: true, Text: why, View: "overview", Severity: severeFailing})
		}
	}
	for _, judge := range s.judges {
		list = append(list, judge(now)...)
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Compare(b.Severity, a.Severity) })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
}

// agents returns problems of agents that are not connected, or whose clocks are wrong.
func (p *problems) agents(now time.Time, source Source, snap *rollup.Snapshot) (list []Problem) {
	if p.down == nil {
		p.down = map[int]time.Time{}
	}
	setup := source.Setup()
	for i, h := range hostStates(source, snap) {
		if i >= len(setup.Hosts) || h.State == Removed {
			continue
		}
		name := cmp.Or(setup.Hosts[i].Name, setup.Hosts[i].Label)
		if h.State == Connected {
			delete(p.down, i)
			if text := clockText(&h); text != "" {
				list = append(list, Problem{Kind: "clock", Monitoring: true, Text: name + ": " + text, View: "hosts", Severity: severeClock})
			}
			continue
		}
		if p.down[i].IsZero() {
			p.down[i] = now
		}
		text := fmt.Sprintf("agent %s is not connected", name)
		if h.Status != "" {
			text += ": " + h.Status
		}
		list = append(list, Problem{Kind: "agent", Monitoring: true, Text: text, Since: p.down[i].Unix(), View: "overview", Severity: severeAgent})
	}
	return list
}

// clockText describes what is wrong with an agent's clock, or returns "".
func clockText(h *hostStateJSON) string {
	switch {
	case h.Age != nil && *h.Age < clockAhead:
		return fmt.Sprintf("its clock is at least %.1f s ahead of the collector's", -*h.Age)
	case h.FutureNow:
		return "its clock is ahead of the collector's"
	case h.Age != nil && *h.Age > clockBehind:
		return fmt.Sprintf("its records are at least %.1f s old on arrival: its clock is behind, or something is overloaded", *h.Age)
	case h.LateNow:
		return "its records are late: its clock is behind, or something is overloaded"
	}
	return ""
}

// dropped returns problems for records that the monitoring lost recently.
func (p *problems) dropped(now time.Time, source Source, snap *rollup.Snapshot) (list []Problem) {
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
			if now.Sub(d.last) > dropsShown {
				d.first = now
			}
			d.count, d.last = count, now
		}
		if count > 0 && now.Sub(d.last) < dropsShown {
			list = append(list, Problem{Kind: "drops", Monitoring: true, Text: fmt.Sprintf("%s: %d since the start", who, count), Since: d.first.Unix(), View: view, Severity: severeDrops})
		}
	}
	note("records lost before they were counted, as the collector was too slow", "overview", source.Lost())
	if a := snap.Archive; a != nil {
		note("parts of the history that could not be written", "overview", a.Lost)
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
