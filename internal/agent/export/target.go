// Package export sends records to collectors of IPFIX that do not dial us:
// by UDP, also to multicast groups, by TCP and TLS, and into files. Each
// export reads the agent's stream for itself and delays nobody; what it is too
// slow for it loses, and counts.
package export

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// Kind is how an export goes out.
type Kind uint8

const (
	// UDP, unicast or multicast.
	UDP Kind = iota
	// TCP: we dial.
	TCP
	// TLS is TCP with certificates of both sides.
	TLS
	// File is in the format of RFC 5655: messages one after the other.
	File
	// NATS is batches instead of IPFIX, to a bus; package publish sends them.
	NATS
)

var schemes = map[string]Kind{"ipfix+udp": UDP, "ipfix+tcp": TCP, "ipfix+tls": TLS}

// Target is what an export's URL says.
type Target struct {
	URL  string // as given, but without passwords
	Kind Kind
	Host string // a name or an address, without brackets. Valid unless Kind is File or NATS
	Port uint16 // likewise
	Path string // valid iff Kind is File
	// PerSecond: one record for each flow and second instead of each packet.
	PerSecond bool

	// For UDP only.
	Interface string // to send multicast from; "" is the route's
	TTL       int    // or hop limit; 0 is 1 for multicast and the system's for unicast
	Payload   int    // most bytes of a message
	mtu       int    // the parameter that sets it
	Rate      int64  // most bits per second, with UDP and IP headers
	Repair    uint16 // TCP port where multicast receivers may ask again; 0 is none

	// For TLS only.
	Cert, Key, CA string
	// Name is what the certificate must be for with TLS, "" the host; with NATS
	// whose the records are, "" this host's.
	Name string
	// Bus is the URL as package bus takes it. For NATS only.
	Bus      string
	receiver string // for NATS only
}

// Defaults of a Target.
const (
	defaultPort    = 4739 // IANA's ipfix
	defaultTLSPort = 4740 // IANA's ipfixs
	defaultRate    = 1_000_000_000
	minMTU         = 1280
	maxMTU         = 65535
)

// headers of IPv6 and UDP, which are the longer ones.
const headers = 40 + 8

// Multicast reports whether the target is a group.
func (t *Target) Multicast() bool {
	a, err := netip.ParseAddr(t.Host)
	return err == nil && a.IsMulticast()
}

// Spools reports whether records can wait for the receiver in a Spool: it has to
// say what has arrived.
func (t *Target) Spools() bool { return t.Kind == TCP || t.Kind == TLS || t.Kind == NATS }

// Receiver names where the export goes, whatever the parameters are.
func (t *Target) Receiver() string {
	for scheme, kind := range schemes {
		if kind == t.Kind {
			return scheme + "-" + t.address()
		}
	}
	if t.Kind == NATS {
		return t.receiver
	}
	return t.Path
}

// address is for dialling.
func (t *Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Parse reads an export's URL. Errors do not repeat it.
func Parse(text string) (t Target, err error) {
	const want = "want ipfix+udp://host:port, ipfix+tcp://host:port, ipfix+tls://host:port, nats://host:port or file:PATH"
	scheme, rest, query := option.CutURL(text)
	if scheme == "nats" || scheme == "nats+tls" || scheme == "tls" {
		return parseBus(text)
	}
	t = Target{URL: text, Payload: ipfix.MaxDatagram, Rate: defaultRate}
	kind, known := schemes[scheme]
	switch {
	case scheme == "file":
		t.Kind, t.Path = File, strings.TrimPrefix(rest, "//")
		if t.Path == "" {
			return t, fmt.Errorf("no path: want file:PATH")
		}
	case !known:
		return t, fmt.Errorf("unknown kind of export: %s", want)
	default:
		t.Kind = kind
		if err := t.setServer(text); err != nil {
			return t, err
		}
	}
	t.PerSecond = t.Multicast()
	if err := t.Params().Parse(query); err != nil {
		return t, err
	}
	if t.mtu != 0 {
		t.Payload, t.mtu = t.mtu-headers, 0
	}
	return t, t.check()
}

func (t *Target) setServer(text string) error {
	u, err := option.ParseURL(text)
	if err != nil {
		return err
	}
	s := u.Servers[0]
	addr, _ := netip.ParseAddr(s.Host)
	switch {
	case len(u.Servers) > 1:
		return fmt.Errorf("several hosts: want one, and -export for each")
	case s.User != nil || u.Path != "":
		return fmt.Errorf("want no more than a host and a port in front of the question mark")
	case addr.IsUnspecified():
		return fmt.Errorf("host %q: want the collector's address: this one is for listening", s.Host)
	case addr.IsMulticast() && addr.Zone() != "":
		s.Host, t.Interface = addr.WithZone("").String(), addr.Zone()
	}
	t.Host, t.Port = s.Host, s.Port
	switch {
	case t.Port == 0 && t.Kind == TLS:
		t.Port = defaultTLSPort
	case t.Port == 0:
		t.Port = defaultPort
	}
	return nil
}

// Params are the parameters that the URL may have, which set t's fields.
func (t *Target) Params() option.Params {
	p := option.Params{option.Switch("per", "records: each packet's, or one for each flow and second", &t.PerSecond, "packet", "1s")}
	switch t.Kind {
	case UDP:
		return append(p,
			option.Text("iface", "NAME", "interface to send multicast from", &t.Interface),
			option.Number("ttl", "how many hops datagrams may go", &t.TTL, 1, 255),
			option.Number("mtu", "most bytes of a packet (1280)", &t.mtu, minMTU, maxMTU),
			option.Func("rate", "RATE", "most bits per second (1G)", t.setRate),
			option.Number("repair", "TCP port where receivers of multicast ask again", &t.Repair, 1, 65535))
	case TLS:
		return append(p,
			option.Text("cert", "FILE", "our certificate (-tls-cert)", &t.Cert),
			option.Text("key", "FILE", "its key (-tls-key)", &t.Key),
			option.Text("ca", "FILE", "authorities to trust (-tls-client-ca)", &t.CA),
			option.Text("name", "NAME", "name in the collector's certificate (the host)", &t.Name))
	}
	return p
}

func (t *Target) setRate(text string) (err error) {
	if t.Rate, err = option.ParseRate(text); err != nil || t.Rate < minRate {
		return fmt.Errorf("want bits per second such as 500k, 20M or 1G, at least 16k")
	}
	return nil
}

// minRate is one full datagram in a little more than half a second.
const minRate = 16_000

// check is for what no parameter alone says.
func (t *Target) check() error {
	addr, _ := netip.ParseAddr(t.Host)
	switch {
	case !t.Multicast() && (t.Interface != "" || t.Repair != 0):
		return fmt.Errorf("iface and repair belong to multicast groups")
	case t.Multicast() && t.Kind != UDP:
		return fmt.Errorf("%s is a multicast group: want ipfix+udp://", t.Host)
	case t.Interface == "" && (addr.IsLinkLocalMulticast() || addr.IsInterfaceLocalMulticast()) && addr.Is6():
		return fmt.Errorf("%s is a group of each link: want iface=NAME behind a question mark", t.Host)
	case addr.Is6() && addr.IsLinkLocalUnicast() && addr.Zone() == "":
		return fmt.Errorf("%s is an address of one link: want [%s%%NAME], NAME being the interface", t.Host, t.Host)
	}
	return nil
}

// Ready tells what is missing for the export to work, as far as this host is
// concerned, or nil. An interface may come later; a directory should not: an
// agent that has given up its privileges may not write in it.
func (t *Target) Ready() error {
	if t.Kind == File {
		info, err := os.Stat(filepath.Dir(t.Path))
		switch {
		case err != nil:
			return fmt.Errorf("directory %q: %w", filepath.Dir(t.Path), errors.Unwrap(err))
		case !info.IsDir():
			return fmt.Errorf("%q is no directory", filepath.Dir(t.Path))
		}
		if info, err := os.Stat(t.Path); err == nil && info.IsDir() {
			return fmt.Errorf("%q is a directory: want a file", t.Path)
		}
		return nil
	}
	_, err := t.out()
	return err
}

// out is the interface to send multicast from; nil for the route's.
func (t *Target) out() (*net.Interface, error) {
	if t.Interface == "" {
		return nil, nil
	}
	out, err := net.InterfaceByName(t.Interface)
	if err != nil {
		return nil, fmt.Errorf("iface=%s: no such interface", t.Interface)
	}
	return out, nil
}
