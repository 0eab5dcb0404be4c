package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"unicode"

	"github.com/pcapper/pcapper/internal/collector"
)

//go:embed watch.txt
var watchUsage string

// watching holds the options of watch.
type watching struct {
	iface, http, names string
	numeric, lines     bool
}

func newWatchFlags(w *watching) *flag.FlagSet {
	flags := flag.NewFlagSet("recollect watch", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&w.http, "http", "", "")
	flags.StringVar(&w.names, "names", "", "")
	flags.BoolVar(&w.numeric, "numeric", false, "")
	flags.BoolVar(&w.lines, "lines", false, "")
	return flags
}

func parseWatch(args []string) (*watching, error) {
	w := &watching{}
	flags := newWatchFlags(w)
	for more := args; ; more = flags.Args()[1:] {
		if err := flags.Parse(more); err != nil {
			return nil, explainFlag(flags, err)
		}
		if flags.NArg() == 0 {
			return w, nil
		}
		if w.iface != "" {
			return nil, fmt.Errorf("%q: want one interface; pcapper -i %s,%[1]s and recollect watch several", flags.Arg(0), w.iface)
		}
		w.iface = flags.Arg(0)
	}
}

// runWatch watches this host, and returns the exit code.
func runWatch(args []string) int {
	w, err := parseWatch(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(watchUsage)
		return 0
	}
	if err != nil {
		return misused("watch", err)
	}
	ctx, stop := untilSignal(true)
	defer stop()
	return explain(w.run(ctx))
}

func (w *watching) run(ctx context.Context) error {
	names, err := (&options{names: w.names}).readNames()
	if err != nil {
		return err
	}
	agent, err := startAgent(ctx, w.iface)
	if err != nil {
		return err
	}
	defer agent.end()
	label := hostLabel()
	file, palette := collector.Services()
	cfg := collector.Config{
		File:   file.WithHosts([]collector.Host{{Label: label, Name: "127.0.0.1", Port: agent.port, IPFIX: true}}),
		Stdout: os.Stdout, Stderr: os.Stderr, Lines: w.lines, ShowTalk: true,
		Palette: palette, Names: collector.NewNames(withOwn(names, label, agent.iface), !w.numeric),
	}
	if err := addLocalPage(&cfg, w.http); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := make(chan error, 1)
	go func() {
		select {
		case <-agent.ended:
			lost <- agent.failure("has ended")
			cancel()
		case <-ctx.Done():
			lost <- nil
		}
	}()
	err = collector.Run(ctx, cfg)
	cancel()
	return cmp.Or(err, <-lost)
}

// localPage is the default address of the page for commands that take no configuration.
const localPage = "127.0.0.1:7080"

// addLocalPage is addPage with an optional address: without one, it uses another port
// if localPage is taken.
func addLocalPage(cfg *collector.Config, address string) error {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(400 << 20) // see options.limitMemory
	}
	err := addPage(cfg, cmp.Or(address, localPage), pageOptions{}, nil)
	if address == "" && errors.Is(err, syscall.EADDRINUSE) {
		return addPage(cfg, "127.0.0.1:0", pageOptions{}, nil)
	}
	return err
}

// hostLabel returns this host's name as a label.
func hostLabel() string {
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	name = strings.Map(func(r rune) rune {
		if r == ':' || !unicode.IsPrint(r) || unicode.IsSpace(r) {
			return '-'
		}
		return r
	}, name)
	return cmp.Or(name, "here")
}

// withOwn adds this host's own addresses to names, which may lack them, and the watched
// interface as the name of its agent.
func withOwn(names *collector.NameFile, label, iface string) *collector.NameFile {
	if names == nil {
		names = &collector.NameFile{Addrs: make(map[netip.Addr]string), Labels: make(map[string]string)}
	}
	if iface != "" && names.Labels[label] == "" {
		names.Labels[label] = iface
	}
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a.String())
		if addr := p.Addr().WithZone("").Unmap(); err == nil && names.Addrs[addr] == "" {
			names.Addrs[addr] = label
		}
	}
	return names
}
