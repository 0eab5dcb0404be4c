package clickhouse

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Target is what a URL says:
//
//	clickhouse+http://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?KEY=VALUE[&...]]
//
// or clickhouse+https://. The keys are table (records), password-file, ca (a file
// with authorities, PEM), compress (gzip or none), memory (MiB) and spool (a
// directory, see Store).
type Target struct {
	URL             string // http://HOST:PORT
	User, Password  string
	Database, Table string
	CA              string // file; "": the system's authorities
	Gzip            bool
	Memory          int64 // bytes that may wait
	// Spool is a directory for what a bus carries, on its way to the table; "": what
	// is collected goes there, by memory.
	Spool string
}

const (
	defaultMemory = 64 << 20
	minMemory     = 16 << 20 // a block on its way, one that fills, and some
)

// IsURL reports whether text looks like a Target.
func IsURL(text string) bool { return strings.HasPrefix(text, "clickhouse+") }

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Parse reads a Target. A user or password that it lacks is CLICKHOUSE_USER's or
// CLICKHOUSE_PASSWORD's, as with ClickHouse's own client. Errors do not show
// passwords.
func Parse(text string) (*Target, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("not a URL: want clickhouse+http://USER@HOST:8123/DATABASE; %XX for what means something else in a URL")
	}
	port := map[string]string{"clickhouse+http": "8123", "clickhouse+https": "8443"}[u.Scheme]
	switch {
	case port == "":
		return nil, fmt.Errorf("%q: not a kind of ClickHouse URL: want clickhouse+http:// or clickhouse+https://", u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("%s: no host: want clickhouse+http://USER@HOST:8123/DATABASE", u.Redacted())
	case u.Port() == "":
		u.Host += ":" + port
	}
	t := &Target{Database: "default", Table: "records", Memory: defaultMemory}
	t.URL = strings.TrimPrefix(u.Scheme, "clickhouse+") + "://" + u.Host
	if name := strings.Trim(u.Path, "/"); name != "" {
		t.Database = name
	}
	if err := t.keys(u); err != nil {
		return nil, err
	}
	t.credentials(u)
	for _, name := range []string{t.Database, t.Table} {
		if !identifier.MatchString(name) {
			return nil, fmt.Errorf("%q: not a database's or table's name: want letters, digits and _", name)
		}
	}
	return t, nil
}

func (t *Target) keys(u *url.URL) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("%q: not parameters: want KEY=VALUE, joined by &", u.RawQuery)
	}
	for key, values := range query {
		if len(values) != 1 {
			return fmt.Errorf("%q: given %d times: want it once", key, len(values))
		}
		if err := t.key(key, values[0]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) key(key, value string) error {
	switch key {
	case "table":
		t.Table = value
	case "password-file":
		text, err := os.ReadFile(value)
		if err != nil {
			return fmt.Errorf("password-file: %w", err)
		}
		t.Password = strings.TrimRight(string(text), "\r\n")
	case "ca":
		t.CA = value
	case "spool":
		t.Spool = value
	case "compress":
		if value != "gzip" && value != "none" {
			return fmt.Errorf("compress=%q: want gzip or none", value)
		}
		t.Gzip = value == "gzip"
	case "memory":
		n, err := strconv.ParseUint(value, 10, 20)
		if err != nil || n<<20 < minMemory {
			return fmt.Errorf("memory=%q: want MiB, at least %d", value, minMemory>>20)
		}
		t.Memory = int64(n) << 20
	default:
		return fmt.Errorf("%q: unknown: want table, password-file, ca, compress, memory or spool", key)
	}
	return nil
}

func (t *Target) credentials(u *url.URL) {
	t.User = u.User.Username()
	if t.User == "" {
		t.User = os.Getenv("CLICKHOUSE_USER")
	}
	if password, ok := u.User.Password(); ok {
		t.Password = password
	}
	if t.Password == "" {
		t.Password = os.Getenv("CLICKHOUSE_PASSWORD")
	}
}

// String is t for people, without its password.
func (t *Target) String() string {
	return fmt.Sprintf("%s/%s?table=%s", t.URL, t.Database, t.Table)
}
