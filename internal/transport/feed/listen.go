package feed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// Listen is where a Receiver listens.
type Listen struct {
	URL       string // as given
	TCP       bool   // else UDP
	TLS       bool   // exporters show certificates. Only with TCP
	Addr      netip.AddrPort
	Interface string // to join a group on; "" is the route's
	PEN       uint32 // of the exporters' own elements, 0 for what ipfix.Decoder finds out
}

// ParseListen reads the URL of a Listen: ipfix+udp://address:port,
// ipfix+tcp://address:port or ipfix+tls://address:port, with iface=NAME for
// groups and pen=NUMBER. Errors do not repeat it.
func ParseListen(text string) (l Listen, err error) {
	l.URL = text
	rest, query, _ := strings.Cut(text, "?")
	scheme, host, _ := strings.Cut(rest, "://")
	switch scheme {
	case "ipfix+udp":
	case "ipfix+tcp":
		l.TCP = true
	case "ipfix+tls":
		l.TCP, l.TLS = true, true
	default:
		return l, fmt.Errorf("want ipfix+udp://address:port, ipfix+tcp://address:port or ipfix+tls://address:port")
	}
	if err := l.setAddr(host); err != nil {
		return l, err
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return l, fmt.Errorf("want parameters key=value joined by &")
	}
	for key, v := range values {
		switch n, err := strconv.ParseUint(v[0], 10, 32); {
		case key == "iface" && len(v) == 1 && v[0] != "" && l.group():
			l.Interface = v[0]
		case key == "pen" && len(v) == 1 && err == nil && n > 0:
			l.PEN = uint32(n)
		default:
			return l, fmt.Errorf("parameter %q: want iface=NAME (for a multicast group) or pen=NUMBER from 1 on", key)
		}
	}
	return l, l.check()
}

// group tells whether a multicast group is to be joined.
func (l *Listen) group() bool { return !l.TCP && l.Addr.Addr().IsMulticast() }

func (l *Listen) setAddr(host string) error {
	port := "4739"
	if l.TLS {
		port = "4740"
	}
	if strings.LastIndexByte(host, ':') <= strings.LastIndexByte(host, ']') {
		host += ":" + port
	}
	var err error
	if l.Addr, err = netip.ParseAddrPort(host); err != nil {
		return fmt.Errorf("address %q: want one of this host, a multicast group, 0.0.0.0 or [::] for all, IPv6 in brackets, and :PORT or nothing behind it", host)
	}
	if a := l.Addr.Addr(); a.IsMulticast() && a.Zone() != "" {
		l.Interface, l.Addr = a.Zone(), netip.AddrPortFrom(a.WithZone(""), l.Addr.Port())
	}
	return nil
}

// check is for what no part alone says.
func (l *Listen) check() error {
	a := l.Addr.Addr()
	switch {
	case l.TCP && a.IsMulticast():
		return fmt.Errorf("%v is a multicast group: want ipfix+udp://", a)
	case a.Is6() && (a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()) && l.Interface == "":
		return fmt.Errorf("%v is a group of each link: want iface=NAME behind a question mark", a)
	}
	return nil
}

// whyNot is why a port cannot be had, without what the user knows.
func whyNot(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("this host has no such address; 0.0.0.0 or [::] stand for all that it has")
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program has that port")
	}
	return err
}

// maxNamed is how many interfaces an error names.
const maxNamed = 20

// noInterface is the error about an interface that is not there.
func noInterface(name string) error {
	all, err := net.Interfaces()
	if err != nil || len(all) > maxNamed {
		return fmt.Errorf("iface=%s: no such interface", name)
	}
	var names []string
	for _, i := range all {
		names = append(names, i.Name)
	}
	return fmt.Errorf("iface=%s: no such interface: this host has %s", name, strings.Join(names, ", "))
}
