package publish

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

func TestMain(m *testing.M) {
	code := m.Run()
	bustest.RemoveProgram()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// record is one that says which it is.
func record(i int) wire.Record {
	r := wire.Record{
		Time: 1_700_000_000_000_000_000 + int64(i)*1000, SrcPort: uint16(i % 10), DstPort: 9, Length: 100,
		Proto: wire.ProtoUDP, Flags: wire.Outgoing | wire.MGEN | wire.MGENHeader, FlowID: 1, MGENSeq: uint32(i), MGENTime: 1,
	}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return r
}

// spooled is what the agent makes of a queue.
type spooled struct{ *spool.Queue }

func (s spooled) GivenUp() uint64 { return s.Status().DroppedNew }

// bench is an exporter on a real hub.
type bench struct {
	t    *testing.T
	hub  *hub.Hub[wire.Record]
	x    *Exporter
	r    *hub.Reader[wire.Record]
	done chan error

	mu   sync.Mutex
	said []string
}

func begin(t *testing.T, url string, perSecond bool, q *spool.Queue) *bench {
	t.Helper()
	target, err := bus.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, done: make(chan error, 1)}
	b.hub = hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: 64})
	b.r = b.hub.NewReader()
	b.x = New(Config{
		Bus: bus.Config{Target: target, Patient: true, Say: b.say}, Agent: "node 1", PerSecond: perSecond, Reader: b.r,
		Lost: func() uint64 { return b.r.Status().Lost },
	})
	if q != nil {
		b.x.SetSpool(spooled{q})
	}
	go func() { b.done <- b.x.Run(context.Background()) }()
	t.Cleanup(b.end)
	return b
}

func (b *bench) say(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, fmt.Sprintf(format, args...))
}

func (b *bench) end() {
	b.hub.Close()
	select {
	case err := <-b.done:
		if err != nil {
			b.t.Error(err)
		}
		b.done <- nil
	case <-time.After(30 * time.Second):
		b.t.Fatal("the exporter does not end")
	}
}

func (b *bench) await(what string, ok func() bool) {
	b.t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Fatalf("waited in vain for %s; %+v; it said %q", what, b.x.Counts(), b.said)
}

func (b *bench) awaitMessage(part string) {
	b.t.Helper()
	b.await(part, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return strings.Contains(strings.Join(b.said, "\n"), part)
	})
}

func (b *bench) publish(from, to int) {
	for i := from; i < to; i++ {
		b.hub.Publish(record(i))
		for i%1024 == 0 && b.hub.Backlog() > 16*1024 {
			time.Sleep(time.Millisecond)
		}
	}
}

// makeStreams makes what a collector would.
func makeStreams(t *testing.T, url string) {
	t.Helper()
	target, _ := bus.Parse(url)
	c, err := bus.Connect(bus.Config{Target: target})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.EnsureStreams(t.Context(), bus.Streams{Partitions: 2, MaxBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
}

// stored are the batches in all streams, as they are there.
func stored(t *testing.T, url string) (list []*batch.Batch) {
	t.Helper()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, _ := jetstream.New(nc)
	var d batch.Decoder
	for _, name := range []string{"PC_00", "PC_01"} {
		s, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, _ := s.Info(t.Context())
		for n := info.State.FirstSeq; n > 0 && n <= info.State.LastSeq; n++ {
			m, err := s.GetMsg(t.Context(), n)
			if err != nil {
				t.Fatal(err)
			}
			b := new(batch.Batch)
			if err := d.Decode(m.Data, b); err != nil {
				t.Fatal(err)
			}
			list = append(list, b)
		}
	}
	return list
}

// wantOnce fails unless the batches, put in the order of their numbers and
// without duplicates, have all records of from to to, life after life.
// A server that has just begun may refuse a batch and take the one behind it.
func wantOnce(t *testing.T, list []*batch.Batch, from, to int) {
	t.Helper()
	life, came := map[uint64]int{}, map[string]bool{}
	again, early := 0, 0
	var once []*batch.Batch
	for _, b := range list {
		if _, ok := life[b.Boot]; !ok {
			life[b.Boot] = len(life)
		}
		if came[b.ID()] {
			again++
			continue
		}
		came[b.ID()] = true
		if n := len(once); n > 0 && once[n-1].Boot == b.Boot && once[n-1].First > b.First {
			early++
		}
		once = append(once, b)
	}
	slices.SortStableFunc(once, func(a, b *batch.Batch) int {
		return cmp.Or(cmp.Compare(life[a.Boot], life[b.Boot]), cmp.Compare(a.First, b.First))
	})
	next := map[uint64]uint64{}
	want := from
	for _, b := range once {
		if b.First != next[b.Boot] {
			t.Fatalf("%s follows number %d", b.ID(), next[b.Boot])
		}
		next[b.Boot] = b.Next()
		for _, r := range b.Records {
			if r.MGENSeq != uint32(want) || b.Agent != "node 1" {
				t.Fatalf("%s: record %d where %d should be", b.ID(), r.MGENSeq, want)
			}
			want++
		}
	}
	if want != to {
		t.Errorf("it ends with record %d, want %d", want, to)
	}
	t.Logf("%d batches, %d of them duplicates, %d behind a later one", len(list), again, early)
}

func openSpool(t *testing.T, path string) (*spool.Queue, func()) {
	t.Helper()
	dir, err := spool.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	q, err := dir.Open(spool.Config{Name: "nats", Size: 1e9, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	done := func() { q.Close(); dir.Close() }
	t.Cleanup(done)
	return q, done
}

// TestPublish: every packet is in a batch, and in a batch of flows.
func TestPublish(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, "")
	b := begin(t, s.URL(), false, nil)
	b.publish(0, 5000) // before there are streams
	b.awaitMessage("recollect -bus makes the streams")
	makeStreams(t, s.URL())
	b.await("5000 packets", func() bool { return b.x.Counts().Packets == 5000 })
	if c := b.x.Counts(); c.Records != 5000 || c.Waiting+c.GivenUp+c.Refused != 0 || b.x.State() != "open" {
		t.Errorf("%+v, %s", c, b.x.State())
	}
	b.end()
	wantOnce(t, stored(t, s.URL()), 0, 5000)

	f := begin(t, s.URL(), true, nil)
	f.publish(0, 5000)
	f.hub.Publish(wire.CPUStat(1e9, 5), wire.Record{Time: -1})
	f.end()
	packets, records := uint64(0), uint64(0)
	for _, b := range stored(t, s.URL()) {
		for i := range b.Records {
			if b.Level == batch.Flows {
				packets += b.Records[i].Count()
				records++
			}
		}
	}
	// Ten flows, each in pieces if it was looked at meanwhile: their second is long over.
	if c := f.x.Counts(); packets != 5000 || records < 10 || records > 2500 || c.Packets != 5000 || c.Records != records || c.Refused != 2 {
		t.Errorf("%d records of %d packets, %+v", records, packets, c)
	}
}

// TestServerKilled: under traffic, several times; what the agent had numbered
// arrives in order, once after discarding duplicates.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, "")
	makeStreams(t, s.URL())
	q, _ := openSpool(t, t.TempDir())
	b := begin(t, s.URL(), false, q)
	const n = 200_000
	go func() {
		for i := 0; i < n; i += 1000 {
			b.publish(i, i+1000)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	for range 3 {
		time.Sleep(time.Duration(300+rand.IntN(500)) * time.Millisecond)
		s.Kill()
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		s.Restart()
	}
	b.await("all packets", func() bool { return b.x.Counts().Packets >= n })
	b.end()
	wantOnce(t, stored(t, s.URL()), 0, n)
	if st := q.Status(); st.Dropped.Entries > 0 || st.Waiting.Entries > 0 {
		t.Errorf("%+v", st)
	}
}

// TestAwayForTwoLives: there is no server at first. The batches of a life that
// has ended arrive under its numbers, before those of the next.
func TestAwayForTwoLives(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, "")
	s.Kill()
	path := t.TempDir()
	const n = 100_000
	q, done := openSpool(t, path)
	b := begin(t, s.URL(), false, q)
	b.awaitMessage("away:")
	b.publish(0, n)
	b.end()
	done()
	q, _ = openSpool(t, path)
	b = begin(t, s.URL(), false, q)
	b.publish(n, 2*n)
	s.Restart()
	makeStreams(t, s.URL())
	b.await("all packets", func() bool { return b.x.Counts().Packets >= 2*n })
	b.end()
	list := stored(t, s.URL())
	if list[0].Boot == list[len(list)-1].Boot {
		t.Error("two lives have one boot")
	}
	wantOnce(t, list, 0, 2*n)
}

// TestNotLetIn: is said with the next step, and waited for.
func TestNotLetIn(t *testing.T) {
	t.Parallel()
	s := bustest.Start(t, `authorization: { user: "ann", password: "secret" }`)
	b := begin(t, s.URL(), false, nil)
	b.awaitMessage("name who we are")
	b.publish(0, 100)
	b.end()
	if c := b.x.Counts(); c.Packets != 0 || c.Waiting != 100 {
		t.Errorf("%+v", c)
	}
	with := strings.Replace(s.URL(), "//", "//ann:secret@", 1)
	b = begin(t, with, false, nil)
	makeStreams(t, with)
	b.publish(0, 100)
	b.await("100 packets", func() bool { return b.x.Counts().Packets == 100 })
	if text := b.x.String(); strings.Contains(text, "secret") {
		t.Error(text)
	}
}
