package pathtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// lab is hosts, and captures on their interfaces.
type lab struct {
	t       *testing.T
	hosts   map[string]*nettest.Host
	watched []*watch
	settled bool
	skew    map[string]time.Duration // how far hosts' clocks are ahead, which share one: their agents' stamps are shifted
}

// watch is a capture and the decoder of its frames.
type watch struct {
	label  string
	source capture.Source
	d      *decode.Decoder
	recs   []wire.Record // complete once done is closed
	groups []wire.Record // the interface's when the capture began
	done   chan struct{}
}

func newLab(t *testing.T) *lab { return &lab{t: t, hosts: map[string]*nettest.Host{}} }

func (l *lab) host(name string) *nettest.Host {
	if l.hosts[name] == nil {
		l.hosts[name] = nettest.NewHost(l.t, name)
	}
	return l.hosts[name]
}

// run runs a command line in a host and gives its output.
func (l *lab) run(host, line string, args ...any) string {
	l.t.Helper()
	line = fmt.Sprintf(line, args...)
	out, err := l.host(host).Command(context.Background(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s: %s: %v\n%s", host, line, err, out)
	}
	return string(out)
}

// net joins two hosts by interfaces named after the peer, in networks 10.9.n.0/24 and fd09:n::/64, in
// which the first has .1 and the second .2.
func (l *lab) net(n int, a, b string) {
	l.t.Helper()
	nettest.Cable(l.t, l.host(a), b, l.host(b), a)
	for i, at := range [][2]string{{a, b}, {b, a}} {
		l.run(at[0], "ip addr add 10.9.%d.%d/24 dev %s; ip addr add fd09:%d::%d/64 dev %[3]s nodad; ip addr add fe80::%[2]d/64 dev %[3]s nodad", n, i+1, at[1], n, i+1)
	}
}

func (l *lab) forward(hosts ...string) {
	for _, h := range hosts {
		l.run(h, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done")
	}
}

// chain makes the hosts s, r1 to rn, and d, in a row: networks 0 to n.
func (l *lab) chain(n int) {
	l.t.Helper()
	names := []string{"s"}
	for i := range n {
		names = append(names, fmt.Sprintf("r%d", i+1))
	}
	names = append(names, "d")
	for i := range n + 1 {
		l.net(i, names[i], names[i+1])
	}
	l.forward(names[1 : n+1]...)
	for i, name := range names {
		for k := range n + 1 {
			switch {
			case k > i:
				l.run(name, "ip route add 10.9.%d.0/24 via 10.9.%d.2; ip route add fd09:%d::/64 via fd09:%d::2", k, i, k, i)
			case k < i-1:
				l.run(name, "ip route add 10.9.%d.0/24 via 10.9.%d.1; ip route add fd09:%d::/64 via fd09:%d::1", k, i-1, k, i-1)
			}
		}
	}
	l.watch(names...)
}

// watch captures on all interfaces of hosts but lo.
func (l *lab) watch(hosts ...string) {
	l.t.Helper()
	for _, name := range hosts {
		l.watchOnly(name)
	}
}

// watchOnly captures on these interfaces of a host; none are all but lo.
func (l *lab) watchOnly(name string, only ...string) {
	l.t.Helper()
	h := l.host(name)
	links, err := h.Netlink().LinkList()
	if err != nil {
		l.t.Fatal(err)
	}
	var addrs []netip.Addr
	for _, a := range strings.Fields(l.run(name, `ip -o addr | sed 's/.*inet6* \([^/ ]*\).*/\1/'`)) {
		if addr, err := netip.ParseAddr(a); err == nil {
			addrs = append(addrs, addr)
		}
	}
	for _, link := range links {
		if link.Attrs().Name == "lo" || only != nil && !slices.Contains(only, link.Attrs().Name) {
			continue
		}
		w := &watch{label: name + "/" + link.Attrs().Name, d: decode.New(decode.Config{})}
		w.d.SetLocal(decode.Local{MAC: link.Attrs().HardwareAddr, Addrs: addrs})
		w.groups = l.memberships(h, link.Attrs().Index)
		h.Do(func() {
			w.source, err = capture.OpenRing(capture.Config{Interface: link.Attrs().Name, Ethernet: true, Snaplen: 256, RingBytes: 8 << 20})
		})
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { w.source.Close() })
		if err := w.source.Attach(); err != nil {
			l.t.Fatal(err)
		}
		l.watched = append(l.watched, w)
		w.done = make(chan struct{})
		go func() {
			defer close(w.done)
			w.read(l.t)
		}()
	}
}

// memberships are what an agent tells of an interface's groups.
func (l *lab) memberships(h *nettest.Host, index int) (recs []wire.Record) {
	l.t.Helper()
	var groups []netip.Addr
	var err error
	h.Do(func() {
		var r *iface.GroupReader
		if r, err = iface.OpenGroups(); err != nil {
			return
		}
		defer r.Close()
		groups, err = r.Read(index)
	})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, g := range groups {
		recs = append(recs, wire.Membership(1, g))
	}
	return append(recs, wire.Memberships(1, len(groups)))
}

// member has a socket on a host join a group on its only interface until the test ends.
func (l *lab) member(host, group string) {
	l.t.Helper()
	var c net.PacketConn
	var err error
	l.host(host).Do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName("eth0"); err == nil {
			c, err = net.ListenMulticastUDP("udp4", i, &net.UDPAddr{IP: net.ParseIP(group), Port: 5000})
		}
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
}

// settle ends the captures.
func (l *lab) settle() {
	l.t.Helper()
	if l.settled {
		return
	}
	l.settled = true
	time.Sleep(300 * time.Millisecond) // packets under way
	for _, w := range l.watched {
		w.source.Drain()
		<-w.done
		if s := w.source.Stats(); s.Dropped != 0 {
			l.t.Fatalf("%s: the capture lost %d frames", w.label, s.Dropped)
		}
	}
}

// join ends the captures and joins what they saw.
func (l *lab) join() *path.Engine {
	l.t.Helper()
	l.settle()
	e := path.New(path.Config{Window: time.Hour, Memory: 1 << 30})
	for _, w := range l.watched {
		e.Watch(e.Agent(w.label), 1, true)
		e.Add(1, e.Agent(w.label), w.groups...)
	}
	for _, w := range l.watched {
		recs := slices.Clone(w.recs)
		for i := range recs {
			recs[i].Time += int64(l.skew[path.NodeOf(w.label)])
		}
		e.Add(time.Now().UnixNano(), e.Agent(w.label), recs...)
	}
	e.Flush()
	return e
}

// read decodes frames until the capture ends.
func (w *watch) read(t *testing.T) {
	var recs [64]wire.Record
	var f packet.Frame
	for {
		b, err := w.source.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
		for b.Next(&f) {
			for n := w.d.Decode(&f, recs[:]); n > 0; n = w.d.Drain(recs[:]) {
				w.recs = append(w.recs, recs[:n]...)
			}
		}
		b.Release()
	}
}

// send sends n datagrams with a number in each, at some thousand a second.
func (l *lab) send(host, to string, n, size int) {
	l.t.Helper()
	network := "udp4"
	if strings.HasPrefix(to, "[") {
		network = "udp6"
	}
	c, err := l.host(host).ListenPacket(network, ":6000")
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	addr, err := net.ResolveUDPAddr(network, to)
	if err != nil {
		l.t.Fatal(err)
	}
	b := make([]byte, size)
	for i := range n {
		copy(b, fmt.Sprintf("%016d", i))
		if _, err := c.WriteTo(b, addr); err != nil {
			l.t.Fatal(err)
		}
		if i%50 == 49 {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// sink takes datagrams, so that nothing answers them.
func (l *lab) sink(host, at string) {
	l.t.Helper()
	c, err := l.host(host).ListenPacket("udp", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
}

// echo sends datagrams back, with one byte changed.
func (l *lab) echo(host, at string) {
	l.t.Helper()
	c, err := l.host(host).ListenPacket("udp4", at)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			b[0] = 'A'
			_, _ = c.WriteTo(b[:n], from)
		}
	}()
}

var counted = regexp.MustCompile(`counter packets (\d+)`)

// counters are those of a host's nftables rules, in their order.
func (l *lab) counters(host string) (list []uint64) {
	l.t.Helper()
	for _, m := range counted.FindAllStringSubmatch(l.run(host, "nft list ruleset"), -1) {
		n, _ := strconv.ParseUint(m[1], 10, 64)
		list = append(list, n)
	}
	return list
}

// flow is the only one that the query asks for.
func flow(t *testing.T, e *path.Engine, dst string, port uint16) path.Flow {
	t.Helper()
	var found []path.Flow
	for _, f := range e.Report(path.Query{Dst: netip.MustParseAddr(dst)}, 0).Flows {
		if f.DstPort == port {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d flows to %s port %d, want 1: %+v", len(found), dst, port, e.Report(path.Query{}, 0))
	}
	return found[0]
}

// lost is what the flow lost on the hop from one place to another, as "r1/s in".
func lost(t *testing.T, f *path.Flow, from, to string) uint64 {
	t.Helper()
	for _, h := range f.Hops {
		if h.To != nil && h.From.Agent+" "+h.From.Stage == from && h.To.Agent+" "+h.To.Stage == to {
			return h.Lost
		}
	}
	t.Fatalf("no hop from %s to %s", from, to)
	return 0
}
