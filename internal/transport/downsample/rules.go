package downsample

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Unlimited is a limit that no rate exceeds.
const Unlimited = math.MaxUint64

// Limits determine one agent's level.
type Limits struct {
	// Packets is the maximum number of records per second that are passed on as they
	// are; 0 means none.
	Packets uint64
	// Flows is the maximum number of flows per second before only the top ones are
	// kept; 0 keeps only the top ones.
	Flows uint64
	// Top is the number of flows kept per ten seconds, at least 1.
	Top int
	// Calm is how long rates must have been within limits before detail increases
	// again.
	Calm time.Duration
}

// FleetLimits are limits for all agents together.
type FleetLimits struct {
	Packets, Flows uint64 // per second
}

// Rules are limits by agent. Use DefaultRules: the zero value is not useful.
type Rules struct {
	Fleet FleetLimits
	base  Limits
	rules []rule
}

// rule changes the limits of agents whose label matches.
type rule struct {
	pattern  string      // "" matches any
	settings [][2]string // keys and values of Limits.params
}

const (
	mostTop  = 10_000
	leastAge = time.Second
	mostAge  = 24 * time.Hour
)

// DefaultRules returns limits that a collector and its history can sustain.
func DefaultRules() Rules {
	return Rules{
		Fleet: FleetLimits{Packets: 5_000_000, Flows: 1_000_000},
		base:  Limits{Packets: 20_000, Flows: 2_000, Top: 20, Calm: 30 * time.Second},
	}
}

// For returns the limits of the agent with this label.
func (r *Rules) For(label string) Limits {
	l := r.base
	for _, rule := range r.rules {
		if ok, _ := path.Match(rule.pattern, label); ok || rule.pattern == "" {
			for _, s := range rule.settings {
				_ = l.params().Set(s[0], s[1]) // Rules.Set has validated it
			}
		}
	}
	return l
}

// grammar describes what Set accepts.
const grammar = `want [LABELS:]packets=N,flows=N,top=K,calm=TIME,fleet-packets=N,fleet-flows=N, or some of these; N is a rate per second or "all"`

func (l *Limits) params() option.Params {
	return option.Params{
		rate("packets", &l.Packets), rate("flows", &l.Flows),
		option.Number("top", "", &l.Top, 1, mostTop),
		option.Duration("calm", "", &l.Calm, leastAge, mostAge),
	}
}

func (l *FleetLimits) params() option.Params {
	return option.Params{rate("fleet-packets", &l.Packets), rate("fleet-flows", &l.Flows)}
}

func rate(key string, p *uint64) option.Param {
	return option.Func(key, "N", "", func(text string) error {
		if text == "all" {
			*p = Unlimited
			return nil
		}
		n, err := option.ParseRate(text)
		if err != nil {
			return errors.New(`want a whole number per second, or "all"`)
		}
		*p = uint64(n)
		return nil
	})
}

// Set adds a rule: [LABELS:]name=value,... LABELS is a pattern with * and ?
// (path.Match); without it, the rule applies to all agents. Later rules override
// earlier ones.
func (r *Rules) Set(text string) error {
	labels, settings, named := strings.Cut(text, ":")
	if !named {
		labels, settings = "", text
	}
	if _, err := path.Match(labels, ""); err != nil || named && labels == "" {
		return fmt.Errorf("%q is not a pattern of labels: %s", labels, grammar)
	}
	added, fleet, one := rule{pattern: labels}, r.Fleet, r.base
	all := append(one.params(), fleet.params()...)
	for setting := range strings.SplitSeq(settings, ",") {
		name, value, _ := strings.Cut(setting, "=")
		if name == "" {
			return fmt.Errorf("%q: %s", setting, grammar)
		}
		if err := all.Set(name, value); err != nil {
			return err
		}
		switch {
		case !strings.HasPrefix(name, "fleet-"):
			added.settings = append(added.settings, [2]string{name, value})
		case named:
			return fmt.Errorf("%q is for all agents together: want it without %q", setting, labels+":")
		}
	}
	r.Fleet = fleet
	r.rules = append(r.rules, added)
	return nil
}
