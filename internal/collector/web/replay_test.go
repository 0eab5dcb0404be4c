package web

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// played is a source whose records are played.
type played struct {
	*source
	mu   sync.Mutex
	done []Command
	by   time.Duration
}

func (p *played) Replay() *Replay { return &Replay{Position: 1e9, Speed: 4} }

func (p *played) Steer(c Command, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.by = append(p.done, c), by
}

func post(t *testing.T, s *Server, body string, edit func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, strings.TrimSuffix(s.URL(), "/")+replayPath, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if edit != nil {
		edit(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text)
}

// Only our own page, and programs, steer a replay.
func TestSteer(t *testing.T) {
	p := &played{source: newSource()}
	s := start(t, p)
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, test := range []struct {
		name, body string
		edit       func(*http.Request)
		code       int
	}{
		{"a program", `{"command":"pause"}`, nil, 200},
		{"our page", `{"command":"faster"}`, set("Sec-Fetch-Site", "same-origin"), 200},
		{"an older browser's page of ours", `{"command":"slower"}`, set("Origin", strings.TrimSuffix(s.URL(), "/")), 200},
		{"by a time", `{"command":"forward","seconds":90}`, nil, 200},
		{"another site", `{"command":"pause"}`, set("Sec-Fetch-Site", "cross-site"), 403},
		{"another port of this host", `{"command":"pause"}`, set("Sec-Fetch-Site", "same-site"), 403},
		{"another site, older browser", `{"command":"pause"}`, set("Origin", "http://evil.example"), 403},
		{"a link", `{"command":"pause"}`, func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Mode", "navigate")
		}, 403},
		{"a form", `{"command":"pause"}`, set("Content-Type", "text/plain"), 403},
		{"DNS rebinding", `{"command":"pause"}`, func(r *http.Request) { r.Host = "evil.example" }, 403},
		{"no JSON", `pause`, nil, 400},
		{"unknown", `{"command":"rewind"}`, nil, 400},
		{"forward by nothing", `{"command":"forward"}`, nil, 400},
		{"forward forever", `{"command":"forward","seconds":1e30}`, nil, 400},
		{"too long", `{"command":"` + strings.Repeat("x", 2000) + `"}`, nil, 400},
		{"GET", "", func(r *http.Request) { r.Method = http.MethodGet }, 405},
		{"unknown field", `{"command":"pause","second":1}`, nil, 400},
		{"PUT", "{}", func(r *http.Request) { r.Method = http.MethodPut }, 405},
	} {
		if code, text := post(t, s, test.body, test.edit); code != test.code {
			t.Errorf("%s: %d %s, want %d", test.name, code, text, test.code)
		}
	}
	if want := []Command{Pause, Faster, Slower, Forward}; !slices.Equal(p.done, want) || p.by != 90*time.Second {
		t.Errorf("did %v, the last by %v; want %v", p.done, p.by, want)
	}
	_, body := get(t, s, "/api/v1/frame", nil)
	var f struct{ Replay *Replay }
	if err := json.Unmarshal(body, &f); err != nil || f.Replay == nil || f.Replay.Speed != 4 {
		t.Errorf("frame: %v %+v", err, f.Replay)
	}
	// Where nothing is played there is nothing to steer.
	if code, text := post(t, start(t, newSource()), `{"command":"pause"}`, nil); code != 404 || !strings.Contains(text, "nothing is played") {
		t.Errorf("without a replay: %d %s", code, text)
	}
}
