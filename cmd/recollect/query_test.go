package main

import (
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// keepCommand is "keep DIR HOST LOG": the log's lines become a history's records.
func keepCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: keep DIR HOST LOG")
	}
	s, err := history.Open(ts.MkAbs(args[0]), history.Config{})
	// The lock of the history before is held until the programs that other scripts
	// were starting at that moment have begun.
	for end := time.Now().Add(10 * time.Second); err != nil && strings.Contains(err.Error(), "another process") && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		s, err = history.Open(ts.MkAbs(args[0]), history.Config{})
	}
	ts.Check(err)
	defer s.Close()
	b := &batch.Batch{Agent: args[1]}
	for line := range strings.Lines(ts.ReadFile(args[2])) {
		var r wire.Record
		err := wire.ParseLine([]byte(line), &r)
		ts.Check(err)
		if r.Flow() != 0 {
			r.Flags |= wire.MGENHeader
		}
		b.Records = append(b.Records, r)
	}
	g, err := s.NewSegment("of-" + args[1])
	ts.Check(err)
	ts.Check(g.Add(b))
	ts.Check(g.Seal())
	ts.Check(s.Commit("of-" + args[1]))
}

// TestQueryUsageNamesFlags: the text has every flag, and no long lines.
func TestQueryUsageNamesFlags(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"-store DIR", "-from TIME", "-to TIME", "-host", "-addr", "-src", "-dst", "-port", "-src-port", "-dst-port",
		"-proto", "-mgen", "-flow", "-c FILE", "-direction", "-relayed", "-level", "-by COLUMNS", "-format", "-o FILE", "-limit N", "-v ", "-h "} {
		if !strings.Contains(queryUsage, want) {
			t.Errorf("the text lacks %q", want)
		}
	}
	for line := range strings.SplitSeq(queryUsage, "\n") {
		if len(line) > 80 || strings.TrimRight(line, " ") != line {
			t.Errorf("a line too long or with blanks at its end: %q", line)
		}
	}
	for _, column := range history.SumColumns {
		if !strings.Contains(queryUsage, column) {
			t.Errorf("the text lacks the column %s", column)
		}
	}
}

func TestQueryTimes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 16, 30, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"-90m":                 now.Add(-90 * time.Minute),
		"15:00":                time.Date(2026, 11, 25, 15, 0, 0, 0, time.Local),
		"15:00:01.5":           time.Date(2026, 11, 25, 15, 0, 1, 5e8, time.Local),
		"2026-11-24T15:00":     time.Date(2026, 11, 24, 15, 0, 0, 0, time.Local),
		"2026-11-24 15:00:07":  time.Date(2026, 11, 24, 15, 0, 7, 0, time.Local),
		"2026-11-24T15:00:00Z": time.Date(2026, 11, 24, 15, 0, 0, 0, time.UTC),
		"2026-11-24":           time.Date(2026, 11, 24, 0, 0, 0, 0, time.Local),
		"1560390672.895279":    time.UnixMicro(1560390672895279),
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "noon", "-", "2026-13-01", "+5m", "NaN"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}
