package nettest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace with one interface, Interface.
type Host struct {
	Name      string
	Interface Interface
	// Switch is what Bridge plugged the host into, nil otherwise. The cable to the
	// host is called "to-" and its name there; nftables sees family bridge.
	Switch *Host

	ns netns.NsHandle
	nl *netlink.Handle
}

// needPrivilege ends the test unless it may make namespaces.
func needPrivilege(t TB) {
	t.Helper()
	if os.Geteuid() == 0 && hasCapability(unix.CAP_NET_ADMIN) && hasCapability(unix.CAP_SYS_ADMIN) {
		return
	}
	const why = "network namespaces need CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root"
	if os.Getenv("CI") == "true" {
		t.Fatalf(why)
	}
	t.Skipf(why)
}

// hasCapability looks into the effective set of the calling thread.
func hasCapability(number int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}

// newHost makes a namespace that goes away with the test, with lo up and silent
// defaults for the interfaces to come.
func newHost(t TB, name string) *Host {
	t.Helper()
	ns, err := newNamespace()
	if err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	h := &Host{Name: name, ns: ns}
	t.Cleanup(func() { h.close() })
	if h.nl, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err != nil {
		t.Fatalf("netlink in %s: %v", name, err)
	}
	if err := h.silence(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := h.up("lo"); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return h
}

func (h *Host) close() {
	if h.nl != nil {
		h.nl.Close()
	}
	h.ns.Close()
}

// newNamespace makes one on a thread that is thrown away, and gives a file
// descriptor that keeps it.
func newNamespace() (netns.NsHandle, error) {
	var ns netns.NsHandle
	var err error
	onNewThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		ns, err = netns.Get()
	})
	return ns, err
}

// onNewThread runs f on an operating system thread that nothing else uses
// afterwards: its goroutine ends while locked, so the runtime ends the thread.
// A panic and a FailNow in f continue in the caller.
func onNewThread(f func()) {
	finished := false
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { panicked = recover() }()
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be ended, and what becomes of it shows in
			// /proc/self. While it is held here, the next one is another.
			defer runtime.UnlockOSThread()
			onNewThread(f)
		} else {
			f()
		}
		finished = true
	}()
	<-done
	switch {
	case panicked != nil:
		panic(panicked)
	case !finished:
		runtime.Goexit()
	}
}

// Do runs f in the host's namespace, on a thread of its own, and returns when f
// has. Sockets that f makes stay in the namespace; goroutines that it starts
// are not there.
func (h *Host) Do(f func()) {
	onNewThread(func() {
		if err := netns.Set(h.ns); err != nil {
			panic(fmt.Sprintf("enter namespace of %s: %v", h.Name, err))
		}
		f()
	})
}

// Path is a file that stands for the namespace, for nsenter(1) --net= and
// setns(2), as long as this process lives and the test has not ended.
func (h *Host) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns))
}

// Listen is net.Listen in the namespace.
func (h *Host) Listen(network, address string) (l net.Listener, err error) {
	h.Do(func() { l, err = net.Listen(network, address) })
	return l, err
}

// ListenPacket is net.ListenPacket in the namespace.
func (h *Host) ListenPacket(network, address string) (c net.PacketConn, err error) {
	h.Do(func() { c, err = net.ListenPacket(network, address) })
	return c, err
}

// Dial is net.Dial in the namespace, for addresses that are numbers: names are
// looked up by other threads, which are not there.
func (h *Host) Dial(network, address string) (c net.Conn, err error) {
	h.Do(func() { c, err = net.Dial(network, address) })
	return c, err
}

// Cmd is an exec.Cmd that starts in a host's namespace. Its SysProcAttr must
// not ask for Pdeathsig: the thread that starts it ends at once. /sys is still
// that of the test's namespace.
type Cmd struct {
	*exec.Cmd
	host *Host
}

// Command is exec.CommandContext for a process in the host's namespace.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Cmd: exec.CommandContext(ctx, name, args...), host: h}
}

// Start is exec.Cmd.Start in the namespace.
func (c *Cmd) Start() (err error) {
	c.host.Do(func() { err = c.Cmd.Start() })
	return err
}

// Run is exec.Cmd.Run in the namespace.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd.Output in the namespace.
func (c *Cmd) Output() (out []byte, err error) {
	c.host.Do(func() { out, err = c.Cmd.Output() })
	return out, err
}

// CombinedOutput is exec.Cmd.CombinedOutput in the namespace.
func (c *Cmd) CombinedOutput() (out []byte, err error) {
	c.host.Do(func() { out, err = c.Cmd.CombinedOutput() })
	return out, err
}

// Sysctl sets a value below /proc/sys/net in the namespace; the path's parts
// are separated by slashes, as an interface's name may have dots.
func (h *Host) Sysctl(path, value string) (err error) {
	h.Do(func() { err = writeSysctl(path, value) })
	return err
}

func writeSysctl(path, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", path), []byte(value), 0o644)
}

// silence sets what interfaces that are made later take over, all IPv6 chatter
// off. Listener reports cannot be turned off; the repetitions are put off for
// weeks, and settle waits for the first.
func (h *Host) silence() (err error) {
	const never = "2000000000" // ms, an int in the kernel
	h.Do(func() {
		for _, s := range [][2]string{
			{"ipv6/conf/default/accept_dad", "0"},
			{"ipv6/conf/default/dad_transmits", "0"},
			{"ipv6/conf/default/router_solicitations", "0"},
			{"ipv6/conf/default/accept_ra", "0"},
			{"ipv6/conf/default/autoconf", "0"},
			{"ipv6/conf/default/addr_gen_mode", "1"}, // no link-local address
			{"ipv6/conf/default/mldv1_unsolicited_report_interval", never},
			{"ipv6/conf/default/mldv2_unsolicited_report_interval", never},
			{"ipv4/conf/default/igmpv2_unsolicited_report_interval", never},
			{"ipv4/conf/default/igmpv3_unsolicited_report_interval", never},
		} {
			if err = writeSysctl(s[0], s[1]); err != nil {
				return
			}
		}
	})
	return err
}

// Up and Down set an interface's state.
func (h *Host) Up(name string) error { return h.up(name) }

// Down sets the interface down.
func (h *Host) Down(name string) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", name, err)
	}
	return h.nl.LinkSetDown(link)
}

func (h *Host) up(name string) error {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %q: %w", name, err)
	}
	return h.nl.LinkSetUp(link)
}

// Netlink is a handle in the namespace, for what has no method here. It is
// closed with the test.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// Named gives the host's namespace a name, as ip-netns(8) does, until the test ends.
func (h *Host) Named(t TB, name string) {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { os.Remove(path) })
	if err := unix.Mount(h.Path(), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) }) // what cannot be removed then fails the next test
}
