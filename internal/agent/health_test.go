package agent

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestHealth: /healthz is 503 with the reason while something fails, and 200 again after that.
func TestHealth(t *testing.T) {
	var why atomic.Value
	why.Store("eth0: log l.txt: no space left on device")
	m, err := newMetricsServer("127.0.0.1:0", prometheus.NewRegistry(), func() string { return why.Load().(string) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	check := func(code int, text string) {
		t.Helper()
		answer, err := http.Get("http://" + m.ln.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		if got := strings.TrimSpace(string(body)); answer.StatusCode != code || got != text {
			t.Errorf("got %d, %q, want %d, %q", answer.StatusCode, got, code, text)
		}
	}
	check(http.StatusServiceUnavailable, "eth0: log l.txt: no space left on device")
	why.Store("")
	check(http.StatusOK, "ok")
}
