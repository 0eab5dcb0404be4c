package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/ledgertest"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"golang.org/x/sys/unix"
)

var gotPackets = regexp.MustCompile(`\b[1-9][0-9,]* packets captured`)

// program is what users start it, built once.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pcapper-test")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "pcapper")
	args := slices.Concat([]string{"build", "-o", bin}, raceFlags, tagFlags)
	cmd := exec.Command("go", args...)
	if len(raceFlags)+len(tagFlags) == 0 {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as users get it
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%v\n%s", err, out)
	}
	return bin, nil
})

// collectorProgram is recollect, beside it.
var collectorProgram = sync.OnceValues(func() (string, error) {
	agent, err := program()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(filepath.Dir(agent), "recollect")
	cmd := exec.Command("go", "build", "-o", bin, "../recollect")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as users get it, also beside an agent that is not
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v\n%s", err, out)
	}
	return bin, nil
})

func recollect(t *testing.T) string {
	t.Helper()
	bin, err := collectorProgram()
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// vnodedEnv makes the test's own program a stand-in for CORE's vnoded, which
// does nothing but be there.
const vnodedEnv = "PCAPPER_TEST_VNODED"

func TestMain(m *testing.M) {
	if os.Getenv(vnodedEnv) != "" {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	code := m.Run()
	if bin, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// agentProcess is a running pcapper.
type agentProcess struct {
	t    *testing.T
	host *nettest.Host
	cmd  *nettest.Cmd
	port int
	dir  string // its working directory

	mu     sync.Mutex
	stderr bytes.Buffer
	exited chan error
}

func (a *agentProcess) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stderr.Write(b)
}

func (a *agentProcess) said() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stderr.String()
}

// launch starts pcapper on a host without waiting for anything.
func launch(t *testing.T, host *nettest.Host, args ...string) *agentProcess {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return launchProgram(t, host, bin, args...)
}

// launchProgram is launch for a program built in another way.
func launchProgram(t *testing.T, host *nettest.Host, bin string, args ...string) *agentProcess {
	t.Helper()
	a := &agentProcess{t: t, host: host, port: 7073, dir: t.TempDir(), exited: make(chan error, 1)}
	for i, arg := range args {
		if arg == "-p" {
			fmt.Sscan(args[i+1], &a.port)
		}
	}
	// Tests count traffic, and most of their receivers' packets have no socket: those that
	// want to know of drops or memberships say so.
	for _, flag := range []string{"-drops", "-members"} {
		if !slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, flag) }) {
			args = append([]string{flag + "=false"}, args...)
		}
	}
	a.cmd = host.Command(context.Background(), bin, args...)
	a.cmd.Dir = a.dir
	a.cmd.Stdout, a.cmd.Stderr = a, a
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { a.exited <- a.cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() && a.cmd.Process.Signal(syscall.SIGUSR1) == nil { // where are the packets?
			nettest.Eventually(2*time.Second, func() bool { return strings.Contains(a.said(), "summary: ") })
		}
		a.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("pcapper %s said:\n%s", strings.Join(args, " "), a.said())
		}
	})
	return a
}

// start is launch, and waits until collectors can connect.
func start(t *testing.T, host *nettest.Host, args ...string) *agentProcess {
	t.Helper()
	a := launch(t, host, args...)
	a.await("open to anyone", 1)
	return a
}

// await waits until the agent has said something a number of times.
func (a *agentProcess) await(text string, times int) {
	a.t.Helper()
	if !nettest.Eventually(20*time.Second, func() bool { return strings.Count(a.said(), text) >= times }) {
		a.t.Fatalf("pcapper did not say %q %d times, but:\n%s", text, times, a.said())
	}
}

func (a *agentProcess) signal(s os.Signal) {
	a.t.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.t.Fatal(err)
	}
}

// stop ends the agent as a user does and gives the lines of its summary.
func (a *agentProcess) stop() []string {
	a.t.Helper()
	a.signal(syscall.SIGINT)
	if code := a.wait(); code != 0 {
		a.t.Errorf("exit code %d after an interrupt", code)
	}
	if gotPackets.MatchString(a.said()) { // there is no table of nothing
		if rows := ledgertest.Closes(a.t, a.said()); rows["log"].Held != 0 {
			a.t.Errorf("got %+v, want nothing held at the end", rows["log"])
		}
	}
	_, summary, _ := strings.Cut(a.said(), "pcapper: summary: ")
	return strings.Split("pcapper: summary: "+summary, "\n")
}

// wait returns the exit code.
func (a *agentProcess) wait() int {
	a.t.Helper()
	select {
	case <-a.exited:
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		a.t.Fatalf("pcapper does not end; it said:\n%s", a.said())
		return -1
	}
}

// dial connects a collector from a host, says what it says, and waits until
// the agent has settled what it gets.
func (a *agentProcess) dial(from *nettest.Host, says string) *net.TCPConn {
	a.t.Helper()
	attached := strings.Count(a.said(), ": attached")
	to := "127.0.0.1"
	if from != a.host {
		to = a.host.Interface.IPv4.String()
	}
	conn, err := from.Dial("tcp", fmt.Sprintf("%s:%d", to, a.port))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(says)); err != nil {
		a.t.Fatal(err)
	}
	a.await(": attached", attached+1)
	return conn.(*net.TCPConn)
}

// collect reads n records, and fails the test if there is one more.
func collect(t *testing.T, conn net.Conn, n int) []wire.Record {
	t.Helper()
	recs, err := readRecords(conn, n)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if k, _ := conn.Read(make([]byte, 1)); k > 0 {
		t.Errorf("there is a record beyond the %d expected", n)
	}
	return recs
}

// readRecords reads n records and not a byte more.
func readRecords(conn net.Conn, n int) ([]wire.Record, error) {
	conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	r := bufio.NewReaderSize(io.LimitReader(conn, int64(n*wire.Size)), 1<<20)
	recs := make([]wire.Record, n)
	buf := make([]byte, wire.Size)
	for i := range recs {
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, fmt.Errorf("record %d of %d: %w", i, n, err)
		}
		if err := wire.DecodeBinary(buf, &recs[i]); err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
	}
	return recs, nil
}

// readLines is readRecords for a collector that asked for text.
func readLines(conn net.Conn, n int) ([]wire.Record, error) {
	conn.SetReadDeadline(time.Now().Add(60 * time.Second))
	scan := bufio.NewScanner(conn)
	recs := make([]wire.Record, n)
	for i := range recs {
		if !scan.Scan() {
			return nil, fmt.Errorf("line %d of %d: %v", i, n, scan.Err())
		}
		if err := wire.ParseLine(scan.Bytes(), &recs[i]); err != nil {
			return nil, err
		}
	}
	return recs, nil
}

func collectLines(t *testing.T, conn net.Conn, n int) []wire.Record {
	t.Helper()
	recs, err := readLines(conn, n)
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

// send sends n frames, cycling through those given, all from one processor:
// frames of two may overtake each other on their way.
func send(t *testing.T, from *nettest.Host, n int, rate float64, frames ...[]byte) (begin, end time.Time) {
	t.Helper()
	g, err := from.Generator(frames...)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	defer pin(t)()
	begin = time.Now()
	sent, _, err := g.Send(t.Context(), n, rate)
	if err != nil || sent != n {
		t.Fatalf("sent %d of %d: %v", sent, n, err)
	}
	return begin, time.Now()
}

// pin keeps the goroutine on one processor until the function that it returns
// is called.
func pin(t *testing.T) (release func()) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	err := unix.SchedGetaffinity(0, &before)
	for cpu := 0; err == nil && one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err == nil {
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}
}

// rotate does what logrotate(8) does, as soon as there is a log to rotate.
func (a *agentProcess) rotate(name, to string) {
	a.t.Helper()
	var err error
	if !nettest.Eventually(20*time.Second, func() bool {
		err = os.Rename(name, to)
		return !errors.Is(err, os.ErrNotExist)
	}) || err != nil {
		a.t.Errorf("rotate: %v", err)
	}
	a.signal(syscall.SIGHUP)
}

// logLines reads the agent's log.
func (a *agentProcess) logLines(name string) []wire.Record {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	var recs []wire.Record
	data = data[:bytes.LastIndexByte(data, '\n')+1] // the agent may be writing
	for line := range bytes.Lines(data) {
		var r wire.Record
		if err := wire.ParseLine(bytes.TrimSuffix(line, []byte("\n")), &r); err != nil {
			a.t.Fatal(err)
		}
		recs = append(recs, r)
	}
	return recs
}

// spoolDir makes a directory that everybody may use, also whoever the agent becomes.
func spoolDir(t *testing.T) string {
	t.Helper()
	above := t.TempDir()
	dir := filepath.Join(above, "spool")
	for _, d := range []string{filepath.Dir(above), above} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // whatever the umask
		t.Fatal(err)
	}
	return dir
}

// pcapperCert runs "pcapper cert" and gives what it prints and its exit code.
func pcapperCert(t *testing.T, args ...string) (string, int) {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append([]string{"cert"}, args...)...)
	out, _ := cmd.CombinedOutput()
	return string(out), cmd.ProcessState.ExitCode()
}

// certArgs are the agent's flags for certificates in a directory.
func certArgs(dir string) []string {
	return []string{"-tls-cert", dir + "/agent.pem", "-tls-key", dir + "/agent-key.pem", "-tls-client-ca", dir + "/ca.pem"}
}
