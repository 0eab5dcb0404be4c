package web

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// policy allows the page to load only what this server provides; scripts can be neither
// embedded in the page nor created from strings.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' blob: data:; " +
	"connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; " +
	"require-trusted-types-for 'script'; trusted-types 'none'"

// secure rejects requests that no page of ours makes, and tells browsers what our page
// may do. host is the address that the server listens on.
func secure(host string, origins []string, next http.Handler) http.Handler {
	local := isLoopback(host)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
		allowed := slices.Contains(origins, r.Header.Get("Origin")) && (r.Method != http.MethodPost)
		if len(origins) > 0 {
			h.Add("Vary", "Origin")
		}
		if allowed {
			h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		}
		switch {
		case allowed && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
			// A browser asks before it sends credentials (Fetch Standard, 3.2.3).
			h.Set("Access-Control-Allow-Methods", "GET, HEAD")
			h.Set("Access-Control-Allow-Headers", "Authorization")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
		case r.Method != http.MethodGet && r.Method != http.MethodHead && (r.Method != http.MethodPost || r.URL.Path != replayPath):
			h.Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "only GET and HEAD: nothing can be changed here")
		case local && !isLoopback(hostname(r.Host)):
			// A foreign name that resolves to this machine (DNS rebinding) would let
			// its page read ours.
			fail(w, http.StatusForbidden, "this server is for this machine alone: open it as http://localhost or by the address that it printed")
		case !allowed && r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate":
			fail(w, http.StatusForbidden, "not for the pages of other sites")
		default:
			if r.URL.Path != streamPath {
				_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
			}
			next.ServeHTTP(w, r)
		}
	})
}

// ParseOrigins reads origins (RFC 6454) with commas between them: https://HOST[:PORT].
func ParseOrigins(list string) (origins []string, err error) {
	for word := range strings.SplitSeq(list, ",") {
		if list == "" {
			break
		}
		word = strings.TrimSpace(word)
		u, err := url.Parse(word)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Scheme+"://"+u.Host != word {
			return nil, fmt.Errorf("%.60q: want https://HOST or http://HOST:PORT, with nothing behind", word)
		}
		// As browsers write it: in lower case, without the usual port.
		host := strings.ToLower(u.Host)
		host = strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[u.Scheme])
		origins = append(origins, u.Scheme+"://"+host)
	}
	return origins, nil
}

// hostname returns a Host header without its port.
func hostname(s string) string {
	if host, _, err := net.SplitHostPort(s); err == nil {
		return host
	}
	return strings.Trim(s, "[]")
}

func isLoopback(host string) bool {
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// quiet discards what net/http reports about misbehaving clients, because anyone could
// fill the terminal with it.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
