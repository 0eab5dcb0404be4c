package scripts

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// below are the processes that a process has started, and theirs.
func below(pid int) (list []int) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, name := range threads {
		data, _ := os.ReadFile(name) // it may have ended
		for _, f := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				list = append(append(list, child), below(child)...)
			}
		}
	}
	return list
}

// describe says what a process is doing, for the report of a test that fails.
func describe(pid int) string {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return fmt.Sprintf("process %d: gone", pid)
	}
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	wchan, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	var lines []string
	for line := range strings.Lines(string(status)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "State", "PPid", "NSsid", "NSpgid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt":
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return fmt.Sprintf("process %d: %q in %s: %s", pid, args, wchan, strings.Join(lines, ", "))
}

// ends sends a signal to a script, and expects that it ends with this exit code and that
// none of its processes is left.
func ends(t *testing.T, cmd *exec.Cmd, s syscall.Signal, code int) {
	t.Helper()
	all := below(cmd.Process.Pid)
	if len(all) == 0 {
		t.Error("it runs nothing")
	}
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		for _, pid := range append(all, cmd.Process.Pid) {
			t.Log(describe(pid))
		}
		cmd.Process.Kill()
		t.Fatalf("%v does not end it", s)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("%v: exit code %d, want %d", s, got, code)
	}
	for _, pid := range all {
		eventually(t, fmt.Sprintf("process %d has ended after %v", pid, s), func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	}
}

// writeScript writes a program. The kernel runs none that is open for writing, also in
// a process that another test is about to start: none is started meanwhile.
func writeScript(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "script")
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// inGroup is the environment of what a script runs that in_group has started again,
// as scripts/test runs these tests.
func inGroup(t *testing.T, signals string) []string {
	t.Helper()
	out, err := exec.Command(writeScript(t, "#!/bin/sh\nset -eu\n. "+signals+"\nin_group \"$0\"\nenv -0\n")).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// TestSignals: a signal to a script ends what it runs, and its EXIT trap is run.
func TestSignals(t *testing.T) {
	t.Parallel()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	env := inGroup(t, here+"/signals")
	for name, text := range map[string]string{
		"group":    "trap 'echo ended' EXIT\nsupervise setsid sh -c 'sleep 600; :' || exit $?\n",
		"exec":     "trap 'echo ended' EXIT\nsupervise sleep 600 || exit $?\n",
		"in_group": "in_group \"$0\"\ntrap 'echo ended' EXIT\nsh -c 'sh -c \"sleep 600; :\"; :' | cat\n",
	} {
		for s, code := range map[syscall.Signal]int{syscall.SIGTERM: 143, syscall.SIGHUP: 143, syscall.SIGINT: 143} {
			t.Run(fmt.Sprintf("%s, %v", name, s), func(t *testing.T) {
				t.Parallel()
				testSignal(t, "#!/bin/sh\nset -eu\n. "+here+"/signals\n"+text, env, s, code)
			})
		}
	}
	// The command's exit code and input are the script's.
	cmd := exec.Command("sh", "-euc", ". "+here+"/signals; supervise sh -c 'read line; exit $line' || exit $?")
	cmd.Stdin = strings.NewReader("7\n")
	if cmd.Run(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d, want 7", cmd.ProcessState.ExitCode())
	}
}

// testSignal sends a signal to a script when that has run sleep(1).
func testSignal(t *testing.T, text string, env []string, s syscall.Signal, code int) {
	cmd := exec.Command(writeScript(t, text))
	cmd.Env = env
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it sleeps", func() bool {
		for _, pid := range below(cmd.Process.Pid) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "sleep\n" {
				return true
			}
		}
		return false
	})
	ends(t, cmd, s, code)
	if !strings.HasSuffix(out.String(), "ended\n") {
		t.Errorf("the EXIT trap has not run: %q", &out)
	}
}

// TestLabEnds: the laboratory, and a host's own view, leave nothing behind when they get a signal.
func TestLabEnds(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces take root")
	}
	dir, err := workspace()
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	namespaces := func() string {
		out, _ := exec.Command("ip", "netns", "list").Output()
		return string(out)
	}
	for script, last := range map[string]string{"lab": "recollect\n", "run": "pcapper\n"} { // what it starts last
		tmp := t.TempDir()
		cmd := exec.Command(filepath.Join(here, script))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "HTTP=127.0.0.1:0", "IFACE=lo")
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if text, _ := os.ReadFile(out.Name()); t.Failed() {
				t.Logf("%s said:\n%s", script, text)
			}
			for _, pid := range append(below(cmd.Process.Pid), cmd.Process.Pid) {
				if cmd.ProcessState == nil {
					syscall.Kill(pid, syscall.SIGTERM)
				}
			}
			if t.Failed() { // what is left of it would be in the next lab's way
				_ = exec.Command("ip", "link", "del", fmt.Sprintf("lab%d", cmd.Process.Pid)).Run()
				for n := range 4 {
					_ = exec.Command("ip", "netns", "del", fmt.Sprintf("pcapper-lab-%d-%d", cmd.Process.Pid, n)).Run()
				}
			}
		})
		eventually(t, script+" collects", func() bool {
			for _, pid := range below(cmd.Process.Pid) {
				if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == last {
					return true
				}
			}
			return false
		})
		// Before that, recollect may not know yet what to do with signals.
		eventually(t, script+"'s agents are connected", func() bool {
			text, _ := os.ReadFile(out.Name()) // there is nothing yet
			return bytes.Contains(text, []byte(": connected"))
		})
		before := fmt.Sprintf("pcapper-lab-%d-", cmd.Process.Pid)
		if script == "lab" && !strings.Contains(namespaces(), before) {
			t.Errorf("no namespaces %s*", before)
		}
		ends(t, cmd, syscall.SIGTERM, 0)
		if strings.Contains(namespaces(), before) {
			t.Errorf("namespaces are left:\n%s", namespaces())
		}
		if left, _ := filepath.Glob(filepath.Join(tmp, "*")); len(left) > 0 {
			text, _ := os.ReadFile(out.Name())
			t.Errorf("%s left %v\n%s", script, left, text)
		}
	}
}
