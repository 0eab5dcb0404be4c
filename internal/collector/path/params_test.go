package path

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestParameters: what an address does not use is refused by name, as are things that contradict each other.
func TestParameters(t *testing.T) {
	mux := http.NewServeMux()
	for _, e := range Endpoints(New(Config{}), nil) {
		mux.Handle(e.Pattern(), e.Handler(send))
	}
	for path, want := range map[string]string{
		"paths?grop=239.1.1.1": `"grop"`, "hops?dst=10.0.0.1": "takes only from, to, limit", "tree?limit=1&limit=2": "2 times", "packets?from=9&to=5": "from < to",
		"packet/1?limit=1": "takes none", "paths?dst=10.0.0.1&group=239.1.1.1": "another name", "paths?src=%zz": "cannot be read",
		"paths?limit=0": "from 1 to 200", "paths?mgen=x": "flow ID", "paths?src=x": "an IP address",
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		var v struct{ Error string }
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Code != 400 || !strings.Contains(v.Error, want) {
			t.Errorf("%s: status %d, %s; want %s", path, w.Code, w.Body, want)
		}
	}
	for _, path := range []string{"paths?group=239.1.1.1&mgen=5&limit=3", "hops?limit=3", "tree", "packets?src=10.0.0.1"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/"+path, nil))
		if w.Code != 200 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: status %d, %s", path, w.Code, w.Body)
		}
	}
}
