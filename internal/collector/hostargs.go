package collector

import (
	"fmt"
	"net/netip"
	"strings"
)

// defaultPorts are the ports of agents given without one, by scheme.
var defaultPorts = map[string]string{"": "7073", "tls": "7443", "ipfix": "4739", "ipfix+tls": "4740"}

// ParseHosts parses agents in the forms host[:port] and scheme://host[:port], as given
// on a command line. An IPv6 address needs brackets only before a port. Labels are the
// hosts' names, followed by their ports where two are the same.
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

// withPort adds the default port if text has none.
func withPort(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	}
	address, query, _ := strings.Cut(rest, "?")
	port, known := defaultPorts[scheme]
	if !known {
		return text // an error, or not an address
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

// CheckAgents returns problems with agents that are not in their lines: missing or
// invalid certificates.
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
