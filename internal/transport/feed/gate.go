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

// Limits restrict who may connect, and how often. The zero value allows everyone.
type Limits struct {
	// Allow lists the networks of collectors; nil means any.
	Allow []netip.Prefix
	// PerSource is the maximum number of concurrent connections from one IPv4 address
	// or one IPv6 /64, because a host may use all of that; 0 means no limit.
	PerSource int
}

// Refused counts refused connections by reason.
type Refused struct {
	NotAllowed uint64 // outside Limits.Allow
	TooMany    uint64 // exceeds Limits.PerSource, or too many concurrent handshakes
	Handshake  uint64 // TLS: no handshake in time, missing or invalid certificate, no TLS
}

const (
	// handshakeTime is how long a collector may take to authenticate.
	handshakeTime = 5 * time.Second
	// maxHandshakes is the maximum number of concurrent handshakes, from all sources
	// and from one. Each holds about 20 KiB until it ends or handshakeTime is over.
	maxHandshakes          = 1024
	maxHandshakesPerSource = 64
	// handshakeRate is the maximum average number of handshakes per second. Each costs
	// about 0.2 ms of CPU time, which the capture then lacks.
	handshakeRate = 500
	// complaints is the maximum number of messages per complainEvery; further events
	// are only counted.
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
	sources     map[netip.Addr]*sourceState
	handshaking int
	counts      Refused

	said     int // number of messages since period began
	unsaid   int
	periodAt time.Time
}

// sourceState is the state of one address.
type sourceState struct {
	open        int // connections, including those in a handshake
	handshaking int
}

func newGate(l Limits, say func(string, ...any)) *gate {
	return &gate{limits: l, say: say, sources: map[netip.Addr]*sourceState{}}
}

// sourceOf returns the address by which limits are counted.
func sourceOf(a netip.Addr) netip.Addr {
	if a.Is6() && !a.IsLoopback() {
		p, _ := a.WithZone("").Prefix(64)
		return p.Addr()
	}
	return a
}

// enter admits a connection and counts it, or returns the reason to refuse it. The
// caller must call leave for an admitted connection, and with TLS greeted before that.
func (g *gate) enter(a netip.Addr, secure bool) error {
	if g.limits.Allow != nil && !slices.ContainsFunc(g.limits.Allow, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) }) {
		return errNotAllowed
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	key := sourceOf(a)
	s := g.sources[key]
	if s == nil {
		s = &sourceState{}
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

// greeted records that the handshake is over, whatever its outcome.
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

// refused counts a refused connection, and reports it unless there have been too many
// messages.
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

// pace spaces the handshakes of one listener; further connections wait in the kernel's
// queue. The plain feed has no pace.
type pace struct {
	free time.Time // when the next may begin, at most handshakeBurst in the past
}

// handshakeBurst is the credit that an idle listener accumulates.
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

// tlsError returns an error that describes a failed handshake.
func tlsError(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errTLS}, args...)...)
}
