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

// Limits of looking up names. Addresses come from packets, so anybody may make
// any number of them up.
const (
	lookups     = 4               // at a time
	lookupQueue = 256             // addresses that wait; more are asked for the next time
	lookupTime  = 5 * time.Second // for one
	lookupAge   = 10 * time.Minute
	maxNames    = 16384
)

// Names has names of addresses: those of a file, and those that a name
// server knows if there is a resolver. Any goroutine may use it.
type Names struct {
	file   *NameFile
	lookup func(ctx context.Context, addr string) ([]string, error) // nil: the file's alone
	queue  chan netip.Addr

	mu    sync.Mutex
	found map[netip.Addr]foundName
}

// foundName is a name server's answer; name is "" if there is none yet, or
// none at all.
type foundName struct {
	name string
	at   time.Time
}

// NewNames makes Names of a file, which may be nil, and of name servers if
// resolve is set; then Run must run.
func NewNames(file *NameFile, resolve bool) *Names {
	n := &Names{file: file, queue: make(chan netip.Addr, lookupQueue), found: make(map[netip.Addr]foundName)}
	if resolve {
		n.lookup = net.DefaultResolver.LookupAddr
	}
	return n
}

// Label is the name of the agent with this label, or "".
func (n *Names) Label(label string) string { return n.file.Label(label) }

// Addr is the name of an address, or "" if there is none or it is not known
// yet. It never waits: a name server's answer is there the next time.
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

// remember keeps a name; when there are too many, any other one goes.
func (n *Names) remember(a netip.Addr, f foundName) {
	if _, ok := n.found[a]; !ok && len(n.found) >= maxNames {
		for other := range n.found {
			delete(n.found, other)
			break
		}
	}
	n.found[a] = f
}

// Run asks name servers until ctx is done.
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

// ask looks up one address. That there is no name is an answer, too, and so is
// a name server that does not answer: it is asked again after lookupAge.
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
