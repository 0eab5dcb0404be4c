package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// section of the page: a table, and what must be said about it.
type section struct {
	title string
	rows  [][]string // the first is the header; none is no table
	text  string
}

func sections(r *results) []section {
	return []section{
		{"64-byte packets, one flow, as fast as one processor can", r.basicRows(), basicText},
		{"Other traffic", r.otherRows(), otherText},
		{"Little to do, and how late records are", r.slowRows(), slowText},
		{"Goals", goalRows(r), ""},
		{"Where we lose", nil, list(losses(r))},
		{"What was not measured, and which way engines took", nil, list(r.remarks())},
		{"How it is measured", nil, method},
	}
}

// spread is a median with the least and the most in brackets.
func (r *result) spread(format string, figure func(sample) float64) string {
	v := r.values(figure)
	return fmt.Sprintf(format+" ("+format+"..."+format+")", middle(v), v[0], v[len(v)-1])
}

func millions(s sample) float64 { return s.rate / 1e6 }

func (r *results) basicRows() [][]string {
	rows := [][]string{{
		"tap", "packets/s, M", "sender keeps", "sender +ns", "x count-only", "agent ns", "machine +ns", "x tcpdump", "lost", "own count", "lossless, M/s", "RSS, MiB",
	}}
	if base := r.cell(noTap, basic.name); base != nil {
		rows = append(rows, append([]string{noTap, base.spread("%.2f", millions)}, dashes(10)...))
	}
	for _, c := range contenders() {
		cell := r.cell(c.name, basic.name)
		if cell == nil {
			continue
		}
		rows = append(rows, []string{
			c.name,
			cell.spread("%.2f", millions),
			cell.spread("%.2f", keeps),
			cell.spread("%.0f", addedNs),
			r.times(cell, r.cell(countTap, basic.name), addedNs),
			withProcess(cell, cell.spread("%.0f", agentNs)),
			cell.spread("%.0f", machineNs),
			r.times(cell, r.cell(dumpTap, basic.name), machineNs),
			cell.loss(),
			withProcess(cell, fmt.Sprint(cell.told())),
			cell.highest(),
			withProcess(cell, fmt.Sprintf("%.1f", cell.median(memory))),
		})
	}
	return rows
}

func (r *results) otherRows() [][]string {
	rows := [][]string{{
		"traffic", "tap", "packets/s, M", "sender keeps", "sender +ns", "x count-only", "agent ns", "machine +ns", "x tcpdump", "lost",
	}}
	for _, t := range others {
		base := r.cell(noTap, t.name)
		if base == nil {
			continue
		}
		rows = append(rows, append([]string{t.what, noTap, base.spread("%.2f", millions)}, dashes(7)...))
		for _, c := range contenders() {
			cell := r.cell(c.name, t.name)
			if cell == nil {
				continue
			}
			rows = append(rows, []string{
				t.name, c.name,
				cell.spread("%.2f", millions),
				cell.spread("%.2f", keeps),
				cell.spread("%.0f", addedNs),
				r.times(cell, r.cell(countTap, t.name), addedNs),
				withProcess(cell, cell.spread("%.0f", agentNs)),
				cell.spread("%.0f", machineNs),
				r.times(cell, r.cell(dumpTap, t.name), machineNs),
				cell.loss(),
			})
		}
	}
	return rows
}

// times is a cell's figure as a multiple of another cell's.
func (r *results) times(cell, other *result, figure func(sample) float64) string {
	if other == nil || other.median(figure) <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", cell.median(figure)/other.median(figure))
}

func dashes(n int) []string { return slices.Repeat([]string{"-"}, n) }

func withProcess(r *result, text string) string {
	if r.median(memory) == 0 {
		return "-"
	}
	return text
}

func (r *result) loss() string {
	switch {
	case !r.counted():
		return "-"
	case r.lost() == 0:
		return "0"
	}
	return fmt.Sprintf("%d (%.2g %%)", r.lost(), 100*float64(r.lost())/float64(r.sent()))
}

func (r *result) highest() string {
	switch {
	case !r.counted():
		return "-"
	case !r.found:
		return "none found"
	}
	return fmt.Sprintf("%.2f", r.lossless/1e6)
}

func (r *results) slowRows() [][]string {
	header := []string{"tap", "idle, %"}
	for _, rate := range lowRates {
		header = append(header, grouped(rate)+"/s, %")
	}
	for _, rate := range delayRates {
		header = append(header, "p50 / p99 at "+paced(rate)+", ms")
	}
	rows := [][]string{header}
	for _, c := range contenders() {
		s := r.slows[c.name]
		if s == nil || len(s.cpu) == 0 {
			continue
		}
		row := []string{c.name, fmt.Sprintf("%.2f", middle(s.cpu[idle]))}
		for _, rate := range lowRates {
			row = append(row, fmt.Sprintf("%.2f", middle(s.cpu[grouped(rate)])))
		}
		for _, rate := range delayRates {
			row = append(row, fmt.Sprintf("%.1f / %.1f", middle(s.p50[grouped(rate)]), middle(s.p99[grouped(rate)])))
		}
		rows = append(rows, row)
	}
	return rows
}

// paced is a rate in words.
func paced(rate float64) string {
	if rate == fullRate {
		return "full speed"
	}
	return grouped(rate) + "/s"
}

// grouped is a rate with commas between the thousands.
func grouped(rate float64) string {
	s := strconv.FormatFloat(rate, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// remarks are what engines say they chose, and what could not be measured.
func (r *results) remarks() (list []string) {
	all, disturbed := 0, 0
	for _, cell := range r.cells {
		for _, s := range cell.samples {
			if all++; s.disturbed() {
				disturbed++
			}
		}
	}
	if disturbed > 0 {
		list = append(list, fmt.Sprintf("in %d of %d measurements other programs took more than %.0f %% of a processor, each time that it was tried: what the kernel did on its own is missing from the machine's time there", disturbed, all, 100*quiet))
	}
	for _, c := range contenders() {
		if why := r.skipped[c.name]; why != "" {
			list = append(list, fmt.Sprintf("%s was not measured: %s", c.name, why))
		}
	}
	for _, engine := range engines {
		for _, scene := range []string{sending, cabled, queueing, receiving, offload} {
			if note := r.notes[engine+scene]; note != "" {
				list = append(list, note)
			}
		}
	}
	return list
}

func list(items []string) string {
	var b strings.Builder
	for _, i := range items {
		fmt.Fprintf(&b, "- %s\n", i)
	}
	if len(items) == 0 {
		return "Nothing.\n"
	}
	return b.String()
}

// terminal is the page for a terminal.
func terminal(r *results) string {
	var buf bytes.Buffer
	for _, s := range sections(r)[:6] { // how it is measured is no news
		if len(s.rows) == 1 {
			continue
		}
		fmt.Fprintf(&buf, "%s\n\n", s.title)
		w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
		for _, row := range s.rows {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
		w.Flush()
		if s.rows == nil {
			buf.WriteString(s.text)
		}
		buf.WriteByte('\n')
	}
	return buf.String()
}

// document is the page in Markdown, with what must be known to repeat it.
func document(r *results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What capturing costs\n\n%s\n", r.about)
	for _, s := range sections(r) {
		if len(s.rows) == 1 {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n", s.title)
		for i, row := range s.rows {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
			if i == 0 {
				b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
			}
		}
		if len(s.rows) > 0 && s.text != "" {
			b.WriteByte('\n')
		}
		b.WriteString(s.text)
	}
	return b.String()
}

const basicText = `The *count-only program* is attached where ebpf's is and does nothing else; the one below it reads the clock as well. Medians over the rounds, with least and most. *Packets/s* is past the tap. *Sender keeps* is the sender's rate with the tap by that
without it just before. *Sender +ns* is what the tap adds to each packet in the sender's path, in the kernel. *Agent ns* is user
and system CPU time of the tap's process per packet. *Machine +ns* is the time per packet in which any processor was not idle, less
the sender's without the tap: sender's path, tap and collector together, and whatever else ran. *Lost* is what was sent less what was recorded, in all rounds: what
the collector that got least received, or the tap's own count of packets; *own count* is what the tap itself says it has lost.
*Lossless* is full speed if nothing was lost at that, else the highest rate that a search found. *RSS* is the most memory at any
time once the tap has seen its first packets, rings shared with the kernel included.
`

const otherText = `With offloads a packet is one on the wire, as our agent reports it; tcpdump, softflowd and the counting program see super-packets of
up to 44 and more, and their losses are of those. Costs are per packet on the wire for all.
`

const slowText = `CPU time of the agent's process, in % of one processor, with one collector attached; and the time between the time stamp of a packet
and the arrival of its record at the collector.
`

const method = `The watched host is a network namespace, on a veth pair. What it sends is for nobody: a program at the peer's ingress (tcx) drops
single frames at once, so that the sender's rate is not that of a receiving stack on its processor; where frames are received or
queued, have offloads, or the table says so, the peer's stack drops them. The *minimal agent* (bench/minimal) is one thread without filter, merging,
log or accounts, with the same kernel program. The *busy process* is a loop of the same priority on the taps' processor. The
sender has processor 0, taps, agents and collectors have processor 1. Senders: a program in the kernel that clones a packet to the
interface's egress (BPF_PROG_RUN, bpf_clone_redirect), past every hook; a program that redirects XDP frames into the veth, for what
is received; an AF_PACKET socket with sendmmsg; UDP_SEGMENT and TCP sockets. Each tap's figures are compared with the sender's alone,
measured just before the tap is started. A measurement is repeated, twice at most, if other programs took more than 10 % of a
processor; the quietest counts, and losses of all. If that was disturbed, too, the machine's time is that of sender, tap and
collectors, which leaves out what the kernel does on its own. Collectors are threads that let the kernel throw away what they read, as a real one is on
another host; *silent* ones say nothing, as the C collector, and get whole records per segment. The log is on a tmpfs. tcpdump has
the agent's snapshot length, ring size and filter, softflowd room for 200,000 flows and the filter. Idle time comes from /proc/stat,
CPU times of threads and processes from their clocks.
`

// about says what was measured, when and on what.
func about(args string, took time.Duration) string {
	if args != "" {
		args = fmt.Sprintf(" (`go run ./bench %s`)", args)
	}
	return fmt.Sprintf("Written by `make bench`%s on %s, in %v: %s. Every figure is of that run.",
		args, time.Now().UTC().Format(time.DateOnly), took.Round(time.Second), machine())
}

// machine is what the figures depend on.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return fmt.Sprintf("%s, %d processors, Linux %s, %s",
		cpuModel(), runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version())
}

func cpuModel() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
