// Package ledgertest asserts that the books of a program close: that what each of its stages
// received was passed on, lost for a reason, or is still held.
package ledgertest

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	line = regexp.MustCompile(`(?m)^(.*)\bledger: ([^:\n]+(?::[^ \n]+)*): (\d+) (\w+) received(?: from ([^(=\n]+)| \((?:\d+ from (.+), )?(\d+) from an earlier run\))? = ` +
		`(\d+) passed on(?: \(([^)\n]+)\))? \+ (\d+) lost(?: \((.*)\))? \+ (\d+) held(.*)$`)
	amount = regexp.MustCompile(`(?:^|, )(\d+) (\w+)`)
)

// Row is a line of the table.
type Row struct {
	Unit, Source                          string
	Received, Earlier, Passed, Lost, Held uint64
	Reasons                               string

	as map[string]uint64 // Passed in other units
}

// Closes checks the newest table in what a program printed to stderr: each row adds up, so do the
// reasons of what was lost, and what a row received is what its source passed on. It returns the rows
// by their titles. A program that printed no table fails the test.
func Closes(t testing.TB, stderr string) map[string]Row {
	t.Helper()
	rows, whose := map[string]Row{}, map[[2]string]Row{} // the same, by what a line begins with, too
	for _, m := range line.FindAllStringSubmatch(stderr, -1) {
		r := Row{
			Unit: m[4], Source: strings.TrimSpace(m[5] + m[6]), Received: number(t, m[3]), Earlier: number(t, "0"+m[7]),
			Passed: number(t, m[8]), Lost: number(t, m[10]), Held: number(t, m[12]), Reasons: m[11], as: map[string]uint64{},
		}
		for _, as := range amount.FindAllStringSubmatch(m[9], -1) {
			r.as[as[2]] = number(t, as[1])
		}
		rows[m[2]], whose[[2]string{m[1], m[2]}] = r, r // a later table has newer ones
		reasons := uint64(0)
		for _, n := range amount.FindAllStringSubmatch(m[11], -1) {
			reasons += number(t, n[1])
		}
		if reasons != r.Lost {
			t.Errorf("%s: got reasons for %d lost, want %d: %s", m[2], reasons, r.Lost, m[0])
		}
	}
	for at, r := range whose {
		if got := r.Passed + r.Lost + r.Held; got != r.Received {
			t.Errorf("the ledger does not close: %s: got %d passed on + %d lost (%s) + %d held = %d %s, want the %d received",
				at[1], r.Passed, r.Lost, r.Reasons, r.Held, got, r.Unit, r.Received)
		}
		if r.Source == "" {
			continue
		}
		source := whose[[2]string{at[0], r.Source}] // one that is not printed has passed on nothing
		want, ok := source.as[r.Unit]
		if !ok {
			want = source.Passed
		}
		if got := r.Received - r.Earlier; got != want {
			t.Errorf("the ledger does not close: %s: got %d %s received from %s, want the %d that it passed on", at[1], got, r.Unit, r.Source, want)
		}
	}
	if len(rows) == 0 {
		t.Errorf("got no ledger, want one, in:\n%s", strings.TrimSpace(stderr))
	}
	return rows
}

func number(t testing.TB, text string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
