// Recollect is PCapper's collector: it connects to the agents listed in a
// collector.conf, assigns their records to flows, and prints grapher lines or displays
// a live view.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/downsample"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/ledger"
	"github.com/pcapper/pcapper/internal/transport/spool"
)

// Exit codes, those of the C program. A clean end, including by a signal or a closed
// stdout, is 0.
const (
	exitFailure = 1
	exitUsage   = 2
)

//go:embed usage.txt
var usage string

//go:embed replay.txt
var replayUsage string

//go:embed view.txt
var viewUsage string

// version is set by the build (-ldflags -X main.version=...).
var version = "development"

func main() { os.Exit(run(os.Args[1:])) }

// options holds the values of the command line.
type options struct {
	config, names, http     string
	page                    pageOptions
	password                string // user for whom to print a line
	keep                    keepOptions
	lines, resolve, version bool
	tls                     certs.Files

	command     string   // "", replay or view
	hosts       []string // to connect to, instead of the configuration's
	check       bool
	unconfined  bool
	verbose     bool
	replay      []string // logs and directories
	listen      []feed.Listen
	allow       []netip.Prefix // for listen
	speed, from string
	recorded    bool                   // the times of a replay
	open        []func() (sink, error) // for -export
	detail      *downsample.Rules
	named       bool // the configuration was named explicitly, so it must exist
}

// newFlags returns the flags of the program, which set o; query has its own.
func newFlags(o *options) *flag.FlagSet {
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
	flags.StringVar(&o.page.origins, "http-origin", "", "")
	flags.StringVar(&o.page.rules, "http-rules", "", "")
	flags.StringVar(&o.password, "http-password", "", "")
	flags.StringVar(&o.names, "names", "", "")
	flags.BoolVar(&o.resolve, "resolve", false, "")
	flags.StringVar(&o.tls.Cert, "tls-cert", "", "")
	flags.StringVar(&o.tls.Key, "tls-key", "", "")
	flags.StringVar(&o.tls.CA, "tls-ca", "", "")
	flags.StringVar(&o.keep.dir, "store", "", "")
	flags.StringVar(&o.keep.bus, "bus", "", "")
	flags.StringVar(&o.keep.keep, "keep", defaultKeep, "")
	flags.StringVar(&o.keep.digests, "keep-digests", "", "")
	flags.Func("spool", "", func(text string) (err error) {
		o.keep.spool, err = spool.Parse(text)
		return err
	})
	flags.BoolVar(&o.check, "check", false, "")
	flags.BoolVar(&o.unconfined, "unconfined", false, "")
	flags.BoolVar(&o.verbose, "v", false, "")
	flags.BoolVar(&o.version, "version", false, "")
	flags.Func("detail", "", o.setDetail)
	flags.Func("listen", "", func(text string) error {
		l, err := feed.ParseListen(text)
		o.listen = append(o.listen, l)
		return err
	})
	flags.Func("allow", "", func(text string) (err error) {
		o.allow, err = option.Networks(text)
		return err
	})
	flags.Func("export", "", o.setExport)
	flags.Func("sink", "", o.setExport) // an older spelling
	flags.Func("replay", "", func(path string) error { o.replay = append(o.replay, path); return nil })
	flags.StringVar(&o.speed, "speed", "1", "")
	flags.StringVar(&o.from, "from", "", "")
	flags.BoolVar(&o.recorded, "recorded-times", false, "")
	return flags
}

// parse parses what follows a command, or the program's name if there is none.
func parse(command string, args []string) (*options, error) {
	o := &options{command: command}
	flags := newFlags(o)
	// Flags may follow hosts and paths: recollect -replay a b -speed 2.
	for more := args; ; more = flags.Args()[1:] {
		if err := flags.Parse(more); err != nil {
			return nil, explainFlag(flags, err)
		}
		if flags.NArg() == 0 {
			break
		}
		if o.command == "replay" || o.replay != nil {
			o.replay = append(o.replay, flags.Arg(0))
		} else {
			o.hosts = append(o.hosts, flags.Arg(0))
		}
	}
	var err error
	flags.Visit(func(f *flag.Flag) {
		o.named = o.named || f.Name == "c"
		if o.http == "" && strings.HasPrefix(f.Name, "http-") && f.Name != "http-password" {
			err = fmt.Errorf("-%s without -http: want an address for the page", f.Name)
		}
		if strings.HasPrefix(f.Name, "keep") && o.keep.dir == "" {
			err = fmt.Errorf("-%s without -store: want a directory for what is kept", f.Name)
		}
		if f.Name == "spool" && o.keep.bus == "" {
			err = errors.New("-spool without -bus: want a bus that may be away")
		}
		if o.replay == nil && (f.Name == "speed" || f.Name == "from" || f.Name == "recorded-times") {
			err = fmt.Errorf("-%s without -replay: want logs to play", f.Name)
		}
		if f.Name == "allow" && o.listen == nil {
			err = errors.New("-allow without -listen: want an address that exporters send to")
		}
		if f.Name == "detail" && !o.keeps() {
			err = errors.New("-detail without -store, -bus or -sink: want something that keeps records")
		}
	})
	if err == nil {
		err = o.checkModes()
	}
	return o, err
}

// checkModes returns an error if the options cannot be combined.
func (o *options) checkModes() error {
	switch {
	case o.command == "replay" && o.replay == nil:
		return errors.New("replay: want log files, or directories of them")
	case o.command == "view" && o.replay != nil:
		return errors.New("view and -replay: want one of them")
	case o.hosts != nil && o.replay != nil:
		return fmt.Errorf("%q and -replay: want agents to dial, or logs to play", o.hosts[0])
	case o.replay != nil && o.listen != nil:
		return errors.New("-listen and -replay: want one of them")
	case o.replay != nil && o.keep.any():
		return errors.New("-replay with -store or -bus: want agents; what was kept is kept already")
	}
	return o.checkHosts()
}

// checkHosts returns an error if a host looks like a file.
func (o *options) checkHosts() error {
	for _, name := range o.hosts {
		if _, err := os.Stat(name); err == nil && !strings.ContainsAny(name, ":") {
			return fmt.Errorf("%q is a file or directory here: want -c %[1]s if it is a configuration, replay %[1]s if it has logs, or %[1]s:7073 if it is a host", name)
		}
	}
	return nil
}

// explainFlag explains what is wrong with a flag. The C program exits with 1 if -c has
// no value.
func explainFlag(flags *flag.FlagSet, err error) error {
	if err.Error() == "flag needs an argument: -c" {
		return errNoConfig
	}
	return option.Explain(flags, err)
}

var errNoConfig = errors.New("flag needs an argument: -c: want the name of a configuration")

// commands are the possible first arguments.
var commands = []string{"demo", "query", "replay", "trace", "view", "watch"}

// cutCommand returns the command and its arguments. The flag -query, the older
// spelling, may be anywhere.
func cutCommand(args []string) (command string, rest []string) {
	if len(args) > 0 && slices.Contains(commands, args[0]) {
		return args[0], args[1:]
	}
	isQuery := func(arg string) bool { return arg == "-query" || arg == "--query" }
	if slices.ContainsFunc(args, isQuery) {
		return "query", slices.DeleteFunc(slices.Clone(args), isQuery)
	}
	return "", args
}

// usageOf returns the help for a command.
func usageOf(command string) string {
	switch command {
	case "demo":
		return demoUsage
	case "query":
		return queryUsage
	case "replay":
		return replayUsage
	case "trace":
		return traceUsage
	case "view":
		return viewUsage
	case "watch":
		return watchUsage
	}
	return strings.Replace(usage, "{outputs}\n", outputs.Help(strings.Repeat(" ", 13), 80), 1)
}

// misused reports what is wrong with a command line, and returns the exit code.
func misused(command string, err error) int {
	if command != "" {
		command += " "
	}
	code := exitUsage
	if errors.Is(err, errNoConfig) {
		code = exitFailure
	}
	return explain(fault.WithCode(code, fault.WithHint(err, fmt.Sprintf(`"recollect %s-h" explains the options`, command))))
}

func run(args []string) int {
	command, args := cutCommand(args)
	switch command {
	case "demo":
		return runDemo(args)
	case "query":
		return runQuery(args)
	case "trace":
		return runTrace(args)
	case "watch":
		return runWatch(args)
	}
	o, err := parse(command, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usageOf(command))
		return 0
	case err != nil:
		return misused(command, err)
	case o.version:
		fmt.Println("recollect", version)
		return 0
	case o.password != "":
		return explain(printUser(o.password))
	case o.check:
		return o.checkFiles()
	}
	cfg := collector.Config{Stdout: os.Stdout, Stderr: os.Stderr, Lines: o.lines, RecordedTimes: o.recorded, TLS: o.tls, Detail: o.detail, Unconfined: o.unconfined, Verbose: o.verbose, Ledger: new(ledger.Book)}
	if err := o.read(&cfg); err != nil {
		return explain(err)
	}
	o.limitMemory()
	sinks, err := o.openSinks(&cfg)
	if err != nil {
		return explain(err)
	}
	if sinks, err = o.openPaths(&cfg, sinks); err != nil {
		sinks.abandon()
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

// limitMemory makes the garbage collector work harder, rather than let memory grow,
// unless the environment sets a limit (GOMEMLIMIT). It does not limit what is actually
// needed. With it, a page with a full history of a thousand agents takes less than 512
// MiB.
func (o *options) limitMemory() {
	limit := int64(math.MaxInt64)
	switch {
	case o.http != "":
		limit = 400 << 20
	case o.keep.dir != "":
		limit = 256 << 20
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// read reads the files named by the options into cfg.
func (o *options) read(cfg *collector.Config) (err error) {
	if err := o.readAgents(cfg); err != nil {
		return err
	}
	for _, line := range cfg.File.Warnings() {
		fmt.Fprintln(os.Stderr, line)
	}
	if cfg.Palette, err = collector.FindPalette(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		say("hint: names and colours of the other flows are used")
	}
	names, err := o.readNames()
	cfg.Names = collector.NewNames(names, o.resolve)
	return err
}

func (o *options) readNames() (*collector.NameFile, error) {
	if o.names == "" {
		return nil, nil
	}
	return collector.ReadNames(o.names)
}

// readAgents determines the agents, and the flows.
func (o *options) readAgents(cfg *collector.Config) (err error) {
	switch {
	case o.replay != nil:
		if cfg.Replay, err = collector.NewReplay(o.replay, o.speed, o.from); err == nil {
			cfg.File, err = o.readFlows(nil)
		}
	case o.hosts != nil:
		var hosts []collector.Host
		if hosts, err = collector.ParseHosts(o.hosts); err == nil {
			cfg.Listen, cfg.Allow = o.listen, o.allow
			cfg.File, err = o.readFlows(hosts)
		}
	case o.listen != nil || o.keep.bus != "":
		cfg.Listen, cfg.Allow = o.listen, o.allow
		// In that case, no agents have to be configured.
		if cfg.File, err = collector.ReadFile(o.config); errors.Is(err, fs.ErrNotExist) && !o.named {
			cfg.File, err = &collector.File{}, nil
		} else if err == nil && (o.listen != nil || len(cfg.File.Hosts) > 0) {
			cfg.Reload = o.config
		}
	default:
		cfg.Reload = o.config
		if cfg.File, err = collector.ReadFile(o.config); errors.Is(err, fs.ErrNotExist) {
			return fault.WithHint(err, `name agents, "recollect HOST", or a configuration, "recollect -c FILE"; "recollect -h" shows one`)
		}
		if err == nil && len(cfg.File.Hosts) == 0 && !o.check {
			say("%s; waiting for one", cfg.File.NoAgents())
		}
	}
	return err
}

// readFlows reads only the flows of the configuration, which may be missing.
func (o *options) readFlows(hosts []collector.Host) (*collector.File, error) {
	file, err := collector.ReadFile(o.config)
	if errors.Is(err, fs.ErrNotExist) && !o.named {
		if hosts == nil {
			say("no %s: all traffic is of no flow", o.config)
		}
		file, err = &collector.File{Name: o.config}, nil
	}
	if err != nil {
		return nil, err
	}
	return file.WithHosts(hosts), nil
}

// untilSignal returns a context that is done at the first signal that ends the program;
// a second signal kills it. SIGHUP also ends it, unless it has another purpose.
func untilSignal(hangup bool) (context.Context, context.CancelFunc) {
	ends := []os.Signal{syscall.SIGINT, syscall.SIGTERM}
	if hangup && !signal.Ignored(syscall.SIGHUP) { // respects nohup(1)
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)
	signal.Ignore(syscall.SIGPIPE)
	return ctx, stop
}

func start(cfg collector.Config, sinks sinks) int {
	ctx, stop := untilSignal(cfg.Replay != nil)
	defer stop()
	if cfg.Replay == nil && !signal.Ignored(syscall.SIGHUP) {
		reread := make(chan os.Signal, 1)
		signal.Notify(reread, syscall.SIGHUP)
		cfg.Reread = reread
	}
	summary := make(chan os.Signal, 1)
	signal.Notify(summary, syscall.SIGUSR1)
	cfg.Summary = summary
	err := sinks.around(ctx, func(ctx context.Context) error { return collector.Run(ctx, cfg) })
	sayLedger(cfg.Ledger)
	return explain(err)
}

// sayLedger prints what has become of all records, unless the program ends quietly.
func sayLedger(book *ledger.Book) {
	if !book.Announced() {
		return
	}
	for _, line := range book.Read().Lines() {
		say("%s", line)
	}
}

// explain prints err with its hint, unless it is nil, and returns the exit code.
func explain(err error) int {
	if err == nil {
		return 0
	}
	if bad, ok := errors.AsType[*collector.ConfigError](err); ok {
		fmt.Fprintln(os.Stderr, bad)
		return exitFailure
	}
	say("%v", err)
	if hint := fault.Hint(err); hint != "" {
		say("hint: %s", hint)
	}
	return fault.Code(err)
}

func say(format string, args ...any) {
	fmt.Fprintln(os.Stderr, collector.PrintableLines(collector.Prefix+fmt.Sprintf(format, args...)))
}
