package collector

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Limits of name lookups. Addresses come from packets, so anybody can generate any
// number of them.
const (
	lookups     = 4               // at the same time
	lookupQueue = 256             // waiting addresses; more are looked up when requested again
	lookupTime  = 5 * time.Second // per lookup
	lookupAge   = 10 * time.Minute
	maxNames    = 16384
)

// Names provides names of addresses: those in a file and, with lookups, those of name
// servers. It is safe for concurrent use.
type Names struct {
	file   *NameFile
	lookup func(ctx context.Context, addr string) ([]string, error) // nil: only the file's
	queue  chan netip.Addr

	mu    sync.Mutex
	found map[netip.Addr]foundName
}

// foundName is a name server's answer; name is "" if there is none, or none yet.
type foundName struct {
	name string
	at   time.Time
}

// NewNames returns the Names of a file, which may be nil, and of name servers if
// resolve is set; Run must then be called.
func NewNames(file *NameFile, resolve bool) *Names {
	n := &Names{file: file, queue: make(chan netip.Addr, lookupQueue), found: make(map[netip.Addr]foundName)}
	if resolve {
		n.lookup = net.DefaultResolver.LookupAddr
	}
	return n
}

// Label returns the name of the agent with this label, or "".
func (n *Names) Label(label string) string { return n.file.Label(label) }

// Addr returns the name of an address, or "" if there is none or it is not known yet.
// It never waits: a name server's answer is returned by a later call.
func (n *Names) Addr(a netip.Addr) string {
	a = a.WithZone("").Unmap()
	if name := n.file.Addr(a); name != "" || n.lookup == nil {
		return name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f, asked := n.found[a]
	if asked && time.Since(f.at) < lookupAge {
		return f.name
	}
	select {
	case n.queue <- a:
		n.remember(a, foundName{f.name, time.Now()})
	default:
	}
	return f.name
}

// remember stores a name; if there are too many, an arbitrary other one is removed.
func (n *Names) remember(a netip.Addr, f foundName) {
	if _, ok := n.found[a]; !ok && len(n.found) >= maxNames {
		for other := range n.found {
			delete(n.found, other)
			break
		}
	}
	n.found[a] = f
}

// Run queries name servers until ctx is done.
func (n *Names) Run(ctx context.Context) error {
	if n.lookup == nil {
		return nil
	}
	var g errgroup.Group
	for range lookups {
		g.Go(func() error {
			for {
				select {
				case a := <-n.queue:
					n.ask(ctx, a)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return g.Wait()
}

// ask looks up one address. A missing name and a name server that does not respond are
// answers too: they are looked up again after lookupAge.
func (n *Names) ask(ctx context.Context, a netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	names, err := n.lookup(ctx, a.String())
	if err != nil || len(names) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remember(a, foundName{strings.TrimSuffix(names[0], "."), time.Now()})
}
