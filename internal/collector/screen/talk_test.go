package screen

import (
	"strings"
	"testing"
	"time"
)

// talkView is somebody who downloads, with names long and short.
func talkView() *View {
	return &View{
		Uptime: 8 * time.Second, Records: 12, ShowTalk: true, Page: "http://127.0.0.1:7080/",
		Agents: []Agent{{Label: "laptop", State: Connected, Rate: Rate{1000, 8.2e6}}},
		Conversations: []Conversation{
			{A: "laptop", B: "deb.debian.org", Service: "443 tcp", Color: 0, There: Rate{100, 2e5}, Back: Rate{900, 8e6}, Bytes: 5e6},
			{A: "laptop", B: "2001:db8:1234:5678:9abc:def0:1234:5678", Service: "53 udp", Color: 2, There: Rate{1, 800}, Bytes: 100},
			{A: "evil\x1b[2J", B: "224.0.0.251", Service: "5353 udp", Color: Grey},
		},
	}
}

// TestPaintTalk: who talks to whom fits into windows of any width, the rates
// before all else, and no name reaches the terminal as it is.
func TestPaintTalk(t *testing.T) {
	var p Painter
	wide := string(p.Paint(talkView(), 120, 8))
	for _, want := range []string{"laptop", "⇄ deb.debian.org", "2001:db8:1234:5678:9abc:def0:1234:5678", "443 tcp", "200 kbit/s", "8.00 Mbit/s", "5.00 MB", "█", "page at http://127.0.0.1:7080/", "q ends   c hosts"} {
		if !strings.Contains(wide, want) {
			t.Errorf("at 120 columns %q is missing in\n%s", want, wide)
		}
	}
	for width := 12; width <= 130; width++ {
		screen := string(p.Paint(talkView(), width, 8))
		if strings.Contains(screen, "\x1b") {
			t.Fatalf("at %d columns: a control character of a name in %q", width, screen)
		}
		for _, line := range strings.Split(screen, "\n") {
			if n := textCells(line); n > width {
				t.Errorf("at %d columns a line has %d cells: %q", width, n, line)
			}
		}
		if width >= 60 && !strings.Contains(screen, "8.00 Mbit/s") {
			t.Errorf("at %d columns the rate is missing in\n%s", width, screen)
		}
	}
	short := string(p.Paint(talkView(), 80, 6))
	if !strings.Contains(short, "+1 more") {
		t.Errorf("nothing says that one is hidden:\n%s", short)
	}
	none := talkView()
	none.Conversations = nil
	if text := string(p.Paint(none, 80, 8)); !strings.Contains(text, "nobody has said anything") {
		t.Errorf("without conversations:\n%s", text)
	}
}
