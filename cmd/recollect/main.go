// Recollect is PCapper's collector: it dials the agents that a collector.conf
// names, tells flows apart, and prints grapher lines or shows a live view.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/pcapper/pcapper/internal/certs"
	"github.com/pcapper/pcapper/internal/collect"
)

// Exit codes; a clean end, also by a signal or a closed stdout, is 0.
const (
	exitFailure = 1
	exitUsage   = 12
)

//go:embed usage.txt
var usage string

// version is set by the build (-ldflags -X main.version=...).
var version = "development"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	flags := flag.NewFlagSet("recollect", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config := flags.String("c", "collector.conf", "")
	lines := flags.Bool("lines", false, "")
	var files certs.Files
	flags.StringVar(&files.Cert, "tls-cert", "", "")
	flags.StringVar(&files.Key, "tls-key", "", "")
	flags.StringVar(&files.CA, "tls-ca", "", "")
	showVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
		say("%v", err)
		say(`hint: "recollect -h" explains the options`)
		return exitUsage
	case *showVersion:
		fmt.Println("recollect", version)
		return 0
	}
	return start(*config, *lines, files)
}

func start(config string, lines bool, files certs.Files) int {
	file, err := collect.ReadFile(config)
	if err != nil {
		return explain(err)
	}
	ends := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) wants it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second signal kills
	signal.Ignore(syscall.SIGPIPE)
	summary := make(chan os.Signal, 1)
	signal.Notify(summary, syscall.SIGUSR1)
	return explain(collect.Run(ctx, collect.Config{
		File: file, Stdout: os.Stdout, Stderr: os.Stderr, Lines: lines, TLS: files, Summary: summary,
	}))
}

// explain prints err, if it is one, and what to do about it, and gives the
// exit code.
func explain(err error) int {
	if err == nil {
		return 0
	}
	if bad, ok := errors.AsType[*collect.ConfigError](err); ok {
		fmt.Fprintln(os.Stderr, bad)
		return exitFailure
	}
	say("%v", err)
	if errors.Is(err, fs.ErrNotExist) {
		say(`hint: name the configuration with -c FILE; "recollect -h" shows one`)
	}
	return exitFailure
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, collect.Prefix+format+"\n", args...)
}
