// Package export sends records to collectors of IPFIX that do not dial us:
// by UDP, also to multicast groups, by TCP and TLS, and into files. Each
// export reads the agent's stream for itself and delays nobody; what it is too
// slow for it loses, and counts.
package export

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
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
)

var schemes = map[string]Kind{"ipfix+udp": UDP, "ipfix+tcp": TCP, "ipfix+tls": TLS}

// Target is what an export's URL says.
type Target struct {
	URL  string // as given
	Kind Kind
	Host string // a name or an address, without brackets. Valid unless Kind is File
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
	Cert, Key, CA, Name string
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
func (t *Target) Spools() bool { return t.Kind == TCP || t.Kind == TLS }

// Receiver names where the export goes, whatever the parameters are.
func (t *Target) Receiver() string {
	for scheme, kind := range schemes {
		if kind == t.Kind {
			return scheme + "-" + t.address()
		}
	}
	return t.Path
}

// address is for dialling.
func (t *Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Parse reads an export's URL.
func Parse(text string) (t Target, err error) {
	const want = "want ipfix+udp://host:port, ipfix+tcp://host:port, ipfix+tls://host:port or file:PATH"
	t = Target{URL: text, Payload: ipfix.MaxDatagram, Rate: defaultRate}
	rest, query, _ := strings.Cut(text, "?")
	if path, ok := strings.CutPrefix(rest, "file:"); ok {
		t.Kind, t.Path = File, strings.TrimPrefix(path, "//")
		if t.Path == "" {
			return t, fmt.Errorf("%q: no path: want file:PATH", text)
		}
	} else {
		scheme, host, found := strings.Cut(rest, "://")
		if t.Kind, ok = schemes[scheme]; !ok || !found {
			return t, fmt.Errorf("%q: unknown kind of export: %s", text, want)
		}
		if err := t.setHost(host); err != nil {
			return t, fmt.Errorf("%q: %w", text, err)
		}
	}
	t.PerSecond = t.Multicast()
	values, err := url.ParseQuery(query)
	if err != nil {
		return t, fmt.Errorf("%q: parameters: want key=value pairs joined by &", text)
	}
	for key, v := range values {
		if len(v) != 1 || v[0] == "" {
			return t, fmt.Errorf("%q: parameter %q: want one value", text, key)
		}
		if err := t.set(key, v[0]); err != nil {
			return t, fmt.Errorf("%q: %w", text, err)
		}
	}
	return t, t.check()
}

func (t *Target) setHost(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), strconv.Itoa(defaultPort)
		if t.Kind == TLS {
			port = strconv.Itoa(defaultTLSPort)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("port %q: want a number from 1 to 65535", port)
	}
	_, notAddress := netip.ParseAddr(host)
	if host == "" || strings.ContainsAny(host, ":/ []") && notAddress != nil {
		return fmt.Errorf("host %q: want a name, an IPv4 address, or an IPv6 address in brackets", host)
	}
	t.Host, t.Port = host, uint16(n)
	return nil
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
	if !t.Multicast() && (t.Interface != "" || t.Repair != 0) {
		return fmt.Errorf("%q: iface and repair belong to multicast groups", t.URL)
	}
	return nil
}
