package iface

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// NoDefaultRouteError means that the namespace has no default route.
type NoDefaultRouteError struct {
	Have []string // names of the existing interfaces, by index
}

func (e *NoDefaultRouteError) Error() string {
	return "there is no default route, neither of IPv4 nor of IPv6"
}

// Hint returns what to try instead.
func (e *NoDefaultRouteError) Hint() string {
	return (&NotFoundError{Have: e.Have}).Hint()
}

// DefaultRoute returns the interface of the namespace's default route: that of IPv4 in
// the main table with the lowest metric, or else that of IPv6. Routes whose interface
// is down are ignored. If there is no route, the error is a *NoDefaultRouteError.
func DefaultRoute() (Interface, error) {
	k, err := dial()
	if err != nil {
		return Interface{}, err
	}
	defer k.close()
	list, err := k.list()
	if err != nil {
		return Interface{}, err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := k.defaultRoutes(family)
		if err != nil {
			return Interface{}, err
		}
		for _, r := range routes {
			n := slices.IndexFunc(list, func(i Interface) bool { return i.Index == r.index && i.Up })
			if n >= 0 {
				return list[n], nil
			}
		}
	}
	return Interface{}, &NoDefaultRouteError{Have: names(list)}
}

// route is a default route.
type route struct {
	metric uint32
	index  int // of the interface; with several next hops, of the first
}

// defaultRoutes returns the default routes of one address family, the best first.
func (k *kernel) defaultRoutes(family int) (list []route, err error) {
	body := &nl.RtMsg{RtMsg: unix.RtMsg{Family: uint8(family)}}
	msgs, err := k.dump(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, body)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without this address family
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	for _, m := range msgs {
		if r, ok := parseDefaultRoute(m, family); ok {
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b route) int { return cmp.Compare(a.metric, b.metric) })
	return list, nil
}

// parseDefaultRoute parses an RTM_NEWROUTE message, and reports whether it is a usable
// default route in the main table.
func parseDefaultRoute(m []byte, family int) (r route, ok bool) {
	if len(m) < unix.SizeofRtMsg {
		return r, false
	}
	msg := nl.DeserializeRtMsg(m)
	if int(msg.Family) != family || msg.Dst_len != 0 || msg.Src_len != 0 ||
		msg.Type != unix.RTN_UNICAST || msg.Table != unix.RT_TABLE_MAIN {
		return r, false
	}
	for typ, value := range attributes(m[unix.SizeofRtMsg:]) {
		switch {
		case typ == unix.RTA_OIF && len(value) >= 4:
			r.index = int(binary.NativeEndian.Uint32(value))
		case typ == unix.RTA_PRIORITY && len(value) >= 4:
			r.metric = binary.NativeEndian.Uint32(value)
		case typ == unix.RTA_MULTIPATH && len(value) >= unix.SizeofRtNexthop:
			// struct rtnexthop: length (2), flags (1), weight (1), interface (4).
			r.index = int(binary.NativeEndian.Uint32(value[4:]))
		}
	}
	return r, r.index != 0
}
