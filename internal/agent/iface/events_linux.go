package iface

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// events is a netlink socket that receives every change to an interface or an address
// in the namespace where the socket was opened.
type events struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// eventSize holds the largest unsolicited message of the kernel, which allocates at
// most a page and at least 8 kB (NLMSG_GOODSIZE) for one.
const eventSize = 64 << 10

func subscribe() (*events, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot watch interfaces: netlink socket: %w", err)
	}
	e := &events{file: os.NewFile(uintptr(fd), "netlink"), buf: make([]byte, eventSize)}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	if err == nil {
		e.raw, err = e.file.SyscallConn()
	}
	if err != nil {
		e.file.Close()
		return nil, fmt.Errorf("cannot watch interfaces: netlink socket: %w", err)
	}
	return e, nil
}

func (e *events) close() { e.file.Close() }

// batch is what has happened when events.wait returns.
type batch struct {
	msgs []syscall.NetlinkMessage
	lost bool // the kernel had to discard messages: only a new listing shows the current state
}

// maxBatch bounds the number of datagrams in one batch, so that a flood does not keep
// the reader from acting.
const maxBatch = 1024

// wait blocks until something happens, until the deadline (unless it is zero), or until
// ctx ends. It returns everything that has happened: nothing if the deadline passed.
// The error is ctx's or the socket's.
func (e *events) wait(ctx context.Context, deadline time.Time) (batch, error) {
	stop := context.AfterFunc(ctx, func() { e.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := e.file.SetReadDeadline(deadline); err != nil {
		return batch{}, fmt.Errorf("cannot watch interfaces: %w", err)
	}
	// If ctx ended before this deadline was set, the other one was overwritten.
	if err := ctx.Err(); err != nil {
		return batch{}, err
	}
	var b batch
	var failed error
	err := e.raw.Read(func(fd uintptr) bool {
		failed = e.drain(int(fd), &b)
		return failed != nil || b.lost || len(b.msgs) > 0
	})
	switch {
	case ctx.Err() != nil:
		return batch{}, ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return batch{}, nil
	case err == nil:
		err = failed
	}
	if err != nil {
		return batch{}, fmt.Errorf("cannot watch interfaces: %w", err)
	}
	return b, nil
}

// drain reads everything available without blocking.
func (e *events) drain(fd int, b *batch) error {
	for range maxBatch {
		n, _, flags, from, err := unix.Recvmsg(fd, e.buf, nil, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EAGAIN:
			return nil
		case err == unix.EINTR:
			continue
		case err == unix.ENOBUFS || err == nil && flags&unix.MSG_TRUNC != 0:
			b.lost = true
			continue
		case err != nil:
			return err
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		msgs, err := syscall.ParseNetlinkMessage(append([]byte(nil), e.buf[:n]...))
		if err != nil {
			b.lost = true
			continue
		}
		b.msgs = append(b.msgs, msgs...)
	}
	return nil
}
