package export

import (
	"errors"
	"fmt"
	"net"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/internal/transport/output"
)

const (
	defaultRate = 1_000_000_000
	// minRate is one full datagram in slightly more than half a second.
	minRate = 16_000
	minMTU  = 1280
	maxMTU  = 65535
	// headers is the length of the IPv6 and UDP headers; IPv4's are shorter.
	headers = 40 + 8
)

func init() {
	Outputs.Register(output.Kind[Target]{
		Schemes: []string{"ipfix+udp"}, Form: "ipfix+udp://HOST[:PORT]",
		Help:   "IPFIX in datagrams, to a collector or a multicast group (port 4739)",
		Params: new(Target).udpParams(),
		New:    func(url string) (Target, error) { return parseIPFIX(UDP, defaultPort, url) },
	})
}

func (t *Target) udpParams() option.Params {
	return option.Params{
		t.per(),
		option.Text("iface", "NAME", "interface to send multicast from", &t.Interface),
		option.Number("ttl", "how many hops datagrams may go", &t.TTL, 1, 255),
		option.Number("mtu", "most bytes of a packet (1280)", &t.mtu, minMTU, maxMTU),
		option.Func("rate", "RATE", "most bits per second (1G)", t.setRate),
		option.Number("repair", "TCP port where receivers of multicast ask again", &t.Repair, 1, 65535),
	}
}

func (t *Target) setRate(text string) (err error) {
	if t.Rate, err = option.ParseRate(text); err != nil || t.Rate < minRate {
		return errors.New("want bits per second such as 500k, 20M or 1G, at least 16k")
	}
	return nil
}

// out returns the interface to send multicast from, or nil for the route's.
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
