package ledger

import (
	"strings"
	"testing"
	"time"
)

// TestCheck: a ledger that adds up has no error, and each that does not is named with its figures.
func TestCheck(t *testing.T) {
	feed := Entry{Stage: Feed, Unit: "records", Received: 10, Passed: 7, Held: 1}
	feed.Lose("in transit", 2)
	feed.Lose("malformed", 0)
	page := Entry{Stage: Page, Unit: "records", Source: Feed, Received: 7, Passed: 7}
	for _, c := range []struct {
		name   string
		change func(l Ledger)
		want   string
	}{
		{"closes", func(Ledger) {}, ""},
		{"less", func(l Ledger) { l[0].Received = 12 }, "feed: 12 records received = 7 passed on + 2 lost (2 in transit) + 1 held; 2 unaccounted for"},
		{"more", func(l Ledger) { l[0].Held = 4 }, "-3 unaccounted for"},
		{"between stages", func(l Ledger) { l[1].Received, l[1].Passed = 6, 6 }, "page received 6 records, but feed passed on 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Ledger{feed, page}
			c.change(l)
			err := l.Check()
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	want := "ledger: feed: 10 records received = 7 passed on + 2 lost (2 in transit) + 1 held"
	if got := (Ledger{feed, {Stage: Paths}}).Lines(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBookReadsAgain: a reading in the middle of a move is repeated.
func TestBookReadsAgain(t *testing.T) {
	var b Book
	n := uint64(0)
	b.Add(func() []Entry {
		n++
		return []Entry{{Stage: Bus, Received: 5, Passed: 2 + min(n, 3)}}
	})
	if l := b.Read(); l.Check() != nil || n != 3 {
		t.Errorf("got %v after %d readings, want one that adds up after 3", l, n)
	}
}

// TestHealth: what fails comes first, with its reason and time.
func TestHealth(t *testing.T) {
	var b Book
	since := time.Date(2026, 12, 1, 10, 20, 30, 0, time.Local)
	b.Watch(func() []Health {
		return []Health{{Stage: Page}, {Stage: Writer, Name: "history", Failing: "disk full", Since: since}}
	})
	if got, want := b.Failing(), "writer history: disk full, since 10:20:30"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := (*Book)(nil).Failing(); got != "" {
		t.Errorf("an empty book fails: %q", got)
	}
}
