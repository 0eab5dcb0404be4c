// Package core holds no Go code but its tests: those of the service files for
// CORE, the network emulator, of their installer, and of pcapper-core.
package core

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// python is Debian's, for which python3-mako is installed.
const python = "/usr/bin/python3"

// binDir has the programs, as the installer's /usr/local/bin has.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if binDir, err = os.MkdirTemp("", "core"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(binDir)
		build := exec.Command("go", "build", "-o", binDir, "../cmd/pcapper", "../cmd/recollect")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
			return 1
		}
		data, err := os.ReadFile("pcapper-core")
		if err == nil {
			err = os.WriteFile(filepath.Join(binDir, "pcapper-core"), data, 0o755)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// The input and output of testdata/drive.py.
type (
	nodeSpec struct {
		ID       int                          `json:"id"`
		Name     string                       `json:"name"`
		Ifaces   []ifaceSpec                  `json:"ifaces"`
		Services map[string]map[string]string `json:"services"`
	}
	ifaceSpec struct {
		Name    string   `json:"name"`
		Addrs   []string `json:"addrs"`
		Control bool     `json:"control"`
	}
	made struct {
		Files                       map[string]string
		Startup, Validate, Shutdown []string
	}
	driven struct {
		Services map[string]struct {
			Executables []string
			Modes       map[string]map[string]string
			Configs     map[string]string
		}
		Nodes map[string]map[string]made
	}
)

// drive loads the file as a CORE of this generation would, and makes services.
func drive(t *testing.T, generation, file string, nodes []nodeSpec, args ...string) (d driven, err error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pcapper_core")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(nodes)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, append([]string{"testdata/drive.py", generation, dir}, args...)...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		return d, fmt.Errorf("%w: %s", err, &stderr)
	}
	if err := json.Unmarshal(out, &d); err != nil {
		t.Fatal(err)
	}
	return d, nil
}

func (d *driven) file(node, service, name string) string { return d.Nodes[node][service].Files[name] }

// newKinds are the generations that load pcapper_service.py.
var newKinds = []string{"core92", "core90", "core61"}

func services(of ...string) map[string]map[string]string {
	m := make(map[string]map[string]string)
	for _, name := range of {
		m[name] = map[string]string{}
	}
	return m
}

// session is one of three nodes: one with two data interfaces and a control
// network, one with IPv6 alone, one without PCapper.
func session() []nodeSpec {
	eth := func(n int, addrs ...string) ifaceSpec { return ifaceSpec{Name: fmt.Sprintf("eth%d", n), Addrs: addrs} }
	ctrl := ifaceSpec{Name: "ctrl0", Addrs: []string{"172.16.0.1/24"}, Control: true}
	return []nodeSpec{
		{ID: 1, Name: "n1", Ifaces: []ifaceSpec{eth(0, "10.0.0.1/24", "2001::1/64"), eth(1, "10.0.1.1/24"), ctrl}, Services: services("PCapper")},
		{ID: 2, Name: "n2", Ifaces: []ifaceSpec{eth(0, "2001::2/64")}, Services: services("PCapper")},
		{ID: 3, Name: "n3", Ifaces: []ifaceSpec{eth(0, "10.0.0.3/24")}},
	}
}

// TestDefaults: a service as it is added with one click, the same text for
// every version of CORE.
func TestDefaults(t *testing.T) {
	for _, kind := range newKinds {
		d, err := drive(t, kind, "pcapper_service.py", session())
		if err != nil {
			t.Fatal(kind, err)
		}
		const want = `#!/bin/sh
# Made by CORE's service; pcapper-core -h explains the settings.
export PCAPPER_INTERFACES='eth0 eth1'
export PCAPPER_PORT=7073
export PCAPPER_IPFIX_PORT=0
export PCAPPER_MODE=src
export PCAPPER_LOG=pcapper-%i.log
export PCAPPER_ARGS=''
exec pcapper-core agent "$1"
`
		if got := d.file("n1", "PCapper", "pcapper.sh"); got != want {
			t.Errorf("%s: got\n%swant\n%s", kind, got, want)
		}
		if m := d.Nodes["n1"]["PCapper"]; !slices.Equal(m.Startup, []string{"sh pcapper.sh start"}) || !slices.Equal(m.Shutdown, []string{"sh pcapper.sh stop"}) {
			t.Errorf("%s: commands %+v", kind, m)
		}
		for name, s := range d.Services {
			for _, program := range s.Executables {
				if _, err := os.Stat(filepath.Join(binDir, program)); err != nil {
					t.Errorf("%s: %s needs %s, which is not installed", kind, name, program)
				}
			}
			for mode, values := range s.Modes {
				for key := range values {
					if _, ok := s.Configs[key]; !ok {
						t.Errorf("%s: mode %q of %s sets %q, which is no setting", kind, mode, name, key)
					}
				}
			}
		}
		if s := d.Services["PCapper"]; len(s.Configs) != 7 || s.Modes["received traffic"]["mode"] != "dst" || s.Modes["sourced traffic"]["mode"] != "src" {
			t.Errorf("%s: settings %+v", kind, s)
		}
	}
}

// TestSettings: a user's settings, of which there may be only some, whatever
// signs of a shell or of a template they have.
func TestSettings(t *testing.T) {
	for _, kind := range newKinds {
		nodes := session()
		nodes[0].Services["PCapper"] = map[string]string{
			"interfaces": "eth1, eth0", "port": "9000", "ipfix": "4739", "mode": "dst", "filter": "udp and host 10.0.0.1 and not '${x}'",
			"log": "/var/log/%n $(touch hacked).log", "arguments": `-stats -mac "a b" ; touch hacked`,
		}
		nodes[1].Services["PCapper"] = map[string]string{"mode": "spoof"}
		d, err := drive(t, kind, "pcapper_service.py", nodes)
		if err != nil {
			t.Fatal(kind, err)
		}
		got := d.file("n1", "PCapper", "pcapper.sh")
		for _, want := range []string{
			"PCAPPER_INTERFACES='eth1 eth0'\n", "PCAPPER_PORT=9000\n", "PCAPPER_IPFIX_PORT=4739\n",
			`PCAPPER_MODE='udp and host 10.0.0.1 and not '"'"'${x}'"'"''` + "\n", "PCAPPER_LOG='/var/log/%n $(touch hacked).log'\n",
			`PCAPPER_ARGS='-stats -mac '"'"'a b'"'"' '"'"';'"'"' touch hacked'` + "\n",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", kind, want, got)
			}
		}
		if got := d.file("n2", "PCapper", "pcapper.sh"); !strings.Contains(got, "PCAPPER_MODE=spoof\n") || !strings.Contains(got, "PCAPPER_PORT=7073\n") {
			t.Errorf("%s: a partial configuration gives\n%s", kind, got)
		}
		for setting, value := range map[string]string{"port": "70000", "ipfix": "x", "arguments": "'open"} {
			nodes[0].Services["PCapper"] = map[string]string{setting: value}
			if _, err := drive(t, kind, "pcapper_service.py", nodes); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("PCapper: %s ", setting)) {
				t.Errorf("%s: %s %q: %v", kind, setting, value, err)
			}
		}
	}
}

// TestCollectorConf: the configuration is made of the session's nodes, by the
// control network or by the data interfaces.
func TestCollectorConf(t *testing.T) {
	for _, kind := range newKinds {
		nodes := session()
		nodes[1].Services["PCapper"] = map[string]string{"ipfix": "4739"}
		nodes[0].Services["PCapperCollector"] = map[string]string{"flows": "1=5001, 2=M100-199"}
		nodes[2].Services = map[string]map[string]string{"PCapperCollector": {"via": "data"}}
		d, err := drive(t, kind, "pcapper_service.py", nodes)
		if err != nil {
			t.Fatal(kind, err)
		}
		const head = "# Made by CORE's service from the session's nodes.\n"
		for node, want := range map[string]string{
			"n1": head + "1=5001\n2=M100-199\nn1.eth0:172.16.0.1:7073\nn1.eth1:172.16.0.1:7074\nn2:ipfix://172.16.0.2:4739\n",
			"n3": head + "n1.eth0:10.0.0.1:7073\nn1.eth1:10.0.1.1:7074\nn2:ipfix://[2001::2]:4739\n",
		} {
			if got := d.file(node, "PCapperCollector", "collector.conf"); got != want {
				t.Errorf("%s, %s: got\n%swant\n%s", kind, node, got, want)
			}
		}
		nodes[2].Services["PCapperCollector"]["via"] = "auto"
		if d, err = drive(t, kind, "pcapper_service.py", nodes); err != nil {
			t.Fatal(kind, err)
		}
		if got := d.file("n3", "PCapperCollector", "collector.conf"); !strings.Contains(got, "\n# n3 is on no control network: ") || !strings.Contains(got, "\nn2:ipfix://[2001::2]:4739\n") {
			t.Errorf("%s: the watched network is taken silently:\n%s", kind, got)
		}
		nodes[2].Services["PCapperCollector"]["via"] = "control"
		if _, err := drive(t, kind, "pcapper_service.py", nodes); err == nil || !strings.Contains(err.Error(), "n3 is on no control network") {
			t.Errorf("%s: no control network: %v", kind, err)
		}
	}
}

// TestLegacy: the services of older versions, one for each variant.
func TestLegacy(t *testing.T) {
	for _, kind := range []string{"core52", "core61", "core90"} {
		nodes := session()[:1]
		nodes[0].Services = services("PCapper", "PCapperReceived", "PCapperAll", "PCapperFirst")
		d, err := drive(t, kind, "pcapper_legacy.py", nodes, "legacy")
		if err != nil {
			t.Fatal(kind, err)
		}
		for name, want := range map[string]string{
			"PCapper":         "PCAPPER_INTERFACES='eth0 eth1'\nexport PCAPPER_PORT=7073\nexport PCAPPER_MODE=src\n",
			"PCapperReceived": "PCAPPER_INTERFACES='eth0 eth1'\nexport PCAPPER_PORT=7073\nexport PCAPPER_MODE=dst\n",
			"PCapperAll":      "PCAPPER_INTERFACES='eth0 eth1'\nexport PCAPPER_PORT=7073\nexport PCAPPER_MODE=none\n",
			"PCapperFirst":    "PCAPPER_INTERFACES='eth0'\nexport PCAPPER_PORT=7073\nexport PCAPPER_MODE=src\n",
		} {
			if got := d.file("n1", name, "pcapper.sh"); !strings.Contains(got, want) || !strings.Contains(got, "PCAPPER_LOG=pcapper-%i.log\n") {
				t.Errorf("%s: %s is\n%s", kind, name, got)
			}
		}
	}
}

// TestShell: what is generated, and pcapper-core itself, satisfy shellcheck.
func TestShell(t *testing.T) {
	dir := t.TempDir()
	scripts := []string{"pcapper-core"}
	add := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, path)
	}
	nodes := session()
	nodes[0].Services["PCapper"] = map[string]string{"filter": "ip and not 'x' $y `z`", "arguments": `-stats "a b"`}
	nodes[1].Services["PCapperCollector"] = map[string]string{"via": "data", "arguments": "-names 'my names'"}
	d, err := drive(t, "core92", "pcapper_service.py", nodes)
	if err != nil {
		t.Fatal(err)
	}
	add("agent.sh", d.file("n1", "PCapper", "pcapper.sh"))
	add("collector.sh", d.file("n2", "PCapperCollector", "recollect.sh"))
	nodes = nodes[:1]
	nodes[0].Services = services("PCapperReceived")
	if d, err = drive(t, "core52", "pcapper_legacy.py", nodes); err != nil {
		t.Fatal(err)
	}
	add("legacy.sh", d.file("n1", "PCapperReceived", "pcapper.sh"))
	// SC2016: that nothing is expanded in quotes is what they are for.
	if out, err := exec.Command("shellcheck", append([]string{"-e", "SC2016"}, scripts...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
