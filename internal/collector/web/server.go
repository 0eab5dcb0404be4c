package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/pcapper/pcapper/internal/collector/api"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/internal/transport/ledger"
)

const (
	// maxStreams is the maximum number of pages open at once.
	maxStreams = 512
	// maxConns bounds the total number of connections; a browser opens up to six.
	maxConns = maxStreams + 256
	// sendBuffer bounds what the kernel holds for a page that does not read: a few
	// frames, so that it skips old frames instead of displaying them late.
	sendBuffer = 128 << 10
	// answerTime bounds the time of a request other than a stream.
	answerTime = 30 * time.Second
)

// cannotServe returns an error that says why there is no page at an address, with a
// hint.
func cannotServe(address string, err error, hint string) error {
	return fault.WithHint(fmt.Errorf("cannot serve the page on %q: %w", address, err), hint)
}

// Server serves the page.
type Server struct {
	source   Source
	access   Access
	listener *admission
	host     string // of the address being listened on
	assets   map[string]*asset
	built    bool
	streams  streams
	cache    cache
	totals   totals
	measured []prometheus.Collector
	failing  []func() string
	judges   []func(time.Time) []Problem
	problems problems
	rules    *Rules
	address  string       // of the page
	book     *ledger.Book // nil means empty
	more     []api.Endpoint
	newest   atomic.Int64 // when the newest snapshot arrived, UNIX nanoseconds
	// ending is done when streams must end, which end causes.
	ending context.Context
	end    context.CancelFunc
}

// Listen opens a port, so that a wrong address is reported before anything else starts.
// The address is host:port, or just a port; without a host it is the loopback address,
// so that nobody else can see the page. Errors are of type *fault.Error. Run or Close
// must follow. If others can reach the page, access must define who they are.
func Listen(address string, access Access) (*Server, error) {
	address, err := fullAddress(address)
	if err != nil {
		return nil, err
	}
	s := &Server{access: access, rules: DefaultRules()}
	host, _, _ := net.SplitHostPort(address)
	if err := access.check(address, host); err != nil {
		return nil, err
	}
	dir, err := fs.Sub(dist, "dist")
	if err != nil {
		return nil, err
	}
	if s.assets, s.built, err = loadAssets(dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, listenError(address, err)
	}
	s.ending, s.end = context.WithCancel(context.Background())
	s.listener = admit(listener, maxConns)
	s.host, _, _ = net.SplitHostPort(s.listener.Addr().String())
	s.streams.max = maxStreams
	return s, nil
}

// Measure adds metrics to /metrics. Call it before Run.
func (s *Server) Measure(more ...prometheus.Collector) { s.measured = append(s.measured, more...) }

// Add adds endpoints. Call it before Run.
func (s *Server) Add(endpoints []api.Endpoint) { s.more = append(s.more, endpoints...) }

// Watch makes /healthz fail while failing returns a reason. Call it before Run.
func (s *Server) Watch(failing func() string) { s.failing = append(s.failing, failing) }

// Open reports whether other hosts can see the page without a password or token.
func (s *Server) Open() bool {
	return !isLoopback(s.host) && len(s.access.Users) == 0 && s.access.Token == ""
}

// Built reports whether the program contains the page. If not, it serves the data, and
// a note that says what to do.
func (s *Server) Built() bool { return s.built }

// fullAddress completes a port, or a missing host.
func fullAddress(address string) (string, error) {
	if !strings.Contains(address, ":") {
		address = ":" + address
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return "", cannotServe(address, errors.New("no address"), "want host:port or port, as in -http 127.0.0.1:7080; 0.0.0.0:7080 is for everyone")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

func listenError(address string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return cannotServe(address, errors.New("another program has this port"), `"ss -ltnp" says which; -http 127.0.0.1:0 takes a free one`)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return cannotServe(address, errors.New("this host has no such address"), `"ip address" lists the addresses; 0.0.0.0 stands for all`)
	case errors.Is(err, syscall.EACCES):
		return cannotServe(address, err, "ports below 1024 need CAP_NET_BIND_SERVICE; take a higher one")
	}
	return cannotServe(address, err, "want host:port or port, as in -http 127.0.0.1:7080")
}

// URL returns the address of the page.
func (s *Server) URL() string {
	host, port, _ := net.SplitHostPort(s.listener.Addr().String())
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	scheme := "http://"
	if s.access.TLS != nil {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port) + "/"
}

// Close releases the port if Run will not be called.
func (s *Server) Close() error { return s.listener.Close() }

// Run serves the contents of source until ctx is done, which is a clean end, and
// returns once all requests have ended.
func (s *Server) Run(ctx context.Context, source Source) error {
	s.source = source
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          quiet(),
		ConnContext:       setBuffer,
		TLSConfig:         s.access.TLS,
		// HTTP/1.1 only, because what a page does not read must stay in the kernel.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	g, ctx := errgroup.WithContext(ctx)
	s.address = s.URL()
	g.Go(func() error { return s.watch(ctx) })
	for _, h := range s.rules.webhooks {
		g.Go(func() error { h.run(ctx); return nil })
	}
	g.Go(func() error {
		<-ctx.Done()
		s.end()
		grace, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		return nil
	})
	g.Go(func() error {
		var err error
		if s.access.TLS != nil {
			err = server.ServeTLS(s.listener, "", "")
		} else {
			err = server.Serve(s.listener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("the page's server: %w", err)
	})
	return g.Wait()
}

func setBuffer(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if a, ok := c.(*admitted); ok {
		ctx, c = withConn(ctx, a), a.Conn
	}
	if w, ok := c.(interface{ SetWriteBuffer(int) error }); ok {
		_ = w.SetWriteBuffer(sendBuffer) // it only affects how late pages can be
	}
	return ctx
}

// handler returns the handler for everything, with all checks.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for name, a := range s.assets {
		if name == "/" {
			name = "/{$}"
		}
		mux.Handle("GET "+name, a)
	}
	for _, e := range append(Endpoints(s), s.more...) {
		mux.Handle(e.Pattern(), e.Handler(send))
		if e.Method == http.MethodPost {
			mux.HandleFunc("GET "+e.Path, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Allow", http.MethodPost)
				fail(w, http.StatusMethodNotAllowed, "only POST")
			})
		}
	}
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "no such address; /api/v1/openapi.json describes them")
	})
	return secure(s.host, s.access.Origins, newGuard(s.access, welcoming(mux)))
}
