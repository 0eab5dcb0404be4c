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
	line   = regexp.MustCompile(`(?m)^(.*)\bledger: (.+): (\d+) (\w+) received = (\d+) passed on \+ (\d+) lost(?: \((.*)\))? \+ (\d+) held(.*)$`)
	reason = regexp.MustCompile(`(?:^|, )(\d+) `)
)

// Row is a line of the table.
type Row struct {
	Unit                         string
	Received, Passed, Lost, Held uint64
	Reasons                      string
}

// Closes checks the newest table in what a program printed to stderr: each row adds up, and so do the
// reasons of what was lost. It returns the rows by their titles. A program that printed no table fails
// the test.
func Closes(t testing.TB, stderr string) map[string]Row {
	t.Helper()
	rows, whose := map[string]Row{}, map[string]Row{} // the same, by what a line begins with, too
	for _, m := range line.FindAllStringSubmatch(stderr, -1) {
		r := Row{Unit: m[4], Received: number(t, m[3]), Passed: number(t, m[5]), Lost: number(t, m[6]), Held: number(t, m[8]), Reasons: m[7]}
		rows[m[2]], whose[m[1]+m[2]] = r, r // a later table has newer ones
		reasons := uint64(0)
		for _, n := range reason.FindAllStringSubmatch(m[7], -1) {
			reasons += number(t, n[1])
		}
		if reasons != r.Lost {
			t.Errorf("%s: got reasons for %d lost, want %d: %s", m[2], reasons, r.Lost, m[0])
		}
	}
	for title, r := range whose {
		if got := r.Passed + r.Lost + r.Held; got != r.Received {
			t.Errorf("the ledger does not close: %s: got %d passed on + %d lost (%s) + %d held = %d %s, want the %d received",
				title, r.Passed, r.Lost, r.Reasons, r.Held, got, r.Unit, r.Received)
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
