// Package export sends records to IPFIX collectors that do not connect to the agent:
// over UDP, including multicast, over TCP and TLS, and to files. Each export reads the
// agent's stream independently and delays no other; what it is too slow for is lost,
// and counted.
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

// Kind is the transport of an export.
type Kind string

// The kinds implemented by this package. Other packages define further kinds.
const (
	UDP  Kind = "udp"  // unicast or multicast
	TCP  Kind = "tcp"  // the agent connects
	TLS  Kind = "tls"  // TCP with certificates on both sides
	File Kind = "file" // in the format of RFC 5655: a sequence of messages
	NATS Kind = "nats" // batches instead of IPFIX, sent to a bus by package publish
)

// Outputs is the registry of outputs for -export. Each output registers itself, in a
// file of its own.
var Outputs output.Registry[Target]

func init() {
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"clickhouse+http", "clickhouse+https", "kafka", "kafka+tls", "parquet"}, Form: "clickhouse+http://, kafka://, parquet:",
		Help: "databases, topics, and Parquet files", Elsewhere: "recollect -export has them",
	})
}

// Target is a parsed export URL.
type Target struct {
	URL  string // as given, but without passwords
	Kind Kind
	Host string // a name or an address, without brackets; valid unless Kind is File or NATS
	Port uint16 // likewise
	Path string // valid iff Kind is File
	// PerSecond means one record per flow and second instead of one per packet.
	PerSecond bool

	// For UDP only.
	Interface string // to send multicast from; "" uses the route's
	TTL       int    // or hop limit; 0 means 1 for multicast and the system's default for unicast
	Payload   int    // maximum bytes in a message
	mtu       int    // the parameter mtu, which sets Payload
	Rate      int64  // maximum bits per second, including UDP and IP headers
	Repair    uint16 // TCP port where multicast receivers can request repairs; 0 disables it

	// For TLS only.
	Cert, Key, CA string
	// Name is, with TLS, the name that the certificate must be valid for, "" for the
	// host; with NATS, the name of the records' agent, "" for the host name.
	Name string
	// Bus is the URL in the form that package bus parses. For NATS only.
	Bus      string
	receiver string // for NATS only
}

const (
	defaultPort    = 4739 // IANA's ipfix
	defaultTLSPort = 4740 // IANA's ipfixs
)

// Multicast reports whether the target is a multicast group.
func (t *Target) Multicast() bool {
	a, err := netip.ParseAddr(t.Host)
	return err == nil && a.IsMulticast()
}

// Spools reports whether records for the target can wait in a Spool. That requires a
// transport that confirms what has arrived.
func (t *Target) Spools() bool { return t.Kind == TCP || t.Kind == TLS || t.Kind == NATS }

// Receiver returns a name for the destination that does not depend on parameters.
func (t *Target) Receiver() string {
	switch t.Kind {
	case UDP, TCP, TLS:
		return "ipfix+" + string(t.Kind) + "-" + t.address()
	case File:
		return t.Path
	}
	return t.receiver
}

// address returns the address to connect to.
func (t *Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// Parse parses an export URL. Its errors do not contain the URL, which may have a
// password.
func Parse(text string) (Target, error) { return Outputs.New(text) }

// per is a parameter of all kinds.
func (t *Target) per() option.Param {
	return option.Switch("per", "a record of each packet, or of each flow and second", &t.PerSecond, "packet", "1s")
}

// parseIPFIX parses ipfix+KIND://HOST[:PORT].
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

// params returns the parameters that the URL may have.
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

// check validates combinations of parameters.
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

// Ready returns an error if something that the export needs is missing on this host, or
// nil. An interface may appear later, but a directory must exist: an agent that has
// dropped its privileges may be unable to create files in a new one.
func (t *Target) Ready() error {
	if t.Kind == File {
		return t.readyFile()
	}
	_, err := t.out()
	return err
}
