package iface

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestGroups: what sockets join on an interface is read, and nothing that the kernel joins itself;
// each change is told.
func TestGroups(t *testing.T) {
	enter(t)
	link := add(t, &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"})
	other, err := netlink.LinkByName("v1")
	must(t, err)
	for _, l := range []netlink.Link{link, other} {
		must(t, netlink.LinkSetUp(l))
	}
	r, err := OpenGroups()
	must(t, err)
	defer r.Close()
	read := func(index int) string {
		t.Helper()
		groups, err := r.Read(index)
		must(t, err)
		return fmt.Sprint(groups)
	}
	index := link.Attrs().Index
	if got := read(index); got != "[]" {
		t.Errorf("groups of an interface that nothing has joined on: %v", got)
	}
	w, err := NewWatcher(Any)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	follows := w.FollowGroups()
	if major, minor := kernelVersion(t); follows != nil && (major > 6 || major == 6 && minor >= 14) {
		t.Errorf("Linux %d.%d: %v", major, minor, follows)
	}
	told := make(chan Event, 4096)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx, func(e Event) { told <- e }) }()
	defer func() {
		cancel()
		<-done
		w.Close()
	}()
	change := func(what string) {
		t.Helper()
		deadline := time.After(patience)
		for follows == nil {
			select {
			case e := <-told:
				if e.Kind == Groups && e.Interface.Index == index {
					return
				}
			case <-deadline:
				t.Fatalf("%s: no event", what)
			}
		}
	}

	four, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.SetsockoptIPMreqn(four, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{239, 1, 2, 3}, Ifindex: int32(index)}))
	change("239.1.2.3 was joined")
	six, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	group := netip.MustParseAddr("ff05::12").As16()
	must(t, unix.SetsockoptIPv6Mreq(six, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group, Interface: uint32(index)}))
	change("ff05::12 was joined")
	if got := read(index); got != "[239.1.2.3 ff05::12]" {
		t.Errorf("read %v", got)
	}
	if got := read(other.Attrs().Index); got != "[]" {
		t.Errorf("the other interface: %v", got)
	}
	must(t, unix.Close(four))
	change("239.1.2.3 was left")
	if got := read(index); got != "[ff05::12]" {
		t.Errorf("read %v", got)
	}
	must(t, unix.Close(six))
}

func kernelVersion(t *testing.T) (major, minor int) {
	t.Helper()
	var u unix.Utsname
	must(t, unix.Uname(&u))
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major, minor
}

// TestParseGroups: as kernels print them; what is cut off or strange is passed over.
func TestParseGroups(t *testing.T) {
	four := "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n" +
		"1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
		"12\teth0      :     2      V3\n\t\t\t\t030201EF     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n" +
		"13\teth1      :     2      V3\n\t\t\t\tXYZ\n\t\t\t\t"
	six := "1    lo              ff020000000000000000000000000001     1 0000000C 0\n" +
		"12   eth0            ff050000000000000000000000000012     1 00000004 0\n12   eth0            ff05\n12\n"
	for index, want := range map[int]string{1: "[224.0.0.1 ff02::1]", 12: "[239.1.2.3 224.0.0.1 ff05::12]", 13: "[]"} {
		got := slices.AppendSeq(slices.Collect(parseIGMP([]byte(four), index)), parseIGMP6([]byte(six), index))
		if fmt.Sprint(got) != want && binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
			t.Errorf("interface %d: got %v, want %s", index, got, want)
		}
	}
	for _, a := range []string{"224.0.0.1", "ff02::1", "ff01::1", "ff02::1:ff00:1", "ff02::2", "224.0.0.106"} {
		if wanted(netip.MustParseAddr(a)) {
			t.Errorf("%s is reported", a)
		}
	}
	for _, a := range []string{"224.0.0.251", "ff02::fb", "224.0.0.5", "239.255.0.1", "ff02::1:2"} {
		if !wanted(netip.MustParseAddr(a)) {
			t.Errorf("%s is not reported", a)
		}
	}
}
