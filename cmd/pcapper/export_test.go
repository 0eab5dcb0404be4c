//go:build !libpcap

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

// nobody6 is an address that no host has.
var nobody6 = netip.MustParseAddr("2001:db8::9")

// mixture is traffic of some flows by IPv4 and IPv6, to nobody, and what
// collectors must say of n packets of it.
func mixture(a, b *nettest.Host, n int) (frames [][]byte, want sums) {
	want = sums{}
	for i := range 10 {
		f := nettest.Between(a, b, uint16(4000+i%5), uint16(5000+i), make([]byte, 100*i))
		f.Dst = netip.AddrPortFrom(nobody, f.Dst.Port())
		size := 28 + 100*i
		if i%2 == 1 {
			f.Src = netip.AddrPortFrom(a.Interface.IPv6, f.Src.Port())
			f.Dst = netip.AddrPortFrom(nobody6, f.Dst.Port())
			size += 20
		}
		if i%5 == 0 {
			m := nettest.MGEN{Flow: uint32(i), Seq: uint32(i), Time: time.Now(), Dst: f.Dst, Size: 100}
			f.Payload = m.Payload()
			size = 28 + 100
			if i%2 == 1 {
				size += 20
			}
		}
		frames = append(frames, f.Ethernet())
		want.add(f.Src.String()+" > "+f.Dst.String(), n/10, n/10*size)
	}
	return frames, want
}

// awaitExport waits until so many of the exports have sent so many packets, by
// the agent's own account.
func (a *agentProcess) awaitExport(n, exports int) {
	a.t.Helper()
	if !nettest.Eventually(40*time.Second, func() bool {
		time.Sleep(100 * time.Millisecond)
		before := len(a.said())
		a.signal(syscall.SIGUSR1)
		nettest.Eventually(time.Second, func() bool { return strings.Contains(a.said()[before:], "log ") })
		return strings.Count(a.said()[before:], fmt.Sprintf(" of %s packets sent", grouped(n))) >= exports
	}) {
		a.t.Fatalf("it did not export %d packets:\n%s", n, a.said())
	}
}

func grouped(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// counted are collectors by name, and what they have counted; asking ends them.
type counted map[string]func(packets int) sums

// want fails the test unless all have counted this.
func (c counted) want(t *testing.T, want sums) {
	t.Helper()
	for name, sum := range c {
		want.want(t, name, sum(want.packets()))
	}
}

// TestExportToOthersCollectors: nfcapd, nfacctd and goflow2 count the same
// packets and bytes per flow as the agent's log has, by packet and by second,
// from one agent.
func TestExportToOthersCollectors(t *testing.T) {
	t.Parallel()
	const n = 10_000
	a, b := nettest.Pair(t)
	got := counted{
		"nfcapd, packets":  nfcapd(t, b, 9001),
		"nfcapd, flows":    nfcapd(t, b, 9002),
		"nfcapd, IPv6":     nfcapd(t, b, 9003, "-6"),
		"nfacctd, flows":   nfacctd(t, b, "::", 9004),
		"nfacctd, packets": nfacctd(t, b, "::", 9005),
	}
	var flowIDs, packetIDs map[string]uint32
	got["goflow2, flows"], flowIDs = goflow2(t, b, "", 9006)
	got["goflow2, packets"], packetIDs = goflow2(t, b, "", 9007)
	to := "ipfix+udp://" + b.Interface.IPv4.String()
	p := start(t, a, "-export", to+":9001", "-export", to+":9002?per=1s",
		"-export", "ipfix+udp://["+b.Interface.IPv6.String()+"]:9003", "-export", to+":9004?per=1s", "-export", to+":9005?per=packet",
		"-export", to+":9006?per=1s", "-export", to+":9007")
	p.await("capturing from now on", 1)
	p.logs()
	frames, want := mixture(a, b, n)
	send(t, a, n, 20_000, frames...)
	p.awaitExport(n, len(got))
	before := len(p.said())
	p.stop()
	summary := p.said()[before:]
	if n := strings.Count(summary, " of 10,000 packets sent"); n != len(got) || strings.Contains(summary, "failed") {
		t.Errorf("the summary:\n%s", summary)
	}
	want.want(t, "the log", p.logSums())
	got.want(t, want)
	if ids := p.logMGEN(); !maps.Equal(flowIDs, ids) || !maps.Equal(packetIDs, ids) || ids[want.one(":5005")] != 5 {
		t.Errorf("MGEN flow IDs %v by second and %v by packet, want %v", flowIDs, packetIDs, ids)
	}
}

// joins makes a host's kernel take what is sent to a group, for collectors that
// listen on it but cannot join. The host itself cannot send to the group then.
func joins(t *testing.T, h *nettest.Host, group string) {
	t.Helper()
	shell(t, h, "ip address add "+group+"/32 dev eth0 autojoin")
}

// routes lets collectors join groups that cannot be told where: they ask the
// routes.
func routes(t *testing.T, hosts ...*nettest.Host) {
	t.Helper()
	for _, h := range hosts {
		shell(t, h, "ip route add 239.0.0.0/8 dev eth0")
	}
}

// TestExportMulticast: one stream to a group reaches every receiver, whichever
// collector it is; what other agents send there is no traffic.
func TestExportMulticast(t *testing.T) {
	t.Parallel()
	const n = 5_000
	h := nettest.Bridge(t, 4)
	agents, receivers := h[:2], h[2:]
	routes(t, receivers...)
	got := counted{}
	for _, r := range receivers {
		joins(t, r, "239.192.70.75")
		got["nfcapd at "+r.Name] = nfcapd(t, r, 4739, "-J", "239.192.70.73")
		got["nfcapd, IPv6, at "+r.Name] = nfcapd(t, r, 4742, "-6", "-J", "ff18::7073")
		got["nfacctd at "+r.Name] = nfacctd(t, r, "0.0.0.0", 4740, "nfacctd_mcast_groups: 239.192.70.74")
		got["goflow2 at "+r.Name], _ = goflow2(t, r, "239.192.70.75", 4741)
	}
	var running []*agentProcess
	for _, x := range agents {
		running = append(running, start(t, x, "-m", "udp", "-export", "ipfix+udp://239.192.70.73?iface=eth0&per=packet",
			"-export", "ipfix+udp://239.192.70.74:4740?iface=eth0&per=packet", "-export", "ipfix+udp://239.192.70.75:4741?iface=eth0",
			"-export", "ipfix+udp://[ff18::7073]:4742?iface=eth0&per=packet"))
	}
	for _, p := range running {
		p.await("capturing from now on", 1)
		p.logs()
	}
	frames, want := mixture(agents[0], agents[1], n)
	send(t, agents[0], n, 10_000, frames...)
	twice := sums{} // both agents see it
	for flow, v := range want {
		twice.add(flow, 2*v[0], 2*v[1])
	}
	for _, p := range running {
		p.awaitExport(n, 4)
	}
	for _, p := range running {
		p.stop()
		want.want(t, "the log of "+p.host.Name, p.logSums())
	}
	got.want(t, twice)
}

// TestRecollectListens: our collector takes what agents send to groups, IPv4
// and IPv6, and by TCP, by packet and by second, knows them by their addresses,
// and has a line for each packet.
func TestRecollectListens(t *testing.T) {
	t.Parallel()
	h := nettest.Bridge(t, 2)
	a, b := h[0], h[1]
	r := startCollector(t, b, fmt.Sprintf("1=5000-5099\nv4:from://%s\nv6:from://%s\n", a.Interface.IPv4, a.Interface.IPv6),
		"-listen", "ipfix+udp://239.192.70.73:4739?iface=eth0",
		"-listen", "ipfix+udp://[ff18::7073]:4739?iface=eth0", "-listen", "ipfix+tcp://[::]:4740")
	const n = 1000
	p := start(t, a, "-export", "ipfix+udp://239.192.70.73?iface=eth0&per=packet&repair=4741",
		"-export", "ipfix+udp://[ff18::7073]:4739?iface=eth0", "-export", "ipfix+tcp://"+b.Interface.IPv4.String()+":4740")
	p.await("capturing from now on", 1)
	frames, want := mixture(a, b, n)
	send(t, a, n, 10_000, frames...)
	p.awaitExport(n, 3)
	p.stop()
	r.awaitLines(3 * n)
	lines, bits := map[string]int{}, map[string]int{}
	for _, line := range r.stop() {
		f := strings.Split(line, ":")
		lines[f[1]+":"+f[2]]++
		bits[f[1]+":"+f[2]] += number(t, f[3])
	}
	sent := 0
	for _, v := range want {
		sent += 8 * v[1]
	}
	if !maps.Equal(lines, map[string]int{"v4:1": 2 * n, "v6:1": n}) || !maps.Equal(bits, map[string]int{"v4:1": 2 * sent, "v6:1": sent}) {
		t.Errorf("lines %v, bits %v; want %d and %d of v6, twice as many of v4, which has two exports", lines, bits, n, sent)
	}
	if said := r.said.String(); !strings.Contains(said, "v4 (10.77.0.1): 2000 records, 2 connections\n") {
		t.Errorf("recollect said:\n%s", said)
	}
}

// TestExportInterfaceReturns: an interface for multicast that comes later, goes,
// and is made anew costs no more than the message that was to leave when it went: the
// agent waits for it, the collector joins again, and both know what is missing.
func TestExportInterfaceReturns(t *testing.T) {
	t.Parallel()
	const n = 100
	a, b := nettest.Pair(t)
	p := start(t, a, "-export", "ipfix+udp://239.192.70.73?iface=cable0&per=packet")
	p.await("iface=cable0: no such interface; trying again", 1)
	there := b.Command(t.Context(), "sleep", "1000") // who stands for b's namespace
	if err := there.Start(); err != nil {
		t.Fatal(err)
	}
	defer there.Wait()
	defer there.Process.Kill()
	cable(t, a, b, there.Process.Pid)
	r := startCollector(t, b, "x:from://10.78.0.1\n", "-listen", "ipfix+udp://239.192.70.73?iface=cable0")
	plug(t, a)
	p.await("cable0&per=packet: open", 1)
	frame := nettest.Between(a, b, 1000, 2000, []byte("x"))
	frame.Dst = netip.AddrPortFrom(nobody, 2000)
	send(t, a, n, 10_000, frame.Ethernet())
	r.awaitLines(n)
	shell(t, a, "ip link del cable0")
	send(t, a, 1, 10_000, frame.Ethernet()) // has nowhere to go, unless templates just had not
	p.await("trying again", 2)
	send(t, a, n, 10_000, frame.Ethernet()) // waits
	cable(t, a, b, there.Process.Pid)
	r.await("joined again: cable0 is a new interface", 1)
	plug(t, a)
	r.awaitLines(2 * n)
	p.stop()
	switch n := 2*n + 1 - r.out.lines(); n {
	case 0:
	case 1:
		r.awaitMissing("missing: 1 records not sent by the agent")
	default:
		t.Errorf("%d lines are missing", n)
	}
	r.stop()
}

// cable makes another one between two hosts, which the second calls cable0 and
// the first not yet. pid is a process of the second.
func cable(t *testing.T, a, b *nettest.Host, pid int) {
	t.Helper()
	shell(t, a, fmt.Sprintf("ip link add later0 type veth peer name cable0 netns %d && ip address add 10.78.0.1/24 dev later0", pid))
	shell(t, b, "ip address add 10.78.0.2/24 dev cable0 && ip link set cable0 up")
}

// plug gives the cable its name at the first host, too.
func plug(t *testing.T, a *nettest.Host) {
	t.Helper()
	shell(t, a, "ip link set later0 name cable0 && ip link set cable0 up")
}

// shell runs a command on a host.
func shell(t *testing.T, h *nettest.Host, command string) {
	t.Helper()
	if out, err := h.Command(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestExportManyFlows: 100,000 flows, more than the agent sums up at a time,
// arrive whole, by packet and by second, at each collector that listens and at
// each receiver of a group.
func TestExportManyFlows(t *testing.T) {
	const flows = 100_000
	h := nettest.Bridge(t, 3)
	a, b := h[0], h[1]
	routes(t, h[1:]...)
	got := counted{
		"nfcapd, packets": nfcapd(t, b, 9001),
		"nfcapd, flows":   nfcapd(t, b, 9002),
		"nfacctd, flows":  nfacctd(t, b, "::", 9003, "print_cache_entries: 200003"),
	}
	got["goflow2, flows"], _ = goflow2(t, b, "", 9004)
	var collectors []*collectorProcess
	for _, r := range h[1:] {
		got["nfcapd, packets, at "+r.Name] = nfcapd(t, r, 4739, "-J", "239.192.70.73")
		got["nfcapd, flows, at "+r.Name] = nfcapd(t, r, 4740, "-J", "239.192.70.74")
		collectors = append(collectors, startCollector(t, r, "a:from://"+a.Interface.IPv4.String()+"\n",
			"-listen", "ipfix+udp://239.192.70.75:4741?iface=eth0"))
	}
	to := "ipfix+udp://" + b.Interface.IPv4.String()
	p := start(t, a, "-export", to+":9001?rate=100M", "-export", to+":9002?per=1s&rate=50M", "-export", to+":9003?per=1s&rate=50M",
		"-export", to+":9004?per=1s&rate=50M", "-export", "ipfix+udp://239.192.70.73?iface=eth0&per=packet&rate=100M",
		"-export", "ipfix+udp://239.192.70.74:4740?iface=eth0&rate=50M",
		"-export", "ipfix+udp://239.192.70.75:4741?iface=eth0&per=packet&rate=100M")
	p.await("capturing from now on", 1)
	p.logs()
	frames, want := manyFlows(a, b, flows)
	send(t, a, flows, 60_000, frames...)
	p.awaitExport(flows, 7)
	p.stop()
	want.want(t, "the log", p.logSums())
	lines := p.grapherLines("a")
	for _, r := range collectors {
		r.awaitLines(len(lines))
		if out := r.stop(); !slices.Equal(slices.Sorted(slices.Values(out)), lines) {
			t.Errorf("recollect has %d lines, or others than the log's %d packets", len(out), len(lines))
		}
	}
	got.want(t, want)
}

// manyFlows is a frame for each flow, of IPv4, IPv6 and MGEN, and what collectors
// must say of them.
func manyFlows(a, b *nettest.Host, flows int) (frames [][]byte, want sums) {
	want = sums{}
	for i := range flows {
		f := nettest.Between(a, b, uint16(1024+i%50_000), uint16(2000+i/50_000), make([]byte, i%50))
		f.Dst = netip.AddrPortFrom(nobody, f.Dst.Port())
		if i%4 == 3 {
			f.Src = netip.AddrPortFrom(a.Interface.IPv6, f.Src.Port())
			f.Dst = netip.AddrPortFrom(nobody6, f.Dst.Port())
		}
		if i%5 == 0 {
			m := nettest.MGEN{Flow: uint32(i), Seq: uint32(i), Time: time.Now(), Dst: f.Dst, Size: 64 + i%50}
			f.Payload = m.Payload()
		}
		frames = append(frames, f.Ethernet())
		want.add(f.Src.String()+" > "+f.Dst.String(), 1, len(f.IP()))
	}
	return frames, want
}

// TestExportTLS: by TLS our agent dials and our collector shows a server's
// certificate; whoever has none is not let in.
func TestExportTLS(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, b.Interface.IPv4.String()); code != 0 { // the dialled side's
		t.Fatal(out)
	}
	r := startCollector(t, b, "", "-listen", "ipfix+tls://0.0.0.0", "-tls-cert", dir+"/agent.pem", "-tls-key", dir+"/agent-key.pem", "-tls-ca", dir+"/ca.pem")
	to := b.Interface.IPv4.String()
	p := start(t, a, "-export", "ipfix+tls://"+to+"?cert="+dir+"/collector.pem&key="+dir+"/collector-key.pem&ca="+dir+"/ca.pem",
		"-export", "ipfix+tcp://"+to+":4740")
	p.await("capturing from now on", 1)
	p.await("4740: open", 1)
	p.await("ca.pem: open", 1)
	frames, _ := mixture(a, b, 1000)
	send(t, a, 1000, 10_000, frames...)
	p.awaitExport(1000, 1)
	p.stop()
	r.await("is not let in: TLS: it does not speak TLS", 1)
	r.awaitLines(1000)
	if n := strings.Count(strings.Join(r.stop(), ""), ":other:X:"); n != 1000 {
		t.Errorf("%d lines", n)
	}
}
