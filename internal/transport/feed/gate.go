package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Limits say who may connect, and how often. The zero value lets everyone in.
type Limits struct {
	// Allow lists the networks that collectors may be in; nil is everywhere.
	Allow []netip.Prefix
	// PerSource is the most connections from one address at a time, or from
	// one /64 of IPv6, since a host has all of that; 0 is any number.
	PerSource int
}

// Refused counts connections that were not let in, by reason.
type Refused struct {
	NotAllowed uint64 // outside Limits.Allow
	TooMany    uint64 // beyond Limits.PerSource, or too many handshakes at once
	Handshake  uint64 // TLS: no handshake in time, wrong or no certificate, no TLS
}

const (
	// handshakeTime is how long a collector may take to prove who it is.
	handshakeTime = 5 * time.Second
	// maxHandshakes is how many may be on their way, from all sources and from
	// one. Each holds some 20 KiB until it ends, or handshakeTime is over.
	maxHandshakes          = 1024
	maxHandshakesPerSource = 64
	// handshakeRate is the most that begin in a second, in the long run. One
	// costs about 0.2 ms of CPU, which is then lacking for the capture.
	handshakeRate = 500
	// complaints are said in each period of complainEvery; what is beyond is
	// counted only.
	complaints = 20
)

var (
	errNotAllowed = errors.New("its address is not allowed (-allow)")
	errTooMany    = errors.New("too many connections from its address (-max-per-source)")
	errHandshakes = errors.New("too many unfinished TLS handshakes")
	errTLS        = errors.New("TLS")
)

// gate decides who may connect.
type gate struct {
	limits Limits
	say    func(string, ...any)

	mu          sync.Mutex
	sources     map[netip.Addr]*source
	handshaking int
	counts      Refused

	said     int // complaints since period began
	unsaid   int
	periodAt time.Time
}

// source is what one address has open.
type source struct {
	open        int // connections, handshakes included
	handshaking int
}

func newGate(l Limits, say func(string, ...any)) *gate {
	return &gate{limits: l, say: say, sources: map[netip.Addr]*source{}}
}

// sourceOf is the address that limits are counted by.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is6() && !a.IsLoopback() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}

// enter counts a connection in, unless it must not be. Whoever was let in
// must leave, and with TLS be greeted first.
func (g *gate) enter(a netip.Addr, secure bool) error {
	if g.limits.Allow != nil && !slices.ContainsFunc(g.limits.Allow, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) }) {
		return errNotAllowed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := sourceOf(a)
	s := g.sources[key]
	if s == nil {
		s = &source{}
	}
	if g.limits.PerSource > 0 && s.open >= g.limits.PerSource {
		return errTooMany
	}
	if secure {
		if g.handshaking >= maxHandshakes || s.handshaking >= maxHandshakesPerSource {
			return errHandshakes
		}
		g.handshaking++
		s.handshaking++
	}
	s.open++
	g.sources[key] = s
	return nil
}

// greeted: the handshake is over, however it ended.
func (g *gate) greeted(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handshaking--
	g.sources[sourceOf(a)].handshaking--
}

func (g *gate) leave(a netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := sourceOf(a)
	s := g.sources[key]
	if s.open--; s.open == 0 {
		delete(g.sources, key)
	}
}

// refused counts a connection that was not let in, and says so unless that
// has been said too often.
func (g *gate) refused(addr netip.AddrPort, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case errors.Is(why, errNotAllowed):
		g.counts.NotAllowed++
	case errors.Is(why, errTLS):
		g.counts.Handshake++
	default:
		g.counts.TooMany++
	}
	if now := time.Now(); now.Sub(g.periodAt) >= complainEvery {
		if g.unsaid > 0 {
			g.say("%d more connections were refused", g.unsaid)
		}
		g.periodAt, g.said, g.unsaid = now, 0, 0
	}
	if g.said++; g.said > complaints {
		g.unsaid++
		return
	}
	g.say("%s refused: %v", addr, why)
}

func (g *gate) count() Refused {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.counts
}

// refuse closes a connection without waiting for anything.
func refuse(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// pace spreads the handshakes of one listener: those to come wait in the
// kernel's queue. The plain feed has none.
type pace struct {
	free time.Time // when the next may begin, at the latest handshakeBurst ago
}

// handshakeBurst is how far a listener that was idle may run ahead.
const handshakeBurst = time.Second

func newPace(secure *tls.Config) *pace {
	if secure == nil {
		return nil
	}
	return &pace{}
}

func (p *pace) wait(ctx context.Context) {
	if p == nil {
		return
	}
	now := time.Now()
	if earliest := now.Add(-handshakeBurst); p.free.Before(earliest) {
		p.free = earliest
	}
	p.free = p.free.Add(time.Second / handshakeRate)
	if d := p.free.Sub(now); d > 0 {
		sleep(ctx, d)
	}
}

// tlsError is a failed handshake, in words.
func tlsError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errTLS}, args...)...)
}
