package web

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Access controls who may see the page, and whether over TLS. The zero value suits a
// page that only this machine can reach.
type Access struct {
	// TLS serves the page over HTTPS.
	TLS *tls.Config
	// Users maps users to bcrypt hashes of their passwords, for HTTP basic
	// authentication (RFC 7617).
	Users map[string][]byte
	// Token, as a bearer token (RFC 6750), grants access.
	Token string
	// Open allows anyone to see a page on any address, even unencrypted.
	Open bool
	// Origins are those of other sites whose pages may read what the server has, as ParseOrigins
	// returns them. They have to show a user or a token like anyone.
	Origins []string
}

const (
	// minToken is the minimum length of a token: 16 random characters cannot be
	// guessed.
	minToken = 16
)

// ReadUsers reads lines name:hash, as written by htpasswd -B. Empty lines and those
// that begin with # are skipped.
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
		// Apache's tools write $2y$ for what is $2a$ here.
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

// ReadToken reads a token from the file's first line.
func ReadToken(path string) (string, error) {
	line, err := option.ReadSecret(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(line)
	if len(token) < minToken || strings.ContainsAny(token, " \t") {
		return "", fmt.Errorf("%s: want a token of at least %d characters in one word, such as \"openssl rand -hex 16\" prints", path, minToken)
	}
	return token, nil
}

// UserLine returns a line for ReadUsers. An empty password is an error.
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

// check returns an error that says what an address listening on host still requires.
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
	return cannotServe(address, errors.New("others than this machine could see it"),
		"give "+strings.Join(missing, ", and ")+"; or -http-open, if anyone may")
}

const healthPath = "/healthz"

// guard admits only those who may see the page. /healthz is open to everyone.
type guard struct {
	access    Access
	next      http.Handler
	passwords *passwords
}

func newGuard(a Access, next http.Handler) http.Handler {
	if len(a.Users) == 0 && a.Token == "" {
		return next
	}
	return &guard{access: a, next: next, passwords: newPasswords(a.Users)}
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == healthPath {
		g.next.ServeHTTP(w, r)
		return
	}
	switch g.admit(r) {
	case http.StatusOK:
		g.next.ServeHTTP(w, r)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "5")
		fail(w, http.StatusTooManyRequests, "too many passwords to check; try again in 5 s")
	default:
		if len(g.access.Users) > 0 {
			w.Header().Add("WWW-Authenticate", `Basic realm="recollect", charset="UTF-8"`)
		}
		if g.access.Token != "" {
			w.Header().Add("WWW-Authenticate", `Bearer realm="recollect"`)
		}
		fail(w, http.StatusUnauthorized, "want "+g.wants())
	}
}

// wants describes the credentials that a request needs.
func (g *guard) wants() string {
	switch {
	case g.access.Token == "":
		return "a user's name and password (HTTP basic authentication)"
	case len(g.access.Users) == 0:
		return "a bearer token"
	}
	return "a user's name and password (HTTP basic authentication), or a bearer token"
}

// admit returns the HTTP status for a request's credentials.
func (g *guard) admit(r *http.Request) int {
	scheme, value, _ := strings.Cut(r.Header.Get("Authorization"), " ")
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
	return g.passwords.check(r.Context(), sourceOf(r.RemoteAddr), name, password)
}
