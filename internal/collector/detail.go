package collector

import (
	"fmt"
	"slices"
	"time"

	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/wire/batch"
)

// Detail is how much of an agent's traffic is kept in Config.Batches.
type Detail struct {
	Level batch.Level
	// Since is when the level was reached; zero if it has been so from the start.
	Since time.Time
	// Limit is the name of the limit that was exceeded, as in -detail; "rule" if the
	// rule sets the level, "bus" if another collector has decided, and empty at level
	// packets.
	Limit string
	// Why is the reason in a few words; empty at level packets.
	Why     string
	Changes uint64 // of the level, since the start
	// Records is the number of records published in batches. Lost is the number of
	// those that never were, because they were overwritten first or are from before
	// 1970. What happens to batches later is counted by their receiver.
	Records, Lost uint64
}

// detail returns nil if nobody keeps records.
func (a *agent) detail() *Detail {
	if a.followed != nil {
		d := *a.followed.level.Load()
		return &d
	}
	o := a.out
	if o == nil {
		return nil
	}
	s := o.downsample.Status()
	d := &Detail{
		Level: s.Level, Limit: s.Cause.String(), Why: why(&s), Changes: s.Changes,
		Records: o.published.Load(), Lost: o.lost.Load(),
	}
	if s.Since != 0 {
		d.Since = time.Unix(0, s.Since)
	}
	return d
}

// why describes the limit that keeps an agent at its level.
func why(s *downsample.Status) string {
	switch s.Cause {
	case downsample.AgentPackets:
		return fmt.Sprintf("more than %d records/s", s.Limit)
	case downsample.AgentFlows:
		return fmt.Sprintf("more than %d flows/s", s.Limit)
	case downsample.FleetPackets:
		return fmt.Sprintf("more than %d records/s from all agents", s.Limit)
	case downsample.FleetFlows:
		return fmt.Sprintf("more than %d flows/s from all agents", s.Limit)
	case downsample.Configured:
		return "by rule"
	}
	return ""
}

// kept describes what a level keeps.
func kept(l batch.Level) string {
	switch l {
	case batch.Flows:
		return "one-second flows"
	case batch.Top:
		return "the top flows of ten seconds"
	}
	return "packets"
}

// less describes what is kept of the agent instead of packets, or returns "".
func (a *agent) less() string {
	if d := a.detail(); d != nil && d.Level > batch.Packets {
		return [...]string{batch.Flows: "flows", batch.Top: "top flows"}[d.Level]
	}
	return ""
}

// change is an agent's new level that has not been reported.
type change struct {
	agent *agent
	downsample.Change
}

// text describes the change without naming the agent.
func (c *change) text() string {
	if c.Level < c.From {
		return fmt.Sprintf("%s are kept again instead of %s", kept(c.Level), kept(c.From))
	}
	return fmt.Sprintf("%s are kept instead of %s: %s (-detail %v)", kept(c.Level), kept(c.From), why(&c.Status), c.Cause)
}

// mostChanges is the maximum number of agents with the same change that are listed
// individually.
const mostChanges = 3

// tellChanges reports each change once; equal changes of many agents are reported on
// one line.
func (b *batcher) tellChanges() {
	for len(b.changes) > 0 {
		text := b.changes[0].text()
		var whose []*agent
		b.changes = slices.DeleteFunc(b.changes, func(c change) bool {
			same := c.text() == text
			if same {
				whose = append(whose, c.agent)
			}
			return same
		})
		if len(whose) > mostChanges {
			b.c.say.printf("%d agents: %s", len(whose), text)
			continue
		}
		for _, a := range whose {
			b.c.say.printf("%v: %s", a, text)
		}
	}
}
