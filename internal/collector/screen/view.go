package screen

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// View is what the screen displays: one block per agent, with a row for each of its
// flows.
type View struct {
	Uptime  time.Duration
	Records uint64 // received since the start
	Lost    uint64 // records that could not be counted in time
	Agents  []Agent
	Replay  *Replay // nil: agents are live
	// MGEN are all MGEN flows; they are displayed instead of agents if ShowMGEN.
	// HasMGEN means that there are any.
	MGEN              []MGENFlow
	ShowMGEN, HasMGEN bool
	// Conversations, heaviest first, are displayed instead of agents if ShowTalk.
	Conversations []Conversation
	ShowTalk      bool
	// Page is the address of the same view for a browser, or "".
	Page string
	// Notice is an additional message, or "".
	Notice string
}

// Replay is the state of a replay.
type Replay struct {
	Time     string        // of the records, for display
	Part     float64       // share of the logs that has been read, 0 to 1
	Speed    string        // x1, x16
	Gap      time.Duration // until the next record, in the logs' time
	Paused   bool
	Seeking  bool // seeking another position
	Starting bool // Time is not valid yet
	Ended    bool
}

// Agent is one connection and its traffic in the last second.
type Agent struct {
	Label, Address string
	State          State
	// Status says in a few words why there is no connection. Valid unless State is
	// Connected.
	Status string
	// Less is what is kept instead of packets, such as "flows"; empty if packets or
	// nothing are kept.
	Less string
	// Missing is what is known to be missing, such as "12 records lost in transit", or
	// "".
	Missing string
	Rate    Rate // each packet counted once, whatever the number of its flows
	CPU     Gauge
	Memory  Gauge // bytes
	Flows   []Flow
}

// State is the state of a connection.
type State uint8

// Values of State, in their usual order.
const (
	Dialling State = iota
	Connected
	Failed // will be retried
)

// Rate is the rate of a stream in one second.
type Rate struct{ Packets, Bits float64 }

// Gauge is a host statistic; not every agent sends any.
type Gauge struct {
	Value float64 // CPU: percent of all processors; memory: bytes
	Valid bool
}

// Flow is one flow of one agent.
type Flow struct {
	Name   string // as in grapher lines
	Detail string // definition of the flow, or ""
	Color  int    // the flow's number, which is the same for all agents and times, Grey, or RGB
	Rate   Rate
	// Loss (percent) and Delay (seconds) of its MGEN messages on the way to this host.
	Loss, Delay Gauge
}

// Grey is the color of traffic that belongs to no flow.
const Grey = -1

// Painter draws views. It keeps what must not jump from one view to the next: the scale
// of the bars.
type Painter struct {
	Color bool // false if NO_COLOR is set, https://no-color.org
	// TrueColor means that the terminal displays RGB colors exactly rather than 256
	// fixed ones, according to COLORTERM.
	TrueColor bool
	scale     scale
	talkScale scale // of conversations
}

// Styles, as parameters of SGR (ECMA-48, section 8.3.117).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	grey   = "38;5;245"
)

// palette holds colors of the 256-color cube that can be distinguished, and read on
// black and on white.
var palette = [...]string{
	"38;5;33", "38;5;208", "38;5;35", "38;5;170", "38;5;178", "38;5;203",
	"38;5;37", "38;5;99", "38;5;106", "38;5;131", "38;5;67", "38;5;173",
}

// RGB returns the Flow.Color for an exact color.
func RGB(r, g, b uint8) int { return rgbBit | int(r)<<16 | int(g)<<8 | int(b) }

const rgbBit = 1 << 24 // above all flow numbers

func (p *Painter) flowStyle(color int) string {
	switch {
	case color == Grey:
		return grey
	case color < rgbBit:
		return palette[color%len(palette)]
	}
	r, g, b := color>>16&0xff, color>>8&0xff, color&0xff
	if p.TrueColor {
		return fmt.Sprintf("38;2;%d;%d;%d", r, g, b)
	}
	return fmt.Sprintf("38;5;%d", 16+36*cube(r)+6*cube(g)+cube(b))
}

// cube returns the nearest of the six levels of the 256-color cube: 0, 95, 135, 175,
// 215, and 255.
func cube(v int) int {
	if v < 48 {
		return 0
	}
	return max(1, (v-35)/40)
}

func (p *Painter) paint(style, text string) string {
	if !p.Color || style == "" || text == "" {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// columns are the widths of a table's columns in cells; 0 omits a column.
type columns struct {
	name, packets, bits, loss, delay, cpu, memory, bar int
	// label and flow are the widths of the first part of name: an agent's label, or a
	// flow's number. Explanations are aligned after it.
	label, flow int
}

const gap = 2 // cells between two columns

// Cells before the name: a margin and an agent's dot, or a flow's square.
const (
	agentIndent = 3
	flowIndent  = 6
)

// layout distributes the width: names get what they need, up to a third; bars get the
// rest if that is enough.
func layout(v *View, width int) columns {
	c := columns{packets: 9, bits: 12}
	address, detail := 0, 0
	for i := range v.Agents {
		a := &v.Agents[i]
		c.label = max(c.label, textCells(clean(a.Label)))
		address = max(address, textCells(a.detail()))
		for j := range a.Flows {
			c.flow = max(c.flow, textCells(a.Flows[j].Name))
			detail = max(detail, textCells(a.Flows[j].Detail))
			if a.Flows[j].Loss.Valid && width >= 72 {
				c.loss = 6
			}
			if a.Flows[j].Delay.Valid && width >= 72 {
				c.delay = 8
			}
		}
		if a.CPU.Valid && width >= 72 {
			c.cpu = 5
		}
		if a.Memory.Valid && width >= 72 {
			c.memory = 8
		}
	}
	if c.loss+c.delay > 0 && width < 110 { // not enough room for all
		c.cpu, c.memory = 0, 0
	}
	rates := 2*gap + c.packets + c.bits
	need := max(agentIndent+c.label+gap+address, flowIndent+c.flow+gap+detail)
	c.name = max(1, min(need, max(width/3, 24), width-rates-1))
	c.label = max(1, min(c.label, c.name-agentIndent))
	c.flow = max(1, min(c.flow, c.name-flowIndent))
	c.bar = width - c.name - rates - extra(c.loss) - extra(c.delay) - extra(c.cpu) - extra(c.memory) - gap - 1
	if c.bar < 8 {
		c.bar = 0
	}
	return c
}

func extra(width int) int {
	if width == 0 {
		return 0
	}
	return gap + width
}

// Paint draws v for a terminal of the given size: at most height lines, none wider than
// width, without a trailing newline.
func (p *Painter) Paint(v *View, width, height int) []byte {
	if v.ShowMGEN {
		return p.paintWith(v, width, height, func(room int) ([]string, int) { return p.paintMGEN(v, width, room) })
	}
	if v.ShowTalk {
		return p.paintWith(v, width, height, func(room int) ([]string, int) { return p.paintTalk(v, width, room) })
	}
	cols := layout(v, width)
	full := p.scale.fit(peak(v))
	lines := []string{p.header(v, width), "", p.titles(cols, full)}
	notes := p.notes(v, width)
	room := height - len(lines) - len(notes) - 1 // for the footer
	shown, hidden := share(v, room)
	for i, flows := range shown {
		lines = append(lines, p.agentRow(&v.Agents[i], cols, full))
		for j := range flows {
			lines = append(lines, p.flowRow(&v.Agents[i].Flows[j], cols, full))
		}
	}
	lines = append(lines, notes...)
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:max(0, min(len(lines), height-1))], p.footer(v, hidden, width))
	return []byte(strings.Join(lines, "\n"))
}

// paintWith draws the header and the footer around what paint draws.
func (p *Painter) paintWith(v *View, width, height int, paint func(room int) (lines []string, hidden int)) []byte {
	body, hidden := paint(max(1, height-3))
	lines := append([]string{p.header(v, width), ""}, body...)
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines[:max(0, min(len(lines), height-1))], p.footer(v, hidden, width))
	return []byte(strings.Join(lines, "\n"))
}

// peak returns the highest bit rate of any row.
func peak(v *View) float64 {
	top := 0.0
	for i := range v.Agents {
		top = max(top, v.Agents[i].Rate.Bits)
		for _, f := range v.Agents[i].Flows {
			top = max(top, f.Rate.Bits)
		}
	}
	return top
}

// share returns how many flows of each agent fit: first come the agents, then their
// flows, one per agent in turn until all rows are used.
func share(v *View, room int) (flows []int, hidden int) {
	total := len(v.Agents)
	for i := range v.Agents {
		total += len(v.Agents[i].Flows)
	}
	flows = make([]int, max(0, min(len(v.Agents), room)))
	used := len(flows)
	for grown := true; grown; {
		grown = false
		for i := range flows {
			if used < room && flows[i] < len(v.Agents[i].Flows) {
				flows[i]++
				used++
				grown = true
			}
		}
	}
	return flows, total - used
}

func (p *Painter) header(v *View, width int) string {
	connected, sum := 0, Rate{}
	for i := range v.Agents {
		if v.Agents[i].State == Connected {
			connected++
		}
		sum.Packets += v.Agents[i].Rate.Packets
		sum.Bits += v.Agents[i].Rate.Bits
	}
	agents := fmt.Sprintf("%d of %d", connected, len(v.Agents)) + plural(uint64(len(v.Agents)), " agent")
	if width >= 90 {
		agents += " connected"
	}
	style := green
	switch {
	case connected == 0:
		style = red
	case connected < len(v.Agents):
		style = yellow
	}
	left := []cell{{bold, "recollect"}, {style, agents}}
	if v.Lost > 0 {
		left = append(left, cell{red, grouped(v.Lost) + " lost"})
	}
	left = append(left, cell{"", "up " + clock(v.Uptime)}, cell{dim, grouped(v.Records) + plural(v.Records, " record")})
	if v.Replay != nil {
		left = v.Replay.header(v, width)
	}
	right := []cell{{bold, strings.TrimRight(si(sum.Packets), " ") + " packets/s"}, {bold, si(sum.Bits) + "bit/s"}}
	if v.Replay != nil && width < 70 { // the position matters more
		right = right[1:]
	}
	return " " + p.spread(left, right, width-2)
}

// header describes the position of the replay, most important first.
func (r *Replay) header(v *View, width int) []cell {
	state := cell{"", clean(r.Speed)}
	switch {
	case r.Starting:
		return []cell{{bold, "replay"}, {yellow, "reading the logs"}}
	case r.Ended:
		state = cell{green, "at the end"}
	case r.Seeking:
		state = cell{yellow, "seeking"}
	case r.Paused:
		state = cell{yellow, "paused"}
	}
	at := clean(r.Time)
	if _, clock, ok := strings.Cut(at, " "); ok && width < 50 {
		at = clock // without the date
	}
	cells := []cell{{bold, "replay"}, {"", at}, state, {"", fmt.Sprintf("%.0f %%", 100*r.Part)}}
	if r.Gap >= longGap && !r.Seeking {
		cells = append(cells, cell{yellow, "traffic in " + clock(r.Gap)})
	}
	return append(cells, cell{dim, grouped(v.Records) + plural(v.Records, " record")})
}

// longGap is how long nothing must happen before it is mentioned.
const longGap = 10 * time.Second

// cell is a piece of text with its style.
type cell struct{ style, text string }

// spread puts cells at both ends of a line, omitting the last of the left ones if there
// is not enough room.
func (p *Painter) spread(left, right []cell, width int) string {
	const between = 3
	need := func(cells []cell) (n int) {
		for i, c := range cells {
			if i > 0 {
				n += between
			}
			n += textCells(c.text)
		}
		return n
	}
	for len(left) > 1 && need(left)+between+need(right) > width {
		left = left[:len(left)-1]
	}
	for len(right) > 0 && need(left)+between+need(right) > width {
		right = right[1:]
	}
	fill := max(0, width-need(left)-need(right))
	return p.join(left, between) + strings.Repeat(" ", fill) + p.join(right, between)
}

func (p *Painter) join(cells []cell, between int) string {
	var parts []string
	for _, c := range cells {
		parts = append(parts, p.paint(c.style, c.text))
	}
	return strings.Join(parts, strings.Repeat(" ", between))
}

func plural(n uint64, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// grouped formats n with spaces between thousands.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

func (p *Painter) titles(c columns, full float64) string {
	line := padRight("   agent / flow", c.name) + pad(c.packets, "packets/s") + pad(c.bits, "bits/s") +
		pad(c.loss, "loss") + pad(c.delay, "delay") + pad(c.cpu, "cpu") + pad(c.memory, "memory")
	if c.bar > 0 {
		ends := "0" + padLeft(si(full)+"bit/s", c.bar-1)
		if c.bar < 14 { // not enough room for both
			ends = padLeft("to "+strings.TrimRight(si(full), " "), c.bar)
		}
		line += strings.Repeat(" ", gap) + ends
	}
	return p.paint(dim, line)
}

// pad returns a right-aligned column with the gap before it, or "" if the column is
// omitted.
func pad(width int, text string) string {
	if width == 0 {
		return ""
	}
	return strings.Repeat(" ", gap) + padLeft(text, width)
}

// detail explains an agent's label.
func (a *Agent) detail() string {
	text := a.Address
	if a.Missing != "" {
		text = "missing " + a.Missing + "  " + text
	}
	if a.Less != "" {
		text = "keeps " + a.Less + "  " + text
	}
	return text
}

func (p *Painter) agentRow(a *Agent, c columns, full float64) string {
	dot, style := "●", green
	switch a.State {
	case Dialling:
		dot, style = "○", yellow
	case Failed:
		dot, style = "○", red
	}
	if (a.Less != "" || a.Missing != "") && a.State == Connected {
		style = yellow
	}
	line := " " + p.paint(style, dot) + " " +
		p.named(cell{bold, a.Label}, a.detail(), c.label, c.name-agentIndent)
	if a.State != Connected && a.Rate == (Rate{}) {
		room := gap + c.packets + gap + c.bits + extra(c.loss) + extra(c.delay) + extra(c.cpu) + extra(c.memory) + extra(c.bar)
		return line + strings.Repeat(" ", gap) + p.paint(style, fit(clean(a.Status), room-gap))
	}
	line += p.rates(a.Rate, c, bold) + pad(c.loss, "") + pad(c.delay, "") + pad(c.cpu, percent(a.CPU)) + pad(c.memory, memory(a.Memory))
	if c.bar > 0 {
		line += strings.Repeat(" ", gap) + p.stack(a, c.bar, full)
	}
	return line
}

// named returns a name in a field of cells, followed by its explanation, in exactly
// width cells.
func (p *Painter) named(name cell, detail string, cells, width int) string {
	text := padRight(clean(name.text), min(cells, width))
	rest := max(0, width-textCells(text))
	if rest <= gap {
		return p.paint(name.style, text) + strings.Repeat(" ", rest)
	}
	return p.paint(name.style, text) + strings.Repeat(" ", gap) + p.paint(dim, padRight(clean(detail), rest-gap))
}

func percent(g Gauge) string {
	if !g.Valid {
		return ""
	}
	return fmt.Sprintf("%.0f %%", g.Value)
}

func memory(g Gauge) string {
	if !g.Valid {
		return ""
	}
	return si(g.Value) + "B"
}

func (p *Painter) flowRow(f *Flow, c columns, full float64) string {
	style := p.flowStyle(f.Color)
	line := "    " + p.paint(style, "■") + " " +
		p.named(cell{"", f.Name}, f.Detail, c.flow, c.name-flowIndent)
	line += p.rates(f.Rate, c, "") + p.paint(lossStyle(f.Loss), pad(c.loss, loss(f.Loss))) +
		p.paint(delayStyle(f.Delay), pad(c.delay, delay(f.Delay))) + pad(c.cpu, "") + pad(c.memory, "")
	if c.bar > 0 {
		line += strings.Repeat(" ", gap) + p.paint(style, bar(f.Rate.Bits/full, c.bar))
	}
	return line
}

// rates formats the two numbers of a row; a row without traffic is dim.
func (p *Painter) rates(r Rate, c columns, style string) string {
	if r == (Rate{}) {
		style = dim
	}
	text := pad(c.packets, si(r.Packets)) + pad(c.bits, si(r.Bits)+"bit/s")
	return p.paint(style, text)
}

// notes says what to do when there is nothing to see.
func (p *Painter) notes(v *View, width int) []string {
	if v.Records > 0 || v.Replay != nil {
		return nil
	}
	connected := false
	for i := range v.Agents {
		connected = connected || v.Agents[i].State == Connected
	}
	text := []string{"",
		"no agent answers yet: start pcapper on the hosts above, or check that their",
		"ports can be reached from here. recollect keeps trying."}
	if connected {
		text = []string{"",
			"no traffic yet: the agents are connected and wait for packets. Make some across",
			"an interface that they watch: open a web page there, or run mgen or iperf3."}
	}
	for i := range text {
		text[i] = " " + p.paint(yellow, fit(text[i], width-2))
	}
	return text
}

func (p *Painter) footer(v *View, hidden, width int) string {
	left := []cell{{dim, "q ends"}, {dim, "c " + map[bool]string{false: "conversations", true: "hosts"}[v.ShowTalk && !v.ShowMGEN]}}
	if v.HasMGEN || v.ShowMGEN {
		text := "m MGEN flows"
		if v.ShowMGEN && v.ShowTalk {
			text = "m back"
		} else if v.ShowMGEN {
			text = "m hosts"
		}
		left = slices.Insert(left, 0, cell{dim, text})
	}
	if v.Replay != nil {
		left = []cell{
			{dim, "space pause"}, {dim, "←→ 10 s"}, {dim, "PgUp PgDn 1 min"}, {dim, "↑↓ speed"},
			{dim, "n next traffic"}, {dim, "Home start"}, {dim, "c who"}, {dim, "m MGEN"}, {dim, "q ends"},
		}
		if width < 122 {
			left = []cell{{dim, "space pause"}, {dim, "←→ 10 s"}, {dim, "↑↓ speed"}, {dim, "n next"}, {dim, "m MGEN"}, {dim, "q ends"}}
		}
	}
	if v.Notice != "" {
		left = []cell{{dim, "q ends"}, {yellow, fit(v.Notice, max(0, width-12))}}
	}
	if hidden > 0 {
		more := []cell{{yellow, fmt.Sprintf("+%d more", hidden)}}
		if v.Replay == nil {
			more = append(more, cell{dim, "a taller window shows them"})
		}
		left = append(more, left...)
	}
	var right []cell
	if v.Page != "" {
		right = []cell{{dim, "page at " + clean(v.Page)}}
	}
	return " " + p.spread(left, right, width-2)
}
