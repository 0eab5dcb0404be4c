package option

import (
	"fmt"
	"net/netip"
	"strings"
)

// Networks parses networks and single addresses, separated by commas:
// 10.0.0.0/8,192.168.1.7,fd00::/8.
func Networks(list string) (networks []netip.Prefix, err error) {
	for text := range strings.SplitSeq(list, ",") {
		if text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if a, aerr := netip.ParseAddr(text); aerr == nil && a.Zone() == "" {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%q: want networks such as 10.0.0.0/8 or fd00::/8, or addresses, separated by commas", text)
		}
		networks = append(networks, p.Masked())
	}
	return networks, nil
}
