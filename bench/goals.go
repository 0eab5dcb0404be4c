package main

import (
	"fmt"
	"math"
	"strings"
)

// goal is a figure to reach.
type goal struct {
	what   string
	want   string
	figure func(*results) (got float64, ok bool)
	reach  func(got float64) bool // nil if the figure is there to be compared with
	format string
	excuse func(*results) string // why it could not be reached, or ""
}

func atMost(limit float64) func(float64) bool  { return func(got float64) bool { return got <= limit } }
func atLeast(limit float64) func(float64) bool { return func(got float64) bool { return got >= limit } }

const notReached = "**not reached**"

// of is a median of a cell's figure.
func of(tap, traffic string, figure func(sample) float64) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		c := r.cell(tap, traffic)
		if c == nil {
			return 0, false
		}
		return c.median(figure), true
	}
}

// ratio of two figures.
func ratio(a, b func(*results) (float64, bool)) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		x, ok1 := a(r)
		y, ok2 := b(r)
		return x / y, ok1 && ok2 && y != 0
	}
}

// slowSender reports whether a tap lost nothing at full speed: it cannot show more
// than its sender sends.
func slowSender(tap string) func(*results) string {
	return func(r *results) string {
		c, base := r.cell(tap, basic.name), r.cell(noTap, basic.name)
		if c == nil || base == nil || c.lost() > 0 || c.told() > 0 {
			return ""
		}
		return fmt.Sprintf("nothing lost; the sender makes %.2f M/s alone", base.median(rate)/1e6)
	}
}

func losslessOf(tap string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		c := r.cell(tap, basic.name)
		if c == nil || !c.found {
			return 0, false
		}
		return c.lossless, true
	}
}

// lossOf is the share of what was sent that a tap has lost, in %.
func lossOf(tap, traffic string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		c := r.cell(tap, traffic)
		if c == nil || !c.counted() {
			return 0, false
		}
		return 100 * float64(c.lost()) / float64(c.sent()), true
	}
}

func slowOf(tap, what string) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		s := r.slows[tap]
		if s == nil || len(s.cpu[what]) == 0 {
			return 0, false
		}
		return middle(s.cpu[what]), true
	}
}

func delayOf(tap, rate string, p99 bool) func(*results) (float64, bool) {
	return func(r *results) (float64, bool) {
		s := r.slows[tap]
		if s == nil {
			return 0, false
		}
		v := s.p50[rate]
		if p99 {
			v = s.p99[rate]
		}
		return middle(v), len(v) > 0
	}
}

// lowCPU is the CPU time that is allowed at low rates, % of a processor: what
// the C agent took on the machine where the goals were set, or less.
var lowCPU = map[string]float64{"10": 0.3, "100": 2.0, "1,000": 1.5, "10,000": 9.6}

const (
	ebpfOne, ebpfLog          = "ebpf" + oneBulk, "ebpf" + oneLog
	ebpfSilent, ebpfSilentLog = "ebpf" + oneSilent, "ebpf" + oneSilent + ", log"
	ringOne, ringLog          = "ring" + oneBulk, "ring" + oneLog
)

func goals() []goal {
	cell := func(tap string, figure func(sample) float64) func(*results) (float64, bool) {
		return of(tap, basic.name, figure)
	}
	count := cell(countTap, addedNs)
	dump := cell(dumpTap, machineNs)
	all := []goal{
		{"ebpf: added in the sender's path / count-only", "at most 2.2", ratio(cell(ebpfOne, addedNs), count), atMost(2.2), "%.2f", nil},
		{"ebpf: the same / count and clock", "(what any tap that tells the time must pay)", ratio(cell(ebpfOne, addedNs), cell(clockTap, addedNs)), nil, "%.2f", nil},
		{"ebpf: added behind a queueing discipline / count-only", "at most 4.5", ratio(of(ebpfOne, "queued", addedNs), of(countTap, "queued", addedNs)), atMost(4.5), "%.2f", nil},
		{"ebpf: the same with two senders at once / with one", "at most 1.3", ratio(of(ebpfOne, "two", addedNs), cell(ebpfOne, addedNs)), atMost(1.3), "%.2f", nil},
		{"ebpf: the sender keeps", "at least 0.80", cell(ebpfOne, keeps), atLeast(0.80), "%.2f", nil},
		{"ebpf: the sender keeps / with tcpdump", "at least 1.3", ratio(cell(ebpfOne, keeps), cell(dumpTap, keeps)), atLeast(1.3), "%.2f", nil},
		{"ebpf: lossless packets/s", "at least 3,500,000", losslessOf(ebpfOne), atLeast(3.5e6), "%.0f", slowSender(ebpfOne)},
		{"ebpf, silent: lossless packets/s", "at least 3,500,000", losslessOf(ebpfSilent), atLeast(3.5e6), "%.0f", slowSender(ebpfSilent)},
		{"ebpf, log: lossless packets/s", "at least 2,500,000", losslessOf(ebpfLog), atLeast(2.5e6), "%.0f", slowSender(ebpfLog)},
		{"ebpf, silent, log: lossless packets/s", "at least 2,500,000", losslessOf(ebpfSilentLog), atLeast(2.5e6), "%.0f", slowSender(ebpfSilentLog)},
		{"ebpf: agent ns", "at most 20", cell(ebpfOne, agentNs), atMost(20), "%.0f", nil},
		{"ebpf: agent ns / minimal agent's", "(what one thread without promises needs)", ratio(cell(ebpfOne, agentNs), cell(minimalTap, agentNs)), nil, "%.2f", nil},
		{"ebpf, silent: agent ns", "at most 25", cell(ebpfSilent, agentNs), atMost(25), "%.0f", nil},
		{"ebpf, log: agent ns", "at most 75", cell(ebpfLog, agentNs), atMost(75), "%.0f", nil},
		{"ebpf: machine / tcpdump", "at most 0.25", ratio(cell(ebpfOne, machineNs), dump), atMost(0.25), "%.2f", nil},
		{"ebpf, log: machine / tcpdump", "at most 0.45", ratio(cell(ebpfLog, machineNs), dump), atMost(0.45), "%.2f", nil},
		{"ebpf, log: machine / C agent", "at most 1/35 = 0.029", ratio(cell(ebpfLog, machineNs), cell(cTap, machineNs)), atMost(1.0 / 35), "%.3f", nil},
		{"ebpf: machine, 100,000 flows / 1 flow", "at most 1.15", ratio(of(ebpfOne, "64-100k", machineNs), cell(ebpfOne, machineNs)), atMost(1.15), "%.2f", nil},
		{"ebpf, log: machine, 100,000 flows / 1 flow", "at most 1.15", ratio(of(ebpfLog, "64-100k", machineNs), cell(ebpfLog, machineNs)), atMost(1.15), "%.2f", nil},
		{"ebpf: % lost at 1 M/s next to a busy process", "0", lossOf(ebpfOne, "busy-1M"), atMost(0), "%.2f", nil},
		{"ebpf, log: % lost at 1 M/s next to a busy process", "0", lossOf(ebpfLog, "busy-1M"), atMost(0), "%.2f", nil},
		{"ebpf: RSS at full speed, MiB", "at most 24", cell(ebpfOne, memory), atMost(24), "%.1f", nil},
		{"ebpf, log: RSS at full speed, MiB", "at most 32", cell(ebpfLog, memory), atMost(32), "%.1f", nil},
		{"ring: machine / tcpdump", "at most 1.0", ratio(cell(ringOne, machineNs), dump), atMost(1.0), "%.2f", nil},
		{"ring, log: machine / tcpdump", "at most 1.3", ratio(cell(ringLog, machineNs), dump), atMost(1.3), "%.2f", nil},
	}
	for _, rate := range lowRates {
		name := grouped(rate)
		all = append(all, goal{
			"ebpf: % of a processor at " + name + " packets/s", fmt.Sprintf("at most %.1f", lowCPU[name]),
			slowOf(ebpfOne, name), atMost(lowCPU[name]), "%.2f", nil,
		})
	}
	const million = "1,000,000"
	return append(all,
		goal{"ebpf: % of a processor when idle", "0.00", slowOf(ebpfOne, idle), atMost(0.005), "%.2f", nil},
		goal{"ebpf: packet to collector at 1 M/s, p50, ms", "at most 2", delayOf(ebpfOne, million, false), atMost(2), "%.1f", nil},
		goal{"ebpf: packet to collector at 1 M/s, p99, ms", "at most 6", delayOf(ebpfOne, million, true), atMost(6), "%.1f", nil},
	)
}

func goalRows(r *results) [][]string {
	rows := [][]string{{"figure", "goal", "measured", ""}}
	for _, g := range goals() {
		got, ok := g.figure(r)
		if !ok {
			rows = append(rows, []string{g.what, g.want, "-", "not measured"})
			continue
		}
		verdict := notReached
		if g.reach == nil {
			verdict = ""
		} else if g.reach(got) {
			verdict = "reached"
		} else if g.excuse != nil && g.excuse(r) != "" {
			verdict += ": " + g.excuse(r)
		}
		rows = append(rows, []string{g.what, g.want, fmt.Sprintf(g.format, got), verdict})
	}
	return rows
}

// rivalry is a figure by which others are compared with the best of ours that
// has a collector.
type rivalry struct {
	what   string // the other does, if it is better
	figure func(sample) float64
	format string
	more   bool // is better
}

var rivalries = []rivalry{
	{"keeps more of its sender's rate", keeps, "%.2f", true},
	{"takes less time of the whole machine", machineNs, "%.0f ns", false},
	{"takes less time itself", agentNs, "%.0f ns", false},
	{"needs less memory", memory, "%.0f MiB", false},
}

// losses are the figures in which another tap that records is better than ours,
// what ours lost, and the goals that were not reached.
func losses(r *results) (all []string) {
	for _, c := range contenders() {
		if c.engine != "" || c.floor {
			continue
		}
		for _, f := range rivalries {
			if where := r.beaten(c, f); len(where) > 0 {
				all = append(all, fmt.Sprintf("%s %s: %s", c.name, f.what, strings.Join(where, ", ")))
			}
		}
	}
	for _, t := range append([]traffic{basic}, others...) {
		all = append(all, r.leaks(t)...)
	}
	for _, row := range goalRows(r) {
		if strings.HasPrefix(row[3], notReached) {
			all = append(all, fmt.Sprintf("Goal not reached: %s: %s, want %s", row[0], row[2], row[1]))
		}
	}
	return all
}

// doubt is the share by which two medians must differ to be different.
const doubt = 0.03

// beaten lists the traffic with which c is better, and by how much.
func (r *results) beaten(c contender, f rivalry) (where []string) {
	for _, t := range append([]traffic{basic}, others...) {
		cell := r.cell(c.name, t.name)
		best, ok := r.best(t, f)
		if cell == nil || !ok {
			continue
		}
		if got := cell.median(f.figure); got > best == f.more && math.Abs(got-best) > doubt*math.Abs(best) {
			where = append(where, fmt.Sprintf("%s ("+f.format+", ours "+f.format+")", t.name, got, best))
		}
	}
	return where
}

// best of ours.
func (r *results) best(t traffic, f rivalry) (best float64, ok bool) {
	for _, c := range contenders() {
		cell := r.cell(c.name, t.name)
		if cell == nil || c.engine == "" || !c.collected {
			continue
		}
		if got := cell.median(f.figure); !ok || got > best == f.more {
			best, ok = got, true
		}
	}
	return best, ok
}

// leaks are what ours lost.
func (r *results) leaks(t traffic) (all []string) {
	for _, c := range contenders() {
		if cell := r.cell(c.name, t.name); cell != nil && c.engine != "" && cell.lost() > 0 {
			all = append(all, fmt.Sprintf("%s loses, %s: %s", c.name, t.what, cell.loss()))
		}
	}
	return all
}
