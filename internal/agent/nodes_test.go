package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCORENodes: nodes are found as CORE leaves them in /proc: in their order,
// each once, by session and name, and nothing else.
func TestCORENodes(t *testing.T) {
	proc := t.TempDir()
	process := func(pid, ns string, args ...string) {
		dir := filepath.Join(proc, pid)
		if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		line := ""
		for _, a := range args {
			line += a + "\x00"
		}
		if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("net:["+ns+"]", filepath.Join(dir, "ns/net")); err != nil {
			t.Fatal(err)
		}
	}
	process("thread-self", "1", "pcapper")
	process("self", "2", "pcapper")                                              // the first thread was in a node, and stays there
	process("100", "1", "/usr/local/bin/vnoded", "-v", "-c", "/tmp/pycore.1/n2") // who started it
	process("101", "2", "/usr/local/bin/vnoded", "-v", "-c", "/tmp/pycore.1/n2", "-l", "x")
	process("102", "10", "vnoded", "-c", "/tmp/pycore.1/n10")
	process("103", "3", "vnoded", "-c", "/tmp/pycore.1/n1")
	process("104", "4", "vnoded", "-c", "/tmp/pycore.2/n1")
	process("105", "2", "bash") // runs on n2
	process("106", "6", "vnoded", "-c")
	process("107", "7")
	var names []string
	for _, n := range coreNodes(proc) {
		names = append(names, n.id())
		if _, err := os.Readlink(n.path); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"1.n1", "1.n2", "1.n10", "2.n1"}; !slices.Equal(names, want) {
		t.Errorf("nodes %q, want %q", names, want)
	}
}

func TestPatterns(t *testing.T) {
	for _, x := range []struct {
		list     []string
		name     string
		loopback bool
		want     bool
	}{
		{nil, "eth0", false, true}, {nil, "lo", true, false}, {nil, "ctrl0", false, false}, {nil, "controller", false, true},
		{[]string{"eth*"}, "eth12", false, true}, {[]string{"eth*"}, "wlan0", false, false}, {[]string{"eth*", "lo"}, "lo", true, true},
		{[]string{"eth*", "!eth3"}, "eth3", false, false}, {[]string{"!eth3"}, "eth0", false, true}, {[]string{"!eth3"}, "lo", true, false},
		{[]string{"ctrl0"}, "ctrl0", false, true}, {[]string{"eth[01]"}, "eth1", false, true},
	} {
		if got := patterns(x.list).match(x.name, x.loopback); got != x.want {
			t.Errorf("%q of %q: %v, want %v", x.name, x.list, got, x.want)
		}
	}
}

// TestPortTable: who has had a port keeps it, over restarts too, and a file that
// contradicts itself is refused.
func TestPortTable(t *testing.T) {
	cfg := &Config{Port: 7073, PortsFile: filepath.Join(t.TempDir(), "ports")}
	if err := os.WriteFile(cfg.PortsFile, []byte("1=5001\nn2-eth0:127.0.0.1:7074\nother:10.0.0.1:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		table, err := newPortTable(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for node, want := range map[string]int{"n2": 1} {
			if k, fresh, err := table.get(node, "eth0"); k != want || fresh || err != nil {
				t.Errorf("%s: %d, %v, %v", node, k, fresh, err)
			}
		}
		for i, node := range []string{"n1", "n3"} {
			if k, _, err := table.get(node, "eth0"); k != 2*i || err != nil {
				t.Errorf("%s: %d, %v", node, k, err)
			}
		}
		if err := table.save(); err != nil {
			t.Fatal(err)
		}
		if _, err := newPortTable(cfg); err == nil || !strings.Contains(err.Error(), "another pcapper has it") {
			t.Errorf("a table that is in use: %v", err)
		}
		table.close()
	}
	got, err := os.ReadFile(cfg.PortsFile)
	if want := "1=5001\nn2-eth0:127.0.0.1:7074\nother:10.0.0.1:1\nn1-eth0:127.0.0.1:7073\nn3-eth0:127.0.0.1:7075\n"; err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"a:127.0.0.1:7\n", "a:127.0.0.1:x\n", "a:127.0.0.1:7080\nb:127.0.0.1:7080\n",
		"a:127.0.0.1:7080\na:127.0.0.1:7081\n", strings.Repeat("#", 1<<17) + "\n"} {
		if err := os.WriteFile(cfg.PortsFile, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := newPortTable(cfg); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	full := &portTable{base: 65535, offset: map[string]int{"a": 0}}
	if _, _, err := full.get("", "b"); err == nil {
		t.Error("a port above 65535")
	}
}

// TestPortsOfTheGone: the line of an interface that is gone is a comment that
// reserves its port, also for another agent, until ports run out.
func TestPortsOfTheGone(t *testing.T) {
	cfg := &Config{Port: 7073, PortsFile: filepath.Join(t.TempDir(), "ports")}
	want := func(text string) {
		t.Helper()
		if got, err := os.ReadFile(cfg.PortsFile); err != nil || string(got) != text {
			t.Errorf("the file is %q, %v, want %q", got, err, text)
		}
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(cfg.PortsFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	get := func(table *portTable, node string, k int) {
		t.Helper()
		if got, _, err := table.get(node, "eth0"); got != k || err != nil {
			t.Errorf("%s: %d, %v, want %d", node, got, err, k)
		}
	}
	write("# ours: 1\n1=5001\n1.n1-eth0:127.0.0.1:7073\n1.n2-eth0:127.0.0.1:7074\n# gone: 1.n2-eth0:127.0.0.1:7079\n# gone: x:127.0.0.1:7073\n# gone: x:y\n")
	table, err := newPortTable(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if left := table.leave(map[string]bool{"1.n2-eth0": true}); left != 1 {
		t.Errorf("%d have gone, want 1", left)
	}
	get(table, "1.n3", 2)
	if err := table.save(); err != nil {
		t.Fatal(err)
	}
	want("# ours: 1\n1=5001\n# gone: 1.n1-eth0:127.0.0.1:7073\n1.n2-eth0:127.0.0.1:7074\n# gone: 1.n2-eth0:127.0.0.1:7079\n# gone: x:127.0.0.1:7073\n# gone: x:y\n1.n3-eth0:127.0.0.1:7075\n")
	table.close()

	if table, err = newPortTable(cfg); err != nil {
		t.Fatal(err)
	}
	get(table, "1.n4", 3)
	get(table, "1.n1", 0)
	if err := table.save(); err != nil {
		t.Fatal(err)
	}
	want("# ours: 1\n1=5001\n1.n1-eth0:127.0.0.1:7073\n1.n2-eth0:127.0.0.1:7074\n# gone: 1.n2-eth0:127.0.0.1:7079\n# gone: x:127.0.0.1:7073\n# gone: x:y\n1.n3-eth0:127.0.0.1:7075\n1.n4-eth0:127.0.0.1:7076\n")
	table.close()

	cfg.Port = 65534
	write("# gone: 1.n1-eth0:127.0.0.1:65534\n1.n2-eth0:127.0.0.1:65535\n")
	if table, err = newPortTable(cfg); err != nil {
		t.Fatal(err)
	}
	defer table.close()
	get(table, "1.n3", 0)
	if _, _, err := table.get("1.n4", "eth0"); err == nil {
		t.Error("the port of an interface that is there was given away")
	}
}

// TestPortsOfManyGone: the table does not grow forever.
func TestPortsOfManyGone(t *testing.T) {
	table, err := newPortTable(&Config{Port: 7073})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxGone {
		if _, _, err := table.get(fmt.Sprintf("%d.n1", i), "eth0"); err != nil {
			t.Fatal(err)
		}
		if i%100 == 99 {
			table.leave(nil)
		}
	}
	if n := len(table.lines); n != maxGone || len(table.offset) != n {
		t.Errorf("%d lines and %d ports, want %d", n, len(table.offset), maxGone)
	}
}

// TestPortsApart: no port of one interface is another port of another.
func TestPortsApart(t *testing.T) {
	table, err := newPortTable(&Config{Port: 7073, IPFIXPort: 7075, IPFIXTLSPort: 4740})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1, 4, 5, 8} {
		if k, _, err := table.get("", fmt.Sprint(i)); k != want || err != nil {
			t.Errorf("interface %d: %d, %v, want %d", i, k, err, want)
		}
	}
	table, err = newPortTable(&Config{IPFIXPort: 4739, IPFIXTLSPort: 65535})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := table.get("", "a"); err != nil {
		t.Error(err)
	}
	if k, _, err := table.get("", "b"); err == nil {
		t.Errorf("offset %d with a port above 65535", k)
	}
}

// TestNodesOfOneName: a namespace that cannot be told from another is named, one
// that is given twice is not.
func TestNodesOfOneName(t *testing.T) {
	dir := t.TempDir()
	var paths []string
	for _, parent := range []string{"a", "b"} {
		path := filepath.Join(dir, parent, "x")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	nodes, missing := findNodes([]string{paths[0], paths[1], paths[0], "/proc/self/ns/net", fmt.Sprintf("/proc/%d/ns/net", os.Getpid())}, newCensus())
	var names []string
	for _, n := range nodes {
		names = append(names, n.name)
	}
	if want := []string{"x", "self", fmt.Sprint(os.Getpid())}; !slices.Equal(names, want) {
		t.Errorf("nodes %q, want %q", names, want)
	}
	if len(missing) != 1 || !strings.Contains(missing[0].Error(), paths[1]+" is not watched") {
		t.Errorf("said: %v", missing)
	}
}
