//go:build !libpcap

package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

func TestCertCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, "10.77.0.1"); code != 0 || strings.Count(out, "\n") != 6 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"-h", 0, "Usage: pcapper cert"},
		{"", 12, "by which names or addresses is the agent dialled?"},
		{"-days 0 h", 12, "-days 0"},
		{"-name ca h", 12, `-name "ca"`},
		{"-x", 12, "hint: pcapper cert -h"},
		{"-dir " + dir + " 10.77.0.1", 1, "-force replaces it"},
		{"-dir " + dir + " -force 10.77.0.1", 0, "agent.pem"},
		{"-dir " + dir + " -name n2 n2.example", 0, "n2-key.pem"},
		{"-dir " + dir + " -collector -name c2", 0, "c2.pem"},
	} {
		out, code := pcapperCert(t, strings.Fields(tt.args)...)
		if code != tt.code || !strings.Contains(out, tt.says) {
			t.Errorf("%q: exit code %d, want %d:\n%s", tt.args, code, tt.code, out)
		}
	}
}

// TestTLSFeed: the whole way with certificates of "pcapper cert": agent,
// recollect by both feeds, a new certificate by SIGHUP, and nothing on a plain port.
func TestTLSFeed(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	if out, code := pcapperCert(t, "-dir", dir, a.Interface.IPv4.String()); code != 0 {
		t.Fatal(out)
	}
	p := launch(t, a, append([]string{"-p", "0", "-ipfix-tls-port", "4740", "-listen", a.Interface.IPv4.String(), "-m", "tcp or udp"}, certArgs(dir)...)...)
	p.await("listening on TLS port 7443 on "+a.Interface.IPv4.String(), 1)
	if conn, err := a.Dial("tcp", "127.0.0.1:7443"); err == nil {
		conn.Close()
		t.Error("it listens on loopback, too, in spite of -listen")
	}
	if strings.Contains(p.said(), "open to anyone") {
		t.Error("it warns of a plain feed")
	}

	files := certs.Files{Cert: dir + "/collector.pem", Key: dir + "/collector-key.pem", CA: dir + "/ca.pem"}
	pair, err := files.Load()
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		raw, err := b.Dial("tcp", net.JoinHostPort(a.Interface.IPv4.String(), "7443"))
		if err != nil {
			t.Fatal(err)
		}
		conn := tls.Client(raw, pair.Client(a.Interface.IPv4.String()))
		defer conn.Close()
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	if out, code := pcapperCert(t, "-dir", dir, "-force", a.Interface.IPv4.String()); code != 0 {
		t.Fatal(out)
	}
	p.signal(syscall.SIGHUP)
	p.await("certificates read again", 1)
	if serial() == first {
		t.Error("after SIGHUP it shows the old certificate")
	}
	if err := os.WriteFile(dir+"/agent.pem", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.await("going on with the certificates as they were", 1)

	conf := filepath.Join(dir, "collector.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "a:tls://%[1]s:7443\ni:ipfix+tls://%[1]s:4740\n", a.Interface.IPv4), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := recollect(t)
	var out, said bytes.Buffer
	r := b.Command(t.Context(), bin, "-c", conf, "-tls-cert", files.Cert, "-tls-key", files.Key, "-tls-ca", files.CA)
	r.Stdout, r.Stderr = &out, &said
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	p.await(`attached (bulk, TLS as "collector")`, 1)
	p.await(`attached (ipfix, TLS as "collector")`, 1)
	frame := nettest.Between(a, b, 1000, 2000, []byte("x"))
	send(t, a, 1000, 20000, frame.Ethernet())
	p.stop()
	r.Process.Signal(syscall.SIGINT)
	r.Wait()
	if n, m := strings.Count(out.String(), ":a:X:"), strings.Count(out.String(), ":i:X:"); n != 1000 || m != 1000 {
		t.Errorf("%d lines, and %d by IPFIX; want 1000 and none of the feed's own packets; recollect said:\n%s", n, m, said.String())
	}
}

func TestUnusableCertificates(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	dir := t.TempDir()
	p := launch(t, a, certArgs(dir)...)
	if code := p.wait(); code != 9 || !strings.Contains(p.said(), "agent.pem") || !strings.Contains(p.said(), `hint: "pcapper cert" makes`) {
		t.Errorf("exit code %d:\n%s", code, p.said())
	}
	p = launch(t, a, "-listen", "192.0.2.1")
	if code := p.wait(); code != 2 || !strings.Contains(p.said(), "-listen takes an address that this host has now") {
		t.Errorf("exit code %d:\n%s", code, p.said())
	}
}
