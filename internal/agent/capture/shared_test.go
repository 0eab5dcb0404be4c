package capture

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

func openShared1For(t *testing.T, s *Shared, h *nettest.Host, cfg Config) Source {
	t.Helper()
	ns, err := netns.Open(h.Path())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Interface, cfg.Ethernet = "eth0", true
	src, err := s.Open(ns, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		src.Close()
		ns.Close()
	})
	return src
}

// Interfaces of the same index in several namespaces, which come and go under
// traffic, one of them behind a queueing discipline that may drop: each source
// gets its own interface's frames, all of them, and no other's.
func TestSharedKeepsApart(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(32<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	const n, rounds = 3000, 3
	var wg sync.WaitGroup
	for pair := range 3 {
		a, b := nettest.Pair(t)
		if pair == 1 {
			setQdisc(t, a, pfifo)
		}
		frames := make([][]byte, n)
		for i := range frames {
			f := udp(a, b, binary.BigEndian.AppendUint32([]byte{byte(pair)}, uint32(i)))
			frames[i] = f.Ethernet()
		}
		wg.Go(func() {
			for round := range rounds {
				from, to := openShared1For(t, s, a, Config{}), openShared1For(t, s, b, Config{})
				for _, src := range []Source{from, to} {
					if err := src.Attach(); err != nil {
						t.Error(err)
						return
					}
				}
				if p := from.(*sharedTap).Position(); strings.Contains(p, "packet socket") != (pair == 1) {
					t.Errorf("pair %d: %s", pair, p)
				}
				send(t, a, n, frames...)
				waitForQueue(t, a)
				from.Drain()
				to.Drain()
				for direction, src := range map[packet.Direction]Source{packet.Outgoing: from, packet.Incoming: to} {
					if err := inOrder(rest(t, src), byte(pair), direction, n); err != nil {
						t.Errorf("pair %d, round %d: %v; %+v", pair, round, err, src.Stats())
					}
					if got := src.Stats(); got.Received < n || got.Dropped != 0 {
						t.Errorf("pair %d: %+v", pair, got)
					}
				}
			}
		})
	}
	wg.Wait()
	if s.active != 0 || len(s.draining) != 0 {
		t.Errorf("%d are watched still", s.active)
	}
}

// inOrder checks that among the frames are those numbered 0 to n-1 of the pair,
// in order and each once, and none of another pair.
func inOrder(frames []packet.Frame, pair byte, direction packet.Direction, n uint32) error {
	next := uint32(0)
	for _, f := range frames {
		if len(f.Data) < 47 || binary.BigEndian.Uint16(f.Data[36:]) != 5001 { // not ours
			continue
		}
		if f.Data[42] != pair {
			return fmt.Errorf("a frame of pair %d", f.Data[42])
		}
		if got := binary.BigEndian.Uint32(f.Data[43:]); got != next || f.Direction != direction {
			return fmt.Errorf("frame %d with direction %d, want frame %d", got, f.Direction, next)
		}
		next++
	}
	if next != n {
		return fmt.Errorf("%d frames of %d", next, n)
	}
	return nil
}

// What there is no room for is counted for the interface whose it was.
func TestSharedCountsDrops(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, b := nettest.Pair(t)
	quiet, _ := nettest.Pair(t)
	src, other := openShared1For(t, s, a, Config{RingBytes: 1}), openShared1For(t, s, quiet, Config{})
	for _, x := range []Source{src, other} {
		if err := x.Attach(); err != nil {
			t.Fatal(err)
		}
	}
	const n = 100_000 // nobody reads; its queue has room for 16,384
	f := udp(a, b, make([]byte, 18))
	send(t, a, n, f.Ethernet())
	src.Drain()
	other.Drain()
	got := uint64(len(rest(t, src)))
	if st := src.Stats(); st.Received < n || st.Received != got+st.Dropped || st.Dropped < n-20_000 {
		t.Errorf("%+v, read %d of %d", st, got, n)
	}
	if st := other.Stats(); st.Dropped != 0 {
		t.Errorf("the other: %+v", st)
	}
}

// The kernel leaves out what the source MAC tells, also when that changes.
func TestSharedSourceMAC(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, b := nettest.Pair(t)
	from := Judge{Match: func(*packet.Frame) bool { return true }, From: FromMAC, MAC: a.Interface.MAC}
	cfg := Config{Filter: assemble(t, ours...), Judge: func([]bpf.RawInstruction) (Judge, error) { return from, nil }}
	src := openShared1For(t, s, a, cfg)
	if err := src.Attach(); err != nil {
		t.Fatal(err)
	}
	mine, theirs := udp(a, b, make([]byte, 18)), udp(b, a, make([]byte, 18))
	exchange := func() {
		send(t, a, 10, mine.Ethernet())
		send(t, b, 20, theirs.Ethernet())
		time.Sleep(50 * time.Millisecond)
	}
	exchange()
	from.From = Others
	if err := src.SetFilter(cfg.Filter); err != nil {
		t.Fatal(err)
	}
	exchange()
	from.From, from.MAC = FromMAC, b.Interface.MAC
	if err := src.SetFilter(cfg.Filter); err != nil {
		t.Fatal(err)
	}
	exchange()
	src.Drain()
	var sent, received int
	for _, f := range rest(t, src) {
		if f.Direction == packet.Outgoing {
			sent++
		} else {
			received++
		}
	}
	if sent != 10 || received != 40 {
		t.Errorf("%d frames sent and %d received were seen, want 10 and 40", sent, received)
	}
}

// A program reads on when an interface is removed under it.
func TestSharedInterfaceRemoved(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, b := nettest.Pair(t)
	src, peer := openShared1For(t, s, a, Config{}), openShared1For(t, s, b, Config{})
	for _, x := range []Source{src, peer} {
		if err := x.Attach(); err != nil {
			t.Fatal(err)
		}
	}
	f := udp(a, b, make([]byte, 18))
	send(t, a, 10, f.Ethernet())
	link, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkDel(link); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	src.Drain()
	peer.Drain()
	for _, x := range []Source{src, peer} {
		if got := len(rest(t, x)); got < 10 {
			t.Errorf("%d frames of 10", got)
		}
	}
}

// A source takes an interface from one that has not been drained yet, as when a
// collector comes right after the last one has left: each frame is seen once, and
// the end of the one before does not end it.
func TestSharedTakesOver(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(0, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, b := nettest.Pair(t)
	number := func(n, end uint32) (frames [][]byte) {
		for ; n < end; n++ {
			f := udp(a, b, binary.BigEndian.AppendUint32([]byte{0}, n))
			frames = append(frames, f.Ethernet())
		}
		return frames
	}
	first, second := openShared1For(t, s, a, Config{}), openShared1For(t, s, a, Config{})
	if err := first.Attach(); err != nil {
		t.Fatal(err)
	}
	send(t, a, 100, number(0, 100)...)
	waitForQueue(t, a)
	if err := second.Attach(); err != nil {
		t.Fatal(err)
	}
	send(t, a, 100, number(0, 100)...)
	waitForQueue(t, a)
	first.Drain()
	send(t, a, 100, number(100, 200)...)
	waitForQueue(t, a)
	second.Drain()
	for src, n := range map[Source]uint32{first: 100, second: 200} {
		if err := inOrder(rest(t, src), 0, packet.Outgoing, n); err != nil {
			t.Error(err)
		}
	}
	if s.active != 0 || len(s.holders) != 0 {
		t.Errorf("%d are watched still, %d places are taken", s.active, len(s.holders))
	}
}

// A reader that is late loses nothing to many blocks of a frame each.
func TestSharedKeepsSmallBlocks(t *testing.T) {
	nettest.NeedTCX(t)
	s, err := OpenShared(1<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	a, b := nettest.Pair(t)
	src := openShared1For(t, s, a, Config{RingBytes: 1 << 20})
	if err := src.Attach(); err != nil {
		t.Fatal(err)
	}
	const n = 5 * minParcels
	for i := range n {
		f := udp(a, b, binary.BigEndian.AppendUint32([]byte{0}, uint32(i)))
		send(t, a, 1, f.Ethernet())
		s.catchUp() // so that the next frame is in a block of its own
	}
	src.Drain()
	if err := inOrder(rest(t, src), 0, packet.Outgoing, n); err != nil {
		t.Errorf("%v; %+v", err, src.Stats())
	}
}
