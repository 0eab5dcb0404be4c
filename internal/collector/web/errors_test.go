package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestErrorsAreJSON: whatever refuses a request says why in the same form.
func TestErrorsAreJSON(t *testing.T) {
	plain := start(t, newSource())
	guarded, err := Listen("127.0.0.1:0", Access{Token: strings.Repeat("x", minToken)})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, guarded, newSource())
	for _, test := range []struct {
		name, path string
		server     *Server
		edit       func(*http.Request)
		code       int
	}{
		{"no token", "/api/v1/frame", guarded, nil, 401},
		{"rebinding", "/api/v1/frame", plain, func(r *http.Request) { r.Host = "evil.example" }, 403},
		{"another site", "/api/v1/frame", plain, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"no such API", "/api/v1/nothing", plain, nil, 404},
		{"no such page", "/nothing.html", plain, nil, 404},
		{"nothing is played", "/api/v1/replay", plain, func(r *http.Request) {
			r.Method = http.MethodPost
			r.Header.Set("Content-Type", "application/json")
		}, 404},
		{"no JSON wanted", "/api/v1/frame", plain, func(r *http.Request) { r.Header.Set("Accept", "text/html, application/json;q=0") }, 406},
		{"no text wanted", "/metrics", plain, func(r *http.Request) { r.Header.Set("Accept", "application/json") }, 406},
		{"DELETE", "/api/v1/frame", plain, func(r *http.Request) { r.Method = http.MethodDelete }, 405},
		{"GET of what takes a POST", "/api/v1/replay", plain, nil, 405},
	} {
		answer, body := get(t, test.server, test.path, test.edit)
		if answer.StatusCode != test.code {
			t.Errorf("%s: status %d, want %d", test.name, answer.StatusCode, test.code)
		}
		wantError(t, test.name, answer, body)
		if test.code == 405 && answer.Header.Get("Allow") == "" {
			t.Errorf("%s: no Allow", test.name)
		}
	}
	g := newGuard(Access{Users: map[string][]byte{"ann": cheap(t, "secret of ann")}}, nil).(*guard)
	g.passwords.busy = true // somebody's check takes long
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth("ann", "the first guess")
	answered := make(chan struct{})
	go func() { g.ServeHTTP(w, r); close(answered) }()
	source := sourceOf(r.RemoteAddr)
	for i := 0; ; i++ { // the oldest has to make room
		g.passwords.enter(source, "ann", fmt.Sprint("guess ", i%(2*maxPerSource)))
		select {
		case <-answered:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	if wantError(t, "too many passwords", w.Result(), w.Body.Bytes()); w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("too many passwords: status %d", w.Code)
	}
}

func wantError(t *testing.T, name string, answer *http.Response, body []byte) string {
	t.Helper()
	var v struct{ Error string }
	if err := json.Unmarshal(body, &v); err != nil || v.Error == "" || answer.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s: %q, %q: want JSON with an error", name, answer.Header.Get("Content-Type"), body)
	}
	return v.Error
}

// TestUnknownParameters: each address names a parameter that it does not use, and one that is there twice.
func TestUnknownParameters(t *testing.T) {
	s := start(t, newSource())
	for _, e := range Endpoints(nil) {
		if e.Method == http.MethodPost {
			continue
		}
		for _, name := range []string{"form", "FROM", "limit2"} {
			answer, body := get(t, s, e.Path+"?"+name+"=5", nil)
			if text := wantError(t, e.Path, answer, body); answer.StatusCode != 400 || !strings.Contains(text, `"`+name+`"`) {
				t.Errorf("%s?%s: status %d, %s", e.Path, name, answer.StatusCode, text)
			}
		}
		for _, p := range e.Parameters {
			if p.Repeated {
				continue
			}
			answer, body := get(t, s, e.Path+"?"+p.Name+"=1&"+p.Name+"=2", nil)
			if text := wantError(t, e.Path, answer, body); answer.StatusCode != 400 || !strings.Contains(text, `"`+p.Name+`"`) {
				t.Errorf("%s, %s twice: status %d, %s", e.Path, p.Name, answer.StatusCode, text)
			}
		}
	}
	for path, want := range map[string]string{
		"matrix?step=1": `"step"`, "setup?from=1": "takes none", "talkers?limit=0": "limit", "mgen?limit=1001": "from 1 to 1000", "matrix?form=-60": "did you mean from?", "stream?topic=matrix:61": "want one of hosts", "overview?from=%zz": "cannot be read",
	} {
		answer, body := get(t, s, "/api/v1/"+path, nil)
		if text := wantError(t, path, answer, body); answer.StatusCode != 400 || !strings.Contains(text, want) {
			t.Errorf("%s: status %d, %s; want %s", path, answer.StatusCode, text, want)
		}
	}
}

// TestOrigins: pages of named sites may read, and only read; those of others may not.
func TestOrigins(t *testing.T) {
	origins, err := ParseOrigins("https://Grafana.example, http://lab:3000,https://other.example:443")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Listen("127.0.0.1:0", Access{Origins: origins, Token: strings.Repeat("x", minToken)})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, newSource())
	from := func(origin string, edit func(*http.Request)) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Set("Origin", origin)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Authorization", "Bearer "+s.access.Token)
			if edit != nil {
				edit(r)
			}
		}
	}
	preflight := func(r *http.Request) {
		r.Method = http.MethodOptions
		r.Header.Set("Access-Control-Request-Method", "GET")
		r.Header.Del("Authorization")
	}
	post := func(r *http.Request) {
		r.Method = http.MethodPost
		r.Header.Set("Content-Type", "application/json")
	}
	for _, test := range []struct {
		name, path, origin string
		edit               func(*http.Request)
		code               int
		allowed            string
	}{
		{"a named site", "/api/v1/setup", "https://grafana.example", nil, 200, "https://grafana.example"},
		{"its usual port", "/api/v1/setup", "https://other.example", nil, 200, "https://other.example"},
		{"before credentials", "/api/v1/setup", "http://lab:3000", preflight, 204, "http://lab:3000"},
		{"without credentials", "/api/v1/setup", "http://lab:3000", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "http://lab:3000"},
		{"another port", "/api/v1/setup", "http://lab:3001", nil, 403, ""},
		{"another site", "/api/v1/setup", "https://evil.example", nil, 403, ""},
		{"another site, before credentials", "/api/v1/setup", "https://evil.example", preflight, 405, ""},
		{"a change", replayPath, "http://lab:3000", post, 403, ""},
	} {
		answer, body := get(t, s, test.path, from(test.origin, test.edit))
		if got := answer.Header.Get("Access-Control-Allow-Origin"); answer.StatusCode != test.code || got != test.allowed {
			t.Errorf("%s: status %d for %q, want %d for %q", test.name, answer.StatusCode, got, test.code, test.allowed)
		}
		if test.code >= 400 {
			wantError(t, test.name, answer, body)
		}
	}
	for _, bad := range []string{"*", "grafana.example", "https://grafana.example/", "https://a:b@grafana.example", "https://,", "ftp://x"} {
		if got, err := ParseOrigins(bad); err == nil {
			t.Errorf("%q is read as %q", bad, got)
		}
	}
}
