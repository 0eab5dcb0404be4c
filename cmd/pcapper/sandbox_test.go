//go:build !libpcap

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/vishvananda/netlink"
)

// staticProgram is built as users get it: without cgo, which the race detector
// brings in, and which cannot confine itself.
var staticProgram = sync.OnceValues(func() (string, error) {
	bin, err := program()
	if err != nil {
		return "", err
	}
	bin += "-static"
	cmd := exec.Command("go", "build", "-o", bin)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, nil
})

// startStatic starts the static program; its log's directory is open to all.
func startStatic(t *testing.T, host *nettest.Host, args ...string) *agentProcess {
	t.Helper()
	bin, err := staticProgram()
	if err != nil {
		t.Fatal(err)
	}
	p := launchProgram(t, host, bin, args...)
	p.await("open to anyone", 1)
	return p
}

// rights are lines of /proc/PID/status, the same for all its threads.
func rights(t *testing.T, pid int) map[string]string {
	t.Helper()
	all := map[string]string{}
	list, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, name := range list {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // that thread has ended
		}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "Uid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp":
				if before, there := all[key]; there && before != value {
					t.Errorf("%s of %s is %s, of another thread %s", key, name, value, before)
				}
				all[key] = value
			}
		}
	}
	return all
}

// TestConfined: an agent of root ends up as nobody with its engine's
// capabilities, and does everything as before.
func TestConfined(t *testing.T) {
	t.Parallel()
	for engine, caps := range map[string]string{"ring": "0000000000002000", "auto": ""} {
		t.Run(engine, func(t *testing.T) {
			a, b := nettest.Pair(t)
			logs, err := os.MkdirTemp("", "pcapper-logs")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(logs)
			os.Chmod(logs, 0o777)
			log := filepath.Join(logs, "log")
			p := startStatic(t, a, "-v", "-engine", engine, "-f", log, "-m", "udp and src host %i", "-metrics", metricsAddr, "-stats")
			p.await("system calls allowed", 1) // the last that -v says
			for _, want := range []string{"no_new_privs: yes", "user: nobody", "landlock: version", "writes in " + logs + " only", "system calls allowed"} {
				if !strings.Contains(p.said(), want) {
					t.Errorf("does not say %q:\n%s", want, p.said())
				}
			}
			r := rights(t, p.pid())
			if strings.Contains(p.said(), "engine: ebpf") {
				caps = "000000c000003000"
			}
			if !strings.HasPrefix(r["Uid"], "65534\t65534") || r["NoNewPrivs"] != "1" || r["Seccomp"] != "2" || caps != "" && r["CapPrm"] != caps || r["CapBnd"] != r["CapPrm"] {
				t.Errorf("%v, want the capabilities %s", r, caps)
			}
			for i := range 3 { // captures begin and end
				c := p.dial(a, "bulk\n")
				send(t, a, 100, 10_000, oneFrame(a, b))
				for n := 0; n < 100; {
					// Host statistics may be among them.
					if rec := collectSome(t, c, 1)[0]; rec.DstPort == 2000 {
						n++
					} else if rec.Stat() == 0 {
						t.Errorf("round %d: after %d records: %+v", i, n, rec)
					}
				}
				c.Close()
				p.await(": detached", i+1)
			}
			// The log is opened again, in its directory.
			p.rotate(log, log+".1")
			p.await("reopening the log", 1)
			c := p.dial(a, "bulk\n")
			// A new address compiles the filter again, by tcpdump.
			l, err := a.Netlink().LinkByName("eth0")
			if err != nil {
				t.Fatal(err)
			}
			old, _ := netlink.ParseAddr("10.77.0.1/24")
			addr, _ := netlink.ParseAddr("10.77.0.77/24")
			if err := a.Netlink().AddrDel(l, old); err != nil {
				t.Fatal(err)
			}
			if err := a.Netlink().AddrAdd(l, addr); err != nil {
				t.Fatal(err)
			}
			p.await("filter is now: udp and src host 10.77.0.77", 1)
			if m := p.scrape(metricsAddr); m["process_open_fds"] == 0 || m["process_resident_memory_bytes"] == 0 {
				t.Errorf("no figures of the process: %v", m)
			}
			moved := nettest.Between(a, b, 1000, 2000, nil)
			moved.Src = netip.MustParseAddrPort("10.77.0.77:1000")
			send(t, a, 10, 1000, moved.Ethernet())
			if !nettest.Eventually(20*time.Second, func() bool { _, err := os.Stat(log); return err == nil }) {
				t.Error("there is no new log")
			}
			c.Close()
			p.stop()
			if strings.Contains(p.said(), "permission denied") || strings.Contains(p.said(), "not permitted") {
				t.Errorf("something was denied:\n%s", p.said())
			}
		})
	}
}

// TestConfinedCheck: -check tries it all, and says what it could do.
func TestConfinedCheck(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	bin, err := staticProgram()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		says []string
	}{
		{"-check -f /dev/null", 0, []string{"user: nobody", "writes nowhere", "all is well"}},
		{"-check -f /dev/null -user root", 0, []string{"user: root without its capabilities: as asked", "all is well"}},
		{"-check -unconfined", 0, []string{"confined: no, as asked", "all is well"}},
		{"-check -f /dev/null -user no-such", 10, []string{`no user "no-such"`, "hint: -user selects another user"}},
		{"-check -f /root/log -user nobody", 10, []string{"user nobody may not write in /root"}},
		{"-check -f /root/log", 0, []string{"user: root without its capabilities: user nobody may not write in /root", "all is well"}},
	} {
		p := launchProgram(t, a, bin, strings.Fields(tt.args)...)
		if code := p.wait(); code != tt.code {
			t.Errorf("%s: exit code %d, want %d:\n%s", tt.args, code, tt.code, p.said())
		}
		for _, want := range tt.says {
			if !strings.Contains(p.said(), want) {
				t.Errorf("%s: does not say %q:\n%s", tt.args, want, p.said())
			}
		}
	}
}
