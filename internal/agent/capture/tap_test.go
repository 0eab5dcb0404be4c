package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

var tapEngine = liveEngines[1]

// openTap makes a tap that is not attached.
func openTap(t testing.TB, h *nettest.Host, cfg Config) *Tap {
	t.Helper()
	return tapEngine.openOnly(t, h, cfg).(*Tap)
}

func attachTap(t testing.TB, tap *Tap) *Tap {
	t.Helper()
	if err := tap.Attach(); err != nil {
		t.Fatal(err)
	}
	return tap
}

// setQdisc makes an interface's root queueing discipline; "" takes it away.
func setQdisc(t testing.TB, h *nettest.Host, q func(netlink.QdiscAttrs) netlink.Qdisc) {
	t.Helper()
	nic, err := h.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.QdiscAttrs{LinkIndex: nic.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)}
	if q == nil {
		err = h.Netlink().QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "any"})
	} else {
		err = h.Netlink().QdiscReplace(q(attrs))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func pfifo(a netlink.QdiscAttrs) netlink.Qdisc {
	return &netlink.GenericQdisc{QdiscAttrs: a, QdiscType: "pfifo"}
}

// tbf passes 2 Mbit/s and drops what does not fit into 20 kB.
func tbf(a netlink.QdiscAttrs) netlink.Qdisc {
	return &netlink.Tbf{QdiscAttrs: a, Rate: 250_000, Limit: 20_000, Buffer: 100_000}
}

// A queueing discipline that drops most of what it is given: the tap counts
// what has left the interface, which is what the peer's has received. Before the
// queue there would be more.
func TestTapCountsWhatLeaves(t *testing.T) {
	a, b := nettest.Pair(t)
	setQdisc(t, a, tbf)
	cfg := Config{Ethernet: true, Filter: assemble(t, ours...), RingBytes: 64 << 20}
	tap := attachTap(t, openTap(t, a, cfg))
	if p := tap.Position(); !strings.Contains(p, "packet socket") || !strings.Contains(p, "tbf") {
		t.Errorf("position %q", p)
	}
	there := tapEngine.open(t, b, cfg)
	const n = 20_000
	flood(t, a, b, n)
	waitForQueue(t, a)
	tap.Drain()
	there.Drain()
	left, arrived := len(rest(t, tap)), len(rest(t, there))
	if left != arrived || left == 0 || left > n*9/10 {
		t.Errorf("%d frames left, as it says, of %d; %d arrived", left, n, arrived)
	}
	if s := tap.Stats(); s.Received != uint64(arrived) || s.Dropped != 0 {
		t.Errorf("stats %+v, %d arrived", s, arrived)
	}
}

// flood sends n datagrams from 100 sockets, so that none of them is held up by
// its own frames in the queue: what the queue has no room for is dropped.
func flood(t testing.TB, from, to *nettest.Host, n int) {
	t.Helper()
	for i := range 100 {
		c, err := from.Dial("udp", netip.AddrPortFrom(to.Interface.IPv4, 5001).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range n / 100 {
			// ENOBUFS and ECONNREFUSED are how the host speaks of dropped frames
			// and of the peer that nobody listens at.
			if _, err := c.Write(make([]byte, 18)); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("socket %d: %v", i, err)
			}
		}
	}
}

// waitForQueue waits until eth0 has sent all that waits in its queue.
func waitForQueue(t testing.TB, h *nettest.Host) {
	t.Helper()
	before := uint64(0)
	still := 0
	if !nettest.Eventually(patience, func() bool {
		c, err := h.Counters("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if c.TxPackets != before {
			before, still = c.TxPackets, 0
		} else {
			still++
		}
		time.Sleep(5 * time.Millisecond)
		return still >= 10
	}) {
		t.Fatal("the queue does not empty")
	}
}

// The queueing discipline changes to and fro under traffic that it does not
// drop, and the filter does, too: nothing is missed or seen twice but what the
// changes themselves touch.
func TestTapFollowsQdisc(t *testing.T) {
	a, b := nettest.Pair(t)
	var mu sync.Mutex
	var moved []string
	cfg := Config{Ethernet: true, Filter: assemble(t, ours...), RingBytes: 128 << 20, Moved: func(p string) {
		mu.Lock()
		defer mu.Unlock()
		moved = append(moved, p)
	}}
	moves := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(moved)
	}
	tap := attachTap(t, openTap(t, a, cfg))
	far := cfg
	far.Moved = nil
	there := tapEngine.open(t, b, far)
	f := udp(a, b, make([]byte, 18))
	g, err := a.Generator(f.Ethernet())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithCancel(context.Background())
	sent := make(chan error)
	go func() {
		_, _, err := g.Send(ctx, 1<<30, 50_000)
		sent <- err
	}()
	for i, q := range []func(netlink.QdiscAttrs) netlink.Qdisc{pfifo, nil, pfifo, nil} {
		setQdisc(t, a, q)
		if !nettest.Eventually(patience, func() bool { return moves() > i }) {
			t.Errorf("after change %d it has moved %d times", i+1, moves())
		}
		if err := tap.SetFilter(assemble(t, ours...)); err != nil {
			t.Error(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := <-sent; err != nil {
		t.Error(err)
	}
	waitForQueue(t, a)
	tap.Drain()
	there.Drain()
	got, arrived := len(rest(t, tap)), len(rest(t, there))
	// Frames that wait in the queue when the position changes may be seen
	// at both places. The kernel itself loses some when it changes the
	// queueing discipline, at the one place or the other.
	if off := got - arrived; off > 100 || off < -100 {
		t.Errorf("saw %d frames, and %d arrived", got, arrived)
	}
	t.Logf("saw %d frames, %d arrived, moved %q", got, arrived, moved)
	for i, p := range moved {
		want := "packet socket"
		if i%2 == 1 {
			want = "noqueue"
		}
		if !strings.Contains(p, want) {
			t.Errorf("move %d: %q, want %q", i, p, want)
		}
	}
}

// A ring that nobody reads overflows; each frame is read or counted as dropped.
func TestTapDropsAreExact(t *testing.T) {
	a, b := nettest.Pair(t)
	tap := attachTap(t, openTap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...), RingBytes: 1}))
	var saw uint64
	const n, rounds = 20_000, 3
	frames := numbered(a, b, 500)
	for range rounds {
		send(t, a, n, frames...)
		block, err := tap.Next()
		if err != nil {
			t.Fatal(err)
		}
		for f := (packet.Frame{}); block.Next(&f); {
			saw++
		}
		block.Release()
	}
	tap.Drain()
	saw += uint64(len(rest(t, tap)))
	if s := tap.Stats(); s.Received != n*rounds || s.Received != saw+s.Dropped || s.Dropped == 0 || saw == 0 {
		t.Errorf("sent %d, saw %d, stats %+v", n*rounds, saw, s)
	}
}

// Two senders on two processors: in the order of their times, whole and intact,
// read while they are sent.
func TestTapOrder(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Fatal("needs two processors")
	}
	a, b := nettest.Pair(t)
	tap := attachTap(t, openTap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...), RingBytes: 64 << 20}))
	const n = 200_000
	var done sync.WaitGroup
	for cpu := range 2 {
		frames := make([][]byte, 1000)
		for i := range frames {
			payload := make([]byte, 18)
			payload[0] = byte(cpu)
			binary.BigEndian.PutUint32(payload[1:], uint32(i))
			f := udp(a, b, payload)
			frames[i] = f.Ethernet()
		}
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			g, err := a.Generator(frames...)
			if err != nil {
				t.Error(err)
				return
			}
			defer g.Close()
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				t.Error(err)
			}
			if sent, _, err := g.Send(context.Background(), n, 0); sent != n || err != nil {
				t.Errorf("sent %d of %d: %v", sent, n, err)
			}
			set.Zero()
			for i := range runtime.NumCPU() {
				set.Set(i)
			}
			_ = unix.SchedSetaffinity(0, &set)
		})
	}
	go func() {
		done.Wait()
		tap.Drain()
	}()
	var last int64
	var next [2]uint32
	backwards, count := 0, 0
	for {
		block, err := tap.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for f := (packet.Frame{}); block.Next(&f); {
			count++
			if f.Time < last {
				backwards++
			}
			last = f.Time
			cpu := f.Data[42]
			if got := binary.BigEndian.Uint32(f.Data[43:]); got != next[cpu]%1000 {
				t.Fatalf("frame %d of sender %d, want %d", got, cpu, next[cpu]%1000)
			}
			next[cpu]++
		}
	}
	if s := tap.Stats(); s.Dropped != 0 || count != 2*n {
		t.Errorf("saw %d of %d: %+v", count, 2*n, s)
	}
	// An interrupt can hold a program up for longer than is waited.
	if backwards > 20 {
		t.Errorf("%d frames of %d are older than the one before", backwards, count)
	}
	t.Logf("%d frames, %d older than the one before", count, backwards)
}

// Super-packets behind the queue are the same frames as the ring's.
func TestTapSuperPacketsBehindQueue(t *testing.T) {
	a, b := nettest.Pair(t)
	enableOffloads(t, a, b)
	setQdisc(t, a, pfifo)
	server, err := b.Listen("tcp", "10.77.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	cfg := Config{Ethernet: true, Filter: assemble(t, tcpTo(5001)...), RingBytes: 64 << 20}
	ring := open(t, a, cfg)
	tap := attachTap(t, openTap(t, a, cfg))
	transfer(t, a, server, 4<<20)
	ring.Drain()
	tap.Drain()
	want, got := rest(t, ring), rest(t, tap)
	if len(want) != len(got) {
		t.Fatalf("%d frames, the ring has %d", len(got), len(want))
	}
	super := 0
	for i := range want {
		w, g := want[i], got[i]
		if w.GSOType != packet.GSONone {
			super++
		}
		if w.GSOType != g.GSOType || w.GSOSize != g.GSOSize || w.WireLen != g.WireLen || w.Direction != g.Direction || !tapEngine.kept(g.Data, w.Data, DefaultSnaplen) {
			t.Fatalf("frame %d: %+v, the ring has %+v", i, g, w)
		}
	}
	if super == 0 {
		t.Error("no super-packets")
	}
}

// The feed's own packets are left out in the kernel, and counted.
func TestTapLeavesOwnOut(t *testing.T) {
	a, b := nettest.Pair(t)
	tap := openTap(t, a, Config{Ethernet: true, OwnPorts: []uint16{77, 5001}})
	if err := tap.SetOwnAddrs([]netip.Addr{a.Interface.IPv4, a.Interface.IPv6}); err != nil {
		t.Fatal(err)
	}
	attachTap(t, tap)
	to := func(from, dst *nettest.Host, src, dstPort uint16, proto uint8, v6 bool) []byte {
		f := nettest.Between(from, dst, src, dstPort, []byte("whose is it? it is long enough to be looked at"))
		f.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc} // nobody answers
		f.Proto = proto
		if v6 {
			f.Src, f.Dst = netip.AddrPortFrom(from.Interface.IPv6, src), netip.AddrPortFrom(dst.Interface.IPv6, dstPort)
		}
		return f.Ethernet()
	}
	for _, v6 := range []bool{false, true} {
		send(t, a, 1, to(a, b, 5001, 9, unix.IPPROTO_TCP, v6)) // own: from our port
		send(t, a, 1, to(b, a, 9, 5001, unix.IPPROTO_TCP, v6)) // own: to our port
		send(t, a, 1, to(b, b, 5001, 9, unix.IPPROTO_TCP, v6)) // another's
		send(t, a, 1, to(a, b, 9, 5001, unix.IPPROTO_TCP, v6)) // another's
		send(t, a, 1, to(a, b, 5001, 9, unix.IPPROTO_UDP, v6)) // no TCP
	}
	if frames := seen(t, tap, 6); len(frames) != 6 || tap.Stats().Own != 4 {
		t.Errorf("%d frames, %+v, want 6, and 4 own", len(frames), tap.Stats())
	}
	// An address that is no longer ours.
	if err := tap.SetOwnAddrs(nil); err != nil {
		t.Fatal(err)
	}
	var key [16]byte
	var value uint32
	if tap.progs.coll.Maps["own_addrs"].Iterate().Next(&key, &value) {
		t.Errorf("address % x is still there", key)
	}
}

// What is left in the kernel of a program that was killed: nothing.
func TestTapLeavesNothingBehind(t *testing.T) {
	nettest.NeedTCX(t)
	a, _ := nettest.Pair(t)
	setQdisc(t, a, pfifo)
	nic, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	attached := func() (ids []ebpf.ProgramID) {
		for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			var q *link.QueryResult
			a.Do(func() { q, err = link.QueryPrograms(link.QueryOptions{Target: nic.Attrs().Index, Attach: at}) })
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range q.Programs {
				ids = append(ids, p.ID)
			}
		}
		return ids
	}
	cmd := a.Command(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"=tap")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 256)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), "ready") {
		t.Fatalf("it says %q: %v", line[:n], err)
	}
	ids := attached()
	if len(ids) != 2 {
		t.Errorf("%d programs attached, want 2", len(ids))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !nettest.Eventually(patience, func() bool { return len(attached()) == 0 }) {
		t.Errorf("programs %v are still attached", attached())
	}
	for _, id := range ids {
		if !nettest.Eventually(patience, func() bool {
			p, err := ebpf.NewProgramFromID(id)
			if err == nil {
				p.Close()
			}
			return errors.Is(err, os.ErrNotExist)
		}) {
			t.Errorf("program %d is still loaded", id)
		}
	}
}

// holdTap attaches a tap to eth0 and waits to be killed.
func holdTap() int {
	tap, err := OpenTap(Config{Interface: "eth0", Ethernet: true})
	if err == nil {
		err = tap.Attach()
	}
	if err != nil {
		var e *Error
		errors.As(err, &e)
		fmt.Println(err, "hint:", e.Hint())
		return 1
	}
	fmt.Println("ready", tap.Position())
	select {}
}

// What an unprivileged user needs, behind a queue too; and what it is told
// without one of these.
func TestTapCapabilities(t *testing.T) {
	nettest.NeedTCX(t)
	a, _ := nettest.Pair(t)
	setQdisc(t, a, pfifo)
	all := []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON, unix.CAP_NET_RAW}
	run := func(capabilities ...uintptr) string {
		cmd := asNobody(a, capabilities...)
		cmd.Env = append(os.Environ(), roleEnv+"=tap")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return line
	}
	if line := run(all...); !strings.HasPrefix(line, "ready tcx, and a packet socket") {
		t.Errorf("with all of them: %q", line)
	}
	for i := range all {
		line := run(slices.Delete(slices.Clone(all), i, i+1)...)
		if !strings.Contains(line, "not permitted") && !strings.Contains(line, "permission") || !strings.Contains(line, "CAP_PERFMON") {
			t.Errorf("without capability %d: %q", all[i], line)
		}
	}
}

// One tap after the other, with other filters: the same programs serve them as
// long as the filter is the same, and none has frames or counts of another.
func TestTapsServeAgain(t *testing.T) {
	nettest.NeedTCX(t)
	a, b := nettest.Pair(t)
	var taps Taps
	defer taps.Close()
	f := udp(a, b, make([]byte, 18))
	id := func(tap *Tap) ebpf.ProgramID {
		info, err := tap.progs.coll.Programs[progEgress].Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		return id
	}
	var last ebpf.ProgramID
	for i := range 6 {
		cfg := Config{Interface: "eth0", Ethernet: true, Filter: assemble(t, ours...)}
		if i == 3 {
			cfg.Filter = rejectAll
		}
		var tap *Tap
		var err error
		a.Do(func() { tap, err = taps.Open(cfg) })
		if err != nil {
			t.Fatal(err)
		}
		if again := id(tap) == last; again != (i != 0 && i != 3 && i != 4) {
			t.Errorf("tap %d has the programs of the one before: %v", i, again)
		}
		last = id(tap)
		send(t, a, 7, f.Ethernet()) // not attached yet
		attachTap(t, tap)
		send(t, a, 5+i, f.Ethernet())
		want := 5 + i
		if i == 3 {
			want = 0
		}
		if i == 1 { // left unread
			tap.Close()
		} else {
			seen(t, tap, want)
			tap.Close()
		}
		if s := tap.Stats(); s.Received != uint64(want) || s.Dropped != 0 {
			t.Errorf("tap %d: %+v, want %d received", i, s, want)
		}
	}
}

func TestTapErrors(t *testing.T) {
	nettest.NeedTCX(t)
	a, _ := nettest.Pair(t)
	for _, test := range []struct {
		name  string
		cfg   Config
		cause error
		text  string
		hint  string
	}{
		{"no interface", Config{Interface: "eth7"}, unix.ENODEV, `cannot capture on "eth7": no such interface`, ""},
		{"no index", Config{Index: 4711}, unix.ENODEV, "4711", ""},
		{"cooked", Config{Interface: "eth0"}, errUntranslatable, "link headers", "-engine ring"},
		{"snaplen", Config{Interface: "eth0", Ethernet: true, Snaplen: 1000}, errUntranslatable, "1000", "-engine ring"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tap *Tap
			var err error
			a.Do(func() { tap, err = OpenTap(test.cfg) })
			if err == nil {
				tap.Close()
				t.Fatal("no error")
			}
			var typed *Error
			if !errors.As(err, &typed) || !errors.Is(err, test.cause) || !strings.Contains(err.Error(), test.text) || !strings.Contains(typed.Hint(), test.hint) {
				t.Errorf("error %v (hint %q), want %q by %v", err, typed.Hint(), test.text, test.cause)
			}
		})
	}
}

// An interface that goes down and comes up again, and one that was down when
// the capture began; one that is removed, which leaves nothing to wait for.
func TestTapInterfaceDownUpRemoved(t *testing.T) {
	a, b := nettest.Pair(t)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	tap := attachTap(t, openTap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...), Promiscuous: true}))
	f := udp(a, b, make([]byte, 18))
	up := func() bool {
		nic, err := a.Netlink().LinkByName("eth0")
		return err == nil && nic.Attrs().OperState == netlink.OperUp
	}
	for i := range 3 {
		if err := a.Up("eth0"); err != nil {
			t.Fatal(err)
		}
		if !nettest.Eventually(patience, up) {
			t.Fatal("the interface does not come up")
		}
		send(t, a, 5, f.Ethernet())
		if !nettest.Eventually(patience, func() bool { return tap.Stats().Received == uint64(5*(i+1)) }) {
			t.Errorf("after coming up %d times: %+v", i+1, tap.Stats())
		}
		if i < 2 {
			if err := a.Down("eth0"); err != nil {
				t.Fatal(err)
			}
		}
	}
	nic, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkDel(nic); err != nil {
		t.Fatal(err)
	}
	tap.Drain()
	if got := len(rest(t, tap)); got != 15 {
		t.Errorf("%d frames, want 15", got)
	}
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
}

// TestTapAllocations: reading frames out of the rings takes no memory, whether the kernel has
// parsed them or kept their bytes.
func TestTapAllocations(t *testing.T) {
	h, peer := nettest.Pair(t)
	tap := openTap(t, h, Config{Ethernet: true, Parse: true})
	if err := tap.progs.setVar("egress", turnBeforeQueue); err != nil {
		t.Fatal(err)
	}
	onProcessor(t, 0)
	short := udp(h, peer, make([]byte, 18))
	const each = 50
	for range each {
		for _, b := range [][]byte{short.Ethernet(), mgenFrame(h, peer)} {
			if _, err := tap.progs.coll.Programs[progEgress].Run(&ebpf.RunOptions{Data: b}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var f packet.Frame
	parsed, kept := 0, 0
	if n := testing.AllocsPerRun(100, func() {
		for i := range tap.rings {
			tap.rings[i].pos = tap.rings[i].hdr.tail // all of it once more
		}
		parsed, kept = 0, 0
		tap.load(true)
		for ; ; kept++ {
			for p, _ := tap.block.Parsed(1000); len(p) > 0; p, _ = tap.block.Parsed(1000) {
				parsed += len(p)
			}
			if !tap.block.Next(&f) {
				break
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if parsed != each || kept != each {
		t.Errorf("%d frames parsed, %d kept; want %d of both", parsed, kept, each)
	}
}

// A ring that its hot part is too small for grows, and shrinks when it has been
// read: every frame is read once, in order, and none is lost before all of the
// ring is full. Bursts and reads are of all sizes.
func TestTapGrows(t *testing.T) {
	h, peer := nettest.Pair(t)
	const ringSize = 4 << 20
	tap := openTap(t, h, Config{Ethernet: true, RingBytes: ringSize * possibleCPUs(), Parse: true})
	if err := tap.progs.setVar("egress", turnBeforeQueue); err != nil {
		t.Fatal(err)
	}
	onProcessor(t, 0) // one processor, one ring
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	t.Logf("seed %d", seed)

	var sent, read uint32 // the number of a frame is its destination's address
	prog := tap.progs.coll.Programs[progEgress]
	shortFrame, longFrame := udp(h, peer, make([]byte, 18)), mgenFrame(h, peer)
	data := [][]byte{shortFrame.Ethernet(), longFrame}
	grew, shrank, wasGrown := 0, 0, false
	send := func(n int) {
		for range n {
			b := data[random.IntN(len(data))]
			binary.BigEndian.PutUint32(b[30:], sent)
			sent++
			if _, err := prog.Run(&ebpf.RunOptions{Data: b}); err != nil {
				t.Fatal(err)
			}
		}
	}
	receive := func(n int) {
		if !tap.load(true) {
			return
		}
		check := func(addr []byte) {
			if got := binary.BigEndian.Uint32(addr); got != read {
				t.Fatalf("frame %d of %d came as number %d; grown at %d", got, sent, read, tap.rings[0].hdr.grown)
			}
			read++
			n--
		}
		for f := (packet.Frame{}); n > 0; {
			if parsed, _ := tap.block.Parsed(n); len(parsed) > 0 {
				for i := range parsed {
					check(parsed[i].Addrs[4:])
				}
				continue
			}
			if !tap.block.Next(&f) {
				break
			}
			check(f.Data[30:])
		}
		tap.release()
	}
	for range 100 {
		send(random.IntN(1 << (8 + random.IntN(6))))
		if random.IntN(8) == 0 {
			receive(1 << 30)
		} else {
			receive(random.IntN(1 << random.IntN(12)))
		}
		grown := tap.rings[0].hdr.grown != 0
		switch {
		case grown && !wasGrown:
			grew++
		case !grown && wasGrown:
			shrank++
		}
		wasGrown = grown
		if sent-read > 16_000 { // about a third of the ring, and more than the hot part
			receive(1 << 30)
		}
	}
	receive(1 << 30)
	if s := tap.Stats(); read != sent || s.Dropped != 0 || s.Received != uint64(sent) {
		t.Errorf("sent %d, read %d, %+v", sent, read, s)
	}
	if grew == 0 || shrank == 0 {
		t.Errorf("grew %d times, shrank %d times", grew, shrank)
	}
	t.Logf("%d frames; grew %d times, shrank %d times", sent, grew, shrank)

	// What does not fit into all of it is dropped, and counted; nothing else is harmed.
	before := sent
	for dropped := uint64(0); dropped == 0; dropped = tap.Stats().Dropped {
		send(100)
	}
	kept := sent - before - uint32(tap.Stats().Dropped)
	receive(int(kept))
	if read != before+kept {
		t.Errorf("read %d of %d kept", read-before, kept)
	}
	if tap.load(true) {
		t.Error("frames are left")
	}
}

// onProcessor keeps the test on one processor until it ends.
func onProcessor(t testing.TB, n int) {
	t.Helper()
	runtime.LockOSThread()
	var old, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		t.Fatal(err)
	}
	one.Set(n)
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.SchedSetaffinity(0, &old)
		runtime.UnlockOSThread()
	})
}

// A frame that came just now waits where another processor may be writing an
// older one: one that had frames lately, even if it has none at this moment.
func TestTapWaitsForOtherProcessors(t *testing.T) {
	h, peer := nettest.Pair(t)
	tap := openTap(t, h, Config{Ethernet: true})
	if err := tap.progs.setVar("egress", turnBeforeQueue); err != nil {
		t.Fatal(err)
	}
	f := udp(h, peer, make([]byte, 18))
	onProcessor(t, 0)
	capture := func() {
		if _, err := tap.progs.coll.Programs[progEgress].Run(&ebpf.RunOptions{Data: f.Ethernet()}); err != nil {
			t.Fatal(err)
		}
		tap.slot(&tap.rings[0]).time = uint64(tapClock() + int64(time.Hour)) // the time of reading is not known
	}
	capture()
	if !tap.load(false) {
		t.Fatal("the only processor's frame has to wait")
	}
	tap.block.Next(new(packet.Frame))
	tap.release()
	tap.rings[1].used = tapClock()
	capture()
	if tap.load(false) || !tap.waiting {
		t.Error("the frame does not wait for another processor's")
	}
	if !tap.load(true) {
		t.Error("the frame is not read at the end")
	}
}
