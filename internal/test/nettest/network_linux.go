package nettest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// Interface is a host's network card, the same in every host but for the last
// byte of each address: eth0, 02:00:00:00:00:xx, 10.77.0.x/24, fd77::x/64.
type Interface struct {
	Name string
	MAC  MAC
	IPv4 netip.Addr
	IPv6 netip.Addr
}

const (
	ifName    = "eth0"
	prefixV4  = 24
	prefixV6  = 64
	maxHosts  = 200
	bridgeDev = "br0"
)

// interfaceNumber has the MAC's last byte apart from the IP addresses', as a
// pair's MACs end in 0a and 0b.
func interfaceNumber(n, mac byte) Interface {
	return Interface{
		Name: ifName,
		MAC:  MAC{2, 0, 0, 0, 0, mac},
		IPv4: netip.AddrFrom4([4]byte{10, 77, 0, n}),
		IPv6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: n}),
	}
}

// Pair makes two hosts joined by a cable: a with 02:00:00:00:00:0a, 10.77.0.1
// and fd77::1, b with 02:00:00:00:00:0b, 10.77.0.2 and fd77::2.
func Pair(t TB) (a, b *Host) {
	t.Helper()
	needPrivilege(t)
	a, b = newHost(t, "a"), newHost(t, "b")
	a.Interface, b.Interface = interfaceNumber(1, 0x0a), interfaceNumber(2, 0x0b)
	cable := netlink.NewVeth(a.attrs())
	cable.PeerName = ifName
	cable.PeerHardwareAddr = b.Interface.MAC[:]
	cable.PeerNamespace = netlink.NsFd(b.ns)
	if err := a.nl.LinkAdd(cable); err != nil {
		t.Fatalf("veth between %s and %s: %v", a.Name, b.Name, err)
	}
	configure(t, a, b)
	return a, b
}

// Bridge makes n hosts, n1 to 10.77.0.n, on one bridge that knows where each of
// them is and floods multicast to all.
func Bridge(t TB, n int) []*Host {
	t.Helper()
	needPrivilege(t)
	if n < 1 || n > maxHosts {
		t.Fatalf("bridge with %d hosts: want 1 to %d", n, maxHosts)
	}
	sw := newHost(t, "switch")
	if err := sw.addBridge(); err != nil {
		t.Fatalf("bridge: %v", err)
	}
	hosts := make([]*Host, n)
	for i := range hosts {
		hosts[i] = newHost(t, fmt.Sprintf("n%d", i+1))
		hosts[i].Interface, hosts[i].Switch = interfaceNumber(byte(i+1), byte(i+1)), sw
		if err := sw.plug(hosts[i]); err != nil {
			t.Fatalf("plug %s into the bridge: %v", hosts[i].Name, err)
		}
	}
	configure(t, hosts...)
	return hosts
}

func (h *Host) attrs() netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifName
	attrs.HardwareAddr = h.Interface.MAC[:]
	return attrs
}

func (h *Host) addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeDev
	snooping := false
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return err
	}
	return h.up(bridgeDev)
}

// plug makes a cable from the switch h to a host, and tells the bridge the
// host's address, so that no frame is flooded that need not be.
func (h *Host) plug(to *Host) error {
	bridge, err := h.nl.LinkByName(bridgeDev)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "to-" + to.Name
	attrs.MasterIndex = bridge.Attrs().Index
	cable := netlink.NewVeth(attrs)
	cable.PeerName = ifName
	cable.PeerHardwareAddr = to.Interface.MAC[:]
	cable.PeerNamespace = netlink.NsFd(to.ns)
	if err := h.nl.LinkAdd(cable); err != nil {
		return err
	}
	port, err := h.nl.LinkByName(attrs.Name)
	if err != nil {
		return err
	}
	if err := h.nl.LinkSetUp(port); err != nil {
		return err
	}
	return h.nl.NeighAppend(&netlink.Neigh{
		LinkIndex:    port.Attrs().Index,
		Family:       unix.AF_BRIDGE,
		Flags:        unix.NTF_MASTER,
		State:        unix.NUD_NOARP, // static; NUD_PERMANENT would be the bridge's own
		HardwareAddr: to.Interface.MAC[:],
	})
}

// configure gives each host its addresses, brings it up without offloads, and
// tells each where the others are.
func configure(t TB, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		if err := h.configure(hosts); err != nil {
			t.Fatalf("configure %s: %v", h.Name, err)
		}
	}
	for _, h := range hosts {
		if err := h.waitCarrier(); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
	}
	settle(hosts)
}

func (h *Host) configure(all []*Host) error {
	link, err := h.nl.LinkByName(ifName)
	if err != nil {
		return err
	}
	if err := h.SetOffloads(false); err != nil {
		return err
	}
	for _, addr := range h.addresses() {
		if err := h.nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
	}
	if err := h.nl.LinkSetUp(link); err != nil {
		return err
	}
	for _, other := range all {
		if other == h {
			continue
		}
		if err := h.knows(link, other); err != nil {
			return fmt.Errorf("neighbour %s: %w", other.Name, err)
		}
	}
	return nil
}

func (h *Host) addresses() []*netlink.Addr {
	return []*netlink.Addr{
		{IPNet: &net.IPNet{IP: h.Interface.IPv4.AsSlice(), Mask: net.CIDRMask(prefixV4, 32)}},
		{IPNet: &net.IPNet{IP: h.Interface.IPv6.AsSlice(), Mask: net.CIDRMask(prefixV6, 128)}, Flags: unix.IFA_F_NODAD},
	}
}

func (h *Host) knows(link netlink.Link, other *Host) error {
	var errs []error
	for _, ip := range []netip.Addr{other.Interface.IPv4, other.Interface.IPv6} {
		errs = append(errs, h.nl.NeighSet(&netlink.Neigh{
			LinkIndex:    link.Attrs().Index,
			State:        unix.NUD_PERMANENT,
			IP:           ip.AsSlice(),
			HardwareAddr: other.Interface.MAC[:],
		}))
	}
	return errors.Join(errs...)
}

// NewHost returns a host without any interface but lo; see Cable.
func NewHost(t TB, name string) *Host {
	t.Helper()
	needPrivilege(t)
	return newHost(t, name)
}

// Cable joins two hosts by interfaces of these names, without addresses. Both are up; they
// have the offloads that the kernel gives them.
func Cable(t TB, a *Host, aName string, b *Host, bName string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	cable := netlink.NewVeth(attrs)
	cable.PeerName = bName
	cable.PeerNamespace = netlink.NsFd(b.ns)
	if err := a.nl.LinkAdd(cable); err != nil {
		t.Fatalf("veth between %s and %s: %v", a.Name, b.Name, err)
	}
	for h, name := range map[*Host]string{a: aName, b: bName} {
		if err := h.up(name); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
	}
}
