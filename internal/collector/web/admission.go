package web

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// admission bounds the connections of a listener without letting strangers keep users
// out. A connection is a stranger's until it has made a request that only users may
// make. If there are too many connections, the oldest stranger's connection of the
// source with the most strangers is closed; a source is an IPv4 address, or an IPv6
// /64.
type admission struct {
	net.Listener
	max int

	mu        sync.Mutex
	all       int
	strangers map[netip.Prefix][]*admitted // oldest first

	evicted, refused atomic.Uint64
}

// admitted is an admitted connection.
type admitted struct {
	net.Conn
	to     *admission
	source netip.Prefix
	gone   bool // no longer counted by to; guarded by to.mu
}

func admit(l net.Listener, max int) *admission {
	return &admission{Listener: l, max: max, strangers: map[netip.Prefix][]*admitted{}}
}

// Accept implements net.Listener.
func (a *admission) Accept() (net.Conn, error) {
	for {
		conn, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &admitted{Conn: conn, to: a, source: sourceOf(conn.RemoteAddr().String())}
		doomed, ok := a.add(c)
		if doomed != nil {
			a.evicted.Add(1)
			doomed.Close()
		}
		if ok {
			return c, nil
		}
		a.refused.Add(1)
		conn.Close()
	}
}

// add admits c, unless all connections are users'. It returns the stranger's connection
// that must be closed to make room, if any.
func (a *admission) add(c *admitted) (doomed *admitted, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all >= a.max {
		if doomed = a.oldest(); doomed == nil {
			return nil, false
		}
		a.forget(doomed)
	}
	a.all++
	a.strangers[c.source] = append(a.strangers[c.source], c)
	return doomed, true
}

// oldest returns the oldest stranger's connection of the source with the most, or nil.
func (a *admission) oldest() (c *admitted) {
	most := 0
	for _, list := range a.strangers {
		if len(list) > most {
			most, c = len(list), list[0]
		}
	}
	return c
}

// forget stops counting c. It may be called repeatedly.
func (a *admission) forget(c *admitted) {
	if c.gone {
		return
	}
	c.gone = true
	a.all--
	a.remove(c)
}

// remove removes c from the strangers' connections, if it is one.
func (a *admission) remove(c *admitted) {
	list := a.strangers[c.source]
	if i := slices.Index(list, c); i >= 0 {
		a.strangers[c.source] = slices.Delete(list, i, i+1)
	}
	if len(a.strangers[c.source]) == 0 {
		delete(a.strangers, c.source)
	}
}

// Close implements net.Conn.
func (c *admitted) Close() error {
	c.to.mu.Lock()
	c.to.forget(c)
	c.to.mu.Unlock()
	return c.Conn.Close()
}

// welcome marks the connection as a user's.
func (c *admitted) welcome() {
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.remove(c)
}

type admittedKey struct{}

// withConn stores a connection in its requests' context.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, admittedKey{}, c)
}

// welcoming marks connections that make requests which only users may make.
func welcoming(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(admittedKey{}).(*admitted); ok && r.URL.Path != healthPath {
			c.welcome()
		}
		next.ServeHTTP(w, r)
	})
}

// sourceOf returns the source of an address with a port.
func sourceOf(address string) netip.Prefix {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	bits, addr := 64, at.Addr().Unmap().WithZone("")
	if addr.Is4() {
		bits = 32
	}
	source, _ := addr.Prefix(bits) // bits is in range
	return source
}
