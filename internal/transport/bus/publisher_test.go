package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/internal/transport/bus"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/batch"
)

// publishing is a Publisher with a server to be ill-treated.
type publishing struct {
	t      *testing.T
	server *bustest.Server
	conn   *bus.Conn
	p      *bus.Publisher
	next   uint64
}

func startPublishing(t *testing.T) *publishing {
	s := bustest.Start(t, "")
	target, err := bus.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	c, err := bus.Connect(bus.Config{Target: target, Name: t.Name(), Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := c.EnsureStreams(t.Context(), bus.Streams{Partitions: 1, MaxBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	p := &publishing{t: t, server: s, conn: c, p: bus.NewPublisher(c, bus.PublisherConfig{})}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return p
}

// publish publishes n batches of a record.
func (p *publishing) publish(n int) {
	for range n {
		p.p.Publish(&batch.Batch{Agent: "a", Boot: 1, First: p.next, Records: []wire.Record{{Time: int64(p.next + 1), Proto: wire.ProtoUDP, Length: 100}}})
		p.next++
	}
}

// settled waits until all is acknowledged, and checks that the stream has it once.
func (p *publishing) settled() {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); p.p.Status().Acknowledged < p.next; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%+v", p.p.Status())
		}
	}
	if got := p.server.Messages(p.t, "PC_00"); got != p.next {
		p.t.Errorf("the stream has %d batches instead of %d; %+v", got, p.next, p.p.Status())
	}
}

// A bus that stands still for a while, and has lost nothing, is asked with the
// oldest batch only.
func TestSlowBus(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	p.publish(10)
	p.settled()
	p.server.Pause()
	p.publish(40)
	for end := time.Now().Add(30 * time.Second); p.p.Status().Again == 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond) // how long a publisher waits depends on how slow the bus was before
	}
	time.Sleep(2 * time.Second)
	p.server.Resume()
	p.settled()
	if s := p.p.Status(); s.Again == 0 || s.Again > 12 || s.Duplicates > s.Again {
		t.Errorf("%+v", s)
	}
}

// A server that dies has lost what was under way to it.
func TestDyingBus(t *testing.T) {
	t.Parallel()
	p := startPublishing(t)
	for range 5 {
		p.publish(40)
		p.server.Kill()
		p.publish(40)
		p.server.Restart()
		p.settled()
	}
}
