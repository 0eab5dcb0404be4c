package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tap is something that watches the host of a scene.
type tap interface {
	// start returns once the tap is ready. An error that is a skipped says why
	// there is no such tap here.
	start(ctx context.Context, b *bench, s *scene) error
	// pid of the program, 0 if there is none.
	pid() int
	// seen is how much it has recorded since its start, and how much it says it
	// has lost. It waits for what is on its way: until it has recorded as much
	// as is wanted, or nothing more comes.
	seen(want uint64) (recorded, dropped uint64, err error)
	stop() error
}

// skipped is why a tap cannot be measured here.
type skipped struct{ error }

// nothing is the base of comparison: no tap at all.
type nothing struct{}

func (nothing) start(context.Context, *bench, *scene) error  { return nil }
func (nothing) pid() int                                     { return 0 }
func (nothing) seen(uint64) (got, dropped uint64, err error) { return 0, 0, nil }
func (nothing) stop() error                                  { return nil }

// counting is the program that only counts.
type counting struct {
	clock bool // it reads the clock as well
	c     *counter
}

func (c *counting) start(_ context.Context, b *bench, s *scene) error {
	index, err := indexOf(s.host)
	if err != nil {
		return err
	}
	c.c = b.counters[0]
	if c.clock {
		c.c = b.counters[1]
	}
	s.host.Do(func() { err = c.c.attach(index, s.received) })
	if err != nil {
		return skipped{fmt.Errorf("tcx needs Linux 6.6: %w", err)}
	}
	return nil
}

func (c *counting) pid() int    { return 0 }
func (c *counting) stop() error { return c.c.detach() }
func (c *counting) seen(uint64) (got, dropped uint64, err error) {
	got, err = c.c.total()
	return got, 0, err
}

// program is a process on the taps' processor whose stderr is kept.
type program struct {
	cmd    *exec.Cmd
	ended  bool
	mu     sync.Mutex
	stderr []string
	eof    chan struct{}
}

// launch starts a program in the host's namespace on the taps' processor.
func launch(ctx context.Context, s *scene, name string, args ...string) (*program, error) {
	p := &program{cmd: exec.CommandContext(ctx, name, args...), eof: make(chan struct{})}
	pipe, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	s.host.Do(func() {
		// Of the thread that Do throws away; the child inherits it.
		if err = pinThread(tapCPU); err == nil {
			err = p.cmd.Start()
		}
	})
	if errors.Is(err, exec.ErrNotFound) {
		return nil, skipped{err}
	}
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
	}
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// said is what the program has said, but for the first lines.
func (p *program) said(but int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.stderr[min(but, len(p.stderr)):], "\n")
}

func (p *program) lines() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.stderr)
}

// waitFor returns once the program has said something, but for its first lines.
func (p *program) waitFor(but int, what *regexp.Regexp, within time.Duration) (string, error) {
	end := time.Now().Add(within)
	for {
		said := p.said(but)
		if what.MatchString(said) {
			return said, nil
		}
		select {
		case <-p.eof:
			if said = p.said(but); what.MatchString(said) {
				return said, nil
			}
			return "", fmt.Errorf("%s ended: %s", p.cmd.Path, said)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("%s did not say %q within %v: %s", p.cmd.Path, what, within, said)
		}
	}
}

// ask sends a signal and gives the answer.
func (p *program) ask(signal syscall.Signal, answer *regexp.Regexp) (string, error) {
	but := p.lines()
	if err := p.cmd.Process.Signal(signal); err != nil {
		return "", fmt.Errorf("%s: %w: %s", p.cmd.Path, err, p.said(0))
	}
	return p.waitFor(but, answer, 5*time.Second)
}

// stop interrupts the program, and kills one that does not end.
func (p *program) stop() error {
	if p == nil || p.ended {
		return nil
	}
	p.ended = true
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.eof:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.eof
	}
	err := p.cmd.Wait()
	var status *exec.ExitError
	if errors.As(err, &status) {
		err = nil // what it was told to do, or complained about before
	}
	return err
}

// watched is the filter for programs that take one: what our agent records.
func (s *scene) watched() string {
	if s.received {
		return "ether src not " + s.host.Interface.MAC.String()
	}
	return "ether src " + s.host.Interface.MAC.String()
}

// settle is the time after which what has not come is lost. A kernel buffer of
// libpcap's, which is not full, is handed over after one or two seconds.
const settle = 2200 * time.Millisecond

// counts asks a program until it has recorded as much as is wanted, or nothing
// more comes.
func counts(want uint64, ask func() (got, dropped uint64, err error)) (got, dropped uint64, err error) {
	last, since := uint64(0), time.Now()
	for {
		got, dropped, err = ask()
		if got != last {
			last, since = got, time.Now()
		}
		if err != nil || got >= want || time.Since(since) > settle {
			return got, dropped, err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// dump is tcpdump that decodes nothing and keeps nothing.
type dump struct{ *program }

func (d *dump) start(ctx context.Context, _ *bench, s *scene) (err error) {
	// -s as the agent's snapshot length, -B (in KiB) as its ring; -U would
	// flush each packet. -Z root saves a change of user.
	d.program, err = launch(ctx, s, "tcpdump", "-i", s.host.Interface.Name, "-n", "-s", "256", "-B", "16384", "-Z", "root",
		"-w", "/dev/null", s.watched())
	if err != nil {
		return err
	}
	_, err = d.waitFor(0, regexp.MustCompile("listening on"), 5*time.Second)
	return err
}

var (
	dumpCaptured = regexp.MustCompile(`(\d+) packets? captured`)
	dumpDropped  = regexp.MustCompile(`(\d+) packets? dropped by kernel`)
)

func (d *dump) seen(want uint64) (got, dropped uint64, err error) {
	return counts(want, d.ask)
}

func (d *dump) ask() (got, dropped uint64, err error) {
	said, err := d.program.ask(unix.SIGUSR1, dumpDropped)
	if err != nil {
		return 0, 0, err
	}
	got, err1 := number(said, dumpCaptured)
	dropped, err2 := number(said, dumpDropped)
	return got, dropped, errors.Join(err1, err2)
}

// flows is softflowd, which counts flows and exports nothing.
type flows struct {
	*program
	control string
	dropped uint64 // by its own count, when last asked
}

func (f *flows) start(ctx context.Context, b *bench, s *scene) (err error) {
	if _, err := exec.LookPath("softflowctl"); err != nil {
		return skipped{err}
	}
	f.control = filepath.Join(b.tmp, "softflowd.ctl")
	// As many flows as there are here; by default it forgets all but 8,192.
	f.program, err = launch(ctx, s, "softflowd", "-i", s.host.Interface.Name, "-d", "-m", "200000",
		"-c", f.control, "-p", filepath.Join(b.tmp, "softflowd.pid"), s.watched())
	if err != nil {
		return err
	}
	_, err = f.waitFor(0, regexp.MustCompile("starting data collection"), 5*time.Second)
	return err
}

var (
	flowsProcessed = regexp.MustCompile(`Packets processed: (\d+)`)
	flowsDropped   = regexp.MustCompile(`Packets dropped by libpcap: (\d+)`)
)

// held is how many packets it may leave in a kernel buffer that is not full until
// more come. As long as it has dropped none, they are not lost; and if it had,
// they come later than they are expected.
const held = 4096

func (f *flows) seen(want uint64) (got, dropped uint64, err error) {
	got, dropped, err = counts(want-min(want, held), f.ask)
	if got > want && got-want <= held || got < want && want-got <= held && dropped == f.dropped {
		got = want
	}
	f.dropped = dropped
	return got, dropped, err
}

// ask goes through the control socket, which is served between two packets.
func (f *flows) ask() (got, dropped uint64, err error) {
	said, err := exec.Command("softflowctl", "-c", f.control, "statistics").CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("softflowctl: %w: %s", err, said)
	}
	got, err1 := number(string(said), flowsProcessed)
	dropped, err2 := number(string(said), flowsDropped)
	return got, dropped, errors.Join(err1, err2)
}

// number finds what a program said of itself last; thousands may be grouped.
func number(text string, pattern *regexp.Regexp) (uint64, error) {
	all := pattern.FindAllStringSubmatch(text, -1)
	if len(all) == 0 {
		return 0, fmt.Errorf("no %q in what the program said: %s", pattern, text)
	}
	return strconv.ParseUint(strings.ReplaceAll(all[len(all)-1][1], ",", ""), 10, 64)
}
