package bustest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// variable says what this program is when it is started as a child.
const variable = "PCAPPER_TEST_BUS"

// Role is what a child does.
type Role struct {
	// URL is the bus's.
	URL string
	// Write makes it a writer into the directory.
	Write string
	// Queue is the directory of the queue through which a child without a bus
	// writes what it publishes itself.
	Queue string
	// Agents, if there are any, makes it a publisher of theirs: Rate records/s
	// together, in batches of Batch records; 0 is as fast as they are taken.
	Agents      []string
	Rate, Batch int
	// Rows and Age of segments.
	Rows int
	Age  time.Duration
}

// Main is to be called before anything else: in a child, it does what the role
// says, until standard input ends, and exits.
func Main() {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	var r Role
	err := json.Unmarshal([]byte(text), &r)
	if err == nil {
		err = r.run()
	}
	if err != nil {
		complain("%v", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func complain(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func (r *Role) run() error {
	told, tell := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		tell()
	}()
	if r.Queue != "" {
		return r.runLocal(told)
	}
	target, err := bus.Parse(r.URL)
	if err != nil {
		return err
	}
	c, err := bus.Connect(bus.Config{Name: "test", Target: target, Say: complain})
	if err != nil {
		return err
	}
	defer c.Close()
	writing, stopWriting := context.WithCancel(context.Background())
	defer stopWriting()
	var g errgroup.Group
	if r.Write != "" {
		run, err := r.writer(c, bus.Streams{MaxBytes: 2 << 30})
		if err != nil {
			return err
		}
		g.Go(func() error { return run(writing) })
	}
	if len(r.Agents) > 0 {
		err = r.publishToBus(told, c)
	}
	<-told.Done()
	stopWriting()
	return errors.Join(err, g.Wait())
}

func (r *Role) writer(c *bus.Conn, streams bus.Streams) (func(ctx context.Context) error, error) {
	store, err := history.Open(r.Write, history.Config{Logf: complain})
	if err != nil {
		return nil, err
	}
	cfg := bus.WriterConfig{
		Store: store, NewSegment: func(id string) (bus.SegmentWriter, error) { return store.NewSegment(id) },
		Streams: streams, Rows: r.Rows, Age: r.Age, Share: bus.NewShare(c, "writers", "test"),
	}
	w := bus.NewWriter(c, cfg)
	return func(ctx context.Context) error {
		ended := make(chan struct{})
		var g errgroup.Group
		g.Go(func() error { return cfg.Share.Run(ctx, func() { <-ended }) })
		g.Go(func() error { defer close(ended); return w.Run(ctx) })
		return g.Wait()
	}, nil
}

// runLocal writes without a bus, as recollect -store does.
func (r *Role) runLocal(told context.Context) error {
	store, err := history.Open(r.Write, history.Config{Logf: complain})
	if err != nil {
		return err
	}
	defer store.Close()
	dir, err := spool.OpenDir(r.Queue)
	if err != nil {
		return err
	}
	defer dir.Close()
	queue, err := dir.Open(spool.Config{Name: "history", Size: 2 << 30, Say: complain})
	if err != nil {
		return err
	}
	w, err := store.NewWriter(history.WriterConfig{Queue: queue, Rows: r.Rows, Age: r.Age})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var g errgroup.Group
	g.Go(func() error { return w.Run(ctx) })
	r.publish(told, w.Publish, func() (s progress) {
		unwritten := queue.Status()
		written := w.Status()
		return progress{written.Published, written.Published - min(unwritten.Unwritten, written.Published), unwritten.DroppedNew + written.Refused}
	})
	<-told.Done()
	stop()
	return errors.Join(g.Wait(), queue.Close())
}

// publishToBus publishes to a bus until it is told to end, and then what is queued.
func (r *Role) publishToBus(told context.Context, c *bus.Conn) error {
	p := bus.NewPublisher(c, bus.PublisherConfig{Memory: 1 << 30}) // an outage at any rate
	sending, stop := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return p.Run(sending) })
	r.publish(told, p.Publish, func() progress {
		s := p.Status()
		return progress{s.Published, s.Acknowledged, s.Dropped}
	})
	stop()
	return g.Wait()
}

// progress counts records. Those that are acknowledged survive a kill.
type progress struct{ published, acknowledged, dropped uint64 }

// publish publishes until it is told to end, and waits until all is acknowledged.
// Each line of its output says how many records of each stream were: "STREAM N".
func (r *Role) publish(told context.Context, publish func(*batch.Batch), status func() progress) {
	list := make([]batch.Batch, len(r.Agents))
	for i := range list {
		list[i] = batch.Batch{Agent: r.Agents[i], Boot: uint64(rand.Uint32())}
	}
	began, tick := time.Now(), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for n, reported := 0, time.Now(); len(list) > 0 && told.Err() == nil; <-tick.C {
		for r.due(status(), n, began) {
			b := &list[n%len(list)]
			b.Records = numbered(b.Records[:0], uint32(b.Boot), b.First, r.Batch)
			publish(b)
			b.First = b.Next()
			n++
		}
		if time.Since(reported) > 50*time.Millisecond {
			reported = time.Now()
			r.report(status(), list)
		}
	}
	for s := status(); s.acknowledged+s.dropped < s.published; s = status() {
		time.Sleep(10 * time.Millisecond)
	}
	r.report(status(), list)
}

// due reports whether to publish another batch.
func (r *Role) due(s progress, n int, began time.Time) bool {
	if r.Rate > 0 {
		return float64(n*r.Batch) < time.Since(began).Seconds()*float64(r.Rate)
	}
	return s.published-s.acknowledged < 200_000
}

// report prints what was acknowledged: batches are, in the order of publishing.
func (r *Role) report(s progress, list []batch.Batch) {
	if s.dropped > 0 {
		complain("%d records were dropped", s.dropped)
		os.Exit(1)
	}
	batches := int(s.acknowledged) / r.Batch
	var text strings.Builder
	for i := range list {
		of := (batches + len(list) - 1 - i) / len(list)
		fmt.Fprintf(&text, "%s %d\n", streamName(list[i].Agent, list[i].Boot), of*r.Batch)
	}
	fmt.Print(text.String())
}

// numbered appends n packets, each with its stream as MGEN flow and its number as
// sequence number.
func numbered(list []wire.Record, flow uint32, first uint64, n int) []wire.Record {
	now := time.Now().UnixNano()
	for i := range n {
		r := wire.Record{
			Time: now + int64(i), Length: uint32(100 + i%1000), SrcPort: 5000, DstPort: 5001, Proto: wire.ProtoUDP,
			Flags: wire.MGEN | wire.MGENHeader, FlowID: flow, MGENSeq: uint32(first + uint64(i)), MGENTime: now / 1000,
		}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
		list = append(list, r)
	}
	return list
}

// Child is a process that does what a Role says.
type Child struct {
	Role Role
	cmd  *exec.Cmd
	in   io.Closer
	read chan struct{} // closed when its output has ended

	mu           sync.Mutex
	acknowledged map[string]uint64
	newest       time.Time // when more was acknowledged
	outage       time.Duration
}

// StartChild starts this program again, to be killed.
func StartChild(r Role) (*Child, error) {
	if r.Batch == 0 {
		r.Batch = 500
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	c := &Child{Role: r, cmd: exec.Command(os.Args[0]), read: make(chan struct{}), acknowledged: map[string]uint64{}}
	c.cmd.Env = append(os.Environ(), variable+"="+string(text))
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go c.listen(out)
	return c, nil
}

func (c *Child) listen(out io.Reader) {
	defer close(c.read)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		var n uint64
		if _, err := fmt.Sscan(lines.Text()[at+1:], &n); err == nil {
			c.note(lines.Text()[:at], n, time.Now())
		}
	}
}

func (c *Child) note(stream string, n uint64, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n <= c.acknowledged[stream] {
		return
	}
	if !c.newest.IsZero() {
		c.outage = max(c.outage, now.Sub(c.newest))
	}
	c.newest = now
	c.acknowledged[stream] = n
}

// Acknowledged is how many records were, all together.
func (c *Child) Acknowledged() (n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.acknowledged {
		n += k
	}
	return n
}

// AddTo adds what was acknowledged, by stream, and gives the longest time in which
// nothing was.
func (c *Child) AddTo(all map[string]uint64) (outage time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for stream, n := range c.acknowledged {
		all[stream] = n
	}
	return c.outage
}

// Kill kills it (SIGKILL).
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.read
	_ = c.cmd.Wait()
}

// End tells it to end, and waits until it has, for a minute.
func (c *Child) End() error {
	c.in.Close()
	late := time.AfterFunc(time.Minute, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	<-c.read
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("child: %w", errors.Join(err))
	}
	return nil
}
