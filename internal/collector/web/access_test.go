package web

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/pcapper/pcapper/internal/host/fault"
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

// TestGuessing guesses from one address, in more requests than may wait: a right
// password from another address waits for two checks at most, and one from the
// same address is not refused.
func TestGuessing(t *testing.T) {
	users := map[string][]byte{"ann": cheap(t, "secret of ann"), "bob": cheap(t, "secret of bob")}
	p := newPasswords(users)
	guesser, other := sourceOf("10.0.0.1:1000"), sourceOf("10.0.0.2:1000")
	const guesses = 200
	p.mu.Lock()
	p.busy = true // somebody's check takes long
	p.mu.Unlock()
	var guessing sync.WaitGroup
	var refused atomic.Int32
	for i := range guesses {
		guessing.Go(func() {
			if p.check(t.Context(), guesser, "ann", fmt.Sprint("guess ", i)) == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	for refused.Load() < guesses-maxPerSource {
		time.Sleep(time.Millisecond)
	}
	// Both arrive while the guesses wait.
	a, _ := p.enter(other, "ann", "secret of ann")
	b, _ := p.enter(guesser, "bob", "secret of bob")
	go p.run()
	guessing.Wait()
	<-a.done
	<-b.done
	if a.status != http.StatusOK || b.status != http.StatusOK {
		t.Errorf("got %d from another address and %d from the same, want 200", a.status, b.status)
	}
	p.mu.Lock()
	if len(p.served) != 0 {
		t.Errorf("sources are remembered though nobody waits: %v", p.served)
	}
	p.mu.Unlock()
	if status := p.check(t.Context(), other, "ann", "secret of ann"); status != http.StatusOK {
		t.Errorf("got %d for credentials that were right before, want 200", status)
	}
}

// TestTurns holds the order in which attempts are checked.
func TestTurns(t *testing.T) {
	p := newPasswords(map[string][]byte{"ann": cheap(t, "secret of ann")})
	p.busy = true
	for i, at := range []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1"} {
		p.enter(sourceOf(at), "ann", fmt.Sprint(i))
	}
	var order []string
	for len(p.waiting) > 0 {
		order = append(order, p.next().password)
	}
	if got, want := strings.Join(order, " "), "1 2 4 0 3"; got != want {
		t.Errorf("checked in the order %s, want %s", got, want)
	}
}

// TestHealthDoesNotLockOut opens as many connections as there may be, all of
// which only ask for /healthz: who has a password gets in all the same, and stays.
func TestHealthDoesNotLockOut(t *testing.T) {
	s, err := Listen("127.0.0.1:0", Access{Open: true, Users: map[string][]byte{"ann": cheap(t, "secret of ann")}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, newSource())
	address := strings.TrimSuffix(strings.TrimPrefix(s.URL(), "http://"), "/")
	ask := func(c net.Conn, path, header string) string {
		t.Helper()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", path, header)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err.Error()
		}
		answer.Body.Close()
		return answer.Status
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	user := dial()
	const auth = "Authorization: Basic YW5uOnNlY3JldCBvZiBhbm4=\r\n"
	if got := ask(user, "/metrics", auth); got != "200 OK" {
		t.Fatalf("got %s before there are many connections", got)
	}
	for range maxConns + 20 {
		if got := ask(dial(), "/healthz", ""); got != "200 OK" {
			t.Fatalf("got %s of /healthz", got)
		}
	}
	if got := ask(user, "/metrics", auth); got != "200 OK" {
		t.Errorf("got %s on the connection of a user, want 200", got)
	}
	if got := ask(dial(), "/metrics", auth); got != "200 OK" {
		t.Errorf("got %s on a new connection of a user, want 200", got)
	}
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
		hint := fault.Hint(err)
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
