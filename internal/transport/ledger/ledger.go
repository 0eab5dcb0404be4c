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
	Spool      = "spool"      // in the agent: what waits on disk for an export's receiver; part of the export's entry
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
	// Source is the title of the entry whose Passed, in this entry's unit, equals Received
	// here; "" if there is none.
	Source   string `json:"source"`
	Received uint64 `json:"received"`
	Earlier  uint64 `json:"earlier"` // of Received, what an earlier run held
	Passed   uint64 `json:"passed"`
	// As is Passed in the units of those who receive it, if they count something else.
	As   []Amount `json:"as,omitempty"`
	Lost []Loss   `json:"lost"` // without reasons whose count is 0
	Held uint64   `json:"held"`
	// Adrift is how much more Source passed on than was received here. Book.Read sets it.
	Adrift int64 `json:"adrift"`
	// Missing is Unaccounted. Book.Read sets it.
	Missing int64 `json:"unaccounted"`

	moved uint64 // how much the counters changed while they were read
}

// Amount is a count of something.
type Amount struct {
	Unit  string `json:"unit"`
	Count uint64 `json:"count"`
}

// passedIn returns Passed in a unit.
func (e *Entry) passedIn(unit string) uint64 {
	for _, a := range e.As {
		if a.Unit == unit {
			return a.Count
		}
	}
	return e.Passed
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

// Unaccounted returns how much of what was received is not accounted for, or 0 if that is
// no more than what moved while the entry was read. It is negative if more is accounted for
// than was received.
func (e *Entry) Unaccounted() int64 { return beyond(e.difference(), e.moved) }

func (e *Entry) difference() int64 { return int64(e.Received - e.Passed - e.LostSum() - e.Held) }

// beyond returns n, or 0 if it is no larger than what moved.
func beyond(n int64, moved uint64) int64 {
	if size(n) <= moved {
		return 0
	}
	return n
}

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
	fmt.Fprintf(&b, "%s: %d %s received%s = %d passed on%s + %d lost", e.Title(), e.Received, e.Unit, e.origin(),
		e.Passed, e.inOtherUnits(), e.LostSum())
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
	if e.Adrift != 0 {
		fmt.Fprintf(&b, "; %d unaccounted for since %s", e.Adrift, e.Source)
	}
	return b.String()
}

// origin says where the items came from.
func (e *Entry) origin() string {
	switch {
	case e.Earlier > 0 && e.Source != "":
		return fmt.Sprintf(" (%d from %s, %d from an earlier run)", e.Received-e.Earlier, e.Source, e.Earlier)
	case e.Earlier > 0:
		return fmt.Sprintf(" (%d from an earlier run)", e.Earlier)
	case e.Source != "":
		return " from " + e.Source
	}
	return ""
}

func (e *Entry) inOtherUnits() string {
	var list []string
	for _, a := range e.As {
		if a.Count != e.Passed {
			list = append(list, fmt.Sprintf("%d %s", a.Count, a.Unit))
		}
	}
	if list == nil {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

// Ledger is a table of entries.
type Ledger []Entry

// index returns the index of the entry with this title, or -1.
func (l Ledger) index(title string) int {
	return slices.IndexFunc(l, func(e Entry) bool { return e.Title() == title })
}

// join compares what entries received with what their sources passed on. A source that is
// not in the table is removed.
func (l Ledger) join() {
	for i := range l {
		e := &l[i]
		at := l.index(e.Source)
		if at < 0 {
			e.Source, e.Adrift = "", 0
			continue
		}
		e.Adrift = int64(l[at].passedIn(e.Unit) - (e.Received - e.Earlier))
	}
}

// Check returns an error that names what does not add up, beyond what moved while it was read.
func (l Ledger) Check() error {
	var list []error
	for i := range l {
		if e := &l[i]; e.Unaccounted() != 0 || e.Adrift != 0 {
			list = append(list, fmt.Errorf("ledger: %v", e))
		}
	}
	return errors.Join(list...)
}

func size(n int64) uint64 { return uint64(max(n, -n)) }

// Plus returns the sums of entries with the same stage, name, and unit.
func (l Ledger) Plus(more Ledger) Ledger {
	sum := slices.Clone(l)
	for i := range sum {
		sum[i].Lost, sum[i].As = slices.Clone(sum[i].Lost), slices.Clone(sum[i].As)
	}
	for _, e := range more {
		at := slices.IndexFunc(sum, func(s Entry) bool { return s.Stage == e.Stage && s.Name == e.Name && s.Unit == e.Unit })
		if at < 0 {
			e.Lost, e.As = slices.Clone(e.Lost), slices.Clone(e.As)
			sum = append(sum, e)
			continue
		}
		s := &sum[at]
		s.Received += e.Received
		s.Earlier += e.Earlier
		s.Passed += e.Passed
		s.Held += e.Held
		s.Adrift += e.Adrift
		s.Missing += e.Missing
		s.moved += e.moved
		for _, as := range e.As {
			if k := slices.IndexFunc(s.As, func(a Amount) bool { return a.Unit == as.Unit }); k >= 0 {
				s.As[k].Count += as.Count
			} else {
				s.As = append(s.As, as)
			}
		}
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
		if e := &l[i]; e.Received != 0 || e.Unaccounted() != 0 || e.Adrift != 0 {
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
// another reading does, unless something is wrong, or records never stop moving. A
// difference counts only if it is larger than what moved during all readings, which last
// as long as the slowest part takes to update its counters.
const (
	readings   = 10
	readingGap = time.Millisecond
	longestGap = 20 * time.Millisecond
)

// Read returns all entries.
func (b *Book) Read() (l Ledger) {
	if b == nil {
		return nil
	}
	var first Ledger
	gap := readingGap
	for i := range readings {
		if i > 0 {
			time.Sleep(gap)
			gap = min(2*gap, longestGap)
		}
		l = b.Now()
		l.join()
		if first == nil {
			first = l
		}
		l.compare(first)
		if l.adds() {
			break
		}
	}
	for i := range l {
		e := &l[i]
		if at := l.index(e.Source); at >= 0 {
			e.Adrift = beyond(e.Adrift, e.moved+l[at].moved)
		}
		e.Missing = e.Unaccounted()
		if e.Lost == nil {
			e.Lost = []Loss{}
		}
	}
	slices.SortStableFunc(l, func(a, b Entry) int { return slices.Index(order, a.Stage) - slices.Index(order, b.Stage) })
	return l
}

// Now returns all entries by one reading, which need not add up while records move. It does
// not wait.
func (b *Book) Now() (l Ledger) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	sources := slices.Clone(b.sources)
	b.mu.Unlock()
	for _, source := range sources {
		l = append(l, source()...)
	}
	return l
}

// adds reports whether the table adds up exactly.
func (l Ledger) adds() bool {
	return !slices.ContainsFunc(l, func(e Entry) bool { return e.difference() != 0 || e.Adrift != 0 })
}

// compare notes how much has changed since an earlier reading.
func (l Ledger) compare(first Ledger) {
	for i := range l {
		if at := first.index(l[i].Title()); at >= 0 {
			e, f := &l[i], &first[at]
			e.moved = max(size(int64(e.Received-f.Received)), size(int64(e.Passed-f.Passed)), size(int64(e.Held-f.Held)))
		}
	}
}
