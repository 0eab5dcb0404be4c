package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a Tap has to know about the host: the queueing discipline of its interface.

// qdiscWatch reports when an interface's queueing discipline may have changed
// (rtnetlink(7)).
type qdiscWatch struct {
	events   *os.File // netlink socket that receives changes
	stopping atomic.Bool
}

func watchQdisc() (*qdiscWatch, error) {
	fd, err := netlinkSocket(1<<(unix.RTNLGRP_TC-1) | 1<<(unix.RTNLGRP_LINK-1))
	if err != nil {
		return nil, err
	}
	return &qdiscWatch{events: os.NewFile(uintptr(fd), "netlink")}, nil
}

// netlinkSocket returns a non-blocking socket, so that waiting for it takes no thread.
func netlinkSocket(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind netlink socket: %w", err)
	}
	return fd, nil
}

// calm is how long changed waits for further changes, to report them as one.
const calm = 5 * time.Millisecond

// changed blocks until something about interfaces or queueing disciplines has changed.
// It reports false after stop.
func (w *qdiscWatch) changed() bool {
	var buf [8192]byte
	// ENOBUFS means that events were lost, which counts as a change.
	if _, err := w.events.Read(buf[:]); err != nil && !errors.Is(err, unix.ENOBUFS) {
		return false
	}
	time.Sleep(calm)
	raw, err := w.events.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		for {
			if _, _, err := unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT); err != nil && err != unix.ENOBUFS {
				return
			}
		}
	})
	return !w.stopping.Load()
}

// stop ends changed permanently.
func (w *qdiscWatch) stop() {
	w.stopping.Store(true)
	w.events.SetReadDeadline(time.Unix(1, 0))
}

func (w *qdiscWatch) close() { w.events.Close() }

// interfaceGone reports whether err means that the interface no longer exists. Its
// removal is reported by those who follow interfaces, so no change is missed.
func interfaceGone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// rootQdisc returns the name of an interface's root queueing discipline, in the network
// namespace of the calling thread: IFLA_QDISC of RTM_GETLINK.
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
