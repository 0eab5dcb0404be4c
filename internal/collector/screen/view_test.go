package screen

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
)

// testView has every kind of row.
func testView() *View {
	return &View{
		Uptime:  83 * time.Second,
		Records: 1_234_567,
		Agents: []Agent{
			{
				Label: "a", Address: "10.0.0.1:7073", State: Connected,
				Rate:   Rate{12_345, 98_760_000},
				CPU:    Gauge{12, true},
				Memory: Gauge{1_204_000_000, true},
				Flows: []Flow{
					{Name: "1", Detail: "2000", Color: 0, Rate: Rate{9_999.6, 50_000_000}},
					{Name: "2", Detail: "2020-2029, M7", Color: 1, Rate: Rate{345, 25_000_000}},
					{Name: "10", Detail: "M1000", Color: 2, Rate: Rate{}},
					{Name: "X", Detail: "no flow", Color: Grey, Rate: Rate{2000, 23_760_000}},
				},
			},
			{Label: "gateway", Address: "[2001:db8::1]:7073", State: Connected},
			{Label: "c", Address: "10.0.0.3:7073", State: Dialling, Status: "dialling"},
			{Label: "d", Address: "10.0.0.4:7073", State: Failed, Status: "cannot connect: connection refused; trying again"},
		},
	}
}

func expectFrame(t *testing.T, got []byte, want string) {
	t.Helper()
	lines := strings.Split(string(got), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	if text := strings.Join(lines, "\n"); text != strings.TrimPrefix(want, "\n") {
		t.Errorf("got\n%s\nwant%s", text, want)
	}
}

func TestPaint(t *testing.T) {
	var p Painter
	expectFrame(t, p.Paint(testView(), 110, 15), `
 recollect   2 of 4 agents connected   up 1:23   1 234 567 records             12.3 k packets/s   98.8 Mbit/s

   agent / flow                 packets/s        bits/s    cpu    memory  0                        100 Mbit/s
 ● a        10.0.0.1:7073          12.3 k   98.8 Mbit/s   12 %   1.20 GB  ███████████████████████████████████
    ■ 1   2000                     10.0 k   50.0 Mbit/s                   █████████████████▌
    ■ 2   2020-2029, M7              345    25.0 Mbit/s                   ████████▊
    ■ 10  M1000                        0        0 bit/s
    ■ X   no flow                  2.00 k   23.8 Mbit/s                   ████████▍
 ● gateway  [2001:db8::1]:7073         0        0 bit/s
 ○ c        10.0.0.3:7073       dialling
 ○ d        10.0.0.4:7073       cannot connect: connection refused; trying again



 q ends   c conversations`)
}

// TestPaintLess: an agent of which less is kept has a mark, and says what.
func TestPaintLess(t *testing.T) {
	v := testView()
	v.Agents = v.Agents[1:]
	v.Agents[0].Less, v.Agents[1].Less = "top flows", "flows"
	p := Painter{Color: true}
	text := string(p.Paint(v, 100, 8))
	for _, want := range []string{"\x1b[33m●\x1b[0m \x1b[1mgateway", "\x1b[33m○\x1b[0m \x1b[1mc "} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%q", want, text)
		}
	}
	if plain := sgr.ReplaceAllString(text, ""); !strings.Contains(plain, "● gateway  keeps top flows  [20") || !strings.Contains(plain, "○ c        keeps flows  10.0.0") {
		t.Errorf("it says\n%s", plain)
	}
}

// TestPaintMissing: likewise an agent whose records do not all come.
func TestPaintMissing(t *testing.T) {
	v := testView()
	v.Agents = v.Agents[1:2]
	v.Agents[0].Missing = "7 records lost in transit"
	p := Painter{Color: true}
	text := string(p.Paint(v, 120, 8))
	if !strings.Contains(text, "\x1b[33m●\x1b[0m \x1b[1mgateway") || !strings.Contains(sgr.ReplaceAllString(text, ""), "● gateway  missing 7 records lost") {
		t.Errorf("it says\n%q", text)
	}
}

// TestPaintSmall: agents come before flows, what is left out is counted.
func TestPaintSmall(t *testing.T) {
	var p Painter
	expectFrame(t, p.Paint(testView(), 60, 11), `
 recollect   2 of 4 agents   12.3 k packets/s   98.8 Mbit/s

   agent / flow           packets/s        bits/s  to 100 M
 ● a        10.0.0.1:70…     12.3 k   98.8 Mbit/s  ████████
    ■ 1   2000               10.0 k   50.0 Mbit/s  ████
    ■ 2   2020-2029, M7        345    25.0 Mbit/s  ██
    ■ 10  M1000                  0        0 bit/s
 ● gateway  [2001:db8::…         0        0 bit/s
 ○ c        10.0.0.3:70…  dialling
 ○ d        10.0.0.4:70…  cannot connect: connection refus…
 +1 more   a taller window shows them   q ends`)
	expectFrame(t, p.Paint(testView(), 60, 6), `
 recollect   2 of 4 agents   12.3 k packets/s   98.8 Mbit/s

   agent / flow           packets/s        bits/s  to 100 M
 ● a        10.0.0.1:70…     12.3 k   98.8 Mbit/s  ████████
 ● gateway  [2001:db8::…         0        0 bit/s
 +6 more   a taller window shows them   q ends`)
}

// TestPaintEmpty: a view without traffic says what to do.
func TestPaintEmpty(t *testing.T) {
	v := &View{Agents: []Agent{{Label: "a", Address: "10.0.0.1:7073", Status: "dialling"}}}
	var p Painter
	expectFrame(t, p.Paint(v, 90, 10), `
 recollect   0 of 1 agent connected   up 0:00   0 records           0 packets/s   0 bit/s

   agent / flow      packets/s        bits/s  0                               1.00 kbit/s
 ○ a  10.0.0.1:7073  dialling

 no agent answers yet: start pcapper on the hosts above, or check that their
 ports can be reached from here. recollect keeps trying.


 q ends   c conversations`)
	v.Agents[0].State = Connected
	if text := string(p.Paint(v, 90, 10)); !strings.Contains(text, "no traffic yet: the agents are connected") {
		t.Errorf("an idle view says\n%s", text)
	}
	v.Records, v.Lost = 1, 1_000
	if text := string(p.Paint(v, 90, 10)); strings.Contains(text, "yet") || !strings.Contains(text, "1 000 lost") {
		t.Errorf("a view with losses says\n%s", text)
	}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// TestPaintFits: whatever is shown, it stays within the window, and nothing
// but our own colors reaches the terminal.
func TestPaintFits(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	texts := []string{"", "a", "\x1b[2J\x1b]0;x\a", "日本語のホスト", "a\u202eb", "e\u0301e\u0301e\u0301", "\xff\xfe", strings.Repeat("long ", 60), "👩👩"}
	text := func() string { return texts[rng.IntN(len(texts))] }
	rate := func() Rate { return Rate{rng.ExpFloat64() * 1e6, rng.ExpFloat64() * 1e12 * float64(rng.IntN(2))} }
	gauge := func() Gauge { return Gauge{(rng.NormFloat64() * 100), rng.IntN(2) == 0} }
	for range 3000 {
		v := &View{Records: rng.Uint64N(2), Lost: rng.Uint64(), Uptime: time.Duration(rng.Int64())}
		for range rng.IntN(8) {
			a := Agent{Label: text(), Address: "[2001:db8::1]:7073", State: State(rng.IntN(3)), Status: text(),
				Rate: rate(), CPU: Gauge{100, rng.IntN(2) == 0}, Memory: Gauge{1e15, rng.IntN(2) == 0}}
			for range rng.IntN(5) {
				a.Flows = append(a.Flows, Flow{
					Name: text(), Detail: text(), Color: rng.IntN(20) - 1, Rate: rate(), Loss: gauge(), Delay: gauge(),
				})
			}
			v.Agents = append(v.Agents, a)
		}
		for range rng.IntN(20) {
			v.MGEN = append(v.MGEN, MGENFlow{
				ID: rng.Uint32(), Path: text(), At: text(), Rate: rate(),
				Loss: gauge(), Delay: gauge(), Jitter: gauge(), Reordered: gauge(), Duplicates: gauge(),
			})
		}
		v.ShowMGEN, v.HasMGEN = rng.IntN(2) == 0, rng.IntN(2) == 0
		if rng.IntN(2) == 0 {
			v.Replay = &Replay{
				Time: text(), Speed: text(), Part: rng.Float64(), Gap: time.Duration(rng.Int64()), Paused: rng.IntN(2) == 0,
				Seeking: rng.IntN(2) == 0, Starting: rng.IntN(2) == 0, Ended: rng.IntN(2) == 0,
			}
		}
		p := Painter{Color: rng.IntN(2) == 0}
		width, height := 1+rng.IntN(150), 1+rng.IntN(30)
		checkFrame(t, string(p.Paint(v, width, height)), width, height, p.Color)
	}
}

func checkFrame(t *testing.T, frame string, width, height int, color bool) {
	t.Helper()
	plain := sgr.ReplaceAllString(frame, "")
	if !color && plain != frame {
		t.Fatalf("colors although there should be none:\n%q", frame)
	}
	lines := strings.Split(plain, "\n")
	if len(lines) > height {
		t.Fatalf("%d lines in a window of %d:\n%s", len(lines), height, plain)
	}
	for _, line := range lines {
		if strings.ContainsFunc(line, unicode.IsControl) || strings.Contains(line, "\u202e") {
			t.Fatalf("%q has control characters", line)
		}
		if n := textCells(line); n > width && width >= 40 {
			t.Fatalf("%q has %d cells in a window of %d", line, n, width)
		}
	}
}

// TestPaintColors: a flow has the same color in its row and in the agent's
// bar, the rest is grey.
func TestPaintColors(t *testing.T) {
	p := Painter{Color: true}
	lines := strings.Split(string(p.Paint(testView(), 110, 20)), "\n")
	for _, style := range []string{palette[0], palette[1], grey} {
		if !strings.Contains(lines[3], "\x1b["+style+"m█") {
			t.Errorf("the agent's bar lacks the color %s: %q", style, lines[3])
		}
	}
	for row, style := range map[int]string{4: palette[0], 5: palette[1], 6: palette[2], 7: grey} {
		if !strings.Contains(lines[row], "\x1b["+style+"m■") {
			t.Errorf("row %d is not of color %s: %q", row, style, lines[row])
		}
	}
	if p.flowStyle(0) != p.flowStyle(len(palette)) || p.flowStyle(Grey) != grey {
		t.Error("colors do not come again, or grey is none")
	}
}

func TestShare(t *testing.T) {
	view := func(flows ...int) *View {
		v := &View{}
		for _, n := range flows {
			v.Agents = append(v.Agents, Agent{Flows: make([]Flow, n)})
		}
		return v
	}
	for _, tt := range []struct {
		flows  []int
		room   int
		want   []int
		hidden int
	}{
		{[]int{3, 1}, 10, []int{3, 1}, 0},
		{[]int{3, 1}, 6, []int{3, 1}, 0},
		{[]int{3, 1}, 5, []int{2, 1}, 1},
		{[]int{3, 1}, 2, []int{0, 0}, 4},
		{[]int{3, 1}, 1, []int{0}, 5},
		{[]int{3, 1}, -3, []int{}, 6},
		{[]int{0, 9, 2}, 8, []int{0, 3, 2}, 6},
	} {
		got, hidden := share(view(tt.flows...), tt.room)
		if !slices.Equal(got, tt.want) || hidden != tt.hidden {
			t.Errorf("share(%v, %d) = %v, %d; want %v, %d", tt.flows, tt.room, got, hidden, tt.want, tt.hidden)
		}
	}
}

func TestBar(t *testing.T) {
	for _, tt := range []struct {
		part float64
		want string
	}{
		{0, "    "}, {1e-9, "▏   "}, {0.25, "█   "}, {0.5, "██  "}, {0.53, "██▏ "}, {0.999, "████"}, {1, "████"}, {7, "████"},
	} {
		if got := bar(tt.part, 4); got != tt.want {
			t.Errorf("bar(%v) = %q, want %q", tt.part, got, tt.want)
		}
	}
	// Several flows with one packet do not make the bar longer.
	a := &Agent{Rate: Rate{1, 500}, Flows: []Flow{{Rate: Rate{1, 500}}, {Rate: Rate{1, 500}}}}
	if got := new(Painter).stack(a, 4, 1000); got != "██  " {
		t.Errorf("stack = %q", got)
	}
}

// TestScale: up at once, down after a while.
func TestScale(t *testing.T) {
	var s scale
	if got := s.fit(0); got != 1000 {
		t.Errorf("without traffic the scale ends at %v", got)
	}
	if got := s.fit(2_000_001); got != 5_000_000 {
		t.Errorf("2 Mbit/s and 1 bit have the scale %v", got)
	}
	for i := range scalePause {
		if got := s.fit(1_000_000); got != 5_000_000 {
			t.Fatalf("after %d seconds the scale is %v", i+1, got)
		}
	}
	if got := s.fit(1_000_000); got != 1_000_000 {
		t.Errorf("later the scale is %v", got)
	}
}

func TestText(t *testing.T) {
	for _, tt := range []struct {
		v    float64
		want string
	}{
		{0, "0 "}, {0.4, "0 "}, {999.4, "999 "}, {999.5, "1.00 k"}, {1234, "1.23 k"}, {9994, "9.99 k"}, {9996, "10.0 k"},
		{99_960, "100 k"}, {999_499, "999 k"}, {999_500, "1.00 M"}, {12.3e9, "12.3 G"}, {5e20, "500 E"},
	} {
		if got := si(tt.v); got != tt.want {
			t.Errorf("si(%v) = %q, want %q", tt.v, got, tt.want)
		}
	}
	for _, tt := range []struct {
		s    int
		want string
	}{{0, "0:00"}, {59, "0:59"}, {754, "12:34"}, {3723, "1:02:03"}, {3*86400 + 3723, "3 d 1:02:03"}} {
		if got := clock(time.Duration(tt.s) * time.Second); got != tt.want {
			t.Errorf("clock(%d s) = %q, want %q", tt.s, got, tt.want)
		}
	}
	for in, want := range map[string]string{
		"": "    ", "ab": "ab  ", "abcd": "abcd", "abcde": "abc…", "日本": "日本", "日本語": "日… ", "e\u0301bcd": "e\u0301bcd",
	} {
		if got := padRight(in, 4); got != want {
			t.Errorf("padRight(%q, 4) = %q, want %q", in, got, want)
		}
	}
	if got := fmt.Sprintf("%s|%s|%s|%s", grouped(1), grouped(999), grouped(1000), grouped(1_234_567)); got != "1|999|1 000|1 234 567" {
		t.Error(got)
	}
}

// TestPaintReplay: the header says where the replay is, the footer what can be
// done about it, as far as there is room.
func TestPaintReplay(t *testing.T) {
	v := testView()
	v.Agents = v.Agents[:1]
	v.Agents[0].Flows = nil
	v.Replay = &Replay{Time: "2019-06-13 03:51:12", Part: 0.423, Speed: "x4", Gap: 90 * time.Second}
	var p Painter
	for _, c := range []struct {
		width        int
		change       func(r *Replay)
		head, footer string
	}{
		{130, func(*Replay) {}, " replay   2019-06-13 03:51:12   x4   42 %   traffic in 1:30   1 234 567 records                    12.3 k packets/s   98.8 Mbit/s",
			" space pause   ←→ 10 s   PgUp PgDn 1 min   ↑↓ speed   n next traffic   Home start   c who   m MGEN   q ends"},
		{80, func(r *Replay) { r.Gap = 0 }, " replay   2019-06-13 03:51:12   x4   42 %        12.3 k packets/s   98.8 Mbit/s",
			" space pause   ←→ 10 s   ↑↓ speed   n next   m MGEN   q ends"},
		{60, func(r *Replay) { r.Paused = true }, " replay   2019-06-13 03:51:12   paused   42 %   98.8 Mbit/s", ""},
		{40, func(r *Replay) { r.Seeking = true }, " replay   03:51:12          98.8 Mbit/s", " space pause   ←→ 10 s   ↑↓ speed"},
		{80, func(r *Replay) { r.Ended = true }, " replay   2019-06-13 03:51:12   at the end       12.3 k packets/s   98.8 Mbit/s", ""},
		{80, func(r *Replay) { r.Starting = true }, " replay   reading the logs                       12.3 k packets/s   98.8 Mbit/s", ""},
	} {
		c.change(v.Replay)
		lines := strings.Split(string(p.Paint(v, c.width, 6)), "\n")
		if got := strings.TrimRight(lines[0], " "); got != c.head {
			t.Errorf("%d columns: head\n%q, want\n%q", c.width, got, c.head)
		}
		if got := strings.TrimRight(lines[5], " "); c.footer != "" && got != c.footer {
			t.Errorf("%d columns: footer\n%q, want\n%q", c.width, got, c.footer)
		}
	}
}

// TestColors: a flow's own color is exact where the terminal can, and the
// nearest of 256 elsewhere; black is a color.
func TestColors(t *testing.T) {
	for _, c := range []struct {
		color int
		of256 string
		exact string
	}{
		{Grey, grey, grey},
		{1, palette[1], palette[1]},
		{RGB(0, 0, 0), "38;5;16", "38;2;0;0;0"},
		{RGB(0, 0x80, 0xff), "38;5;33", "38;2;0;128;255"},
		{RGB(255, 255, 255), "38;5;231", "38;2;255;255;255"},
		{RGB(47, 48, 114), "38;5;23", "38;2;47;48;114"},
	} {
		few, all := Painter{}, Painter{TrueColor: true}
		if got := few.flowStyle(c.color); got != c.of256 {
			t.Errorf("color %x of 256: %q, want %q", c.color, got, c.of256)
		}
		if got := all.flowStyle(c.color); got != c.exact {
			t.Errorf("color %x of all: %q, want %q", c.color, got, c.exact)
		}
	}
	// The formula against the definition of the cube.
	levels := []int{0, 95, 135, 175, 215, 255}
	for v := range 256 {
		best := 0
		for i, l := range levels {
			if abs(l-v) < abs(levels[best]-v) {
				best = i
			}
		}
		if got := cube(v); abs(levels[got]-v) != abs(levels[best]-v) {
			t.Errorf("%d is near level %d, not %d", v, best, got)
		}
	}
}

func abs(n int) int { return max(n, -n) }
