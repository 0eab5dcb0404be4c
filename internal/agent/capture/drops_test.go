package capture

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// dropSeen is what a dropLog counts UDP packets by.
type dropSeen struct {
	reason string
	port   uint16
	dir    packet.Direction
	length int
}

// dropLog remembers what a watch is told.
type dropLog struct {
	mu   sync.Mutex
	seen map[dropSeen]uint64
	late int // packets with a time that cannot be
	from time.Time
}

func (l *dropLog) tell(d *Drop) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := d.Frame.Data
	if at := time.Unix(0, d.Frame.Time); at.Before(l.from) || at.After(time.Now().Add(time.Millisecond)) {
		l.late++
	}
	s := dropSeen{reason: d.Reason, dir: d.Frame.Direction, length: d.Frame.WireLen}
	switch {
	case d.Frame.Protocol == unix.ETH_P_IP && len(b) >= 28 && b[0] == 0x45 && b[9] == unix.IPPROTO_UDP:
		s.port = binary.BigEndian.Uint16(b[22:])
	case d.Frame.Protocol == unix.ETH_P_IPV6 && len(b) >= 48 && b[6] == unix.IPPROTO_UDP:
		s.port = binary.BigEndian.Uint16(b[42:])
	}
	l.seen[s]++
}

// count is how many packets to a port were dropped for a reason.
func (l *dropLog) count(s dropSeen) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[s]
}

func (l *dropLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprint(l.seen)
}

// openDrops is OpenDrops, or the end of a test that the kernel is too old for.
func openDrops(t testing.TB) *Drops {
	t.Helper()
	nettest.NeedTCX(t)
	d, err := OpenDrops()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func watchDrops(t testing.TB, d *Drops, h *nettest.Host, name string) (*DropWatch, *dropLog) {
	t.Helper()
	l := &dropLog{seen: map[dropSeen]uint64{}, from: time.Now()}
	var w *DropWatch
	h.Do(func() {
		ns, err := netns.Current()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		i, err := net.InterfaceByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if w, err = d.Watch(ns.Inode(), i.Index, l.tell); err != nil {
			t.Fatal(err)
		}
	})
	return w, l
}

// command is a command's output on a host.
func command(t testing.TB, h *nettest.Host, line string) string {
	t.Helper()
	args := strings.Fields(line)
	out, err := h.Command(context.Background(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// sendUDP sends n datagrams of 100 bytes from one host's socket.
func sendUDP(t testing.TB, from *nettest.Host, to netip.Addr, port, n int) {
	t.Helper()
	c, err := from.Dial("udp", net.JoinHostPort(to.String(), strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range n {
		c.Write(make([]byte, 100)) // refused by the other side, or dropped here
	}
}

// number is what a pattern finds in a text.
func number(t testing.TB, text, pattern string) uint64 {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %q in %s", pattern, text)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// snmp is a counter of UDP in /proc/net/snmp.
func snmp(t testing.TB, h *nettest.Host, name string) (n uint64) {
	t.Helper()
	lines := strings.Split(command(t, h, "cat /proc/net/snmp"), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "Udp: ") || i == 0 || !strings.HasPrefix(lines[i-1], "Udp: ") {
			continue
		}
		values := strings.Fields(line)
		for k, field := range strings.Fields(lines[i-1]) {
			if field == name {
				n, _ = strconv.ParseUint(values[k], 10, 64)
				return n
			}
		}
	}
	t.Fatalf("no counter %s", name)
	return 0
}

// TestDrops: packets that the kernel drops are told with its reason, as many as its own
// counters say: by nftables on either side, by queues that are full, by a socket's full buffer,
// without a socket, with a wrong checksum.
func TestDrops(t *testing.T) {
	a, b := nettest.Pair(t)
	d := openDrops(t)
	wa, sent := watchDrops(t, d, a, a.Interface.Name)
	wb, received := watchDrops(t, d, b, b.Interface.Name)
	_, lo := watchDrops(t, d, b, "lo")
	const size = 128 // of an IPv4 packet
	check := func(l *dropLog, s dropSeen, want uint64) {
		t.Helper()
		if want == 0 {
			t.Errorf("%v: the kernel has dropped nothing: nothing is tested", s)
		}
		if s.length == 0 {
			s.length = size
		}
		if !nettest.Eventually(5*time.Second, func() bool { return l.count(s) >= want }) || l.count(s) != want {
			t.Errorf("%v: %d told, want %d; all: %v", s, l.count(s), want, l)
		}
	}
	to := b.Interface.IPv4

	command(t, b, "nft add table inet t")
	command(t, b, "nft add chain inet t in { type filter hook input priority 0 ; }")
	command(t, b, "nft add rule inet t in udp dport 5001 counter drop")
	sendUDP(t, a, to, 5001, 100)
	sendUDP(t, a, b.Interface.IPv6, 5001, 70)
	rule := number(t, command(t, b, "nft list table inet t"), `packets (\d+)`)
	check(received, dropSeen{"NETFILTER_DROP", 5001, packet.Incoming, size}, rule-70)
	check(received, dropSeen{"NETFILTER_DROP", 5001, packet.Incoming, size + 20}, 70)

	command(t, a, "nft add table inet t")
	command(t, a, "nft add chain inet t out { type filter hook output priority 0 ; }")
	command(t, a, "nft add rule inet t out udp dport 5002 counter drop")
	sendUDP(t, a, to, 5002, 100)
	check(sent, dropSeen{"NETFILTER_DROP", 5002, packet.Outgoing, 0}, number(t, command(t, a, "nft list table inet t"), `packets (\d+)`))

	command(t, a, "tc qdisc add dev "+a.Interface.Name+" root tbf rate 80kbit burst 2000 limit 3000")
	sendUDP(t, a, to, 5003, 300)
	check(sent, dropSeen{"QDISC_DROP", 5003, packet.Outgoing, 0}, number(t, command(t, a, "tc -s qdisc show dev "+a.Interface.Name), `dropped (\d+)`))
	command(t, a, "tc qdisc del dev "+a.Interface.Name+" root")

	before := snmp(t, b, "NoPorts")
	sendUDP(t, a, to, 5004, 100)
	check(received, dropSeen{"NO_SOCKET", 5004, packet.Incoming, 0}, 100)
	if n := snmp(t, b, "NoPorts") - before; n < 100 {
		t.Errorf("NoPorts: %d, want at least 100", n)
	}

	testFullSocket(t, a, b, func(drops uint64) {
		reason := "SOCKET_RCVBUFF"
		check(received, dropSeen{reason, 5005, packet.Incoming, 0}, drops)
	})

	if err := b.SetFeatures(false, "rx-checksum"); err != nil { // a veth believes its peer
		t.Fatal(err)
	}
	f := nettest.Between(a, b, 4000, 5006, make([]byte, 100))
	wrong := f.Ethernet()
	wrong[14+20+6] ^= 0x55 // the checksum
	reads := b.Command(t.Context(), "python3", "-c", `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 5006))
s.settimeout(3)
s.recv(200)`)
	if err := reads.Start(); err != nil {
		t.Fatal(err)
	}
	defer reads.Wait()
	if !nettest.Eventually(10*time.Second, func() bool { return strings.Contains(command(t, b, "cat /proc/net/udp"), ":138E ") }) {
		t.Fatal("nobody has bound the port")
	}
	before = snmp(t, b, "InCsumErrors")
	inject(t, a, wrong, 50)
	check(received, dropSeen{"UDP_CSUM", 5006, packet.Incoming, 0}, 50)
	f.Dst = netip.AddrPortFrom(to, 5007) // where nobody listens
	wrong = f.Ethernet()
	wrong[14+20+6] ^= 0x55
	inject(t, a, wrong, 50)
	check(received, dropSeen{"UDP_CSUM", 5007, packet.Incoming, 0}, 50)
	if n := snmp(t, b, "InCsumErrors") - before; n != 100 {
		t.Errorf("InCsumErrors: %d, want 100", n)
	}

	command(t, b, "ip link set "+b.Interface.Name+" promisc on")
	harmless := wb.Stats().Harmless
	other := f.Ethernet()
	other[5] ^= 0x77 // of the destination MAC
	inject(t, a, other, 50)
	if !nettest.Eventually(5*time.Second, func() bool { return wb.Stats().Harmless >= harmless+50 }) {
		t.Errorf("packets for others: %d counted, want 50", wb.Stats().Harmless-harmless)
	}
	wa.Stop()
	wb.Stop()
	for _, l := range []*dropLog{sent, received} {
		if l.late > 0 {
			t.Errorf("%d drops with a wrong time", l.late)
		}
		for s, n := range l.seen {
			if s.reason == "OTHERHOST" || s.reason == "" {
				t.Errorf("%v: %d told", s, n)
			}
		}
	}
	if lo.String() != "map[]" {
		t.Errorf("on lo, where nothing was: %v", lo)
	}
	if s := wb.Stats(); s.Untold != 0 {
		t.Errorf("%d untold", s.Untold)
	}
}

// testFullSocket sends more than a socket's buffer holds.
func testFullSocket(t *testing.T, a, b *nettest.Host, check func(drops uint64)) {
	t.Helper()
	c, err := b.ListenPacket("udp4", ":5005")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.UDPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	sendUDP(t, a, b.Interface.IPv4, 5005, 200)
	var drops uint64
	if !nettest.Eventually(5*time.Second, func() bool {
		for line := range strings.Lines(command(t, b, "cat /proc/net/udp")) {
			if f := strings.Fields(line); len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", 5005)) {
				drops, _ = strconv.ParseUint(f[12], 10, 64)
			}
		}
		return drops > 0
	}) {
		t.Fatal("the socket has dropped nothing")
	}
	check(drops)
}

func inject(t testing.TB, h *nettest.Host, frame []byte, n int) {
	t.Helper()
	g, err := h.Generator(frame)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if sent, _, err := g.Send(t.Context(), n, 0); err != nil || sent != n {
		t.Fatalf("sent %d of %d: %v", sent, n, err)
	}
}

// TestDropNames: reasons have the names that the kernel's types give their numbers.
func TestDropNames(t *testing.T) {
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		t.Skip(err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	names, err := kernelDropNames(kernel)
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := kernel.TypeByName("skb_drop_reason", &e); err != nil {
		t.Fatal(err)
	}
	for _, v := range e.Values {
		if got := names.name(uint32(v.Value)); dropPrefix+got != v.Name && got != v.Name {
			t.Errorf("%d is %s, want %s", v.Value, got, v.Name)
		}
		if len(names.name(uint32(v.Value))) > 32 {
			t.Logf("longer than a record has room for: %s", v.Name)
		}
	}
	for _, list := range [][]string{harmlessReasons, inwardReasons} {
		for _, name := range list {
			if names.number(name) == 1<<32-1 {
				t.Logf("this kernel has no %s", name)
			}
		}
	}
	if names.name(60000) != "" || names.name(999<<dropSubsystem) != "" {
		t.Error("a number that is none has a name")
	}
	if got := names.name(1<<dropSubsystem | 5); got == "" {
		t.Errorf("a subsystem's reason has no name; subsystems: %v", names.subsystems)
	}
}
