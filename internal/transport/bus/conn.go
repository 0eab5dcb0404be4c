package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/host/fault"
)

const (
	// retryPause is the pause before anything that failed is retried.
	retryPause = 500 * time.Millisecond
	// dialTime bounds connecting to one server, including TLS.
	dialTime = 3 * time.Second
	// requestTime bounds a request to the servers.
	requestTime = 3 * time.Second
	// A server that misses two pings is considered dead.
	pingEvery = 2 * time.Second
)

// Config configures a connection.
type Config struct {
	Target *ClusterURL
	// Name is the name shown in the servers' lists of clients.
	Name string
	// InProcess is a server in this process, used instead of Target's.
	InProcess nats.InProcessConnProvider
	// Say prints messages for the user. It may be nil.
	Say func(format string, args ...any)
	// Patient retries after authentication failures.
	Patient bool
	// Peer is called with each address before connecting to it. It may be nil.
	Peer func(netip.AddrPort)
}

// Conn is a connection to a bus. It reconnects indefinitely.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	target *ClusterURL
	cfg    Config
	say    func(format string, args ...any)
	away   atomic.Bool // it has been reported that the bus is away
	warned atomic.Bool // of streams on too few servers
	ended  atomic.Bool // closed by us: errors from now on are not reported

	connecting atomic.Bool
	failed     chan error // the reason why an attempt failed, while connecting
}

// Connect connects to a bus. It is not an error if the bus is away, because it may
// appear later, but it is an error if the bus rejects us.
func Connect(cfg Config) (*Conn, error) {
	c := &Conn{target: cfg.Target, cfg: cfg, say: cfg.Say, failed: make(chan error, 1)}
	c.connecting.Store(true)
	if c.say == nil {
		c.say = func(string, ...any) {}
	}
	options, err := c.options(cfg)
	if err != nil {
		return nil, err
	}
	if c.nc, err = options.Connect(); err != nil {
		return nil, c.refused(err)
	}
	err = c.nc.LastError()
	refused := fatal(err)
	if err == nil && !c.nc.IsConnected() { // the next attempt has begun, which makes the library forget the error
		select {
		case err = <-c.failed:
			refused = errors.Is(err, nats.ErrAuthorization)
		case <-time.After(dialTime):
		}
	}
	c.connecting.Store(false)
	if err != nil && !c.nc.IsConnected() {
		if refused && !cfg.Patient {
			c.ended.Store(true)
			c.nc.Close()
			return nil, c.refused(err)
		}
		c.lost(err)
	}
	c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(requestTime), jetstream.WithPublishAsyncTimeout(maxAckTime))
	return c, err
}

// fatal reports whether an error will not go away by retrying.
func fatal(err error) bool {
	var unknown x509.UnknownAuthorityError
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrSecureConnRequired) ||
		errors.Is(err, nats.ErrSecureConnWanted) || errors.As(err, &unknown)
}

// refused returns err with a hint.
func (c *Conn) refused(err error) error {
	told := fmt.Errorf("bus %s: %w", c.target, err)
	switch {
	case errors.Is(err, nats.ErrAuthorization):
		return fault.WithHint(told, "name who we are: nats://USER:PASSWORD@..., nats://TOKEN@..., ?creds=FILE or ?nkey=FILE")
	case errors.Is(err, nats.ErrSecureConnRequired):
		return fault.WithHint(told, "the server wants TLS: use tls://")
	case errors.Is(err, nats.ErrSecureConnWanted):
		return fault.WithHint(told, "the server has no TLS: use nats://, or give it a certificate")
	}
	return fault.WithHint(told, "?ca=FILE names the authority of the servers' certificates; ?cert=FILE&key=FILE is for servers that want ours")
}

func (c *Conn) options(cfg Config) (*nats.Options, error) {
	o := nats.GetDefaultOptions()
	o.Name = cfg.Name
	o.MaxReconnect = -1
	o.RetryOnFailedConnect = true
	o.IgnoreAuthErrorAbort = true
	o.ReconnectWait = retryPause
	o.ReconnectJitter, o.ReconnectJitterTLS = retryPause/2, retryPause/2
	o.ReconnectBufSize = -1 // Publisher keeps what cannot be sent
	o.Timeout = dialTime
	o.PingInterval, o.MaxPingsOut = pingEvery, 2
	o.DisconnectedErrCB = func(_ *nats.Conn, err error) { c.lost(err) }
	o.ReconnectedCB = func(nc *nats.Conn) { c.back(nc) }
	o.ConnectedCB = o.ReconnectedCB
	o.ReconnectErrCB = func(_ *nats.Conn, err error) { c.lost(err) }
	o.AsyncErrorCB = func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if !errors.Is(err, nats.ErrSlowConsumer) { // a cursor notices what is missing and reads it again
			c.say("bus %s: %v", c.target, err)
		}
	}
	if cfg.InProcess != nil {
		o.InProcessServer = cfg.InProcess
		c.target = &ClusterURL{Servers: []string{"in this process"}, Tenant: "default", Site: "default"}
		return &o, nil
	}
	o.Servers = cfg.Target.Servers
	if cfg.Peer != nil {
		o.CustomDialer = &net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error {
			if peer, err := netip.ParseAddrPort(address); err == nil {
				cfg.Peer(peer)
			}
			return nil
		}}
	}
	return &o, cfg.Target.identify(&o)
}

// identify sets our identity, and how to verify the servers'.
func (t *ClusterURL) identify(o *nats.Options) error {
	if t.Creds != "" {
		if _, err := os.ReadFile(t.Creds); err != nil {
			return fault.WithHint(fmt.Errorf("bus %s: credentials: %w", t, err), "creds names a file with a JWT and its seed, as nsc writes it")
		}
		if err := nats.UserCredentials(t.Creds)(o); err != nil {
			return err
		}
	}
	if t.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(t.NKey)
		if err != nil {
			return fault.WithHint(fmt.Errorf("bus %s: nkey %q: %w", t, t.NKey, err), "nkey names a file with a seed that begins with SU")
		}
		if err := option(o); err != nil {
			return err
		}
	}
	if !t.Secure {
		return nil
	}
	o.Secure = true
	var err error
	o.TLSConfig, err = t.tls()
	return err
}

func (t *ClusterURL) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12} // the servers' administrators decide
	if t.CA != "" {
		var err error
		if cfg.RootCAs, err = certs.Authorities(t.CA); err != nil {
			return nil, fmt.Errorf("bus %s: %w", t, err)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("bus %s: certificate %q with key %q: %w", t, t.Cert, t.Key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// lost reports once that the bus is away.
func (c *Conn) lost(err error) {
	if c.connecting.Load() {
		select {
		case c.failed <- err:
		default:
		}
		return
	}
	if c.ended.Load() || c.away.Swap(true) {
		return
	}
	hint := ""
	switch {
	case err == nil:
		err = errors.New("the server closed the connection")
	case fatal(err):
		hint = " (" + fault.Hint(c.refused(err)) + ")"
	case strings.Contains(err.Error(), "tls"): // their TLS alerts have no type, and a missing certificate causes no alert
		hint = " (if the servers want our certificate: ?cert=FILE&key=FILE, one for a client)"
	}
	c.say("bus %s: away: %v; still trying%s", c.target, err, hint)
}

func (c *Conn) back(nc *nats.Conn) {
	if c.away.Swap(false) {
		c.say("bus %s: connected to %s", c.target, nc.ConnectedAddr())
	}
}

// Connected reports whether the bus is connected.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Close ends the connection.
func (c *Conn) Close() {
	c.ended.Store(true)
	c.js.CleanupPublisher()
	c.nc.Close()
}

// retry calls f until it succeeds, with pauses. It returns f's error if that is a
// *fault.Error or a *taken, or ctx's.
func (c *Conn) retry(ctx context.Context, what string, f func() error) error {
	for said := false; ; {
		err := f()
		if err == nil || final(err) || ctx.Err() != nil {
			return err
		}
		if !said && !c.away.Load() {
			said = true
			c.say("bus %s: %s: %v; still trying", c.target, what, err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

// final reports whether an error will not go away by retrying.
func final(err error) bool {
	var told *fault.Error
	var other *taken
	return errors.As(err, &told) || errors.As(err, &other)
}

func pause(ctx context.Context) error {
	t := time.NewTimer(retryPause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
