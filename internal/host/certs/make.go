package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Request describes the certificate to create.
type Request struct {
	Dir    string        // target directory, created if necessary
	Name   string        // of the certificate and its files
	Hosts  []string      // names and IP addresses by which collectors connect to the agent
	Client bool          // for a collector instead of an agent
	Valid  time.Duration // period of validity from now on
	Force  bool          // replace an existing certificate
}

// names of the authority's files, and the ending of a key's.
const (
	caName    = "ca"
	certEnd   = ".pem"
	keyEnd    = "-key.pem"
	caValid   = 10 * 365 * 24 * time.Hour
	clockSlop = time.Hour // hosts' clocks differ
)

// authority is a certificate that signs others.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Make creates a certificate and its key in PEM files, signed by the authority in the
// same directory, which it also creates if there is none. It returns the paths of the
// files that it wrote.
func Make(r Request, now time.Time) (wrote []string, err error) {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return nil, err
	}
	ca, wrote, err := openAuthority(r.Dir, now)
	if err != nil {
		return wrote, err
	}
	certFile, keyFile := filepath.Join(r.Dir, r.Name+certEnd), filepath.Join(r.Dir, r.Name+keyEnd)
	if r.Name == caName {
		return wrote, errors.New(`the name "ca" is the authority's`)
	}
	if _, err := os.Lstat(certFile); err == nil && !r.Force {
		return wrote, fmt.Errorf("%q: %w", certFile, fs.ErrExist)
	}
	t := template(r.Name, now, r.Valid)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if r.Client {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	for _, h := range r.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return wrote, err
	}
	if err := write(certFile, keyFile, t, ca.cert, key, ca.key); err != nil {
		return wrote, err
	}
	return append(wrote, certFile, keyFile), nil
}

// openAuthority reads the directory's authority, or creates it.
func openAuthority(dir string, now time.Time) (ca authority, wrote []string, err error) {
	certFile, keyFile := filepath.Join(dir, caName+certEnd), filepath.Join(dir, caName+keyEnd)
	ca, err = readAuthority(certFile, keyFile)
	if !errors.Is(err, fs.ErrNotExist) {
		return ca, nil, err
	}
	if _, err := os.Lstat(certFile); err == nil {
		return ca, nil, fmt.Errorf("%q is there without its key %q: certificates are made where the key is", certFile, keyFile)
	}
	host, _ := os.Hostname()
	t := template("PCapper authority of "+host, now, caValid)
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if ca.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return ca, nil, err
	}
	if err := write(certFile, keyFile, t, t, ca.key, ca.key); err != nil {
		return ca, nil, err
	}
	ca, err = readAuthority(certFile, keyFile)
	return ca, []string{certFile, keyFile}, err
}

func readAuthority(certFile, keyFile string) (ca authority, err error) {
	keyDER, err := readPEM(keyFile)
	if err != nil {
		return ca, err
	}
	certDER, err := readPEM(certFile)
	if err != nil {
		return ca, err
	}
	if ca.cert, err = x509.ParseCertificate(certDER); err != nil {
		return ca, fmt.Errorf("%q: %w", certFile, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return ca, fmt.Errorf("%q: %w", keyFile, err)
	}
	var ok bool
	if ca.key, ok = parsed.(*ecdsa.PrivateKey); !ok || !ca.key.PublicKey.Equal(ca.cert.PublicKey) {
		return ca, fmt.Errorf("%q is not the key of %q", keyFile, certFile)
	}
	return ca, nil
}

func readPEM(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%q: want PEM", name)
	}
	return block.Bytes, nil
}

func template(name string, now time.Time, valid time.Duration) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name}, // the serial number is random
		NotBefore: now.Add(-clockSlop), NotAfter: now.Add(valid),
	}
}

// write signs t and writes it and its key to files: the key first, so that there is
// never a certificate file without its key.
func write(certFile, keyFile string, t, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := replace(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return replace(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// replace writes a file atomically: concurrent readers see the old or the new one.
func replace(name string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
