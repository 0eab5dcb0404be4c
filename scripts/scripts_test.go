// Package scripts holds no code: its tests run the scripts of this directory.
package scripts

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// workspace is a directory with both programs in bin, as after make build but
// without the page.
var workspace = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "scripts")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "bin")+"/", "./cmd/pcapper", "./cmd/recollect")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	// Scripts get the default action then, also where SIGHUP is ignored (nohup).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	code := m.Run()
	if dir, _ := workspace(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// TestDemosAreSafe starts what `make run` and `make lab` start, and asks the
// kernel who could connect: on the host only this host; in the lab's hosts
// the feed is on the lab's network, and lets in the collector alone.
func TestDemosAreSafe(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, for network namespaces")
	}
	for _, demo := range []struct {
		script   string
		agents   int
		addr     string // what the agents listen on
		onlyFrom string // whom they let in
	}{
		{"run", 1, "127.0.0.1", "127.0.0.1"},
		{"lab", 3, "10.99.0.", "10.99.0.254"},
	} {
		t.Run(demo.script, func(t *testing.T) {
			t.Parallel()
			pids := startDemo(t, demo.script, demo.agents)
			for _, pid := range pids["pcapper"] {
				for _, at := range listening(t, pid) {
					if !at.Addr().IsLoopback() && !strings.HasPrefix(at.Addr().String(), demo.addr) {
						t.Errorf("an agent listens on %v", at)
					}
				}
				args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				if demo.script == "lab" && !bytes.Contains(args, []byte("\x00-allow\x00"+demo.onlyFrom+"\x00")) {
					t.Errorf("an agent lets in others than the collector: %q", args)
				}
			}
			var page []netip.AddrPort
			eventually(t, "there is a page at 127.0.0.1:7080", func() bool {
				page = listening(t, pids["recollect"][0])
				return slices.Contains(page, netip.MustParseAddrPort("127.0.0.1:7080"))
			})
			for _, at := range page {
				if !at.Addr().IsLoopback() {
					t.Errorf("beside the collector something listens on %v", at)
				}
			}
		})
	}
}

// startDemo runs a script in a network of its own until the test ends. It
// returns the process IDs of the agents and of the collector, which listen.
func startDemo(t *testing.T, script string, agents int) map[string][]int {
	t.Helper()
	dir, err := workspace()
	if err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--net", "sh", "-c",
		"mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec "+path+" </dev/null")
	cmd.Dir = dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Errorf("stopped, %s runs on:\n%s", script, out.String())
		}
	})
	for range 150 {
		found := descendants(cmd.Process.Pid)
		ready := len(found["pcapper"]) == agents && len(found["recollect"]) == 1
		for _, pids := range found {
			for _, pid := range pids {
				ready = ready && len(listening(t, pid)) > 0
			}
		}
		if ready {
			return found
		}
		select {
		case err := <-done:
			done <- err
			t.Fatalf("%s ended: %v\n%s", script, err, out.String())
		case <-time.After(200 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not get ready", script)
	return nil
}

// descendants returns the IDs of the two programs' processes that are pid or below it,
// by the program's name.
func descendants(pid int) map[string][]int {
	found := map[string][]int{}
	for _, pid := range append(below(pid), pid) {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if c := strings.TrimSpace(string(comm)); c == "pcapper" || c == "recollect" {
			found[c] = append(found[c], pid)
		}
	}
	return found
}

// listening returns the addresses of all listening TCP sockets in the network
// namespace of the process pid.
func listening(t *testing.T, pid int) (list []netip.AddrPort) {
	t.Helper()
	for _, file := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" { // TCP_LISTEN
				continue
			}
			hexAddr, hexPort, _ := strings.Cut(f[1], ":")
			b, err := hex.DecodeString(hexAddr)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+4 <= len(b); i += 4 { // words of this machine's byte order
				slices.Reverse(b[i : i+4])
			}
			addr, _ := netip.AddrFromSlice(net.IP(b))
			port, _ := strconv.ParseUint(hexPort, 16, 16)
			list = append(list, netip.AddrPortFrom(addr.Unmap(), uint16(port)))
		}
	}
	return list
}

// TestCheckGo: a Go that cannot parse go.mod is named before it is asked to,
// and one that can fetch a newer one is let through.
func TestCheckGo(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(mod)
	if wanted == nil {
		t.Fatal("no version in go.mod")
	}
	want := string(wanted[1])
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "Go "+want+" or newer") {
		t.Errorf("README.md does not say that Go %s is needed", want)
	}
	for _, test := range []struct{ version, toolchain, say string }{
		{"go1.19.8", "", "is Go 1.19.8"},
		{"go1.20", "", "is Go 1.20"},
		{"go1.24.4", "auto", ""},
		{"go1.24.4", "local", "GOTOOLCHAIN keeps it"},
		{"go" + want, "local", ""},
		{"go1.100.0", "local", ""},
		{"devel go1.27-abcdef Tue Jul 1 2026", "local", ""},
	} {
		// Answers as go env does.
		stub := filepath.Join(t.TempDir(), "go")
		script := fmt.Sprintf("#!/bin/sh\n[ ! -e go.mod ] || exit 1\ncase $2 in GOVERSION) echo '%s' ;; GOTOOLCHAIN) echo '%s' ;; esac\n", test.version, test.toolchain)
		if err := os.WriteFile(stub, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("./check-go", stub).CombinedOutput()
		if (err == nil) != (test.say == "") || !strings.Contains(string(out), test.say) {
			t.Errorf("%+v: %v, %s", test, err, out)
		}
		if err != nil && !strings.Contains(string(out), "https://go.dev/dl/go"+want) {
			t.Errorf("%+v: it does not say where Go is:\n%s", test, out)
		}
	}
	out, err := exec.Command("./check-go", "/nonexistent/go").CombinedOutput()
	if err == nil || !strings.Contains(string(out), `there is no command "/nonexistent/go"`) {
		t.Errorf("without Go: %v, %s", err, out)
	}
}

// TestVersion: versions of development sort by day, before the release, as
// dpkg and rpm see it.
func TestVersion(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, err := os.ReadFile("version")
	if err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, "scripts"), 0o755)
	for name, data := range map[string][]byte{"scripts/version": script, "VERSION": []byte("0.2.0\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	version := func() string {
		t.Helper()
		cmd := exec.Command("scripts/version")
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	git := func(date string, args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_COMMITTER_DATE="+date, "GIT_AUTHOR_DATE="+date)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if got := version(); got != "0.2.0" {
		t.Errorf("outside a repository: %q", got)
	}
	git("", "init", "-q")
	git("", "add", ".")
	git("2026-12-01T23:30:00-0500", "commit", "-qm", "one") // 2 December in UTC
	first := version()
	if !regexp.MustCompile(`^0\.2\.0~git20261202\.[0-9a-f]{7}$`).MatchString(first) {
		t.Errorf("the first commit: %q", first)
	}
	git("2026-12-10T12:00:00Z", "commit", "-q", "--allow-empty", "-m", "two")
	second := version()
	os.WriteFile(filepath.Join(dir, "VERSION"), []byte("0.2.0\n\n"), 0o644)
	dirty := version()
	git("", "checkout", "-q", "VERSION")
	git("2026-12-10T12:00:00Z", "tag", "-am", "release", "v0.2.0")
	release := version()
	if release != "0.2.0" || dirty != second+".dirty" {
		t.Errorf("the release is %q, changed %q", release, dirty)
	}
	list := []string{"0.1.0", first, second, dirty, release, "0.2.1~git20270101.0000000"}
	for i := 1; i < len(list); i++ {
		if err := exec.Command("dpkg", "--compare-versions", list[i-1], "lt", list[i]).Run(); err != nil {
			t.Errorf("dpkg: %s does not sort before %s: %v", list[i-1], list[i], err)
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	// Another user's clone, which git would not describe by itself.
	os.Chown(dir, 65534, 65534)
	os.Chown(filepath.Join(dir, ".git"), 65534, 65534)
	if got := version(); got != release {
		t.Errorf("in another user's clone: %q", got)
	}
}

// TestNeedWaits: while another program installs packages, need waits for it,
// whichever of apt's locks it holds.
func TestNeedWaits(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to install a package")
	}
	script, err := os.Open("need")
	if err != nil {
		t.Fatal(err)
	}
	defer script.Close()
	root := overlay(t)
	const held = 3 * time.Second
	lock := func(name string) *os.File {
		file, err := os.OpenFile(filepath.Join(root, name), os.O_RDWR|os.O_CREATE, 0o640)
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
			t.Fatal(err)
		}
		return file
	}
	lists, archives, dpkg := lock("var/lib/apt/lists/lock"), lock("var/cache/apt/archives/lock"), lock("var/lib/dpkg/lock-frontend")
	time.AfterFunc(held, func() { lists.Close() })
	cmd := exec.Command("chroot", root, "sh", "-s", "--", "hello:hello")
	cmd.Stdin = script
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	var installing time.Time
	for lines := bufio.NewScanner(said); lines.Scan(); {
		fmt.Fprintln(&out, lines.Text())
		if strings.HasPrefix(lines.Text(), "installing:") {
			installing = time.Now()
			time.AfterFunc(held, func() { dpkg.Close() })
			time.AfterFunc(2*held, func() { archives.Close() })
		}
	}
	if err := cmd.Wait(); err != nil || installing.IsZero() || installing.Sub(start) < held || time.Since(installing) < 2*held {
		t.Errorf("%v after %v, of them %v installing\n%s", err, time.Since(start), time.Since(installing), out.String())
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/hello")); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

// overlay returns a directory with this host's files; what is done to them is
// gone after the test.
func overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	root := filepath.Join(dir, "root")
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(root, syscall.MNT_DETACH) })
	for _, name := range []string{"proc", "dev"} {
		if err := syscall.Mount("/"+name, filepath.Join(root, name), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(filepath.Join(root, name), syscall.MNT_DETACH) })
	}
	return root
}
