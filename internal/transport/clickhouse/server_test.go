package clickhouse

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/clickhousetest"
)

// server is a real one, with the tables of the docs.
type server struct {
	*clickhousetest.Server
	t testing.TB
}

func startServer(t testing.TB) *server {
	t.Helper()
	sql, err := os.ReadFile("../../../docs/clickhouse/tables.sql")
	if err != nil {
		t.Fatal(err)
	}
	return &server{clickhousetest.Start(t, string(sql)), t}
}

func (s *server) target(query string) *TableURL {
	s.t.Helper()
	return s.at(s.Port, query)
}

func (s *server) at(port int, query string) *TableURL {
	s.t.Helper()
	t, err := Parse(fmt.Sprintf("clickhouse+http://ann:sesame%%27%%23@127.0.0.1:%d/lab%s", port, query))
	if err != nil {
		s.t.Fatal(err)
	}
	return t
}

// runSink starts a sink; the function ends it, and waits.
func runSink(t testing.TB, target *TableURL) (*Sink, func() error) {
	t.Helper()
	s, err := New(target, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() error { cancel(); return <-done }
}

// cutter stands between sink and server, and breaks connections.
type cutter struct {
	listener net.Listener
	port     int
	// spoil says what happens to the nth INSERT, counted from 0.
	spoil func(n int) spoiling
	n     atomic.Int32 // INSERTs
	busy  atomic.Int32 // requests that have not ended on either side
}

type spoiling int

const (
	none      spoiling = iota
	midway             // half of the request arrives
	unsaid             // all of it, but no answer comes back
	untouched          // nothing of it
)

func startCutter(t testing.TB, to int, spoil func(n int) spoiling) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{listener: l, port: l.Addr().(*net.TCPAddr).Port, spoil: spoil}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.busy.Add(1)
		defer c.busy.Add(-1)
		body, err := io.ReadAll(r.Body)
		if err != nil { // who sent it is gone
			panic(http.ErrAbortHandler)
		}
		f := none
		if strings.HasPrefix(r.URL.Query().Get("query"), "INSERT") {
			f = c.spoil(int(c.n.Add(1)) - 1)
		}
		c.pass(t, w, r, body, to, f)
	})}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return c
}

// idle waits until no request is on its way.
func (c *cutter) idle() {
	for c.busy.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

// pass passes a request on, or what the fault leaves of it.
func (c *cutter) pass(t testing.TB, w http.ResponseWriter, r *http.Request, body []byte, to int, f spoiling) {
	switch f {
	case untouched:
		panic(http.ErrAbortHandler)
	case midway:
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", to))
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n", r.URL.RequestURI(), r.Header.Get("Authorization"), len(body))
		conn.Write(body[:len(body)/2])
		conn.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
		panic(http.ErrAbortHandler)
	}
	request, _ := http.NewRequest(r.Method, fmt.Sprintf("http://127.0.0.1:%d%s", to, r.URL.RequestURI()), bytes.NewReader(body))
	request.Header = r.Header
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	if f == unsaid {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}
