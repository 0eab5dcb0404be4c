package core

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is the most that a test waits for anything.
const patience = 20 * time.Second

// vnode is a node as CORE makes them: PID, network, mount, UTS and IPC
// namespaces of its own, with a first process that does nothing.
type vnode struct {
	t    *testing.T
	name string
	id   int
	dir  string // of its files, where its commands run
	init *exec.Cmd

	enter []string // nsenter's options for its namespaces
}

// newHost is what CORE runs on: a network namespace, all else as it is.
func newHost(t *testing.T, session string) *vnode {
	t.Helper()
	n := &vnode{t: t, name: "host", dir: filepath.Join(session, "host"), enter: []string{"-n"}}
	n.start(syscall.CLONE_NEWNET, "ip link set lo up && echo up && exec sleep 600")
	return n
}

func newVnode(t *testing.T, session, name string, id int) *vnode {
	t.Helper()
	n := &vnode{
		t: t, name: name, id: id, dir: filepath.Join(session, name+".conf"),
		enter: []string{"-p", "-n", "-m", "-u", "-i", "--wdns=" + filepath.Join(session, name+".conf")},
	}
	n.start(syscall.CLONE_NEWPID|syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC,
		"mount --make-rprivate / && mount -t proc proc /proc && hostname "+name+" && ip link set lo up && echo up && exec sleep 600")
	return n
}

func (n *vnode) start(namespaces uintptr, script string) {
	t := n.t
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("a node's namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN: run as root")
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.init = exec.Command("sh", "-c", script)
	n.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
	out, err := n.init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.init.Stderr = os.Stderr
	if err := n.init.Start(); err != nil {
		t.Fatalf("a node needs root: %v", err)
	}
	t.Cleanup(func() {
		n.init.Process.Kill() // and with it everything in the node
		n.init.Wait()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatalf("node %s: %v", n.name, err)
	}
}

// command runs in the node, as CORE's do: without a shell, in the node's
// directory.
func (n *vnode) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	n.t.Cleanup(cancel)
	enter := append([]string{"-t", strconv.Itoa(n.init.Process.Pid)}, n.enter...)
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enter, "--"), args...)...)
	cmd.Dir = n.dir
	cmd.Env = append(os.Environ(), "PATH="+binDir+":"+os.Getenv("PATH"), "SESSION_DIR="+filepath.Dir(n.dir),
		"NODE_NAME="+n.name, "NODE_NUMBER="+strconv.Itoa(n.id))
	return cmd
}

// run is a command that must succeed. It fails if something it left behind
// keeps its output open, which would keep a session of CORE from starting.
func (n *vnode) run(args ...string) string {
	n.t.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("%s: %v: %v\n%s%s", n.name, args, err, out, n.outputs())
	}
	return string(out)
}

// outputs are what programs said.
func (n *vnode) outputs() (text string) {
	files, _ := filepath.Glob(filepath.Join(n.dir, "*.out"))
	for _, f := range files {
		data, _ := os.ReadFile(f)
		text += fmt.Sprintf("%s: %s", filepath.Base(f), data)
	}
	return text
}

// boot writes a service's files and does what CORE does in validation mode
// NON_BLOCKING.
func (n *vnode) boot(m made) {
	n.t.Helper()
	for name, text := range m.Files {
		if err := os.WriteFile(filepath.Join(n.dir, name), []byte(text), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, c := range m.Startup {
		cmd := n.command(strings.Fields(c)...)
		if err := cmd.Start(); err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { cmd.Wait() })
	}
	for _, c := range m.Validate {
		n.run(strings.Fields(c)...) // at the first try, as CORE 6.1 wants it
	}
}

// emulation is three nodes on a LAN, each also on the control network of the
// host, which is a namespace here.
type emulation struct {
	host    *vnode
	nodes   []*vnode // n1, n2, n3
	session string
}

func emulate(t *testing.T) *emulation {
	t.Helper()
	e := &emulation{session: filepath.Join(t.TempDir(), "pycore.1")}
	e.host = newHost(t, e.session)
	for _, bridge := range []string{"b.lan", "b.ctrl"} {
		e.host.run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
		e.host.run("ip", "link", "set", bridge, "up")
	}
	e.host.run("ip", "address", "add", "172.16.0.254/24", "dev", "b.ctrl")
	for id := 1; id <= 3; id++ {
		n := newVnode(t, e.session, fmt.Sprintf("n%d", id), id)
		e.nodes = append(e.nodes, n)
		e.connect(n, "b.lan", "eth0", fmt.Sprintf("10.0.0.%d/24", id))
		e.connect(n, "b.ctrl", "ctrl0", fmt.Sprintf("172.16.0.%d/24", id))
	}
	return e
}

func (e *emulation) connect(n *vnode, bridge, name, address string) {
	peer := fmt.Sprintf("v%d.%s", n.id, name)
	e.host.run("ip", "link", "add", peer, "type", "veth", "peer", "name", name, "netns", strconv.Itoa(n.init.Process.Pid))
	e.host.run("ip", "link", "set", peer, "master", bridge, "up")
	n.run("ip", "address", "add", address, "dev", name)
	n.run("ip", "link", "set", name, "up")
}

// spec is the session as service files see it.
func (e *emulation) spec() (nodes []nodeSpec) {
	for _, n := range e.nodes {
		nodes = append(nodes, nodeSpec{
			ID: n.id, Name: n.name, Services: services("PCapper"),
			Ifaces: []ifaceSpec{
				{Name: "eth0", Addrs: []string{fmt.Sprintf("10.0.0.%d/24", n.id)}},
				{Name: "ctrl0", Addrs: []string{fmt.Sprintf("172.16.0.%d/24", n.id)}, Control: true},
			},
		})
	}
	return nodes
}

// mgen makes traffic for so many seconds.
func (n *vnode) mgen(event string, seconds int) {
	n.t.Helper()
	n.run("sh", "-c", fmt.Sprintf("timeout %d mgen event '%s' output /dev/null || [ $? = 124 ]", seconds, event))
}

// count is how many lines of a file match.
func count(t *testing.T, name, pattern string) int {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(regexp.MustCompile("(?m)"+pattern).FindAll(data, -1))
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestEmulation: three nodes with the service, one of them with the collector,
// mgen between two: the log of the sender, of the receiver, and the collector's
// lines have each message once; the host can collect, too; nothing is left.
func TestEmulation(t *testing.T) {
	for _, via := range []string{"control", "data"} {
		t.Run(via, func(t *testing.T) { testEmulation(t, via) })
	}
}

func testEmulation(t *testing.T, via string) {
	e := emulate(t)
	spec := e.spec()
	spec[0].Services["PCapper"] = map[string]string{"arguments": "-stats"}
	spec[1].Services["PCapper"] = map[string]string{"mode": "dst", "ipfix": "4739", "log": "%n-%i.txt"}
	spec[2].Services["PCapper"] = map[string]string{"mode": "none"} // sees what the collector receives, and its answers
	spec[2].Services["PCapperCollector"] = map[string]string{"flows": "1=M7 2=5002", "lines": "lines.txt", "via": via, "http": ""}
	d, err := drive(t, "core92", "pcapper_service.py", spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range e.nodes {
		n.boot(d.Nodes[n.name]["PCapper"])
	}
	n1, n2, n3 := e.nodes[0], e.nodes[1], e.nodes[2]
	n3.boot(d.Nodes["n3"]["PCapperCollector"])
	await(t, "the collector has all agents", func() bool {
		return count(t, filepath.Join(n3.dir, "recollect.out"), `: connected$`) == 3
	})

	const messages = 100
	// Two seconds, and some for a busy machine: mgen does not end by itself.
	n1.mgen(fmt.Sprintf("on 7 udp src 5001 dst 10.0.0.2/5001 periodic [50 200] count %d", messages), 6)
	lines := filepath.Join(n3.dir, "lines.txt")
	message := `^\S+:10\.0\.0\.1:5001:10\.0\.0\.2:5001:228:7:17$`
	for file, pattern := range map[string]string{
		filepath.Join(n1.dir, "pcapper-eth0.log"): message,
		filepath.Join(n2.dir, "n2-eth0.txt"):      message,
	} {
		await(t, file+" is written", func() bool { return count(t, file, pattern) >= messages })
	}
	for _, host := range []string{"n1", "n2"} {
		await(t, "the collector has the lines of "+host, func() bool { return count(t, lines, `^\S+:`+host+`:1:1824:0$`) >= messages })
	}
	if n := count(t, lines, `:n1:[CM]:`); n < 4 {
		t.Errorf("%d statistics of n1", n)
	}
	// The feeds go over the watched network if there is no other. No agent reports
	// them, neither where they come from nor where the collector is.
	if n := count(t, lines, `^\S+:n[123]:X:`); n > 60 { // neighbour discovery and the like
		t.Errorf("%d packets of no flow: do the feeds see themselves?", n)
	}

	if via == "control" {
		e.collectOnHost(t)
	}

	for _, n := range e.nodes {
		for _, m := range d.Nodes[n.name] {
			for _, c := range m.Shutdown {
				n.run(strings.Fields(c)...)
			}
		}
		if out, err := n.command("pidof", "pcapper", "recollect").Output(); err == nil {
			t.Errorf("%s: still there: %s", n.name, out)
		}
	}
	if out, err := e.host.command("pcapper-core", "agents", e.session).CombinedOutput(); err == nil || !strings.Contains(string(out), "no agents in ") {
		t.Errorf("agents of a session that has ended: %v, %s", err, out)
	}
}

// TestAgentFails: what is wrong with the settings is in the check's message.
func TestAgentFails(t *testing.T) {
	e := emulate(t)
	n := e.nodes[0]
	for _, c := range []struct{ setting, want string }{
		{"PCAPPER_INTERFACES=eth7", `the agent of eth7 does not run: .*"eth7"`},
		{"PCAPPER_MODE=nonsense", "the agent of eth0 does not run: "},
	} {
		n.run("env", c.setting, "pcapper-core", "agent", "start")
		cmd := n.command("env", c.setting, "pcapper-core", "agent", "check")
		out, err := cmd.CombinedOutput()
		if err == nil || !regexp.MustCompile(`(?s)pcapper-core: `+c.want).Match(out) {
			t.Errorf("%s: %v\n%s", c.setting, err, out)
		}
		n.run("pcapper-core", "agent", "stop")
	}
}

// collectOnHost: the host reaches agents by the control network, as what they
// have left in the session's directory says.
func (e *emulation) collectOnHost(t *testing.T) {
	t.Helper()
	want := "n1:172.16.0.1:7073\nn2:ipfix://172.16.0.2:4739\nn3:172.16.0.3:7073\n"
	if got := e.host.run("pcapper-core", "agents", e.session); got != want {
		t.Errorf("agents: %q, want %q", got, want)
	}
	collector := e.host.command("pcapper-core", "collect", e.session, "-lines")
	var out, errs bytes.Buffer
	collector.Stdout, collector.Stderr = &out, &errs
	if err := os.WriteFile(filepath.Join(e.host.dir, "collector.conf"), []byte("9=M7 # ours\nx:10.9.9.9:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	e.nodes[0].mgen("on 7 udp src 5001 dst 10.0.0.2/5001 periodic [50 200]", 2)
	collector.Process.Signal(syscall.SIGINT)
	if err := collector.Wait(); err != nil {
		t.Errorf("collect on the host: %v\n%s", err, &errs)
	}
	if n := strings.Count(out.String(), ":n2:9:1824:0\n"); n < 30 {
		t.Errorf("the host has %d lines\n%s", n, &errs)
	}
}

// children are the processes that a process has started, and theirs.
func children(t *testing.T, pid int) (list []int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(data)) {
		child, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(append(list, child), children(t, child)...)
	}
	return list
}

// TestCollectEnds: a signal to pcapper-core collect ends recollect, whichever it is
// and whoever gets it, and nothing is left: no process, no file.
func TestCollectEnds(t *testing.T) {
	e := emulate(t)
	d, err := drive(t, "core92", "pcapper_service.py", e.spec())
	if err != nil {
		t.Fatal(err)
	}
	e.nodes[0].boot(d.Nodes["n1"]["PCapper"])
	for _, x := range []struct {
		signal syscall.Signal
		clean  bool // it ends by itself, and well
	}{{syscall.SIGTERM, true}, {syscall.SIGINT, true}, {syscall.SIGKILL, false}} {
		tmp := t.TempDir()
		collector := e.host.command("env", "TMPDIR="+tmp, "pcapper-core", "collect", e.session, "-lines")
		var errs bytes.Buffer
		collector.Stderr = &errs
		if collector.Stdout, err = os.Create(filepath.Join(t.TempDir(), "lines")); err != nil {
			t.Fatal(err)
		}
		if err := collector.Start(); err != nil {
			t.Fatal(err)
		}
		pid := collector.Process.Pid // nsenter and env are this process, too
		await(t, "recollect runs and is followed", func() bool {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return string(name) == "recollect\n" && len(children(t, pid)) > 0
		})
		time.Sleep(300 * time.Millisecond) // until it knows what to do with signals
		all := append(children(t, pid), pid)
		if err := syscall.Kill(pid, x.signal); err != nil {
			t.Fatal(err)
		}
		if err := collector.Wait(); (err == nil) != x.clean {
			t.Errorf("%v: %v\n%s", x.signal, err, &errs)
		}
		for _, p := range all {
			await(t, fmt.Sprintf("%v: process %d has ended", x.signal, p), func() bool {
				return syscall.Kill(p, 0) == syscall.ESRCH
			})
		}
		if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
			t.Errorf("%v: left: %v", x.signal, left)
		}
	}
}

// TestNodesComeAndGo: collectors are told of nodes that have come, and not of
// nodes that have gone without a word.
func TestNodesComeAndGo(t *testing.T) {
	for _, via := range []string{"control", "data"} {
		t.Run(via, func(t *testing.T) { testNodesComeAndGo(t, via) })
	}
}

func testNodesComeAndGo(t *testing.T, via string) {
	e := emulate(t)
	spec := e.spec()
	spec[1].Services["PCapper"] = map[string]string{"ipfix": "4739"}
	spec[2].Services["PCapperCollector"] = map[string]string{"flows": "1=5001", "via": via, "http": ""}
	d, err := drive(t, "core92", "pcapper_service.py", spec)
	if err != nil {
		t.Fatal(err)
	}
	network := map[string]string{"control": "172.16.0", "data": "10.0.0"}[via]
	n1, n2, n3 := e.nodes[0], e.nodes[1], e.nodes[2]
	for _, n := range e.nodes[1:] {
		n.boot(d.Nodes[n.name]["PCapper"])
	}
	n3.boot(d.Nodes["n3"]["PCapperCollector"])
	conf := func(want string) {
		t.Helper()
		path := filepath.Join(n3.dir, "recollect.d/collector.conf")
		await(t, want+" is in "+path, func() bool {
			data, _ := os.ReadFile(path)
			return string(data) == "# Made by CORE's service from the session's nodes.\n1=5001\n"+strings.ReplaceAll(want, "NET", network)
		})
	}
	// n1 may be about to start.
	conf("n1:NET.1:7073\nn2:ipfix://NET.2:4739\nn3:NET.3:7073\n")
	n1.boot(d.Nodes["n1"]["PCapper"])
	n4 := newVnode(t, e.session, "n4", 4) // joins later: CORE's collector.conf does not have it
	e.connect(n4, "b.lan", "eth0", "10.0.0.4/24")
	e.connect(n4, "b.ctrl", "ctrl0", "172.16.0.4/24")
	n4.run("env", "PCAPPER_INTERFACES=eth0", "pcapper-core", "agent", "start")
	conf("n1:NET.1:7073\nn2:ipfix://NET.2:4739\nn3:NET.3:7073\nn4:NET.4:7073\n")
	// n1 ends as CORE ends nodes; n2's service is told to stop.
	n1.init.Process.Kill()
	n1.init.Wait()
	n2.run("sh", "pcapper.sh", "stop")
	conf("n3:NET.3:7073\nn4:NET.4:7073\n")
	n2.run("sh", "pcapper.sh", "start")
	conf("n2:ipfix://NET.2:4739\nn3:NET.3:7073\nn4:NET.4:7073\n")
	out, err := e.host.command("pcapper-core", "agents", e.session).CombinedOutput()
	if want := "pcapper-core: n1 is left out: its agents have ended\nn2:ipfix://172.16.0.2:4739\nn3:172.16.0.3:7073\nn4:172.16.0.4:7073\n"; err != nil || string(out) != want {
		t.Errorf("agents: %v\n%swant\n%s", err, out, want)
	}
	n3.run("sh", "recollect.sh", "stop")
	await(t, "nothing of the collector is left", func() bool {
		_, err := os.Stat(filepath.Join(n3.dir, "recollect.d"))
		out, _ := n3.command("sh", "-c", "ps -eo stat,args | grep -v ^Z | grep -cE '[r]ecollect|[p]capper-core'").Output()
		return os.IsNotExist(err) && string(out) == "0\n"
	})
}
