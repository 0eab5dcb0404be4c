package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/keep"
	"github.com/pcapper/pcapper/internal/collector/path"
)

//go:embed trace.txt
var traceUsage string

// tracing holds the options of trace.
type tracing struct {
	options
	query      path.Query
	lost, json bool
	every, end time.Duration
	window     time.Duration
	top        int
	from, to   time.Time // of what -store has kept; from zero: live

	engine *path.Engine
	out    io.Writer
	screen bool
	told   map[uint64]int64 // times of the lost packets that were printed, by digest
}

// runTrace displays paths, and returns the exit code.
func runTrace(args []string) int {
	t, err := parseTrace(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(traceUsage)
		return 0
	}
	if err != nil {
		return misused("trace", err)
	}
	return explain(t.run())
}

func newTraceFlags(t *tracing) *flag.FlagSet {
	flags := flag.NewFlagSet("recollect trace", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&t.config, "c", "collector.conf", "")
	flags.DurationVar(&t.every, "every", 0, "")
	flags.DurationVar(&t.end, "for", 0, "")
	flags.DurationVar(&t.window, "window", path.DefaultWindow, "")
	flags.IntVar(&t.top, "top", 10, "")
	flags.Func("flow", "", t.setFlow)
	flags.Func("src", "", address(&t.query.Src))
	flags.Func("dst", "", address(&t.query.Dst))
	flags.Func("group", "", address(&t.query.Dst))
	flags.StringVar(&t.keep.dir, "store", "", "")
	flags.StringVar(&t.keep.bus, "bus", "", "")
	flags.Func("from", "", func(text string) (err error) { t.from, err = parseTime(text, time.Now()); return err })
	flags.Func("to", "", func(text string) (err error) { t.to, err = parseTime(text, time.Now()); return err })
	flags.Func("packets", "", word(&t.lost, "lost", ""))
	flags.Func("format", "", word(&t.json, "json", "text"))
	return flags
}

func parseTrace(args []string) (*tracing, error) {
	t := &tracing{out: os.Stdout, screen: term.IsTerminal(int(os.Stdout.Fd())), told: map[uint64]int64{}}
	flags := newTraceFlags(t)
	for more := args; ; more = flags.Args()[1:] {
		if err := flags.Parse(more); err != nil {
			return nil, explainFlag(flags, err)
		}
		if flags.NArg() == 0 {
			break
		}
		host := flags.Arg(0)
		if !strings.Contains(host, "://") {
			host = "ipfix://" + host
		}
		t.hosts = append(t.hosts, host)
	}
	var given []string
	flags.Visit(func(f *flag.Flag) { given = append(given, f.Name) })
	t.named = slices.Contains(given, "c")
	if !t.from.IsZero() || !t.to.IsZero() || t.keep.dir != "" {
		return t, t.checkPast(given)
	}
	if t.window <= 0 || t.every < 0 || t.end < 0 || t.top < 1 {
		return nil, errors.New("-window, -every, -for and -top: want more than 0")
	}
	if t.keep.bus != "" && t.hosts != nil {
		return nil, fmt.Errorf("%q and -bus: want agents to dial, or those that others have", t.hosts[0])
	}
	t.screen = t.screen && !t.json && !t.lost
	if t.every == 0 && (t.screen || t.json || t.lost) {
		t.every = 2 * time.Second
	}
	return t, t.checkHosts()
}

// checkPast returns an error if what is asked of the past does not go together.
func (t *tracing) checkPast(given []string) error {
	if t.to.IsZero() {
		t.to = time.Now()
	}
	for _, name := range []string{"bus", "c", "every", "for", "window"} {
		if slices.Contains(given, name) {
			return fmt.Errorf("-%s and -from: want one of them; what was kept is printed once", name)
		}
	}
	switch {
	case t.keep.dir == "":
		return errors.New("-from without -store: want the directory that recollect -store keeps")
	case t.from.IsZero():
		return errors.New("-store without -from: want a time, as 15:00 or -90m")
	case t.hosts != nil:
		return fmt.Errorf("%q and -from: want agents to dial, or what was kept", t.hosts[0])
	case !t.from.Before(t.to):
		return fmt.Errorf("-from %v is not before -to %v", t.from.Format(time.DateTime), t.to.Format(time.DateTime))
	case t.top < 1:
		return errors.New("-top: want more than 0")
	}
	return nil
}

// printPast prints what was kept.
func (t *tracing) printPast(ctx context.Context) error {
	kept := keep.Past{Dir: t.keep.dir}
	from, to := t.from.UnixNano(), t.to.UnixNano()
	if t.lost {
		list, err := kept.Ended(ctx, from, to, t.query, 0)
		if err != nil {
			return err
		}
		return t.writeLost(list)
	}
	p, err := kept.Paths(ctx, from, to, t.query)
	if err != nil {
		return err
	}
	for _, bad := range p.Damaged {
		say("%v", bad)
	}
	r := p.Report(t.top)
	if t.json {
		err = t.printJSON(&r)
	} else {
		var b strings.Builder
		writeSpan(&b, &r)
		writeReport(&b, &r)
		_, err = io.WriteString(t.out, b.String())
	}
	if err == nil && p.Damaged != nil {
		err = fmt.Errorf("%d files could not be read, or not completely", len(p.Damaged))
	}
	return err
}

// writeSpan says of which time something is known.
func writeSpan(b *strings.Builder, r *path.Report) {
	if r.Seconds == 0 {
		return
	}
	at := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.DateTime) }
	fmt.Fprintf(b, "from %s to %s UTC", at(r.From), at(r.Now))
	if missing := time.Duration(r.Now-r.From).Truncate(time.Second) - time.Duration(r.Seconds)*time.Second; missing > 0 {
		fmt.Fprintf(b, "; of %v of that nothing is known", missing)
	}
	b.WriteByte('\n')
}

func (t *tracing) setFlow(text string) error {
	id, err := strconv.ParseUint(strings.TrimPrefix(text, "M"), 10, 32)
	if err != nil {
		return errors.New("want the ID of an MGEN flow, such as 12 or M12")
	}
	short := uint32(id)
	t.query.MGEN = &short
	return nil
}

func address(to *netip.Addr) func(string) error {
	return func(text string) (err error) {
		if *to, err = netip.ParseAddr(text); err != nil {
			return errors.New("want an address")
		}
		return nil
	}
}

// word returns a setter for a flag that accepts yes or no, and is true for yes.
func word(to *bool, yes, no string) func(string) error {
	return func(text string) error {
		switch *to = text == yes; {
		case *to, no != "" && text == no:
			return nil
		case no == "":
			return fmt.Errorf("want %s", yes)
		}
		return fmt.Errorf("want %s or %s", yes, no)
	}
}

func (t *tracing) run() error {
	if !t.from.IsZero() {
		ctx, stop := untilSignal(true)
		defer stop()
		return t.printPast(ctx)
	}
	cfg := collector.Config{Stderr: os.Stderr, Lines: true}
	if err := t.read(&cfg); err != nil {
		return err
	}
	bus := func(ctx context.Context) error { <-ctx.Done(); return nil }
	if t.keep.bus != "" {
		cfg.Reload, cfg.File.Hosts = "", nil
		k, err := keep.Open(keep.Config{URL: t.keep.bus, Say: say})
		if err != nil {
			return err
		}
		bus = k.Run
		cfg.Follow = &collector.Follow{Agents: known(k), Run: k.Follow, Connected: k.Connected}
	}
	for _, h := range cfg.File.Hosts {
		if !h.IPFIX && !h.From {
			say("%s: sends 28-byte records, which no packet can be recognized by", h.Label)
			say("hint: write ipfix://%s in %s, and start the agent with -ipfix-port 4739", h.Name, t.config)
		}
	}
	nothing, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer nothing.Close()
	cfg.Stdout = nothing
	t.engine = path.New(path.Config{Window: t.window})
	cfg.Paths = t.engine
	ctx, stop := untilSignal(true)
	defer stop()
	if t.end > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.end)
		defer cancel()
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus(ctx) })
	g.Go(func() error { return collector.Run(ctx, cfg) })
	g.Go(func() error { return t.show(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return t.print() // includes packets whose window was still open
}

// show prints periodically.
func (t *tracing) show(ctx context.Context) error {
	if t.every == 0 {
		return nil
	}
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := t.print(); err != nil {
				return err
			}
		}
	}
}

func (t *tracing) print() error {
	if t.lost {
		return t.printLost()
	}
	r := t.engine.Report(t.query, t.top)
	if t.json {
		return t.printJSON(&r)
	}
	var b strings.Builder
	if t.screen {
		b.WriteString("\x1b[H\x1b[2J")
	}
	writeReport(&b, &r)
	_, err := io.WriteString(t.out, b.String())
	return err
}

// printJSON prints a line per flow, with the time and the share of packets that is
// tracked.
func (t *tracing) printJSON(r *path.Report) error {
	e := json.NewEncoder(t.out)
	for i := range r.Flows {
		line := struct {
			Now     int64   `json:"now_ns"`
			Sampled float64 `json:"sampled"`
			*path.Flow
		}{r.Now, r.Sampled, &r.Flows[i]}
		if err := e.Encode(&line); err != nil {
			return err
		}
	}
	return nil
}

// printLost prints the lost packets that have not been printed yet.
func (t *tracing) printLost() error {
	return t.writeLost(t.engine.Ended(t.query))
}

func (t *tracing) writeLost(list []path.Ended) error {
	e := json.NewEncoder(t.out)
	kept := make(map[uint64]int64, len(list))
	for i := range list {
		w := &list[i]
		kept[w.Digest] = w.Time
		if t.told[w.Digest] == w.Time {
			continue
		}
		var err error
		if t.json {
			err = e.Encode(w)
		} else {
			_, err = fmt.Fprintln(t.out, lostLine(w))
		}
		if err != nil {
			return err
		}
	}
	t.told = kept
	return nil
}

func lostLine(w *path.Ended) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %016x  %s", time.Unix(0, w.Time).UTC().Format("15:04:05.000000"), w.Digest, flowName(&w.Flow))
	if w.Seq != nil {
		fmt.Fprintf(&b, " seq %d", *w.Seq)
	}
	where := w.At.Agent
	switch w.Outcome {
	case path.Dropped:
		fmt.Fprintf(&b, ": dropped at %s", where)
		if w.Reason != "" {
			fmt.Fprintf(&b, " because of %s", w.Reason)
		}
	case path.Lost:
		fmt.Fprintf(&b, ": lost behind %s (%s)", where, w.At.Stage)
		if w.Towards.Agent != "" {
			fmt.Fprintf(&b, ", towards %s", w.Towards.Agent)
		}
	case path.Unobserved:
		fmt.Fprintf(&b, ": seen last at %s (%s); %s was not watching", where, w.At.Stage, w.Towards.Agent)
	default:
		fmt.Fprintf(&b, ": seen last at %s (%s), and heard by nobody", where, w.At.Stage)
	}
	return b.String()
}

// flowName formats a flow: "M12 10.0.0.1:1000 > 10.0.0.2:5000 udp".
func flowName(t *path.Tuple) string {
	name := ""
	if t.MGEN != nil {
		name = fmt.Sprintf("M%d ", *t.MGEN)
	}
	protocol := map[uint8]string{1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6"}[t.Proto]
	if protocol == "" {
		protocol = fmt.Sprintf("protocol %d", t.Proto)
	}
	if t.SrcPort|t.DstPort == 0 {
		return fmt.Sprintf("%s%v > %v %s", name, t.Src, t.Dst, protocol)
	}
	return fmt.Sprintf("%s%v > %v %s", name, netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort), protocol)
}

func writeReport(b *strings.Builder, r *path.Report) {
	switch {
	case len(r.Flows) == 0 && r.Window == 0:
		b.WriteString("no such packets were kept of that time\n")
		return
	case len(r.Flows) == 0:
		fmt.Fprintf(b, "no packets yet: %d records", r.Observations)
		if r.NoDigest > 0 {
			fmt.Fprintf(b, ", %d of them of packets that cannot be recognized elsewhere", r.NoDigest)
		}
		fmt.Fprintf(b, "; a packet is counted %v after it was seen first\n", time.Duration(r.Window))
		return
	}
	for i := range r.Flows {
		writeFlow(b, &r.Flows[i])
	}
	fmt.Fprintf(b, "%d packets joined, %d ambiguous", r.Packets, r.Ambiguous)
	if r.NoDigest > 0 {
		fmt.Fprintf(b, ", %d records without a digest", r.NoDigest)
	}
	if r.NotSelected > 0 {
		fmt.Fprintf(b, "; a sample: %.4g %% of the packets are looked at now", 100*r.Sampled)
	}
	b.WriteByte('\n')
}

func writeFlow(b *strings.Builder, f *path.Flow) {
	fmt.Fprintf(b, "%s: %d packets", flowName(&f.Tuple), f.Packets)
	if !f.Multicast {
		fmt.Fprintf(b, ", %d arrived, %d lost", f.Arrived, f.Lost)
		writeCount(b, f.Unheard, "heard by nobody")
	}
	writeCount(b, f.Unobserved, "not observed")
	writeCount(b, f.Loops, "in a loop")
	writeDrops(b, f.Drops)
	b.WriteByte('\n')
	if f.Multicast {
		writeTree(b, f)
		return
	}
	fmt.Fprintf(b, "  %-40s %9s %7s %9s %9s %9s\n", "hop", "delivered", "lost", "p50", "p95", "jitter")
	for i := range f.Hops {
		writeHop(b, "  ", &f.Hops[i])
	}
	for _, p := range f.Paths {
		fmt.Fprintf(b, "  path %s: %d packets, %.1f %%\n", strings.Join(p.Nodes, " > "), p.Packets, 100*float64(p.Packets)/float64(max(f.Arrived, 1)))
	}
	for _, c := range f.Changes {
		fmt.Fprintf(b, "  changed at %s from %s to %s\n", time.Unix(0, c.Time).UTC().Format("15:04:05.000"), strings.Join(c.Old, " > "), strings.Join(c.New, " > "))
	}
}

func writeCount(b *strings.Builder, n uint64, what string) {
	if n > 0 {
		fmt.Fprintf(b, ", %d %s", n, what)
	}
}

func writeDrops(b *strings.Builder, drops map[string]uint64) {
	sep := "; dropped: "
	for _, reason := range slices.Sorted(maps.Keys(drops)) {
		fmt.Fprintf(b, "%s%s %d", sep, reason, drops[reason])
		sep = ", "
	}
}

func writeHop(b *strings.Builder, indent string, h *path.Hop) {
	if h.To == nil && h.Lost == 0 {
		fmt.Fprintf(b, "%s%-40s %d seen last here\n", indent, hopName(h), h.Unobserved)
		return
	}
	delivered := "-"
	if h.Packets+h.Lost > 0 {
		delivered = fmt.Sprintf("%.1f %%", 100*h.Delivered)
	}
	fmt.Fprintf(b, "%s%-40s %9s %7d", indent, hopName(h), delivered, h.Lost)
	if d := h.Delay; d != nil {
		fmt.Fprintf(b, " %9s %9s %9s", milliseconds(d.P50), milliseconds(d.P95), milliseconds(d.Jitter))
		switch d.Clock {
		case "estimated":
			fmt.Fprintf(b, "  clock %s ahead ± %s, estimated", milliseconds(d.Offset), milliseconds(d.Uncertainty))
		case "unknown":
			b.WriteString("  if clocks agree")
		}
	}
	writeCount(b, h.Unobserved, "not observed")
	writeCount(b, h.Duplicates, "duplicates")
	writeCount(b, h.Reordered, "reordered")
	writeDrops(b, h.Drops)
	b.WriteByte('\n')
}

func milliseconds(ns int64) string { return fmt.Sprintf("%.3f ms", float64(ns)/1e6) }

// hopName formats a hop: "r1/a > r2/b", or inside a node: "r1: a > b", "n1: queue of
// eth0".
func hopName(h *path.Hop) string {
	switch {
	case h.To == nil && h.From.Stage == "in":
		return h.From.Node + ": received, and no further"
	case h.To == nil:
		return h.From.Agent + " > ?"
	case h.From.Agent == h.To.Agent && h.From.Stage == "queue":
		return h.From.Agent + ": its queue"
	case h.From.Node == h.To.Node:
		return "through " + h.From.Node
	}
	return h.From.Agent + " > " + h.To.Agent
}

// writeTree writes a multicast flow's hops, starting from its sources, and what each
// node received.
func writeTree(b *strings.Builder, f *path.Flow) {
	roles := map[string]path.Role{}
	for _, r := range f.Nodes {
		roles[r.Node] = r
	}
	written := map[string]bool{}
	for _, r := range f.Nodes {
		if r.Role == "source" {
			writeBranch(b, f, roles, written, r.Node, "  ")
		}
	}
	for _, r := range f.Nodes {
		if !written[r.Node] {
			writeBranch(b, f, roles, written, r.Node, "  ")
		}
	}
}

func writeBranch(b *strings.Builder, f *path.Flow, roles map[string]path.Role, written map[string]bool, node, indent string) {
	r := roles[node]
	if !written[node] {
		fmt.Fprintf(b, "%s%s (%s): %.1f %%", indent, node, r.Role, 100*r.Share)
		writeCount(b, r.Copies, "more copies")
		writeCount(b, r.Relayed, "relayed")
		b.WriteByte('\n')
	}
	if written[node] {
		return
	}
	written[node] = true
	for i := range f.Hops {
		h := &f.Hops[i]
		if h.To == nil || h.From.Node != node || h.To.Node == node {
			continue
		}
		writeHop(b, indent+"  ", h)
		if !written[h.To.Node] {
			writeBranch(b, f, roles, written, h.To.Node, indent+"    ")
		}
	}
}
