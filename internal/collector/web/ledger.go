package web

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// Account makes the server publish the contents of book: at /api/v1/ledger, in
// /metrics, and on the page; and makes /healthz fail while a stage in it fails. Call it
// before Run.
func (s *Server) Account(book *ledger.Book) {
	s.book = book
	s.Measure(ledgerMetrics{book})
}

// ledgerJSON is the response of GET /api/v1/ledger.
type ledgerJSON struct {
	// Closes means that all entries add up; Error says what does not.
	Closes  bool           `json:"closes"`
	Error   string         `json:"error"`
	Entries []ledger.Entry `json:"entries"`
	Health  []healthJSON   `json:"health"`
}

// healthJSON is the health of a stage. Times are seconds since 1970, 0 for none.
type healthJSON struct {
	Stage   string  `json:"stage"`
	Name    string  `json:"name"`
	Failing string  `json:"failing"`
	Since   float64 `json:"since"`
	Oldest  float64 `json:"oldest"` // when the oldest item not passed on yet arrived
}

func ledgerOf(book *ledger.Book) *ledgerJSON {
	entries := book.Read()
	j := &ledgerJSON{Closes: true, Entries: append([]ledger.Entry{}, entries...), Health: []healthJSON{}}
	if err := entries.Check(); err != nil {
		j.Closes, j.Error = false, err.Error()
	}
	for _, h := range book.Health() {
		one := healthJSON{Stage: h.Stage, Name: h.Name, Failing: h.Failing}
		if !h.Since.IsZero() {
			one.Since = float64(h.Since.UnixMilli()) / 1e3
		}
		if !h.Oldest.IsZero() {
			one.Oldest = float64(h.Oldest.UnixMilli()) / 1e3
		}
		j.Health = append(j.Health, one)
	}
	return j
}

// ledgerMetrics are the metrics of a book's entries.
type ledgerMetrics struct{ book *ledger.Book }

var (
	descLedger = desc("ledger_items", "What a stage received, passed on, lost by reason, and holds; received is the sum of the others. A difference is unaccounted.",
		"stage", "name", "unit", "account", "reason")
	descStageFailing = desc("stage_failing", "1 while a stage passes nothing on.", "stage", "name")
)

// Describe implements prometheus.Collector.
func (ledgerMetrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- descLedger
	ch <- descStageFailing
}

// Collect implements prometheus.Collector.
func (m ledgerMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, e := range m.book.Read() {
		gauge := func(v float64, account, reason string) {
			ch <- prometheus.MustNewConstMetric(descLedger, prometheus.GaugeValue, v, e.Stage, e.Name, e.Unit, account, reason)
		}
		gauge(float64(e.Received), "received", "")
		gauge(float64(e.Passed), "passed", "")
		gauge(float64(e.Held), "held", "")
		gauge(float64(e.Unaccounted()), "unaccounted", "")
		for _, l := range e.Lost {
			gauge(float64(l.Count), "lost", l.Reason)
		}
	}
	for _, h := range m.book.Health() {
		failing := 0.0
		if h.Failing != "" {
			failing = 1
		}
		ch <- prometheus.MustNewConstMetric(descStageFailing, prometheus.GaugeValue, failing, h.Stage, h.Name)
	}
}
