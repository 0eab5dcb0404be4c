package collector

import (
	"fmt"
	"net/netip"
	"strings"
)

// The ports of agents that are named without one.
var defaultPorts = map[string]string{"": "7073", "tls": "7443", "ipfix": "4739", "ipfix+tls": "4740"}

// ParseHosts makes agents of host[:port] or scheme://host[:port], as somebody
// types them. An IPv6 address takes brackets only in front of a port. Labels are
// the hosts' names, and their ports behind those where two are the same.
func ParseHosts(texts []string) (hosts []Host, err error) {
	labels, addresses := make(map[string]bool), make(map[string]string)
	for _, text := range texts {
		var h Host
		if err := h.parseSource(withPort(text)); err != nil {
			return nil, err
		}
		if h.From {
			return nil, wrong(text, "an agent that is not dialled", "it in a configuration, and -listen URL")
		}
		if other, twice := addresses[h.Address()]; twice {
			return nil, wrong(text, fmt.Sprintf("the same agent as %q", other), "each once")
		}
		h.Label = strings.NewReplacer(":", "-", "%", "-").Replace(h.Name)
		if labels[h.Label] {
			h.Label += fmt.Sprintf("-%d", h.Port)
		}
		labels[h.Label], addresses[h.Address()] = true, text
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// withPort adds the usual port if text has none.
func withPort(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	}
	address, query, _ := strings.Cut(rest, "?")
	port, known := defaultPorts[scheme]
	if !known {
		return text // an error, or no address
	}
	if a, err := netip.ParseAddr(address); err == nil && a.Is6() {
		address = "[" + address + "]"
	}
	if strings.HasSuffix(address, "]") || !strings.Contains(address, ":") {
		address += ":" + port
	}
	if scheme != "" {
		address = scheme + "://" + address
	}
	if query != "" {
		address += "?" + query
	}
	return address
}

// CheckAgents returns what is wrong with agents beside their lines: certificates
// that are missing or no good.
func CheckAgents(f *File, cfg *Config) (errs []error) {
	for i := range f.Hosts {
		if _, err := f.Hosts[i].certs(cfg.TLS); err != nil {
			errs = append(errs, err)
		}
	}
	for _, l := range cfg.Listen {
		if _, err := listenTLS(l, cfg.TLS); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}
