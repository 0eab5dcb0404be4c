package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/web"
)

// TestWebhookOfProgram: the program, without its privileges, tells a server that an agent is not connected.
func TestWebhookOfProgram(t *testing.T) {
	t.Parallel()
	notices := make(chan web.Notice, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var n web.Notice
		if err := json.NewDecoder(r.Body).Decode(&n); err != nil {
			t.Error(err)
		}
		notices <- n
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	away := httptest.NewServer(nil)
	address := away.Listener.Addr().String()
	away.Close()
	for name, text := range map[string]string{"collector.conf": "n1:" + address + "\n", "rules": "webhook = " + server.URL + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, url := startPage(t, dir, "-http-rules", "rules")
	select {
	case n := <-notices:
		if n.Event != "begin" || n.Problem.ID != "agent:n1" || n.Collector != url || n.Link != url+"#overview" {
			t.Errorf("got %+v from %s", n, url)
		}
	case <-time.After(time.Minute):
		t.Error("no notice came")
	}
}
