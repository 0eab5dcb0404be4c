package web

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

func rulesOf(t *testing.T, text string) (*Rules, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadRules(file)
}

// TestRules: what a file says, and what it may not say.
func TestRules(t *testing.T) {
	r, err := rulesOf(t, "# comment\n\nloss = 5%  # a lossy radio\nloss-packets=100\nclock-ahead = 2s\nagent-away = 1m\nclock = off\n"+
		"webhook = https://ops.example/hook?key=a#b\nwebhook = http://127.0.0.1:1/\n")
	if err != nil {
		t.Fatal(err)
	}
	if r.LossShare != 0.05 || r.LossPackets != 100 || r.SilentPackets != 20 || r.ClockAhead != 2*time.Second || r.Agent != time.Minute ||
		!r.Off("clock") || r.Off("loss") || len(r.webhooks) != 2 || r.webhooks[0].url.Fragment != "b" {
		t.Errorf("%+v", r)
	}
	for text, want := range map[string]string{
		"loss":                                  "rules:1: want KEY = VALUE",
		"\nloss = 5":                            `rules:2: loss = "5": want a share`,
		"loss = 0%":                             "want a share",
		"loss = 5%\nloss = 6%":                  "rules:2: loss is there twice",
		"los = 5%":                              "did you mean loss?",
		"surprise = 1":                          `unknown rule "surprise": want loss-packets`,
		"silent = 5":                            "want on or off",
		"agent-away = -1s":                      "want a time",
		"loss-packets = 0":                      "want a number",
		"webhook = ops.example":                 "want https://HOST/PATH",
		"webhook = https://a:b@ops.example:x/":  "want https://HOST/PATH",
		"webhook = https://ops.example token=x": "want token-file=FILE",
		"webhook = https://ops.example/ token-file=/nonexistent/x": "no such file",
	} {
		if _, err := rulesOf(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "a:b") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

// TestProblemsBeginAndEnd: webhooks hear of a problem once when it begins, and once when it has been away
// for a while; what goes on and off again meanwhile is the same problem.
func TestProblemsBeginAndEnd(t *testing.T) {
	r, err := rulesOf(t, "webhook = http://127.0.0.1:1/\ndrops = off\nclock = off\nagent-away = 1h\n")
	if err != nil {
		t.Fatal(err)
	}
	src := newSource()
	s := &Server{source: src, address: "http://lab:7080/"}
	s.Alert(r)
	lost := true
	s.Judge(func(time.Time) []Problem {
		if !lost {
			return nil
		}
		return []Problem{{ID: "loss:n1 > n2", Kind: "loss", Text: "n1 loses", View: "map", Pick: "@n1", Severity: SevereLoss}}
	})
	begin := time.Unix(1_700_000_000, 0)
	for i, is := range []bool{true, true, false, true, true, false, false, false, false, true} {
		lost = is
		s.judge(begin.Add(time.Duration(i)*judgeEvery), &rollup.Snapshot{})
	}
	var got []string
	for _, n := range r.webhooks[0].queue {
		got = append(got, n.Event, time.Unix(n.Time, 0).Sub(begin).String())
		if n.Link != "http://lab:7080/#map?pick=%40n1" || n.Problem.ID != "loss:n1 > n2" || n.Collector != "http://lab:7080/" {
			t.Errorf("%+v", n)
		}
	}
	if want := "begin 0s end 35s begin 45s"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, " "), want)
	}
	if list := s.problems.get(); len(list) != 1 || list[0].Since != begin.Add(45*time.Second).Unix() || list[0].Link != "#map?pick=%40n1" {
		t.Errorf("%+v", list)
	}
}

// TestWebhook: notices arrive in order and once, although the receiver fails at first; what it refuses, what
// does not fit into the queue, and what is left at the end is accounted for.
func TestWebhook(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got []string
	requests, closed := 0, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		var n Notice
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &n); err != nil || r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%v: %s, %v", err, body, r.Header)
		}
		switch {
		case requests <= 2 || closed:
			w.WriteHeader(http.StatusServiceUnavailable)
		case n.Problem.Text == "refuse":
			w.WriteHeader(http.StatusForbidden)
		case n.Problem.Text == "elsewhere":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			got = append(got, n.Event+n.Problem.Text)
		}
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := parseWebhook(server.URL + "/hook token-file=" + token)
	if err != nil {
		t.Fatal(err)
	}
	h.retry = time.Millisecond
	put := func(event, text string) { h.put(Notice{Event: event, Problem: Problem{Text: text}}) }
	put("begin", "a")
	put("begin", "refuse")
	put("begin", "elsewhere")
	put("end", "a")
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { h.run(ctx); close(stopped) }()
	entry := func() ledger.Entry { return h.account()[0] }
	until(t, func() bool { return entry().Held == 0 })
	mu.Lock()
	if text := strings.Join(got, " "); text != "begina enda" || requests != 6 {
		t.Errorf("got %q after %d requests", text, requests)
	}
	closed = true
	mu.Unlock()
	if e := entry(); e.Passed != 2 || e.LostSum() != 2 || e.Lost[0].Reason != "refused" {
		t.Errorf("%v", &e)
	}
	for range maxNotices + 3 {
		put("begin", "b")
	}
	until(t, func() bool { return h.health()[0].Failing != "" })
	if health := h.health()[0]; !strings.Contains(health.Failing, "503") || health.Since.IsZero() {
		t.Errorf("%+v", health)
	}
	cancel()
	<-stopped
	e := entry()
	if err := (ledger.Ledger{e}).Check(); err != nil || e.Received != 4+maxNotices+3 || e.Held != 0 || e.LostSum() != 2+maxNotices+3 || len(e.Lost) != 3 {
		t.Errorf("%v: %v", err, &e)
	}
}
