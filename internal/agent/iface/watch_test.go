package iface

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come; nothing waits that
// long when all is well.
const patience = 10 * time.Second

// watch follows an interface of the test's namespace in the background.
func watch(t *testing.T, index int) *log {
	t.Helper()
	w, err := NewWatcher(index)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	l := &log{t: t, events: make(chan Event, 4096), done: make(chan error, 1)}
	go func() { l.done <- w.Run(ctx, func(e Event) { l.events <- e }) }()
	t.Cleanup(func() {
		cancel()
		l.ended()
		w.Close()
	})
	return l
}

// log is what a watcher told.
type log struct {
	t      *testing.T
	events chan Event
	done   chan error
	over   bool
}

// until returns the first event that is good, and whatever came before it.
func (l *log) until(what string, good func(Event) bool) (found Event, before []Event) {
	l.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case e := <-l.events:
			if good(e) {
				return e, before
			}
			before = append(before, e)
		case <-timer.C:
			l.t.Fatalf("no event %q; there were %v", what, before)
		}
	}
}

// kind waits for an event of one kind; only events Changed may come before it.
func (l *log) kind(k Kind) Event {
	l.t.Helper()
	e, before := l.until(k.String(), func(e Event) bool { return e.Kind == k })
	for _, b := range before {
		if b.Kind != Changed {
			l.t.Errorf("event %v before %v", b.Kind, k)
		}
	}
	return e
}

// ended waits until Run has returned without error.
func (l *log) ended() {
	l.t.Helper()
	if l.over {
		return
	}
	l.over = true
	select {
	case err := <-l.done:
		if err != nil {
			l.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		l.t.Error("Run does not return")
	}
}

func TestWatchDownUp(t *testing.T) {
	enter(t)
	index := addVeth(t).Attrs().Index
	setUp(t, "a", "b")
	l := watch(t, index)
	for range 3 {
		setDown(t, "a")
		if e := l.kind(Down); e.Interface.Up || e.Interface.State != "down" || e.Interface.Index != index {
			t.Errorf("down: %#v", e.Interface)
		}
		setUp(t, "a")
		if e := l.kind(Up); !e.Interface.Up || e.Interface.Name != "a" {
			t.Errorf("up: %#v", e.Interface)
		}
	}
}

// TestWatchMissesNoFlap: down and up again before the watcher runs are told
// all the same.
func TestWatchMissesNoFlap(t *testing.T) {
	enter(t)
	index := addVeth(t).Attrs().Index
	setUp(t, "a", "b")
	w, err := NewWatcher(index)
	must(t, err)
	defer w.Close()
	setDown(t, "a")
	setUp(t, "a")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var kinds []Kind
	must(t, w.Run(ctx, func(e Event) {
		if e.Kind != Changed {
			kinds = append(kinds, e.Kind)
		}
		if e.Kind == Up {
			cancel()
		}
	}))
	if !slices.Equal(kinds, []Kind{Down, Up}) {
		t.Errorf("events %v, want down and up", kinds)
	}
}

func TestWatchCarrier(t *testing.T) {
	enter(t)
	index := addVeth(t).Attrs().Index
	setUp(t, "a", "b")
	// The kernel says that there is a carrier when it gets round to it; lost
	// before that, it would be no news.
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		i, err := ByName("a")
		must(t, err)
		if i.State != "no carrier" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the interface gets no carrier")
		}
	}
	l := watch(t, index)
	setDown(t, "b")
	e, before := l.until("no carrier", func(e Event) bool { return e.Interface.State == "no carrier" })
	if e.Kind != Changed || !e.Interface.Up {
		t.Errorf("loss of carrier is %v after %v, want changed", e, before)
	}
}

func TestWatchAddresses(t *testing.T) {
	enter(t)
	index := addVeth(t).Attrs().Index
	setUp(t, "a", "b")
	l := watch(t, index)
	addr := netip.MustParsePrefix("10.1.0.1/24")
	addAddr(t, "b", "10.1.0.2/24") // of another interface: not told
	addAddr(t, "a", addr.String())
	has := func(e Event) bool { return slices.Contains(e.Interface.Addrs, addr) }
	if e, _ := l.until("address", has); e.Kind != Changed {
		t.Errorf("a new address is %v", e.Kind)
	}
	link, err := netlink.LinkByName("a")
	must(t, err)
	a, err := netlink.ParseAddr(addr.String())
	must(t, err)
	must(t, netlink.AddrDel(link, a))
	_, before := l.until("no address", func(e Event) bool { return !has(e) })
	for _, e := range before {
		if e.Interface.Index != index {
			t.Errorf("told of %v", e.Interface)
		}
	}
}

// TestWatchSameAddressTwice: one address with two peers; when one of them is
// deleted, the address is still ours.
func TestWatchSameAddressTwice(t *testing.T) {
	enter(t)
	link := add(t, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "t0"}, Mode: netlink.TUNTAP_MODE_TUN})
	peered := func(peer string) *netlink.Addr {
		own, err := netlink.ParseAddr("10.9.0.1/32")
		must(t, err)
		own.Peer, err = netlink.ParseIPNet(peer)
		must(t, err)
		return own
	}
	must(t, netlink.AddrAdd(link, peered("10.9.0.2/32")))
	must(t, netlink.AddrAdd(link, peered("10.9.0.3/32")))
	l := watch(t, link.Attrs().Index)
	must(t, netlink.AddrDel(link, peered("10.9.0.2/32")))
	e, _ := l.until("one left", func(e Event) bool { return len(e.Interface.Addrs) == 1 })
	if got := e.Interface.Addrs[0].String(); got != "10.9.0.1/32" {
		t.Errorf("left is %s", got)
	}
}

func TestWatchRenameAndMAC(t *testing.T) {
	enter(t)
	link := addVeth(t)
	setUp(t, "a") // the kernel tells of alternative names only then
	l := watch(t, link.Attrs().Index)
	must(t, netlink.LinkSetName(link, "renamed"))
	e, _ := l.until("rename", func(e Event) bool { return e.Interface.Name == "renamed" })
	if e.Kind != Changed {
		t.Errorf("a rename is %v", e.Kind)
	}
	mac := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	must(t, netlink.LinkSetHardwareAddr(link, mac))
	l.until("MAC address", func(e Event) bool { return e.Interface.MAC.String() == mac.String() })
	must(t, netlink.LinkAddAltName(link, "other"))
	l.until("alternative name", func(e Event) bool { return slices.Contains(e.Interface.AltNames, "other") })
	must(t, netlink.LinkDelAltName(link, "other"))
	l.until("none", func(e Event) bool { return len(e.Interface.AltNames) == 0 })
}

func TestWatchRemoved(t *testing.T) {
	enter(t)
	link := addVeth(t)
	l := watch(t, link.Attrs().Index)
	must(t, netlink.LinkDel(link))
	if e := l.kind(Removed); e.Interface.Name != "a" {
		t.Errorf("removed: %#v", e.Interface)
	}
	l.ended()
}

func TestWatchMovedToOtherNamespace(t *testing.T) {
	home := enter(t)
	other := otherNamespace(t, home)
	link := addVeth(t)
	l := watch(t, link.Attrs().Index)
	must(t, netlink.LinkSetNsFd(link, int(other)))
	l.kind(Removed)
	l.ended()
}

// TestWatchNotThere: removed before the watch began.
func TestWatchNotThere(t *testing.T) {
	enter(t)
	var got []Event
	must(t, Watch(context.Background(), 999, func(e Event) { got = append(got, e) }))
	if len(got) != 1 || got[0].Kind != Removed || got[0].Interface.Index != 999 {
		t.Errorf("events %v, want removed", got)
	}
}

// TestWatchBridgePort: leaving a bridge is no removal, though the kernel sends
// an RTM_DELLINK.
func TestWatchBridgePort(t *testing.T) {
	enter(t)
	link := addVeth(t)
	setUp(t, "a", "b")
	bridge := add(t, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}})
	l := watch(t, link.Attrs().Index)
	must(t, netlink.LinkSetMaster(link, bridge))
	must(t, netlink.LinkSetNoMaster(link))
	setDown(t, "a")
	l.kind(Down) // and nothing but Changed before it
}

func TestWatchAny(t *testing.T) {
	enter(t)
	l := watch(t, Any)
	link := addVeth(t)
	isA := func(k Kind) func(Event) bool {
		return func(e Event) bool { return e.Kind == k && e.Interface.Name == "a" }
	}
	l.until("added", isA(Added))
	setUp(t, "a")
	l.until("up", isA(Up))
	must(t, netlink.LinkDel(link))
	l.until("removed", isA(Removed))
}

// TestWatcherLocalAddrs follows the addresses of the whole namespace.
func TestWatcherLocalAddrs(t *testing.T) {
	enter(t)
	addVeth(t)
	w, err := NewWatcher(Any)
	must(t, err)
	defer w.Close()
	addAddr(t, "a", "10.1.0.1/24")
	addAddr(t, "b", "2001:db8::1/64")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []netip.Addr
	must(t, w.Run(ctx, func(Event) {
		if got = w.LocalAddrs(); len(got) == 2 {
			cancel()
		}
	}))
	if fmt.Sprint(got) != "[10.1.0.1 2001:db8::1]" {
		t.Errorf("addresses %v", got)
	}
}

// TestWatchOverflow: the kernel throws messages away, and the watcher knows in
// the end what is true all the same.
func TestWatchOverflow(t *testing.T) {
	enter(t)
	link := addVeth(t)
	w, err := NewWatcher(link.Attrs().Index)
	must(t, err)
	defer w.Close()
	must(t, w.events.raw.Control(func(fd uintptr) {
		must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	}))
	for range 100 {
		setUp(t, "a")
		setDown(t, "a")
	}
	setUp(t, "a")
	addAddr(t, "a", "10.1.0.1/24")

	b, err := w.events.wait(t.Context(), time.Time{})
	must(t, err)
	if !b.lost {
		t.Fatalf("nothing was lost of 200 changes: %d messages", len(b.msgs))
	}
	setDown(t, "b") // overflow once more, and let step see it
	for range 100 {
		setUp(t, "b")
		setDown(t, "b")
	}
	var got Interface
	must(t, w.step(t.Context(), time.Time{}, func(e Event) { got = e.Interface }))
	if !got.Up || !slices.Contains(got.Addrs, netip.MustParsePrefix("10.1.0.1/24")) {
		t.Errorf("after the overflow: %#v", got)
	}
}

// TestWatcherKeepsNamespace: a watcher made here and run elsewhere.
func TestWatcherKeepsNamespace(t *testing.T) {
	enter(t)
	addVeth(t)
	w, err := NewWatcher(Any)
	must(t, err)
	defer w.Close()
	addAddr(t, "a", "10.1.0.1/24")
	elsewhere := make(chan []netip.Addr, 1)
	go func() { // on a thread of the host's namespace
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.Run(ctx, func(Event) { cancel() }); err != nil {
			t.Error(err)
		}
		elsewhere <- w.LocalAddrs()
	}()
	if got := fmt.Sprint(<-elsewhere); got != "[10.1.0.1]" {
		t.Errorf("seen from elsewhere: %s", got)
	}
}

// isUp and hasAddress are what an agent waits for.
func isUp(i Interface) string {
	switch {
	case !i.Up:
		return "is down"
	case len(i.IPv4()) == 0:
		return "has no IPv4 address"
	}
	return ""
}

func TestWaitReadyAtOnce(t *testing.T) {
	enter(t)
	setUp(t, "lo")
	i, err := Wait(t.Context(), "lo", patience, isUp, func(s string) { t.Errorf("said %q", s) })
	must(t, err)
	if i.Name != "lo" {
		t.Errorf("got %v", i)
	}
}

// TestWaitBecomesReady: each reason is said once, and what is missing is
// supplied only when it was asked for.
func TestWaitBecomesReady(t *testing.T) {
	enter(t)
	addVeth(t)
	var said []string
	start := time.Now()
	i, err := Wait(t.Context(), "a", time.Minute, isUp, func(s string) {
		said = append(said, s)
		switch len(said) {
		case 1:
			setUp(t, "b") // another interface: no reason to speak again
			setUp(t, "a")
		case 2:
			addAddr(t, "a", "10.1.0.1/24")
		}
	})
	must(t, err)
	want := []string{"a is down: waiting up to 60 s", "a has no IPv4 address: waiting up to 60 s"}
	if !slices.Equal(said, want) {
		t.Errorf("said %q\nwant %q", said, want)
	}
	if len(i.IPv4()) != 1 || !i.Up {
		t.Errorf("ready: %#v", i)
	}
	if d := time.Since(start); d > tick { // two polls take twice that
		t.Errorf("noticed after %v, as late as without events", d)
	}
}

func TestWaitTimeout(t *testing.T) {
	enter(t)
	addVeth(t)
	var said []string
	i, err := Wait(t.Context(), "a", 50*time.Millisecond, isUp, func(s string) { said = append(said, s) })
	var timeout *TimeoutError
	if !errors.As(err, &timeout) || timeout.Reason != "is down" || i.Name != "a" {
		t.Fatalf("got %v, %v", i, err)
	}
	if got, want := err.Error(), `cannot capture on "a": after 50ms it still is down`; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if len(said) != 1 {
		t.Errorf("said %q", said)
	}
	hints := map[string]Interface{
		"ip link set dev x up":    {Name: "x"},
		"ip address add ADDRESS":  {Name: "x", Up: true},
		"ip address show dev x":   {Name: "x", Up: true, Addrs: make([]netip.Prefix, 1)},
		"ip link set dev a up":    timeout.Interface,
		"to bring it up: ip link": timeout.Interface,
	}
	for want, i := range hints {
		if got := (&TimeoutError{Interface: i}).Hint(); !strings.Contains(got, want) {
			t.Errorf("hint %q, want %q in it", got, want)
		}
	}
}

func TestWaitNotThere(t *testing.T) {
	enter(t)
	_, err := Wait(t.Context(), "eth7", time.Minute, isUp, func(s string) { t.Errorf("said %q", s) })
	var nf *NotFoundError
	if !errors.As(err, &nf) || !slices.Equal(nf.Have, []string{"lo"}) {
		t.Errorf("got %v", err)
	}
}

func TestWaitVanishes(t *testing.T) {
	enter(t)
	link := addVeth(t)
	_, err := Wait(t.Context(), "a", time.Minute, isUp, func(string) { must(t, netlink.LinkDel(link)) })
	var nf *NotFoundError
	if !errors.As(err, &nf) || nf.Name != "a" {
		t.Errorf("got %v", err)
	}
}

// TestWaitRenamed: it is still the interface that was asked for.
func TestWaitRenamed(t *testing.T) {
	enter(t)
	link := addVeth(t)
	i, err := Wait(t.Context(), "a", time.Minute, func(i Interface) string {
		if i.Name == "a" {
			return "has its old name"
		}
		return ""
	}, func(string) { must(t, netlink.LinkSetName(link, "z")) })
	if err != nil || i.Name != "z" {
		t.Errorf("got %v, %v", i, err)
	}
}

// TestWaitPolls: something that the kernel sends no event for is noticed too.
func TestWaitPolls(t *testing.T) {
	enter(t)
	polls := 0
	_, err := Wait(t.Context(), "lo", time.Minute, func(Interface) string {
		if polls++; polls < 3 {
			return "is not polled"
		}
		return ""
	}, func(string) {})
	must(t, err)
}

func TestWaitCancelled(t *testing.T) {
	enter(t)
	addVeth(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Wait(ctx, "a", time.Minute, isUp, func(string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Minute:                   "60 s",
		59*time.Second + 999999999:    "60 s",
		1499 * time.Millisecond:       "1 s",
		250*time.Millisecond + 400000: "250ms",
	} {
		if got := seconds(d); got != want {
			t.Errorf("seconds(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestEventsAfterClose(t *testing.T) {
	e, err := subscribe()
	must(t, err)
	e.close()
	if _, err := e.wait(t.Context(), time.Time{}); err == nil {
		t.Error("a closed socket gives no error")
	}
}

func BenchmarkList(b *testing.B) {
	for b.Loop() {
		if _, err := List(); err != nil {
			b.Fatal(err)
		}
	}
}
