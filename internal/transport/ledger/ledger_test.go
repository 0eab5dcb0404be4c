package ledger

import (
	"slices"
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
		{"between stages", func(l Ledger) { l[1].Received, l[1].Passed = 6, 6 }, "page: 6 records received from feed = 6 passed on + 0 lost + 0 held; 1 unaccounted for since feed"},
		{"an earlier run's", func(l Ledger) { l[1].Received, l[1].Earlier, l[1].Held = 9, 2, 2 }, ""},
		{"an earlier run's, too", func(l Ledger) { l[1].Received, l[1].Earlier, l[1].Held = 9, 3, 2 }, "page: 9 records received (6 from feed, 3 from an earlier run) = 7 passed on + 0 lost + 2 held; 1 unaccounted for since feed"},
		{"another unit", func(l Ledger) { l[0].As = []Amount{{"rows", 9}}; l[1].Unit, l[1].Received, l[1].Passed = "rows", 9, 9 }, ""},
		{"another unit, less", func(l Ledger) { l[0].As = []Amount{{"rows", 9}}; l[1].Unit = "rows" }, "page: 7 rows received from feed = 7 passed on + 0 lost + 0 held; 2 unaccounted for since feed"},
		{"no source", func(l Ledger) { l[1].Source = Capture; l[1].Received, l[1].Passed = 6, 6 }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Ledger{feed, page}
			c.change(l)
			var b Book
			b.Add(func() []Entry { return l })
			err := b.Read().Check()
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

// TestPlus: sums of ledgers are of the same stages and reasons, and neither ledger changes.
func TestPlus(t *testing.T) {
	e := Entry{Stage: Log, Unit: "records", Received: 5, Passed: 2, Held: 1}
	e.Lose("too slow", 2)
	other := Entry{Stage: Log, Unit: "records", Received: 4, Passed: 1}
	other.Lose("not written", 1)
	other.Lose("too slow", 2)
	one, two := Ledger{e}, Ledger{other, {Stage: Log, Name: "b", Received: 1, Passed: 1}}
	got := one.Plus(two).Lines()
	want := []string{
		"ledger: log: 9 records received = 3 passed on + 5 lost (4 too slow, 1 not written) + 1 held",
		"ledger: log b: 1  received = 1 passed on + 0 lost + 0 held",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if one.Check() != nil || two.Check() != nil {
		t.Errorf("got %v and %v, want them as they were", one, two)
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

// TestBookWhileMoving: what moves all the time is no difference, and a difference that is more than that is one.
func TestBookWhileMoving(t *testing.T) {
	for lost, want := range map[uint64]bool{0: true, 1000: false} {
		var b Book
		n := uint64(0)
		b.Add(func() []Entry {
			n += 10
			return []Entry{{Stage: Bus, Received: n + 5, Passed: n - lost}, {Stage: Sink, Source: Bus, Received: n - lost - 2, Passed: n - lost - 2}}
		})
		n = lost
		l := b.Read()
		if err := l.Check(); (err == nil) != want {
			t.Errorf("%d lost: got %v, want that it closes: %t", lost, err, want)
		}
		if text := strings.Join(l.Lines(), "\n"); strings.Contains(text, "unaccounted") == want || (l[0].Missing == 0) != want {
			t.Errorf("%d lost: got %d unaccounted in\n%s\nwant none: %t", lost, l[0].Missing, text, want)
		}
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
	failing := "away"
	var b2 Book
	b2.Watch(func() []Health { return []Health{{Stage: Bus, Failing: failing}} })
	first := b2.Health()[0].Since
	if again := b2.Health()[0].Since; first.IsZero() || !again.Equal(first) {
		t.Errorf("got failing since %v and then %v, want the same time", first, again)
	}
	failing = ""
	if got := b2.Health()[0]; got.Sentence() != "" || !got.Since.IsZero() {
		t.Errorf("got %+v, want no failure", got)
	}
	if got := (*Book)(nil).Failing(); got != "" {
		t.Errorf("an empty book fails: %q", got)
	}
}
