package collector

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
)

// TestHostTLS: whose files are used, and for which name.
func TestHostTLS(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"c", "d"} {
		if _, err := certs.Make(certs.Request{Dir: dir, Name: name, Client: true, Valid: time.Hour}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	global := certs.Files{Cert: path("c.pem"), Key: path("c-key.pem"), CA: path("ca.pem")}
	for _, tt := range []struct {
		line, common, server string
	}{
		{"a:tls://n3.example:7443", "c", "n3.example"},
		{"a:tls://10.0.0.3:7443?name=n3", "c", "n3"},
		{"a:tls://[fe80::1%eth0]:7443", "c", "fe80::1"},
		{"a:tls://10.0.0.3:7443?cert=" + path("d.pem") + "&key=" + path("d-key.pem"), "d", "10.0.0.3"},
	} {
		file := Parse("x.conf", []byte(tt.line))
		host := &file.Hosts[0]
		files, err := host.certs(global)
		if err != nil {
			t.Fatalf("%s: %v", tt.line, err)
		}
		cfg, err := host.tlsConfig(files)
		if err != nil {
			t.Fatalf("%s: %v", tt.line, err)
		}
		if got := cfg.Certificates[0].Leaf.Subject.CommonName; got != tt.common || cfg.ServerName != tt.server {
			t.Errorf("%s: certificate %q for %q, want %q for %q", tt.line, got, cfg.ServerName, tt.common, tt.server)
		}
	}
	file := Parse("x.conf", []byte("a:tls://10.0.0.3:7443?key="+path("d-key.pem")))
	if _, err := file.Hosts[0].certs(global); err == nil || !strings.Contains(err.Error(), "line 1: ") {
		t.Errorf("a key of another certificate: %v", err)
	}
	file = Parse("x.conf", []byte("a:10.0.0.3:7073"))
	if files, err := file.Hosts[0].certs(certs.Files{}); err != nil || files.Any() {
		t.Errorf("a plain feed needs files: %v, %v", files, err)
	}
}
