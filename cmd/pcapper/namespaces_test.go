//go:build !libpcap

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"golang.org/x/sys/unix"
)

// box is a network namespace as a user would make it.
type box struct {
	tool   string // what makes it
	name   string // what it is to be called; # stands for its number
	anew   bool   // it has another name when it is made again
	create func(t *testing.T) (handle string, end func())
}

// boxes are those that this host can make: not everyone has Podman, and not every kernel is to its
// taste.
func boxes(t *testing.T) []box {
	id := fmt.Sprint(os.Getpid())
	root := emptyRoot(t)
	list := []box{
		{"ip", "named" + id, false, func(t *testing.T) (string, func()) {
			mustRun(t, "ip", "netns", "add", "named"+id)
			return "named" + id, func() { exec.Command("ip", "netns", "del", "named"+id).Run() }
		}},
		{"unshare", "sleep-#", true, func(t *testing.T) (string, func()) {
			return inside(t, "unshare", "--net", "sleep", "infinity")
		}},
		{"bwrap", "bubble" + id, false, func(t *testing.T) (string, func()) {
			return inside(t, "bwrap", "--ro-bind", "/", "/", "--unshare-net", "--unshare-uts", "--unshare-pid",
				"--hostname", "bubble"+id, "sleep", "infinity")
		}},
		{"systemd-nspawn", "machine" + id, false, func(t *testing.T) (string, func()) {
			return inside(t, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--machine=machine"+id,
				"--directory="+root, "--bind-ro=/usr", "sleep", "infinity")
		}},
	}
	args := []string{"--root", filepath.Join(root, "var/storage"), "--runroot", filepath.Join(root, "run/storage"), "--storage-driver", "vfs",
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"}
	podman := func(more ...string) ([]byte, error) {
		return exec.Command("podman", append(args, more...)...).CombinedOutput()
	}
	name := "podman" + id
	remove := func() { podman("rm", "--force", "--time", "0", name) }
	start := func() ([]byte, error) {
		return podman("run", "--detach", "--name", name, "--network", "none", "--volume", "/usr:/usr:ro",
			"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--rootfs", root, "sleep", "infinity")
	}
	out, err := start()
	remove()
	if err != nil {
		t.Logf("without Podman, which runs no container here: %v: %s", err, out)
		return list
	}
	return append(list, box{"podman", name, false, func(t *testing.T) (string, func()) {
		if out, err := start(); err != nil {
			t.Fatalf("podman: %v: %s", err, out)
		}
		pid, err := podman("inspect", "--format", "{{.State.Pid}}", name)
		if err != nil {
			remove()
			t.Fatalf("podman: %v: %s", err, pid)
		}
		return strings.TrimSpace(string(pid)), remove
	}})
}

// emptyRoot is a root directory that becomes a system when /usr is mounted in it.
func emptyRoot(t *testing.T) string {
	root := t.TempDir()
	for _, dir := range []string{"usr", "etc", "proc", "sys", "dev", "run", "tmp", "var", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "lib", "lib64", "sbin"} {
		if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/os-release"), []byte("ID=test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// inside starts a program and returns the number of the process that sleeps in a
// network namespace of its own.
func inside(t *testing.T, name string, args ...string) (pid string, end func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	said := &safeBuffer{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = said, said, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		if p, err := strconv.Atoi(pid); err == nil {
			unix.Kill(p, unix.SIGKILL)
		}
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	}
	own, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(20*time.Second, func() bool {
		children := []string{fmt.Sprint(cmd.Process.Pid)}
		for len(children) > 0 {
			p := children[0]
			children = children[1:]
			comm, _ := os.ReadFile("/proc/" + p + "/comm")
			if ns, err := os.Readlink("/proc/" + p + "/ns/net"); err == nil && ns != own && string(comm) == "sleep\n" {
				pid = p
				return true
			}
			more, _ := os.ReadFile("/proc/" + p + "/task/" + p + "/children")
			children = append(children, strings.Fields(string(more))...)
		}
		return false
	})
	if pid == "" {
		end()
		t.Fatalf("%s starts nothing in a network namespace: %s", name, said.String())
	}
	return pid, end
}

// cableTo lays a cable from the host to an interface pcx0 of the namespace.
func cableTo(t *testing.T, host *nettest.Host, tool, handle, cable string) {
	t.Helper()
	enter := []string{"nsenter", "--target", handle, "--net"}
	if tool == "ip" {
		enter = []string{"ip", "netns", "exec", handle}
	}
	host.Command(t.Context(), "ip", "link", "del", cable).Run() // an earlier one, unless it has gone with its namespace
	for _, args := range [][]string{
		{"ip", "link", "add", cable, "type", "veth", "peer", "name", "pcx0", "netns", handle},
		{"ip", "link", "set", cable, "up"},
		append(enter, "sysctl", "-q", "net.ipv6.conf.pcx0.disable_ipv6=1"), // it says nothing
		append(enter, "ip", "link", "set", "pcx0", "up"),
	} {
		if out, err := host.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
}

// TestAllNamespaces: -netns all finds namespaces whoever made them, calls each by a name that means
// something, and by the same one on the same port after the agent or what is in
// them was started again.
func TestAllNamespaces(t *testing.T) {
	host, peer := nettest.Pair(t)
	ports := filepath.Join(t.TempDir(), "collector.conf")
	list := boxes(t)
	handles, ends := make([]string, len(list)), make([]func(), len(list))
	cable := func(i int) string { return fmt.Sprintf("cable%d", i) }
	create := func() {
		for i, b := range list {
			handles[i], ends[i] = b.create(t)
			t.Cleanup(ends[i])
			cableTo(t, host, b.tool, handles[i], cable(i))
		}
	}
	// name is what the box is to be called.
	name := func(i int) string {
		if link, err := os.Readlink("/proc/" + handles[i] + "/ns/net"); err == nil {
			return strings.ReplaceAll(list[i].name, "#", strings.Trim(link, "net:[]"))
		}
		return list[i].name
	}
	// listens waits for the agent to find the box, time after time, and returns its port.
	listens := func(a *agentProcess, i, times int) (port int) {
		t.Helper()
		text := name(i) + "-pcx0: listening on TCP port "
		a.await(text, times)
		said := a.said()
		fmt.Sscanf(said[strings.LastIndex(said, text)+len(text):], "%d;", &port)
		return port
	}
	receives := func(a *agentProcess, i, port int) {
		t.Helper()
		attached := strings.Count(a.said(), ": attached")
		conn, err := host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		a.await(": attached", attached+1)
		var g *nettest.Generator
		host.Do(func() { g, err = nettest.NewGenerator(cable(i), [][]byte{between(peer, host)}) })
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if n, _, err := g.Send(t.Context(), 10+i, 1000); n != 10+i || err != nil {
			t.Fatalf("sent %d of %d: %v", n, 10+i, err)
		}
		for _, r := range collect(t, conn, 10+i) {
			if r.SrcAddr() != peer.Interface.IPv4 || r.DstPort != 5001 {
				t.Fatalf("%s: got %v", name(i), r)
			}
		}
	}
	start := func() *agentProcess {
		return launch(t, host, "-engine", "ring", "-netns", "all", "-i", "pcx*", "-m", "none", "-ports", ports)
	}

	create()
	a := start()
	first := make([]int, len(list))
	for i := range list {
		first[i] = listens(a, i, 1)
		receives(a, i, first[i])
	}
	a.stop()

	a = start() // the agent is started again
	for i := range list {
		if port := listens(a, i, 1); port != first[i] {
			t.Errorf("after a restart of the agent, %s is on port %d, want %d", name(i), port, first[i])
		}
		receives(a, i, first[i])
	}

	for _, end := range ends { // and what is watched
		end()
	}
	a.await("-pcx0: gone; port", len(list))
	create()
	for i, b := range list {
		times := 2
		if b.anew {
			times = 1
		}
		port := listens(a, i, times)
		if (port == first[i]) == b.anew {
			t.Errorf("made again, %s is on port %d, was on %d", name(i), port, first[i])
		}
		receives(a, i, port)
	}
	a.stop()
}
