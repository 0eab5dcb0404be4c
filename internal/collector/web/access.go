package web

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// Access says who may see the page, and whether by TLS. The zero value is for
// a page that only this machine can reach.
type Access struct {
	// TLS serves the page by HTTPS.
	TLS *tls.Config
	// Users have bcrypt hashes of their passwords, for HTTP basic
	// authentication (RFC 7617).
	Users map[string][]byte
	// Token lets in who shows it as a bearer token (RFC 6750).
	Token string
	// Open lets anyone see a page on any address, also unencrypted.
	Open bool
}

const (
	// minToken is the fewest characters of a token: 16 at random are more than
	// anyone can try.
	minToken = 16
	// maxChecks is how many passwords are checked at once. One check takes a
	// tenth of a second of CPU on purpose; who guesses must not get it all.
	maxChecks = 1
	// maxWaiting requests wait for theirs; others are told to come back.
	maxWaiting = 64
	// maxRemembered is how many good credentials are remembered.
	maxRemembered = 256
)

// ReadUsers reads lines name:hash, as htpasswd -B writes them. Empty lines and
// those that begin with # are left out.
func ReadUsers(path string) (map[string][]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	users := map[string][]byte{}
	scan := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		// The Apache world writes $2y$ for what is $2a$ here.
		hash = strings.Replace(hash, "$2y$", "$2a$", 1)
		if _, err := bcrypt.Cost([]byte(hash)); !ok || name == "" || err != nil {
			return nil, fmt.Errorf("%s:%d: want name:hash with a bcrypt hash, as \"recollect -http-password name\" or \"htpasswd -nB name\" print it", path, n)
		}
		users[name] = []byte(hash)
	}
	if err := scan.Err(); err != nil {
		return nil, err
	}
	if len(users) == 0 {
		return nil, fmt.Errorf("%s: no users in it", path)
	}
	return users, nil
}

// ReadToken reads a token, the file's first line.
func ReadToken(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	token := strings.TrimSpace(line)
	if len(token) < minToken || strings.ContainsAny(token, " \t") {
		return "", fmt.Errorf("%s: want a token of at least %d characters in one word, such as \"openssl rand -hex 16\" prints", path, minToken)
	}
	return token, nil
}

// UserLine is a line for ReadUsers. There is no empty password.
func UserLine(name string, password []byte) (string, error) {
	if name == "" || strings.ContainsAny(name, ":\n#") {
		return "", fmt.Errorf("user %q: want a name without : and #", name)
	}
	if len(password) < 8 {
		return "", errors.New("want a password of at least 8 characters")
	}
	hash, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
	if err != nil {
		return "", err
	}
	return name + ":" + string(hash), nil
}

// check tells what is missing for an address that listens on host.
func (a *Access) check(address, host string) error {
	if isLoopback(host) || a.Open {
		return nil
	}
	var missing []string
	if len(a.Users) == 0 && a.Token == "" {
		missing = append(missing, "-http-users or -http-token")
	}
	if a.TLS == nil {
		missing = append(missing, "-http-cert and -http-key")
	}
	if len(missing) == 0 {
		return nil
	}
	return &Error{Address: address, Err: errors.New("others than this machine could see it"),
		Hint: "give " + strings.Join(missing, ", and ") + "; or -http-open, if anyone may"}
}

// guard lets in who may see the page. /healthz is for anyone: it tells nothing.
type guard struct {
	access Access
	next   http.Handler
	checks chan struct{} // who checks a password
	queue  chan struct{} // who waits for that, too

	mu   sync.Mutex
	key  [32]byte
	good map[[32]byte]struct{} // MACs of credentials that were right
	none []byte                // a hash for users that there are not
}

func newGuard(a Access, next http.Handler) http.Handler {
	if len(a.Users) == 0 && a.Token == "" {
		return next
	}
	g := &guard{access: a, next: next, checks: make(chan struct{}, maxChecks), queue: make(chan struct{}, maxWaiting), good: map[[32]byte]struct{}{}}
	rand.Read(g.key[:])
	for _, hash := range a.Users {
		g.none = hash // any: checking takes as long as for a user there is
	}
	return g
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/healthz" {
		g.next.ServeHTTP(w, r)
		return
	}
	switch g.admit(r) {
	case http.StatusOK:
		g.next.ServeHTTP(w, r)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "5")
		http.Error(w, "too many passwords to check", http.StatusTooManyRequests)
	default:
		if len(g.access.Users) > 0 {
			w.Header().Add("WWW-Authenticate", `Basic realm="recollect", charset="UTF-8"`)
		}
		if g.access.Token != "" {
			w.Header().Add("WWW-Authenticate", `Bearer realm="recollect"`)
		}
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}
}

// admit gives the status for a request's credentials.
func (g *guard) admit(r *http.Request) int {
	header := r.Header.Get("Authorization")
	scheme, value, _ := strings.Cut(header, " ")
	if strings.EqualFold(scheme, "Bearer") && g.access.Token != "" {
		got, want := sha256.Sum256([]byte(strings.TrimSpace(value))), sha256.Sum256([]byte(g.access.Token))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 {
			return http.StatusOK
		}
	}
	name, password, ok := r.BasicAuth()
	if !ok || len(g.access.Users) == 0 {
		return http.StatusUnauthorized
	}
	if g.remembers(header) {
		return http.StatusOK
	}
	select {
	case g.queue <- struct{}{}:
		defer func() { <-g.queue }()
	default:
		return http.StatusTooManyRequests
	}
	select {
	case g.checks <- struct{}{}:
		defer func() { <-g.checks }()
	case <-r.Context().Done():
		return http.StatusUnauthorized
	}
	if g.remembers(header) { // the page's other requests asked meanwhile
		return http.StatusOK
	}
	hash, known := g.access.Users[name]
	if !known {
		hash = g.none
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return http.StatusUnauthorized
	}
	g.remember(header)
	return http.StatusOK
}

func (g *guard) mac(header string) (sum [32]byte) {
	h := hmac.New(sha256.New, g.key[:])
	h.Write([]byte(header))
	h.Sum(sum[:0])
	return sum
}

func (g *guard) remembers(header string) bool {
	sum := g.mac(header)
	g.mu.Lock()
	defer g.mu.Unlock()
	_, ok := g.good[sum]
	return ok
}

func (g *guard) remember(header string) {
	sum := g.mac(header)
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.good) >= maxRemembered {
		clear(g.good)
	}
	g.good[sum] = struct{}{}
}
