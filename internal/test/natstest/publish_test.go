package natstest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/internal/test/natstest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

func start(t testing.TB, dir string) *natstest.Server {
	t.Helper()
	s, err := natstest.Start(natstest.Config{Dir: dir, Size: 256 << 20, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t testing.TB, s *natstest.Server) *bus.Conn {
	t.Helper()
	c, err := bus.Connect(bus.Config{Name: t.Name(), InProcess: s, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// records are n packets of one flow, each of its own length.
func records(first uint64, n int) (list []wire.Record) {
	for i := range n {
		r := wire.Record{Time: 1764000000e9 + int64(first)*1e6 + int64(i)*1e6, Length: uint32(100 + i%1000), SrcPort: 5000, DstPort: 5001, Proto: wire.ProtoUDP}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{10, 0, 0, 2})
		list = append(list, r)
	}
	return list
}

// TestPublish: what was published before there is a stream is in it in order,
// once, when Run has returned.
func TestPublish(t *testing.T) {
	s := start(t, t.TempDir())
	c := connect(t, s)
	p := bus.NewPublisher(c, bus.PublisherConfig{})
	const batches, size = 300, 100
	boot := rand.Uint64()
	for i := range batches {
		p.Publish(&batch.Batch{Agent: "host 1", Boot: boot, First: uint64(i * size), Records: records(uint64(i*size), size)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	if n, err := c.EnsureStreams(ctx, bus.Streams{Partitions: 1, MaxBytes: 64 << 20}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for p.Status().Acknowledged < batches*size {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := p.Status(); got.Published != batches*size || got.Acknowledged != batches*size || got.Dropped != 0 {
		t.Errorf("%+v", got)
	}
	js := inside(t, s)
	stream, err := js.Stream(t.Context(), "PC_00")
	if err != nil {
		t.Fatal(err)
	}
	var d batch.Decoder
	var b batch.Batch
	for i := range batches {
		m, err := stream.GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Decode(m.Data, &b); err != nil || b.First != uint64(i*size) || len(b.Records) != size || b.Agent != "host 1" {
			t.Fatalf("message %d is %s with %d records, %v", i+1, b.ID(), len(b.Records), err)
		}
		if want := "pcapper.v1.default.00.pkt.default.host=201"; m.Subject != want {
			t.Fatalf("message %d has the subject %s instead of %s", i+1, m.Subject, want)
		}
	}
	if i := stream.CachedInfo().State.Msgs; i != batches {
		t.Errorf("the stream has %d messages instead of %d", i, batches)
	}
}

// TestFullQueue: while nobody takes batches the oldest go, and the next one of
// their stream says how many records they had.
func TestFullQueue(t *testing.T) {
	s := start(t, t.TempDir())
	c := connect(t, s)
	p := bus.NewPublisher(c, bus.PublisherConfig{Memory: 100 << 10})
	const size = 1000
	for i := range 100 {
		for _, agent := range []string{"a", "b"} {
			p.Publish(&batch.Batch{Agent: agent, Boot: 1, First: uint64(i * size), Records: records(uint64(i*size), size)})
		}
	}
	dropped := p.Status().Dropped
	if dropped == 0 || dropped >= 200*size {
		t.Fatalf("%d records were dropped", dropped)
	}
	p.Publish(&batch.Batch{Agent: "a", Boot: 1, First: 100 * size, Dropped: 7, Records: records(0, 1)})
	if _, err := c.EnsureStreams(t.Context(), bus.Streams{Partitions: 1, MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // Run sends what is there
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	got := p.Status()
	if got.Acknowledged+got.Dropped != got.Published || got.Dropped < dropped {
		t.Errorf("%+v", got)
	}
	var last batch.Header
	eachMessage(t, s, func(m *jetstream.RawStreamMsg) {
		h, err := batch.ReadHeader(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if h.Agent == "a" {
			last = h
		}
	})
	if want := dropped/2 + 7; last.First != 100*size || last.Dropped < want-size || last.Dropped > want+size {
		t.Errorf("the last batch is %+v, and %d of two agents' records were dropped", last, dropped)
	}
}

// inside is the server's JetStream as any client sees it.
func inside(t *testing.T, s *natstest.Server) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// deleteStream deletes the only stream.
func deleteStream(t *testing.T, s *natstest.Server) {
	t.Helper()
	js := inside(t, s)
	if err := js.DeleteStream(t.Context(), "PC_00"); err != nil {
		t.Fatal(err)
	}
}

func eachMessage(t *testing.T, s *natstest.Server, f func(*jetstream.RawStreamMsg)) {
	t.Helper()
	js := inside(t, s)
	stream, err := js.Stream(t.Context(), "PC_00")
	if err != nil {
		t.Fatal(err)
	}
	for i := stream.CachedInfo().State.FirstSeq; i <= stream.CachedInfo().State.LastSeq; i++ {
		m, err := stream.GetMsg(t.Context(), i)
		if err != nil {
			t.Fatal(fmt.Errorf("message %d: %w", i, err))
		}
		f(m)
	}
}
