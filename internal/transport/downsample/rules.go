package downsample

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"time"
)

// Unlimited is a limit that no rate passes.
const Unlimited = math.MaxUint64

// Limits are what decides on one agent's level.
type Limits struct {
	// Packets is the most records per second that pass as they are; 0: none do.
	Packets uint64
	// Flows is the most flows per second before only the top ones are kept; 0:
	// always.
	Flows uint64
	// Top is how many flows of ten seconds are kept, at least 1.
	Top int
	// Calm is for how long rates must have been within limits before there is
	// more detail again.
	Calm time.Duration
}

// FleetLimits are for all agents together.
type FleetLimits struct {
	Packets, Flows uint64 // per second
}

// Rules are limits by agent. The zero value is of no use: see DefaultRules.
type Rules struct {
	Fleet FleetLimits
	base  Limits
	rules []rule
}

// rule changes the limits of agents whose label matches.
type rule struct {
	pattern string // "" is any
	set     []func(*Limits)
}

const (
	mostTop  = 10_000
	leastAge = time.Second
	mostAge  = 24 * time.Hour
)

// DefaultRules are what a collector and the history behind it bear.
func DefaultRules() Rules {
	return Rules{
		Fleet: FleetLimits{Packets: 5_000_000, Flows: 1_000_000},
		base:  Limits{Packets: 20_000, Flows: 2_000, Top: 20, Calm: 30 * time.Second},
	}
}

// For returns the limits of the agent with a label.
func (r *Rules) For(label string) Limits {
	l := r.base
	for _, rule := range r.rules {
		if ok, _ := path.Match(rule.pattern, label); ok || rule.pattern == "" {
			for _, set := range rule.set {
				set(&l)
			}
		}
	}
	return l
}

// grammar is what Set understands.
const grammar = `want [LABELS:]packets=N,flows=N,top=K,calm=TIME,fleet-packets=N,fleet-flows=N, or some of these; N is a rate per second or "all"`

// Set adds a rule to those before: [LABELS:]name=value,... LABELS is a pattern
// with * and ? (path.Match), for all agents if it is not there. What later rules
// say of an agent counts.
func (r *Rules) Set(text string) error {
	labels, settings, named := strings.Cut(text, ":")
	if !named {
		labels, settings = "", text
	}
	if _, err := path.Match(labels, ""); err != nil || named && labels == "" {
		return fmt.Errorf("%q is not a pattern of labels: %s", labels, grammar)
	}
	added, fleet := rule{pattern: labels}, r.Fleet
	for setting := range strings.SplitSeq(settings, ",") {
		name, value, _ := strings.Cut(setting, "=")
		set, err := parseSetting(name, value, &fleet)
		if err != nil {
			return fmt.Errorf("%q: %w", setting, err)
		}
		if set == nil && named {
			return fmt.Errorf("%q is for all agents together: want it without %q", setting, labels+":")
		}
		if set != nil {
			added.set = append(added.set, set)
		}
	}
	r.Fleet = fleet
	r.rules = append(r.rules, added)
	return nil
}

// parseSetting returns what a setting does to an agent's limits, or nil if it
// changed the fleet's.
func parseSetting(name, value string, fleet *FleetLimits) (set func(*Limits), err error) {
	var n uint64
	switch name {
	case "top":
		if n, err = strconv.ParseUint(value, 10, 32); err != nil || n < 1 || n > mostTop {
			return nil, fmt.Errorf("want a number of flows from 1 to %d", mostTop)
		}
		return func(l *Limits) { l.Top = int(n) }, nil
	case "calm":
		d, err := time.ParseDuration(value)
		if err != nil || d < leastAge || d > mostAge {
			return nil, errors.New("want a time from 1s to 24h, such as 30s or 2m")
		}
		return func(l *Limits) { l.Calm = d }, nil
	}
	if n, err = parseRate(value); err != nil && isRate(name) {
		return nil, err
	}
	switch name {
	case "packets":
		return func(l *Limits) { l.Packets = n }, nil
	case "flows":
		return func(l *Limits) { l.Flows = n }, nil
	case "fleet-packets":
		fleet.Packets = n
	case "fleet-flows":
		fleet.Flows = n
	default:
		return nil, errors.New(grammar)
	}
	return nil, nil
}

func isRate(name string) bool {
	return strings.TrimPrefix(name, "fleet-") == "packets" || strings.TrimPrefix(name, "fleet-") == "flows"
}

func parseRate(value string) (uint64, error) {
	if value == "all" {
		return Unlimited, nil
	}
	n, err := strconv.ParseUint(value, 10, 63)
	if err != nil {
		return 0, errors.New(`want a whole number per second, or "all"`)
	}
	return n, nil
}
