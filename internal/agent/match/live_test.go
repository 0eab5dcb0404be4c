package match

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// enter puts the rest of the test into a network namespace of its own, and
// onto one CPU. The thread is never unlocked, so that it ends with the test
// and the namespace with it. On one CPU the kernel delivers frames in the
// order in which they were sent.
func enter(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	var cpus, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &cpus))
	for cpu := range 1024 {
		if cpus.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	// Nothing shall be sent but what the test sends.
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0))
}

// veth makes the pair a, b and brings it up; a is the one that is observed.
func veth(t *testing.T) {
	t.Helper()
	must(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "a", HardwareAddr: macMine},
		PeerName:  "b", PeerHardwareAddr: macPeer,
	}))
	up(t, "a")
	up(t, "b")
}

func up(t *testing.T, name string) int {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(l))
	return l.Attrs().Index
}

// socket is an AF_PACKET socket with a filter.
type socket struct {
	fd   int
	link packet.LinkType
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// listen observes an interface with the kernel running the filter's program.
func listen(t *testing.T, index int, link packet.LinkType, f *Filter) *socket {
	t.Helper()
	typ := unix.SOCK_RAW
	if link == packet.Network {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_PACKET, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	must(t, attachTo(fd, f.Instructions()))
	must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}))
	return &socket{fd: fd, link: link}
}

// receive returns the next frame that waits, nil if there is none.
func (s *socket) receive(t *testing.T) *packet.Frame {
	t.Helper()
	data, oob := make([]byte, 65536), make([]byte, 256)
	n, oobn, _, from, err := unix.Recvmsg(s.fd, data, oob, 0)
	if err == unix.EAGAIN {
		return nil
	}
	must(t, err)
	sll := from.(*unix.SockaddrLinklayer)
	f := &packet.Frame{Data: data[:n], WireLen: n, Link: s.link, Direction: packet.Incoming}
	if sll.Pkttype == unix.PACKET_OUTGOING {
		f.Direction = packet.Outgoing
	}
	if s.link == packet.Network {
		f.Protocol = htons(sll.Protocol)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	must(t, err)
	for _, m := range msgs {
		aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			f.VLAN = packet.VLAN{TCI: aux.Vlan_tci, TPID: aux.Vlan_tpid, Present: true}
		}
	}
	return f
}

// Every frame of these tests ends with a mark and a number, so that it is
// known again after tags were taken out.
var mark = []byte("\xf0mark")

func marked(frame []byte, n int) []byte {
	return binary.BigEndian.AppendUint16(append(slices.Clone(frame), mark...), uint16(n))
}

// number is the inverse of marked; it reports false for other frames.
func number(frame []byte) (int, bool) {
	at := len(frame) - len(mark) - 2
	if at < 0 || !bytes.Equal(frame[at:at+len(mark)], mark) {
		return 0, false
	}
	return int(binary.BigEndian.Uint16(frame[at+len(mark):])), true
}

// sight is one frame as an interface showed it.
type sight struct {
	n   int
	out bool
}

// collect reads all that waits on a socket, in order.
func (s *socket) collect(t *testing.T) (sights []sight, frames []*packet.Frame) {
	t.Helper()
	for f := s.receive(t); f != nil; f = s.receive(t) {
		if n, ok := number(f.Data); ok {
			sights = append(sights, sight{n, f.Direction == packet.Outgoing})
			frames = append(frames, f)
		}
	}
	return sights, frames
}

// sender sends frames as they are on an interface.
func sender(t *testing.T, index int) func(frame []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) {
		t.Helper()
		must(t, unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index, Halen: 6}))
	}
}

// until polls for something that the kernel does at once, but elsewhere.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// everyFrame are frames that filters tell apart.
func everyFrame() [][]byte {
	dot1q, qinq := tag{0x8100, 5}, tag{0x88a8, 7}
	var frames [][]byte
	for _, mac := range []net.HardwareAddr{macMine, macPeer, macNear, macThird} {
		frames = append(frames, ether(mac, macPeer, 0x0806, make([]byte, 28)), ether(mac, macPeer, 0x8847, make([]byte, 60)),
			ether(mac, macPeer, 46, append([]byte{0x42, 0x42, 3}, make([]byte, 43)...)))
		for _, src := range []netip.Addr{ipMine, ipMine2, ipPeer, ip6Mine, ip6Peer} {
			dst := ipPeer
			if src.Is6() {
				dst = ip6Peer
			}
			frames = append(frames, etherIP(mac, src, dst), etherIP(mac, src, dst, dot1q),
				etherIP(mac, src, dst, qinq, dot1q), etherIP(mac, src, dst, tag{0x8100, 6}))
		}
	}
	return frames
}

// dumper is a running tcpdump: the other opinion.
type dumper struct {
	cmd *exec.Cmd
	out io.Reader
}

// dump starts tcpdump on a and waits until it captures. With its usual snapshot
// length its buffer would hold a dozen frames.
func dump(t *testing.T, expression string) *dumper {
	t.Helper()
	cmd := exec.Command("tcpdump", "-i", "a", "-p", "-U", "--immediate-mode", "-s", "512", "-w", "-", "--", expression)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("needs tcpdump: %v", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		io.Copy(io.Discard, stderr)
		cmd.Wait()
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	for err == nil && !strings.Contains(line, "listening on") {
		line, err = bufio.NewReader(stderr).ReadString('\n')
	}
	if err != nil {
		t.Fatalf("tcpdump %q: %s", expression, line)
	}
	return &dumper{cmd: cmd, out: bufio.NewReader(stdout)}
}

// warm is the number from which on frames are no part of the test. tcpdump is
// shown all of them once before: the first one in its buffer it judges itself
// and not the kernel, without knowing its direction.
const warm = 1000

// numbers returns which frames tcpdump wrote, at least the given number of
// them if they come within ten seconds. The file format is pcap's: a header of
// 24 bytes, then 16 before each frame, in this machine's byte order.
func (d *dumper) numbers(t *testing.T, atLeast int) []int {
	t.Helper()
	late := time.AfterFunc(10*time.Second, func() { d.cmd.Process.Signal(syscall.SIGTERM) })
	defer late.Stop()
	var list []int
	_, err := io.CopyN(io.Discard, d.out, 24)
	must(t, err)
	for {
		if len(list) == atLeast {
			d.cmd.Process.Signal(syscall.SIGTERM) // and see whether there are more
		}
		var head [16]byte
		if _, err := io.ReadFull(d.out, head[:]); err != nil {
			return list
		}
		frame := make([]byte, binary.NativeEndian.Uint32(head[8:]))
		_, err = io.ReadFull(d.out, frame)
		must(t, err)
		if n, ok := number(frame); ok && n < warm {
			list = append(list, n)
		}
	}
}

// exchange sends each frame in both directions, numbered from base on, and
// returns what an unfiltered socket saw of it.
func exchange(t *testing.T, all *socket, out, in func([]byte), frames [][]byte, base int) (sights []sight, seen []*packet.Frame) {
	t.Helper()
	for n, frame := range frames {
		out(marked(frame, base+n))
		in(marked(frame, base+len(frames)+n))
	}
	until(t, "the last frame", func() bool {
		s, f := all.collect(t)
		sights, seen = append(sights, s...), append(seen, f...)
		return len(sights) >= 2*len(frames)
	})
	if len(sights) != 2*len(frames) {
		t.Fatalf("%d frames seen of %d", len(sights), 2*len(frames))
	}
	return sights, seen
}

// opinion is tcpdump's of one expression.
type opinion struct {
	*dumper
	same *Filter // ours of that expression: how many to wait for
}

// union returns the frames that pass one of the expressions, and checks each
// of them on the way.
func union(t *testing.T, opinions []opinion, sights []sight, seen []*packet.Frame) []int {
	t.Helper()
	var all []int
	for _, o := range opinions {
		want := passing(o.same, sights, seen)
		got := o.numbers(t, len(want))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q: tcpdump %v\nwe %v", o.same.Text, got, want)
		}
		all = append(all, got...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// passing returns the numbers of the frames that Match accepts, sorted.
func passing(f *Filter, sights []sight, seen []*packet.Frame) []int {
	var list []int
	for k, s := range sights {
		if f.Match(seen[k]) {
			list = append(list, s.n)
		}
	}
	slices.Sort(list)
	return list
}

// withTags are the expressions of tcpdump for what ours says of frames with no,
// one and two tags.
func withTags(expression string) string {
	return expression + ", vlan and " + expression + ", vlan and vlan and " + expression
}

// asWritten is the filter that an expression is to tcpdump.
func asWritten(t *testing.T, expression string, target Interface) *Filter {
	t.Helper()
	s := scope{name: target.Name, link: packet.Ethernet, index: target.Index, live: true}
	prog, _, err := s.translate(t.Context(), expression)
	must(t, err)
	return &Filter{Text: expression, prog: prog, test: s.machine(prog)}
}

// TestLive: on a veth pair, three opinions of every filter: the kernel's with
// our program, Match of what an unfiltered socket saw, and tcpdump's.
func TestLive(t *testing.T) {
	needCompiler(t)
	enter(t)
	veth(t)
	index, peer := up(t, "a"), up(t, "b")
	target := Interface{Name: "a", Index: index, Ethernet: true, MAC: macMine, Addrs: addrsMine, IPv4: ipMine}
	const spoofed = "(ip src 10.0.0.1 or ip src 192.168.7.9 or ip6 src 2001:db8::1) and not ether src 02:00:00:00:00:0a"
	tests := []struct{ mode, tcpdump string }{
		{"src", "ether src 02:00:00:00:00:0a"},
		{"dst", "not ether src 02:00:00:00:00:0a"},
		// In the language of tcpdump, "vlan" moves all offsets behind it: each
		// number of tags is an expression of its own, separated by commas.
		{"spoof", withTags(spoofed)},
		{"none", "len > 0"},
		{"udp dst port 5001", withTags("udp dst port 5001")},
		{"src host %i and not ether src %m", withTags("src host 10.0.0.1 and not ether src 02:00:00:00:00:0a")},
		{"vlan", "vlan"},
		{"vlan 5 and ip6", "vlan 5 and ip6"},
		{"vlan 7 and vlan 5", "vlan 7 and vlan 5"},
		{"not vlan", "not vlan"},
		{"inbound and ip", withTags("inbound and ip")},
		{"outbound", "outbound"},
		{"len %% 2 = 0 or arp", "len % 2 = 0 or arp"},
		{"ether broadcast or mpls", "ether broadcast or mpls"},
		{"ifindex " + fmt.Sprint(index), "len > 0"},
	}
	all := listen(t, index, packet.Ethernet, compile(t, "none", target))
	filters, sockets, opinions := make([]*Filter, len(tests)), make([]*socket, len(tests)), make([][]opinion, len(tests))
	for i, tt := range tests {
		filters[i] = compile(t, tt.mode, target)
		sockets[i] = listen(t, index, packet.Ethernet, filters[i])
		for expression := range strings.SplitSeq(tt.tcpdump, ", ") {
			same := asWritten(t, expression, target)
			opinions[i] = append(opinions[i], opinion{dump(t, expression), same})
		}
	}

	frames, out, in := everyFrame(), sender(t, index), sender(t, peer)
	exchange(t, all, out, in, frames, warm)
	for _, s := range sockets {
		s.collect(t)
	}
	sights, seen := exchange(t, all, out, in, frames, 0)
	for i, tt := range tests {
		got, _ := sockets[i].collect(t)
		var kernel []int
		for _, s := range got {
			kernel = append(kernel, s.n)
		}
		slices.Sort(kernel)
		match := passing(filters[i], sights, seen)
		if !slices.Equal(kernel, match) {
			t.Errorf("%q: kernel %v\nMatch %v", tt.mode, kernel, match)
		}
		if dumped := union(t, opinions[i], sights, seen); !slices.Equal(dumped, match) {
			t.Errorf("%q: tcpdump %v\nMatch %v", tt.mode, dumped, match)
		}
		t.Logf("%-40s %3d of %d frames, %d instructions by %s", tt.mode, len(match), len(seen), len(filters[i].prog), filters[i].Compiler)
	}
}

// TestLiveTun: frames without a link header, in both directions.
func TestLiveTun(t *testing.T) {
	enter(t)
	tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/net/tun: %v", err)
	}
	defer tun.Close()
	req, err := unix.NewIfreq("t0")
	must(t, err)
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	must(t, unix.IoctlIfreq(int(tun.Fd()), unix.TUNSETIFF, req))
	index := up(t, "t0")
	target := Interface{Name: "t0", Index: index, Addrs: addrsMine, IPv4: ipMine}

	modes := []string{"src", "dst", "spoof", "none"}
	if _, err := Compile(t.Context(), "udp", target); err == nil {
		modes = append(modes, "ip", "ip6", "src host %i", "outbound and udp port 5001", "inbound", "ip[2:2] > 30", "ifindex 1")
	} else {
		t.Logf("no expressions: %v", err)
	}
	all := listen(t, index, packet.Network, compile(t, "none", target))
	filters, sockets := make([]*Filter, len(modes)), make([]*socket, len(modes))
	for i, mode := range modes {
		filters[i] = compile(t, mode, target)
		sockets[i] = listen(t, index, packet.Network, filters[i])
	}
	packets := [][]byte{ip(ipMine, ipPeer, "x"), ip(ipPeer, ipMine, "x"), ip(ip6Mine, ip6Peer, ""), ip(ip6Peer, ip6Mine, "")}
	out, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(out)
	for n, p := range packets {
		_, err := tun.Write(marked(p, n)) // the interface receives what is written
		must(t, err)
		proto := uint16(etherIPv4)
		if p[0]>>4 == 6 {
			proto = etherIPv6
		}
		must(t, unix.Sendto(out, marked(p, len(packets)+n), 0, &unix.SockaddrLinklayer{Ifindex: index, Protocol: htons(proto)}))
	}
	var sights []sight
	var seen []*packet.Frame
	until(t, "the last packet", func() bool {
		s, f := all.collect(t)
		sights, seen = append(sights, s...), append(seen, f...)
		return len(sights) >= 2*len(packets)
	})
	for i, mode := range modes {
		var want []sight
		for k, f := range seen {
			if filters[i].Match(f) {
				want = append(want, sights[k])
			}
		}
		if got, _ := sockets[i].collect(t); !slices.Equal(got, want) {
			t.Errorf("%q: kernel %v\nMatch %v", mode, got, want)
		}
		counts := map[string]int{"src": 4, "dst": 4, "spoof": 2, "none": 8, "ip": 4, "ip6": 4, "src host %i": 2,
			"outbound and udp port 5001": 4, "inbound": 4, "ip[2:2] > 30": 0, "ifindex 1": 0}
		if mode == "ip[2:2] > 30" { // the mark is behind the IP packet, which is 29 bytes
			continue
		}
		if len(want) != counts[mode] {
			t.Errorf("%q: %v, want %d of them", mode, want, counts[mode])
		}
	}
}

// TestLiveLoopback: each packet once in every mode.
func TestLiveLoopback(t *testing.T) {
	enter(t)
	index := up(t, "lo")
	lo := netip.MustParseAddr("127.0.0.1")
	target := Interface{Name: "lo", Index: index, Ethernet: true, Loopback: true, Addrs: []netip.Addr{lo}, IPv4: lo}
	all := listen(t, index, packet.Ethernet, compile(t, "none", ethernet)) // without regard to loops
	modes := []string{"src", "dst", "spoof", "none"}
	if _, err := Compile(t.Context(), "udp", target); err == nil {
		modes = append(modes, "udp", "host %i", "outbound")
	}
	sockets := make([]*socket, len(modes))
	for i, mode := range modes {
		sockets[i] = listen(t, index, packet.Ethernet, compile(t, mode, target))
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	defer conn.Close()
	const packets = 5
	for n := range packets {
		_, err := conn.WriteTo(marked(nil, n), conn.LocalAddr())
		must(t, err)
	}
	twice := 0
	until(t, "both copies", func() bool {
		s, _ := all.collect(t)
		twice += len(s)
		return twice >= 2*packets
	})
	for i, mode := range modes {
		got, _ := sockets[i].collect(t)
		var numbers []int
		for _, s := range got {
			numbers = append(numbers, s.n)
			if out := mode == "src" || mode == "outbound"; s.out != out {
				t.Errorf("%s: frame %d outgoing: %v", mode, s.n, s.out)
			}
		}
		if want := []int{0, 1, 2, 3, 4}; !slices.Equal(numbers, want) {
			t.Errorf("%s: %v, want each once", mode, numbers)
		}
	}
}
