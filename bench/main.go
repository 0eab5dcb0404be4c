// Bench measures what capturing costs: how much slower the observed host sends,
// how much CPU time a packet takes, how many packets are lost, and how late they
// are told, for bin/pcapper with its engines beside others: a program in the
// kernel that only counts, a minimal agent with the same kernel program, tcpdump
// that throws everything away, softflowd, and
// the C agent, if BENCH_C_PCAPPER names one.
//
// The watched host is in a network namespace. One processor
// sends, all taps and collectors run on another. Taps take turns in several
// rounds, so that a slow minute of the machine hits all alike; figures are
// medians. A cell is a tap with a traffic; -cells picks some by their names,
// which -list prints.
//
// It needs root, two processors and a machine that does nothing else. A whole
// run starts each tap a few dozen times: kernels do not like it much faster, as
// they free socket filters at leisure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/bench/minimal"
)

// options are the command line.
type options struct {
	agent    string
	object   string
	cAgent   string
	out      string
	duration time.Duration
	rounds   int
	cells    *regexp.Regexp
	list     bool
	args     string
}

func parse(args []string) (options, error) {
	opt := options{cAgent: os.Getenv("BENCH_C_PCAPPER"), args: strings.Join(args, " ")}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&opt.agent, "agent", "bin/pcapper", "the agent's program")
	f.StringVar(&opt.object, "object", "internal/agent/capture/tap_bpfel_linux.o", "the agent's kernel program, for the minimal agent")
	f.StringVar(&opt.out, "o", "bench/RESULTS.md", "write the results to this `file` as well; none if empty")
	f.DurationVar(&opt.duration, "t", 500*time.Millisecond, "time of one measurement")
	f.IntVar(&opt.rounds, "rounds", 3, "measurements of each cell, in turn")
	cells := f.String("cells", "", "measure only cells whose name matches this `regexp`")
	quick := f.Bool("quick", false, "one short round, and no file: to see whether all works")
	f.BoolVar(&opt.list, "list", false, "print the names of all cells and exit")
	if err := f.Parse(args); err != nil {
		return opt, err
	}
	if *quick {
		opt.rounds, opt.duration, opt.out = 1, 300*time.Millisecond, ""
	}
	if opt.rounds < 1 || opt.duration <= 0 || f.NArg() > 0 {
		return opt, errors.New("-rounds and -t: want more than nothing, and no other arguments")
	}
	var err error
	opt.cells, err = regexp.Compile(*cells)
	return opt, err
}

// minimalWord as the first argument makes this program the minimal agent.
const minimalWord = "minimal-agent"

func main() {
	if len(os.Args) > 1 && os.Args[1] == minimalWord {
		fmt.Fprintln(os.Stderr, "bench: minimal agent:", minimal.Run(os.Args[2:]))
		os.Exit(1)
	}
	opt, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err == nil {
		err = run(ctx, opt)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and reports; all it made is gone when it returns.
func run(ctx context.Context, opt options) (err error) {
	if opt.list {
		for _, name := range cellNames() {
			fmt.Println(name)
		}
		return nil
	}
	b := newBench(opt)
	defer b.cleanup()
	defer func() {
		if failure, ok := recover().(setupError); ok {
			err = failure
		}
	}()
	b.setUp()
	begin := time.Now()
	r, err := b.measure(ctx)
	if err != nil {
		return err
	}
	r.about = about(opt.args, time.Since(begin))
	fmt.Println()
	fmt.Print(terminal(r))
	if opt.out == "" {
		return nil
	}
	if err := os.WriteFile(opt.out, []byte(document(r)), 0o644); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return nil
}
