package capture

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// What every kind of packet socket needs. See packet(7).

// socket returns a packet socket that is not bound to a protocol, so no packet reaches
// it before bind.
func socket(kind int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	return fd, nil
}

func bind(fd, index int, etherType uint16) error {
	addr := unix.SockaddrLinklayer{Protocol: bigEndian(etherType), Ifindex: index}
	if err := unix.Bind(fd, &addr); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// bigEndian is htons(3).
func bigEndian(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// takeNothing stops the socket from receiving: first with a filter that rejects
// everything, then by binding it to another protocol. The latter removes it from the
// interface and ends with synchronize_net() in the kernel, so that when it returns no
// processor is still storing a frame under the old rules.
func takeNothing(fd, index int) {
	// On an open socket these fail only if the interface is gone, and then there is
	// nothing to receive.
	_ = attachProgram(fd, rejectAll)
	_ = bind(fd, index, unix.ETH_P_LOOPBACK)
}

// wait blocks until the socket has data, the eventfd wake signals that it is to be
// drained, or the interface goes down.
func wait(fd, wake int, draining bool, outages *atomic.Uint64) error {
	fds := [2]unix.PollFd{
		{Fd: int32(fd), Events: unix.POLLIN},
		{Fd: int32(wake), Events: unix.POLLIN},
	}
	poll, timeout := fds[:], -1
	if draining {
		// The wake-up has been noticed, and its eventfd stays readable. The remaining
		// frames arrive when the kernel's timer retires the open block.
		poll, timeout = fds[:1], retireAfter
	}
	if _, err := unix.Poll(poll, timeout); err != nil && err != unix.EINTR {
		return fmt.Errorf("poll: %w", err)
	}
	if fds[0].Revents&unix.POLLERR != 0 {
		return survive(fd, outages)
	}
	return nil
}

// survive reads, and thereby clears, the socket's error. ENETDOWN means that the
// interface went down or away; the kernel rebinds the socket when it comes up again.
// Until then, poll(2) blocks.
func survive(fd int, outages *atomic.Uint64) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("read socket error: %w", err)
	}
	switch errno := unix.Errno(code); errno {
	case 0:
		return nil
	case unix.ENETDOWN:
		outages.Add(1)
		return nil
	default:
		return errno
	}
}

// signal makes an eventfd readable permanently.
func signal(eventfd int) {
	_, _ = unix.Write(eventfd, binary.NativeEndian.AppendUint64(nil, 1))
}
