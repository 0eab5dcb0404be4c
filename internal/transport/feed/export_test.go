package feed

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// exportBench serves IPFIX from a hub, with losses as the test says.
func exportBench(t *testing.T, chunks int, pen uint32) *bench {
	t.Helper()
	b := &bench{t: t, attached: make(chan int, 10_000)}
	b.hub = hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: chunks, Encodings: []hub.Encoding[wire.Record]{hub.Each(ipfix.Append)}})
	b.server = NewServer(ServerConfig[reader]{
		NewReader: b.hub.NewReader, IPFIX: 0,
		Exporter: Exporter[reader]{Domain: 4, PEN: pen, Statistics: func(r reader) ipfix.Statistics {
			return ipfix.Statistics{NotSent: r.Status().Lost, Ignored: 3}
		}},
		Attached: func(n int) { b.attached <- n },
		Left: func(c Collector[reader], why error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.departed = append(b.departed, c)
		},
		Say: func(string, ...any) {},
	})
	b.serve(Listener{IPFIX: true})
	return b
}

// TestIPFIX: server and client of ours, templates of their own enterprise: the
// records arrive as they were, and losses are known at the other end.
func TestIPFIX(t *testing.T) {
	b := exportBench(t, 64, 999)
	var mu sync.Mutex
	var got []wire.Record
	states := make(chan ClientState, 100)
	ctx, cancel := context.WithCancel(t.Context())
	client := NewClient(ClientConfig{
		Address: b.addr, IPFIX: true, PEN: 999,
		Records: func(r []wire.Record) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, r...)
		},
		State: func(s ClientState) { states <- s },
	})
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	b.await(1)
	b.publish(0, 20_000)
	host := wire.CPUStat(1_700_000_000_000_000_000, 55)
	b.hub.Publish(host)
	b.end()
	for s := range states {
		if s.Phase == Lost {
			if !errors.Is(s.Err, ErrClosed) {
				t.Errorf("the connection ended with %v", s.Err)
			}
			break
		}
	}
	cancel()
	<-done
	want := make([]wire.Record, 20_001)
	for i := range want[:20_000] {
		want[i] = record(i)
		if want[i].Flags&wire.MGEN == 0 {
			want[i].FlowID = 0
		}
	}
	want[20_000] = host
	if !slices.Equal(got, want) {
		t.Errorf("%d records arrived, not the %d that were sent", len(got), len(want))
	}
	if l := client.Losses(); l != (Losses{Ignored: 3}) {
		t.Errorf("losses %+v", l)
	}
	if s := b.departed[0].Reader.Status(); s.Delivered != 20_001 || b.departed[0].Format != "ipfix" {
		t.Errorf("%+v, format %q", s, b.departed[0].Format)
	}
}

// TestIPFIXStalled: a collector that does not read loses the oldest records,
// delays nobody, and is told how many once it reads again.
func TestIPFIXStalled(t *testing.T) {
	b := exportBench(t, 4, 0)
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.await(1)
	const n = 600_000 // far more than the kernel holds
	b.publish(0, n)
	var d ipfix.Decoder
	go b.end()
	buf, have := make([]byte, ipfix.MaxMessage+1), 0
	var recs []wire.Record
	for {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, err := conn.Read(buf[have:])
		have += k
		for {
			size, lerr := ipfix.Length(buf[:have])
			if lerr != nil {
				t.Fatal(lerr)
			}
			if size == 0 || size > have {
				break
			}
			if recs, lerr = d.Decode(buf[:size], recs[:0]); lerr != nil {
				t.Fatal(lerr)
			}
			have = copy(buf, buf[size:have])
		}
		if err != nil {
			break
		}
	}
	c, s := d.Counts(), d.Statistics()
	if c.Packets+s.NotSent != n || c.Lost != 0 || s.NotSent == 0 {
		t.Errorf("%+v, %+v: want %d together, none lost in transit", c, s, n)
	}
}

// TestIPFIXMeets28Bytes: whoever dials the wrong port is told so.
func TestIPFIXMeets28Bytes(t *testing.T) {
	plain, export := serve(t, 4), exportBench(t, 4, 0)
	for _, tt := range []struct {
		b     *bench
		ipfix bool
	}{{plain, true}, {export, false}} {
		states := make(chan ClientState, 100)
		ctx, cancel := context.WithCancel(t.Context())
		client := NewClient(ClientConfig{Address: tt.b.addr, IPFIX: tt.ipfix, Records: func([]wire.Record) {}, State: func(s ClientState) {
			select {
			case states <- s:
			default:
			}
		}})
		done := make(chan error, 1)
		go func() { done <- client.Run(ctx) }()
		tt.b.await(1)
		tt.b.publish(0, 1000)
		for s := range states {
			if s.Phase == Lost {
				if !errors.Is(s.Err, ErrNotRecords) {
					t.Errorf("%v instead of ErrNotRecords", s.Err)
				}
				break
			}
		}
		cancel()
		<-done
		tt.b.end()
	}
}
