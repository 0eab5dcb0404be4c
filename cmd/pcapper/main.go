// Command pcapper watches a network interface, turns each packet into a small record,
// and sends it to every attached collector.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/pcapper/pcapper/internal/agent"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/host/fault"
)

// version is set by the build (-ldflags -X main.version=...).
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// After the first signal, the next one has its default effect: it kills the
	// program.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its dependencies as arguments, and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "cert" {
		return makeCerts(args[1:], stdout, stderr)
	}
	cmd, err := parse(args, stderr)
	if err != nil {
		return report(stderr, err)
	}
	cmd.cfg.Stderr, cmd.cfg.Stdout = stderr, stdout
	if cmd.untilEOF {
		ctx = untilEOF(ctx, os.Stdin)
	}
	switch cmd.action {
	case actionHelp:
		io.WriteString(stdout, usage())
	case actionVersion:
		fmt.Fprintln(stdout, "pcapper", version)
	case actionList:
		err = list(stdout)
	case actionRead:
		err = agent.ReadFile(ctx, cmd.cfg)
	case actionCheck:
		err = agent.Check(ctx, cmd.cfg)
	default:
		setProcessors(cmd.cfg.Several())
		err = agent.Run(ctx, cmd.cfg)
	}
	switch {
	case err == nil:
	case !errors.Is(err, context.Canceled) || ctx.Err() == nil:
		return report(stderr, err)
	case cmd.action == actionCheck:
		return report(stderr, errInterrupted)
	}
	return 0 // stopped while waiting for the interface
}

// untilEOF returns a context that is done when ctx is, or when in ends. A pipe ends
// when the last process that has its other end open ends, even if killed. (A signal by
// PR_SET_PDEATHSIG would not survive our change of user.)
func untilEOF(ctx context.Context, in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in)
	}()
	return ctx
}

// errInterrupted means that nothing is known to work.
var errInterrupted = errors.New("interrupted before everything was tried")

// setProcessors sets how many processors may run our code at the same time: at least
// two for one interface, because its capture keeps one while it is busy (see
// capture.Tap). With several interfaces, work arrives in small pieces, and waking
// another thread for a piece costs more than the piece, so the default is an eighth of
// the processors; GOMAXPROCS in the environment overrides it. One processor is enough
// for millions of packets per second.
func setProcessors(several bool) {
	switch {
	case !several:
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 2))
	case os.Getenv("GOMAXPROCS") == "":
		runtime.GOMAXPROCS(max(runtime.NumCPU()/8, 1))
	}
}

// report prints an error with its hint and returns its exit code.
func report(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "pcapper: %v\n", err)
	if hint := fault.Hint(err); hint != "" {
		fmt.Fprintf(stderr, "pcapper: hint: %s\n", hint)
	}
	return fault.Code(err)
}

// list prints the existing interfaces.
func list(stdout io.Writer) error {
	all, err := iface.List()
	if err != nil {
		return fmt.Errorf("cannot list the interfaces: %w", err)
	}
	for _, i := range all {
		fmt.Fprintln(stdout, i)
	}
	return nil
}
