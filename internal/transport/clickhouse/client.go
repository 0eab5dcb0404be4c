package clickhouse

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
)

const (
	// requestTime bounds the time of a request.
	requestTime = 30 * time.Second
	// maxAnswer bounds the size of a response: the numbers of a block's rows.
	maxAnswer = 64 << 20
	// askRuns is the number of runs per query: its text stays below the 256 KiB that a
	// server accepts (max_query_size).
	askRuns = 200
)

// client sends requests to the server. It must not be used by several goroutines at
// once.
type client struct {
	t    *TableURL
	http *http.Client
	zip  bytes.Buffer
}

func newClient(t *TableURL) (*client, error) {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConns: 2, IdleConnTimeout: 9 * time.Second, // a server's is 10 s
		TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true,
	}
	if t.CA != "" {
		pool, err := certs.Authorities(t.CA)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &client{t: t, http: &http.Client{Transport: transport, Timeout: requestTime}}, nil
}

// refused is an error response of the server.
type refused struct {
	status int
	text   string // its first line
}

func (r *refused) Error() string { return r.text }

// do sends a query, followed by data, and returns the response.
func (c *client) do(ctx context.Context, query, id string, data []byte) ([]byte, error) {
	values := url.Values{"database": {c.t.Database}, "query": {query}}
	if id != "" {
		values.Set("query_id", id)
	}
	if data == nil { // a long query does not fit in a URL
		values.Del("query")
		data = []byte(query)
	}
	zipped := c.t.Gzip && id != ""
	if zipped {
		data = c.gzip(data)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.t.URL+"/?"+values.Encode(), bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if zipped {
		request.Header.Set("Content-Encoding", "gzip")
	}
	if c.t.User != "" || c.t.Password != "" {
		request.SetBasicAuth(c.t.User, c.t.Password)
	}
	return c.answer(c.http.Do(request))
}

func (c *client) gzip(data []byte) []byte {
	c.zip.Reset()
	w, _ := gzip.NewWriterLevel(&c.zip, gzip.BestSpeed)
	_, _ = w.Write(data) // a bytes.Buffer never fails
	_ = w.Close()
	return c.zip.Bytes()
}

func (c *client) answer(response *http.Response, err error) ([]byte, error) {
	if err != nil {
		// Without the URL, which contains the query but no useful information.
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		line, _, _ = strings.Cut(line, ", e.what()")
		return nil, &refused{response.StatusCode, fmt.Sprintf("the server says %s: %.200s", response.Status, line)}
	}
	return body, nil
}

// insert inserts a block. After an error, the rows may be in the table nevertheless.
// Each attempt has a query ID of its own that begins with the block's ID, so that all
// attempts can be found later, even after a kill.
func (c *client) insert(ctx context.Context, k *block) error {
	id := fmt.Sprintf("%s-%08x", k.id, rand.Uint32())
	names := make([]string, len(columns))
	for i, column := range columns {
		names[i] = column.name
	}
	_, err := c.do(ctx, "INSERT INTO "+c.t.Table+" ("+strings.Join(names, ", ")+") FORMAT RowBinary", id, k.data)
	return err
}

// check verifies that the table accepts our rows. A *fault.Error means that the user
// must act; after other errors, the server may become available later.
func (c *client) check(ctx context.Context) error {
	body, err := c.do(ctx, "DESCRIBE TABLE "+c.t.Table+" FORMAT TabSeparated", "", nil)
	if err != nil {
		return c.explain(err)
	}
	types := map[string]string{}
	for line := range strings.Lines(string(body)) {
		if f := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(f) > 1 {
			types[f[0]] = strings.ReplaceAll(f[1], `\'`, "'")
		}
	}
	for _, column := range columns {
		if has := types[column.name]; !slices.Contains(column.types, has) {
			return fault.WithHint(fmt.Errorf("clickhouse %s: column %q: type %q: want %s", c.t, column.name, has, strings.Join(column.types, " or ")),
				"docs/clickhouse/tables.sql makes the tables")
		}
	}
	return nil
}

// explain adds a hint to permanent errors of the server.
func (c *client) explain(err error) error {
	var r *refused
	if !errors.As(err, &r) {
		return err
	}
	hint := ""
	switch {
	case strings.Contains(r.text, "Code: 60"), strings.Contains(r.text, "Code: 81"): // UNKNOWN_TABLE, UNKNOWN_DATABASE
		hint = "docs/clickhouse/tables.sql makes the tables: clickhouse-client -n < tables.sql"
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden,
		strings.Contains(r.text, "Code: 192"), strings.Contains(r.text, "Code: 193"), strings.Contains(r.text, "Code: 516"):
		hint = "the user is the URL's or CLICKHOUSE_USER's, the password the URL's, password-file's or CLICKHOUSE_PASSWORD's"
	default:
		return err
	}
	return fault.WithHint(fmt.Errorf("clickhouse %s: %w", c.t, err), hint)
}

// running reports whether the server is still processing an attempt to insert a block.
func (c *client) running(ctx context.Context, id string) (bool, error) {
	body, err := c.do(ctx, "SELECT count() FROM system.processes WHERE query_id LIKE "+quote(id+"-%"), "", nil)
	return strings.TrimSpace(string(body)) != "0", err
}

// there returns the numbers of those rows of a block that are in the table.
func (c *client) there(ctx context.Context, k *block) (map[rowStream]map[uint64]bool, error) {
	found := map[rowStream]map[uint64]bool{}
	for runs := range slices.Chunk(k.runs, askRuns) {
		body, err := c.do(ctx, c.question(k, runs), "", nil)
		if err != nil {
			return nil, err
		}
		for len(body) > 0 {
			name, n := binary.Uvarint(body)
			if n <= 0 || uint64(len(body)-n) < name+16 {
				return nil, errors.New("the server's answer is cut short")
			}
			rest := body[n+int(name):]
			s := rowStream{string(body[n : n+int(name)]), binary.LittleEndian.Uint64(rest)}
			if found[s] == nil {
				found[s] = map[uint64]bool{}
			}
			found[s][binary.LittleEndian.Uint64(rest[8:])] = true
			body = rest[16:]
		}
	}
	return found, nil
}

func (c *client) question(k *block, runs []run) string {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT agent, boot, number FROM %s WHERE time >= toDateTime(%d) AND time <= toDateTime(%d) AND (0", c.t.Table, k.first, k.last)
	for _, r := range runs {
		fmt.Fprintf(&b, " OR (agent = %s AND boot = %d AND number >= %d AND number < %d)", quote(r.agent), r.boot, r.from, r.to)
	}
	b.WriteString(") FORMAT RowBinary")
	return b.String()
}

var quoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// quote returns text as a string literal of ClickHouse's SQL.
func quote(text string) string { return "'" + quoter.Replace(text) + "'" }
