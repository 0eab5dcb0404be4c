package main

import (
	"bufio"
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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// agentChild is an agent that runs as long as this process does.
type agentChild struct {
	program string
	port    uint16 // of its IPFIX feed, on 127.0.0.1
	iface   string // being watched
	stdin   io.Closer
	ready   chan struct{} // closed once it listens
	ended   chan struct{} // closed once its standard error is closed
	process *os.Process

	mu    sync.Mutex
	lines []string // not printed yet
}

// agentStart is how long an agent may take to start listening: it waits for an
// interface that is coming up.
const agentStart = 30 * time.Second

// startAgent starts an agent on an interface, and returns once it listens. With "" it
// is the interface of the default route or, without one, the loopback interface.
func startAgent(ctx context.Context, iface string) (*agentChild, error) {
	program, err := findAgent()
	if err != nil {
		return nil, err
	}
	wanted := iface
	if wanted == "" {
		wanted = "auto"
	}
	for tries := 0; ; tries++ {
		a, err := launchAgent(program, wanted)
		if err != nil {
			return nil, err
		}
		if err = a.await(ctx); err == nil {
			return a, nil
		}
		a.end()
		switch {
		case iface == "" && strings.Contains(err.Error(), "no default route"):
			say("there is no default route: watching lo")
			wanted, iface = "lo", "lo"
		case strings.Contains(err.Error(), "in use") && tries < 3: // another process took the port
		default:
			return nil, err
		}
	}
}

// findAgent returns the agent's program: the one next to ours, or the one in PATH.
func findAgent() (string, error) {
	own, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(own), "pcapper")
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return beside, nil
	}
	path, err := exec.LookPath("pcapper")
	if err != nil {
		return "", fault.WithHint(fmt.Errorf("cannot find the agent: there is no program pcapper in %s, nor in PATH", filepath.Dir(own)),
			"install it beside recollect; in a clone of the source, make build makes both")
	}
	return filepath.Abs(path)
}

func launchAgent(program, iface string) (*agentChild, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-until-eof", "-i", iface, "-m", "none", "-listen", "127.0.0.1", "-p", "0",
		"-ipfix-port", strconv.Itoa(int(port)), "-f", os.DevNull)
	// In a process group of its own, the agent does not receive our Ctrl-C. The signal
	// is for the case that we die before the agent reads its input.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	a := &agentChild{program: program, port: port, ready: make(chan struct{}), ended: make(chan struct{})}
	if iface != "auto" {
		a.iface = iface
	}
	if a.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread that started the child ends.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-a.ended
			_ = cmd.Wait() // the agent has printed what went wrong
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start the agent: %w", err)
	}
	a.process = cmd.Process
	go a.read(stderr)
	return a, nil
}

func freePort() (uint16, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port), nil
}

var (
	agentListens = regexp.MustCompile(`^pcapper: serving IPFIX on TCP port`)
	agentWatches = regexp.MustCompile(`^pcapper: -i auto: watching (\S+),`)
)

// read stores the agent's messages.
func (a *agentChild) read(stderr io.Reader) {
	defer close(a.ended)
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		a.mu.Lock()
		a.lines = append(a.lines, line)
		if m := agentWatches.FindStringSubmatch(line); m != nil {
			a.iface = m[1]
		}
		a.mu.Unlock()
		if agentListens.MatchString(line) {
			close(a.ready)
		}
	}
}

// await waits until the agent listens.
func (a *agentChild) await(ctx context.Context) error {
	timeout := time.NewTimer(agentStart)
	defer timeout.Stop()
	select {
	case <-a.ready:
		a.take()
		return nil
	case <-a.ended:
		return a.failure("cannot start")
	case <-timeout.C:
		return a.failure(fmt.Sprintf("does not listen after %v", agentStart))
	case <-ctx.Done():
		return errors.New("ended before the agent listened")
	}
}

// take returns the messages since the last call.
func (a *agentChild) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	lines := a.lines
	a.lines = nil
	return lines
}

// failure returns an error with all of the agent's messages.
func (a *agentChild) failure(what string) error {
	err := fmt.Errorf("the agent %s\n%s", what, strings.Join(a.take(), "\n"))
	if os.Geteuid() != 0 && strings.Contains(err.Error(), "CAP_") {
		own, _ := os.Executable()
		return fault.WithHint(err, fmt.Sprintf("sudo %s watch; or once: sudo setcap cap_net_raw=ep %s", own, a.program))
	}
	return err
}

// end stops the agent, and prints its messages since it started listening. The agent
// stops at the end of its input; a signal might not be permitted, because the agent has
// switched to another user.
func (a *agentChild) end() {
	a.stdin.Close()
	select {
	case <-a.ended:
	case <-time.After(3 * time.Second):
		_ = a.process.Kill()
	}
	for _, line := range a.take() {
		fmt.Fprintln(os.Stderr, line)
	}
}
