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
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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

// Multicast tells whether the target is a group.
func (t *Target) Multicast() bool {
	a, err := netip.ParseAddr(t.Host)
	return err == nil && a.IsMulticast()
}

// Spools tells whether records can wait for the receiver in a Spool: it has to
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
	if strings.HasPrefix(text, "nats://") || strings.HasPrefix(text, "nats+tls://") {
		return parseBus(text)
	}
	t = Target{URL: text, Payload: ipfix.MaxDatagram, Rate: defaultRate}
	rest, query, _ := strings.Cut(text, "?")
	if path, ok := strings.CutPrefix(rest, "file:"); ok {
		t.Kind, t.Path = File, strings.TrimPrefix(path, "//")
		if t.Path == "" {
			return t, fmt.Errorf("no path: want file:PATH")
		}
	} else {
		scheme, host, found := strings.Cut(rest, "://")
		if t.Kind, ok = schemes[scheme]; !ok || !found {
			return t, fmt.Errorf("unknown kind of export: %s", want)
		}
		if err := t.setHost(host); err != nil {
			return t, err
		}
	}
	t.PerSecond = t.Multicast()
	values, err := url.ParseQuery(query)
	if err != nil {
		return t, fmt.Errorf("parameters: want key=value pairs joined by &")
	}
	for key, v := range values {
		if len(v) != 1 || v[0] == "" {
			return t, fmt.Errorf("parameter %q: want one value", key)
		}
		if err := t.set(key, v[0]); err != nil {
			return t, err
		}
	}
	return t, t.check()
}

func (t *Target) setHost(text string) error {
	host, port := text, strconv.Itoa(defaultPort)
	if t.Kind == TLS {
		port = strconv.Itoa(defaultTLSPort)
	}
	bracketed := strings.HasPrefix(text, "[")
	if strings.LastIndexByte(text, ':') > strings.LastIndexByte(text, ']') {
		var err error
		if host, port, err = net.SplitHostPort(text); err != nil {
			return badHost(text)
		}
	} else if inner, found := strings.CutSuffix(text, "]"); bracketed && found {
		host = inner[1:]
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil && (host == "" || bracketed || strings.ContainsAny(host, ":/ []@%")), err == nil && addr.Is6() != bracketed:
		return badHost(text)
	case err == nil && addr.IsUnspecified():
		return fmt.Errorf("host %q: want the collector's address: this one is for listening", host)
	case err == nil && addr.IsMulticast() && addr.Zone() != "":
		host, t.Interface = addr.WithZone("").String(), addr.Zone()
	}
	t.Host, t.Port = host, uint16(n)
	return nil
}

func badHost(text string) error {
	return fmt.Errorf("host %q: want a name, an IPv4 address, or an IPv6 address in brackets such as [2001:db8::1], and :PORT or nothing behind it", text)
}

// set takes one parameter.
func (t *Target) set(key, value string) error {
	for _, s := range []struct {
		key   string
		only  Kind
		value *string
	}{{"iface", UDP, &t.Interface}, {"cert", TLS, &t.Cert}, {"key", TLS, &t.Key}, {"ca", TLS, &t.CA}, {"name", TLS, &t.Name}} {
		if s.key == key && s.only == t.Kind {
			*s.value = value
			return nil
		}
	}
	switch {
	case key == "per" && (value == "packet" || value == "1s"):
		t.PerSecond = value == "1s"
		return nil
	case key == "per":
		return fmt.Errorf("per=%s: want packet or 1s", value)
	case t.Kind == UDP:
		return t.setDatagrams(key, value)
	}
	return fmt.Errorf("unknown parameter %q: want %s", key, t.parameters())
}

// setDatagrams takes parameters that only UDP has.
func (t *Target) setDatagrams(key, value string) (err error) {
	number := func(low, high uint64) uint64 {
		n, parseErr := strconv.ParseUint(value, 10, 64)
		if parseErr != nil || n < low || n > high {
			err = fmt.Errorf("%s=%s: want a number from %d to %d", key, value, low, high)
		}
		return n
	}
	switch key {
	case "ttl":
		t.TTL = int(number(1, 255))
	case "mtu":
		t.Payload = int(number(minMTU, maxMTU)) - headers
	case "repair":
		t.Repair = uint16(number(1, 65535))
	case "rate":
		t.Rate, err = parseRate(value)
	default:
		return fmt.Errorf("unknown parameter %q: want %s", key, t.parameters())
	}
	return err
}

// parseRate reads bits per second with k, M or G behind.
func parseRate(text string) (int64, error) {
	factor := int64(1)
	digits := text
	switch text[len(text)-1] {
	case 'k':
		factor = 1e3
	case 'M':
		factor = 1e6
	case 'G':
		factor = 1e9
	}
	if factor > 1 {
		digits = text[:len(text)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n*factor < minRate {
		return 0, fmt.Errorf("rate=%s: want bits per second such as 500k, 20M or 1G, at least 16k", text)
	}
	return n * factor, nil
}

// minRate is one full datagram in a little more than half a second.
const minRate = 16_000

func (t *Target) parameters() string {
	switch t.Kind {
	case UDP:
		return "per, iface, ttl, mtu, rate or repair"
	case TLS:
		return "per, cert, key, ca or name"
	}
	return "per"
}

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
