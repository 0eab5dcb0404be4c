package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// values of a sample's figure, sorted.
func values(samples []sample, figure func(sample) float64) []float64 {
	v := make([]float64, len(samples))
	for i, s := range samples {
		v[i] = figure(s)
	}
	slices.Sort(v)
	return v
}

func median(samples []sample, figure func(sample) float64) float64 {
	v := values(samples, figure)
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// spread is a median with the least and the most in brackets.
func spread(samples []sample, format string, figure func(sample) float64) string {
	v := values(samples, figure)
	return fmt.Sprintf(format+" ("+format+"..."+format+")", median(samples, figure), v[0], v[len(v)-1])
}

// header of the table; see cells.
var header = []string{
	"tap", "packets/s, M", "sender keeps", "tap ns", "machine ns", "added ns", "lost", "own count", "lossless, M/s", "RSS, MiB",
}

// cells of a row: packets per second and nanoseconds of CPU per packet are
// medians with their range, what is added is against the base, lost packets are
// those of all rounds.
func cells(r, base *result) []string {
	rate := func(s sample) float64 { return s.rate / 1e6 }
	machineNs := func(s sample) float64 { return s.machineNs }
	row := []string{
		r.name,
		spread(r.samples, "%.2f", rate),
		fmt.Sprintf("%.2f", median(r.samples, rate)/median(base.samples, rate)),
		spread(r.samples, "%.0f", func(s sample) float64 { return s.tapNs }),
		spread(r.samples, "%.0f", machineNs),
		fmt.Sprintf("%.0f", median(r.samples, machineNs)-median(base.samples, machineNs)),
		loss(r),
		fmt.Sprint(sum(r.samples, func(s sample) uint64 { return s.toldDropped })),
		lossless(r),
		fmt.Sprintf("%.1f", median(r.samples, func(s sample) float64 { return float64(s.rss) / (1 << 20) })),
	}
	if r == base {
		for _, i := range []int{2, 3, 5, 6, 7, 8, 9} {
			row[i] = "-"
		}
	}
	return row
}

func sum(samples []sample, figure func(sample) uint64) (n uint64) {
	for _, s := range samples {
		n += figure(s)
	}
	return n
}

func loss(r *result) string {
	if r.lost() == 0 {
		return "0"
	}
	return fmt.Sprintf("%d (%.2g %%)", r.lost(), 100*float64(r.lost())/float64(r.sent()))
}

func lossless(r *result) string {
	if !r.found {
		return "none found"
	}
	return fmt.Sprintf("%.2f", r.lossless/1e6)
}

func rows(results []result) [][]string {
	all := [][]string{header}
	for i := range results {
		all = append(all, cells(&results[i], &results[0]))
	}
	return all
}

// table is for a terminal.
func table(results []result) string {
	var buf bytes.Buffer
	w := tabwriter.NewWriter(&buf, 0, 0, 2, ' ', 0)
	for _, row := range rows(results) {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	w.Flush()
	return buf.String()
}

// document is the same in Markdown, with what must be known to repeat it.
func document(results []result, machine, args string) string {
	var b strings.Builder
	b.WriteString("# What capturing costs\n\n")
	fmt.Fprintf(&b, "Measured on %s by `make bench`%s: %s.\n\n", time.Now().UTC().Format(time.DateOnly), argument(args), machine)
	for i, row := range rows(results) {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	b.WriteString(explanation)
	return b.String()
}

func argument(args string) string {
	if args == "" {
		return ""
	}
	return " (`go run ./bench " + args + "`)"
}

const explanation = `
Frames of 64 bytes, sent by the watched host over a veth pair as fast as one
processor can; taps and their collector run on the other. Medians of all rounds,
which take the taps in turn, with least and most. *Sender keeps* is its rate by
that without a tap. *Tap ns* is user and system CPU time of the tap's process per
packet, *machine ns* that of everything, sender included, and *added ns* what it
is more than without a tap. *Lost* is what was sent less what the collector
counted, or tcpdump said it captured; *own count* is what the tap itself said it
had dropped. *Lossless* is full speed if nothing was lost at that, else the
highest rate that a search found. *RSS* is the most memory at any time, the ring
of 16 MiB included.
`

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
