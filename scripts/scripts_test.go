// Package scripts holds no code: its tests run the scripts of this directory.
package scripts

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
			page := listening(t, pids["recollect"][0])
			if !slices.Contains(page, netip.MustParseAddrPort("127.0.0.1:7080")) {
				t.Errorf("no page at 127.0.0.1:7080, but %v", page)
			}
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

// descendants returns the IDs of the two programs' processes in the process
// group pgid, by the program's name.
func descendants(pgid int) map[string][]int {
	found := map[string][]int{}
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		if g, err := syscall.Getpgid(pid); err != nil || g != pgid {
			continue
		}
		comm, _ := os.ReadFile(name)
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
