// Siege kills the parts of a bus at random, servers, writers and publishers, and
// says what came of it: what was acknowledged and is in no file, what is in files
// twice, and how long nothing was acknowledged. All are processes of their own on
// loopback.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
)

func main() {
	bustest.Main()
	s := bustest.Siege{Say: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }}
	flag.BoolVar(&s.Local, "local", false, "one process without a bus, in place of a cluster")
	flag.IntVar(&s.Publishers, "publishers", 4, "processes that publish")
	flag.IntVar(&s.Writers, "writers", 2, "processes that write")
	flag.IntVar(&s.Rate, "rate", 1_000_000, "records/s together; 0 is as many as are taken")
	flag.IntVar(&s.Batch, "batch", 1000, "records in a batch")
	flag.IntVar(&s.Kills, "kills", 30, "how often something is killed")
	flag.DurationVar(&s.Pause, "pause", 4*time.Second, "time between kills, on average")
	flag.BoolVar(&s.Overlap, "overlap", false, "kill on although a server that was killed before has not caught up yet")
	flag.StringVar(&s.Dir, "dir", "", "where files are; default: a temporary directory")
	owners := flag.String("owners", "", "collectors share agents while this fails: \"all\", or some of "+strings.Join(bustest.Happenings(), ","))
	agents := flag.Int("agents", 24, "with -owners: agents")
	agentRate := flag.Int("agent-rate", 100, "with -owners: records/s of each agent")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := func() error { return run(ctx, &s) }
	if *owners != "" {
		o := &bustest.Owners{Agents: *agents, Rate: *agentRate, Say: s.Say, Events: strings.Split(*owners, ",")}
		if *owners == "all" {
			o.Events = bustest.Happenings()
		}
		do = func() error { return runOwners(ctx, o, s.Dir) }
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "siege:", err)
		os.Exit(1)
	}
}

// inDir calls f with a directory: dir, or a temporary one.
func inDir(dir string, f func(dir string) error) error {
	defer bustest.RemoveProgram()
	if dir != "" {
		return f(dir)
	}
	dir, err := os.MkdirTemp("/var/tmp", "pcapper-siege")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return f(dir)
}

// runOwners reports for how long agents were not collected.
func runOwners(ctx context.Context, o *bustest.Owners, dir string) error {
	return inDir(dir, func(dir string) error {
		o.Dir = dir
		list, err := o.Run(ctx)
		fmt.Print(bustest.OwnersTable(list))
		for _, r := range list {
			err = errors.Join(err, r.Check())
		}
		return err
	})
}

func run(ctx context.Context, s *bustest.Siege) error {
	return inDir(s.Dir, func(dir string) error {
		s.Dir = dir
		return kill(ctx, s)
	})
}

func kill(ctx context.Context, s *bustest.Siege) error {
	r, err := s.Run(ctx)
	if err != nil {
		return err
	}
	fmt.Print(r.Table())
	if r.Lost+r.Doubled > 0 {
		return fmt.Errorf("%d records lost, %d double", r.Lost, r.Doubled)
	}
	return nil
}
