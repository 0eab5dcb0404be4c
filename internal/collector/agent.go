package collector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pcapper/pcapper/internal/host/certs"
	"github.com/pcapper/pcapper/internal/transport/feed"
	"github.com/pcapper/pcapper/wire"
)

// agent is a line label:host:port of the file and the connection to it, or a log that
// is replayed, which has no client.
type agent struct {
	c      *collector
	index  uint32
	host   *Host
	client *feed.Client
	cancel context.CancelFunc // stops client, which then closes ended
	ended  chan struct{}

	// gone means that the configuration no longer lists it, or that only the archive
	// knows it.
	gone atomic.Bool
	out  *outgoing // its batches; nil without Config.Batches

	number      uint32        // of the next item; owned by the goroutine that fills the hub
	records     atomic.Uint64 // received
	connections atomic.Uint64 // made
	state       atomic.Pointer[feed.ClientState]
	elsewhere   atomic.Bool                      // another collector is connected to it
	withheld    atomic.Uint64                    // records discarded because another collector may have them
	numbered    atomic.Bool                      // the connection provides the records' numbers
	failed      atomic.Pointer[feed.ClientState] // the last failure; nil while connected

	followed *followed // nil unless other collectors collect from it

	missing atomic.Pointer[feed.Losses] // of an agent that connects to us

	said string // the last failure reported; used by the client's goroutine only

	told   feed.Losses // the last losses reported; used by report only
	toldAt time.Time
}

// newAgent uses files if the agent's line requires TLS.
func newAgent(c *collector, index uint32, host *Host, files certs.Files) *agent {
	a := &agent{c: c, index: index, host: host}
	a.state.Store(&feed.ClientState{Phase: feed.Dialling})
	cfg := feed.ClientConfig{
		Address: a.host.Address(), Records: a.take, State: a.change, IPFIX: a.host.IPFIX, PEN: a.host.PEN,
	}
	if c.share != nil { // others may read the same records
		cfg.Number = a.mark
	}
	if a.host.TLS != nil {
		cfg.TLS = func() (*tls.Config, error) { return a.host.tlsConfig(files) }
	}
	a.client = feed.NewClient(cfg)
	return a
}

// String returns the agent's name for messages.
func (a *agent) String() string {
	return fmt.Sprintf("%s (%s)", a.host.Label, a.host.Address())
}

// take sorts records into flows and publishes them. It waits for nothing but the take
// of other agents.
func (a *agent) take(records []wire.Record) {
	if a.client != nil && a.withholds() {
		a.withheld.Add(uint64(len(records))) // another collector may have them
		return
	}
	a.records.Add(uint64(len(records)))
	a.publish(records, nil, false)
}

// publish passes records to the hub; again means that the hub has had them before.
// played holds the times at which records of a log were played, nil for other records.
func (a *agent) publish(records []wire.Record, played []int64, again bool) {
	classes := a.c.classes.Load()
	for len(records) > 0 {
		a.c.hub.Fill(func(free []Item) int {
			n := min(len(free), len(records))
			for i := range n {
				item := &free[i]
				item.Record = records[i]
				item.Host, item.Again, item.number = a.index, again, a.number
				if !again && item.Flags&wire.HostStat == 0 {
					a.number++
				}
				item.match, item.generation = classes.match(&item.Record), classes.generation
			}
			for i := range min(n, len(played)) {
				free[i].played = played[i]
			}
			if again {
				a.c.again.Add(uint64(n))
			}
			records, played = records[n:], played[min(n, len(played)):]
			return n
		})
	}
}

// mark sets the number of the next record; with boot 0 the next records have no
// numbers.
func (a *agent) mark(boot, number uint64) {
	a.numbered.Store(boot != 0)
	if a.out != nil {
		a.out.marks.put(mark{a.number, boot, number})
	}
}

// change reports a new state of the connection, each state once until it changes.
func (a *agent) change(s feed.ClientState) {
	switch s.Phase {
	case feed.Connected:
		a.mark(0, 0)
		a.connections.Add(1)
		a.said = ""
		a.failed.Store(nil)
		a.c.say.printf("%v: connected", a)
	case feed.Unreachable, feed.Lost:
		a.failed.Store(&s)
		if text := stateText(&s); text != a.said {
			a.said = text
			a.c.say.printf("%v: %s; trying again, at longest every 10 s", a, text)
		}
	}
	a.state.Store(&s)
}

// reportLosses reports what is missing from the agent's records, at most as often as
// losses on stdout.
func (a *agent) reportLosses(now time.Time) {
	l := a.losses()
	if l == a.told || !a.toldAt.IsZero() && now.Sub(a.toldAt) < lossEvery {
		return
	}
	a.told, a.toldAt = l, now
	a.c.say.printf("%v: missing so far: %v", a, l)
}

// losses returns what is known to be missing from the agent's records.
func (a *agent) losses() feed.Losses {
	switch l := a.missing.Load(); {
	case a.client != nil:
		return a.client.Losses()
	case l != nil:
		return *l
	}
	return feed.Losses{}
}

// stateText describes a state in a few words.
func stateText(s *feed.ClientState) string {
	switch s.Phase {
	case feed.Unreachable:
		return "cannot connect: " + failure(s.Err)
	case feed.Lost:
		return "connection lost: " + failure(s.Err)
	}
	return s.Phase.String()
}

// atAnother is the state of an agent that another collector is connected to.
const atAnother = "another collector has it"

// failure returns a network error without the addresses, which the user already knows.
func failure(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, feed.ErrTLS):
		return err.Error()
	case errors.As(err, &dns):
		return "name lookup: " + dns.Err
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.Is(err, feed.ErrNotRecords):
		return err.Error()
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return "no answer"
	}
	return cause(err).Error()
}
