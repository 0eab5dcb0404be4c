//go:build !libpcap

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire/ipfix"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodes is held by a test whose agent watches all of CORE's nodes on this machine: those
// of another test would be among them.
var nodes sync.Mutex

func holdNodes(t *testing.T) {
	nodes.Lock()
	t.Cleanup(nodes.Unlock)
}

// vnoded runs a node's process as CORE does: with the path of its control channel, in
// its namespaces.
func vnoded(t *testing.T, h *nettest.Host, session, node string) (end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.Background(), self)
	cmd.Args = []string{"/usr/local/bin/vnoded", "-v", "-c", filepath.Join(session, node), "-l", filepath.Join(session, node+".log")}
	cmd.Env = append(os.Environ(), vnodedEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			in.Close()
			cmd.Wait()
		}
	}
	t.Cleanup(end)
	return end
}

// named gives a host's namespace a name of ip-netns(8); suffix is its end.
func named(t *testing.T, h *nettest.Host, suffix string) string {
	t.Helper()
	name := fmt.Sprintf("pcapper-%d-%s", os.Getpid(), suffix)
	h.Named(t, name)
	return name
}

// TestManyNamespaces: one agent on a host watches what the host itself sends
// nothing of: a namespace by name, and nodes of CORE that come and go. Each has a
// port of its own, which it keeps, and gives its own packets only.
func TestManyNamespaces(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"auto", "ring"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "auto" {
				nettest.NeedTCX(t)
			}
			testManyNamespaces(t, engine)
		})
	}
}

func testManyNamespaces(t *testing.T, engine string) {
	holdNodes(t)
	hosts := nettest.Bridge(t, 4)
	host, n1, n2, n3 := hosts[3], hosts[0], hosts[1], hosts[2]
	name := named(t, n1, n1.Name)
	session := filepath.Join(t.TempDir(), "pycore.1")
	endN2 := vnoded(t, n2, session, "n2")

	dir := t.TempDir()
	if err := os.Chown(dir, 1234, 1234); err != nil { // root is no owner, as in a user's home
		t.Fatal(err)
	}
	ports := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(ports, []byte("# ours\n1=5001\nelsewhere:10.9.9.9:7073\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := launch(t, host, "-engine", engine, "-netns", name, "-netns", "all-core", "-ports", ports, "-f", filepath.Join(dir, "%n-%i.log"),
		"-metrics", "127.0.0.1:9173", "-v")
	one, two := name+"-eth0", "n2-eth0"
	a.await(one+": listening on TCP port 7073;", 1)
	a.await(two+": listening on TCP port 7074;", 1)
	if strings.Contains(a.said(), "confined: no") {
		t.Logf("%s", a.said())
	} else if !regexp.MustCompile(`capabilities: (cap_bpf )?cap_dac_override (cap_net_admin )?cap_net_raw (cap_perfmon )?cap_sys_admin cap_sys_ptrace\n`).MatchString(a.said()) {
		t.Errorf("what privileges are left: %s", a.said())
	}

	endN3 := vnoded(t, n3, session, "n3")
	a.await("n3-eth0: listening on TCP port 7075;", 1)

	dial := func(port int) net.Conn {
		t.Helper()
		was := strings.Count(a.said(), ": attached")
		conn, err := host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		a.await(": attached", was+1)
		return conn
	}
	c1, c2, c3 := dial(7073), dial(7074), dial(7075)
	check := func(conn net.Conn, from, to *nettest.Host, n int) {
		t.Helper()
		send(t, from, n, 5000, between(from, to))
		for _, r := range collect(t, conn, n) {
			if r.SrcAddr() != from.Interface.IPv4 || r.DstAddr() != to.Interface.IPv4 {
				t.Fatalf("%s's collector got %v", from.Name, r)
			}
		}
	}
	check(c1, n1, n2, 300)
	check(c2, n2, n3, 200)
	check(c3, n3, n1, 100)

	// A node ends: its collector learns of it, and the others do not.
	endN3()
	a.await("n3-eth0: gone; port 7075 stays its own", 1)
	c3.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c3.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the collector of a node that is gone: %v", err)
	}
	check(c1, n1, n2, 50)
	// It comes back, and the other one goes meanwhile.
	endN2()
	a.await("n2-eth0: gone", 1)
	vnoded(t, n3, session, "n3")
	a.await("n3-eth0: listening on TCP port 7075;", 2)
	check(dial(7075), n3, n1, 10)

	awaitFile(t, ports, "# ours\n1=5001\nelsewhere:10.9.9.9:7073\n"+one+":127.0.0.1:7073\n# gone: 1.n2-eth0:127.0.0.1:7074\n1.n3-eth0:127.0.0.1:7075\n")
	body := exposition(t, host, "127.0.0.1:9173")
	for _, want := range []string{
		fmt.Sprintf(`pcapper_packets_total{iface="eth0",node=%q,session=""} 350`, name), `pcapper_packets_total{iface="eth0",node="n3",session="1"} 10`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(body, `node="n2"`) {
		t.Error("metrics have a node that is gone")
	}
	summary := strings.Join(a.stop(), "\n")
	for _, want := range []string{"2 interfaces", "660 packets captured", one + ": 350 packets captured"} {
		if !strings.Contains(summary, want) {
			t.Errorf("the summary lacks %q:\n%s", want, summary)
		}
	}
	if lines := len(strings.Split(strings.TrimSpace(read(t, filepath.Join(dir, name+"-eth0.log"))), "\n")); lines != 350 {
		t.Errorf("%d lines in the log of %s, want 350", lines, name)
	}
}

func between(from, to *nettest.Host) []byte {
	f := nettest.Between(from, to, 4001, 5001, make([]byte, 30))
	f.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc} // nobody answers
	return f.Ethernet()
}

// awaitFile waits until a file has this text.
func awaitFile(t *testing.T, path, want string) {
	t.Helper()
	if !nettest.Eventually(10*time.Second, func() bool { return read(t, path) == want }) {
		t.Errorf("%s is\n%swant\n%s", path, read(t, path), want)
	}
}

// TestManySessions: a node of CORE is the same, on the same port, whatever other
// sessions have nodes of its name, in which order they come, and after the agent
// was started again. The table has those that are there.
func TestManySessions(t *testing.T) {
	t.Parallel()
	holdNodes(t)
	hosts := nettest.Bridge(t, 4)
	host, dir := hosts[3], t.TempDir()
	one, two := filepath.Join(dir, "pycore.1"), filepath.Join(dir, "pycore.2")
	ports := filepath.Join(dir, "collector.conf")
	start := func() *agentProcess {
		return launch(t, host, "-engine", "ring", "-netns", "all-core", "-m", "none", "-ports", ports, "-f", filepath.Join(dir, "%n-%i.log"))
	}
	end1 := vnoded(t, hosts[0], one, "n1")
	a := start()
	a.await("pcapper: n1-eth0: listening on TCP port 7073;", 1)
	end2 := vnoded(t, hosts[1], two, "n1") // another session has a node of that name, and is on the first's network
	a.await("pcapper: 2.n1-eth0: listening on TCP port 7074;", 1)
	vnoded(t, hosts[2], two, "n2")
	a.await("pcapper: n2-eth0: listening on TCP port 7075;", 1)
	awaitFile(t, ports, "1.n1-eth0:127.0.0.1:7073\n2.n1-eth0:127.0.0.1:7074\n2.n2-eth0:127.0.0.1:7075\n")

	// The first session goes and comes back while the second is there.
	end1()
	a.await("n1-eth0: gone; port 7073 stays its own", 1)
	awaitFile(t, ports, "# gone: 1.n1-eth0:127.0.0.1:7073\n2.n1-eth0:127.0.0.1:7074\n2.n2-eth0:127.0.0.1:7075\n")
	end1 = vnoded(t, hosts[0], one, "n1")
	a.await("pcapper: 1.n1-eth0: listening on TCP port 7073;", 1)
	awaitFile(t, ports, "1.n1-eth0:127.0.0.1:7073\n2.n1-eth0:127.0.0.1:7074\n2.n2-eth0:127.0.0.1:7075\n")

	// Another agent finds the second session alone, and the first one later.
	a.stop()
	end1()
	a = start()
	a.await("n1-eth0: listening on TCP port 7074;", 1)
	a.await("n2-eth0: listening on TCP port 7075;", 1)
	a.await("that are not here: 1;", 1)
	awaitFile(t, ports, "# gone: 1.n1-eth0:127.0.0.1:7073\n2.n1-eth0:127.0.0.1:7074\n2.n2-eth0:127.0.0.1:7075\n")
	end1 = vnoded(t, hosts[0], one, "n1")
	a.await("1.n1-eth0: listening on TCP port 7073;", 1)

	// Each port has the packets of its own node.
	for port, from := range map[int]*nettest.Host{7073: hosts[0], 7074: hosts[1]} {
		was := strings.Count(a.said(), ": attached")
		conn, err := host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		a.await(": attached", was+1)
		send(t, from, 20, 1000, between(from, hosts[2]))
		for _, r := range collect(t, conn, 20) {
			if r.SrcAddr() != from.Interface.IPv4 {
				t.Fatalf("port %d got %v", port, r)
			}
		}
		conn.Close()
	}
	end1()
	end2()
	awaitFile(t, ports, "# gone: 1.n1-eth0:127.0.0.1:7073\n# gone: 2.n1-eth0:127.0.0.1:7074\n2.n2-eth0:127.0.0.1:7075\n")
	a.stop()
	for _, log := range []string{"1.n1-eth0.log", "2.n1-eth0.log"} {
		if n := strings.Count(read(t, filepath.Join(dir, log)), "\n"); n != 20 {
			t.Errorf("%s has %d lines, want 20", log, n)
		}
	}
}

// TestManyInterfaces: patterns of the host's own interfaces.
func TestManyInterfaces(t *testing.T) {
	t.Parallel()
	nettest.NeedTCX(t)
	a, b := nettest.Pair(t)
	agent := launch(t, a, "-i", "eth*,lo,!eth7", "-p", "0", "-ipfix-port", "4739", "-m", "none")
	agent.await("eth0: listening on IPFIX on TCP port 4740;", 1) // lo has the lower index
	agent.await("lo: listening on IPFIX on TCP port 4739;", 1)
	file := filepath.Join(t.TempDir(), "c.conf")
	if err := os.WriteFile(file, []byte("1=5001\neth0:ipfix://127.0.0.1:4740\nlo:ipfix://127.0.0.1:4739\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out safeBuffer
	c := a.Command(t.Context(), recollect(t), "-c", file)
	c.Stdout = &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	agent.await(": attached", 2)
	send(t, b, 20, 1000, between(b, a))
	nettest.Eventually(20*time.Second, func() bool { return strings.Count(out.String(), ":eth0:1:") >= 20 })
	c.Process.Signal(unix.SIGINT)
	c.Wait()
	if n := strings.Count(out.String(), ":eth0:1:"); n != 20 {
		t.Errorf("%d lines of eth0, want 20:\n%s", n, out.String())
	}
	if strings.Contains(out.String(), ":lo:1:") {
		t.Error("eth0's packets came from lo")
	}
	if got := namesAt(t, a, "127.0.0.1:4740", 2); got != (ipfix.Names{Interface: "eth0"}) {
		t.Errorf("IPFIX names eth0 %+v", got)
	}
	agent.stop()
}

// namesAt are the names that IPFIX at an address gives its observation domain.
func namesAt(t *testing.T, h *nettest.Host, addr string, domain uint32) (names ipfix.Names) {
	t.Helper()
	conn, err := h.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var d ipfix.Decoder
	for names == (ipfix.Names{}) {
		msg := make([]byte, ipfix.HeaderSize)
		if _, err := io.ReadFull(conn, msg); err != nil {
			t.Fatal(err)
		}
		n, err := ipfix.Length(msg)
		if err != nil {
			t.Fatal(err)
		}
		msg = append(msg, make([]byte, n-len(msg))...)
		if _, err := io.ReadFull(conn, msg[ipfix.HeaderSize:]); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Decode(msg, nil); err != nil {
			t.Fatal(err)
		}
		names = d.Names(domain)
	}
	return names
}

// TestManyOfOneLabel: an interface that cannot be told from another's is named.
func TestManyOfOneLabel(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	link, err := b.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Netlink().LinkSetName(link, "x-eth0"); err != nil {
		t.Fatal(err)
	}
	first, second := named(t, a, "lab-x"), named(t, b, "lab")
	agent := launch(t, a, "-engine", "ring", "-netns", first, "-netns", second, "-i", "*eth0", "-m", "none")
	agent.await(first+"-eth0: listening on TCP port 7073;", 1)
	agent.await(fmt.Sprintf("is not watched: another one is called %q, too;", first+"-eth0"), 1)
	agent.stop()
}

// TestManyExported: many interfaces send to one collector, which tells them apart
// by their names. The table that the agent writes is its collector.conf.
func TestManyExported(t *testing.T) {
	t.Parallel()
	nettest.NeedTCX(t)
	hosts := nettest.Bridge(t, 3)
	host, n1, n2 := hosts[2], hosts[0], hosts[1]
	one, two := named(t, n1, "export-1"), named(t, n2, "export-2")
	conf := filepath.Join(t.TempDir(), "collector.conf")
	if err := os.WriteFile(conf, []byte("1=5001\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	agent := launch(t, host, "-netns", one, "-netns", two, "-i", "eth7,eth0", "-p", "0", "-export", "ipfix+tcp://127.0.0.1:4739", "-ports", conf)
	agent.await(one+"-eth0: capturing from now on", 1)
	agent.await(two+"-eth0: capturing from now on", 1)
	if want := fmt.Sprintf("1=5001\n%s-eth0:from://%s/eth0\n%s-eth0:from://%s/eth0\n", one, one, two, two); read(t, conf) != want {
		t.Errorf("the table is %q, want %q", read(t, conf), want)
	}
	out, said := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "said")
	c := host.Command(t.Context(), recollect(t), "-c", conf, "-lines", "-listen", "ipfix+tcp://127.0.0.1:4739")
	for path, to := range map[string]*io.Writer{out: &c.Stdout, said: &c.Stderr} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		*to = f
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	known := nettest.Eventually(20*time.Second, func() bool {
		text := read(t, said)
		return strings.Contains(text, one+"/eth0): sends from") && strings.Contains(text, two+"/eth0): sends from")
	})
	if !known {
		t.Fatalf("not both are known by name: %s\n%s", read(t, said), agent.said())
	}
	send(t, n1, 20, 1000, between(n1, n2))
	send(t, n2, 30, 1000, between(n2, n1))
	lines := func(label string) int { return strings.Count(read(t, out), ":"+label+"-eth0:1:") }
	nettest.Eventually(10*time.Second, func() bool { return lines(one) >= 20 && lines(two) >= 30 })
	c.Process.Signal(unix.SIGINT)
	c.Wait()
	if lines(one) != 20 || lines(two) != 30 || strings.Contains(read(t, out), ":other:1:") {
		t.Errorf("%d and %d lines, want 20 and 30:\n%s\n%s", lines(one), lines(two), read(t, out), read(t, said))
	}
	agent.stop()
}

func TestManyRefused(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-i", "eth*,["}, 13, "want names or patterns"},
		{[]string{"-i", ","}, 13, "want names or patterns"},
		{[]string{"-netns", ""}, 12, "want a name of ip-netns"},
		{[]string{"-netns", "a", "-f", "x.log"}, 12, "would write to one log"},
		{[]string{"-netns", "a", "-netns", "b", "-f", "%i.log"}, 12, "of several namespaces"},
		{[]string{"-netns", "a", "-stats"}, 12, "-stats is for one interface"},
		{[]string{"-netns", "a", "-check"}, 12, "-check are for one interface"},
		{[]string{"-netns", "a", "-export", "file:x.ipfix"}, 12, "would write to one file"},
		{[]string{"-ports", "x"}, 12, "-ports is for several interfaces"},
	} {
		bin, err := program()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin, x.args...)
		data, _ := cmd.CombinedOutput() // the code tells
		out, code := string(data), cmd.ProcessState.ExitCode()
		if code != x.code || !strings.Contains(out, x.says) || !strings.Contains(out, "hint:") {
			t.Errorf("%q: exit code %d, want %d, and %q:\n%s", x.args, code, x.code, x.says, out)
		}
	}
}

// TestManyChange: collectors that come right after others lose nothing, an
// interface that gets another name gets that name's port, and one that is made
// anew has its own again.
func TestManyChange(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"auto", "ring"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			testManyChange(t, engine)
		})
	}
}

func testManyChange(t *testing.T, engine string) {
	a, b := nettest.Pair(t)
	agent := launch(t, a, "-engine", engine, "-i", "eth*,x*", "-m", "none")
	agent.await("eth0: listening on TCP port 7073;", 1)
	taken, err := a.Listen("tcp", ":7075") // x1's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	attached := 0
	dial := func(port int) net.Conn {
		t.Helper()
		conn, err := a.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		attached++
		agent.await(": attached", attached)
		return conn
	}
	check := func(conn net.Conn) {
		t.Helper()
		send(t, b, 50, 5000, between(b, a))
		collect(t, conn, 50)
	}
	for range 5 {
		conn := dial(7073)
		check(conn)
		conn.Close()
	}
	old := dial(7073)
	link, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkSetName(link, "x0"); err != nil {
		t.Fatal(err)
	}
	agent.await("x0: listening on TCP port 7074;", 1)
	check(dial(7074))
	agent.await("eth0: gone; port 7073 stays its own", 1)
	old.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := old.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the collector of a name that is gone: %v", err)
	}
	check(dial(7074))

	for round := range 3 {
		cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "x1"}, PeerName: "y1"}
		if err := a.Netlink().LinkAdd(cable); err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr("10.78.0.1/24")
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Netlink().AddrAdd(cable, addr); err != nil {
			t.Fatal(err)
		}
		if err := a.Netlink().LinkSetUp(cable); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			agent.await("x1: cannot listen on port 7075", 1)
			taken.Close()
		}
		agent.await("x1: listening on TCP port 7075;", round+1)
		dial(7075)
		if err := a.Netlink().LinkDel(cable); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(agent.said(), "trying again") != strings.Count(agent.said(), "cannot listen on port 7075") {
		t.Errorf("something failed:\n%s", agent.said())
	}
	agent.stop()
}

// coreNode is a node as CORE makes it: vnoded in namespaces of its own, which end with
// it, and a cable from the host to it.
func coreNode(t *testing.T, host *nettest.Host, session, name string, number int) (unplug, kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Args = []string{"/usr/local/bin/vnoded", "-v", "-c", filepath.Join(session, name)}
	cmd.Env = append(os.Environ(), vnodedEnv+"=1")
	if _, err := cmd.StdinPipe(); err != nil { // never closed
		t.Fatal(err)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	kill = func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	t.Cleanup(kill)
	pid, peer := fmt.Sprint(cmd.Process.Pid), fmt.Sprintf("v%d", number)
	for _, args := range [][]string{
		{"ip", "link", "add", peer, "type", "veth", "peer", "name", "eth0", "netns", pid},
		{"ip", "link", "set", peer, "up"},
		{"nsenter", "-t", pid, "-n", "ip", "address", "add", fmt.Sprintf("10.66.%d.1/24", number), "dev", "eth0"},
		{"nsenter", "-t", pid, "-n", "ip", "link", "set", "eth0", "up"},
	} {
		if out, err := host.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	unplug = func() { host.Command(t.Context(), "ip", "link", "del", peer).Run() }
	return unplug, kill
}

// TestManyVanish: nodes that go away, with their cable before or after them, with a
// collector or without, or before their agents are there, are no reason to complain.
func TestManyVanish(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"auto", "ring"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "auto" {
				nettest.NeedTCX(t)
			}
			holdNodes(t)
			host, _ := nettest.Pair(t)
			session := filepath.Join(t.TempDir(), "pycore.1")
			a := launch(t, host, "-engine", engine, "-netns", "all-core", "-m", "none")
			for round := range 4 {
				unplug, kill := coreNode(t, host, session, "n1", round)
				a.await("n1-eth0: listening on TCP port 7073;", round+1)
				if round%2 == 0 {
					conn, err := host.Dial("tcp", "127.0.0.1:7073")
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					a.await(": attached", round/2+1)
				}
				if round < 2 {
					unplug() // as CORE does, which takes its time
					a.await("n1-eth0: gone", round+1)
				}
				kill()
				a.await("n1-eth0: gone; port 7073 stays its own", round+1)
			}
			var ending sync.WaitGroup
			for i := range 20 { // found or not, ready or not
				unplug, kill := coreNode(t, host, session, fmt.Sprintf("n%d", 2+i), 10+i)
				ending.Go(func() {
					time.Sleep(time.Duration(i/2) * 120 * time.Millisecond)
					if i%2 == 0 {
						unplug()
					}
					kill()
				})
			}
			ending.Wait()
			time.Sleep(3 * time.Second)
			said := a.said()
			a.stop()
			fine := regexp.MustCompile(`(?m)^pcapper: (watching .*|engine: .*|drops: .*|n\d+-eth0: (listening on .*|gone; port \d+ stays its own|collector .*|summary: .*|log: off.*))\n`)
			if rest := fine.ReplaceAllString(said, ""); rest != "" {
				t.Errorf("said when nodes went away:\n%s", rest)
			}
		})
	}
}
