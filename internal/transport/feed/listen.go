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
	TCP       bool   // otherwise UDP
	TLS       bool   // exporters present certificates. Only with TCP
	Addr      netip.AddrPort
	Interface string // to join a group on; "" uses the route's
	PEN       uint32 // of the exporters' own elements, 0 to detect it (see ipfix.Decoder)
}

// ParseListen parses the URL of a Listen: ipfix+udp://address:port,
// ipfix+tcp://address:port, or ipfix+tls://address:port. Errors do not repeat it.
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

// params returns the parameters that the URL may have.
func (l *Listen) params() option.Params {
	return option.Params{
		option.Text("iface", "NAME", "interface to join the group on", &l.Interface),
		option.Number("pen", "private enterprise number of the exporters' own elements", &l.PEN, 1, math.MaxUint32),
	}
}

// group reports whether the address is a multicast group to join.
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

// check validates combinations of parameters.
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

// whyNot returns why a port cannot be opened, without what the user already knows.
func whyNot(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("this host has no such address; 0.0.0.0 or [::] stand for all that it has")
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("another program has that port")
	}
	return err
}

// maxNamed is the maximum number of interfaces listed in an error.
const maxNamed = 20

// noInterface returns the error about an interface that does not exist.
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
