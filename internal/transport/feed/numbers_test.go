package feed

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/wire"
)

const testBoot = 4711

func countNumbered(list []wire.Record) (n uint64) {
	for i := range list {
		if list[i].Numbered() {
			n++
		}
	}
	return n
}

// numberedClient notes the number of each record that it gets, by its time.
type numberedClient struct {
	mu     sync.Mutex
	next   uint64
	marks  int
	number map[int64]uint64
	wait   chan struct{} // Records waits for it
}

func (n *numberedClient) mark(boot, number uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if boot == testBoot {
		n.next = number
		n.marks++
	}
}

func (n *numberedClient) take(list []wire.Record) {
	<-n.wait
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range list {
		if list[i].Flags&wire.HostStat == 0 {
			n.number[list[i].Time] = n.next
			n.next++
		}
	}
}

func (n *numberedClient) last(at int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.number[at]
	return ok
}

func (b *bench) startNumbered(secure *tls.Config, wait chan struct{}) *numberedClient {
	n := &numberedClient{number: map[int64]uint64{}, wait: wait}
	before := len(b.server.Collectors())
	cfg := ClientConfig{Address: b.addr, Records: n.take, Number: n.mark}
	if secure != nil {
		cfg.TLS = func() (*tls.Config, error) { return secure, nil }
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = NewClient(cfg).Run(ctx) })
	b.t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	b.eventually("a collector to ask for numbers", func() bool {
		asked := 0
		b.server.mu.Lock()
		defer b.server.mu.Unlock()
		for c := range b.server.attached {
			if c.numbers.Load() && c.format.Load() == bulk {
				asked++
			}
		}
		return asked > before
	})
	return n
}

func (b *bench) eventually(what string, f func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("waited 30 s for %s", what)
		}
	}
}

// publishMixed publishes records of which some have no number, and one with no room in 28 bytes.
func (b *bench) publishMixed(from, to int) (last int64) {
	for i := from; i < to; i++ {
		r := record(i)
		last = r.Time
		v6 := r
		v6.Flags |= wire.IPv6
		b.hub.Publish(v6, r, wire.CPUStat(r.Time, 5))
	}
	return last
}

// TestNumbers: all collectors that ask get the same numbers for the same records, whenever
// they come, over TCP and TLS, and also behind records that they were too slow for.
func TestNumbers(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			b := newTestServer(t, 4, Limits{})
			var theirs, ours *tls.Config
			if secure {
				files := testCerts(t)
				server, err := certs.NewServer(files("agent"))
				if err != nil {
					t.Fatal(err)
				}
				theirs, ours = server.Config(), clientTLS(t, files("collector"), "127.0.0.1")
			}
			b.serve(Listener{TLS: theirs})
			now := make(chan struct{})
			close(now)
			first := b.startNumbered(ours, now)
			b.publishMixed(0, 100)
			held := make(chan struct{})
			slow := b.startNumbered(ours, held)
			var at int64
			// More than the kernel takes for the slow one, and no faster than the first reads.
			for i := 100; i < 400_000; i += 100 {
				at = b.publishMixed(i, i+100)
				if i%300 == 0 {
					b.eventually("the first to have all", func() bool { return first.last(at) })
				}
			}
			b.eventually("the first to have all", func() bool { return first.last(at) })
			close(held)
			second := b.startNumbered(ours, now)
			at = b.publishMixed(400_000, 400_100)
			for _, c := range []*numberedClient{first, slow, second} {
				b.eventually("all to have the last", func() bool { return c.last(at) })
			}
			if len(first.number) != 400_100 {
				t.Errorf("the first got %d records, want 400,100", len(first.number))
			}
			if slow.marks < 2 || len(slow.number) > 390_000 {
				t.Errorf("the slow one got %d records and %d marks, want a gap and a mark behind it", len(slow.number), slow.marks)
			}
			for i := range 400_100 {
				r := record(i)
				want := uint64(i)
				for who, c := range map[string]*numberedClient{"the first": first, "the slow one": slow, "the last": second} {
					if got, has := c.number[r.Time]; has && got != want {
						t.Fatalf("record %d has number %d at %s", i, got, who)
					}
				}
			}
		})
	}
}

// TestBulkTooLate: a collector that says "bulk" after the time for that is served so from
// then on, and gets numbers from then on.
func TestBulkTooLate(t *testing.T) {
	b := serve(t, 64)
	c := b.dial("")
	b.awaitMessage("attached (records)")
	b.publish(0, 3)
	wantRecords(t, c, 0, 3)
	io.WriteString(c, "bulk\nnumbers\n")
	b.eventually("bulk", func() bool { return b.server.Collectors()[0].Format == "bulk" })
	b.publish(3, 6)
	r := bufio.NewReader(c)
	mark := make([]byte, wire.Size)
	if _, err := io.ReadFull(r, mark); err != nil {
		t.Fatal(err)
	}
	if boot, number, ok := wire.ParseMark(mark); !ok || boot != testBoot || number != 3 {
		t.Errorf("mark: boot %d, number %d, %v; want %d, 3", boot, number, ok, testBoot)
	}
	wantRecords(t, r, 3, 6)
}

// TestAnnouncementAtTheLastMoment: one that has been read when the time is over counts, as
// the choice between the two is nobody's.
func TestAnnouncementAtTheLastMoment(t *testing.T) {
	for _, says := range []string{"bulk\n", "text\n"} {
		announced := make(chan int32, 1)
		c := &collector[reader]{}
		c.format.Store(records) // the time is over
		if got := c.hear([]byte(says), unknown, announced); formatNames[got]+"\n" != says || <-announced != got {
			t.Errorf("%q is taken for %q", says, formatNames[got])
		}
		if got := c.format.Load() == bulk; got != (says == "bulk\n") {
			t.Errorf("%q after the time: served as %q", says, formatNames[c.format.Load()])
		}
	}
}
