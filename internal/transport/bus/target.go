package bus

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"github.com/pcapper/pcapper/internal/host/option"
)

// ClusterURL is a parsed URL of servers:
//
//	nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT][,HOST...][?KEY=VALUE[&...]]
//
// With nats+tls://, TLS is used; tls:// is an older spelling. Params lists the keys.
type ClusterURL struct {
	// Servers are URLs, each with a scheme, a port, and our identity.
	Servers []string
	// Secure means TLS from the first byte sent.
	Secure bool
	Creds  string // file with a JWT and its seed
	NKey   string // file with a seed
	// Cert, Key, and CA are PEM files. Without CA, the system's authorities are
	// trusted.
	Cert, Key, CA string
	Tenant        string // a token of the subjects, and part of the streams' names; default "default"
	Site          string // another token; default "default"
	// Streams configures the streams to create if there are none.
	Streams Streams
}

// defaultPort is NATS's.
const defaultPort = 4222

// Parse parses a ClusterURL. Its errors say what is expected, and contain no passwords.
func Parse(text string) (*ClusterURL, error) {
	t := &ClusterURL{Tenant: "default", Site: "default"}
	if err := t.parse(text); err != nil {
		return nil, fmt.Errorf("bus %q: %w", option.Redact(text), err)
	}
	return t, nil
}

func (t *ClusterURL) parse(text string) error {
	scheme, rest, query := option.CutURL(text)
	switch scheme {
	case "nats":
	case "tls", "nats+tls":
		t.Secure = true
	default:
		return errors.New("want nats://HOST[:PORT][,HOST...], or nats+tls:// for TLS")
	}
	// As in the URLs of NATS's own programs, each server may repeat the scheme.
	rest = "//" + strings.ReplaceAll(strings.TrimPrefix(rest, "//"), ","+scheme+"://", ",")
	u, err := option.ParseURL(scheme + ":" + rest)
	if err != nil {
		return err
	}
	if u.Path != "" {
		return fmt.Errorf("path %q: want none", u.Path)
	}
	t.setServers(u.Servers)
	if err := t.Params().Parse(query); err != nil {
		return err
	}
	return t.check()
}

// setServers builds the URLs that the NATS client expects. The first server's user
// applies to servers without one.
func (t *ClusterURL) setServers(list []option.Server) {
	u := url.URL{Scheme: "nats"}
	if t.Secure {
		u.Scheme = "tls"
	}
	for _, s := range list {
		u.Host = s.Address(defaultPort)
		u.User = cmp.Or(s.User, u.User)
		t.Servers = append(t.Servers, u.String())
	}
}

// Params returns the URL's parameters, which set t's fields.
func (t *ClusterURL) Params() option.Params {
	return option.Params{
		option.Text("creds", "FILE", "who we are: a JWT and its seed, as nsc writes it", &t.Creds),
		option.Text("nkey", "FILE", "who we are: a seed", &t.NKey),
		option.Text("cert", "FILE", "with TLS: our certificate", &t.Cert),
		option.Text("key", "FILE", "with TLS: its key", &t.Key),
		option.Text("ca", "FILE", "with TLS: the authorities to trust instead of the system's", &t.CA),
		option.Text("tenant", "NAME", "a name in the subjects and streams (default)", &t.Tenant),
		option.Text("site", "NAME", "another name in the subjects (default)", &t.Site),
		option.Number("partitions", "new streams: how many", &t.Streams.Partitions, 1, MaxPartitions),
		option.Number("replicas", "new streams: on how many servers each record is", &t.Streams.Replicas, 1, 5),
		option.Duration("age", "new streams: how long they keep records", &t.Streams.MaxAge, time.Nanosecond, math.MaxInt64),
		option.Size("size", "new streams: how much they keep", &t.Streams.MaxBytes, 1),
	}
}

// check validates combinations of parameters.
func (t *ClusterURL) check() error {
	switch {
	case token(t.Tenant) != t.Tenant:
		return fmt.Errorf("tenant %q: want letters, digits, - and _", t.Tenant)
	case t.Creds != "" && t.NKey != "":
		return errors.New("creds and nkey: want one of them")
	case (t.Cert == "") != (t.Key == ""):
		return errors.New("cert and key: want both")
	case !t.Secure && t.CA+t.Cert != "":
		return errors.New("ca, cert and key are for nats+tls://")
	}
	return nil
}

// Files returns the files that t names, which the process must be able to read.
func (t *ClusterURL) Files() (files []string) {
	for _, f := range []string{t.Creds, t.NKey, t.Cert, t.Key, t.CA} {
		if f != "" {
			files = append(files, f)
		}
	}
	return files
}

// String returns t for display, without passwords and tokens.
func (t *ClusterURL) String() string {
	list := make([]string, len(t.Servers))
	for i, s := range t.Servers {
		list[i] = option.Redact(s)
	}
	return strings.Join(list, ",")
}

// token encodes text as one token of a subject: each byte that is not an ASCII letter
// or digit, "-", or "_" becomes "=" and two hexadecimal digits.
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
