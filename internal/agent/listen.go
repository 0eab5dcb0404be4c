package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/feed"
)

// loadCerts loads the certificates for serving the feed over TLS. It returns nil
// if none are configured.
func loadCerts(files certs.Files, out *printer) (*certs.Server, error) {
	if !files.Any() {
		return nil, nil
	}
	s, err := certs.NewServer(files)
	if err != nil {
		return nil, fault.WithCode(ExitCerts, fault.WithHint(fmt.Errorf("TLS: %w", err), "\"pcapper cert\" makes certificates to try with"))
	}
	warnOfValidity(s, files, out)
	return s, nil
}

// warnOfValidity warns of a certificate that is not valid now. It may be once the
// clock is set, so this is not an error.
func warnOfValidity(s *certs.Server, files certs.Files, out *printer) {
	if why := s.Pair().Validity(time.Now()); why != "" {
		out.printf("warning: certificate %q: %s: collectors will refuse it", files.Cert, why)
	}
}

// reloadCerts answers SIGHUP. s may be nil.
func reloadCerts(s *certs.Server, files certs.Files, out *printer) {
	if s == nil {
		return
	}
	if err := s.Reload(); err != nil {
		out.printf("TLS: %v; going on with the certificates as they were", err)
		return
	}
	out.printf("TLS: certificates read again, for connections from now on")
	warnOfValidity(s, files, out)
}

// listen opens the ports that collectors connect to.
func (a *agent) listen() error {
	tlsPort := 0
	if a.fleet.certs != nil {
		tlsPort = a.cfg.TLSPort
	}
	for _, p := range []struct {
		port          int
		option        string // option that sets another port
		secure, ipfix bool
	}{
		{a.cfg.Port, "-p", false, false}, {tlsPort, "-tls-port", true, false},
		{a.cfg.IPFIXPort, "-ipfix-port", false, true}, {a.cfg.IPFIXTLSPort, "-ipfix-tls-port", true, true},
	} {
		if p.port == 0 {
			continue
		}
		ln, err := listen(a.cfg.Listen, p.port, p.option, a.watched.iface.Name)
		if err != nil {
			return err
		}
		l := feed.Listener{TCPListener: ln, IPFIX: p.ipfix}
		switch {
		case p.secure:
			l.TLS = a.fleet.certs.Config()
		case !p.ipfix:
			feed.LimitSegments(ln)
		}
		a.ports = append(a.ports, l)
	}
	return nil
}

// announcePorts reports which ports are open, and for whom.
func (a *agent) announcePorts() {
	where := "all addresses"
	if a.cfg.Listen.IsValid() {
		where = a.cfg.Listen.String()
	}
	log := fmt.Sprintf("; log %q while a collector is attached", a.cfg.Log)
	if a.fleet.certs != nil {
		a.out.printf("listening on TLS port %d on %s, for collectors with a certificate%s", a.cfg.TLSPort, where, log)
		log = ""
	}
	if a.cfg.Port != 0 {
		a.out.printf("listening on TCP port %d on %s%s", a.cfg.Port, where, log)
		log = ""
	}
	if a.cfg.IPFIXTLSPort != 0 {
		a.out.printf("serving IPFIX on TLS port %d on %s, for collectors with a certificate%s", a.cfg.IPFIXTLSPort, where, log)
		log = ""
	}
	if a.cfg.IPFIXPort != 0 {
		a.out.printf("serving IPFIX on TCP port %d on %s%s", a.cfg.IPFIXPort, where, log)
	}
	for _, x := range a.exports {
		x.announce()
	}
	switch {
	case len(a.cfg.Allow) > 0:
		networks := make([]string, len(a.cfg.Allow))
		for i, p := range a.cfg.Allow {
			networks[i] = p.String()
		}
		a.out.printf("collectors are accepted from %s only", strings.Join(networks, ", "))
	case a.cfg.Listen.IsLoopback(): // reachable from this host only
	case a.cfg.Port != 0 || a.cfg.IPFIXPort != 0:
		a.out.printf("the feed is open to anyone who can reach this port: it has no authentication")
	}
}

// listen opens a port on one address of this host, or on all. For the hint in its
// error, option is the flag that sets another port, and watched is the interface that
// the agent watches.
func listen(addr netip.Addr, port int, option, watched string) (*net.TCPListener, error) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: addr.AsSlice(), Port: port, Zone: addr.Zone()})
	if err == nil {
		return ln, nil
	}
	code := listenCode(err)
	err = fmt.Errorf("cannot listen on port %d: %w", port, err)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		h, known := findHolder(port)
		if known {
			err = fmt.Errorf("%w: %v has it", err, h)
		}
		err = fault.WithHint(err, h.hint(known, port, option, watched))
	case errors.Is(err, syscall.EACCES):
		err = fault.WithHint(err, "ports below 1024 need CAP_NET_BIND_SERVICE; "+option+" takes another port")
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		err = fault.WithHint(err, "-listen takes an address that this host has now; pcapper -D lists them")
	}
	return nil, fault.WithCode(code, err)
}

// listenCode returns the exit code for a port that cannot be opened.
func listenCode(err error) int {
	var call *os.SyscallError
	if errors.As(err, &call) {
		switch call.Syscall {
		case "socket":
			return ExitSocket
		case "bind":
			return ExitBind
		}
	}
	return ExitListen
}
