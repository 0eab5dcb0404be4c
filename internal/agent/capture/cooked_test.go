package capture

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// On a tun device frames have no link header at all: both directions, both IP
// versions, with a filter that counts from the network header.
func TestCookedTun(t *testing.T) { everyEngine(t, testCookedTun) }

func testCookedTun(t *testing.T, e liveEngine) {
	a, b := nettest.Pair(t)
	file := tun(t, a, "tun0", 0)
	if e.name == "shared" { // which is for Ethernet only, and says so
		a.Do(func() {
			if s, err := e.source(Config{Interface: "tun0"}); !errors.Is(err, errUntranslatable) {
				t.Errorf("%v, %v", s, err)
			}
		})
		return
	}
	r := e.open(t, a, Config{Interface: "tun0", Snaplen: 30})
	if ring, ok := r.(*Ring); ok && !ring.Offloads() {
		t.Error("super-packets on a tun device are not known")
	}
	v4 := nettest.Between(b, a, 4001, 5001, []byte("into the host"))
	v6 := v4
	v6.Src, v6.Dst = netip.MustParseAddrPort("[fd78::2]:4001"), netip.MustParseAddrPort("[fd78::1]:5001")
	for _, f := range []nettest.Frame{v4, v6} {
		if _, err := file.Write(f.IP()); err != nil {
			t.Fatal(err)
		}
	}
	var g *nettest.Generator
	var err error
	a.Do(func() { g, err = nettest.NewGenerator("tun0", [][]byte{v4.IP(), v6.IP()}) })
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if _, _, err := g.Send(context.Background(), 2, 0); err != nil {
		t.Fatal(err)
	}
	for i, got := range seen(t, r, 4) {
		want, protocol := v4.IP(), uint16(unix.ETH_P_IP)
		if i%2 == 1 {
			want, protocol = v6.IP(), unix.ETH_P_IPV6
		}
		direction := packet.Incoming
		if i >= 2 {
			direction = packet.Outgoing
		}
		if !bytes.Equal(got.Data, want[:30]) || got.WireLen != len(want) {
			t.Errorf("frame %d: %d bytes of %d: % x", i, len(got.Data), got.WireLen, got.Data)
		}
		if got.Link != packet.Network || got.Protocol != protocol || got.Direction != direction {
			t.Errorf("frame %d: %+v", i, got)
		}
	}
}

// A cooked capture of an interface with link headers leaves them out.
func TestCookedEthernet(t *testing.T) {
	a, b := nettest.Pair(t)
	cfg := Config{Filter: assemble(t, ours...)}
	sender, receiver := open(t, a, cfg), open(t, b, cfg)
	f := udp(a, b, []byte("hello"))
	send(t, a, 3, f.Ethernet())
	for direction, r := range map[packet.Direction]*Ring{packet.Outgoing: sender, packet.Incoming: receiver} {
		if r.Offloads() {
			t.Error("a cooked socket claims to know super-packets")
		}
		for _, got := range seen(t, r, 3) {
			if !bytes.Equal(got.Data, f.IP()) || got.WireLen != len(f.IP()) {
				t.Errorf("%d bytes of %d: % x", len(got.Data), got.WireLen, got.Data)
			}
			if got.Link != packet.Network || got.Protocol != unix.ETH_P_IP || got.Direction != direction {
				t.Errorf("frame %+v", got)
			}
		}
	}
}

// The tunnels of the kernel, between two hosts: what goes in and comes out
// begins at the inner network header.
func TestCookedTunnels(t *testing.T) {
	for _, test := range []struct {
		kind, option string
		make         func(from, to *nettest.Host) netlink.Link
	}{
		{"ipip", "CONFIG_NET_IPIP", func(from, to *nettest.Host) netlink.Link {
			return &netlink.Iptun{
				LinkAttrs: netlink.LinkAttrs{Name: "tunnel"},
				Local:     from.Interface.IPv4.AsSlice(), Remote: to.Interface.IPv4.AsSlice(),
			}
		}},
		{"gre", "CONFIG_NET_IPGRE", func(from, to *nettest.Host) netlink.Link {
			return &netlink.Gretun{
				LinkAttrs: netlink.LinkAttrs{Name: "tunnel"},
				Local:     from.Interface.IPv4.AsSlice(), Remote: to.Interface.IPv4.AsSlice(),
			}
		}},
		{"sit", "CONFIG_IPV6_SIT", func(from, to *nettest.Host) netlink.Link {
			return &netlink.Sittun{
				LinkAttrs: netlink.LinkAttrs{Name: "tunnel"},
				Local:     from.Interface.IPv4.AsSlice(), Remote: to.Interface.IPv4.AsSlice(),
			}
		}},
	} {
		t.Run(test.kind, func(t *testing.T) {
			a, b := nettest.Pair(t)
			for i, pair := range [][2]*nettest.Host{{a, b}, {b, a}} {
				if !addLink(t, pair[0], test.make(pair[0], pair[1]), test.option) {
					return
				}
				link, err := pair[0].Netlink().LinkByName("tunnel")
				if err != nil {
					t.Fatal(err)
				}
				for _, prefix := range []string{"10.78.0.%d/24", "fd78::%d/64"} {
					if err := pair[0].Netlink().AddrAdd(link, tunnelAddr(t, prefix, i+1)); err != nil {
						t.Fatal(err)
					}
				}
			}
			to := "10.78.0.2:5001"
			if test.kind == "sit" {
				to = "[fd78::2]:5001"
			}
			checkTunnel(t, a, b, to)
		})
	}
}

func tunnelAddr(t *testing.T, prefix string, host int) *netlink.Addr {
	t.Helper()
	ip, network, err := net.ParseCIDR(string(bytes.ReplaceAll([]byte(prefix), []byte("%d"), []byte{'0' + byte(host)})))
	if err != nil {
		t.Fatal(err)
	}
	network.IP = ip
	return &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}
}

// checkTunnel sends a datagram from a to b through the device "tunnel".
func checkTunnel(t *testing.T, a, b *nettest.Host, to string) {
	t.Helper()
	server, err := b.ListenPacket("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.Dial("udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	cfg := Config{Interface: "tunnel"}
	out, in := open(t, a, cfg), open(t, b, cfg)
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := server.ReadFrom(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	for direction, r := range map[packet.Direction]*Ring{packet.Outgoing: out, packet.Incoming: in} {
		r.Drain()
		found := 0
		for _, f := range rest(t, r) {
			if !bytes.HasSuffix(f.Data, []byte("hello")) {
				continue
			}
			found++
			version, headers := f.Data[0]>>4, 28
			if f.Protocol == unix.ETH_P_IPV6 {
				headers = 48
			}
			if (version == 6) != (f.Protocol == unix.ETH_P_IPV6) || f.WireLen != headers+5 || f.Direction != direction {
				t.Errorf("frame %+v", f)
			}
		}
		if found != 1 {
			t.Errorf("direction %v: seen %d times, want once", direction, found)
		}
	}
}

// WireGuard without a peer sends nothing on, but its own taps see what goes in.
func TestCookedWireguard(t *testing.T) {
	a, _ := nettest.Pair(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "wg0"
	if !addLink(t, a, &netlink.Wireguard{LinkAttrs: attrs}, "CONFIG_WIREGUARD") {
		return
	}
	link, err := a.Netlink().LinkByName("wg0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().AddrAdd(link, tunnelAddr(t, "10.78.0.%d/24", 1)); err != nil {
		t.Fatal(err)
	}
	r := open(t, a, Config{Interface: "wg0", Filter: assemble(t, ours...)})
	if !r.Offloads() {
		t.Error("super-packets on a WireGuard device are not known")
	}
	client, err := a.Dial("udp", "10.78.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// The error is that of the missing peer (ENOKEY), and comes after the tap.
	_, _ = client.Write([]byte("hello"))
	for _, f := range seen(t, r, 1) {
		if f.Link != packet.Network || f.Protocol != unix.ETH_P_IP || f.Direction != packet.Outgoing ||
			f.WireLen != 20+8+5 || !bytes.HasSuffix(f.Data, []byte("hello")) {
			t.Errorf("frame %+v", f)
		}
	}
}
