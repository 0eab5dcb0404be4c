// Package export sends records to collectors of IPFIX that do not dial us:
// by UDP, also to multicast groups, by TCP and TLS, and into files. Each
// export reads the agent's stream for itself and delays nobody; what it is too
// slow for it loses, and counts.
package export

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// Kind is how an export goes out.
type Kind string

// The kinds that this package sends. A kind of another package is what its file says.
const (
	UDP  Kind = "udp"  // unicast or multicast
	TCP  Kind = "tcp"  // we dial
	TLS  Kind = "tls"  // TCP with certificates of both sides
	File Kind = "file" // in the format of RFC 5655: messages one after the other
	NATS Kind = "nats" // batches instead of IPFIX, to a bus; package publish sends them
)

// Outputs are what -export knows: each registers itself, in a file of its own.
var Outputs output.Registry[Target]

func init() {
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"clickhouse+http", "clickhouse+https", "kafka", "kafka+tls", "parquet"}, Form: "clickhouse+http://, kafka://, parquet:",
		Help: "databases, topics, and Parquet files", Elsewhere: "recollect -export has them",
	})
}

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

const (
	defaultPort    = 4739 // IANA's ipfix
	defaultTLSPort = 4740 // IANA's ipfixs
)

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
	switch t.Kind {
	case UDP, TCP, TLS:
		return "ipfix+" + string(t.Kind) + "-" + t.address()
	case File:
		return t.Path
	}
	return t.receiver
}

// address is for dialling.
func (t *Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Parse reads an export's URL. Errors do not repeat it.
func Parse(text string) (Target, error) { return Outputs.New(text) }

// per is a parameter of every kind.
func (t *Target) per() option.Param {
	return option.Switch("per", "a record of each packet, or of each flow and second", &t.PerSecond, "packet", "1s")
}

// parseIPFIX reads ipfix+KIND://HOST[:PORT].
func parseIPFIX(kind Kind, usual uint16, text string) (t Target, err error) {
	t = Target{URL: text, Kind: kind, Payload: ipfix.MaxDatagram, Rate: defaultRate}
	if err := t.setServer(text, usual); err != nil {
		return t, err
	}
	t.PerSecond = t.Multicast()
	_, _, query := option.CutURL(text)
	if err := t.params().Parse(query); err != nil {
		return t, err
	}
	if t.mtu != 0 {
		t.Payload, t.mtu = t.mtu-headers, 0
	}
	return t, t.check()
}

// params are what the URL may have.
func (t *Target) params() option.Params {
	switch t.Kind {
	case UDP:
		return t.udpParams()
	case TLS:
		return t.tlsParams()
	}
	return option.Params{t.per()}
}

func (t *Target) setServer(text string, usual uint16) error {
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
	t.Host, t.Port = s.Host, cmp.Or(s.Port, usual)
	return nil
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

// Ready returns what is missing for the export to work, as far as this host is concerned,
// or nil. An interface may come later; a directory should not: an agent that has given up
// its privileges may not write in it.
func (t *Target) Ready() error {
	if t.Kind == File {
		return t.readyFile()
	}
	_, err := t.out()
	return err
}
