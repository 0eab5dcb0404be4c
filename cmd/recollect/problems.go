package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/web"
)

const (
	// judgeTime is the minimum time over which counters are compared; the maximum is
	// twice as long.
	judgeTime = 30 * time.Second
	// judgedFlows is the number of flows examined, those with the most packets.
	judgedFlows = 500
)

// pathJudge determines what is wrong in the network now: it compares the counters of
// hops and of members of groups with those of a short time ago.
type pathJudge struct {
	engine       *path.Engine
	rules        *web.Rules
	before, next pathCounts
	took         time.Time // when next was taken
}

type pathCounts struct {
	hops    map[string]path.Counts
	members map[string]received // by flow and member
}

// received is what a member of a group has received of a flow, and what it should have
// received.
type received struct{ packets, expected uint64 }

func (j *pathJudge) judge(now time.Time) []web.Problem {
	counts := pathCounts{map[string]path.Counts{}, map[string]received{}}
	list := append(j.hops(&counts), j.members(&counts)...)
	if now.Sub(j.took) >= judgeTime {
		j.before, j.next, j.took = j.next, counts, now
	}
	return list
}

func (j *pathJudge) hops(counts *pathCounts) (list []web.Problem) {
	for _, h := range j.engine.Hops() {
		if h.To == nil && h.Lost == 0 {
			continue // no observer is known that should have seen them
		}
		key := fmt.Sprintf("%s %s %s", h.From.Node, h.From.Agent, h.From.Stage)
		if h.To != nil {
			key += fmt.Sprintf(" > %s %s %s", h.To.Node, h.To.Agent, h.To.Stage)
		}
		counts.hops[key] = h.Counts
		old := j.before.hops[key]
		lost := increase(h.Lost, old.Lost)
		all := lost + increase(h.Packets, old.Packets)
		share := float64(lost) / float64(max(all, 1))
		if all < j.rules.LossPackets || share < j.rules.LossShare {
			continue
		}
		list = append(list, web.Problem{ID: "loss:" + key, Kind: "loss", View: "map", Pick: "@" + h.From.Node, Severity: web.SevereLoss + int(40*share),
			Text: fmt.Sprintf("%s loses %.0f %% (%d of %d packets in the last minute)%s", hopText(&h), 100*share, lost, all, dropText(&h))})
	}
	return list
}

// increase returns the increase of a counter that restarts if what it counts was
// forgotten.
func increase(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func hopText(h *path.Hop) string {
	switch {
	case h.To == nil:
		return h.From.Node
	case h.From.Node == h.To.Node:
		return fmt.Sprintf("%s (from %s to %s)", h.From.Node, h.From.Stage, h.To.Stage)
	}
	return h.From.Node + " \u2192 " + h.To.Node
}

// dropText describes why most packets were lost, and where, if a kernel has reported
// it.
func dropText(h *path.Hop) string {
	reason, most := "", uint64(0)
	for r, n := range h.Drops {
		if n > most || n == most && r < reason {
			reason, most = r, n
		}
	}
	switch reason {
	case "":
		return ""
	case "QDISC_DROP", "QDISC_OVERLIMIT":
		return ": queue full at " + h.From.Node
	}
	return fmt.Sprintf(": %s at %s", strings.ToLower(strings.ReplaceAll(reason, "_", " ")), h.From.Node)
}

// pickOf returns a flow in the syntax of the page's addresses.
func pickOf(f *path.Flow) string {
	id := ""
	if f.MGEN != nil {
		id = fmt.Sprint(*f.MGEN)
	}
	return fmt.Sprintf("%v~%d~%v~%d~%d~%s", f.Src, f.SrcPort, f.Dst, f.DstPort, f.Proto, id)
}

// members returns the members of groups that receive nothing of what is sent.
func (j *pathJudge) members(counts *pathCounts) (list []web.Problem) {
	for _, f := range j.engine.Report(path.Query{}, judgedFlows).Flows {
		if !f.Multicast {
			continue
		}
		key := fmt.Sprint(f.Src, f.Dst, f.SrcPort, f.DstPort, f.Proto)
		if f.MGEN != nil {
			key += fmt.Sprint(" ", *f.MGEN)
		}
		for _, n := range f.Nodes {
			if n.Role != "member" {
				continue
			}
			member := key + " " + n.Node
			now, old := received{n.Received, n.Expected}, j.before.members[member]
			counts.members[member] = now
			if increase(now.expected, old.expected) >= j.rules.SilentPackets && increase(now.packets, old.packets) == 0 {
				list = append(list, web.Problem{ID: "silent:" + member, Kind: "silent", View: "map", Pick: pickOf(&f), Severity: web.SevereSilent,
					Text: fmt.Sprintf("%s joined %s and receives nothing of what %s sends", n.Node, f.Dst, f.Src)})
			}
		}
	}
	return list
}
