package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/demo"
	"github.com/pcapper/pcapper/wire"
)

//go:embed demo.txt
var demoUsage string

// demonstration holds the options of demo.
type demonstration struct {
	http        string
	once, lines bool
	hosts       int
	length      time.Duration // with once
}

func newDemoFlags(d *demonstration) *flag.FlagSet {
	flags := flag.NewFlagSet("recollect demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&d.http, "http", "", "")
	flags.IntVar(&d.hosts, "hosts", 20, "")
	flags.BoolVar(&d.once, "once", false, "")
	flags.BoolVar(&d.lines, "lines", false, "")
	return flags
}

// runDemo runs the demo, and returns the exit code.
func runDemo(args []string) int {
	d := &demonstration{length: demo.Period}
	flags := newDemoFlags(d)
	err := flags.Parse(args)
	if err != nil {
		err = explainFlag(flags, err)
	}
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(demoUsage)
		return 0
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil && (d.hosts < 1 || d.hosts > demo.Most) {
		err = fmt.Errorf("-hosts %d: want a number from 1 to %d", d.hosts, demo.Most)
	}
	if err != nil {
		return misused("demo", err)
	}
	ctx, stop := untilSignal(true)
	defer stop()
	return explain(d.run(ctx))
}

// demoFlows are flows of a demo with so many hosts, and their names.
func demoFlows(network *demo.Network) (*collector.File, *collector.Palette) {
	f, p := &collector.File{Name: "demo"}, &collector.Palette{}
	for _, flow := range []struct {
		name        string
		kind        collector.FlowKind
		first, last uint32
	}{
		{"video", collector.MGEN, demo.Video, demo.Video},
		{"orders", collector.MGEN, demo.Orders, demo.Orders},
		{"voice", collector.MGEN, demo.Voice, demo.Voice},
		{"reports", collector.MGEN, demo.Reports, demo.Reports},
		{"web", collector.Service, 443, 443},
		{"mail", collector.Service, 587, 587},
		{"names", collector.Service, 53, 53},
		{"logins", collector.Service, 22, 22},
		{"routing", collector.Service, 698, 698},
	} {
		p.Flows = append(p.Flows, collector.FlowStyle{Name: flow.name})
		apart := uint32(0)
		for range network.Columns() {
			f.Flows = append(f.Flows, collector.Flow{ID: uint32(len(p.Flows)), Kind: flow.kind, First: flow.first + apart, Last: flow.last + apart})
			if flow.kind != collector.MGEN {
				break
			}
			apart += demo.FlowsApart
		}
	}
	return f, p
}

func (d *demonstration) run(ctx context.Context) error {
	cfg := collector.Config{Stdout: os.Stdout, Stderr: os.Stderr, Lines: d.lines, Source: &collector.Source{Run: d.play}}
	network := demo.New(d.hosts)
	names := &collector.NameFile{Addrs: network.Names()}
	for _, h := range network.Hosts() {
		cfg.Source.Hosts = append(cfg.Source.Hosts, collector.Host{Label: h.Name, Name: h.Addr.String(), From: true, IPFIX: true})
	}
	cfg.File, cfg.Palette = demoFlows(network)
	cfg.Names = collector.NewNames(names, false)
	if err := addLocalPage(&cfg, d.http); err != nil {
		return err
	}
	for _, m := range network.Members() {
		cfg.Paths.Join(0, cfg.Paths.Agent(network.Hosts()[m.Agent].Name), m.Group.As16(), true)
	}
	return collector.Run(ctx, cfg)
}

const (
	// demoStep is the interval at which records are generated.
	demoStep = 50 * time.Millisecond
	// demoLag is the age of records at that time, so that none is in the future,
	// although later hops have later times.
	demoLag = 60 * time.Millisecond
)

// play generates records in real time.
func (d *demonstration) play(ctx context.Context, take func(host int, records []wire.Record)) error {
	tick := time.NewTicker(demoStep)
	defer tick.Stop()
	from := time.Now().Add(-demoLag)
	end := from.Add(d.length)
	network := demo.New(d.hosts)
	var list []demo.Record
	one := make([]wire.Record, 1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			to := now.Add(-demoLag)
			if to.Sub(from) > 5*time.Second { // suspended: what was missed is not made up for
				from = to.Add(-demoStep)
			}
			if d.once && to.After(end) {
				to = end
			}
			list = network.Records(list[:0], from, to)
			for i := range list {
				one[0] = list[i].Record
				take(list[i].Agent, one)
			}
			from = to
			if d.once && !to.Before(end) {
				return nil
			}
		}
	}
}
