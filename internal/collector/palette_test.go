package collector

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func rgb(r, g, b uint8) Color { return Color{R: r, G: g, B: b, Valid: true} }

func TestParsePalette(t *testing.T) {
	const text = "\ufeff# colours\r\n" +
		"[Video]\r\n" +
		"Color=#0080ff\r\n" +
		"Relay = #0050A0\r\n" +
		"Width=3\r\n" +
		"\r\n" +
		"; nothing known about this one\n" +
		"[ Voice & <b>data</b> ]\n" +
		"[Ü=日本]\n" +
		"Relay=#123\n" +
		"Color=#ffff80000001" // no newline
	got, err := ParsePalette("mwmg.conf", []byte(text))
	want := &Palette{Flows: []FlowStyle{
		{Name: "Video", Color: rgb(0, 0x80, 0xff), Relay: rgb(0, 0x50, 0xa0)},
		{Name: "Voice & <b>data</b>"},
		{Name: "Ü=日本", Color: rgb(0xff, 0x80, 0), Relay: rgb(0x11, 0x22, 0x33)},
	}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
	}
	for id, style := range map[uint32]FlowStyle{0: {}, 1: want.Flows[0], 3: want.Flows[2], 4: {}, 1<<32 - 1: {}} {
		if f := got.Flow(id); f != style {
			t.Errorf("flow %d has style %+v", id, f)
		}
	}
	if s := got.Flows[0].Relay.String() + got.Flows[1].Relay.String(); s != "#0050a0" {
		t.Errorf("colours are written %q", s)
	}
	if f := (*Palette)(nil).Flow(1); f != (FlowStyle{}) {
		t.Errorf("no file gives a style: %+v", f)
	}
}

// TestParsePaletteErrors: every bad line is named, and costs no other its
// meaning.
func TestParsePaletteErrors(t *testing.T) {
	const text = "Color=#000000\n[A]\nColor=blue\n[B\n[]\n[A]\nRelay=#0000000\njunk\n[E]\nColor=#+12\nRelay=#010203\n"
	got, err := ParsePalette("m.conf", []byte(text))
	const want = `m.conf:1: "Color=#000000": no flow to belong to: want a line [Name of a flow] before it
m.conf:3: "blue": not a colour: want one like #0080ff
m.conf:4: "[B": no closing bracket: want [Name of a flow]
m.conf:5: "[]": no name: want [Name of a flow]
m.conf:6: "A": the same name as in line 2: want one section for each flow
m.conf:7: "#0000000": not a colour: want one like #0080ff
m.conf:8: "junk": not a line of this file: want [Name of a flow], Color=#rrggbb or Relay=#rrggbb
m.conf:10: "#+12": not a colour: want one like #0080ff`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	if len(got.Flows) != 5 || got.Flow(5) != (FlowStyle{Name: "E", Relay: rgb(1, 2, 3)}) {
		t.Errorf("what is good of it: %+v", got)
	}
}

func TestFindPalette(t *testing.T) {
	t.Chdir(t.TempDir())
	if p, err := FindPalette(); p != nil || err != nil {
		t.Errorf("no file: %v, %v", p, err)
	}
	if _, err := ReadPalette("other.conf"); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"other.conf"`) {
		t.Errorf("a file that is asked for is missing: %v", err)
	}
	if err := os.WriteFile(PaletteFile, []byte("[Video]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := FindPalette(); err != nil || p.Flow(1).Name != "Video" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := ReadPalette(filepath.Dir(PaletteFile)); err == nil {
		t.Error("a directory is a palette")
	}
}

func FuzzParsePalette(f *testing.F) {
	f.Add("[Video]\nColor=#0080ff\nRelay=#0050a0\n")
	f.Add("[A\nColor=\n]\n=\x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePalette("f", []byte(text))
		sections := 0
		for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
			if strings.HasPrefix(strings.TrimSpace(line), "[") {
				sections++
			}
		}
		if len(p.Flows) != sections || (err != nil && err.Error() == "") {
			t.Errorf("%d flows of %d sections, %v", len(p.Flows), sections, err)
		}
	})
}
