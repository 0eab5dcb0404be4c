package capture

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resolve looks up the interface's name or index, whichever is missing, in the network
// namespace of the socket fd.
func (c *Config) resolve(fd int) error {
	if c.Index == 0 {
		ifr, err := unix.NewIfreq(c.Interface)
		if err != nil {
			return fmt.Errorf("interface name %q: %w", c.Interface, err)
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return fmt.Errorf("no such interface: %w", err)
		}
		c.Index = int(ifr.Uint32())
		return nil
	}
	name, err := interfaceName(fd, c.Index)
	if err != nil {
		return fmt.Errorf("interface with index %d: %w", c.Index, err)
	}
	c.Interface = name
	return nil
}

// headerless reports whether a raw packet socket on the interface yields frames that
// begin at the network header in both directions. This holds for devices without
// header_ops->create, but not for GRE, which has one if its remote address is not
// fixed.
func headerless(fd int, name string) bool {
	ifr, err := unix.NewIfreq(name)
	if err != nil || unix.IoctlIfreq(fd, unix.SIOCGIFHWADDR, ifr) != nil {
		return false
	}
	switch ifr.Uint16() { // sa_family of ifr_hwaddr: the device's type
	case unix.ARPHRD_NONE, // tun, wireguard
		unix.ARPHRD_RAWIP, // mobile modems
		unix.ARPHRD_PPP,
		unix.ARPHRD_IEEE80211, unix.ARPHRD_IEEE80211_RADIOTAP,
		unix.ARPHRD_TUNNEL, unix.ARPHRD_TUNNEL6, unix.ARPHRD_SIT:
		return true
	}
	return false
}

// ifreqIndex is struct ifreq with ifr_ifindex set, which unix.Ifreq cannot represent.
type ifreqIndex struct {
	name  [unix.IFNAMSIZ]byte
	index int32
	_     [20]byte
}

// interfaceName returns the name of the interface with that index (netdevice(7)).
func interfaceName(fd, index int) (string, error) {
	req := ifreqIndex{index: int32(index)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFNAME, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(req.name[:]), nil
}

// hintFor returns the next step after an error of OpenRing, or "".
func hintFor(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "capturing needs CAP_NET_RAW: run as root, or `setcap cap_net_raw=ep` on the program"
	case errors.Is(err, unix.EAFNOSUPPORT):
		return "this kernel has no packet sockets (CONFIG_PACKET)"
	case errors.Is(err, unix.ENOMEM):
		return "the kernel has no memory for it: try a smaller buffer"
	}
	return ""
}
