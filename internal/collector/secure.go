package collector

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/pcapper/pcapper/internal/host/certs"
)

// certs determines the files from the host's line and the command line, and reads them
// once, so that errors are reported before anything runs. For the plain feed there are
// none.
func (h *Host) certs(global certs.Files) (f certs.Files, err error) {
	if h.TLS == nil {
		return f, nil
	}
	f = h.TLS.Files
	for _, s := range []struct {
		value       *string
		global      string
		option, key string
	}{
		{&f.Cert, global.Cert, "-tls-cert", "cert"}, {&f.Key, global.Key, "-tls-key", "key"}, {&f.CA, global.CA, "-tls-ca", "ca"},
	} {
		if *s.value == "" {
			*s.value = s.global
		}
		if *s.value == "" {
			return f, fmt.Errorf("%s: %s:// takes a certificate, a key and an authority: give %s FILE, or %s=FILE behind the address and a question mark",
				h.place(), h.scheme(), s.option, s.key)
		}
	}
	if _, err := f.Load(); err != nil {
		return f, fmt.Errorf("%s: %w", h.place(), err)
	}
	return f, nil
}

// place names the host, and its line if it comes from a file.
func (h *Host) place() string {
	if h.Line == 0 {
		return h.String()
	}
	return fmt.Sprintf("line %d: %v", h.Line, h)
}

// tlsConfig reads the files for each connection, so that certificates can be replaced
// while the collector runs.
func (h *Host) tlsConfig(f certs.Files) (*tls.Config, error) {
	pair, err := f.Load()
	if err != nil {
		return nil, err
	}
	name := h.TLS.Name
	if name == "" {
		name, _, _ = strings.Cut(h.Name, "%") // certificates do not contain zones
	}
	return pair.Client(name), nil
}
