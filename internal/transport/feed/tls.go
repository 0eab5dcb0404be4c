package feed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// handshake performs the agent's side of the handshake. It returns the session and the
// common name of the collector's certificate, or an errTLS that says what the collector
// did wrong.
func handshake(ctx context.Context, conn *net.TCPConn, cfg *tls.Config) (*tls.Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	session := tls.Server(conn, cfg)
	if err := session.HandshakeContext(ctx); err != nil {
		return nil, "", tlsError("%s", serverSide(err))
	}
	return session, session.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// serverSide describes a failed handshake to the agent's user.
func serverSide(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no handshake within %v", handshakeTime)
	}
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate " + certificateFault(bad, "-tls-client-ca")
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok && header.Conn != nil {
		return "it does not speak TLS; is it meant for the plain feed?"
	}
	if alert := remoteAlert(err); alert != "" {
		return "it refused our certificate, and knows why: " + alert
	}
	text := err.Error()
	switch {
	case strings.Contains(text, "didn't provide a certificate"):
		return "it showed no certificate"
	case strings.Contains(text, "unsupported versions"):
		return "it does not know TLS 1.3"
	case gone(err):
		return "it closed the connection during the handshake"
	}
	return text
}

func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// certificateFault describes what is wrong with the other side's certificate.
// authorities is the option that names the trusted authorities.
func certificateFault(bad *tls.CertificateVerificationError, authorities string) string {
	name := ""
	var leaf *x509.Certificate
	if len(bad.UnverifiedCertificates) > 0 {
		leaf = bad.UnverifiedCertificates[0]
		name = fmt.Sprintf("%q ", leaf.Subject.CommonName)
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](bad.Err); ok && invalid.Cert != nil {
		switch invalid.Reason {
		case x509.Expired:
			if time.Now().Before(invalid.Cert.NotBefore) {
				return name + "is not valid before " + stamp(invalid.Cert.NotBefore) + "; is a clock wrong?"
			}
			return name + "expired on " + stamp(invalid.Cert.NotAfter)
		case x509.IncompatibleUsage:
			return name + "is not for this side of a connection (its extended key usage says so)"
		}
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](bad.Err); ok {
		return name + "is from none of the authorities of " + authorities
	}
	if host, ok := errors.AsType[x509.HostnameError](bad.Err); ok {
		return fmt.Sprintf("%sis not for %q but for %s", name, host.Host, names(leaf))
	}
	return name + "is not good: " + bad.Err.Error()
}

// names returns the names that a certificate is valid for.
func names(c *x509.Certificate) string {
	if c == nil {
		return "others"
	}
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return "no host at all"
	}
	return strings.Join(list, ", ")
}

func stamp(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }

// remoteAlert returns the alert (RFC 8446, section 6) sent by the other side, or "".
// Package crypto/tls has no type for it.
func remoteAlert(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

// clientSide describes a failed handshake, or a connection that ended right after it,
// to the collector's user.
func clientSide(err error) string {
	if bad, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the agent's certificate " + certificateFault(bad, "-tls-ca")
	}
	if header, ok := errors.AsType[tls.RecordHeaderError](err); ok && header.Conn != nil {
		return "that port does not speak TLS; the plain feed needs no tls://"
	}
	switch alert := remoteAlert(err); alert {
	case "":
	case "unknown certificate authority":
		return "the agent refuses our certificate: it is from none of the authorities of its -tls-client-ca"
	case "expired certificate":
		return "the agent refuses our certificate: it is not valid now, by the agent's clock"
	case "certificate required":
		return "the agent wants a certificate (-tls-cert)"
	case "bad certificate", "unsupported certificate", "revoked certificate", "unknown certificate":
		return "the agent refuses our certificate: " + alert + "; its messages say why"
	default:
		return "the agent refuses: " + alert
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "no answer to the handshake; is that the plain feed? It needs no tls://"
	}
	if gone(err) {
		return "the agent closed the connection during the handshake; does it let this host in (-allow, -max-per-source)?"
	}
	return err.Error()
}
