package iface

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestDefaultRoute(t *testing.T) {
	enter(t)
	expect := func(want string) {
		t.Helper()
		if i, err := DefaultRoute(); err != nil || i.Name != want {
			t.Errorf("%q, %v, want %q", i.Name, err, want)
		}
	}
	var none *NoDefaultRouteError
	if _, err := DefaultRoute(); !errors.As(err, &none) || none.Hint() != "this host has lo" {
		t.Errorf("without routes: %v", err)
	}
	addVeth(t)
	setUp(t, "lo", "a", "b")
	addAddr(t, "a", "10.0.0.1/24", "fd00::1/64")
	addAddr(t, "b", "10.0.1.1/24", "fd01::1/64")
	index := func(name string) int {
		l, err := netlink.LinkByName(name)
		must(t, err)
		return l.Attrs().Index
	}
	zero4, zero6 := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	route := func(dst *net.IPNet, dev, via string, metric int) *netlink.Route {
		return &netlink.Route{Dst: dst, LinkIndex: index(dev), Gw: net.ParseIP(via), Priority: metric}
	}
	// None of these is a default route that leads anywhere.
	elsewhere := route(zero4, "a", "10.0.0.2", 0)
	elsewhere.Table = 100
	must(t, netlink.RouteAdd(elsewhere))
	must(t, netlink.RouteAdd(&netlink.Route{Dst: zero4, Type: unix.RTN_UNREACHABLE, Priority: 5000}))
	must(t, netlink.RouteAdd(route(&net.IPNet{IP: net.IP{10, 9, 0, 0}, Mask: net.CIDRMask(16, 32)}, "a", "10.0.0.2", 0)))
	if _, err := DefaultRoute(); !errors.As(err, &none) || !strings.HasPrefix(none.Hint(), "this host has lo, ") {
		t.Errorf("without default routes: %v", err)
	}
	must(t, netlink.RouteAdd(route(zero6, "b", "fd01::2", 10)))
	expect("b") // of IPv6, for lack of another
	must(t, netlink.RouteAdd(route(zero4, "a", "10.0.0.2", 600)))
	expect("a") // of IPv4
	must(t, netlink.RouteAdd(route(zero4, "b", "10.0.1.2", 100)))
	expect("b") // the lower metric
	setDown(t, "b")
	expect("a")
	must(t, netlink.RouteDel(route(zero4, "a", "10.0.0.2", 600)))
	must(t, netlink.RouteAdd(&netlink.Route{Dst: zero4, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: index("a"), Gw: net.IP{10, 0, 0, 2}}, {LinkIndex: index("a"), Gw: net.IP{10, 0, 0, 3}},
	}}))
	expect("a") // several next hops
}
