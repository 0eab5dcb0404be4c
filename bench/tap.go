package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tap is a program that watches the sender's interface.
type tap interface {
	// start returns once the tap is ready and has been warmed up.
	start(ctx context.Context, b *bench) error
	// pid of the program, 0 if there is none.
	pid() int
	// received is how many of n frames it got, waiting for those that are on
	// their way. It stops the program.
	received(n uint64) (received, dropped uint64, err error)
	// kill ends what is still running, after an error.
	kill()
}

// nothing is the base of comparison: no tap at all.
type nothing struct{}

func (nothing) start(context.Context, *bench) error                { return nil }
func (nothing) pid() int                                           { return 0 }
func (nothing) received(n uint64) (got, dropped uint64, err error) { return n, 0, nil }
func (nothing) kill()                                              {}

// program is a process on the tap's processor whose stderr is kept.
type program struct {
	cmd    *exec.Cmd
	ended  bool
	mu     sync.Mutex
	stderr []string
	lines  chan string // as they come, until nobody reads them
	eof    chan struct{}
}

// launch starts a program in the host's namespace on the tap's processor.
func (b *bench) launch(ctx context.Context, name string, args ...string) (*program, error) {
	p := &program{
		cmd:   exec.CommandContext(ctx, name, args...),
		lines: make(chan string, 1),
		eof:   make(chan struct{}),
	}
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	b.host.Do(func() {
		// Of the thread that b.host.Do throws away; the child inherits it.
		if err = pinThread(tapCPU); err == nil {
			err = p.cmd.Start()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.read(pipe)
	return p, nil
}

func (p *program) read(pipe io.Reader) {
	defer close(p.eof)
	for s := bufio.NewScanner(pipe); s.Scan(); {
		p.mu.Lock()
		p.stderr = append(p.stderr, s.Text())
		p.mu.Unlock()
		select {
		case p.lines <- s.Text():
		default:
		}
	}
}

func (p *program) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.stderr, "\n")
}

// waitFor returns once the program has said text on stderr.
func (p *program) waitFor(text string, within time.Duration) error {
	timeout := time.After(within)
	for {
		if strings.Contains(p.said(), text) {
			return nil
		}
		select {
		case <-p.lines:
		case <-p.eof:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, p.said())
		case <-timeout:
			return fmt.Errorf("%s did not say %q within %v: %s", p.cmd.Path, text, within, p.said())
		}
	}
}

// stop interrupts the program and gives all that it said.
func (p *program) stop() (string, error) {
	if p.ended {
		return p.said(), nil
	}
	p.ended = true
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return "", err
	}
	<-p.eof
	err := p.cmd.Wait()
	return p.said(), err
}

func (p *program) kill() {
	if p == nil || p.ended {
		return
	}
	p.ended = true
	_ = p.cmd.Process.Kill()
	<-p.eof
	_ = p.cmd.Wait()
}

// dump is tcpdump that decodes nothing and keeps nothing.
type dump struct{ *program }

func (d *dump) start(ctx context.Context, b *bench) (err error) {
	// -s as the agent's snapshot length, -B (in KiB) as its ring; -U would
	// flush each packet. -Z root saves a change of user.
	d.program, err = b.launch(ctx, "tcpdump", "-i", "eth0", "-n", "-s", "256", "-B", "16384", "-Z", "root",
		"-w", "/dev/null", fmt.Sprintf("udp dst port %d", dstPort))
	if err != nil {
		return err
	}
	return d.waitFor("listening on", 5*time.Second)
}

func (d *dump) pid() int { return d.cmd.Process.Pid }

// received lets tcpdump read what is in its buffer before it is interrupted: it
// does not do so afterwards.
func (d *dump) received(uint64) (got, dropped uint64, err error) {
	time.Sleep(settle)
	said, err := d.stop()
	if err != nil {
		return 0, 0, fmt.Errorf("tcpdump: %w: %s", err, said)
	}
	got, err1 := number(said, dumpCaptured)
	dropped, err2 := number(said, dumpDropped)
	return got, dropped, errors.Join(err1, err2)
}

var (
	dumpCaptured = regexp.MustCompile(`(?m)^([\d,]+) packets? captured`)
	dumpDropped  = regexp.MustCompile(`(?m)^([\d,]+) packets? dropped by kernel`)
)

// number finds what a program said of itself; thousands may be grouped.
func number(text string, pattern *regexp.Regexp) (uint64, error) {
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no %q in what the program said: %s", pattern, text)
	}
	return strconv.ParseUint(strings.ReplaceAll(m[1], ",", ""), 10, 64)
}
