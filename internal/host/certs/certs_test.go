package certs

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func files(dir, name string) Files {
	return Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+"-key.pem"), CA: filepath.Join(dir, "ca.pem")}
}

func mustMake(t *testing.T, r Request, now time.Time) {
	t.Helper()
	if _, err := Make(r, now); err != nil {
		t.Fatal(err)
	}
}

// handshake tells what both sides think of each other.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		a.Close()
		done <- err
	}()
	c := tls.Client(b, client)
	_, clientErr = c.Read(make([]byte, 1))
	b.Close()
	return <-done, clientErr
}

func TestMadeCertificatesFitTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	now := time.Now()
	wrote, err := Make(Request{Dir: dir, Name: "n1", Hosts: []string{"10.0.0.3", "n1.example", "2001:db8::1"}, Valid: time.Hour}, now)
	if err != nil || len(wrote) != 4 {
		t.Fatalf("wrote %q: %v", wrote, err)
	}
	for _, name := range wrote {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		want := fs.FileMode(0o644)
		if strings.HasSuffix(name, "-key.pem") {
			want = 0o600
		}
		if st.Mode() != want {
			t.Errorf("%s: mode %v, want %v", name, st.Mode(), want)
		}
	}
	mustMake(t, Request{Dir: dir, Name: "c", Client: true, Valid: time.Hour}, now)
	server, err := NewServer(files(dir, "n1"))
	if err != nil {
		t.Fatal(err)
	}
	client, err := files(dir, "c").Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"10.0.0.3": true, "n1.example": true, "2001:db8::1": true, "10.0.0.4": false, "n2.example": false} {
		serverErr, clientErr := handshake(t, server.Config(), client.Client(name))
		if (clientErr == nil) != good || good && serverErr != nil {
			t.Errorf("%s: %v, %v", name, serverErr, clientErr)
		}
	}
	if _, err := Make(Request{Dir: dir, Name: "n1", Valid: time.Hour}, now); !errors.Is(err, fs.ErrExist) {
		t.Errorf("an existing certificate: %v", err)
	}
	mustMake(t, Request{Dir: dir, Name: "n1", Valid: time.Hour, Force: true}, now)
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	mustMake(t, Request{Dir: dir, Name: "a", Hosts: []string{"old.example"}, Valid: time.Hour}, now)
	mustMake(t, Request{Dir: dir, Name: "c", Client: true, Valid: time.Hour}, now)
	server, err := NewServer(files(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	listening := server.Config() // before the change, as a listener has it
	client, err := files(dir, "c").Load()
	if err != nil {
		t.Fatal(err)
	}
	mustMake(t, Request{Dir: dir, Name: "a", Hosts: []string{"new.example"}, Valid: time.Hour, Force: true}, now)
	if _, err := handshake(t, listening, client.Client("new.example")); err == nil {
		t.Error("the new certificate is used before Reload")
	}
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := handshake(t, listening, client.Client("new.example")); err != nil {
		t.Errorf("after Reload: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.pem"), []byte("half a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := server.Reload(); err == nil || !strings.Contains(err.Error(), "a.pem") {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := handshake(t, listening, client.Client("new.example")); err != nil {
		t.Errorf("after a Reload that failed: %v", err)
	}
}

func TestErrorsNameTheFile(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	now := time.Now()
	mustMake(t, Request{Dir: dir, Name: "a", Valid: time.Hour}, now)
	mustMake(t, Request{Dir: other, Name: "b", Valid: time.Hour}, now)
	good := files(dir, "a")
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*Files)
		want   string
	}{
		{func(f *Files) { f.Cert = "no.pem" }, `certificate "no.pem": no such file`},
		{func(f *Files) { f.Key = "no.pem" }, `key "no.pem": no such file`},
		{func(f *Files) { f.CA = "no.pem" }, `authority "no.pem": no such file`},
		{func(f *Files) { f.Cert = junk }, `certificate "` + junk},
		{func(f *Files) { f.CA = junk }, `authority "` + junk + `": no certificate in it: want PEM`},
		{func(f *Files) { f.CA = f.Key }, `no certificate in it, but a PRIVATE KEY`},
		{func(f *Files) { f.Key = files(other, "b").Key }, "private key does not match public key"},
	} {
		f := good
		tt.change(&f)
		if _, err := f.Load(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %s", err, tt.want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "ca-key.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(Request{Dir: dir, Name: "z", Valid: time.Hour}, now); err == nil || !strings.Contains(err.Error(), "without its key") {
		t.Errorf("an authority without its key: %v", err)
	}
	if _, err := Make(Request{Dir: other, Name: "ca", Valid: time.Hour}, now); err == nil {
		t.Error("the authority can be overwritten")
	}
}

func TestValidity(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	mustMake(t, Request{Dir: dir, Name: "a", Valid: time.Hour}, now)
	p, err := files(dir, "a").Load()
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]string{0: "", 2 * time.Hour: "expired on ", -2 * time.Hour: "not valid before "} {
		if got := p.Validity(now.Add(after)); !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%v later: %q, want %q", after, got, want)
		}
	}
}

// TestPage: a web server's certificate follows its file, and a broken one does
// no harm.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	mustMake(t, Request{Dir: dir, Name: "p", Hosts: []string{"old.example"}, Valid: time.Hour}, now)
	cfg, err := Page(files(dir, "p").Cert, files(dir, "p").Key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := files(dir, "p").Load()
	if err != nil {
		t.Fatal(err)
	}
	good := func(name string) bool {
		_, err := handshake(t, cfg, client.Client(name))
		return err == nil
	}
	if !good("old.example") {
		t.Error("the certificate is not used")
	}
	time.Sleep(lookEvery)
	mustMake(t, Request{Dir: dir, Name: "p", Hosts: []string{"new.example"}, Valid: time.Hour, Force: true}, now)
	if !good("new.example") {
		t.Error("the new certificate is not used")
	}
	time.Sleep(lookEvery)
	if err := os.WriteFile(files(dir, "p").Cert, []byte("half a file"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !good("new.example") {
		t.Error("a broken file ends it")
	}
	if _, err := Page(files(dir, "p").Cert, files(dir, "p").Key); err == nil || !strings.Contains(err.Error(), "p.pem") {
		t.Errorf("a broken file at the start: %v", err)
	}
}
