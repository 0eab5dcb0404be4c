package web

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
)

type losing struct {
	*source
	lost uint64
}

func (l *losing) Lost() uint64 { return l.lost }

// TestProblems: each kind is told while it lasts, the worst first, and how long.
func TestProblems(t *testing.T) {
	src := &losing{source: newSource()}
	src.agents[0].Losses = []Loss{{"capture", 3}}
	src.agents[0].Detail.Lost = 0
	s := &Server{source: src, rules: DefaultRules()}
	broken := ""
	s.Watch(func() string { return broken })
	s.Judge(func(time.Time) []Problem {
		return []Problem{{Kind: "loss", Text: "n1 → n2 loses 50 %", Severity: SevereLoss + 20}}
	})
	kinds := func(now time.Time, snap *rollup.Snapshot) (kinds string) {
		s.judge(now, snap)
		for _, p := range s.problems.get() {
			kinds += p.Kind + " "
		}
		return kinds
	}
	now := time.Unix(1_700_000_000, 0)
	snap := &rollup.Snapshot{Hosts: []rollup.HostStatus{{HasAge: true, Age: -2 * time.Second}, {}}}
	if got := kinds(now, snap); got != "agent loss drops clock " {
		t.Errorf("got %q", got)
	}
	list := s.problems.get()
	if p := list[0]; p.Since != now.Unix() || !strings.Contains(p.Text, hostile) || !strings.Contains(p.Text, "no answer") || !p.Monitoring {
		t.Errorf("%+v", p)
	}
	if got := kinds(now.Add(time.Second), &rollup.Snapshot{}); got != "agent loss drops clock " {
		t.Errorf("judged again at once: %q", got)
	}
	// The old drop is over, another is new; the agent is down since then.
	broken, src.lost = "the disk is full", 0
	now = now.Add(DefaultRules().Drops + time.Second)
	if got := kinds(now, &rollup.Snapshot{}); got != "failing agent loss " {
		t.Errorf("got %q", got)
	}
	src.lost = 8112
	now = now.Add(judgeEvery)
	if got := kinds(now, &rollup.Snapshot{}); got != "failing agent loss drops " {
		t.Errorf("got %q", got)
	}
	if list = s.problems.get(); list[1].Since != 1_700_000_000 || list[3].Since != now.Unix() || !strings.Contains(list[3].Text, "8112") {
		t.Errorf("%+v", list)
	}
	src.agents[1].State = Connected
	now = now.Add(judgeEvery)
	if got := kinds(now, &rollup.Snapshot{}); got != "failing loss drops " {
		t.Errorf("got %q", got)
	}
}

// TestProblemsAnswer is what docs/api.md says.
func TestProblemsAnswer(t *testing.T) {
	src := newSource()
	s := start(t, src)
	src.tick()
	var v struct {
		Problems []Problem
		More     int
	}
	for deadline := time.Now().Add(10 * time.Second); len(v.Problems) == 0; {
		_, body := get(t, s, "/api/v1/problems?limit=1", nil)
		if err := json.Unmarshal(body, &v); err != nil || time.Now().After(deadline) {
			t.Fatalf("%v: %s", err, body)
		}
	}
	if v.Problems[0].Kind != "agent" || v.More == 0 {
		t.Errorf("%+v", v)
	}
	for query, want := range map[string]string{"limit=0": "from 1 to 100", "limt=1": `"limt"`, "limit=x": "limit"} {
		answer, body := get(t, s, "/api/v1/problems?"+query, nil)
		if text := wantError(t, query, answer, body); answer.StatusCode != 400 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", query, answer.StatusCode, text)
		}
	}
}
