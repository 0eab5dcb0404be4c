package core

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// scenario is what the test needs of CORE's XML.
type scenario struct {
	Networks []struct {
		ID string `xml:"id,attr"`
	} `xml:"networks>network"`
	Devices []struct {
		ID       int    `xml:"id,attr"`
		Name     string `xml:"name,attr"`
		Services []struct {
			Name string `xml:"name,attr"`
		} `xml:"services>service"`
	} `xml:"devices>device"`
	Links []struct {
		Node1 int    `xml:"node1,attr"`
		Node2 string `xml:"node2,attr"`
		Iface struct {
			Name string `xml:"name,attr"`
			IP4  string `xml:"ip4,attr"`
			Mask string `xml:"ip4_mask,attr"`
		} `xml:"iface1"`
	} `xml:"links>link"`
	Configurations []struct {
		Name    string `xml:"name,attr"`
		Node    int    `xml:"node,attr"`
		Configs []struct {
			Key   string `xml:"key,attr"`
			Value string `xml:"value,attr"`
		} `xml:"configs>config"`
	} `xml:"service_configurations>service"`
	Hooks []struct {
		Name  string `xml:"name,attr"`
		State string `xml:"state,attr"`
		Text  string `xml:",chardata"`
	} `xml:"session_hooks>hook"`
}

// TestExample plays the example scenario: its nodes, services, settings and
// traffic are those of the XML file.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("examples/wlan.xml")
	if err != nil {
		t.Fatal(err)
	}
	var s scenario
	if err := xml.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	traffic, err := os.ReadFile("examples/traffic.sh")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Hooks) != 1 || s.Hooks[0].Text != string(traffic) || s.Hooks[0].State != "4" {
		t.Errorf("the hook is not traffic.sh at runtime: %+v", s.Hooks)
	}
	e := &emulation{session: filepath.Join(t.TempDir(), "pycore.1")}
	e.host = newHost(t, e.session)
	for _, bridge := range []string{"b.lan", "b.ctrl"} {
		e.host.run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
		e.host.run("ip", "link", "set", bridge, "up")
	}
	e.host.run("ip", "address", "add", "172.16.0.254/24", "dev", "b.ctrl")
	var spec []nodeSpec
	for i, d := range s.Devices {
		link := s.Links[i]
		if link.Node1 != d.ID || link.Node2 != s.Networks[0].ID {
			t.Fatalf("link %+v is not that of %s to the network", link, d.Name)
		}
		n := newVnode(t, e.session, d.Name, d.ID)
		e.nodes = append(e.nodes, n)
		address, control := link.Iface.IP4+"/"+link.Iface.Mask, fmt.Sprintf("172.16.0.%d/24", d.ID)
		e.connect(n, "b.lan", link.Iface.Name, address)
		e.connect(n, "b.ctrl", "ctrl0", control)
		n.run("ip", "route", "add", "224.0.0.0/4", "dev", "eth0")
		node := nodeSpec{ID: d.ID, Name: d.Name, Services: map[string]map[string]string{}, Ifaces: []ifaceSpec{
			{Name: link.Iface.Name, Addrs: []string{address}}, {Name: "ctrl0", Addrs: []string{control}, Control: true},
		}}
		for _, service := range d.Services {
			node.Services[service.Name] = map[string]string{}
		}
		for _, c := range s.Configurations {
			if c.Node != d.ID {
				continue
			}
			for _, setting := range c.Configs {
				node.Services[c.Name][setting.Key] = setting.Value
			}
		}
		spec = append(spec, node)
	}
	d, err := drive(t, "core92", "pcapper_service.py", spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"PCapper", "PCapperCollector"} {
		for _, n := range e.nodes {
			if m, ok := d.Nodes[n.name][service]; ok {
				n.boot(m)
			}
		}
	}
	// CORE's vcmd runs a command in a node that is named by its control channel.
	vcmd := "#!/bin/sh\n[ \"$1\" = -c ] && [ \"$3\" = -- ] || exit 1\nnode=${2##*/}\nshift 3\ncase $node in\n"
	for _, n := range e.nodes {
		vcmd += fmt.Sprintf("%s) exec nsenter -t %d -p -n -m -u -i --wdns=%s -- \"$@\" ;;\n", n.name, n.init.Process.Pid, n.dir)
	}
	tools := t.TempDir()
	writeFile(t, filepath.Join(tools, "vcmd"), vcmd+"esac\nexit 1\n")
	hook := e.host.command("env", "PATH="+tools+":"+os.Getenv("PATH"), "SESSION_DIR="+e.session, "sh", "-c", s.Hooks[0].Text)
	if out, err := hook.CombinedOutput(); err != nil {
		t.Fatalf("the hook: %v\n%s", err, out)
	}
	lines := filepath.Join(e.nodes[3].dir, "lines.txt")
	for _, want := range []string{"n1:1", "n2:1", "n2:2", "n3:2", "n1:3", "n2:3", "n3:3", "n4:3"} {
		await(t, "the collector has flow "+want, func() bool { return count(t, lines, `^\S+:`+want+`:\d+:0$`) >= 10 })
	}
	text, err := exec.Command(filepath.Join(binDir, "recollect"), "-h").Output()
	if err == nil && strings.Contains(string(text), "-http") {
		e.page(t)
	}
}

// page: the host can look at the collector's page.
func (e *emulation) page(t *testing.T) {
	t.Helper()
	const get = `import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)`
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		out, err := e.host.command(python, "-c", get, "http://172.16.0.4:7080/").CombinedOutput()
		if err == nil && string(out) == "200\n" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the page cannot be seen: %v\n%s%s", err, out, e.nodes[3].outputs())
		}
	}
}

// TestExampleScript: it is Python, and has the XML's settings and addresses.
func TestExampleScript(t *testing.T) {
	const check = `import ast, sys; ast.parse(open(sys.argv[1]).read())`
	if out, err := exec.Command(python, "-c", check, "examples/wlan.py").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script, err := os.ReadFile("examples/wlan.py")
	if err != nil {
		t.Fatal(err)
	}
	scene, err := os.ReadFile("examples/wlan.xml")
	if err != nil {
		t.Fatal(err)
	}
	for _, both := range []string{"1=M101 2=M102 3=M201", "0.0.0.0:7080", "172.16.0.0/24", "11000000", "5000", "2.0", "4739", "control"} {
		if !strings.Contains(string(script), `"`+both+`"`) || !strings.Contains(string(scene), `value="`+both+`"`) {
			t.Errorf("%q is not in both", both)
		}
	}
	if out, err := exec.Command("shellcheck", "examples/traffic.sh").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestExampleScriptEnds: the script's session has its control network with each
// version of CORE, and is taken down whatever happens.
func TestExampleScriptEnds(t *testing.T) {
	enter := func(c *exec.Cmd, in io.Writer) { fmt.Fprintln(in) }
	sent := func(s os.Signal) func(*exec.Cmd, io.Writer) {
		return func(c *exec.Cmd, in io.Writer) { c.Process.Signal(s) }
	}
	for _, generation := range []string{"core92", "core90"} {
		for _, x := range []struct {
			fail string                     // what CORE refuses
			end  func(*exec.Cmd, io.Writer) // how the script is ended once it runs
			code int
		}{
			{"", enter, 0}, {"", sent(syscall.SIGTERM), 143}, {"", sent(os.Interrupt), 130},
			{"instantiate", nil, 1}, {"add_link", nil, 1}, {"mobility", nil, 1}, {"controlnet", nil, 1},
		} {
			standin, err := filepath.Abs("testdata/standin")
			if err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(t.TempDir(), "log")
			cmd := exec.CommandContext(t.Context(), python, "examples/wlan.py")
			cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "STANDIN_LOG="+log, "STANDIN_FAIL="+x.fail,
				"PYTHONPATH="+filepath.Join(standin, generation)+":"+standin)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			said, _ := bufio.NewReader(out).ReadString('\n')
			if x.end != nil {
				if !strings.HasPrefix(said, "the page: ") {
					t.Fatalf("%s: %q\n%s", generation, said, &errs)
				}
				x.end(cmd, in)
			}
			cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != x.code {
				t.Errorf("%s, %q: exit code %d, want %d\n%s", generation, x.fail, code, x.code, &errs)
			}
			if x.end != nil && strings.Contains(errs.String(), "Traceback") {
				t.Errorf("%s: %s", generation, &errs)
			}
			data, err := os.ReadFile(log)
			if err != nil || !strings.HasSuffix(string(data), "\nshutdown\n") {
				t.Errorf("%s, %q: a session was left: %v\n%s", generation, x.fail, err, data)
			}
			if told := strings.Contains(string(data), "parse_options\n"); told != (generation == "core92") {
				t.Errorf("%s: options are parsed: %v", generation, told)
			}
		}
	}
}
