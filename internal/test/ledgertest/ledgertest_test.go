package ledgertest

import (
	"reflect"
	"testing"

	"github.com/pcapper/pcapper/internal/transport/ledger"
)

// failures counts them instead of failing.
type failures struct {
	testing.TB
	n int
}

func (f *failures) Helper()               {}
func (f *failures) Errorf(string, ...any) { f.n++ }

// TestCloses: it reads what package ledger prints, and finds what does not add up.
func TestCloses(t *testing.T) {
	from := ledger.Entry{Stage: ledger.Detail, Unit: "packets", Received: 30, Passed: 30, As: []ledger.Amount{{Unit: "records", Count: 9}}}
	e := ledger.Entry{Stage: ledger.Export, Name: "nats://127.0.0.1:4222/a", Unit: "records", Source: ledger.Detail, Received: 12, Earlier: 3, Passed: 5, Held: 2}
	e.Lose("queue full", 4)
	e.Lose("malformed", 1)
	rows := Closes(t, "recollect: ledger: "+from.String()+"\nrecollect: ledger: "+e.String())
	row := rows["export nats://127.0.0.1:4222/a"]
	row.as = nil
	if want := (Row{Unit: "records", Source: "detail", Received: 12, Earlier: 3, Passed: 5, Lost: 5, Held: 2, Reasons: "4 queue full, 1 malformed"}); !reflect.DeepEqual(row, want) {
		t.Errorf("got %+v, want %+v", row, want)
	}
	for _, text := range []string{
		"recollect: 5 records from 1 agent",
		"ledger: page: 5 records received = 4 passed on + 0 lost + 0 held; 1 unaccounted for",
		"ledger: page: 5 records received = 4 passed on + 1 lost (2 too slow) + 0 held",
		"ledger: page: 5 records received from feed = 5 passed on + 0 lost + 0 held; 1 unaccounted for since feed",
		"ledger: page: 5 records received from feed = 5 passed on + 0 lost + 0 held",
		"ledger: feed: 5 records received = 5 passed on + 0 lost + 0 held\nledger: page: 6 records received (4 from feed, 2 from an earlier run) = 6 passed on + 0 lost + 0 held",
		"ledger: feed: 5 records received = 5 passed on (6 packets) + 0 lost + 0 held\nledger: page: 5 packets received from feed = 5 passed on + 0 lost + 0 held",
	} {
		f := &failures{TB: t}
		if Closes(f, text); f.n == 0 {
			t.Errorf("%q is taken for a ledger that closes", text)
		}
	}
}
