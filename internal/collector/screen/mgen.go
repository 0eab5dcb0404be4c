package screen

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// MGENFlow is one MGEN flow at one receiver, or without a receiver if no agent has seen
// it arrive.
type MGENFlow struct {
	ID   uint32
	Path string // source and destination
	At   string // the receiver's label, or ""
	Rate Rate   // received, or sent if there is no receiver
	Loss Gauge  // percent
	// Delay and Jitter in seconds. Delay may be negative, because the clocks of the two
	// hosts differ.
	Delay, Jitter Gauge
	Reordered     Gauge // messages, in the window
	Duplicates    Gauge
}

// mgenColumns are the widths of the table of MGEN flows; 0 leaves one out.
type mgenColumns struct{ id, path, at, packets, bits, loss, delay, jitter, reordered, duplicates int }

// mgenLayout omits the least important columns until the paths have enough room.
func mgenLayout(flows []MGENFlow, width int) mgenColumns {
	c := mgenColumns{id: 4, at: 2, packets: 9, bits: 11, loss: 6, delay: 8, jitter: 8, reordered: 9, duplicates: 4}
	path := 4
	for i := range flows {
		c.id = max(c.id, len(fmt.Sprint(flows[i].ID)))
		c.at = max(c.at, min(12, textCells(flows[i].At)))
		path = max(path, textCells(flows[i].Path))
	}
	for _, least := range []*int{&c.duplicates, &c.reordered, &c.packets, &c.jitter, &c.bits, &c.at} {
		if c.room(width) >= min(path, 21) {
			break
		}
		*least = 0
	}
	c.path = max(1, min(path, c.room(width)))
	return c
}

// room returns what the other columns leave for the path.
func (c *mgenColumns) room(width int) int {
	rest := 0
	for _, w := range []int{c.at, c.packets, c.bits, c.loss, c.delay, c.jitter, c.reordered, c.duplicates} {
		rest += extra(w)
	}
	return width - 1 - c.id - gap - rest - 1
}

// paintMGEN draws the table of MGEN flows in at most height lines.
func (p *Painter) paintMGEN(v *View, width, height int) (lines []string, hidden int) {
	if len(v.MGEN) == 0 {
		return []string{"", " " + p.paint(yellow, fit("no MGEN flows in the last seconds", width-2))}, 0
	}
	c := mgenLayout(v.MGEN, width)
	title := " " + padLeft("flow", c.id) + strings.Repeat(" ", gap) + padRight("path", c.path)
	if c.at > 0 {
		title += strings.Repeat(" ", gap) + padRight("at", c.at)
	}
	title += pad(c.packets, "packets/s") + pad(c.bits, "bits/s") + pad(c.loss, "loss") + pad(c.delay, "delay") +
		pad(c.jitter, "jitter") + pad(c.reordered, "reordered") + pad(c.duplicates, "dup.")
	lines = append(lines, p.paint(dim, title))
	for i := range v.MGEN {
		if len(lines) >= height {
			return lines, len(v.MGEN) - i
		}
		var before *MGENFlow
		if i > 0 && len(lines) > 1 {
			before = &v.MGEN[i-1]
		}
		lines = append(lines, p.mgenRow(&v.MGEN[i], before, c))
	}
	return lines, 0
}

// mgenRow omits what the previous row already says, for receivers of the same flow.
func (p *Painter) mgenRow(f, before *MGENFlow, c mgenColumns) string {
	id, path := fmt.Sprint(f.ID), clean(f.Path)
	if before != nil && before.ID == f.ID && before.Path == f.Path {
		id, path = "", ""
	}
	line := " " + p.paint(bold, padLeft(id, c.id)) + strings.Repeat(" ", gap) + padRight(path, c.path)
	if c.at > 0 {
		line += strings.Repeat(" ", gap) + padRight(clean(f.At), c.at)
	}
	style := ""
	if f.Rate == (Rate{}) {
		style = dim
	}
	line += p.paint(style, pad(c.packets, si(f.Rate.Packets))+pad(c.bits, si(f.Rate.Bits)+"bit/s"))
	if f.At == "" {
		return line + strings.Repeat(" ", gap) + p.paint(dim, fit("not seen arriving", c.tail()-gap))
	}
	return line + p.paint(lossStyle(f.Loss), pad(c.loss, loss(f.Loss))) +
		p.paint(delayStyle(f.Delay), pad(c.delay, delay(f.Delay))) + pad(c.jitter, delay(f.Jitter)) +
		pad(c.reordered, number(f.Reordered)) + pad(c.duplicates, number(f.Duplicates))
}

// tail returns the width of the columns after the rates.
func (c *mgenColumns) tail() int {
	return extra(c.loss) + extra(c.delay) + extra(c.jitter) + extra(c.reordered) + extra(c.duplicates)
}

func number(g Gauge) string {
	if !g.Valid {
		return ""
	}
	return strings.TrimRight(si(g.Value), " ")
}

// loss formats a percentage with as many digits as are meaningful.
func loss(g Gauge) string {
	switch {
	case !g.Valid:
		return ""
	case g.Value == 0:
		return "0 %"
	case g.Value < 9.95:
		return fmt.Sprintf("%.1f %%", max(g.Value, 0.1))
	}
	return fmt.Sprintf("%.0f %%", g.Value)
}

func lossStyle(g Gauge) string {
	switch {
	case !g.Valid || g.Value == 0:
		return ""
	case g.Value < 5:
		return yellow
	}
	return red
}

// delay formats a time with three digits: 950 µs, 12.3 ms, 1.23 s.
func delay(g Gauge) string {
	if !g.Valid {
		return ""
	}
	v, unit := math.Abs(g.Value), "s"
	switch {
	case v < 0.0009995:
		v, unit = v*1e6, "µs"
	case v < 0.9995:
		v, unit = v*1e3, "ms"
	}
	decimals := 0
	switch {
	case unit == "µs": // whole microseconds
	case v < 9.995:
		decimals = 2
	case v < 99.95:
		decimals = 1
	}
	text := fmt.Sprintf("%.*f %s", decimals, v, unit)
	if g.Value < 0 {
		text = "-" + text
	}
	return text
}

// delayStyle highlights an impossible delay.
func delayStyle(g Gauge) string {
	if g.Valid && g.Value < 0 {
		return yellow
	}
	return ""
}

// Seconds returns a duration as a Gauge.
func Seconds(d time.Duration, valid bool) Gauge { return Gauge{Value: d.Seconds(), Valid: valid} }
