package nettest_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

func tx(t *testing.T, h *nettest.Host) uint64 {
	t.Helper()
	c, err := h.Counters(h.Interface.Name)
	if err != nil {
		t.Fatal(err)
	}
	return c.TxPackets
}

func rx(t *testing.T, h *nettest.Host) uint64 {
	t.Helper()
	c, err := h.Counters(h.Interface.Name)
	if err != nil {
		t.Fatal(err)
	}
	return c.RxPackets
}

func TestPairAddresses(t *testing.T) {
	a, b := nettest.Pair(t)
	for _, test := range []struct {
		host          *nettest.Host
		mac, ip4, ip6 string
	}{
		{a, "02:00:00:00:00:0a", "10.77.0.1/24", "fd77::1/64"},
		{b, "02:00:00:00:00:0b", "10.77.0.2/24", "fd77::2/64"},
	} {
		var eth *net.Interface
		var addrs []net.Addr
		var err error
		test.host.Do(func() {
			if eth, err = net.InterfaceByName("eth0"); err == nil {
				addrs, err = eth.Addrs()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := eth.HardwareAddr.String(); got != test.mac || test.host.Interface.MAC.String() != test.mac {
			t.Errorf("%s: MAC %s, %s told, want %s", test.host.Name, got, test.host.Interface.MAC, test.mac)
		}
		if len(addrs) != 2 || addrs[0].String() != test.ip4 || addrs[1].String() != test.ip6 {
			t.Errorf("%s: addresses %v, want %s and %s only", test.host.Name, addrs, test.ip4, test.ip6)
		}
	}
}

// exchange sends one datagram from a to b and reports its arrival.
func exchange(t *testing.T, a, b *nettest.Host, to netip.Addr) {
	t.Helper()
	server, err := b.ListenPacket("udp", netip.AddrPortFrom(to, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	server.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, _, err := server.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("received %q, %v", buf[:n], err)
	}
}

// Not one frame more than those sent passes the cable.
func TestSilence(t *testing.T) {
	a, b := nettest.Pair(t)
	txa, txb := tx(t, a), tx(t, b)
	for range 10 {
		exchange(t, a, b, b.Interface.IPv4)
		exchange(t, a, b, b.Interface.IPv6)
	}
	if got := tx(t, a) - txa; got != 20 {
		t.Errorf("a sent %d frames, want 20", got)
	}
	if got := tx(t, b) - txb; got != 0 {
		t.Errorf("b sent %d frames, want none", got)
	}
}

func TestBridge(t *testing.T) {
	hosts := nettest.Bridge(t, 4)
	if got := hosts[3].Name + " " + hosts[3].Interface.IPv4.String(); got != "n4 10.77.0.4" {
		t.Errorf("the fourth host is %s", got)
	}
	before := []uint64{rx(t, hosts[0]), rx(t, hosts[1]), rx(t, hosts[2]), rx(t, hosts[3])}
	exchange(t, hosts[0], hosts[1], hosts[1].Interface.IPv4)
	exchange(t, hosts[0], hosts[1], hosts[1].Interface.IPv6)
	multicast := nettest.Between(hosts[0], hosts[1], 1, 2, nil)
	multicast.DstMAC = nettest.MAC{1, 0, 0x5e, 1, 1, 1}
	multicast.Dst = netip.MustParseAddrPort("239.1.1.1:5000")
	send(t, hosts[0], multicast.Ethernet(), 5)
	for i, want := range []uint64{0, 2 + 5, 5, 5} {
		arrived := nettest.Eventually(time.Second, func() bool { return rx(t, hosts[i])-before[i] >= want })
		if got := rx(t, hosts[i]) - before[i]; !arrived || got != want {
			t.Errorf("%s received %d frames, want %d", hosts[i].Name, got, want)
		}
	}
}

func send(t *testing.T, h *nettest.Host, frame []byte, n int) {
	t.Helper()
	g, err := h.Generator(frame)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if sent, _, err := g.Send(context.Background(), n, 0); sent != n || err != nil {
		t.Fatalf("sent %d of %d: %v", sent, n, err)
	}
}

// Frames that the receiving stack takes are right, and one that is wrong is
// not taken.
func TestFramesAgainstKernel(t *testing.T) {
	a, b := nettest.Pair(t)
	server, err := b.ListenPacket("udp", "[::]:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	v4 := nettest.Between(a, b, 4001, 5001, []byte("four"))
	options := v4
	options.Options, options.Payload = []byte{1, 1, 1, 0}, []byte("options")
	v6 := v4
	v6.Src = netip.AddrPortFrom(a.Interface.IPv6, 4001)
	v6.Dst = netip.AddrPortFrom(b.Interface.IPv6, 5001)
	v6.Payload = []byte("six")
	extended := v6
	extended.NextHeader, extended.Extension, extended.Payload = 60, []byte{17, 0, 1, 4, 0, 0, 0, 0}, []byte("extended")
	broken := v4.Ethernet()
	broken[len(broken)-1]++
	send(t, a, broken, 1)
	for _, f := range []nettest.Frame{v4, options, v6, extended} {
		send(t, a, nettest.Pad(f.Ethernet(), nettest.MinEthernet), 1)
		buf := make([]byte, 64)
		server.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != string(f.Payload) {
			t.Fatalf("received %q, %v, want %q", buf[:n], err, f.Payload)
		}
		if got := from.(*net.UDPAddr).AddrPort(); got.Port() != 4001 || got.Addr().Unmap() != f.Src.Addr() {
			t.Errorf("from %v, want %v", got, f.Src)
		}
	}
}

func TestGeneratorIsExact(t *testing.T) {
	a, b := nettest.Pair(t)
	first := nettest.Between(a, b, 1, 2, make([]byte, 18))
	first.DstMAC = nettest.MAC{2, 0, 0, 0, 0, 0xcc} // for nobody: cheap to drop
	second := first
	second.Payload = make([]byte, 118)
	g, err := a.Generator(first.Ethernet(), second.Ethernet(), second.Ethernet())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	before, err := b.Counters("eth0")
	if err != nil {
		t.Fatal(err)
	}
	const n = 30001
	for _, rate := range []float64{0, 50000} {
		sent, elapsed, err := g.Send(context.Background(), n, rate)
		if sent != n || err != nil {
			t.Fatalf("sent %d, %v, want %d", sent, err, n)
		}
		if got := float64(sent) / elapsed.Seconds(); rate > 0 && (got < 0.8*rate || got > 1.05*rate) {
			t.Errorf("%.0f frames/s, want %.0f", got, rate)
		}
	}
	nettest.Eventually(time.Second, func() bool { return rx(t, b)-before.RxPackets == 2*n })
	after, err := b.Counters("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.RxPackets - before.RxPackets; got != 2*n {
		t.Errorf("%d frames arrived, want %d", got, 2*n)
	}
	// 60002 frames in turn: 20001 of 60, 20001 and 20000 of 160 bytes.
	if got, want := after.RxBytes-before.RxBytes, uint64(20001*60+40001*160); got != want {
		t.Errorf("%d bytes arrived, want %d", got, want)
	}
}

// Every frame of a burst is one on the wire, right down to the checksum that the
// receiving stack looks at, and the number is exact, whole bursts or not.
func TestBurst(t *testing.T) {
	a, b := nettest.Pair(t)
	server, err := b.ListenPacket("udp", "10.77.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const size, segments, n = 18, 32, 3*32 + 5
	payload := make([]byte, size*segments)
	for i := range payload {
		payload[i] = byte(i / size)
	}
	g, err := a.Burst(nettest.Between(a, b, 4001, 5001, payload), size)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	before := rx(t, b)
	for range 2 {
		if sent, _, err := g.Send(context.Background(), n, 0); sent != n || err != nil {
			t.Fatalf("sent %d, %v, want %d", sent, err, n)
		}
	}
	buf := make([]byte, 64)
	for i := range 2 * n {
		server.SetReadDeadline(time.Now().Add(5 * time.Second))
		k, _, err := server.ReadFrom(buf)
		if want := byte(i % n % segments); err != nil || k != size || buf[0] != want || buf[size-1] != want {
			t.Fatalf("datagram %d: % x, %v, want %d times %d", i, buf[:k], err, size, want)
		}
	}
	if got := rx(t, b) - before; got != 2*n {
		t.Errorf("%d frames arrived, want %d", got, 2*n)
	}
	for name, f := range map[string]nettest.Frame{
		"too many":    nettest.Between(a, b, 1, 2, make([]byte, 65*size)),
		"not whole":   nettest.Between(a, b, 1, 2, make([]byte, size+1)),
		"no payload":  nettest.Between(a, b, 1, 2, nil),
		"no datagram": {Src: v4src, Dst: v4dst, Proto: 6, Payload: make([]byte, size)},
	} {
		if g, err := a.Burst(f, size); err == nil {
			g.Close()
			t.Errorf("%s: a burst was made", name)
		}
	}
}

func TestGeneratorStops(t *testing.T) {
	a, b := nettest.Pair(t)
	f := nettest.Between(a, b, 1, 2, nil)
	g, err := a.Generator(f.Ethernet())
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	sent, elapsed, err := g.Send(ctx, 1<<40, 1000)
	if err != nil || sent == 0 || sent > 1000 || elapsed > 5*time.Second {
		t.Errorf("sent %d in %v: %v", sent, elapsed, err)
	}
	if _, err := nettest.NewGenerator("eth0", nil); err == nil {
		t.Error("a generator without frames was made")
	}
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	if sent, _, err := g.Send(context.Background(), 1, 0); err == nil {
		t.Errorf("sent %d frames on an interface that is down", sent)
	}
}

func TestOffloads(t *testing.T) {
	a, _ := nettest.Pair(t)
	features := func() string {
		out, err := a.Command(context.Background(), "ethtool", "-k", "eth0").Output()
		if err != nil {
			t.Skipf("ethtool is not installed: %v", err)
		}
		return string(out)
	}
	for on, state := range map[bool]string{false: "off", true: "on"} {
		if err := a.SetOffloads(on); err != nil {
			t.Fatal(err)
		}
		got := features()
		for _, name := range []string{"tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload", "tx-udp-segmentation", "tx-checksum-ip-generic", "tx-sctp-segmentation"} {
			if !strings.Contains(got, name+": "+state) {
				t.Errorf("%s is not %s", name, state)
			}
		}
	}
}

func TestCommandRunsInNamespace(t *testing.T) {
	a, _ := nettest.Pair(t)
	ctx := context.Background()
	want, err := os.Readlink(a.Path())
	if err != nil {
		t.Fatal(err)
	}
	const readNS = "readlink /proc/self/ns/net"
	out, err := a.Command(ctx, "sh", "-c", readNS).Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("Output ran in %s, %v, want %s", got, err, want)
	}
	out, err = a.Command(ctx, "sh", "-c", readNS).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != want {
		t.Errorf("CombinedOutput ran in %s, %v, want %s", got, err, want)
	}
	var buf strings.Builder
	cmd := a.Command(ctx, "nsenter", "--net="+a.Path(), "sh", "-c", readNS)
	cmd.Stdout = &buf
	if err := cmd.Run(); err != nil || strings.TrimSpace(buf.String()) != want {
		t.Errorf("nsenter ran in %s, %v, want %s", buf.String(), err, want)
	}
	if err := a.Command(ctx, "/nonexistent").Run(); err == nil {
		t.Error("a program that is not there ran")
	}
}

// Nothing else may run on a thread that is in another namespace.
func TestDoLeavesNoThreadBehind(t *testing.T) {
	a, _ := nettest.Pair(t)
	var inside int
	a.Do(func() { inside = unix.Gettid() })
	gone := nettest.Eventually(5*time.Second, func() bool {
		return unix.Tgkill(os.Getpid(), inside, 0) == unix.ESRCH
	})
	if !gone {
		t.Errorf("thread %d is still there", inside)
	}
	want, _ := os.Readlink("/proc/self/ns/net")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if got, _ := os.Readlink("/proc/thread-self/ns/net"); got != want {
		t.Errorf("the test is in %s, not %s", got, want)
	}
}

func TestDoPassesOnPanicAndExit(t *testing.T) {
	a, _ := nettest.Pair(t)
	func() {
		defer func() {
			if got := recover(); got != "boom" {
				t.Errorf("recovered %v, want boom", got)
			}
		}()
		a.Do(func() { panic("boom") })
	}()
	returned, ended := false, make(chan struct{})
	go func() {
		defer close(ended)
		a.Do(runtime.Goexit) // what t.FailNow does
		returned = true
	}()
	<-ended
	if returned {
		t.Error("a FailNow in Do did not end its caller")
	}
}

// recorder is a TB that notes how a test would have ended.
type recorder struct{ outcome string }

func (*recorder) Helper()        {}
func (*recorder) Cleanup(func()) {}

func (r *recorder) Fatalf(string, ...any) { r.end("failed") }
func (r *recorder) Skipf(string, ...any)  { r.end("skipped") }

func (r *recorder) end(how string) {
	r.outcome = how
	runtime.Goexit()
}

func TestWithoutPrivilege(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("dropping CAP_NET_ADMIN needs to have it: run as root")
	}
	for ci, want := range map[string]string{"true": "failed", "": "skipped"} {
		t.Setenv("CI", ci)
		var r recorder
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // and never unlocked: it has lost a capability
			dropCapability(t, unix.CAP_NET_ADMIN)
			nettest.Pair(&r)
		}()
		<-done
		if r.outcome != want {
			t.Errorf("CI=%q: %q, want %q", ci, r.outcome, want)
		}
	}
}

// dropCapability takes one out of the calling thread's effective set.
func dropCapability(t *testing.T, number int) {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		t.Error(err)
	}
	data[number/32].Effective &^= 1 << (number % 32)
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		t.Error(err)
	}
}
