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
