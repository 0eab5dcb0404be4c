package iface

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel queries the kernel about one network namespace: that of the thread that
// dialed.
type kernel struct {
	sockets map[int]*nl.SocketHandle
}

func dial() (*kernel, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the kernel for its interfaces: netlink socket: %w", err)
	}
	if err := s.SetReceiveTimeout(&nl.SocketTimeoutTv); err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot ask the kernel for its interfaces: netlink socket: %w", err)
	}
	return &kernel{sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}}, nil
}

func (k *kernel) close() { k.sockets[unix.NETLINK_ROUTE].Close() }

// maxInterrupted is how often a listing is restarted because interfaces changed in the
// meantime. The last result is used as it is: a host that never comes to rest does not
// provide a better one.
const maxInterrupted = 10

// dump sends a request and returns the replies of one type.
func (k *kernel) dump(request, answer uint16, body nl.NetlinkRequestData, attrs ...*nl.RtAttr) ([][]byte, error) {
	for try := 1; ; try++ {
		req := nl.NewNetlinkRequest(int(request), unix.NLM_F_DUMP)
		req.Sockets = k.sockets
		req.AddData(body)
		for _, a := range attrs {
			req.AddData(a)
		}
		msgs, err := req.Execute(unix.NETLINK_ROUTE, answer)
		if errors.Is(err, nl.ErrDumpInterrupted) {
			if try < maxInterrupted {
				continue
			}
			err = nil
		}
		return msgs, err
	}
}

// extFilterSkipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const extFilterSkipStats = 1 << 3

// list returns all interfaces with their addresses, by index.
func (k *kernel) list() ([]Interface, error) {
	// Counters are most of the size and cost of a reply, and are not used here.
	skip := nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(extFilterSkipStats))
	links, err := k.dump(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), skip)
	if err != nil {
		return nil, fmt.Errorf("cannot list interfaces: %w", err)
	}
	addrs, err := k.dump(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, fmt.Errorf("cannot list addresses: %w", err)
	}
	return assemble(links, addrs)
}

func assemble(links, addrs [][]byte) ([]Interface, error) {
	byIndex := make(map[int][]netip.Prefix)
	for _, m := range addrs {
		index, p, err := parseAddr(m)
		if err != nil {
			return nil, err
		}
		if p.IsValid() {
			byIndex[index] = append(byIndex[index], p)
		}
	}
	var list []Interface
	for _, m := range links {
		var i Interface
		if err := i.parse(m); err != nil {
			return nil, err
		}
		i.Addrs = byIndex[i.Index]
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b Interface) int { return a.Index - b.Index })
	return slices.CompactFunc(list, func(a, b Interface) bool { return a.Index == b.Index }), nil
}

var errShort = errors.New("netlink message is too short")

// parse applies an RTM_NEWLINK message. Properties that it does not contain are kept:
// some drivers send messages with their own attributes only. It never changes Addrs.
func (i *Interface) parse(m []byte) error {
	if len(m) < unix.SizeofIfInfomsg {
		return errShort
	}
	msg := nl.DeserializeIfInfomsg(m)
	i.Index = int(msg.Index)
	i.Type = msg.Type
	i.Ethernet = msg.Type == unix.ARPHRD_ETHER || msg.Type == unix.ARPHRD_LOOPBACK
	i.Up = msg.Flags&unix.IFF_UP != 0
	i.Running = i.Up && msg.Flags&unix.IFF_RUNNING != 0
	i.Loopback = msg.Flags&unix.IFF_LOOPBACK != 0
	i.State = i.state(i.describe(m[unix.SizeofIfInfomsg:]))
	return nil
}

// describe applies the attributes of an RTM_NEWLINK message and returns the operational
// state.
func (i *Interface) describe(attrs []byte) (operstate uint8) {
	complete := false
	var altNames []string
	for typ, value := range attributes(attrs) {
		switch {
		case typ == unix.IFLA_IFNAME:
			i.Name = unix.ByteSliceToString(value)
		case typ == unix.IFLA_ADDRESS:
			i.MAC = mac(value)
		case typ == unix.IFLA_MTU && len(value) >= 4:
			i.MTU = int(binary.NativeEndian.Uint32(value))
			complete = true
		case typ == unix.IFLA_OPERSTATE && len(value) >= 1:
			operstate = value[0]
		case typ == unix.IFLA_PROP_LIST:
			altNames = parseAltNames(value)
		}
	}
	if complete {
		// Such a message has all alternative names; if there are none, the list is
		// absent.
		i.AltNames = altNames
	}
	return operstate
}

// attributes yields the attributes of a message, as far as it is well formed. Each is a
// length, a type, and a value padded to four bytes (rtnetlink(7)).
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			typ := binary.NativeEndian.Uint16(b[2:]) &^ unix.NLA_F_NESTED
			if n < unix.SizeofRtAttr || n > len(b) || !yield(typ, b[unix.SizeofRtAttr:n]) {
				return
			}
			padded := (n + unix.RTA_ALIGNTO - 1) &^ (unix.RTA_ALIGNTO - 1)
			b = b[min(padded, len(b)):]
		}
	}
}

// mac copies b if it is an Ethernet address that is not all zero.
func mac(b []byte) net.HardwareAddr {
	if len(b) != 6 || [6]byte(b) == [6]byte{} {
		return nil
	}
	return slices.Clone(b)
}

func parseAltNames(b []byte) []string {
	var list []string
	for typ, value := range attributes(b) {
		if typ == unix.IFLA_ALT_IFNAME {
			list = append(list, unix.ByteSliceToString(value))
		}
	}
	return list
}

// Operational states: RFC 2863, section 3.1.14, numbered as in linux/if.h.
const (
	operUnknown = iota
	operNotPresent
	operDown
	operLowerLayerDown
	operTesting
	operDormant
	operUp
)

func (i *Interface) state(operstate uint8) string {
	switch {
	case !i.Up:
		return "down"
	case i.Running:
		return "up"
	case operstate == operDormant:
		return "dormant"
	case operstate == operTesting:
		return "testing"
	case operstate == operNotPresent:
		return "absent"
	}
	// Also operDown and operLowerLayerDown, which make no difference for a capture.
	return "no carrier"
}

// parseAddr parses an RTM_NEWADDR or RTM_DELADDR message. The prefix is the interface's
// own address with the length of its network; it is invalid if the message has no IP
// address.
func parseAddr(m []byte) (index int, p netip.Prefix, err error) {
	if len(m) < unix.SizeofIfAddrmsg {
		return 0, p, errShort
	}
	msg := nl.DeserializeIfAddrmsg(m)
	var own, address []byte
	for typ, value := range attributes(m[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			own = value
		case unix.IFA_ADDRESS:
			address = value
		}
	}
	// On a point-to-point link, IFA_ADDRESS is the peer's and IFA_LOCAL is ours;
	// elsewhere both are ours, and IPv6 omits IFA_LOCAL.
	if own == nil {
		own = address
	}
	addr, _ := netip.AddrFromSlice(own)
	return int(msg.Index), netip.PrefixFrom(addr, int(msg.Prefixlen)), nil
}
