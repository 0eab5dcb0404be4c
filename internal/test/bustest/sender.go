package bustest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sort"
	"sync"
	"time"

	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

// sender is an agent's feed, with a port for each collector, so that it is known
// which of them are there. Each record has its number as source address.
type sender struct {
	label   string
	rate    int
	hub     *hub.Hub[wire.Record]
	ports   []*net.TCPListener
	serving sync.WaitGroup
	ctx     context.Context
	end     context.CancelFunc

	mu     sync.Mutex
	there  [Collectors]int
	nobody []span      // when none was there
	times  []time.Time // when records were published
	done   chan struct{}
	stop   context.CancelFunc
}

// span is a time; to is zero while it lasts.
type span struct{ from, to time.Time }

func newSender(i, rate int) (*sender, error) {
	a := &sender{label: fmt.Sprintf("a%d", i), rate: rate, nobody: []span{{from: time.Now()}}}
	a.ctx, a.end = context.WithCancel(context.Background())
	a.hub = hub.New(hub.Config[wire.Record]{
		Chunk: 4096, Chunks: 64,
		Encodings: []hub.Encoding[wire.Record]{hub.Each(wire.AppendBinary)},
	})
	boot := rand.Uint64()
	var failed error
	for c := range Collectors {
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		a.ports = append(a.ports, ln)
		s := feed.NewServer(feed.ServerConfig[*hub.Reader[wire.Record]]{
			NewReader: a.hub.NewReader,
			Boot:      boot,
			Attached:  func(n int) { a.attached(c, n) },
			Left:      func(feed.Collector[*hub.Reader[wire.Record]], error) {},
			Say:       func(string, ...any) {},
		})
		a.serving.Go(func() { _ = s.Serve(a.ctx, feed.Listener{TCPListener: ln}) })
	}
	return a, failed
}

func (a *sender) addr(collector int) string { return a.ports[collector].Addr().String() }

// attached notes that a collector has so many connections now.
func (a *sender) attached(collector, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.there[collector] = n
	last := &a.nobody[len(a.nobody)-1]
	switch any := len(a.who()) > 0; {
	case any && last.to.IsZero():
		last.to = time.Now()
	case !any && !last.to.IsZero():
		a.nobody = append(a.nobody, span{from: time.Now()})
	}
}

func (a *sender) who() (list []int) {
	for c, n := range a.there {
		if n > 0 {
			list = append(list, c)
		}
	}
	return list
}

// collectors are those that are there.
func (a *sender) collectors() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.who()
}

// longestWithout is the longest time between two without any collector.
func (a *sender) longestWithout(from, to time.Time) (longest time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.nobody {
		end := s.to
		if end.IsZero() || end.After(to) {
			end = to
		}
		if begin := later(s.from, from); end.After(begin) {
			longest = max(longest, end.Sub(begin))
		}
	}
	return longest
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// begin publishes records until quiet is called.
func (a *sender) begin() {
	ctx, stop := context.WithCancel(a.ctx)
	a.stop, a.done = stop, make(chan struct{})
	go func() {
		defer close(a.done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for began := time.Now(); ctx.Err() == nil; <-tick.C {
			a.publish(int(time.Since(began).Seconds()*float64(a.rate)) - len(a.times))
		}
	}()
}

// publish publishes n records, which is noted first: whoever looks must not miss any.
func (a *sender) publish(n int) {
	now := time.Now()
	for range n {
		a.mu.Lock()
		number := uint32(len(a.times))
		a.times = append(a.times, now)
		a.mu.Unlock()
		r := wire.Record{Time: now.UnixNano(), Length: 100, SrcPort: 5000, DstPort: 5001, Proto: wire.ProtoUDP}
		r.SetSrc4([4]byte(binary.BigEndian.AppendUint32(nil, number)))
		r.SetDst4([4]byte{10, 0, 0, 2})
		a.hub.Publish(r)
	}
}

func (a *sender) quiet() {
	if a.stop != nil {
		a.stop()
		<-a.done
	}
}

func (a *sender) sent() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return uint64(len(a.times))
}

// numbers are the records that were published between two times: [first, last).
func (a *sender) numbers(from, to time.Time) (first, last int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	first = sort.Search(len(a.times), func(i int) bool { return !a.times[i].Before(from) })
	last = sort.Search(len(a.times), func(i int) bool { return a.times[i].After(to) })
	return first, last
}

func (a *sender) close() {
	a.quiet()
	a.end()
	a.hub.Close()
	a.serving.Wait()
}
