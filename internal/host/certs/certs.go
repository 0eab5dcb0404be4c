// Package certs handles the identities of both ends of a feed: it reads certificate,
// key, and authority files into TLS configurations, reloads them when they change, and
// creates a small private authority (Make).
//
// Both ends of a feed present a certificate, and TLS 1.3 is the minimum version.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the paths of PEM files.
type Files struct {
	Cert string // our certificate, followed by any intermediate ones
	Key  string // its private key
	CA   string // certificates of the authorities that must have signed the other side's
}

// Any reports whether any file is named.
func (f Files) Any() bool { return f.Cert != "" || f.Key != "" || f.CA != "" }

// Pair holds the contents of Files at the time they were read.
type Pair struct {
	Cert tls.Certificate
	CAs  *x509.CertPool
}

// Load reads the files. Its errors name the file and what is wrong with it.
func (f Files) Load() (*Pair, error) {
	certPEM, err := read("certificate", f.Cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := read("key", f.Key)
	if err != nil {
		return nil, err
	}
	p := &Pair{}
	if p.CAs, err = Authorities(f.CA); err != nil {
		return nil, err
	}
	if p.Cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("certificate %q with key %q: %w", f.Cert, f.Key, err)
	}
	if p.Cert.Leaf == nil { // GODEBUG=x509keypairleaf=0
		if p.Cert.Leaf, err = x509.ParseCertificate(p.Cert.Certificate[0]); err != nil {
			return nil, fmt.Errorf("certificate %q: %w", f.Cert, err)
		}
	}
	return p, nil
}

// Authorities reads the certificates of authorities from a PEM file.
func Authorities(file string) (*x509.CertPool, error) {
	text, err := read("authority", file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("authority %q: no certificate in it%s", file, pemHint(text))
	}
	return pool, nil
}

func read(what, name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, fmt.Errorf("%s %q: %w", what, name, err)
	}
	return b, nil
}

// pemHint describes the contents of a file without certificates.
func pemHint(b []byte) string {
	if block, _ := pem.Decode(b); block != nil {
		return fmt.Sprintf(", but a %s", block.Type)
	}
	return ": want PEM"
}

// Validity returns why the certificate is not valid at a time, or "".
func (p *Pair) Validity(now time.Time) string {
	leaf := p.Cert.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return "expired on " + leaf.NotAfter.UTC().Format(time.DateTime) + " UTC"
	case now.Before(leaf.NotBefore):
		return "not valid before " + leaf.NotBefore.UTC().Format(time.DateTime) + " UTC"
	}
	return ""
}

// Client returns the configuration for connecting to a server with this name: a host
// name or an IP address, for which the server's certificate must be valid.
func (p *Pair) Client(name string) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{p.Cert},
		RootCAs:      p.CAs,
		ServerName:   name,
	}
}

// server returns the configuration of the listening side. There are no session tickets,
// so each connection is checked against the current files.
func (p *Pair) server() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{p.Cert},
		ClientCAs:              p.CAs,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
		// Feeds are sent in large writes; small TLS records cost a call each.
		DynamicRecordSizingDisabled: true,
	}
}

// Server holds the listening side's files, as they were last read without error.
type Server struct {
	files Files
	now   atomic.Pointer[Pair]
}

// NewServer reads the files for the first time.
func NewServer(f Files) (*Server, error) {
	s := &Server{files: f}
	return s, s.Reload()
}

// Reload reads the files again. On an error, the previous contents stay in use.
// Existing connections continue.
func (s *Server) Reload() error {
	p, err := s.files.Load()
	if err != nil {
		return err
	}
	s.now.Store(p)
	return nil
}

// Pair returns the contents in use.
func (s *Server) Pair() *Pair { return s.now.Load() }

// Config returns the configuration for a listener: every handshake uses the latest
// contents.
func (s *Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.now.Load().server(), nil
		},
	}
}

// Page returns the configuration of a web server with a certificate and key. The files
// are reloaded when they change; if the new ones are invalid, the previous ones stay in
// use.
func Page(certFile, keyFile string) (*tls.Config, error) {
	p := &page{cert: certFile, key: keyFile}
	if err := p.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // for older browsers
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return p.current(), nil
		},
	}, nil
}

// page is a certificate that is reloaded when its files change.
type page struct {
	cert, key string

	mu      sync.Mutex
	looked  time.Time // when the files were last checked
	changed [2]time.Time
	now     *tls.Certificate
}

// lookEvery is the interval at which the files are checked for changes.
const lookEvery = time.Second

func (p *page) current() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.looked) >= lookEvery {
		_ = p.load() // on an error the previous one stays
	}
	return p.now
}

func (p *page) load() error {
	p.looked = time.Now()
	var changed [2]time.Time
	for i, name := range []string{p.cert, p.key} {
		if st, err := os.Stat(name); err == nil {
			changed[i] = st.ModTime()
		}
	}
	if p.now != nil && changed == p.changed {
		return nil
	}
	certPEM, err := read("certificate", p.cert)
	if err != nil {
		return err
	}
	keyPEM, err := read("key", p.key)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fmt.Errorf("certificate %q with key %q: %w", p.cert, p.key, err)
	}
	p.now, p.changed = &pair, changed
	return nil
}
