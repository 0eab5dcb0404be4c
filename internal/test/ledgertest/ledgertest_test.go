package ledgertest

import (
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
	e := ledger.Entry{Stage: ledger.Writer, Name: "history", Unit: "records", Received: 12, Passed: 5, Held: 2}
	e.Lose("queue full", 4)
	e.Lose("malformed", 1)
	row := Closes(t, "recollect: ledger: "+e.String())["writer history"]
	if want := (Row{"records", 12, 5, 5, 2, "4 queue full, 1 malformed"}); row != want {
		t.Errorf("got %+v, want %+v", row, want)
	}
	for _, text := range []string{
		"recollect: 5 records from 1 agent",
		"ledger: page: 5 records received = 4 passed on + 0 lost + 0 held; 1 unaccounted for",
		"ledger: page: 5 records received = 4 passed on + 1 lost (2 too slow) + 0 held",
	} {
		f := &failures{TB: t}
		if Closes(f, text); f.n == 0 {
			t.Errorf("%q is taken for a ledger that closes", text)
		}
	}
}
