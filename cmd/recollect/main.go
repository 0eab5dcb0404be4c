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
	"strings"
	"syscall"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/keep"
	"github.com/pcapper/pcapper/internal/collector/web"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/degrade"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/spool"
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

// options are what the command line says.
type options struct {
	config, names, http     string
	page                    pageOptions
	password                string // the user to print a line for
	keep                    keepOptions
	lines, resolve, version bool
	tls                     certs.Files

	unconfined  bool
	verbose     bool
	replay      []string // logs and directories
	listen      []feed.Listen
	speed, from string
	sinks       []string
	detail      *degrade.Rules
	named       bool // the configuration was named, so it must be there
}

func parse(args []string) (*options, error) {
	o := &options{}
	flags := flag.NewFlagSet("recollect", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.config, "c", "collector.conf", "")
	flags.BoolVar(&o.lines, "lines", false, "")
	flags.StringVar(&o.http, "http", "", "")
	flags.StringVar(&o.page.cert, "http-cert", "", "")
	flags.StringVar(&o.page.key, "http-key", "", "")
	flags.StringVar(&o.page.users, "http-users", "", "")
	flags.StringVar(&o.page.token, "http-token", "", "")
	flags.BoolVar(&o.page.open, "http-open", false, "")
	flags.StringVar(&o.password, "http-password", "", "")
	flags.StringVar(&o.names, "names", "", "")
	flags.BoolVar(&o.resolve, "resolve", false, "")
	flags.StringVar(&o.tls.Cert, "tls-cert", "", "")
	flags.StringVar(&o.tls.Key, "tls-key", "", "")
	flags.StringVar(&o.tls.CA, "tls-ca", "", "")
	flags.StringVar(&o.keep.dir, "store", "", "")
	flags.StringVar(&o.keep.bus, "bus", "", "")
	flags.StringVar(&o.keep.keep, "keep", defaultKeep, "")
	flags.Func("spool", "", func(text string) (err error) {
		o.keep.spool, err = spool.Parse(text)
		return err
	})
	flags.BoolVar(&o.unconfined, "unconfined", false, "")
	flags.BoolVar(&o.verbose, "v", false, "")
	flags.BoolVar(&o.version, "version", false, "")
	flags.Func("detail", "", o.setDetail)
	flags.Func("listen", "", func(text string) error {
		l, err := feed.ParseListen(text)
		o.listen = append(o.listen, l)
		return err
	})
	flags.Func("sink", "", func(text string) error { o.sinks = append(o.sinks, text); return nil })
	flags.Func("replay", "", func(path string) error { o.replay = append(o.replay, path); return nil })
	flags.StringVar(&o.speed, "speed", "1", "")
	flags.StringVar(&o.from, "from", "", "")
	// Paths may follow -replay's, and flags the paths: recollect -replay a b -speed 2.
	for more := args; ; more = flags.Args()[1:] {
		if err := flags.Parse(more); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			break
		}
		if o.replay == nil {
			return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
		}
		o.replay = append(o.replay, flags.Arg(0))
	}
	var err error
	flags.Visit(func(f *flag.Flag) {
		o.named = o.named || f.Name == "c"
		if o.http == "" && strings.HasPrefix(f.Name, "http-") && f.Name != "http-password" {
			err = fmt.Errorf("-%s without -http: want an address for the page", f.Name)
		}
		if f.Name == "keep" && o.keep.dir == "" {
			err = errors.New("-keep without -store: want a directory for what is kept")
		}
		if f.Name == "spool" && o.keep.bus == "" {
			err = errors.New("-spool without -bus: want a bus that may be away")
		}
		if o.replay == nil && (f.Name == "speed" || f.Name == "from") {
			err = fmt.Errorf("-%s without -replay: want logs to play", f.Name)
		}
		if f.Name == "detail" && !o.keeps() {
			err = errors.New("-detail without -store, -bus or -sink: want something that keeps records")
		}
	})
	if err == nil && o.replay != nil && o.listen != nil {
		err = errors.New("-listen and -replay: want one of them")
	}
	if err == nil && o.replay != nil && o.keep.any() {
		err = errors.New("-replay with -store or -bus: want agents; what was kept is kept already")
	}
	return o, err
}

func run(args []string) int {
	if len(args) > 0 && (args[0] == "-query" || args[0] == "--query") {
		return runQuery(args[1:])
	}
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return 0
	case err != nil:
		say("%v", err)
		say(`hint: "recollect -h" explains the options`)
		return exitUsage
	case o.version:
		fmt.Println("recollect", version)
		return 0
	case o.password != "":
		return explain(printUser(o.password))
	}
	cfg := collector.Config{Stdout: os.Stdout, Stderr: os.Stderr, Lines: o.lines, TLS: o.tls, Detail: o.detail, Unconfined: o.unconfined, Verbose: o.verbose}
	if err := o.read(&cfg); err != nil {
		return explain(err)
	}
	sinks, err := o.openSinks(&cfg)
	if err != nil {
		return explain(err)
	}
	if o.http != "" {
		if err := addPage(&cfg, o.http, o.page, sinks); err != nil {
			sinks.abandon()
			return explain(err)
		}
	}
	return start(cfg, sinks)
}

// read reads the files that the options name into cfg.
func (o *options) read(cfg *collector.Config) (err error) {
	if o.replay != nil {
		if err := o.readReplay(cfg); err != nil {
			return err
		}
	} else if o.listen != nil || o.keep.bus != "" {
		cfg.Listen = o.listen
		// Nobody need be dialled then.
		if cfg.File, err = collector.ReadFlows(o.config); errors.Is(err, fs.ErrNotExist) && !o.named {
			cfg.File = &collector.File{}
		} else if err != nil {
			return err
		}
	} else if cfg.File, err = collector.ReadFile(o.config); errors.Is(err, fs.ErrNotExist) {
		return hinted{err, `name the configuration with -c FILE; "recollect -h" shows one`}
	} else if err != nil {
		return err
	}
	if cfg.Palette, err = collector.FindPalette(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		say("hint: names and colours of the other flows are used")
	}
	var names *collector.NameFile
	if o.names != "" {
		if names, err = collector.ReadNames(o.names); err != nil {
			return err
		}
	}
	cfg.Names = collector.NewNames(names, o.resolve)
	return nil
}

// readReplay finds the logs. Of the configuration only the flows matter, and
// there need be none.
func (o *options) readReplay(cfg *collector.Config) (err error) {
	if cfg.Replay, err = collector.NewReplay(o.replay, o.speed, o.from); err != nil {
		return err
	}
	cfg.File, err = collector.ReadFlows(o.config)
	if errors.Is(err, fs.ErrNotExist) && !o.named {
		say("no %s: all traffic is of no flow", o.config)
		cfg.File, err = &collector.File{}, nil
	}
	return err
}

// untilSignal is done at the first signal that ends the program; a second kills.
func untilSignal() (context.Context, context.CancelFunc) {
	ends := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) wants it
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)
	signal.Ignore(syscall.SIGPIPE)
	return ctx, stop
}

func start(cfg collector.Config, sinks sinks) int {
	ctx, stop := untilSignal()
	defer stop()
	summary := make(chan os.Signal, 1)
	signal.Notify(summary, syscall.SIGUSR1)
	cfg.Summary = summary
	return explain(sinks.around(ctx, func(ctx context.Context) error { return collector.Run(ctx, cfg) }))
}

// hinted is an error and the next step to take.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// explain prints err, if it is one, and what to do about it, and gives the
// exit code.
func explain(err error) int {
	if err == nil {
		return 0
	}
	if bad, ok := errors.AsType[*collector.ConfigError](err); ok {
		fmt.Fprintln(os.Stderr, bad)
		return exitFailure
	}
	say("%v", err)
	if hint, ok := sinkHint(err); ok {
		say("hint: %s", hint)
	}
	if h, ok := errors.AsType[hinted](err); ok {
		say("hint: %s", h.hint)
	} else if hint := keep.Hint(err); hint != "" {
		say("hint: %s", hint)
	}
	if e, ok := errors.AsType[*web.Error](err); ok {
		say("hint: %s", e.Hint)
	}
	return exitFailure
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, collector.Prefix+format+"\n", args...)
}
