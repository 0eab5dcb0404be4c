package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a Tap has to know about the host: its network namespace, and the
// queueing discipline of its interface.

// netns is the network namespace that a Tap was opened in.
type netns struct {
	ns    int    // file descriptor, or 0 for none
	inode uint64 // tells namespaces apart
}

const nsPath = "/proc/thread-self/ns/net"

func currentNetns() (n netns, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if n.ns, err = unix.Open(nsPath, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return netns{}, fmt.Errorf("network namespace: %w", err)
	}
	if n.inode, err = inode(n.ns); err != nil {
		n.close()
		return netns{}, err
	}
	return n, nil
}

func inode(fd int) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	return st.Ino, nil
}

// do calls f on a thread that is in the namespace.
func (n *netns) do(f func() error) error {
	var st unix.Stat_t
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if unix.Stat(nsPath, &st) == nil && st.Ino == n.inode {
		return f()
	}
	result := make(chan error)
	go func() {
		// The thread ends with the goroutine, as it is not unlocked.
		runtime.LockOSThread()
		if err := unix.Setns(n.ns, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

func (n *netns) close() error {
	if n.ns == 0 {
		return nil
	}
	err := unix.Close(n.ns)
	n.ns = 0
	return err
}

// qdiscWatch tells when an interface's queueing discipline may have changed
// (rtnetlink(7)).
type qdiscWatch struct {
	events   int // netlink socket that hears of changes
	wake     int // eventfd: stop wakes changed
	stopping atomic.Bool
}

func watchQdisc() (*qdiscWatch, error) {
	w := &qdiscWatch{events: -1, wake: -1}
	var err error
	if w.events, err = netlinkSocket(1<<(unix.RTNLGRP_TC-1) | 1<<(unix.RTNLGRP_LINK-1)); err != nil {
		w.close()
		return nil, err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return w, nil
}

func netlinkSocket(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind netlink socket: %w", err)
	}
	return fd, nil
}

// calm is how long changed gathers what comes together.
const calm = 5 * time.Millisecond

// changed blocks until something about interfaces or queueing disciplines has
// changed, or stop was called: then it is false.
func (w *qdiscWatch) changed() bool {
	fds := []unix.PollFd{{Fd: int32(w.events), Events: unix.POLLIN}, {Fd: int32(w.wake), Events: unix.POLLIN}}
	for !w.stopping.Load() {
		if _, err := unix.Poll(fds, -1); err != nil {
			if err == unix.EINTR {
				continue
			}
			return false
		}
		if fds[0].Revents == 0 {
			continue
		}
		time.Sleep(calm)
		var buf [8192]byte
		for {
			// ENOBUFS says that events were lost: it is one more.
			if _, _, err := unix.Recvfrom(w.events, buf[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS {
				break
			}
		}
		return !w.stopping.Load()
	}
	return false
}

// stop ends changed, for good.
func (w *qdiscWatch) stop() {
	w.stopping.Store(true)
	signal(w.wake)
}

func (w *qdiscWatch) close() {
	for _, fd := range []int{w.events, w.wake} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// rootQdisc is the name of an interface's root queueing discipline, in the
// network namespace of the calling thread: IFLA_QDISC of an RTM_GETLINK.
func rootQdisc(index int) (string, error) {
	fd, err := netlinkSocket(0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	type request struct {
		unix.NlMsghdr
		unix.IfInfomsg
	}
	req := request{
		unix.NlMsghdr{Len: uint32(unsafe.Sizeof(request{})), Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST, Seq: 1},
		unix.IfInfomsg{Index: int32(index)},
	}
	msg := unsafe.Slice((*byte)(unsafe.Pointer(&req)), unsafe.Sizeof(req))
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", fmt.Errorf("ask netlink: %w", err)
	}
	buf := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return "", fmt.Errorf("netlink's answer: %w", err)
	}
	msgs, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil || len(msgs) == 0 {
		return "", fmt.Errorf("netlink's answer: %w", errors.Join(err, unix.EBADMSG))
	}
	m := &msgs[0]
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		return "", unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return "", fmt.Errorf("netlink's answer: %w", err)
	}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_QDISC {
			return unix.ByteSliceToString(a.Value), nil
		}
	}
	return "", fmt.Errorf("interface has no queueing discipline: %w", unix.ENODATA)
}
