package feed

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"github.com/pcapper/pcapper/internal/host/option"
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
// ipfix+tcp://address:port or ipfix+tls://address:port. Errors do not repeat it.
func ParseListen(text string) (l Listen, err error) {
	l.URL = text
	scheme, host, query := option.CutURL(text)
	switch scheme {
	case "ipfix+udp":
	case "ipfix+tcp":
		l.TCP = true
	case "ipfix+tls":
		l.TCP, l.TLS = true, true
	default:
		return l, fmt.Errorf("want ipfix+udp://address:port, ipfix+tcp://address:port or ipfix+tls://address:port")
	}
	if err := l.setAddr(strings.TrimPrefix(host, "//")); err != nil {
		return l, err
	}
	if err := l.params().Parse(query); err != nil {
		return l, err
	}
	return l, l.check()
}

// params are those that the URL may have.
func (l *Listen) params() option.Params {
	return option.Params{
		option.Text("iface", "NAME", "interface to join the group on", &l.Interface),
		option.Number("pen", "private enterprise number of the exporters' own elements", &l.PEN, 1, math.MaxUint32),
	}
}

// group reports whether a multicast group is to be joined.
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
	case l.Interface != "" && !l.group():
		return errors.New(`parameter "iface": want a multicast group and ipfix+udp://`)
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
