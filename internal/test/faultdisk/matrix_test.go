package faultdisk

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/internal/collector/history"
	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/test/natstest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/sink"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// part is something that writes to a disk.
type part interface {
	// feed gives it a little more.
	feed()
	// sums are what it received, passed on, lost, and holds.
	sums() sums
	// failing says what does not work now, or "".
	failing() string
	// end ends it, in order.
	end()
}

// sums are a ledger's entry.
type sums struct{ received, passed, lost, held uint64 }

func (s sums) closes() bool { return s.received == s.passed+s.lost+s.held }

const (
	faultTime = time.Second      // how long a fault lasts
	patience  = 60 * time.Second // on a busy machine
	feedEvery = 5 * time.Millisecond
)

// TestMain lets all cells run side by side: they wait nearly all the time.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "64"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// parts are those that write to a disk, and the faults that they survive.
var parts = []struct {
	name   string
	open   func(testing.TB, *Disk) part
	faults []Fault
}{
	{"log", openLog, Faults},
	{"spool", openSpool, Faults},
	{"records", openRecords, Faults},
	// The archive's directories are made only when it is opened.
	{"aggregates", openAggregates, []Fault{Full, IOErrors, ReadOnly, Slow}},
	{"bus", openBus, Faults},
}

const diskSize = "24m"

// TestMatrix has each part that writes to a disk go through each fault of it: when the fault is over, the part
// goes on by itself, what it passes on grows again, and its sums add up, to the record.
func TestMatrix(t *testing.T) {
	for _, p := range parts {
		for _, f := range p.faults {
			t.Run(p.name+"/"+f.String(), func(t *testing.T) {
				t.Parallel()
				d := New(t, diskSize)
				x := p.open(t, d)
				works(t, x, x.sums())
				survive(t, x, d, f, faultTime)
				closes(t, x)
			})
		}
	}
	t.Run("bus/stream deleted", func(t *testing.T) {
		t.Parallel()
		x := openBus(t, New(t, diskSize)).(*busPart)
		works(t, x, x.sums())
		x.deleteStreams()
		works(t, x, x.sums())
		closes(t, x)
	})
}

// TestMatrixSoak has each part go through faults at random, for two seconds or as long as PCAPPER_SOAK
// says. PCAPPER_SEED repeats a run.
func TestMatrixSoak(t *testing.T) {
	lasts, err := time.ParseDuration(cmp.Or(os.Getenv("PCAPPER_SOAK"), "2s"))
	if err != nil {
		t.Fatalf("PCAPPER_SOAK: %v", err)
	}
	seed, err := strconv.ParseUint(os.Getenv("PCAPPER_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("PCAPPER_SEED=%d", seed)
	for i, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			d := New(t, diskSize)
			x := p.open(t, d)
			works(t, x, x.sums())
			n := 0
			for over := time.Now().Add(lasts); time.Now().Before(over); n++ {
				f := p.faults[random.IntN(len(p.faults))]
				survive(t, x, d, f, time.Duration(random.Int64N(int64(3*time.Second))))
			}
			closes(t, x)
			t.Logf("%d faults", n)
		})
	}
}

// survive has a part fail for a while, and then work again.
func survive(t *testing.T, x part, d *Disk, f Fault, lasts time.Duration) {
	t.Helper()
	d.Begin(f)
	for over := time.Now().Add(lasts); time.Now().Before(over); time.Sleep(feedEvery) {
		x.feed()
	}
	d.End(f)
	if b, ok := x.(*busPart); ok && f != Slow {
		b.restart()
	}
	works(t, x, x.sums())
}

// works feeds a part until it passes on what came later than before was read, and has no complaint.
func works(t *testing.T, x part, before sums) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(feedEvery) {
		s := x.sums()
		if s.passed > before.received-before.lost-before.held && s.passed > before.passed && x.failing() == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not work again within %v: got %+v, %q, before %+v", patience, s, x.failing(), before)
		}
		x.feed()
	}
}

// closes ends a part, whose sums must add up then.
func closes(t *testing.T, x part) {
	t.Helper()
	x.end()
	if s := x.sums(); !s.closes() {
		t.Errorf("got %d received = %d passed on + %d lost + %d held, which is %d", s.received, s.passed, s.lost, s.held, s.passed+s.lost+s.held)
	} else {
		t.Logf("%d received = %d passed on + %d lost + %d held", s.received, s.passed, s.lost, s.held)
	}
}

// logPart is the agent's log.
type logPart struct {
	t    testing.TB
	disk *Disk
	path string
	file *sink.LogFile
	n    uint64
}

const (
	logLine  = "0123456789012345678901234567890123456789012345678901234567890123456789\n"
	logLines = 200
)

func openLog(t testing.TB, d *Disk) part {
	path := filepath.Join(d.Dir, "log")
	return &logPart{t: t, disk: d, path: path, file: sink.NewLogFile(path, func(err error) { t.Log(err) })}
}

func (l *logPart) feed() {
	l.n += logLines
	l.file.Write([]byte(strings.Repeat(logLine, logLines)), logLines)
	l.file.Flush()
}

func (l *logPart) sums() sums {
	written, lost := l.file.Lines()
	return sums{l.n, written, lost, l.file.Waiting()}
}

func (l *logPart) failing() string {
	why, _ := l.file.Failing()
	return why
}

func (l *logPart) end() {
	l.file.Close()
	text, err := os.ReadFile(l.path)
	if err != nil {
		l.t.Error(err)
	}
	// A directory that was removed had some of the lines.
	if written, _ := l.file.Lines(); !l.disk.removed && uint64(bytes.Count(text, []byte{'\n'})) != written {
		l.t.Errorf("got %d lines in the file, want the %d that count as written", bytes.Count(text, []byte{'\n'}), written)
	}
	for line := range strings.Lines(string(text)) {
		if line != logLine {
			l.t.Errorf("got the line %q, want %q", line, logLine)
		}
	}
}

// spoolPart is a queue whose receiver takes half of what comes.
type spoolPart struct {
	t     testing.TB
	dir   *spool.Dir
	queue *spool.Queue
	n     uint64
	taken uint64
}

func openSpool(t testing.TB, d *Disk) part {
	s := &spoolPart{t: t}
	var err error
	if s.dir, err = spool.OpenDir(filepath.Join(d.Dir, "spool")); err != nil {
		t.Fatal(err)
	}
	if s.queue, err = s.dir.Open(spool.Config{Name: "q", Size: 4 << 20, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *spoolPart) feed() {
	for range 2 {
		if err := s.queue.Append(make([]byte, 2000), 7); err != nil {
			s.t.Fatal(err)
		}
		s.n += 7
	}
	if _, weight, ok := s.queue.Next(nil); ok {
		s.queue.Ack(1)
		s.taken += uint64(weight)
	}
}

func (s *spoolPart) sums() sums {
	q := s.queue.Status()
	return sums{s.n, s.taken, q.Dropped.Weight, q.Waiting.Weight}
}

// failing is until what waits is on the disk again.
func (s *spoolPart) failing() string {
	if q := s.queue.Status(); q.Disk == 0 || q.Unwritten > q.Waiting.Weight/2 {
		return fmt.Sprintf("%d of %d are not on the disk: %s", q.Unwritten, q.Waiting.Weight, q.Failing)
	}
	return ""
}

// end also looks whether the next life finds what this one has left.
func (s *spoolPart) end() {
	if err := s.queue.Close(); err != nil {
		s.t.Error(err)
	}
	left := s.queue.Status()
	queue, err := s.dir.Open(spool.Config{Name: "q", Size: 4 << 20, Say: s.t.Logf})
	if err != nil {
		s.t.Fatal(err)
	}
	defer s.dir.Close()
	defer queue.Close()
	if found := queue.Status(); found.Waiting != left.Waiting || found.Dropped != left.Dropped {
		s.t.Errorf("the next life finds %+v waiting and %+v dropped, want %+v and %+v", found.Waiting, found.Dropped, left.Waiting, left.Dropped)
	}
}

// recordsPart is a collector's history without a bus.
type recordsPart struct {
	t      testing.TB
	store  *history.Store
	dir    *spool.Dir
	queue  *spool.Queue
	writer *history.Writer
	next   uint64
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

func openRecords(t testing.TB, d *Disk) part {
	r := &recordsPart{t: t}
	var err error
	if r.store, err = history.Open(filepath.Join(d.Dir, "records"), history.Config{Logf: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if r.dir, err = spool.OpenDir(filepath.Join(d.Dir, "queue")); err != nil {
		t.Fatal(err)
	}
	if r.queue, err = r.dir.Open(spool.Config{Name: "history", Size: 4 << 20, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if r.writer, err = r.store.NewWriter(history.WriterConfig{Queue: r.queue, Age: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	r.ended.Go(func() {
		if err := r.writer.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return r
}

// records are the next ones of an agent.
func records(boot uint64, next *uint64) *batch.Batch {
	b := &batch.Batch{Agent: "n1", Boot: boot, First: *next, Records: make([]wire.Record, 10)}
	for i := range b.Records {
		r := &b.Records[i]
		r.Time, r.Length, r.Proto, r.Flags = time.Now().UnixNano(), 100, wire.ProtoUDP, wire.Outgoing
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
	}
	*next = b.Next()
	return b
}

func (r *recordsPart) feed() { r.writer.Publish(records(1, &r.next)) }

func (r *recordsPart) sums() sums {
	w, q := r.writer.Status(), r.queue.Status()
	return sums{w.Published, w.Written + w.Skipped, w.Refused + w.Malformed + q.Dropped.Weight, q.Waiting.Weight}
}

func (r *recordsPart) failing() string { return r.writer.Status().Failed }

func (r *recordsPart) end() {
	r.stop()
	r.ended.Wait()
	w := r.writer.Status()
	c, err := r.store.Count()
	if err != nil || c.Committed != w.Written+w.Settled || c.Committed != c.Held+c.Removed {
		r.t.Errorf("got %+v, %v in the files, want %+v", c, err, w)
	}
	r.queue.Close()
	r.dir.Close()
	r.store.Close()
}

// aggregatesPart is the page's history.
type aggregatesPart struct {
	t       testing.TB
	archive *rollup.Archive
	store   *rollup.Store
	now     int64
}

func openAggregates(t testing.TB, d *Disk) part {
	a := &aggregatesPart{t: t, now: time.Now().Add(-time.Hour).Unix()}
	var err error
	if a.archive, err = rollup.OpenArchive(rollup.ArchiveConfig{
		Dir: filepath.Join(d.Dir, "page"), Hosts: []rollup.Host{{Label: "n1", Address: "n1"}}, Rows: []rollup.Row{{}},
	}); err != nil {
		t.Fatal(err)
	}
	go a.archive.Run()
	a.store = rollup.New(rollup.Config{
		Hosts: a.archive.Hosts(), Archive: a.archive,
		Classify: func(rows []int, _ *wire.Record) []int { return rows },
	})
	return a
}

// feed is another second.
func (a *aggregatesPart) feed() {
	a.now++
	r := wire.Record{Time: a.now * 1e9, Length: 100, Proto: wire.ProtoUDP, Flags: wire.Outgoing}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	a.store.Add(a.now*1e9, 0, &r)
	a.store.Tick(a.now * 1e9)
}

func (a *aggregatesPart) sums() sums {
	f := a.archive.Frames()
	return sums{f.Handed, f.Written, f.Shed + f.Refused, f.Queued}
}

func (a *aggregatesPart) failing() string {
	if st := a.store.Snapshot().Archive; st != nil {
		return st.Err
	}
	return ""
}

func (a *aggregatesPart) end() { a.store.Close() }

// busPart is a publisher, and a server whose streams are on the disk.
type busPart struct {
	t         testing.TB
	dir       string
	server    atomic.Pointer[natstest.Server]
	conn      *bus.Conn
	publisher *bus.Publisher
	next      uint64
	stop      context.CancelFunc
	ended     sync.WaitGroup
}

// InProcessConn is what connects to the server that there is now.
func (b *busPart) InProcessConn() (net.Conn, error) {
	if s := b.server.Load(); s != nil {
		return s.InProcessConn()
	}
	return nil, errors.New("no server")
}

func openBus(t testing.TB, d *Disk) part {
	b := &busPart{t: t, dir: filepath.Join(d.Dir, "bus")}
	b.start()
	target, err := bus.Parse("nats://in-process?partitions=2")
	if err != nil {
		t.Fatal(err)
	}
	target.Streams.MaxBytes = 8 << 20
	if b.conn, err = bus.Connect(bus.Config{Target: target, Name: "test", InProcess: b, Say: t.Logf}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.conn.EnsureStreams(t.Context(), target.Streams); err != nil {
		t.Fatal(err)
	}
	b.publisher = bus.NewPublisher(b.conn, bus.PublisherConfig{Streams: &target.Streams})
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	b.ended.Go(func() {
		if err := b.publisher.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *busPart) start() {
	b.t.Helper()
	s, err := natstest.Start(natstest.Config{Dir: b.dir, Size: 32 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	b.server.Store(s)
}

// restart is what an administrator does with a server that a disk has failed for.
func (b *busPart) restart() {
	b.t.Helper()
	b.server.Swap(nil).Stop()
	b.start()
}

func (b *busPart) feed() { b.publisher.Publish(records(1, &b.next)) }

func (b *busPart) sums() sums {
	s := b.publisher.Status()
	return sums{s.PublishedPackets, s.Packets, s.DroppedPackets, s.WaitingPackets}
}

func (b *busPart) failing() string { return "" }

func (b *busPart) deleteStreams() {
	b.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(b))
	if err != nil {
		b.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		b.t.Fatal(err)
	}
	names := js.StreamNames(b.t.Context())
	for name := range names.Name() {
		if err := js.DeleteStream(b.t.Context(), name); err != nil {
			b.t.Error(err)
		}
	}
	if err := names.Err(); err != nil {
		b.t.Error(err)
	}
}

func (b *busPart) end() {
	b.stop()
	b.ended.Wait()
	b.conn.Close()
	b.server.Load().Stop()
}
