package decode

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// way is how packets get from one host to the other, as the kernel makes it.
type way struct {
	name string
	// link makes the sender's device; nil: eth0 itself.
	link func(from, to *nettest.Host) netlink.Link
	// overhead is what the way adds to an IP packet, bytes.
	overhead int
	ip       bool // frames of the device begin with the IP header
	only4    bool // it carries IPv4
	must     bool // every kernel that tests run on has it
}

const wayName = "way0"

func ways() []way {
	v4 := func(h *nettest.Host) net.IP { return h.Interface.IPv4.AsSlice() }
	v6 := func(h *nettest.Host) net.IP { return h.Interface.IPv6.AsSlice() }
	attrs := func() netlink.LinkAttrs {
		la := netlink.NewLinkAttrs()
		la.Name = wayName
		return la
	}
	eth0 := func(h *nettest.Host) int {
		l, err := h.Netlink().LinkByName("eth0")
		if err != nil {
			panic(err)
		}
		return l.Attrs().Index
	}
	vxlan := func(ip func(*nettest.Host) net.IP) func(from, to *nettest.Host) netlink.Link {
		return func(from, to *nettest.Host) netlink.Link {
			return &netlink.Vxlan{
				LinkAttrs: attrs(), VxlanId: 5, SrcAddr: ip(from), Group: ip(to), Port: portVXLAN,
				VtepDevIndex: eth0(from), UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true,
			}
		}
	}
	gre := func(ip func(*nettest.Host) net.IP) func(from, to *nettest.Host) netlink.Link {
		return func(from, to *nettest.Host) netlink.Link {
			return &netlink.Gretun{LinkAttrs: attrs(), Local: ip(from), Remote: ip(to), Ttl: 64}
		}
	}
	return []way{
		{name: "plain", must: true},
		{name: "vlan", link: func(from, _ *nettest.Host) netlink.Link {
			la := attrs()
			la.ParentIndex = eth0(from)
			return &netlink.Vlan{LinkAttrs: la, VlanId: 5}
		}},
		{name: "vxlan over IPv4", link: vxlan(v4), overhead: 20 + 8 + 8 + 14, must: true},
		{name: "vxlan over IPv6", link: vxlan(v6), overhead: 40 + 8 + 8 + 14, must: true},
		{name: "geneve", link: func(_, to *nettest.Host) netlink.Link {
			return &netlink.Geneve{LinkAttrs: attrs(), ID: 5, Remote: v4(to), Dport: portGeneve}
		}, overhead: 20 + 8 + 8 + 14},
		{name: "gre over IPv4", link: gre(v4), overhead: 20 + 4, ip: true},
		{name: "gre over IPv6", link: gre(v6), overhead: 40 + 4, ip: true},
		{name: "ipip", link: func(from, to *nettest.Host) netlink.Link {
			return &netlink.Iptun{LinkAttrs: attrs(), Local: v4(from), Remote: v4(to), Ttl: 64}
		}, overhead: 20, ip: true, only4: true},
	}
}

// open makes the devices of a way and gives the addresses of its ends. It
// reports false if this kernel has no such devices.
func (w *way) open(t *testing.T, a, b *nettest.Host) (from, to [2]netip.Addr, ok bool) {
	if w.link == nil {
		return [2]netip.Addr{a.Interface.IPv4, a.Interface.IPv6}, [2]netip.Addr{b.Interface.IPv4, b.Interface.IPv6}, true
	}
	ends := [2][2]netip.Addr{
		{netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("fd78::1")},
		{netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("fd78::2")},
	}
	hosts := [2]*nettest.Host{a, b}
	var links [2]netlink.Link
	for i, h := range hosts {
		if err := h.Netlink().LinkAdd(w.link(h, hosts[1-i])); err != nil {
			if !w.must && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV)) {
				return from, to, false
			}
			t.Fatalf("%s: %v", w.name, err)
		}
		var err error
		if links[i], err = h.Netlink().LinkByName(wayName); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.Netlink().LinkDel(links[i]) })
		for _, addr := range ends[i] {
			bits := addr.BitLen()
			if err := h.Netlink().AddrAdd(links[i], &netlink.Addr{
				IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits-8, bits)}, Flags: unix.IFA_F_NODAD,
			}); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.Netlink().LinkSetUp(links[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, h := range hosts {
		for _, addr := range ends[1-i] {
			if w.ip {
				continue
			}
			if err := h.Netlink().NeighSet(&netlink.Neigh{
				LinkIndex: links[i].Attrs().Index, State: unix.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: links[1-i].Attrs().HardwareAddr,
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ends[0], ends[1], true
}

// manner is how a program's bytes become super-packets.
type manner struct {
	name  string
	proto uint8
	// send reports whether all has arrived.
	send func(t *testing.T, from, to *nettest.Host, dst netip.Addr) bool
	big  bool
}

const (
	matrixBytes   = 400_000
	matrixSegment = 1200 // of UDP_SEGMENT
	matrixPort    = 5001
)

var manners = []manner{
	{name: "GSO", proto: wire.ProtoTCP, send: sendTCP},
	{name: "UDP_SEGMENT", proto: wire.ProtoUDP, send: sendSegments},
	{name: "BIG TCP", proto: wire.ProtoTCP, send: sendTCP, big: true},
}

// sendTCP returns when all has been acknowledged. That 64 KiB or a multiple did not
// arrive although they were is a fault of the kernel's.
func sendTCP(t *testing.T, from, to *nettest.Host, dst netip.Addr) bool {
	server, err := to.Listen("tcp", netip.AddrPortFrom(dst, matrixPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	done := make(chan error)
	lost := int64(0) // of those sent; valid once done has given something
	go func() {
		conn, err := server.Accept()
		if err != nil {
			done <- err
			return
		}
		n, err := io.Copy(io.Discard, conn)
		if lost = matrixBytes - n; lost < 0 || lost%(1<<16) != 0 {
			err = errors.Join(err, fmt.Errorf("%d bytes arrived", n))
		}
		done <- errors.Join(err, conn.(*net.TCPConn).SetLinger(5), conn.Close())
	}()
	conn, err := from.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(make([]byte, matrixBytes))
	if err = errors.Join(err, conn.Close(), <-done); err != nil {
		t.Fatal(err)
	}
	return lost == 0
}

func sendSegments(t *testing.T, from, to *nettest.Host, dst netip.Addr) bool {
	server, err := to.ListenPacket("udp", netip.AddrPortFrom(dst, matrixPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := from.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, matrixSegment) })
	if err = errors.Join(err, inner); err != nil {
		t.Fatal(err)
	}
	const write = 40_000
	for range matrixBytes / write {
		if _, err := conn.Write(make([]byte, write)); err != nil {
			t.Fatal(err)
		}
	}
	return true
}

// setBig lets a host's TCP make super-packets of more than 64 KiB on a device,
// or no longer. It reports whether the device can.
func setBig(t *testing.T, h *nettest.Host, name string, big bool) bool {
	link, err := h.Netlink().LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	size := 65536
	if big {
		size = 190_000
	}
	return errors.Join(h.Netlink().LinkSetGSOMaxSize(link, size), h.Netlink().LinkSetGSOIPv4MaxSize(link, size)) == nil
}

// TestMatrix sends the same bytes in every way that this kernel has and every
// manner, with offloads, and takes them by all engines at once. They agree, no
// record is longer than the MTU, and the packets around and inside differ by
// the headers in between.
func TestMatrix(t *testing.T) {
	nettest.NeedTCX(t)
	a, b := nettest.Pair(t)
	for _, h := range []*nettest.Host{a, b} {
		if err := h.SetOffloads(true); err != nil {
			t.Fatal(err)
		}
	}
	taps := new(capture.Taps) // one set of programs for all
	defer taps.Close()
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			from, to, ok := w.open(t, a, b)
			if !ok {
				t.Log("this kernel has no such devices")
				return
			}
			for family, name := range []string{"IPv4", "IPv6"} {
				if w.only4 && family > 0 {
					continue
				}
				for _, m := range manners {
					t.Run(name+"/"+m.name, func(t *testing.T) {
						s := shot{way: &w, manner: &m, from: from[family], to: to[family], sources: []netip.Addr{a.Interface.IPv4, a.Interface.IPv6}}
						s.run(t, taps, a, b)
					})
				}
			}
		})
	}
}

// shot is one cell of the matrix.
type shot struct {
	way      *way
	manner   *manner
	from, to netip.Addr
	sources  []netip.Addr // the sender's addresses on eth0
	frames   map[string][]packet.Frame
}

func (s *shot) run(t *testing.T, taps *capture.Taps, a, b *nettest.Host) {
	device := "eth0"
	if s.way.link != nil {
		device = wayName
	}
	if s.manner.big {
		for _, name := range []string{device, "eth0"} {
			defer setBig(t, a, name, false)
			if !setBig(t, a, name, true) {
				if s.way.link == nil {
					t.Fatal("no BIG TCP on eth0")
				}
				t.Logf("%s of this kernel takes no super-packets of more than 64 KiB", name)
				return
			}
		}
	}
	// How much TCP puts into a super-packet depends on how busy the machine is.
	arrived := s.capture(t, taps, a, b, device)
	for tries := 1; s.manner.big && s.longest("device") < 66_000 && tries < 10; tries++ {
		arrived = s.capture(t, taps, a, b, device)
	}
	ring := s.records("ring", Config{}, s.sources)
	s.same(t, "ebpf", s.records("ebpf", Config{}, s.sources), ring)
	if !arrived && (!s.manner.big || s.way.link == nil) {
		t.Error("not all bytes that TCP acknowledged have arrived")
	}
	if !arrived || s.manner.big && s.longest("ring") < s.longest("device") {
		t.Logf("this kernel loses super-packets of more than 64 KiB between %s and eth0", device)
		return
	}
	s.onWire(t, ring)
	s.inside(t, device, ring)
	if capture.HavePcap {
		s.whole(t, ring)
	}
}

// capture sends, and takes what a sends on eth0 by all engines, and on the
// device by the ring.
func (s *shot) capture(t *testing.T, taps *capture.Taps, a, b *nettest.Host, device string) (arrived bool) {
	cfg := capture.Config{Interface: "eth0", Ethernet: true, Inside: true}
	dev := capture.Config{Interface: device, Ethernet: !s.way.ip}
	open := map[string]func() (capture.Source, error){
		"ring":   func() (capture.Source, error) { return capture.OpenRing(cfg) },
		"ebpf":   func() (capture.Source, error) { return taps.Open(cfg) },
		"device": func() (capture.Source, error) { return capture.OpenRing(dev) },
	}
	if capture.HavePcap {
		open["libpcap"] = func() (capture.Source, error) { return capture.OpenPcap(cfg) }
	}
	sources := map[string]capture.Source{}
	for name, f := range open {
		var src capture.Source
		var err error
		a.Do(func() { src, err = f() })
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		if err := src.Attach(); err != nil {
			t.Fatal(err)
		}
		sources[name] = src
	}
	arrived = s.manner.send(t, a, b, s.to)
	s.frames = map[string][]packet.Frame{}
	for name, src := range sources {
		src.Drain()
		s.frames[name] = s.ours(framesOf(t, src))
		if st := src.Stats(); st.Dropped != 0 {
			t.Fatalf("%s: %+v", name, st)
		}
	}
	return arrived
}

func framesOf(t *testing.T, s capture.Source) []packet.Frame {
	t.Helper()
	var all []packet.Frame
	for {
		b, err := s.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		var f packet.Frame
		for b.Next(&f) {
			f.Data = bytes.Clone(f.Data)
			all = append(all, f)
		}
		b.Release()
	}
}

// ours leaves out the frames of others, such as the kernel's own MLD reports.
func (s *shot) ours(all []packet.Frame) []packet.Frame {
	d := New(Config{Inner: true})
	var left []packet.Frame
	var recs [1]wire.Record
	for _, f := range all {
		n := d.Decode(&f, recs[:])
		if n > 0 && recs[0].SrcAddr() == s.from && recs[0].DstPort == matrixPort {
			left = append(left, f)
		}
		for d.Pending() {
			d.Drain(recs[:])
		}
	}
	return left
}

// records decodes what an engine took, and leaves the packets of others out.
func (s *shot) records(engine string, cfg Config, sources []netip.Addr) []wire.Record {
	d := New(cfg)
	var all []wire.Record
	var recs [64]wire.Record
	for _, f := range s.frames[engine] {
		n := d.Decode(&f, recs[:])
		for n > 0 {
			for _, r := range recs[:n] {
				r.Time = 0
				r.Flags &^= wire.Incoming | wire.Outgoing
				for _, from := range sources {
					if r.SrcAddr() == from {
						all = append(all, r)
					}
				}
			}
			n = d.Drain(recs[:])
		}
	}
	return all
}

// same: got has the records of want, in whatever order.
func (s *shot) same(t *testing.T, name string, got, want []wire.Record) {
	t.Helper()
	count := map[wire.Record]int{}
	for _, r := range want {
		count[r]++
	}
	for _, r := range got {
		count[r]--
	}
	for r, n := range count {
		if n != 0 {
			t.Errorf("%s: %d records more or less like %s, flags %b", name, -n, fields(&r), r.Flags)
		}
	}
}

// longest is the length of the longest frame that an engine took.
func (s *shot) longest(engine string) (n int) {
	for _, f := range s.frames[engine] {
		n = max(n, f.WireLen)
	}
	return n
}

// onWire: the records are of packets that fit the network, and there was
// something to cut.
func (s *shot) onWire(t *testing.T, ring []wire.Record) {
	t.Helper()
	bytes := 0
	for _, r := range ring {
		bytes += int(r.Length)
		if r.Length > ethernetMTU || r.Flags&(wire.Super|wire.Truncated) != 0 {
			t.Errorf("record above the MTU, or not whole: %s, flags %b", fields(&r), r.Flags)
		}
	}
	if least := map[bool]int{false: 5000, true: 66_000}[s.manner.big]; s.longest("ring") < least {
		t.Errorf("the longest super-packet has %d bytes: there was nothing to cut", s.longest("ring"))
	}
	if bytes < matrixBytes || len(ring) < matrixBytes/ethernetMTU {
		t.Errorf("%d records of %d bytes for %d bytes sent", len(ring), bytes, matrixBytes)
	}
}

// inside: what the device sent is what was inside the packets on eth0.
func (s *shot) inside(t *testing.T, device string, ring []wire.Record) {
	t.Helper()
	inner := s.records("device", Config{}, []netip.Addr{s.from})
	if outer, in := sum(ring), sum(inner); len(ring) != len(inner) || outer-s.way.overhead*len(ring) != in {
		t.Errorf("%d packets of %d bytes on eth0, %d of %d on %s, want %d bytes more in each",
			len(ring), outer, len(inner), in, device, s.way.overhead)
	}
	for _, engine := range []string{"ring", "ebpf"} {
		s.same(t, engine+", looking inside", s.records(engine, Config{Inner: true}, []netip.Addr{s.from}), inner)
	}
}

// whole: libpcap cannot tell super-packets, and has one record for each, of as
// many bytes of payload.
func (s *shot) whole(t *testing.T, ring []wire.Record) {
	t.Helper()
	headers := s.way.overhead + ipv4Len
	if s.from.Is6() {
		headers = s.way.overhead + ipv6Len
	}
	headers += map[uint8]int{wire.ProtoTCP: tcpLen + 12, wire.ProtoUDP: udpLen}[s.manner.proto] // TCP with time stamps
	whole := s.records("libpcap", Config{}, s.sources)
	bytes := sum(whole) - headers*len(whole)
	for _, r := range whole {
		if r.Length > ipv6Len+maxTotal && r.Flags&wire.IPv6 != 0 && s.way.overhead == 0 {
			bytes -= 8 // the jumbo payload option, which does not go over the wire
		}
	}
	if want := sum(ring) - headers*len(ring); bytes != want || len(whole) >= len(ring) {
		t.Errorf("libpcap: %d records with %d bytes of payload, want fewer than %d with %d", len(whole), bytes, len(ring), want)
	}
}

func sum(recs []wire.Record) (n int) {
	for _, r := range recs {
		n += int(r.Length)
	}
	return n
}
