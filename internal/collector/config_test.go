package collector

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/host/certs"
)

// TestParse reads a file with everything in it that a file may have.
func TestParse(t *testing.T) {
	const text = "\ufeff# lab\r\n" +
		"1=2000\r\n" +
		"\r\n" +
		"  2 = M1000 # video\n" +
		"3=2020-2029\t#comment\n" +
		"4=M1050 - 2000\n" +
		"1=M4294967295\n" +
		"4294967295=0-65535\n" +
		"007=65535\n" +
		"1:192.168.100.100:7073\n" +
		" gateway-of-the-lab : Router_1.example. : 7074 # x\n" +
		"1:192.168.100.101:07073\n" +
		"v6:[2001:DB8:0::1]:65535\n" +
		"ll:[fe80::1%eth0]:1\n" +
		"1=2:10.0.0.3:7073\n" + // the C program takes all lines with "=" for flows
		"a=b:10.0.0.3:7073\n" +
		"t: tls://n3.example:7443?cert=c.pem&name=n3&key=k%23.pem # x\n" +
		"i:ipfix://[::1]:4739?pen=9\n" +
		"s:ipfix+tls://n3.example:4740?ca=ca.pem\n" +
		"f:from://[2001:db8::7]\n" +
		"g:from://n1/eth0\n" +
		"Ü日本:10.0.0.3:7073" // no newline at the end
	got := Parse("x.conf", []byte(text))
	want := &File{
		Name: "x.conf",
		Flows: []Flow{
			{1, Port, 2000, 2000, 2},
			{2, MGEN, 1000, 1000, 4},
			{3, Port, 2020, 2029, 5},
			{4, MGEN, 1050, 2000, 6},
			{1, MGEN, 1<<32 - 1, 1<<32 - 1, 7},
			{1<<32 - 1, Port, 0, 65535, 8},
			{7, Port, 65535, 65535, 9},
			{1, Port, 2, 2, 15},
		},
		Hosts: []Host{
			{"1", "192.168.100.100", 7073, 10, nil, false, 0, false},
			{"gateway-of-the-lab", "Router_1.example.", 7074, 11, nil, false, 0, false},
			{"1", "192.168.100.101", 7073, 12, nil, false, 0, false},
			{"v6", "2001:db8::1", 65535, 13, nil, false, 0, false},
			{"ll", "fe80::1%eth0", 1, 14, nil, false, 0, false},
			{"a=b", "10.0.0.3", 7073, 16, nil, false, 0, false},
			{"t", "n3.example", 7443, 17, &HostTLS{certs.Files{Cert: "c.pem", Key: "k#.pem"}, "n3"}, false, 0, false},
			{"i", "::1", 4739, 18, nil, true, 9, false},
			{"s", "n3.example", 4740, 19, &HostTLS{certs.Files{CA: "ca.pem"}, ""}, true, 0, false},
			{"f", "2001:db8::7", 0, 20, nil, true, 0, true},
			{"g", "n1/eth0", 0, 21, nil, true, 0, true},
			{"Ü日本", "10.0.0.3", 7073, 22, nil, false, 0, false},
		},
	}
	notes := got.Notes
	got.Notes, want.sum = nil, got.sum
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	if len(notes) != 2 || !strings.HasPrefix(notes[0].String(), `12: "1": the same label as in line 10`) ||
		!strings.HasPrefix(notes[1].String(), `15: "2:10.0.0.3:7073": not a port`) || !strings.HasSuffix(notes[1].String(), "; read as 1=2") {
		t.Errorf("notes %v", notes)
	}
	const printed = `1=2000
2=M1000
3=2020-2029
4=M1050-2000
1=M4294967295
4294967295=0-65535
7=65535
1=2
1:192.168.100.100:7073
gateway-of-the-lab:Router_1.example.:7074
1:192.168.100.101:7073
v6:[2001:db8::1]:65535
ll:[fe80::1%eth0]:1
a=b:10.0.0.3:7073
t:tls://n3.example:7443?cert=c.pem&key=k%23.pem&name=n3
i:ipfix://[::1]:4739?pen=9
s:ipfix+tls://n3.example:4740?ca=ca.pem
f:from://2001:db8::7
g:from://n1/eth0
Ü日本:10.0.0.3:7073
`
	if got.String() != printed {
		t.Errorf("printed as\n%s\nwant\n%s", got, printed)
	}
}

// TestParseErrors: what is wrong with a line, word by word. The line stands in
// a file that is good otherwise.
func TestParseErrors(t *testing.T) {
	const (
		wantLine  = "want a flow N=port, N=first-last, N=Mflow or N=Mfirst-last, or an agent label:host:port"
		wantLabel = "want at least one character, without white space or control characters, before the first colon"
		wantName  = "want a dotted quad, a host name, or an IPv6 address in brackets"
		wantQuad  = "want four numbers from 0 to 255, without leading zeros"
		wantV6    = "want one like [2001:db8::1]"
		wantTLS   = "want cert=FILE, key=FILE, ca=FILE or name=NAME, joined by &"
		wantPort  = "want a number from 1 to 65535"
	)
	long := strings.Repeat("y", 100_000)
	for _, tt := range []struct{ line, want string }{
		{"hello", `"hello": not a line of this file: ` + wantLine},
		{"=2000", `"": not a flow number: want a number from 0 to 4294967295`},
		{"-1=2000", `"-1": not a flow number: want a number from 0 to 4294967295`},
		{"+1=2003", `"+1": not a flow number: want a number from 0 to 4294967295`},
		{"4294967296=2000", `"4294967296": not a flow number: want a number from 0 to 4294967295`},
		{"x=2000", `"x": not a flow number: want a number from 0 to 4294967295`},
		{"1=", `"": not a port: want a number from 0 to 65535`},
		{"1=http", `"http": not a port: want a number from 0 to 65535`},
		{"1=65536", `"65536": not a port: want a number from 0 to 65535`},
		{"1=20-", `"": not a port: want a number from 0 to 65535`},
		{"1=20-30-40", `"30-40": not a port: want a number from 0 to 65535`},
		{"1=30-20", `"30-20": range runs backwards: want first-last with first <= last`},
		{"1=M", `"": not an MGEN flow ID: want a number from 0 to 4294967295`},
		{"1=m5", `"m5": not a port: want a number from 0 to 65535`},
		{"1=M4294967296", `"4294967296": not an MGEN flow ID: want a number from 0 to 4294967295`},
		{"1=M9-8", `"M9-8": range runs backwards: want first-last with first <= last`},
		{"1=M9-M10", `"M10": not an MGEN flow ID: want a number from 0 to 4294967295`},
		{":10.0.0.1:7073", `"": no label: ` + wantLabel},
		{"a b:10.0.0.1:7073", `"a b": not a label: ` + wantLabel},
		{"a\x1b:10.0.0.1:7073", `"a\x1b": not a label: ` + wantLabel},
		{"a:10.0.0.1", `"10.0.0.1": no port: want host:port`},
		{"a:", `"": no port: want host:port`},
		{"a::7073", `"": no host: ` + wantName},
		{"a:10.0.0.1:", `"": not a port: ` + wantPort},
		{"a:10.0.0.1:0", `"0": not a port: ` + wantPort},
		{"a:10.0.0.1:65536", `"65536": not a port: ` + wantPort},
		{"a:10.0.0.1:+1", `"+1": not a port: ` + wantPort},
		{"a:10.0.0.256:7073", `"10.0.0.256": not a dotted quad: ` + wantQuad},
		{"a:10.0.1:7073", `"10.0.1": not a dotted quad: ` + wantQuad},
		{"a:10.0.0.01:7073", `"10.0.0.01": not a dotted quad: ` + wantQuad},
		{"a:2001:db8::1:7073", `"2001:db8::1": more than one colon in the host: ` + wantName},
		{"a:[2001:db8::1:7073", `"[2001:db8::1": not an IPv6 address: ` + wantV6},
		{"a:[10.0.0.1]:7073", `"[10.0.0.1]": not an IPv6 address: ` + wantV6},
		{"a:[]:7073", `"[]": not an IPv6 address: ` + wantV6},
		{"a:host name:7073", `"host name": not a host name: ` + wantName},
		{"a:-x.example:7073", `"-x.example": not a host name: ` + wantName},
		{"a:x..example:7073", `"x..example": not a host name: ` + wantName},
		{"a:" + long + ":7073", `"` + long[:60] + `...": not a host name: ` + wantName},
		{"3:sflow://10.0.0.3:6343", `"sflow://10.0.0.3:6343": sources of kind "sflow" are not supported: want an agent label:host:port, label:tls://host:port, label:ipfix://host:port, label:ipfix+tls://host:port or label:from://address`},
		{"3:ipfix://10.0.0.3:4739?pen=x", `pen=x: want a number from 0 to 4294967295`},
		{"3:ipfix://10.0.0.3:4739?ca=x", `unknown parameter "ca": want pen`},
		{"a:from://n1.example", `"n1.example": not an address: want the address that the agent sends from, or node/interface as it calls them`},
		{"a:tls://10.0.0.3:7443?pen=1", `unknown parameter "pen": want cert, key, ca or name`},
		{"a:tls://10.0.0.3", `"10.0.0.3": no port: want host:port`},
		{"a:tls://10.0.0.3:7443?crt=x", `unknown parameter "crt": did you mean cert?`},
		{"a:tls://10.0.0.3:7443?ca=", `parameter "ca": empty: want one value`},
		{"a:tls://10.0.0.3:7443?ca=x&ca=y", `parameter "ca": given 2 times: want one value`},
		{"a:tls://10.0.0.3:7443?ca=%x", `not parameters: want key=value pairs joined by &, and %XX for what means something else in a URL`},
		{"ok:10.0.0.8:7073", `"ok": the same label as in line 1: want another one`},
		{"1=2000", `"1=2000": the same flow as in line 2: want one of them`},
		{"ok:10.0.0.9:7073", `"ok:10.0.0.9:7073": the same agent as in line 1: want another label, host or port`},
	} {
		err := Parse("dir/x.conf", []byte("ok:10.0.0.9:7073\n1=2000\n"+tt.line+"\n2=2001\n")).Check()
		want := "dir/x.conf:3: " + tt.want
		if err == nil || err.Error() != want {
			t.Errorf("%.80q\ngot  %v\nwant %s", tt.line, err, want)
		}
	}
}

// TestParseNamesAllLines: each bad line is named, 20 at most, then the number
// of the others.
func TestParseNamesAllLines(t *testing.T) {
	for _, n := range []int{2, 20, 23} {
		file := Parse("x.conf", []byte("a:10.0.0.1:7073\n"+strings.Repeat("bad\n", n)))
		err := file.Check()
		bad, ok := errors.AsType[*ConfigError](err)
		if !ok || bad.Total != n || len(bad.Problems) != min(n, 20) {
			t.Fatalf("%d bad lines give %#v", n, err)
		}
		lines := strings.Split(err.Error(), "\n")
		for i, line := range lines[:min(n, 20)] {
			if !strings.HasPrefix(line, fmt.Sprintf("x.conf:%d: ", i+2)) {
				t.Errorf("line %d of the error is %q", i+1, line)
			}
		}
		if n > 20 && lines[20] != "x.conf: 3 more bad lines" {
			t.Errorf("the error ends with %q", lines[20])
		}
	}
}

func TestParseWithoutAgents(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "1=2000\n"} {
		err := Parse("x.conf", []byte(text)).Check()
		if err == nil || err.Error() != "x.conf: no agents: want at least one line label:host:port" {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestParseManyLines: no limit of 64 flows, nor of a line's length.
func TestParseManyLines(t *testing.T) {
	var b strings.Builder
	const n = 20_000
	for i := range n {
		fmt.Fprintf(&b, "%d=%d # %s\n", i, i, strings.Repeat("-", i%300))
	}
	label := strings.Repeat("l", 1<<20)
	fmt.Fprintf(&b, "%s:10.0.0.1:7073\n", label)
	file := Parse("x.conf", []byte(b.String()))
	if err := file.Check(); err != nil {
		t.Fatal(err)
	}
	if len(file.Flows) != n || file.Flows[n-1].ID != n-1 || file.Hosts[0].Label != label {
		t.Errorf("%d flows, label of %d characters", len(file.Flows), len(file.Hosts[0].Label))
	}
}

func TestReadFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "c.conf")
	_, err := ReadFile(name)
	if !errors.Is(err, fs.ErrNotExist) || err.Error() != fmt.Sprintf("cannot read %q: no such file or directory", name) {
		t.Errorf("a missing file gives %v", err)
	}
	if err := os.WriteFile(name, []byte("a:10.0.0.1:7073\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := ReadFile(name)
	if err != nil || file.String() != "a:10.0.0.1:7073\n" {
		t.Errorf("got %v, %v", file, err)
	}
}

// FuzzParse: nothing panics, and what is printed reads as what it was printed
// from.
func FuzzParse(f *testing.F) {
	f.Add([]byte("1=2000\n2=M1-5\na:10.0.0.1:7073\nb:[::1]:1 # x\nc:host.example:7073\r\n"))
	f.Add([]byte("\ufeff1=2-3\nl=l:h:1"))
	f.Add([]byte("a:[fe80::1%x]:7\n:::\n==\n1=M-\n\xff:h:1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		first := Parse("f", data)
		text := first.String()
		second := Parse("f", []byte(text))
		if second.String() != text || len(second.Flows) != len(first.Flows) || len(second.Hosts) != len(first.Hosts) {
			t.Errorf("%q reads as %q", text, second)
		}
	})
}

// TestOneAddressOneAgent: who sends from an address has one label.
func TestOneAddressOneAgent(t *testing.T) {
	file := Parse("x", []byte("a:from://10.0.0.1\nb:from://10.0.0.1\n"))
	if len(file.Hosts) != 1 || len(file.Notes) != 1 || !strings.Contains(file.Notes[0].String(), "the same agent as in line 1") {
		t.Error(file)
	}
}
