package collector

import (
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// TestParseAsC: what the C program accepts is read as it reads it, and what it
// skips is skipped; each with a warning, and never as an error. want is the
// line that was understood, "" if it is skipped.
func TestParseAsC(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		// atol(3) and 16 bits of a port.
		{"1=70000", "1=4464"},
		{"1=65536", "1=2-1"}, // port 0 is none
		{"1=2000-70000", "1=2000-4464"},
		{"1=65536-70000", "1=1-4464"},
		{"1=2000-65536", "1=2-1"},
		{"1=2000-1990", "1=2000-1990"},
		{"1=20x", "1=20"},
		{"1=1,2", "1=1"},
		{"1=20-30-40", "1=20-30"},
		{"1=20-30x", "1=20-30"},
		{"1=20 x", "1=20"},
		{"1=20\tx", "1=20"},
		{"1=+20", "1=20"},
		{"1=-5", "1=65531-5"},
		{"1=20--30", "1=20-65506"},
		{"1=99999999999999999999", "1=65535"},
		{"1=http", ""},
		{"1=0x10", ""},
		{"1=20-", ""},
		{"1=20-x", ""},
		{"1=", ""},
		{"1=x20", ""},
		{"1=m5", ""},
		// MGEN flow IDs have 32 bits.
		{"1=M10x", "1=M10"},
		{"1=M10,11", "1=M10"},
		{"1=M 10 x", "1=M10"},
		{"1=M9-8", "1=M9-8"},
		{"1=M4294967297", "1=M1"},
		{"1=M-1", "1=M4294967295-1"},
		{"1=M4294967296", ""},
		{"1=M9-M10", ""},
		{"1=M", ""},
		{"1=MM5", ""},
		// Numbers of flows.
		{"1x=20", "1=20"},
		{"-1=20", "65535=20"},
		{"+7=20", "7=20"},
		{"4294967297=20", "1=20"},
		{"4294967296=20", ""},
		{"x=20", ""},
		{"=20", ""},
		{"1=2=3", "1=2"},
		// inet_aton(3).
		{"1:127.1:7073", "1:127.0.0.1:7073"},
		{"1:127.0.257:7073", "1:127.0.1.1:7073"},
		{"1:2130706433:7073", "1:127.0.0.1:7073"},
		{"1:0x7f.0.0.0x1:7073", "1:127.0.0.1:7073"},
		{"1:010.0.0.01:7073", "1:8.0.0.1:7073"},
		{"1:10.0.0.1 x:7073", "1:10.0.0.1:7073"},
		{"1:10.0.0.08:7073", ""},
		{"1:10.0.0.256:7073", ""},
		{"1:10.0.65536:7073", ""},
		{"1:1.2.3.4.5:7073", ""},
		{"1:10..1:7073", ""},
		{"1:0x:7073", ""},
		{"1:4294967296:7073", ""},
		// Ports, and what is behind them.
		{"1:10.0.0.1:7073x", "1:10.0.0.1:7073"},
		{"1:10.0.0.1:7073:extra", "1:10.0.0.1:7073"},
		{"1:10.0.0.1:7073 extra", "1:10.0.0.1:7073"},
		{"1:10.0.0.1:+7073", "1:10.0.0.1:7073"},
		{"1:10.0.0.1:72609", "1:10.0.0.1:7073"},
		{"1:10.0.0.1:-1", "1:10.0.0.1:65535"},
		{"1:10.0.0.1:0", ""},
		{"1:10.0.0.1:65536", ""},
		{"1:10.0.0.1:http", ""},
		{"1:10.0.0.1::7073", ""},
		{"1:10.0.0.1:", ""},
		{"1:10.0.0.1", ""},
		// strtok(3) skips colons, so that a line without a label is none.
		{"192.168.1.1:7073", ""},
		{":192.168.1.1:7073", ""},
		{"1::10.0.0.1:7073", "1:10.0.0.1:7073"},
		{":1:10.0.0.1:7073", "1:10.0.0.1:7073"},
		{"a b:10.0.0.1:7073", "a b:10.0.0.1:7073"},
		{"a\tb:10.0.0.1:7073", ""},     // would move columns
		{"a\x1b[2J:10.0.0.1:7073", ""}, // would clear a terminal
		{"hello", ""},
		{"1:tls://10.0.0.1", ""},
		{"1:tls://10.0.0.1:7443?pen=1", ""}, // not flow 1=1
	} {
		for _, end := range []string{"", "\n", "\r\n", " # a comment\n"} {
			f := Parse("x.conf", []byte("# first\n"+c.line+end))
			if got := strings.TrimSpace(f.String()); got != c.want {
				t.Errorf("%q is read as %q, want %q", c.line+end, got, c.want)
			}
			if len(f.Notes) != 1 || f.Notes[0].Line != 2 {
				t.Errorf("%q: notes %v", c.line+end, f.Notes)
			} else if says := f.Notes[0].String(); (c.want == "") != strings.HasSuffix(says, "; the line is skipped") {
				t.Errorf("%q: %s", c.line+end, says)
			}
			if f.Check() == nil {
				t.Errorf("%q: is right if it is looked at closely", c.line+end)
			}
		}
	}
}

// TestParseDuplicates: two agents of one label, one agent twice and one flow
// twice are read, as by the C program, and told.
func TestParseDuplicates(t *testing.T) {
	const text = "1=20\na:10.0.0.1:7073\na:10.0.0.2:7073\n1=20\n1=21\na:10.0.0.1:7073\n"
	f := Parse("x", []byte(text))
	if len(f.Flows) != 3 || len(f.Hosts) != 3 {
		t.Errorf("%v", f)
	}
	const want = `x:3: "a": the same label as in line 2: want another one; both agents are dialled, and shown under one label
x:4: "1=20": the same flow as in line 1: want one of them; packets of it have two lines each
x:6: "a:10.0.0.1:7073": the same agent as in line 2: want another label, host or port; both are dialled, so all its packets count twice`
	if got := strings.Join(f.Warnings(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestEmptyRange: a range that runs backwards matches nothing, and stands in no
// other flow's way.
func TestEmptyRange(t *testing.T) {
	f := Parse("x", []byte("1=2000-1990\n2=1995\n3=M9-8\n4=M8\na:127.1:7073\n"))
	flows, err := FlowNames(f)
	if err != nil {
		t.Fatal(err)
	}
	for port, want := range map[uint16]string{2000: "X", 1995: "2", 1990: "X"} {
		if got := flows(&wire.Record{Proto: wire.ProtoUDP, DstPort: port}); strings.Join(got, " ") != want {
			t.Errorf("port %d is of flow %v, want %s", port, got, want)
		}
	}
	if got := flows(&wire.Record{Flags: wire.MGEN, FlowID: 8}); strings.Join(got, " ") != "4" {
		t.Errorf("M8 is of flow %v", got)
	}
}
