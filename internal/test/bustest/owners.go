package bustest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/collector/history"
)

// Owners is a run in which collectors share agents over three servers, while
// servers, collectors and the network between them fail.
type Owners struct {
	Dir string
	// Agents send Rate records/s each.
	Agents, Rate int
	// Events are what happens, by name, one after the other; see Happenings.
	Events []string
	// Down is how long a failure lasts, and Rest how long all must be well between two.
	// 0 is what each event's own is, and 3 s.
	Down, Rest time.Duration
	Say        func(format string, args ...any)
}

// Collectors is how many share the agents.
const Collectors = 3

// Outcome is what came of one event.
type Outcome struct {
	Event string
	// The longest time for which an agent had no collector: of those whose collector
	// failed, and of all others.
	Failed, Others time.Duration
	Missing        uint64 // records in no file, of agents whose collector did not fail
	FailedMissing  uint64 // likewise, of the others
	Double         uint64 // records in files twice
}

// Check is what was promised and not kept: no agent is uncollected whose collector
// lives, nor for more than four seconds if it does not; nothing is lost of the
// former, and nothing stored twice.
func (o *Outcome) Check() error {
	const most = 4 * time.Second
	if o.Others > 0 || o.Missing > 0 || o.Double > 0 || o.Failed > most {
		return fmt.Errorf("%s: agents of living collectors were uncollected for %v and miss %d records, want 0; of others for %v, want at most %v; %d records are stored twice",
			o.Event, o.Others, o.Missing, o.Failed, most, o.Double)
	}
	return nil
}

// OwnersTable is outcomes in Markdown.
func OwnersTable(list []Outcome) string {
	text := "| what happened | agents of collectors that live: uncollected at most, records missing | of those that failed | stored twice |\n|---|---|---|---|\n"
	for _, o := range list {
		text += fmt.Sprintf("| %s | %.1f s, %d | %.1f s, %d | %d |\n", o.Event, o.Others.Seconds(), o.Missing, o.Failed.Seconds(), o.FailedMissing, o.Double)
	}
	return text
}

// happening is something that fails, for a while.
type happening struct {
	down  time.Duration
	begin func(ctx context.Context, o *owners) (failed []int, err error) // which collectors fail
	end   func(ctx context.Context, o *owners) error
}

var happenings = map[string]happening{
	"server-killed": {10 * time.Second, func(ctx context.Context, o *owners) ([]int, error) {
		leader, err := o.servers.Leader(ctx, "PC_00")
		o.victim = leader
		o.servers.Kill(leader)
		return nil, err
	}, func(_ context.Context, o *owners) error { return o.servers.Start(o.victim) }},
	"server-stopped": {10 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		o.victim = (o.victim + 1) % Nodes
		o.servers.Pause(o.victim, true)
		return nil, nil
	}, func(_ context.Context, o *owners) error { o.servers.Pause(o.victim, false); return nil }},
	"rolling-restart": {time.Second, func(ctx context.Context, o *owners) ([]int, error) {
		for i := range Nodes {
			o.servers.Stop(i)
			if err := o.servers.Start(i); err != nil {
				return nil, err
			}
			if err := o.servers.Whole(ctx); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}, nil},
	"partition": {15 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		o.victim = (o.victim + 1) % Nodes
		o.servers.Partition(o.victim, true)
		return nil, nil
	}, func(_ context.Context, o *owners) error { o.servers.Partition(o.victim, false); return nil }},
	"two-servers-killed": {12 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		o.servers.Kill(0)
		o.servers.Kill(1)
		return nil, nil
	}, func(_ context.Context, o *owners) error { return errors.Join(o.servers.Start(0), o.servers.Start(1)) }},
	"all-servers-killed": {8 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		for i := range Nodes {
			o.servers.Kill(i)
		}
		return nil, nil
	}, func(_ context.Context, o *owners) (err error) {
		for i := range Nodes {
			err = errors.Join(err, o.servers.Start(i))
		}
		return err
	}},
	"collector-cut-off": {12 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		o.collectors[0].cut(true)
		return nil, nil
	}, func(_ context.Context, o *owners) error { o.collectors[0].cut(false); return nil }},
	"collector-killed": {8 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		o.collectors[0].kill()
		return []int{0}, nil
	}, func(_ context.Context, o *owners) error { return o.collectors[0].start() }},
	"collector-restarted": {1500 * time.Millisecond, func(_ context.Context, o *owners) ([]int, error) {
		o.collectors[1].kill()
		return []int{1}, nil
	}, func(_ context.Context, o *owners) error { return o.collectors[1].start() }},
	"collector-stopped": {10 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		return []int{2}, o.collectors[2].cmd.Process.Signal(syscall.SIGSTOP)
	}, func(_ context.Context, o *owners) error { return o.collectors[2].cmd.Process.Signal(syscall.SIGCONT) }},
	"collector-left": {3 * time.Second, func(_ context.Context, o *owners) ([]int, error) {
		return []int{1}, o.collectors[1].end()
	}, func(_ context.Context, o *owners) error { return o.collectors[1].start() }},
}

// Happenings are the names of all events, in an order that suits a run.
func Happenings() []string {
	return []string{
		"server-killed", "server-stopped", "rolling-restart", "partition", "two-servers-killed", "all-servers-killed",
		"collector-cut-off", "collector-killed", "collector-restarted", "collector-stopped", "collector-left",
	}
}

// owners is a run that goes on.
type owners struct {
	*Owners
	program    string // recollect
	servers    *Servers
	victim     int
	agents     []*sender
	collectors []*recollect
	writer     *Child
}

// window is when an event was, and what it did.
type window struct {
	event    string
	from, to time.Time
	failed   map[int]bool // agents
}

const (
	// settleTime is after how long all must be well again.
	settleTime = 40 * time.Second
	restTime   = 3 * time.Second
	// memoryTime is for how long a collector has records in memory only.
	memoryTime = 500 * time.Millisecond
	storeTime  = 2 * time.Minute
)

// Run runs it.
func (s *Owners) Run(ctx context.Context) (list []Outcome, err error) {
	o := &owners{Owners: s}
	defer o.close()
	if err := o.start(ctx); err != nil {
		return nil, err
	}
	var windows []window
	for _, event := range s.Events {
		w, err := o.happen(ctx, event)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", event, err)
		}
		windows = append(windows, w)
	}
	for _, a := range o.agents {
		a.quiet()
	}
	stored, err := o.stored(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range windows {
		list = append(list, o.outcome(w, stored))
	}
	return list, nil
}

func (o *owners) start(ctx context.Context) (err error) {
	o.program = filepath.Join(o.Dir, "recollect")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", o.program, "github.com/pcapper/pcapper/cmd/recollect").CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if o.servers, err = StartLinkedServers(ctx, o.Dir); err != nil {
		return err
	}
	for i := range o.Agents {
		a, err := newSender(i, o.Rate)
		if err != nil {
			return err
		}
		o.agents = append(o.agents, a)
	}
	if o.writer, err = StartChild(Role{URL: o.servers.URL(), Write: o.records(), Age: segmentAge}); err != nil {
		return err
	}
	for i := range Collectors {
		c, err := o.newRecollect(i)
		if err != nil {
			return err
		}
		o.collectors = append(o.collectors, c)
		if err := c.start(); err != nil {
			return err
		}
	}
	if err := o.settled(ctx); err != nil {
		return err
	}
	for _, a := range o.agents {
		a.begin()
	}
	return o.servers.Whole(ctx)
}

func (o *owners) records() string {
	dir := filepath.Join(o.Dir, "records")
	_ = os.MkdirAll(dir, 0o700) // or the child says
	return dir
}

func (o *owners) close() {
	for _, c := range o.collectors {
		c.kill()
		for _, l := range c.links {
			l.Close()
		}
	}
	if o.writer != nil {
		o.writer.Kill()
	}
	if o.servers != nil {
		o.servers.Close()
	}
	for _, a := range o.agents {
		a.close()
	}
}

// settled waits until each agent has one collector, and each collector some agents.
func (o *owners) settled(ctx context.Context) error {
	for since, deadline := time.Now(), time.Now().Add(settleTime); ; time.Sleep(20 * time.Millisecond) {
		have := map[int]int{}
		one := true
		for _, a := range o.agents {
			who := a.collectors()
			one = one && len(who) == 1
			for _, c := range who {
				have[c]++
			}
		}
		if !one || len(have) < Collectors {
			since = time.Now()
		}
		if time.Since(since) > cmp.Or(o.Rest, restTime) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%v after it, the collectors have %v of %d agents", settleTime, have, len(o.agents))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func (o *owners) happen(ctx context.Context, event string) (w window, err error) {
	h, known := happenings[event]
	if !known {
		return w, fmt.Errorf("no such event; there are %s", strings.Join(Happenings(), ", "))
	}
	o.Say("%s", event)
	time.Sleep(2 * memoryTime) // so that what it costs is not taken for the last one's
	w = window{event: event, from: time.Now(), failed: map[int]bool{}}
	before := make([][]int, len(o.agents))
	for i, a := range o.agents {
		before[i] = a.collectors()
	}
	failed, err := h.begin(ctx, o)
	if err != nil {
		return w, err
	}
	for i, who := range before {
		for _, f := range failed {
			if len(who) == 1 && who[0] == f {
				w.failed[i] = true
			}
		}
	}
	select {
	case <-time.After(cmp.Or(o.Down, h.down)):
	case <-ctx.Done():
		return w, ctx.Err()
	}
	if h.end != nil {
		if err := h.end(ctx, o); err != nil {
			return w, err
		}
	}
	if err := o.servers.Whole(ctx); err != nil {
		return w, err
	}
	err = o.settled(ctx)
	w.to = time.Now()
	return w, err
}

// stored waits until all that the agents have sent to somebody is in files, or no
// more comes, and counts how often each record is.
func (o *owners) stored(ctx context.Context) (stored [][]uint8, err error) {
	total := uint64(0)
	for _, a := range o.agents {
		total += a.sent()
	}
	for deadline, last, since := time.Now().Add(storeTime), uint64(0), time.Now(); ; time.Sleep(time.Second) {
		_, have, err := o.read(ctx)
		if err != nil {
			return nil, err
		}
		if have != last {
			last, since = have, time.Now()
		}
		if have >= total || time.Since(since) > 4*segmentAge || time.Now().After(deadline) {
			break
		}
	}
	for _, c := range o.collectors {
		if err := c.end(); err != nil {
			return nil, err
		}
	}
	time.Sleep(2 * segmentAge) // for what came at the end
	if err := o.writer.End(); err != nil {
		return nil, err
	}
	o.writer = nil
	stored, _, err = o.read(ctx)
	return stored, err
}

// read counts the records of each agent, by number.
func (o *owners) read(ctx context.Context) (stored [][]uint8, n uint64, err error) {
	stored = make([][]uint8, len(o.agents))
	index := map[string]int{}
	for i, a := range o.agents {
		stored[i], index[a.label] = make([]uint8, a.sent()), i
	}
	stats, err := history.Read(ctx, o.records(), &history.Query{}, func(rows []history.Row) error {
		for i := range rows {
			r := &rows[i].Record
			list := stored[index[rows[i].Host]]
			if number := binary.BigEndian.Uint32(r.Src[12:]); uint64(number) < uint64(len(list)) {
				if list[number] == 0 {
					n++
				}
				list[number] = min(list[number], 254) + 1
			}
		}
		return nil
	})
	return stored, n, errors.Join(append(stats.Damaged, err)...)
}

func (o *owners) outcome(w window, stored [][]uint8) Outcome {
	out := Outcome{Event: w.event}
	for i, a := range o.agents {
		gap := a.longestWithout(w.from, w.to)
		if w.failed[i] {
			out.Failed = max(out.Failed, gap)
		} else {
			out.Others = max(out.Others, gap)
		}
		from, to := a.numbers(w.from.Add(-memoryTime), w.to)
		for _, times := range stored[i][from:min(to, len(stored[i]))] {
			switch {
			case times > 1:
				out.Double += uint64(times - 1)
			case times == 0 && w.failed[i]:
				out.FailedMissing++
			case times == 0:
				out.Missing++
			}
		}
	}
	o.Say("%+v", out)
	return out
}

// recollect is a collector in a process of its own.
type recollect struct {
	*owners
	index int
	url   string
	conf  string
	links []*Link // to the servers
	cmd   *exec.Cmd
	ended chan struct{}
	err   error
}

func (o *owners) newRecollect(i int) (*recollect, error) {
	c := &recollect{owners: o, index: i}
	var hosts []string
	for n := range Nodes {
		l, err := NewLink(o.servers.Addr((n + i) % Nodes))
		if err != nil {
			return nil, err
		}
		c.links = append(c.links, l)
		hosts = append(hosts, l.Addr())
	}
	c.url = "nats://" + strings.Join(hosts, ",")
	var conf strings.Builder
	for _, a := range o.agents {
		fmt.Fprintf(&conf, "%s:%s\n", a.label, a.addr(i))
	}
	c.conf = filepath.Join(o.Dir, fmt.Sprintf("collector%d.conf", i))
	return c, os.WriteFile(c.conf, []byte(conf.String()), 0o600)
}

func (c *recollect) start() error {
	c.cmd = exec.Command(c.program, "-c", c.conf, "-lines", "-unconfined", "-bus", c.url,
		"-spool", filepath.Join(c.Dir, fmt.Sprintf("spool%d", c.index))+":256MB")
	log, err := os.OpenFile(filepath.Join(c.Dir, fmt.Sprintf("collector%d.log", c.index)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd.Stderr = log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	c.ended = make(chan struct{})
	go func() {
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	return nil
}

func (c *recollect) kill() {
	if c.ended != nil {
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// end ends it as an administrator would.
func (c *recollect) end() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(time.Minute):
		return fmt.Errorf("collector %d does not end", c.index)
	}
	return c.err
}

// cut cuts it off from all servers.
func (c *recollect) cut(cut bool) {
	for _, l := range c.links {
		l.Cut(cut)
	}
}
