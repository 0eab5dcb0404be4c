package iface

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(unprivilegedEnv) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

// enter puts the rest of the test into a network namespace of its own. The
// thread is never unlocked, so that it ends with the test and the namespace
// with it.
func enter(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// otherNamespace makes a second namespace and returns to the current one.
func otherNamespace(t *testing.T, home netns.NsHandle) netns.NsHandle {
	t.Helper()
	other, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	must(t, netns.Set(home))
	return other
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add creates an interface.
func add(t *testing.T, l netlink.Link) netlink.Link {
	t.Helper()
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatalf("add an interface of type %s: %v", l.Type(), err)
	}
	got, err := netlink.LinkByName(l.Attrs().Name)
	must(t, err)
	return got
}

// macA and macB are the addresses of the two ends of a test's veth pair.
var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
)

// addVeth makes the pair a, b and returns a; both are down.
func addVeth(t *testing.T) netlink.Link {
	t.Helper()
	return add(t, &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "a", HardwareAddr: macA, MTU: 1400},
		PeerName:  "b", PeerHardwareAddr: macB,
	})
}

func setUp(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		l, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(l))
	}
}

func setDown(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetDown(l))
}

func addAddr(t *testing.T, name string, addrs ...string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		must(t, err)
		// Without duplicate address detection the address is there at once.
		if a.IP.To4() == nil {
			a.Flags = 0x02 // IFA_F_NODAD, linux/if_addr.h
		}
		must(t, netlink.AddrAdd(l, a))
	}
}
