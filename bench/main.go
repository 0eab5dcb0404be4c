// Bench measures what capturing costs: packets per second without loss and CPU
// time per packet of bin/pcapper with a collector attached, beside tcpdump that
// throws everything away, in the same run.
//
// The sender is a host in a network namespace, on a veth pair, which sends
// frames of 64 bytes (60 and the checksum that a veth does not have) as fast as
// one processor can; taps run on that host and on another processor. What a tap
// makes the sender slower is part of its cost, and shown.
//
// It needs root, two processors and a machine that does nothing else.
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
)

// options are the command line.
type options struct {
	agent    string
	out      string
	duration time.Duration
	rounds   int
}

func main() {
	var opt options
	flag.StringVar(&opt.agent, "agent", "bin/pcapper", "the agent's program")
	flag.StringVar(&opt.out, "o", "bench/RESULTS.md", "write the results to this file as well")
	flag.DurationVar(&opt.duration, "t", 3*time.Second, "time of one measurement")
	flag.IntVar(&opt.rounds, "rounds", 3, "measurements of each tap, in turn")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opt); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures and reports; all it made is gone when it returns.
func run(ctx context.Context, opt options) (err error) {
	if opt.rounds < 1 || opt.duration <= 0 {
		return errors.New("-rounds and -t: want more than nothing")
	}
	b := &bench{opt: opt}
	defer b.cleanup()
	defer func() {
		if failure, ok := recover().(setupError); ok {
			err = failure
		}
	}()
	b.setUp()
	results, err := b.measure(ctx)
	if err != nil {
		return err
	}
	fmt.Println()
	fmt.Print(table(results))
	report := document(results, machine(), strings.Join(os.Args[1:], " "))
	if err := os.WriteFile(opt.out, []byte(report), 0o644); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return nil
}
