// Package ledger accounts for records at every hand-off: what a stage received equals
// what it passed on, what it lost, and what it still holds. Every part that records
// pass through provides an Entry with its own counters. A Book collects them, and every
// report (the exit summary, /metrics, the API, the page) shows the same table. Loss
// here means loss of the monitoring, never of the network being monitored.
package ledger

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stages, in the order in which records pass through them.
const (
	Feed       = "feed"       // from the agents into the collector's hub
	Lines      = "lines"      // from the hub to stdout, or the live view
	Page       = "page"       // from the hub to the seconds that the page shows
	Paths      = "paths"      // from the hub to the paths of packets
	Batches    = "batches"    // from the hub to the numbered batches of each agent
	Detail     = "detail"     // from batches to aggregates: flows of a second, or the top ones of ten
	Bus        = "bus"        // from batches to the streams of a bus
	Writer     = "writer"     // from a bus, or a queue on disk, to committed files
	Files      = "files"      // committed files: compacted, and removed after their retention time
	Aggregates = "aggregates" // from the page's seconds to the disk
	Sink       = "sink"       // from batches to an external server
	Webhook    = "webhook"    // from what is wrong now to an external server
	Capture    = "capture"    // in the agent: from the kernel to the agent's hub
	Collectors = "collectors" // in the agent: from the hub to the collectors' sockets
	Log        = "log"        // in the agent: from the hub to the log file
	Export     = "export"     // in the agent: from the hub to an export, via its spool
)

// order is the order of the stages.
var order = []string{Capture, Collectors, Export, Log, Feed, Lines, Page, Paths, Aggregates, Batches, Detail, Bus, Writer, Files, Sink, Webhook}

// Loss is the number of items lost for one reason.
type Loss struct {
	Reason string `json:"reason"`
	Count  uint64 `json:"count"`
}

// Entry is one hand-off. Except for items being moved at that moment,
//
//	Received = Passed + all of Lost + Held
type Entry struct {
	Stage string `json:"stage"`
	Name  string `json:"name"` // to distinguish several of a stage; otherwise ""
	Unit  string `json:"unit"` // what is counted: records, packets, rows, frames
	// Source is the stage whose Passed equals Received here, or "" if there is none.
	Source   string `json:"source"`
	Received uint64 `json:"received"`
	Passed   uint64 `json:"passed"`
	Lost     []Loss `json:"lost"` // without reasons whose count is 0
	Held     uint64 `json:"held"`
}

// Lose adds a loss, unless it is 0.
func (e *Entry) Lose(reason string, count uint64) {
	if count > 0 {
		e.Lost = append(e.Lost, Loss{reason, count})
	}
}

// LostSum returns the sum of all losses.
func (e *Entry) LostSum() (sum uint64) {
	for _, l := range e.Lost {
		sum += l.Count
	}
	return sum
}

// Unaccounted returns how much of what was received is not accounted for. It is
// negative if more is accounted for than was received.
func (e *Entry) Unaccounted() int64 { return int64(e.Received - e.Passed - e.LostSum() - e.Held) }

// Title returns the name of the entry: a stage, and which of several.
func (e *Entry) Title() string {
	if e.Name == "" {
		return e.Stage
	}
	return e.Stage + " " + e.Name
}

// String returns the entry's line of the table.
func (e *Entry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d %s received = %d passed on + %d lost", e.Title(), e.Received, e.Unit, e.Passed, e.LostSum())
	for i, l := range e.Lost {
		b.WriteString([]string{" (", ", "}[min(i, 1)])
		fmt.Fprintf(&b, "%d %s", l.Count, l.Reason)
	}
	if len(e.Lost) > 0 {
		b.WriteString(")")
	}
	fmt.Fprintf(&b, " + %d held", e.Held)
	if n := e.Unaccounted(); n != 0 {
		fmt.Fprintf(&b, "; %d unaccounted for", n)
	}
	return b.String()
}

// Ledger is a table of entries.
type Ledger []Entry

// Check returns an error that names the entries that do not add up.
func (l Ledger) Check() error {
	var list []error
	passed := map[string]uint64{}
	for i := range l {
		passed[l[i].Stage] += l[i].Passed
		if l[i].Unaccounted() != 0 {
			list = append(list, fmt.Errorf("ledger: %v", &l[i]))
		}
	}
	for i := range l {
		e := &l[i]
		if want, ok := passed[e.Source]; ok && e.Received != want {
			list = append(list, fmt.Errorf("ledger: %s received %d %s, but %s passed on %d", e.Title(), e.Received, e.Unit, e.Source, want))
		}
	}
	return errors.Join(list...)
}

// Plus returns the sums of entries with the same stage, name, and unit.
func (l Ledger) Plus(more Ledger) Ledger {
	sum := slices.Clone(l)
	for i := range sum {
		sum[i].Lost = slices.Clone(sum[i].Lost)
	}
	for _, e := range more {
		at := slices.IndexFunc(sum, func(s Entry) bool { return s.Stage == e.Stage && s.Name == e.Name && s.Unit == e.Unit })
		if at < 0 {
			e.Lost = slices.Clone(e.Lost)
			sum = append(sum, e)
			continue
		}
		s := &sum[at]
		s.Received += e.Received
		s.Passed += e.Passed
		s.Held += e.Held
		for _, lost := range e.Lost {
			if k := slices.IndexFunc(s.Lost, func(l Loss) bool { return l.Reason == lost.Reason }); k >= 0 {
				s.Lost[k].Count += lost.Count
			} else {
				s.Lost = append(s.Lost, lost)
			}
		}
	}
	return sum
}

// Lines returns the table as text, without empty entries.
func (l Ledger) Lines() (lines []string) {
	for i := range l {
		if e := &l[i]; e.Received != 0 || e.Unaccounted() != 0 {
			lines = append(lines, "ledger: "+e.String())
		}
	}
	return lines
}

// Book collects the entries of a program. It is safe for concurrent use; a nil Book is
// empty.
type Book struct {
	mu      sync.Mutex
	sources []func() []Entry
	health  []func() []Health
	last    bool                 // see Announce
	since   map[string]time.Time // when a failure without its own Since was first seen
}

// Add registers a source of entries. It may be called concurrently.
func (b *Book) Add(source func() []Entry) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources = append(b.sources, source)
}

// Announce includes the table in the exit summary.
func (b *Book) Announce() {
	if b != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.last = true
	}
}

// Announced reports whether Announce has been called.
func (b *Book) Announced() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// Counters are read one after another while records move, so a reading may not add up;
// another reading does, unless something is wrong.
const (
	readings   = 10
	readingGap = time.Millisecond
)

// Read returns all entries.
func (b *Book) Read() (l Ledger) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	sources := slices.Clone(b.sources)
	b.mu.Unlock()
	for i := range readings {
		if i > 0 {
			time.Sleep(readingGap)
		}
		l = l[:0]
		for _, source := range sources {
			l = append(l, source()...)
		}
		if l.Check() == nil {
			break
		}
	}
	slices.SortStableFunc(l, func(a, b Entry) int { return slices.Index(order, a.Stage) - slices.Index(order, b.Stage) })
	for i := range l {
		if l[i].Lost == nil {
			l[i].Lost = []Loss{}
		}
	}
	return l
}
