package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
)

func TestDefaults(t *testing.T) {
	cmd, err := parse(nil, io.Discard)
	want := agent.Config{
		Interface: "eth0", Port: 7073, Mode: "src", Log: "pcapper.conf", Engine: "auto", Fragments: "every", Drops: true, Members: true, Point: "after",
		TLSPort: 7443, MaxPerSource: 4096, PEN: 32473,
	}
	if err != nil || cmd.action != actionRun || !reflect.DeepEqual(cmd.cfg, want) {
		t.Errorf("%+v, %v, want %+v", cmd, err, want)
	}
}

func TestFlags(t *testing.T) {
	cmd, err := parse(strings.Fields("-f l -p 7074 -i eth1 -m udp -r br0 -engine ring -include-self -stats -fragments first -mark-relayed -bmf -inner"), io.Discard)
	want := agent.Config{
		Interface: "eth1", Port: 7074, Mode: "udp", Log: "l", MACFrom: "br0", Engine: "ring",
		IncludeSelf: true, Stats: true, Fragments: "first", MarkRelayed: true, BMF: true, Inner: true, Drops: true, Members: true, Point: "after",
		TLSPort: 7443, MaxPerSource: 4096, PEN: 32473,
	}
	if err != nil || !reflect.DeepEqual(cmd.cfg, want) {
		t.Errorf("%+v, %v, want %+v", cmd.cfg, err, want)
	}
}

func TestFeedFlags(t *testing.T) {
	cmd, err := parse(strings.Fields("-p 0 -tls-cert c -tls-key k -tls-client-ca a -tls-port 9 -listen [fe80::1%eth0] "+
		"-allow 10.1.2.3/8,192.168.1.7,fd00::/8 -max-per-source 0 -ipfix-port 4739 -ipfix-tls-port 4740 -pen 7"), io.Discard)
	cfg := cmd.cfg
	if err != nil || cfg.Port != 0 || cfg.TLSPort != 9 || cfg.TLS != (certs.Files{Cert: "c", Key: "k", CA: "a"}) ||
		cfg.Listen.String() != "fe80::1%eth0" || cfg.MaxPerSource != 0 ||
		cfg.IPFIXPort != 4739 || cfg.IPFIXTLSPort != 4740 || cfg.PEN != 7 ||
		fmt.Sprint(cfg.Allow) != "[10.0.0.0/8 192.168.1.7/32 fd00::/8]" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// TestIPFIXPorts: with certificates, IPFIX is served by TLS, too, unless it is
// said otherwise.
func TestIPFIXPorts(t *testing.T) {
	const certs = " -tls-cert c -tls-key k -tls-client-ca a"
	for args, want := range map[string]int{
		"-ipfix-port 4739":                            0,
		"-ipfix-port 4739" + certs:                    4740,
		"-ipfix-port 4739 -ipfix-tls-port 0" + certs:  0,
		"-ipfix-port 4739 -ipfix-tls-port 99" + certs: 99,
		"-v" + certs: 0,
	} {
		cmd, err := parse(strings.Fields(args), io.Discard)
		if err != nil || cmd.cfg.IPFIXTLSPort != want {
			t.Errorf("%q: %d, %v, want %d", args, cmd.cfg.IPFIXTLSPort, err, want)
		}
	}
}

func TestExitCodesOfUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"-i", 13, "-i needs a value"},
		{"-i eth0,auto", 13, "auto is for one interface"},
		{"-netns n1 -i auto", 13, "auto is for one interface"},
		{"-p", 14, "-p needs a value"},
		{"-f", 18, "-f needs a value"},
		{"-r -f", 18, "-f needs a value"},
		{"-m", 20, "-m needs a value"},
		{"-p 0", 15, `-p "0": want a port from 1 to 65535, or 0 together with -tls-cert`},
		{"-spool /x:2GB", 12, "-spool: nothing waits there"},
		{"-spool /x:2GB -export file:x", 12, "-spool: nothing waits there"},
		{"-spool /x -export ipfix+tcp://h", 12, "want DIR:SIZE"},
		{"-spool /x:1500000 -export ipfix+tcp://h -export ipfix+tls://h", 12, "2 exports share 1500000 bytes"},
		{"-tls-port 0 -tls-cert c -tls-key k -tls-client-ca a", 15, `-tls-port "0": want a port`},
		{"-tls-cert c -tls-client-ca a", 12, "-tls-key is missing"},
		{"-tls-cert c -tls-key k", 12, "-tls-client-ca is missing"},
		{"-p 7443 -tls-cert c -tls-key k -tls-client-ca a", 15, "both 7443"},
		{"-ipfix-port 65536", 15, `-ipfix-port "65536"`},
		{"-ipfix-port 7073", 15, "-p and -ipfix-port are both 7073"},
		{"-ipfix-tls-port 4740", 12, "-ipfix-tls-port takes -tls-cert"},
		{"-pen 0", 15, "-pen 0: want"},
		{"-export udp://10.0.0.9", 12, "unknown kind of export"},
		{"-export ipfix+udp://239.1.1.1?repair=7073", 15, "-p and repair= of ipfix+udp://239.1.1.1?repair=7073 are both 7073"},
		{"-listen eth0", 15, `-listen "eth0": want an IP address`},
		{"-listen 10.0.0.1:80", 15, "the port is that of -p"},
		{"-allow 10.0.0.0/33", 15, `-allow "10.0.0.0/33": want networks`},
		{"-allow 10.0.0.0/8,home", 15, `-allow "home"`},
		{"-metrics 9173", 15, `-metrics "9173": want address:port`},
		{"-max-per-source -1", 15, "from 0 on"},
		{"-p 65536", 15, "65535"},
		{"-p -1", 15, "65535"},
		{"-p http", 15, "65535"},
		{"-p x70", 15, "65535"},
		{"-p +-70", 15, "65535"},
		{"-p 4294974369", 15, "65535"},
		{"-x", 12, "unknown flag -x"},
		{"-ipfix-prot 4739", 12, "unknown flag -ipfix-prot: did you mean -ipfix-port?"},
		{"-interface eth0", 12, "unknown flag -interface: did you mean -i?"},
		{"-s", 12, "-s needs a value"},
		{"-r br0 -r -p 7074 eth1", 12, `unexpected argument "eth1"`},
		{"-i eth0 extra", 12, `unexpected argument "extra"`},
		{"-m src udp", 12, "one argument of -m"},
		{"-stats=maybe", 12, "stats"},
		{"-fragments last", 12, "want every or first"},
		{"-mac 02:00:00:00:00:0a", 12, "belong to -read"},
		{"-read", 12, "-read needs a value"},
		{"-read f -mac 02:00", 12, `-mac "02:00"`},
		{"-read f -ip 10.0.0", 12, `-ip "10.0.0"`},
	} {
		_, err := parse(strings.Fields(tt.args), io.Discard)
		if err == nil || fault.Code(err) != tt.code || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: %v, want exit code %d and %q", tt.args, err, tt.code, tt.says)
		}
		if fault.Hint(err) == "" {
			t.Errorf("%q: no hint", tt.args)
		}
	}
	if _, err := parse([]string{"-i", ""}, io.Discard); err == nil {
		t.Error("an empty interface name is taken")
	}
}

// TestAcceptsWhatTheCAgentDoes: sloppy command lines of deployed wrappers.
func TestAcceptsWhatTheCAgentDoes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want func(*agent.Config) bool
		says string // on stderr; "" is nothing
	}{
		{[]string{"-p", "7073abc"}, func(c *agent.Config) bool { return c.Port == 7073 }, `warning: -p "7073abc" is read as port 7073`},
		{[]string{"-p", "7075 # feed"}, func(c *agent.Config) bool { return c.Port == 7075 }, `is read as port 7075`},
		{[]string{"-p", "+7075"}, func(c *agent.Config) bool { return c.Port == 7075 }, ""},
		{[]string{"-p", " \t7075"}, func(c *agent.Config) bool { return c.Port == 7075 }, ""},
		{[]string{"-p", "07075"}, func(c *agent.Config) bool { return c.Port == 7075 }, ""},
		{[]string{"-f", ""}, func(c *agent.Config) bool { return c.Log == os.DevNull }, "note: -f is empty: no log is written"},
		{[]string{"-f="}, func(c *agent.Config) bool { return c.Log == os.DevNull }, "note: -f is empty"},
		{[]string{"-i", "eth1", "-r"}, func(c *agent.Config) bool { return c.MACFrom == "" && c.Interface == "eth1" }, "warning: -r has no value"},
		{[]string{"-r", "-p", "7075"}, func(c *agent.Config) bool { return c.MACFrom == "" && c.Port == 7075 }, "warning: -r has no value"},
		{[]string{"-r", "--stats", "-r", "-p", "7075"}, func(c *agent.Config) bool { return c.MACFrom == "" && c.Port == 7075 && c.Stats }, "warning: -r has no value"},
		{[]string{"-r", "", "-p", "7075"}, func(c *agent.Config) bool { return c.MACFrom == "" && c.Port == 7075 }, ""},
		{[]string{"-i", "eth0", "-i", "eth1"}, func(c *agent.Config) bool { return c.Interface == "eth1" && c.Interfaces == nil },
			"note: -i is given 2 times: watching eth1, the last one; -i eth0,eth1 watches all"},
		{[]string{"-i", "eth0", "-i", "eth0"}, func(c *agent.Config) bool { return c.Interface == "eth0" }, ""},
		{[]string{"-i", "eth*", "-i", "lo,eth1"}, func(c *agent.Config) bool { return fmt.Sprint(c.Interfaces) == "[lo eth1]" }, "watching lo,eth1, the last one"},
		{[]string{"-i", "eth0,lo", "-i", "eth1"}, func(c *agent.Config) bool { return c.Interface == "eth1" && c.Log == agent.DefaultLog }, "watching eth1"},
	} {
		var said strings.Builder
		cmd, err := parse(tt.args, &said)
		if err != nil || !tt.want(&cmd.cfg) || !strings.Contains(said.String(), tt.says) || tt.says == "" && said.String() != "" {
			t.Errorf("%q: %+v, %v, said %q, want %q", tt.args, cmd.cfg, err, said.String(), tt.says)
		}
	}
}

func TestObsoleteFlagIsAcceptedWithAWarning(t *testing.T) {
	var said strings.Builder
	cmd, err := parse([]string{"-s", "eth9", "-i", "eth1"}, &said)
	if err != nil || cmd.cfg.Interface != "eth1" || !strings.Contains(said.String(), "warning: -s is obsolete") {
		t.Errorf("%+v, %v, said %q", cmd, err, said.String())
	}
}

func TestReadFlags(t *testing.T) {
	cmd, err := parse(strings.Fields("-read - -m spoof -mac 02:00:00:00:00:0a -ip 10.0.0.1,fd00::1"), io.Discard)
	if err != nil || cmd.action != actionRead || cmd.cfg.Read != "-" || cmd.cfg.Mode != "spoof" ||
		cmd.cfg.MAC.String() != "02:00:00:00:00:0a" || fmt.Sprint(cmd.cfg.Addrs) != "[10.0.0.1 fd00::1]" {
		t.Errorf("%+v, %v", cmd.cfg, err)
	}
	if cmd, err = parse([]string{"-read", "f"}, io.Discard); err != nil || cmd.cfg.Mode != "none" {
		t.Errorf("mode %q, %v: want none", cmd.cfg.Mode, err)
	}
}

func TestActions(t *testing.T) {
	for args, want := range map[string]action{
		"-h": actionHelp, "-help": actionHelp, "--help": actionHelp, "-version": actionVersion,
		"-D": actionList, "-check": actionCheck, "-i eth1 -check": actionCheck,
	} {
		if cmd, err := parse(strings.Fields(args), io.Discard); err != nil || cmd.action != want {
			t.Errorf("%q: action %d, %v, want %d", args, cmd.action, err, want)
		}
	}
}

// flagNames are the flags that the program has, sorted.
func flagNames() (names []string) {
	newOptions().VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	slices.Sort(names)
	return names
}

// matches are the distinct first groups of a pattern in a text, sorted.
func matches(text, pattern string) (found []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentsAgree: usage and man page name the same flags, with the same
// defaults.
func TestDocumentsAgree(t *testing.T) {
	flags := flagNames()
	man := read(t, "../../man/pcapper.1")
	if got := matches(usage(), `(?m)^  -([A-Za-z-]+) `); !slices.Equal(got, flags) {
		t.Errorf("usage has the flags %q, the program %q", got, flags)
	}
	if got := matches(man, `(?m)^\.It Fl ([A-Za-z-]+)(?: Ar \S+)?$`); !slices.Equal(got, flags) {
		t.Errorf("the man page has the flags %q, the program %q", got, flags)
	}
	newOptions().VisitAll(func(f *flag.Flag) {
		if f.DefValue == "" || f.DefValue == "false" {
			return
		}
		end := " "
		if f.DefValue == "true" { // without an argument
			end = "\n"
		}
		_, entry, _ := strings.Cut(man, "\n.It Fl "+f.Name+end)
		entry, _, _ = strings.Cut(entry, "\n.It Fl ")
		for name, text := range map[string]string{"the man page's entry": entry, "usage": usage()} {
			if !strings.Contains(text, f.DefValue) {
				t.Errorf("%s does not have the default %q of -%s", name, f.DefValue, f.Name)
			}
		}
	})
}

// TestExportsAreDocumented: what -export knows is in the man page, with its parameters.
func TestExportsAreDocumented(t *testing.T) {
	_, man, _ := strings.Cut(read(t, "../../man/pcapper.1"), "\n.Sh EXPORT\n")
	man, _, _ = strings.Cut(man, "\n.Sh ")
	for _, k := range export.Outputs.All() {
		if strings.HasPrefix(k.Elsewhere, "recollect ") {
			continue
		}
		for _, scheme := range k.Schemes {
			if !regexp.MustCompile(`Cm ` + regexp.QuoteMeta(scheme) + `:`).MatchString(man) {
				t.Errorf("the man page lacks %s:", scheme)
			}
		}
		for _, p := range k.Params {
			if !regexp.MustCompile(`Cm ` + p.Key + `\b`).MatchString(man) {
				t.Errorf("the man page lacks %s= of %s:", p.Key, k.Schemes[0])
			}
		}
	}
}

// TestExportElsewhere: an output that this program lacks is named with what has it, and a
// password is not shown.
func TestExportElsewhere(t *testing.T) {
	for url, want := range map[string]string{
		"clickhouse+http://ann:sesame@h": "clickhouse+http: is not in this program: recollect -export has them",
		"ipfx+udp://h":                   "unknown kind of export: did you mean ipfix+udp:?",
		"ipfix+udp://h?tll=3":            `unknown parameter "tll": did you mean ttl?`,
		"ipfix+tcp://ann:sesame@h":       "want no more than a host and a port",
	} {
		_, err := parse([]string{"-export", url}, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
}

func TestManPageNamesEveryExitCode(t *testing.T) {
	man := read(t, "../../man/pcapper.1")
	for _, code := range []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "12", "15", "16", "22"} {
		if !strings.Contains(man, "\n.It "+code+"\n") {
			t.Errorf("the man page does not explain exit code %s", code)
		}
	}
}

func TestUsageHasFiveExamples(t *testing.T) {
	_, examples, ok := strings.Cut(usage(), "Examples:\n")
	if n := strings.Count(examples, "\n  pcapper ") + 1; !ok || n != 5 {
		t.Errorf("%d examples, want 5", n)
	}
	for _, line := range strings.Split(usage(), "\n") {
		if len(line) > 100 {
			t.Errorf("a line of %d columns: %s", len(line), line)
		}
	}
}
