package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

const (
	agentPort = 7073
	ipfixPort = 4739
)

// agent is pcapper, ours or C, with collectors.
type agent struct {
	*program
	engine     string // "" is C's only one
	collectors int
	silent     bool // they say nothing, as C collectors do
	log        bool
	minimal    bool // bench/minimal instead of pcapper
	ipfix      bool // there is also a collector of IPFIX, so that digests are computed
	flags      []string

	logFile string
	readers []*collector
	digests *collector // of IPFIX, or nil
	note    string     // what the agent says of its engine
}

var (
	agentListens = regexp.MustCompile(`listening on`)
	agentSummary = regexp.MustCompile(`(?s)dropped by slow readers.*\n.*(lines written|log: off)`)
	agentEngine  = regexp.MustCompile(`(?m)engine: (.*)$`)
	agentUnknown = regexp.MustCompile(`engine`)
	agentDropped = regexp.MustCompile(`([\d,]+) dropped by the kernel`)
	agentSlow    = regexp.MustCompile(`([\d,]+) dropped by slow readers`)
)

func (a *agent) ours() bool { return a.engine != "" }

func (a *agent) start(ctx context.Context, b *bench, s *scene) (err error) {
	a.logFile = os.DevNull
	if a.log {
		a.logFile = filepath.Join(b.tmp, "log")
	}
	if a.minimal {
		return a.startMinimal(ctx, b, s)
	}
	path := b.opt.agent
	args := []string{"-i", s.host.Interface.Name, "-p", strconv.Itoa(agentPort), "-m", "src", "-f", a.logFile}
	if s.received {
		args[5] = "dst"
	}
	if a.ours() {
		args = append(append(args, "-engine", a.engine), a.flags...)
		if a.ipfix {
			args = append(args, "-ipfix-port", strconv.Itoa(ipfixPort))
		}
	} else if path = b.opt.cAgent; path == "" {
		return skipped{errors.New("BENCH_C_PCAPPER names no C agent")}
	}
	if a.program, err = launch(ctx, s, path, args...); err != nil {
		return err
	}
	if err := a.ready(); err != nil {
		return err
	}
	for range a.collectors {
		if err := a.attach(s); err != nil {
			return err
		}
	}
	if a.ipfix {
		conn, err := s.host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ipfixPort))
		if err != nil {
			return err
		}
		if a.digests, err = newCollector(conn.(*net.TCPConn), ""); err != nil {
			return err
		}
		a.digests.variable = true
	}
	return a.warm(ctx, b, s)
}

// startMinimal starts this program anew, as the minimal agent.
func (a *agent) startMinimal(ctx context.Context, b *bench, s *scene) (err error) {
	if _, err := os.Stat(b.opt.object); err != nil {
		return skipped{fmt.Errorf("no kernel program: %w", err)}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	direction := "egress"
	if s.received {
		direction = "ingress"
	}
	a.program, err = launch(ctx, s, self, minimalWord, s.host.Interface.Name, direction, strconv.Itoa(agentPort), b.opt.object)
	if err != nil {
		return err
	}
	if _, err := a.waitFor(0, agentListens, 10*time.Second); err != nil {
		return err
	}
	if err := a.attach(s); err != nil {
		return err
	}
	return a.warm(ctx, b, s)
}

// ready waits until ours says that it listens. The C agent says nothing; attach
// tries until it does.
func (a *agent) ready() error {
	if !a.ours() {
		return nil
	}
	said, err := a.waitFor(0, agentListens, 10*time.Second)
	if err != nil {
		select {
		case <-a.eof:
			if text := a.said(0); agentUnknown.MatchString(text) {
				first, _, _ := strings.Cut(text, "\n")
				return skipped{errors.New(first)}
			}
		default:
		}
		return err
	}
	if m := agentEngine.FindStringSubmatch(said); m != nil {
		a.note = m[1]
	}
	return nil
}

func (a *agent) attach(s *scene) error {
	var conn net.Conn
	var err error
	if !nettest.Eventually(5*time.Second, func() bool {
		conn, err = s.host.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", agentPort))
		return err == nil
	}) {
		return fmt.Errorf("attach a collector: %w: %s", err, a.said(0))
	}
	announce := "bulk\n"
	if a.silent {
		announce = ""
	}
	c, err := newCollector(conn.(*net.TCPConn), announce)
	if err != nil {
		return err
	}
	a.readers = append(a.readers, c)
	return nil
}

// warm feeds the agent slowly until every collector gets records.
func (a *agent) warm(ctx context.Context, b *bench, s *scene) error {
	if a.collectors == 0 {
		return nil
	}
	senders, err := b.traffic(warmUp[s.name])
	if err != nil {
		return err
	}
	for range 30 {
		if _, err := send(ctx, senders[:1], 100*time.Millisecond, 1000); err != nil {
			return err
		}
		some := 0
		for _, c := range a.readers {
			if c.quiet(200*time.Millisecond, 1) > 0 {
				some++
			}
		}
		if some == len(a.readers) {
			for _, c := range a.readers {
				c.base = c.quiet(200*time.Millisecond, 0)
			}
			return nil
		}
	}
	return fmt.Errorf("the agent sends no records: %s", a.said(0))
}

// seen counts what the collector that has got least has got. The agent's own
// count of losses is that of its summary.
func (a *agent) seen(want uint64) (got, dropped uint64, err error) {
	for i, c := range a.readers {
		n := c.quiet(settle, c.base+want) - c.base
		if got = min(got, n); i == 0 {
			got = n
		}
	}
	if a.log {
		// What was written is memory that was not free before.
		if err := os.Truncate(a.logFile, 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return got, 0, err
		}
	}
	if !a.ours() {
		return got, 0, nil
	}
	said, err := a.ask(unix.SIGUSR1, agentSummary)
	if err != nil {
		return got, 0, err
	}
	kernel, err1 := number(said, agentDropped)
	slow, err2 := number(said, agentSlow)
	return got, kernel + slow, errors.Join(err1, err2)
}

func (a *agent) stop() error {
	err := a.program.stop()
	for _, c := range a.all() {
		err = errors.Join(err, c.close())
	}
	if a.log {
		os.Remove(a.logFile)
	}
	return err
}

// cpu is what all collectors have used.
func (a *agent) collectorCPU() (d time.Duration) {
	for _, c := range a.all() {
		d += c.cpu()
	}
	return d
}

// all are the collectors, that of IPFIX included.
func (a *agent) all() []*collector {
	if a.digests == nil {
		return a.readers
	}
	return append(slices.Clone(a.readers), a.digests)
}
