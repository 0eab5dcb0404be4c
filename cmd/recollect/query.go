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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/wire"
)

//go:embed query.txt
var queryUsage string

// question holds the options of query.
type question struct {
	store, config, format, out string
	by                         *history.By
	limit                      int64
	verbose                    bool
	flowNames                  []string // -flow
	named                      bool     // -c was given

	query history.Query
	flows func(r *wire.Record) []string // nil without a configuration
}

// runQuery queries the history, and returns the exit code.
func runQuery(args []string) int {
	q, err := parseQuery(args, time.Now())
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(queryUsage)
		return 0
	}
	if err != nil {
		return misused("query", err)
	}
	if err := q.readFlows(); err != nil {
		return explain(err)
	}
	ctx, stop := untilSignal(true)
	defer stop()
	return explain(q.run(ctx))
}

// newQueryFlags returns the flags of query, which set q.
func newQueryFlags(q *question, now time.Time) *flag.FlagSet {
	flags := flag.NewFlagSet("recollect query", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&q.store, "store", "", "")
	flags.StringVar(&q.config, "c", "collector.conf", "")
	flags.StringVar(&q.format, "format", "csv", "")
	flags.StringVar(&q.out, "o", "", "")
	flags.Int64Var(&q.limit, "limit", 0, "")
	flags.BoolVar(&q.verbose, "v", false, "")
	flags.Func("by", "", func(text string) error {
		by, err := history.ParseBy(text)
		q.by = &by
		return err
	})
	q.filters(flags, now)
	return flags
}

func parseQuery(args []string, now time.Time) (*question, error) {
	q := &question{}
	flags := newQueryFlags(q, now)
	if err := flags.Parse(args); err != nil {
		return nil, explainFlag(flags, err)
	}
	flags.Visit(func(f *flag.Flag) { q.named = q.named || f.Name == "c" })
	return q, q.check(flags)
}

func (q *question) check(flags *flag.FlagSet) error {
	switch {
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case q.store == "":
		return errors.New("query without -store: want the directory that recollect -store keeps")
	case q.limit < 0:
		return fmt.Errorf("-limit %d: want how many lines at most, from 1", q.limit)
	case !q.query.From.IsZero() && !q.query.To.IsZero() && !q.query.From.Before(q.query.To):
		return fmt.Errorf("-from %v is not before -to %v", q.query.From.Format(time.DateTime), q.query.To.Format(time.DateTime))
	}
	return history.CheckFormat(q.format)
}

// filters adds the flags that select records.
func (q *question) filters(flags *flag.FlagSet, now time.Time) {
	list := func(name string, add func(part string) error) {
		flags.Func(name, "", func(text string) error {
			for part := range strings.SplitSeq(text, ",") {
				if err := add(part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	w := &q.query
	flags.Func("from", "", func(text string) (err error) { w.From, err = parseTime(text, now); return err })
	flags.Func("to", "", func(text string) (err error) { w.To, err = parseTime(text, now); return err })
	list("host", func(part string) error { w.Hosts = append(w.Hosts, part); return nil })
	list("flow", func(part string) error { q.flowNames = append(q.flowNames, part); return nil })
	list("addr", func(part string) error { return addPrefix(&w.Addrs, part) })
	list("src", func(part string) error { return addPrefix(&w.Src, part) })
	list("dst", func(part string) error { return addPrefix(&w.Dst, part) })
	list("port", func(part string) error { return addSpan(&w.Ports, part, 16) })
	list("src-port", func(part string) error { return addSpan(&w.SrcPorts, part, 16) })
	list("dst-port", func(part string) error { return addSpan(&w.DstPorts, part, 16) })
	list("mgen", func(part string) error { return addSpan(&w.MGEN, part, 32) })
	list("proto", func(part string) error { return addProto(&w.Protos, part) })
	list("level", q.addLevel)
	flags.Func("direction", "", q.setDirection)
	flags.BoolFunc("relayed", "", func(text string) error {
		if text != "true" {
			w.Not |= wire.Relayed
			return nil
		}
		w.Flags |= wire.Relayed
		return nil
	})
}

func (q *question) addLevel(text string) error {
	level, ok := history.ParseLevel(text)
	if !ok {
		return errors.New("want packets, flows or top")
	}
	q.query.Levels = append(q.query.Levels, level)
	return nil
}

func (q *question) setDirection(text string) error {
	bits, ok := map[string]wire.Flags{"out": wire.Outgoing, "in": wire.Incoming}[text]
	if !ok {
		return errors.New("want in or out")
	}
	q.query.Flags |= bits
	return nil
}

// parseTime parses a time; relative times are relative to now.
func parseTime(text string, now time.Time) (time.Time, error) {
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		if d, err := option.ParseDuration(rest); err == nil && d >= 0 {
			return now.Add(-d), nil
		}
	}
	if t, err := option.ParseTime(text); err == nil && t.Unix() >= 0 {
		return t, nil
	}
	if d, err := option.ParseClock(text); err == nil {
		y, m, day := now.Date()
		return time.Date(y, m, day, 0, 0, 0, int(d), time.Local), nil
	}
	return time.Time{}, errors.New("want a time as 2026-11-25T15:00, 15:00 of today, seconds since 1970, or -90m before now")
}

func addPrefix(list *[]netip.Prefix, text string) error {
	networks, err := option.Networks(text)
	*list = append(*list, networks...)
	return err
}

func addSpan(list *[]history.Span, text string, bits int) error {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		to = from
	}
	first, err := strconv.ParseUint(from, 10, bits)
	last, err2 := strconv.ParseUint(to, 10, bits)
	if err != nil || err2 != nil || first > last {
		return fmt.Errorf("%q: want a number of at most %d, or a range as 5-10", text, uint64(1)<<bits-1)
	}
	*list = append(*list, history.Span{First: uint32(first), Last: uint32(last)})
	return nil
}

var protocols = map[string]string{"icmp": "1", "tcp": "6", "udp": "17", "dccp": "33", "icmp6": "58", "sctp": "132", "udplite": "136"}

func addProto(list *[]history.Span, text string) error {
	if n, ok := protocols[text]; ok {
		text = n
	}
	if addSpan(list, text, 8) != nil {
		return fmt.Errorf("%q: want a protocol's number, or icmp, icmp6, tcp, udp, dccp, sctp or udplite", text)
	}
	return nil
}

// readFlows reads the configuration's flows, if it exists or they are needed.
func (q *question) readFlows() error {
	needed := q.named || q.flowNames != nil || q.by != nil && slices.Contains(q.by.Columns, "flow")
	if !needed {
		return nil
	}
	file, err := collector.ReadFile(q.config)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.WithHint(err, "flows are those of a configuration: name it with -c FILE")
	}
	if err != nil {
		return err
	}
	for _, line := range file.WithHosts(nil).Warnings() {
		fmt.Fprintln(os.Stderr, line)
	}
	if q.flows, err = collector.FlowNames(file); err != nil {
		return err
	}
	if q.by != nil {
		q.by.Flows = q.flows
	}
	if q.flowNames != nil {
		q.query.Match = func(_ string, r *wire.Record) bool {
			return slices.ContainsFunc(q.flows(r), func(name string) bool { return slices.Contains(q.flowNames, name) })
		}
	}
	return nil
}

// errEnough means that -limit is reached.
var errEnough = errors.New("enough")

func (q *question) run(ctx context.Context) error {
	out := os.Stdout
	if q.out != "" {
		f, err := os.Create(q.out)
		if err != nil {
			return err
		}
		out = f
	}
	stats, err := q.print(ctx, out)
	if q.out != "" {
		err = errors.Join(err, out.Close())
		if err != nil {
			os.Remove(q.out)
		}
	}
	if q.out == "" && errors.Is(err, syscall.EPIPE) {
		return nil // the reader of our output has seen enough
	}
	if err == nil {
		err = errors.Join(q.tell(stats), q.tellGaps(ctx, len(stats.Damaged) == 0))
	}
	return err
}

// records returns the directory of the records: the store's own, or a subdirectory in
// recollect's.
func (q *question) records() string {
	if dir := filepath.Join(q.store, "records"); isDir(dir) {
		return dir
	}
	return q.store
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (q *question) print(ctx context.Context, w io.Writer) (stats history.Stats, err error) {
	var p *history.Printer
	if q.by != nil {
		var sums []history.Sum
		if sums, stats, err = history.Sums(ctx, q.records(), &q.query, *q.by); err != nil {
			return stats, err
		}
		if q.limit > 0 {
			sums = sums[:min(int(q.limit), len(sums))]
		}
		p = history.NewSumPrinter(w, q.format, *q.by)
		err = p.Sums(sums)
	} else {
		p = history.NewRowPrinter(w, q.format, q.flows)
		stats, err = history.Read(ctx, q.records(), &q.query, q.rows(p))
	}
	if err != nil && !errors.Is(err, errEnough) {
		return stats, err
	}
	return stats, p.Close()
}

// rows returns a function that prints records until there are enough.
func (q *question) rows(p *history.Printer) func(rows []history.Row) error {
	left := q.limit
	return func(rows []history.Row) error {
		if q.limit == 0 {
			return p.Rows(rows)
		}
		rows = rows[:min(int64(len(rows)), left)]
		if err := p.Rows(rows); err != nil {
			return err
		}
		if left -= int64(len(rows)); left == 0 {
			return errEnough
		}
		return nil
	}
}

// tell reports what could not be read and, with -v, what was.
func (q *question) tell(s history.Stats) error {
	if q.verbose {
		say("%d of %d records match in %d files, of which %d were told by their summaries, %d row groups; %d files are of other times",
			s.Rows, s.Read, s.Files, s.Summed, s.Groups, s.Passed)
	}
	for _, err := range s.Damaged {
		say("%v", err)
	}
	if n := len(s.Damaged); n > 0 {
		return fault.WithHint(fmt.Errorf("parts of the history could not be read (%d), so records are missing", n), "the files named above are damaged")
	}
	return nil
}

// gapsShown is the maximum number of gaps listed.
const gapsShown = 10

// tellGaps reports whether everything received in the requested time is there, and what
// is not. readable means that all files could be read.
func (q *question) tellGaps(ctx context.Context, readable bool) error {
	gaps, err := history.ReadGaps(q.records(), &q.query)
	if err != nil {
		return err
	}
	if len(gaps) == 0 {
		if readable {
			say("complete")
		}
		return nil
	}
	sums, _, err := history.Sums(ctx, q.records(), &history.Query{From: q.query.From, To: q.query.To, Hosts: q.query.Hosts}, history.By{})
	if err != nil {
		return err
	}
	there, missing := uint64(0), uint64(0)
	for i := range sums {
		there += sums[i].Records
	}
	texts := make([]string, 0, gapsShown)
	for i, g := range gaps {
		missing += g.Records
		if i < gapsShown {
			texts = append(texts, gapText(&g))
		}
	}
	text := strings.Join(texts, "; ")
	if more := len(gaps) - len(texts); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	say("%s complete; gaps: %s", percentText(there, missing), text)
	return nil
}

// percentText returns the share of what is there, never rounded up to 100 %.
func percentText(there, missing uint64) string {
	percent := 100 * float64(there) / float64(there+missing)
	return fmt.Sprintf("%.2f %%", min(math.Floor(percent*100)/100, 99.99))
}

// gapText formats a gap: n4 01:03:30-01:04:50, 8,112 records: disk full.
func gapText(g *history.Gap) string {
	from, to := g.From.Local(), g.To.Local()
	layout := time.DateTime
	if now := time.Now(); from.YearDay() == now.YearDay() && from.Year() == now.Year() {
		layout = time.TimeOnly
	}
	end := time.TimeOnly
	if from.YearDay() != to.YearDay() {
		end = time.DateTime
	}
	what := "records"
	if g.Records == 1 {
		what = "record"
	}
	return fmt.Sprintf("%s %s-%s, %s %s: %s", g.Agent, from.Format(layout), to.Format(end), thousands(g.Records), what, g.Why)
}

// thousands groups digits.
func thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
