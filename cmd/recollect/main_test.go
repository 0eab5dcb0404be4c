package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/test/screentest"
)

// binDir has the program as users get it.
var binDir string

func TestMain(m *testing.M) {
	// Programs get the default action then, also where SIGHUP is ignored (nohup).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(func() int {
		var err error
		if binDir, err = os.MkdirTemp("", "recollect"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(binDir)
		defer bustest.RemoveProgram()
		build := exec.Command("go", "build", "-ldflags", "-X main.version=1.2.3", "-o", binDir, ".")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as users get it
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %v\n%s", build, err, out)
			return 1
		}
		return m.Run()
	}())
}

// TestScripts tells the command line's stories; see agents_test.go for what
// scripts can do with agents.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binDir+string(os.PathListSeparator)+env.Getenv("PATH"))
			agents := newAgents()
			env.Values[agentsKey{}] = agents
			env.Defer(agents.close)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"agent":  agentCommand,
			"config": configCommand,
			"keep":   keepCommand,
			"closes": closesCommand,
		},
	})
}

// TestUsageNamesFlags: the usage text has every flag, and the contract's
// default.
func TestUsageNamesFlags(t *testing.T) {
	t.Parallel()
	for _, want := range []string{"-c FILE", "-http ADDRESS", "-lines", "-names FILE", "-resolve", "-replay DIR|FILE...", "-speed N", "-from TIME", "-tls-cert FILE", "-tls-key FILE", "-tls-ca FILE", "-version", "-h ", "collector.conf"} {
		if !strings.Contains(usageOf(""), want) {
			t.Errorf("the usage text lacks %q", want)
		}
	}
	for _, line := range strings.Split(usageOf("")+watchUsage+demoUsage, "\n") {
		if len(line) > 80 || strings.TrimRight(line, " ") != line {
			t.Errorf("the usage text has a line too long or with blanks at its end: %q", line)
		}
	}
}

// TestDocumentsAgree: usage, man page and program have the same flags, and so have
// query's.
func TestDocumentsAgree(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../man/recollect.1")
	if err != nil {
		t.Fatal(err)
	}
	general, queries, _ := strings.Cut(string(page), "\n.Sh QUERIES\n")
	queries, _, _ = strings.Cut(queries, "\n.Sh ")
	_, traces, _ := strings.Cut(string(page), "\n.Sh TRACES\n")
	traces, _, _ = strings.Cut(traces, "\n.Sh ")
	_, general, _ = strings.Cut(general, "\nThe options are:\n")
	for name, c := range map[string]struct {
		flags      *flag.FlagSet
		usage, man string
		more       []string
	}{
		"recollect":       {newFlags(new(options)), usageOf(""), general, []string{"h", "query"}},
		"recollect trace": {newTraceFlags(&tracing{}), traceUsage, traces, []string{"h"}},
		"recollect query": {newQueryFlags(&question{}, time.Now()), queryUsage, queries, []string{"h"}},
	} {
		want := slices.Clone(c.more)
		c.flags.VisitAll(func(f *flag.Flag) { want = append(want, f.Name) })
		slices.Sort(want)
		if got := flagsIn(c.usage, `(?m)(?:^  |[A-Z], )-([a-z][a-z-]*)`); !slices.Equal(got, want) {
			t.Errorf("the usage of %s has the flags\n%q, the program\n%q", name, got, want)
		}
		man := regexp.MustCompile(`(?m)^\.It .*`).FindAllString(c.man, -1)
		got := flagsIn(strings.Join(man, "\n"), `Fl ([a-z][a-z-]*)`)
		if name != "recollect" { // what it shares with the others
			want = slices.DeleteFunc(want, func(f string) bool { return f == "c" || f == "h" })
			got = slices.DeleteFunc(got, func(f string) bool { return f == "c" || f == "h" })
		}
		if !slices.Equal(got, want) {
			t.Errorf("the man page of %s has the flags\n%q, the program\n%q", name, got, want)
		}
	}
}

// TestCommandsAgree: the help of watch and demo has their flags, and the man page names them.
func TestCommandsAgree(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../man/recollect.1")
	if err != nil {
		t.Fatal(err)
	}
	for command, flags := range map[string]*flag.FlagSet{"watch": newWatchFlags(&watching{}), "demo": newDemoFlags(&demonstration{})} {
		want := []string{"h"}
		flags.VisitAll(func(f *flag.Flag) {
			want = append(want, f.Name)
			if !strings.Contains(string(page), "Fl "+f.Name) {
				t.Errorf("the man page lacks -%s of %s", f.Name, command)
			}
		})
		slices.Sort(want)
		if got := flagsIn(usageOf(command), `(?m)^  -([a-z][a-z-]*)`); !slices.Equal(got, want) {
			t.Errorf("the usage of %s has the flags %q, the program %q", command, got, want)
		}
		if !strings.Contains(usage, "recollect "+command+" -h") {
			t.Errorf("the usage does not name %s", command)
		}
	}
}

func flagsIn(text, pattern string) (list []string) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// startLive runs the program on a terminal of its own, as a shell would. env is added
// to the environment.
func startLive(t *testing.T, tty *screentest.Terminal, env []string, config string, args ...string) *exec.Cmd {
	t.Helper()
	name := filepath.Join(t.TempDir(), "collector.conf")
	if err := os.WriteFile(name, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, "recollect"), args...)
	cmd.Dir = filepath.Dir(name)
	cmd.Env = append(append(os.Environ(), "TERM=xterm-256color"), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty.TTY, tty.TTY, tty.TTY
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

const (
	enterScreen = "\x1b[?1049h"
	leaveScreen = "\x1b[?1049l"
)

// TestLiveView: shown in color, stopped with Ctrl-Z, continued, resized, and
// ended with Ctrl-C; each time with the terminal in order.
func TestLiveView(t *testing.T) {
	t.Parallel()
	agents := newAgents()
	t.Cleanup(agents.close)
	if err := agents.start("A"); err != nil {
		t.Fatal(err)
	}
	tty := screentest.New(t, 100, 20)
	cmd := startLive(t, tty, []string{"NO_COLOR="}, "1=2000\na:"+agents.byName["A"].address+"\n")
	tty.Expect(t, 0, enterScreen)
	tty.Expect(t, 0, "no traffic yet")
	record := "1560390672.895279:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n"
	if err := agents.send("A", []byte(record), 0); err != nil {
		t.Fatal(err)
	}
	out := tty.Expect(t, 0, "■\x1b[0m 1")

	tty.Type(t, "secret\x1a") // Ctrl-Z
	out = tty.Expect(t, len(out), leaveScreen)
	waitState(t, cmd.Process.Pid, "T")
	if !tty.Echoes(t) {
		t.Error("the terminal of a stopped program does not echo")
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	out = tty.Expect(t, len(out), enterScreen)
	tty.Resize(t, 60, 5) // sends SIGWINCH, as it is the controlling terminal
	out = tty.Expect(t, len(out), "+1 more")

	tty.Type(t, "\x03") // Ctrl-C
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	rest := tty.Expect(t, len(out), "1 record from 1 agent")[len(out):]
	if end := strings.Index(rest, leaveScreen); end < 0 || end > strings.Index(rest, "1 record from") {
		t.Errorf("the summary does not come after the view: %q", rest)
	}
	if all := tty.Output(); !tty.Echoes(t) || strings.Contains(all, "secret") {
		t.Errorf("echo %v, or what was typed was shown: %q", tty.Echoes(t), all)
	}
}

// TestLiveReplay: a log is played in the live view, with pauses, steps and
// jumps, and ended by a key.
func TestLiveReplay(t *testing.T) {
	t.Parallel()
	var log []byte
	for i := range 4000 {
		log = fmt.Appendf(log, "%d.500000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n", 1560390600+i)
	}
	log = append(log, "1560490000.000000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n"...)
	name := filepath.Join(t.TempDir(), "n1.log")
	if err := os.WriteFile(name, log, 0o600); err != nil {
		t.Fatal(err)
	}
	tty := screentest.New(t, 120, 20)
	// So slowly that no step depends on how fast the test is.
	cmd := startLive(t, tty, []string{"TZ=UTC"}, "1=2000\n", "-replay", name, "-speed", "0.125")
	out := tty.Expect(t, 0, "2019-06-13 01:50:0")
	for _, step := range []struct{ key, want string }{
		{" ", "paused"},
		{"\x1b[6~", "2019-06-13 01:51:0"}, // page down
		{" ", "x0.125"},
		{"\x1b[A", "x0.25"},
		{"\x1b[C\x1b[C", "2019-06-13 01:51:2"},
		{strings.Repeat("\x1b[6~", 15), "02:06:"},
		{"\x1b[H", "2019-06-13 01:50:0"},
		{strings.Repeat("\x1b[A", 4), "x4"},
		{strings.Repeat("\x1b[6~", 12) + strings.Repeat("\x1b[B", 3), "02:0"},
		{"\x1b[B\x1b[B", "x0.125"},
	} {
		tty.Type(t, step.key)
		out += tty.Expect(t, len(out), step.want)[len(out):]
	}
	for range 60 { // to the gap, which is over a day long
		tty.Type(t, "\x1b[6~")
		time.Sleep(10 * time.Millisecond)
	}
	out = tty.Expect(t, len(out), "traffic in 1 d ")
	tty.Type(t, "n")
	out = tty.Expect(t, len(out), "at the end")
	tty.Expect(t, 0, "4 001 records") // none twice
	tty.Type(t, "q")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	tty.Expect(t, len(out), "4001 records from 1 log in ")
	if !tty.Echoes(t) {
		t.Error("the terminal does not echo any more")
	}
}

// TestLiveMGEN: every tenth message of a flow is lost between two hosts; the
// view shows it beside the flow, and in the table of MGEN flows.
func TestLiveMGEN(t *testing.T) {
	t.Parallel()
	var sent, received []byte
	for i := range 3000 { // 50 a second
		at := fmt.Sprintf("%d.%06d", 1560390600+i/50, i%50*20_000)
		line := at + ":10.0.0.1:5001:10.0.0.2:5002:100:7:17\n"
		sent = append(sent, line...)
		if i%10 > 0 {
			received = append(received, line...)
		}
		if i%50 == 0 { // whose address 10.0.0.2 is
			received = append(received, at+":10.0.0.2:5001:10.0.0.1:9:100:0:17\n"...)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{"n1.log": sent, "n2.log": received} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tty := screentest.New(t, 120, 20)
	startLive(t, tty, []string{"NO_COLOR=1"}, "1=M7\n", "-replay", dir, "-speed", "8")
	out := tty.Expect(t, 0, " 10 %  ")
	if !regexp.MustCompile(`■ 1  M7 +\d+ +\S+ kbit/s +10 %  `).MatchString(out) {
		t.Errorf("the loss is not beside the flow: %q", out)
	}
	tty.Type(t, "m")
	out = tty.Expect(t, len(out), "   7  n1:5001 → 10.0.0.2:5002  n2  ")
	out = tty.Expect(t, len(out), " 10 %")
	tty.Type(t, "M")
	tty.Expect(t, len(out), "■ 1  M7")
}

// TestReplayProgress: lines go to a pipe, where the replay is to the terminal.
func TestReplayProgress(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "n1.log")
	const text = "1560390600.500000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n1560391600.500000:10.0.0.1:5001:10.0.0.2:2000:125:0:17\njunk\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tty := screentest.New(t, 100, 20)
	cmd := exec.Command(filepath.Join(binDir, "recollect"), "-replay", name)
	cmd.Dir, cmd.Stderr = filepath.Dir(name), tty.TTY
	cmd.Env = append(os.Environ(), "TZ=UTC")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	out := tty.Expect(t, 0, "recollect: 2019-06-13 01:50:0")
	out = tty.Expect(t, len(out), "next traffic in 16m")
	cmd.Process.Signal(syscall.SIGINT)
	tty.Expect(t, len(out), "\r\x1b[Krecollect: 1 record from 1 log in ")
}

// TestLiveViewTerminated: SIGTERM leaves the terminal in order, too; SIGHUP reads
// the configuration again, unless the terminal has hung up.
func TestLiveViewTerminated(t *testing.T) {
	t.Parallel()
	// What a test's parent ignores, as nohup(1) does, its child would, too.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	tty := screentest.New(t, 100, 20)
	cmd := startLive(t, tty, nil, "a:127.0.0.1:1\n")
	out := tty.Expect(t, 0, "no agent answers yet")
	changeConfig(t, cmd, "bee:127.0.0.1:1\n")
	cmd.Process.Signal(syscall.SIGHUP)
	tty.Expect(t, len(out), "bee")
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if tty.Expect(t, 0, leaveScreen); !tty.Echoes(t) {
		t.Error("the terminal does not echo any more")
	}

	for _, args := range [][]string{nil, {"-lines"}} {
		tty = screentest.New(t, 100, 20)
		cmd = startLive(t, tty, nil, "a:127.0.0.1:1\n", args...)
		tty.Expect(t, 0, "127.0.0.1:1")
		tty.HangUp()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%q: the terminal has hung up: %v", args, err)
		}
	}
}

// TestLiveReload: the live view shows agents and flows that the configuration
// has got, and does not show those any more that it has lost.
func TestLiveReload(t *testing.T) {
	t.Parallel()
	agents := newAgents()
	t.Cleanup(agents.close)
	for _, name := range []string{"A", "B"} {
		if err := agents.start(name); err != nil {
			t.Fatal(err)
		}
	}
	a, b := agents.byName["A"].address, agents.byName["B"].address
	tty := screentest.New(t, 100, 20)
	cmd := startLive(t, tty, []string{"NO_COLOR=1"}, "1=2000\nay:"+a+"\n")
	record := []byte("1560390672.895279:10.0.0.1:5001:10.0.0.2:2000:125:0:17\n")
	if err := agents.send("A", record, 0); err != nil {
		t.Fatal(err)
	}
	out := tty.Expect(t, 0, "■ 1  2000")
	tty.Expect(t, 0, "1 of 1 agent connected")
	changeConfig(t, cmd, "1=2001\n7=2000\nay:"+a+"\nbee:"+b+"\n")
	out += tty.Expect(t, len(out), "bee")[len(out):]
	for _, name := range []string{"A", "B"} {
		if err := agents.send(name, record, 0); err != nil {
			t.Fatal(err)
		}
	}
	out = tty.Expect(t, len(out), "■ 7  2000")
	out = tty.Expect(t, len(out), "2 of 2 agents connected")
	changeConfig(t, cmd, "7=none\n")
	out = tty.Expect(t, len(out), "collector.conf:1: \"none\": not a port")
	changeConfig(t, cmd, "7=2000\nbee:"+b+"\n")
	out = tty.Expect(t, len(out), "1 of 1 agent connected")
	tty.Type(t, "q")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	tty.Expect(t, len(out), "3 records from 1 agent in ")
	tty.Expect(t, 0, "2 records, 1 connection; no longer configured")
}

// changeConfig replaces the configuration of a program that startLive has started.
func changeConfig(t *testing.T, cmd *exec.Cmd, config string) {
	t.Helper()
	name := filepath.Join(cmd.Dir, "collector.conf")
	if err := os.WriteFile(name+".new", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// waitState waits until a process is in the state that proc(5) calls so.
func waitState(t *testing.T, pid int, state string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("waiting for state %s: %q, %v", state, stat, err)
		}
		if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, state) {
			return
		}
	}
}
