package clickhouse

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// TableURL is a parsed URL:
//
//	clickhouse+http://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?KEY=VALUE[&...]]
//
// With clickhouse+https://, TLS is used. Params lists the keys.
type TableURL struct {
	URL             string // http://HOST:PORT
	User, Password  string
	Database, Table string
	CA              string // file; "" for the system's authorities
	Gzip            bool
	Memory          int64 // maximum number of bytes waiting
	// Spool is a directory for segments on their way from a bus to the table; "" writes
	// what is collected, from memory.
	Spool string
}

const (
	defaultMemory = 64 << 20
	minMemory     = 16 << 20 // one block in flight, one being filled, and some more
)

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Parse parses a TableURL. A user or password that it does not contain is taken from
// CLICKHOUSE_USER or CLICKHOUSE_PASSWORD, as in ClickHouse's own client. Errors contain
// no passwords.
func Parse(text string) (*TableURL, error) {
	u, err := option.ParseURL(text)
	if err != nil {
		return nil, err
	}
	port := map[string]uint16{"clickhouse+http": 8123, "clickhouse+https": 8443}[u.Scheme]
	switch {
	case port == 0:
		return nil, fmt.Errorf("%q: not a kind of ClickHouse URL: want clickhouse+http:// or clickhouse+https://", u.Scheme)
	case len(u.Servers) != 1:
		return nil, errors.New("several servers: want one: clickhouse+http://USER@HOST:8123/DATABASE")
	}
	t := &TableURL{Database: "default", Table: "records", Memory: defaultMemory}
	t.URL = strings.TrimPrefix(u.Scheme, "clickhouse+") + "://" + u.Servers[0].Address(port)
	if name := strings.Trim(u.Path, "/"); name != "" {
		t.Database = name
	}
	if err := t.Params().Parse(u.Query); err != nil {
		return nil, err
	}
	t.credentials(u.Servers[0].User)
	for _, name := range []string{t.Database, t.Table} {
		if !identifier.MatchString(name) {
			return nil, fmt.Errorf("%q: not a database's or table's name: want letters, digits and _", name)
		}
	}
	return t, nil
}

// Params returns the URL's parameters, which set t's fields.
func (t *TableURL) Params() option.Params {
	return option.Params{
		option.Text("table", "NAME", "the table (records)", &t.Table),
		option.Secret("password-file", "file with the user's password", &t.Password),
		option.Text("ca", "FILE", "authorities to trust with https instead of the system's, in PEM", &t.CA),
		option.Switch("compress", "how rows are compressed (none)", &t.Gzip, "none", "gzip"),
		option.Memory("memory", "how much may wait (64)", &t.Memory, minMemory),
		option.Text("spool", "DIR", "with a bus: write what it carries, each row once, by way of this directory", &t.Spool),
	}
}

func (t *TableURL) credentials(user *url.Userinfo) {
	t.User = cmp.Or(user.Username(), os.Getenv("CLICKHOUSE_USER"))
	if password, ok := user.Password(); ok {
		t.Password = password
	}
	t.Password = cmp.Or(t.Password, os.Getenv("CLICKHOUSE_PASSWORD"))
}

// String returns t for display, without its password.
func (t *TableURL) String() string {
	return fmt.Sprintf("%s/%s?table=%s", t.URL, t.Database, t.Table)
}
