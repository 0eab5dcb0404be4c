package screen

import (
	"fmt"
	"strings"
)

// Conversation is the traffic between two hosts for one service.
type Conversation struct {
	// A and B are names or addresses. B provides the service, if either does, or is a
	// multicast group.
	A, B    string
	Service string // "443 tcp"
	Color   int    // of its flow, see Flow
	// There is what A sends to B, Back what B sends to A.
	There, Back Rate
	Bytes       uint64 // in both directions, since the start
}

// talkColumns are the widths of the table of conversations; 0 leaves one out.
type talkColumns struct{ a, b, service, there, back, bytes, bar int }

// arrow separates the two hosts.
const arrow = " ⇄ "

// talkLayout gives the hosts the room they need, and omits the least important columns
// until each host has room for an IPv4 address.
func talkLayout(list []Conversation, width int) talkColumns {
	c := talkColumns{a: 4, b: 4, service: 7, there: 11, back: 11, bytes: 8}
	for i := range list {
		c.a = max(c.a, textCells(clean(list[i].A)))
		c.b = max(c.b, textCells(clean(list[i].B)))
		c.service = max(c.service, min(16, textCells(clean(list[i].Service))))
	}
	rest := func() int {
		return width - flowIndent - textCells(arrow) - extra(c.service) - extra(c.there) - extra(c.back) - extra(c.bytes) - 1
	}
	for _, column := range []struct {
		width *int
		names int // minimum width of both names together for the column to stay
	}{{&c.bytes, 30}, {&c.service, 30}, {&c.back, 16}, {&c.there, 4}} {
		if rest() < min(column.names, c.a+c.b) {
			*column.width = 0
		}
	}
	room := max(2, rest())
	if c.a+c.b > room { // the shorter one gets what it needs, up to half
		half := room / 2
		switch {
		case c.a <= half:
			c.b = room - c.a
		case c.b <= half:
			c.a = room - c.b
		default:
			c.a, c.b = half, room-half
		}
	}
	if bar := room - c.a - c.b - gap; bar >= 8 {
		c.bar = bar
	}
	return c
}

// paintTalk draws the conversations in at most height lines.
func (p *Painter) paintTalk(v *View, width, height int) (lines []string, hidden int) {
	if len(v.Conversations) == 0 {
		lines = p.notes(v, width)
		if lines == nil {
			lines = []string{"", " " + p.paint(yellow, fit("nobody has said anything in the last seconds", width-2))}
		}
		return lines[:min(len(lines), height)], 0
	}
	c := talkLayout(v.Conversations, width)
	top := 0.0
	for i := range v.Conversations {
		top = max(top, v.Conversations[i].There.Bits+v.Conversations[i].Back.Bits)
	}
	full := p.talkScale.fit(top)
	title := strings.Repeat(" ", flowIndent) + padRight("who", c.a+c.b+textCells(arrow))
	if c.service > 0 {
		title += strings.Repeat(" ", gap) + padRight("service", c.service)
	}
	title += pad(c.there, "sends") + pad(c.back, "gets") + pad(c.bytes, "so far")
	if c.bar > 0 {
		title += strings.Repeat(" ", gap) + padLeft("to "+si(full)+"bit/s", c.bar)
	}
	lines = append(lines, p.paint(dim, title))
	for i := range v.Conversations {
		if len(lines) >= height {
			return lines, len(v.Conversations) - i
		}
		lines = append(lines, p.talkRow(&v.Conversations[i], c, full))
	}
	return lines, 0
}

func (p *Painter) talkRow(t *Conversation, c talkColumns, full float64) string {
	style := p.flowStyle(t.Color)
	line := "    " + p.paint(style, "■") + " " + padRight(clean(t.A), c.a) + p.paint(dim, arrow) + p.paint(bold, padRight(clean(t.B), c.b))
	if c.service > 0 {
		line += strings.Repeat(" ", gap) + p.paint(dim, padRight(clean(t.Service), c.service))
	}
	line += p.bits(t.There, c.there) + p.bits(t.Back, c.back)
	if c.bytes > 0 {
		line += p.paint(dim, pad(c.bytes, si(float64(t.Bytes))+"B"))
	}
	if c.bar > 0 {
		line += strings.Repeat(" ", gap) + p.paint(style, bar((t.There.Bits+t.Back.Bits)/full, c.bar))
	}
	return line
}

// bits formats a rate without its packets; a zero rate is dim.
func (p *Painter) bits(r Rate, width int) string {
	if width == 0 {
		return ""
	}
	if r == (Rate{}) {
		return p.paint(dim, pad(width, "-"))
	}
	return pad(width, fmt.Sprintf("%sbit/s", si(r.Bits)))
}
