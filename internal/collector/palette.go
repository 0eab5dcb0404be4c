package collector

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// PaletteFile is where the grapher mwmg looks for names and colors of flows.
const PaletteFile = "mwmg.conf"

// FlowStyle is a section of an mwmg.conf: how to display one flow.
type FlowStyle struct {
	Name         string // of the flow, as in the file: not escaped for HTML or terminals
	Color, Relay Color  // of primary (level 0) and secondary (level 1) traffic
}

// Color is red, green, and blue, 8 bits each; valid iff Valid.
type Color struct {
	R, G, B uint8
	Valid   bool // the file has the color
}

// String returns #rrggbb, or "" for a color that the file does not have.
func (c Color) String() string {
	if !c.Valid {
		return ""
	}
	return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B)
}

// Palette is the contents of an mwmg.conf: the styles of flows 1, 2, 3, and so on. A
// nil Palette has no styles.
type Palette struct{ Flows []FlowStyle }

// Flow returns the style of the flow with this number, or the zero FlowStyle.
func (p *Palette) Flow(id uint32) FlowStyle {
	if p == nil || id < 1 || uint64(id) > uint64(len(p.Flows)) {
		return FlowStyle{}
	}
	return p.Flows[id-1]
}

// ReadPalette reads the file called name. The error for invalid lines is a
// *ConfigError, and the Palette then holds the contents of the other lines; for a file
// that does not exist, the error is fs.ErrNotExist.
func ReadPalette(name string) (*Palette, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, cause(err))
	}
	return ParsePalette(name, data)
}

// FindPalette is ReadPalette for PaletteFile in the working directory, which need not
// exist. Because the file was written for another program, invalid lines should be
// reported, but are not a reason to stop.
func FindPalette() (*Palette, error) {
	p, err := ReadPalette(PaletteFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// ParsePalette parses data, the contents of the file called name; see ReadPalette for
// errors.
func ParsePalette(name string, data []byte) (*Palette, error) {
	p := paletteParser{errs: ConfigError{Name: name}, lines: make(map[string]int)}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	for text := range bytes.Lines(data) {
		p.line++
		if err := p.parseLine(strings.TrimSpace(string(text))); err != nil {
			p.errs.add(fmt.Sprintf("%s:%d: %v", name, p.line, err))
		}
	}
	if p.errs.Total > 0 {
		return &p.palette, &p.errs
	}
	return &p.palette, nil
}

type paletteParser struct {
	palette Palette
	errs    ConfigError
	line    int
	lines   map[string]int // line number of each name
}

func (p *paletteParser) parseLine(text string) error {
	if text == "" || text[0] == '#' || text[0] == ';' {
		return nil
	}
	if text[0] == '[' {
		return p.section(text)
	}
	key, value, ok := strings.Cut(text, "=")
	switch {
	case !ok:
		return wrong(text, "not a line of this file", "[Name of a flow], Color=#rrggbb or Relay=#rrggbb")
	case len(p.palette.Flows) == 0:
		return wrong(text, "no flow to belong to", "a line [Name of a flow] before it")
	}
	flow := &p.palette.Flows[len(p.palette.Flows)-1]
	switch strings.TrimSpace(key) {
	case "Color":
		return flow.Color.parse(strings.TrimSpace(value))
	case "Relay":
		return flow.Relay.parse(strings.TrimSpace(value))
	}
	return nil // other keys are for the grapher
}

// section begins a flow. It counts even if its name is invalid; otherwise, later flows
// would get the wrong colors.
func (p *paletteParser) section(text string) error {
	name, closed := strings.CutSuffix(text[1:], "]")
	name = strings.TrimSpace(name)
	p.palette.Flows = append(p.palette.Flows, FlowStyle{Name: name})
	first, again := p.lines[name]
	switch {
	case !closed:
		return wrong(text, "no closing bracket", "[Name of a flow]")
	case name == "":
		return wrong(text, "no name", "[Name of a flow]")
	case again:
		return wrong(name, fmt.Sprintf("the same name as in line %d", first), "one section for each flow")
	}
	p.lines[name] = p.line
	return nil
}

// parse parses #rgb, #rrggbb, or #rrrrggggbbbb (XParseColor(3)).
func (c *Color) parse(text string) error {
	digits, ok := strings.CutPrefix(text, "#")
	each := len(digits) / 3
	v, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || len(digits) != 3*each || each != 1 && each != 2 && each != 4 {
		return wrong(text, "not a colour", "one like #0080ff")
	}
	part := func(i int) uint8 {
		n := v >> (4 * each * (2 - i)) & (1<<(4*each) - 1)
		if each == 1 {
			return uint8(n * 0x11)
		}
		return uint8(n >> (4*each - 8))
	}
	*c = Color{R: part(0), G: part(1), B: part(2), Valid: true}
	return nil
}
