package option

import (
	"flag"
	"io"
	"testing"
)

func testFlags() *flag.FlagSet {
	f := flag.NewFlagSet("test", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	for name, usage := range map[string]string{
		"i": "watch this `interface`", "p": "TCP `port`", "m": "`mode`", "r": "another `interface`",
		"metrics": "", "ipfix-port": "", "tls-port": "", "include-self": "", "http": "", "http-users": "", "ports": "", "listen": "",
	} {
		f.String(name, "", usage)
	}
	f.Bool("check", false, "")
	f.Bool("v", false, "")
	f.Bool("D", false, "")
	return f
}

func TestExplain(t *testing.T) {
	for _, tt := range []struct{ typed, want string }{
		{"-metrcs", "unknown flag -metrcs: did you mean -metrics?"},
		{"--metric", "unknown flag -metric: did you mean -metrics?"},
		{"-metrisc", "unknown flag -metrisc: did you mean -metrics?"},
		{"-chekc", "unknown flag -chekc: did you mean -check?"},
		{"-htpp", "unknown flag -htpp: did you mean -http?"},
		{"-HTTP", "unknown flag -HTTP: did you mean -http?"},
		{"-ipfixport", "unknown flag -ipfixport: did you mean -ipfix-port?"},
		{"-ipfix_port", "unknown flag -ipfix_port: did you mean -ipfix-port?"},
		{"-include", "unknown flag -include: did you mean -include-self?"},
		{"-htt", "unknown flag -htt: did you mean -http?"},
		{"-interface", "unknown flag -interface: did you mean -i?"},
		{"-interfce", "unknown flag -interfce: did you mean -i?"},
		{"-mode", "unknown flag -mode: did you mean -m?"},
		{"-port", "unknown flag -port: did you mean -p?"},
		{"-d", "unknown flag -d: did you mean -D?"},
		{"-p7074", "unknown flag -p7074: did you mean -p 7074?"},
		{"-ieth1", "unknown flag -ieth1: did you mean -i eth1?"},
		{"-v2", "unknown flag -v2"},
		{"-x", "unknown flag -x"},
		{"-xyz", "unknown flag -xyz"},
		{"-frobnicate", "unknown flag -frobnicate"},
		{"-check=maybe", `invalid boolean value "maybe" for -check: parse error`},
		{"-metrics", "flag needs an argument: -metrics"},
	} {
		f := testFlags()
		if err := Explain(f, f.Parse([]string{tt.typed})); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.typed, err, tt.want)
		}
	}
	f := testFlags()
	if err := Explain(f, f.Parse([]string{"-h"})); err != flag.ErrHelp {
		t.Errorf("-h: %v, want flag.ErrHelp itself", err)
	}
	if err := Explain(f, f.Parse([]string{"-check"})); err != nil {
		t.Errorf("-check: %v", err)
	}
}

func TestEdits(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "ab", 2}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "bca", 2},
		{"kitten", "sitting", 3}, {"ab", "ba", 1}, {"listen", "silent", 4},
	} {
		if got, back := edits(tt.a, tt.b), edits(tt.b, tt.a); got != tt.want || back != tt.want {
			t.Errorf("%q, %q: %d and %d, want %d", tt.a, tt.b, got, back, tt.want)
		}
	}
}
