package agent

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// insideEnv makes TestStatsOfNode measure inside of a PID namespace.
const insideEnv = "PCAPPER_TEST_INSIDE"

// TestStatsOfNode: in a PID namespace of its own, CPU and memory are those of
// the processes there, whatever the host does.
func TestStatsOfNode(t *testing.T) {
	if os.Getenv(insideEnv) != "" {
		statsInside(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("a PID namespace takes root")
	}
	if h := newHostStats(nil); inNode() == (h.processes == nil) {
		t.Errorf("outside: in a node %v, statistics are %v", inNode(), h)
	}
	outside := burner(t) // the host's, at the same time
	defer outside.Process.Kill()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mount := range []bool{true, false} {
		args := []string{"--pid", "--fork", "--kill-child"}
		if mount {
			args = append(args, "--mount-proc")
		}
		cmd := exec.Command("unshare", append(args, self, "-test.run=^TestStatsOfNode$", "-test.v")...)
		cmd.Env = append(os.Environ(), insideEnv+"="+strconv.FormatBool(mount))
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("/proc mounted %v: %v\n%s", mount, err, out)
		}
	}
}

// burner is a process that uses a processor.
func burner(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func statsInside(t *testing.T) {
	h := newHostStats(nil)
	if os.Getenv(insideEnv) == "false" {
		if h.processes != nil || !strings.Contains(h.String(), "mount -t proc") {
			t.Errorf("/proc is the host's: %v", h)
		}
		return
	}
	if h.processes == nil {
		t.Fatalf("statistics are %v", h)
	}
	sample := func() cpuTime {
		t.Helper()
		c, err := h.cpu()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ours := func() (ticks uint64) { // this process, and what it has waited for
		t.Helper()
		var u, c syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &c); err != nil {
			t.Fatal(err)
		}
		return uint64((u.Utime.Nano() + u.Stime.Nano() + c.Utime.Nano() + c.Stime.Nano()) / 1e7)
	}
	first, before := sample(), ours()
	if first.busy != 0 {
		t.Errorf("busy from the start: %+v", first)
	}
	inside := burner(t)
	time.Sleep(1500 * time.Millisecond)
	running := sample()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(inside.Process.Pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, u, err := parseStat(data)
	if err != nil {
		t.Fatal(err)
	}
	if spent := u.ticks; spent < 5 || running.busy > spent+50 || running.busy+10 < spent {
		t.Errorf("%d ticks busy, want those of the one busy process, %d", running.busy, spent)
	}
	if total := running.busy + running.idle - first.busy - first.idle; total < running.busy || total < 100 {
		t.Errorf("%d ticks of all processors in 1.5 s", total)
	}
	// A process that ended has used what it has used.
	inside.Process.Kill()
	inside.Wait()
	end := sample()
	if spent := ours() - before; end.busy < running.busy || end.busy > spent+10 || end.busy+10 < spent {
		t.Errorf("%d ticks busy, then %d, want %d", running.busy, end.busy, spent)
	}

	was, err := h.memory()
	if err != nil {
		t.Fatal(err)
	}
	const more = 64 << 20
	// Not of Go's heap, of which the race detector keeps a shadow three times as large.
	block, err := syscall.Mmap(-1, 0, more, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := range block {
		block[i] = byte(i)
	}
	now, err := h.memory()
	if grown := int64(now) - int64(was); err != nil || grown < more/1024*9/10 || grown > more/1024*12/10 {
		t.Errorf("%d kB more, %v, want %d: %d then %d, last byte %d", grown, err, more/1024, was, now, block[more-1])
	}
}

// TestProcessesOfOthers: a process that somebody outside of the namespace started takes its
// time with it when it ends; the others' is still counted.
func TestProcessesOfOthers(t *testing.T) {
	dir := t.TempDir()
	stat := func(pid, parent, ticks string) {
		t.Helper()
		if err := os.MkdirAll(dir+"/"+pid, 0o755); err != nil {
			t.Fatal(err)
		}
		text := pid + " (a) b (c) S " + parent + " 1 1 0 -1 4194560 0 0 0 0 " + ticks + " 0 0 0 20 0 1 0 77 0 0\n"
		if err := os.WriteFile(dir+"/"+pid+"/stat", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := processes{proc: dir}
	busy := func(want uint64) {
		t.Helper()
		if c, err := p.cpu(cpuTime{1000, 1000}); err != nil || c.busy != want || c.busy+c.idle != 2000 {
			t.Errorf("%+v, %v, want %d", c, err, want)
		}
	}
	stat("1", "0", "100")
	stat("2", "0", "900")
	stat("3", "1", "50")
	busy(0)
	stat("1", "0", "110")
	busy(10)
	os.RemoveAll(dir + "/2") // nobody here has waited for it
	stat("1", "0", "115")
	busy(15)
	os.RemoveAll(dir + "/3") // its parent has its time
	stat("1", "0", "165")
	busy(15)
	os.WriteFile(dir+"/1/stat", []byte("1 (x) S 0"), 0o644)
	if _, err := p.cpu(cpuTime{}); err == nil {
		t.Error("a short line was taken")
	}
}
