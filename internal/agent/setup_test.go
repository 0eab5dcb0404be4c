package agent

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/vishvananda/netlink"
)

// TestInterfacesThatAreNotReady are waited for, and refused with the C
// program's exit codes when they stay so.
func TestInterfacesThatAreNotReady(t *testing.T) {
	h, _ := nettest.Pair(t)
	link, err := h.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	prepared := func(cfg Config) (said string, err error) {
		cfg.wait = 50 * time.Millisecond
		say := func(format string, args ...any) { said += fmt.Sprintf(format, args...) + "\n" }
		h.Do(func() { _, err = prepare(t.Context(), &cfg, say) })
		return said, err
	}
	only := func(addrs ...string) {
		t.Helper()
		list, err := h.Netlink().AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			h.Netlink().AddrDel(link, &a)
		}
		for _, text := range addrs {
			a, _ := netlink.ParseAddr(text)
			if err := h.Netlink().AddrAdd(link, a); err != nil {
				t.Fatal(err)
			}
		}
	}

	only()
	for _, mode := range []string{"src", "dst", "none", " dst ", "udp port 5001", "ether src %m", "tcp[20] = 0x%%i or udp"} {
		if said, err := prepared(Config{Interface: "eth0", Mode: mode}); (err != nil && fault.Code(err) != ExitFilterSyntax) || said != "" {
			t.Errorf("-m %q without address: %v, said %q, want no waiting", mode, err, said)
		}
	}
	for mode, why := range map[string]string{"spoof": "has no IP address, which -m spoof needs", "udp and not src host %i": "has no IPv4 address, which %i"} {
		if said, err := prepared(Config{Interface: "eth0", Mode: mode}); fault.Code(err) != ExitNoAddress ||
			!strings.Contains(said, "eth0 "+why) || !strings.Contains(said, ": waiting up to") || fault.Hint(err) == "" {
			t.Errorf("-m %q without address: %v, said %q", mode, err, said)
		}
	}
	only("fd00::1/64")
	if said, err := prepared(Config{Interface: "eth0", Mode: "spoof"}); err != nil || said != "" {
		t.Errorf("with an IPv6 address only: %v, said %q", err, said)
	}
	if said, err := prepared(Config{Interface: "eth0", Mode: "src host %i"}); fault.Code(err) != ExitNoAddress ||
		!strings.Contains(said, "has no IPv4 address, which %i") {
		t.Errorf("%%i with an IPv6 address only: %v, said %q", err, said)
	}
	only("fe80::1/64")
	if said, err := prepared(Config{Interface: "eth0", Mode: "src"}); err != nil || said != "" {
		t.Errorf("-m src with a link-local address only: %v, said %q", err, said)
	}
	if said, err := prepared(Config{Interface: "eth0", Mode: "spoof"}); err != nil ||
		!strings.Contains(said, "has a link-local address only: waiting") || !strings.Contains(said, "going on with") {
		t.Errorf("with a link-local address only: %v, said %q", err, said)
	}
	only("169.254.7.1/16")
	if said, err := prepared(Config{Interface: "eth0", Mode: "src host %i"}); err != nil || !strings.Contains(said, "going on with") {
		t.Errorf("%%i with a link-local address only: %v, said %q", err, said)
	}
	if err := h.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	if _, err := prepared(Config{Interface: "eth0", Mode: "src"}); fault.Code(err) != ExitDevice {
		t.Errorf("down: %v", err)
	}
	if said, err := prepared(Config{Interface: "nope", Mode: "src"}); fault.Code(err) != ExitDevice || said != "" ||
		!strings.Contains(fault.Hint(err), "eth0") {
		t.Errorf("missing: %v, said %q", err, said)
	}
}

// TestAutoInterface: -i auto is the interface of the default route.
func TestAutoInterface(t *testing.T) {
	h, _ := nettest.Pair(t)
	cfg := Config{Interface: "auto"}
	var said string
	choose := func() (name string, err error) {
		said = ""
		h.Do(func() {
			name, err = cfg.chooseInterface(func(f string, args ...any) { said += fmt.Sprintf(f, args...) })
		})
		return name, err
	}
	if _, err := choose(); err == nil || fault.Code(err) != ExitDevice || !strings.Contains(err.Error(), "no default route") ||
		!strings.Contains(fault.Hint(err), "eth0") {
		t.Errorf("without a default route: %v", err)
	}
	link, err := h.Netlink().LinkByName("eth0")
	if err == nil {
		err = h.Netlink().RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if name, err := choose(); name != "eth0" || err != nil || said != "-i auto: watching eth0, the interface of the default route" {
		t.Errorf("%q, %v, said %q", name, err, said)
	}
	if err := h.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "auto"}, PeerName: "auto1"}); err != nil {
		t.Fatal(err)
	}
	if name, err := choose(); name != "auto" || err != nil || said != "" {
		t.Errorf("with an interface of that name: %q, %v, said %q", name, err, said)
	}
}

// TestAddressesOfTheBridge: with -r a port without addresses is ready, and the
// bridge's MAC and IPv4 address are meant.
func TestAddressesOfTheBridge(t *testing.T) {
	h, _ := nettest.Pair(t)
	link, err := h.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name, bridge.HardwareAddr = "br7", []byte{2, 0, 0, 0, 0, 0x71}
	addr, _ := netlink.ParseAddr("10.71.0.1/24")
	list, err := h.Netlink().AddrList(link, netlink.FAMILY_ALL)
	if err = errors.Join(err, h.Netlink().LinkAdd(bridge), h.Netlink().LinkSetUp(bridge), h.Netlink().AddrAdd(bridge, addr)); err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		h.Netlink().AddrDel(link, &a)
	}
	cfg := Config{Interface: "eth0", MACFrom: "br7", Mode: "src", wait: time.Second}
	var target *watchedInterface
	h.Do(func() { target, err = prepare(t.Context(), &cfg, t.Logf) })
	if err != nil {
		t.Fatal(err)
	}
	if target.filter.Text != "ether src 02:00:00:00:00:71" || target.matched.IPv4.String() != "10.71.0.1" {
		t.Errorf("filter %q, %%i is %v", target.filter.Text, target.matched.IPv4)
	}
	var none *iface.NotFoundError
	cfg.MACFrom = "br8"
	h.Do(func() { _, err = prepare(t.Context(), &cfg, t.Logf) })
	if !errors.As(err, &none) {
		t.Errorf("a bridge that does not exist: %v", err)
	}
}
