package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeProc is a /proc for a census.
type fakeProc struct {
	t    *testing.T
	root string
}

func (p fakeProc) write(text string, path ...string) {
	p.t.Helper()
	name := filepath.Join(append([]string{p.root}, path...)...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// process is one that began so many seconds after the host.
func (p fakeProc) process(pid, parent, began, ns int, cgroup string, args ...string) {
	p.t.Helper()
	dir := fmt.Sprint(pid)
	p.write(fmt.Sprintf("%d (%s) S %d %s%d 0\n", pid, filepath.Base(args[0]), parent, strings.Repeat("0 ", 17), began*100), dir, "stat")
	p.write(strings.Join(args, "\x00")+"\x00", dir, "cmdline")
	p.write("3:cpu:/\n0::"+cgroup+"\n", dir, "cgroup")
	p.link(ns, dir, "ns/net")
}

func (p fakeProc) link(ns int, path ...string) {
	p.t.Helper()
	name := filepath.Join(append([]string{p.root}, path...)...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("net:[%d]", ns), name); err != nil {
		p.t.Fatal(err)
	}
}

// TestCensus: each namespace is found once, and is called the same whatever is found with it.
func TestCensus(t *testing.T) {
	p := fakeProc{t, t.TempDir()}
	docker := t.TempDir()
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("fedcba9876543210", 4)
	fakeProc{t, docker}.write(`{"ID":"`+id+`","Name":"/web","State":{"Pid":41}}`, id, "config.v2.json")
	p.write("1000.50 100.0\n", "uptime")
	p.link(1, "thread-self/ns/net")
	p.write(strings.Join([]string{
		`22 1 0:20 / /proc rw - proc proc rw`,
		`30 1 0:4 net:[20] /run/netns/blue\040green rw shared:9 - nsfs nsfs rw`,
		`31 1 0:4 net:[20] /run/alias rw shared:9 - nsfs nsfs rw`,
		`32 1 0:4 net:[21] /run/netns/cni-01234567-89ab-cdef-0123-456789abcdef rw - nsfs nsfs rw`,
		`33 1 0:4 net:[22] /run/docker/netns/0123456789ab rw - nsfs nsfs rw`,
		`34 1 0:4 net:[23] /run/docker/netns/ingress_sbox rw - nsfs nsfs rw`,
		`35 1 0:4 net:[1] /run/docker/netns/default rw - nsfs nsfs rw`,
		`36 1 0:4 mnt:[99] /run/snapd/ns/lxd.mnt rw - nsfs nsfs rw`,
	}, "\n")+"\n", "thread-self/mountinfo")
	p.process(1, 0, 0, 1, "/init.scope", "/sbin/init")
	p.process(40, 1, 50, 1, "/system.slice/containerd.service", "/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", id, "-address", "x")
	p.process(41, 40, 51, 22, "/system.slice/docker-"+id+".scope", "nginx")
	p.process(42, 41, 52, 22, "/system.slice/docker-"+id+".scope", "worker")
	p.process(43, 1, 50, 1, "/", "/usr/bin/containerd-shim-runc-v2", "-id", other)
	p.process(44, 43, 51, 30, "/", "unknown")
	p.process(45, 1, 50, 1, "/", "/usr/bin/conmon", "--api-version", "1", "-c", other, "-n", "db", "--exit-dir", "/x")
	p.process(46, 45, 53, 21, "/", "postgres")
	p.process(50, 1, 60, 31, "/system.slice/private@1.service", "private")
	p.process(60, 1, 70, 32, "/user.slice/session-1.scope", "sleep")
	p.process(61, 1, 10, 32, "/user.slice/session-1.scope", "b:a/d\n") // is there for longer
	p.process(70, 1, 80, 33, "/", "/usr/bin/vnoded", "-c", "/tmp/pycore.1/n1")
	p.process(80, 1, 1000, 34, "/", "unshare") // has only begun
	p.process(90, 1, 90, 35, "/system.slice/private@1.service", "private")
	c := &census{proc: p.root, docker: docker}
	names := func() (list []string) {
		for _, n := range c.find() {
			list = append(list, n.id())
		}
		return list
	}
	want := []string{"", "1.n1", "blue_green", "d_-32", "db", "fedcba987654", "ingress_sbox", "private@1", "private@1-35", "web"}
	if got := names(); !slices.Equal(got, want) {
		t.Fatalf("nodes %q, want %q", got, want)
	}
	// What goes leaves the other names as they are, and what was too young is found.
	for _, pid := range []string{"50", "61"} {
		if err := os.RemoveAll(filepath.Join(p.root, pid)); err != nil {
			t.Fatal(err)
		}
	}
	p.write("1001.60 100.0\n", "uptime")
	want = []string{"", "1.n1", "blue_green", "d_-32", "db", "fedcba987654", "ingress_sbox", "private@1-35", "unshare-34", "web"}
	if got := names(); !slices.Equal(got, want) {
		t.Fatalf("later, nodes %q, want %q", got, want)
	}
}

// TestPlainNames: who chooses a name inside a namespace writes no lines and no paths outside.
func TestPlainNames(t *testing.T) {
	for name, want := range map[string]string{
		"web-1": "web-1", "a:10.0.0.1:7073\n1=5001": "a_10.0.0.1_7073_1_5001", "../../etc/x": "_.._etc_x", "..": "", "\x1b[2J": "__2J", "é": "_",
	} {
		if got := plain(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
