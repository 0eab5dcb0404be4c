package iface

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestListNewNamespace(t *testing.T) {
	enter(t)
	list, err := List()
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("a new namespace has %v, want only lo", list)
	}
	lo := list[0]
	want := Interface{
		Name: "lo", Index: 1, Loopback: true, Ethernet: true,
		Type: unix.ARPHRD_LOOPBACK, MTU: 65536, State: "down",
	}
	if !lo.equal(&want) {
		t.Errorf("lo = %#v\nwant %#v", lo, want)
	}
	setUp(t, "lo")
	lo, err = ByName("lo")
	must(t, err)
	if !lo.Up || !lo.Running || lo.State != "up" {
		t.Errorf("lo after it was brought up: %#v", lo)
	}
	if got := fmt.Sprint(lo.Addrs); got != "[127.0.0.1/8 ::1/128]" {
		t.Errorf("addresses of lo: %s", got)
	}
}

// TestKinds looks at every kind of interface that this kernel can make; some
// of them are rarely built in.
func TestKinds(t *testing.T) {
	attrs := netlink.LinkAttrs{Name: "x0", HardwareAddr: macA}
	plain := netlink.LinkAttrs{Name: "x0"}
	tests := []struct {
		name     string
		link     netlink.Link
		typ      uint16
		ethernet bool
		mac      net.HardwareAddr
		rare     bool
	}{
		{"veth", &netlink.Veth{LinkAttrs: attrs, PeerName: "x1"}, unix.ARPHRD_ETHER, true, macA, false},
		{"tun", &netlink.Tuntap{LinkAttrs: plain, Mode: netlink.TUNTAP_MODE_TUN}, unix.ARPHRD_NONE, false, nil, false},
		{"tap", &netlink.Tuntap{LinkAttrs: plain, Mode: netlink.TUNTAP_MODE_TAP}, unix.ARPHRD_ETHER, true, nil, false},
		{"bridge", &netlink.Bridge{LinkAttrs: attrs}, unix.ARPHRD_ETHER, true, macA, true},
		{"dummy", &netlink.Dummy{LinkAttrs: attrs}, unix.ARPHRD_ETHER, true, macA, true},
		{"ifb", &netlink.Ifb{LinkAttrs: attrs}, unix.ARPHRD_ETHER, true, macA, true},
		{"wireguard", &netlink.Wireguard{LinkAttrs: plain}, unix.ARPHRD_NONE, false, nil, true},
		// Its hardware address is its IPv4 address: no MAC address.
		{"ipip", &netlink.Iptun{LinkAttrs: plain, Local: net.IPv4(10, 0, 0, 1)}, unix.ARPHRD_TUNNEL, false, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			enter(t)
			if err := netlink.LinkAdd(tt.link); errors.Is(err, unix.EOPNOTSUPP) && tt.rare {
				t.Logf("not tested: this kernel has no interfaces of type %s", tt.name)
				return
			} else if err != nil {
				t.Fatal(err)
			}
			i, err := ByName("x0")
			must(t, err)
			if i.Type != tt.typ || i.Ethernet != tt.ethernet || i.Loopback || i.Up {
				t.Errorf("got %#v", i)
			}
			if tt.mac != nil && i.MAC.String() != tt.mac.String() {
				t.Errorf("MAC %v, want %v", i.MAC, tt.mac)
			}
			if (i.MAC != nil) != tt.ethernet {
				t.Errorf("MAC %v with Ethernet = %v", i.MAC, tt.ethernet)
			}
		})
	}
}

func TestStateAndAddresses(t *testing.T) {
	enter(t)
	addVeth(t)
	setUp(t, "a") // b stays down: no carrier
	a, err := ByName("a")
	must(t, err)
	if !a.Up || a.Running || a.State != "no carrier" {
		t.Errorf("a with its peer down: %#v", a)
	}
	setUp(t, "b")
	addAddr(t, "a", "10.1.0.1/24", "10.1.0.2/24", "2001:db8::1/64")
	addAddr(t, "b", "169.254.7.7/16")
	if a, err = ByName("a"); err != nil {
		t.Fatal(err)
	}
	if !a.Running || a.State != "up" || a.MTU != 1400 {
		t.Errorf("a with its peer up: %#v", a)
	}
	if got := fmt.Sprint(a.IPv4()); got != "[10.1.0.1 10.1.0.2]" {
		t.Errorf("IPv4() = %s", got)
	}
	v6 := a.IPv6()
	if !slices.Contains(v6, netip.MustParseAddr("2001:db8::1")) || slices.Contains(v6, netip.MustParseAddr("10.1.0.1")) {
		t.Errorf("IPv6() = %v", v6)
	}
	b, err := ByName("b")
	must(t, err)
	if a.HasLinkLocalOnly() || !b.HasLinkLocalOnly() || (&Interface{}).HasLinkLocalOnly() {
		t.Errorf("HasLinkLocalOnly: %v of %v, %v of %v", a.HasLinkLocalOnly(), a.Addrs, b.HasLinkLocalOnly(), b.Addrs)
	}
}

// TestPointToPoint: of the two addresses of such a link, only one is ours.
func TestPointToPoint(t *testing.T) {
	enter(t)
	l := add(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "t0"}, Mode: netlink.TUNTAP_MODE_TUN})
	for _, pair := range [][2]string{{"10.9.0.1/32", "10.9.0.2/30"}, {"2001:db8::1/128", "2001:db8::2/126"}} {
		own, err := netlink.ParseAddr(pair[0])
		must(t, err)
		peer, err := netlink.ParseIPNet(pair[1])
		must(t, err)
		own.Peer = peer
		must(t, netlink.AddrAdd(l, own))
	}
	i, err := ByName("t0")
	must(t, err)
	if got := fmt.Sprint(i.Addrs); got != "[10.9.0.1/30 2001:db8::1/126]" {
		t.Errorf("addresses %s", got)
	}
}

func TestByName(t *testing.T) {
	enter(t)
	l := addVeth(t)
	must(t, netlink.LinkAddAltName(l, "uplink"))
	must(t, netlink.LinkAddAltName(l, "a-very-long-alternative-name"))
	for _, name := range []string{"a", "uplink", "a-very-long-alternative-name"} {
		i, err := ByName(name)
		must(t, err)
		if i.Name != "a" || i.Index != l.Attrs().Index {
			t.Errorf("ByName(%q) = %v", name, i)
		}
	}
	_, err := ByName("eth7")
	var nf *NotFoundError
	if !errors.As(err, &nf) {
		t.Fatalf("ByName of none: %v", err)
	}
	if got, want := err.Error(), `cannot capture on "eth7": no such interface`; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if got, want := nf.Hint(), "this host has lo, b, a"; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
}

func TestHintOfManyInterfaces(t *testing.T) {
	e := &NotFoundError{Name: "x"}
	if got := e.Hint(); got != "this host has no interfaces" {
		t.Errorf("hint without interfaces: %q", got)
	}
	for n := range 25 {
		e.Have = append(e.Have, fmt.Sprintf("v%d", n))
	}
	if got := e.Hint(); !strings.HasSuffix(got, "v18, v19 and 5 more") {
		t.Errorf("hint with 25 interfaces: %q", got)
	}
}

func TestString(t *testing.T) {
	tests := []struct {
		i    Interface
		want string
	}{
		{Interface{Name: "lo", State: "up", MTU: 65536, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}},
			"lo               up          no MAC address     mtu 65536  127.0.0.1/8"},
		{Interface{Name: "enp0s31f6u1u2u3", State: "no carrier", MTU: 1500, MAC: macA, AltNames: []string{"uplink"}},
			"enp0s31f6u1u2u3  no carrier  02:00:00:00:00:0a  mtu 1500   no IP address  (also uplink)"},
	}
	for _, tt := range tests {
		if got := tt.i.String(); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestLocalAddrs(t *testing.T) {
	enter(t)
	addVeth(t)
	setUp(t, "lo")
	addAddr(t, "a", "10.1.0.1/24", "2001:db8::1/64")
	addAddr(t, "b", "10.0.0.9/24", "10.1.0.1/32") // one address twice
	got, err := LocalAddrs()
	must(t, err)
	if want := "[10.0.0.9 10.1.0.1 127.0.0.1 ::1 2001:db8::1]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestManyAddresses: an answer of many datagrams.
func TestManyAddresses(t *testing.T) {
	enter(t)
	addVeth(t)
	for n := range 1500 {
		addAddr(t, "a", fmt.Sprintf("10.7.%d.%d/16", n/256, n%256))
	}
	a, err := ByName("a")
	must(t, err)
	if n := len(a.IPv4()); n != 1500 {
		t.Errorf("%d of 1500 addresses listed", n)
	}
}

const unprivilegedEnv = "PCAPPER_TEST_UNPRIVILEGED"

// TestUnprivileged lists and watches as a user who may nothing: in a child
// process, since a Go program cannot give up privileges and take them back.
func TestUnprivileged(t *testing.T) {
	if os.Getenv(unprivilegedEnv) != "" {
		asNobody(t)
		return
	}
	enter(t)
	setUp(t, "lo")
	addVeth(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestUnprivileged$", "-test.v")
	cmd.Env = append(os.Environ(), unprivilegedEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "listed lo b a") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func asNobody(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Fatal("still root")
	}
	w, err := NewWatcher(Any)
	must(t, err)
	defer w.Close()
	t.Log("listed", strings.Join(names(w.Interfaces()), " "))
}

// FuzzParse: what the kernel would never send is refused or ignored,
// not read past its end.
func FuzzParse(f *testing.F) {
	header := nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize()
	name := nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("eth0")).Serialize()
	mtu := nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1500)).Serialize()
	f.Add(slices.Concat(header, name, mtu))
	f.Add(slices.Concat(header, name, mtu[:6]))
	f.Add(header[:7])
	addr := nl.NewIfAddrmsg(unix.AF_INET).Serialize()
	f.Add(slices.Concat(addr, nl.NewRtAttr(unix.IFA_LOCAL, []byte{10, 0, 0, 1}).Serialize()))
	f.Add(slices.Concat(header, []byte{5, 0, unix.IFLA_IFNAME, 0, 'x'})) // no padding
	f.Add(slices.Concat(header, []byte{3, 0, unix.IFLA_IFNAME, 0}))      // shorter than itself
	f.Fuzz(func(t *testing.T, m []byte) {
		var i Interface
		if err := i.parse(m); err == nil && len(m) < unix.SizeofIfInfomsg {
			t.Errorf("accepted %d bytes", len(m))
		}
		if i.MAC != nil && len(i.MAC) != 6 {
			t.Errorf("MAC of %d bytes", len(i.MAC))
		}
		if _, p, err := parseAddr(m); err != nil && p.IsValid() {
			t.Errorf("prefix %v beside error %v", p, err)
		}
	})
}
