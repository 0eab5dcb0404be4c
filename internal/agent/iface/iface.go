package iface

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Interface is a network interface at the time of the query.
type Interface struct {
	// Name is the interface's name, AltNames are its alternative names (ip link
	// property add altname).
	Name     string
	AltNames []string
	// Index is the kernel's number for the interface; a rename does not change it.
	Index int
	// Up: the administrator has brought it up (IFF_UP). A capture runs only then.
	Up bool
	// Running: it is up and can carry packets (IFF_RUNNING).
	Running bool
	// Loopback: it receives what it sends (IFF_LOOPBACK).
	Loopback bool
	// Ethernet: frames begin with an Ethernet header. Loopback interfaces have one too,
	// with zero addresses.
	Ethernet bool
	// Type is the hardware type, one of the ARPHRD constants of
	// linux/if_arp.h.
	Type uint16
	// MAC is the Ethernet address, 6 bytes; nil if there is none or if it is all zero.
	MAC net.HardwareAddr
	// MTU in bytes, without link header.
	MTU int
	// Addrs are the interface's own addresses in the kernel's order (primary before
	// secondary ones), without zones. The prefix length is that of the network; on a
	// point-to-point link, that of the peer's address.
	Addrs []netip.Prefix
	// State in one or two words for users: "up", "down", "no carrier", ...
	State string
}

// IPv4 returns the interface's IPv4 addresses in the kernel's order.
func (i *Interface) IPv4() []netip.Addr { return i.addrs(netip.Addr.Is4) }

// IPv6 returns the interface's IPv6 addresses in the kernel's order.
func (i *Interface) IPv6() []netip.Addr { return i.addrs(netip.Addr.Is6) }

func (i *Interface) addrs(want func(netip.Addr) bool) []netip.Addr {
	var list []netip.Addr
	for _, p := range i.Addrs {
		if want(p.Addr()) {
			list = append(list, p.Addr())
		}
	}
	return list
}

// HasLinkLocalOnly reports whether the interface has addresses, but only link-local
// ones (IPv6 fe80::/10, IPv4 169.254.0.0/16).
func (i *Interface) HasLinkLocalOnly() bool {
	for _, p := range i.Addrs {
		if !p.Addr().IsLinkLocalUnicast() {
			return false
		}
	}
	return len(i.Addrs) > 0
}

// String returns one line about the interface. The lines of several form columns: name,
// state, Ethernet address, MTU, addresses.
func (i Interface) String() string {
	hw := "no MAC address"
	if i.MAC != nil {
		hw = i.MAC.String()
	}
	addrs := "no IP address"
	if len(i.Addrs) > 0 {
		text := make([]string, len(i.Addrs))
		for n, p := range i.Addrs {
			text[n] = p.String()
		}
		addrs = strings.Join(text, " ")
	}
	line := fmt.Sprintf("%-15s  %-10s  %-17s  mtu %-5d  %s", i.Name, i.State, hw, i.MTU, addrs)
	if len(i.AltNames) > 0 {
		line += "  (also " + strings.Join(i.AltNames, ", ") + ")"
	}
	return line
}

// named reports whether name is one of the interface's names.
func (i *Interface) named(name string) bool {
	return i.Name == name || slices.Contains(i.AltNames, name)
}

// equal reports whether all properties are the same.
func (i *Interface) equal(o *Interface) bool {
	return i.Name == o.Name && i.Index == o.Index && i.Up == o.Up && i.Running == o.Running &&
		i.Loopback == o.Loopback && i.Type == o.Type && i.MTU == o.MTU && i.State == o.State &&
		slices.Equal(i.MAC, o.MAC) && slices.Equal(i.Addrs, o.Addrs) && slices.Equal(i.AltNames, o.AltNames)
}

// NotFoundError means that there is no interface with this name.
type NotFoundError struct {
	Name string
	Have []string // names of the existing interfaces, by index
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("cannot capture on %q: no such interface", e.Name)
}

// maxHint is the maximum number of interfaces listed in a hint: a host with containers
// has thousands.
const maxHint = 20

// Hint returns what to try instead.
func (e *NotFoundError) Hint() string {
	switch n := len(e.Have); {
	case n == 0:
		return "this host has no interfaces"
	case n > maxHint:
		return fmt.Sprintf("this host has %s and %d more", strings.Join(e.Have[:maxHint], ", "), n-maxHint)
	}
	return "this host has " + strings.Join(e.Have, ", ")
}
