package feed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// rejoinEvery is the interval at which a group's interface is checked for having been
// replaced by another one with the same name.
const rejoinEvery = 2 * time.Second

// prepareUDP sets a socket's buffer size and, if the address is a multicast group,
// makes it a member of only that group.
func prepareUDP(fd int, group netip.Addr, index int) error {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil { // requires CAP_NET_ADMIN
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if !group.IsMulticast() {
		return nil
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL
	if group.Is4() {
		level, option = unix.IPPROTO_IP, unix.IP_MULTICAST_ALL
	}
	err := errors.Join(unix.SetsockoptInt(fd, level, option, 0), member(fd, group, index, true))
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("no interface to join the group on: say which with iface=NAME behind a question mark")
	}
	return os.NewSyscallError("setsockopt", err)
}

// member joins or leaves a group on an interface.
func member(fd int, group netip.Addr, index int, join bool) error {
	if group.Is4() {
		option := unix.IP_DROP_MEMBERSHIP
		if join {
			option = unix.IP_ADD_MEMBERSHIP
		}
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, option, &unix.IPMreqn{Multiaddr: group.As4(), Ifindex: int32(index)})
	}
	option := unix.IPV6_LEAVE_GROUP
	if join {
		option = unix.IPV6_JOIN_GROUP
	}
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, option, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(index)})
}

// rejoin rejoins the group whenever its interface was removed and recreated, until ctx
// is done: the kernel identifies interfaces by number.
func (r *Receiver) rejoin(ctx context.Context) {
	l := &r.cfg.Listen
	raw, err := r.udp.SyscallConn()
	if err != nil {
		return
	}
	for ctx.Err() == nil {
		sleep(ctx, rejoinEvery)
		in, err := net.InterfaceByName(l.Interface)
		if err != nil || in.Index == r.index {
			continue
		}
		cerr := raw.Control(func(fd uintptr) {
			member(int(fd), l.Addr.Addr(), r.index, false)
			err = member(int(fd), l.Addr.Addr(), in.Index, true)
		})
		if err = errors.Join(cerr, err); err != nil {
			continue // not ready yet
		}
		r.index = in.Index
		r.cfg.Say("%v: joined again: %s is a new interface", r, l.Interface)
	}
}
