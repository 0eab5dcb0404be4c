package web

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// cheap hashes a password as fast as bcrypt can.
func cheap(t *testing.T, password string) []byte {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

func TestGuard(t *testing.T) {
	passed := 0
	inner := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed++ })
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	const token = "0123456789abcdef"
	users := map[string][]byte{"ann": cheap(t, "secret of ann")}
	for _, tt := range []struct {
		name          string
		access        Access
		path, header  string
		code          int
		asksBasic     bool
		asksForBearer bool
	}{
		{"no secrets", Access{}, "/", "", 200, false, false},
		{"nobody", Access{Users: users, Token: token}, "/", "", 401, true, true},
		{"health", Access{Users: users}, "/healthz", "", 200, false, false},
		{"not health", Access{Users: users}, "/healthz/../", "", 401, true, false},
		{"metrics", Access{Users: users}, "/metrics", "", 401, true, false},
		{"right password", Access{Users: users}, "/", basic("ann:secret of ann"), 200, false, false},
		{"wrong password", Access{Users: users}, "/", basic("ann:secret of bob"), 401, true, false},
		{"no password", Access{Users: users}, "/", basic("ann:"), 401, true, false},
		{"unknown user", Access{Users: users}, "/", basic("bob:secret of ann"), 401, true, false},
		{"the hash itself", Access{Users: users}, "/", basic("ann:" + string(users["ann"])), 401, true, false},
		{"right token", Access{Token: token}, "/", "Bearer " + token, 200, false, false},
		{"wrong token", Access{Token: token}, "/", "Bearer 0123456789abcdeF", 401, false, true},
		{"empty token", Access{Users: users}, "/", "Bearer ", 401, true, false},
		{"token as a password", Access{Token: token}, "/", basic("ann:" + token), 401, false, true},
		{"rubbish", Access{Users: users, Token: token}, "/", "Basic rubbish", 401, true, true},
	} {
		g := newGuard(tt.access, inner)
		for range 2 { // the second time from memory
			passed = 0
			r := httptest.NewRequest("GET", "http://localhost"+tt.path, nil)
			if tt.header != "" {
				r.Header.Set("Authorization", tt.header)
			}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			asks := strings.Join(w.Header().Values("WWW-Authenticate"), " ")
			if w.Code != tt.code || (passed == 1) != (tt.code == 200) || strings.Contains(asks, "Basic") != tt.asksBasic || strings.Contains(asks, "Bearer") != tt.asksForBearer {
				t.Errorf("%s: code %d, passed %d, asks %q", tt.name, w.Code, passed, asks)
			}
		}
	}
}

// TestGuessing: many who guess at once are put off, and one who knows gets in
// from memory all the while.
func TestGuessing(t *testing.T) {
	g := newGuard(Access{Users: map[string][]byte{"ann": cheap(t, "secret of ann")}}, http.NotFoundHandler()).(*guard)
	code := func(password string) int {
		r := httptest.NewRequest("GET", "http://localhost/", nil)
		r.SetBasicAuth("ann", password)
		return g.admit(r)
	}
	if code("secret of ann") != 200 {
		t.Fatal("the right password is refused")
	}
	g.checks <- struct{}{} // somebody's check takes for ever
	var wg sync.WaitGroup
	codes := make(chan int, 200)
	for range 200 {
		wg.Go(func() { codes <- code("guess") })
	}
	for range 200 - maxWaiting {
		if c := <-codes; c != http.StatusTooManyRequests {
			t.Errorf("code %d", c)
		}
	}
	if code("secret of ann") != 200 {
		t.Error("who is known is kept waiting")
	}
	<-g.checks
	wg.Wait()
}

func TestAccessFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		name := filepath.Join(dir, "f")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	line, err := UserLine("ann", []byte("secret of ann"))
	if err != nil {
		t.Fatal(err)
	}
	apache := strings.Replace(strings.Replace(line, "ann", "bob", 1), "$2a$", "$2y$", 1)
	users, err := ReadUsers(file("# who\n\n" + line + "\n" + apache + "\n"))
	if err != nil || len(users) != 2 || bcrypt.CompareHashAndPassword(users["bob"], []byte("secret of ann")) != nil {
		t.Errorf("%v, %v", users, err)
	}
	for _, text := range []string{"", "ann:secret\n", "ann\n", ":$2a$10$abc\n", "ann:{SHA}abc\n"} {
		if users, err := ReadUsers(file(text)); err == nil {
			t.Errorf("%q gives %v", text, users)
		}
	}
	if token, err := ReadToken(file("0123456789abcdef\nrest\n")); err != nil || token != "0123456789abcdef" {
		t.Errorf("%q, %v", token, err)
	}
	for _, text := range []string{"", "short\n", "0123456789 abcdef\n"} {
		if token, err := ReadToken(file(text)); err == nil {
			t.Errorf("%q gives %q", text, token)
		}
	}
	for _, tt := range [][2]string{{"", "secret of ann"}, {"a:b", "secret of ann"}, {"ann", "short"}, {"ann", ""}} {
		if line, err := UserLine(tt[0], []byte(tt[1])); err == nil {
			t.Errorf("%q gives %q", tt, line)
		}
	}
}

// TestElsewhereNeedsSecrets: nobody gets a page on a network by mistake.
func TestElsewhereNeedsSecrets(t *testing.T) {
	users := map[string][]byte{"ann": nil}
	for _, tt := range []struct {
		address string
		access  Access
		hint    string
	}{
		{"127.0.0.1:0", Access{}, ""},
		{"[::1]:0", Access{}, ""},
		{"0.0.0.0:0", Access{Open: true}, ""},
		{"0.0.0.0:0", Access{}, "-http-users or -http-token, and -http-cert and -http-key"},
		{"[::]:0", Access{Users: users}, "give -http-cert and -http-key;"},
		{"0.0.0.0:0", Access{TLS: &tls.Config{}}, "give -http-users or -http-token;"},
		{"0.0.0.0:0", Access{TLS: &tls.Config{}, Users: users}, ""},
		{"0.0.0.0:0", Access{TLS: &tls.Config{}, Token: "x"}, ""},
	} {
		s, err := Listen(tt.address, tt.access)
		if err == nil {
			s.Close()
		}
		hint := ""
		if e, ok := err.(*Error); ok {
			hint = e.Hint
		}
		if (err == nil) != (tt.hint == "") || !strings.Contains(hint, tt.hint) {
			t.Errorf("%s %+v: %v, hint %q", tt.address, tt.access, err, hint)
		}
	}
}

// TestHTTPS: the page by TLS, with a password.
func TestHTTPS(t *testing.T) {
	made := httptest.NewTLSServer(nil) // for its certificate
	defer made.Close()
	s, err := Listen("127.0.0.1:0", Access{
		TLS: &tls.Config{Certificates: made.TLS.Certificates, MinVersion: tls.VersionTLS12}, Users: map[string][]byte{"ann": cheap(t, "secret of ann")},
	})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, newSource())
	if !strings.HasPrefix(s.URL(), "https://") {
		t.Errorf("URL %s", s.URL())
	}
	pool := x509.NewCertPool()
	pool.AddCert(made.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer client.CloseIdleConnections()
	for password, want := range map[string]int{"secret of ann": 200, "wrong": 401} {
		r, _ := http.NewRequest("GET", s.URL()+"metrics", nil)
		r.SetBasicAuth("ann", password)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: code %d, want %d", password, resp.StatusCode, want)
		}
	}
	if resp, err := http.Get(strings.Replace(s.URL(), "https", "http", 1)); err == nil {
		if resp.StatusCode == 200 {
			t.Error("the page comes without TLS")
		}
		resp.Body.Close()
	}
}
