package web

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// TestLedger: the API, /metrics and /healthz have what the book has.
func TestLedger(t *testing.T) {
	src := newSource()
	s, err := Listen("127.0.0.1:0", Access{})
	if err != nil {
		t.Fatal(err)
	}
	book := new(ledger.Book)
	e := ledger.Entry{Stage: ledger.Writer, Name: "history", Unit: "records", Received: 10, Passed: 6, Held: 1}
	e.Lose("queue full", 3)
	book.Add(func() []ledger.Entry { return []ledger.Entry{e} })
	book.Watch(func() []ledger.Health {
		return []ledger.Health{{Stage: ledger.Writer, Name: "history", Failing: "disk full", Since: time.Unix(1000, 5e8), Oldest: time.Unix(999, 0)}}
	})
	s.Account(book)
	serve(t, s, src)
	src.tick()
	_, body := get(t, s, "/api/v1/ledger", nil)
	want := `{"closes":true,"error":"","entries":[{"stage":"writer","name":"history","unit":"records","source":"","received":10,"earlier":0,"passed":6,"lost":[{"reason":"queue full","count":3}],"held":1,"adrift":0,"unaccounted":0}],` +
		`"health":[{"stage":"writer","name":"history","failing":"disk full","since":1000.5,"oldest":999}]}`
	if got := strings.TrimSpace(string(body)); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	_, body = get(t, s, "/metrics", nil)
	for _, want := range []string{
		`recollect_ledger_items{account="lost",name="history",reason="queue full",stage="writer",unit="records"} 3`,
		`recollect_ledger_items{account="unaccounted",name="history",reason="",stage="writer",unit="records"} 0`,
		`recollect_stage_failing{name="history",stage="writer"} 1`,
	} {
		if !strings.Contains(string(body), want+"\n") {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	answer, body := get(t, s, "/healthz", nil)
	var health struct{ Status string }
	if err := json.Unmarshal(body, &health); err != nil {
		t.Fatal(err)
	}
	if want := "writer history: disk full, since " + time.Unix(1000, 0).Format(time.TimeOnly); answer.StatusCode != 503 || health.Status != want {
		t.Errorf("/healthz: got %d, %q, want 503, %q", answer.StatusCode, health.Status, want)
	}
}
