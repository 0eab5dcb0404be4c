package bus

import (
	"fmt"
	"net/url"
	"strings"
)

// Target is what a URL of servers says:
//
//	nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT][,HOST...][?KEY=VALUE[&...]]
//
// or tls:// in place of nats://. The keys are those of the fields.
type Target struct {
	// Servers are URLs, each with a scheme, a port and who we are.
	Servers []string
	// Secure: TLS from the first byte that we send.
	Secure bool
	Creds  string // creds: file with a JWT and its seed
	NKey   string // nkey: file with a seed
	// Cert, Key and CA are files in PEM. Without CA the system's authorities are
	// trusted.
	Cert, Key, CA string
	Tenant        string // tenant: a word in the subjects, and part of the streams' names; "default" without
	Site          string // site: another word; "default" without
	// Streams is how streams are made if there are none: partitions, replicas, age
	// (as time.ParseDuration reads it), size (bytes).
	Streams Streams
}

const defaultPort = "4222"

// IsURL reports whether text looks like a Target.
func IsURL(text string) bool {
	return strings.HasPrefix(text, "nats://") || strings.HasPrefix(text, "tls://")
}

// Parse reads a Target. The errors say what is wanted.
func Parse(text string) (*Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || !IsURL(text) {
		return nil, fmt.Errorf("bus %q: want nats://HOST[:PORT][,HOST...], or tls:// for TLS", text)
	}
	hosts, query, _ := strings.Cut(rest, "?")
	t := &Target{Secure: scheme == "tls", Tenant: "default", Site: "default"}
	who := ""
	for host := range strings.SplitSeq(strings.TrimSuffix(hosts, "/"), ",") {
		server, err := serverURL(scheme, strings.TrimSpace(strings.TrimPrefix(host, scheme+"://")), &who)
		if err != nil {
			return nil, fmt.Errorf("bus %q: %w", Redact(text), err)
		}
		t.Servers = append(t.Servers, server)
	}
	if err := t.options(query); err != nil {
		return nil, fmt.Errorf("bus %q: %w", Redact(text), err)
	}
	return t, nil
}

// serverURL completes one server's address. What the first says of who we are
// holds for those that say nothing.
func serverURL(scheme, text string, who *string) (string, error) {
	u, err := url.Parse(scheme + "://" + text)
	if err != nil || u.Hostname() == "" || u.Path != "" {
		return "", fmt.Errorf("server %q: want HOST or HOST:PORT", Redact(text))
	}
	if u.Port() == "" {
		u.Host += ":" + defaultPort
	}
	if u.User != nil {
		*who = u.User.String() + "@"
	}
	return scheme + "://" + *who + u.Host, nil
}

func (t *Target) options(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("behind the question mark: %w", err)
	}
	into := map[string]*string{
		"creds": &t.Creds, "nkey": &t.NKey, "cert": &t.Cert, "key": &t.Key, "ca": &t.CA, "tenant": &t.Tenant, "site": &t.Site,
	}
	for key, v := range values {
		p, ok := into[key]
		if !ok {
			if err := t.Streams.set(key, v[len(v)-1]); err != nil {
				return err
			}
			continue
		}
		if *p = v[len(v)-1]; *p == "" {
			return fmt.Errorf("%s is empty", key)
		}
	}
	switch {
	case token(t.Tenant) != t.Tenant:
		return fmt.Errorf("tenant %q: want letters, digits, - and _", t.Tenant)
	case t.Creds != "" && t.NKey != "":
		return fmt.Errorf("creds and nkey: want one of them")
	case (t.Cert == "") != (t.Key == ""):
		return fmt.Errorf("cert and key: want both")
	case !t.Secure && t.CA+t.Cert != "":
		return fmt.Errorf("ca, cert and key are for tls://")
	}
	return nil
}

// Files are the files that t names; a process must be able to read them.
func (t *Target) Files() (files []string) {
	for _, f := range []string{t.Creds, t.NKey, t.Cert, t.Key, t.CA} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// String is t for people: without passwords and tokens.
func (t *Target) String() string { return Redact(strings.Join(t.Servers, ",")) }

// Redact takes passwords and tokens out of a URL.
func Redact(text string) string {
	parts := strings.Split(text, ",")
	for i, part := range parts {
		scheme, rest, ok := strings.Cut(part, "://")
		if !ok {
			scheme, rest = "", part
		} else {
			scheme += "://"
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		parts[i] = scheme + rest
	}
	return strings.Join(parts, ",")
}

// token is text as one word of a subject: what NATS gives a meaning, and what
// is no ASCII letter or digit, is "=" and two hexadecimal digits for each byte.
func token(text string) string {
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02x", c)
		}
	}
	return b.String()
}
