package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/wire"
)

const (
	// membersEvery is the interval at which all groups are reported even if nothing has
	// changed, to make up for lost records.
	membersEvery = 10 * time.Second
	// membersPoll is the interval at which groups are read if the kernel does not
	// report changes.
	membersPoll = 500 * time.Millisecond
	// maxMemberships is the maximum number of groups reported.
	maxMemberships = 512
)

// groups reports the multicast groups of the interface to collectors of IPFIX while any
// are attached.
type groups struct {
	a       *agent
	index   int         // of the interface
	follows atomic.Bool // the kernel reports changes
	wanted  atomic.Bool
	look    chan struct{} // something has changed
	all     chan struct{} // a new collector needs the whole list
	sent    atomic.Uint64
}

// newGroups returns nil if there is no output that carries memberships.
func (a *agent) newGroups() *groups {
	if !a.cfg.Members || a.cfg.IPFIXPort == 0 && a.cfg.IPFIXTLSPort == 0 && len(a.exports) == 0 {
		return nil
	}
	m := &groups{a: a, index: a.watched.iface.Index, look: make(chan struct{}, 1), all: make(chan struct{}, 1)}
	m.wanted.Store(len(a.exports) > 0)
	return m
}

// attached is called with the number of attached collectors and exports.
func (m *groups) attached(n int) {
	m.wanted.Store(n > 0)
	wake(m.all)
}

// changed signals that the groups may have changed.
func (m *groups) changed() {
	if m != nil {
		wake(m.look)
	}
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (m *groups) run(ctx context.Context) error {
	var reader *iface.GroupReader
	err := m.a.point.ns.Do(func() (err error) {
		reader, err = iface.OpenGroups()
		return err
	})
	if err != nil {
		m.a.out.printf("memberships in multicast groups are not reported: %v", err)
		return nil
	}
	defer reader.Close()
	var told []netip.Addr
	var at time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-m.look:
		case <-timer.C:
		case <-m.all:
			all = true
		}
		if !m.wanted.Load() {
			timer.Stop()
			continue
		}
		groups, err := reader.Read(m.index)
		if err != nil {
			m.a.out.printf("memberships in multicast groups are not reported any more: %v", err)
			return nil
		}
		groups = groups[:min(len(groups), maxMemberships)]
		now := time.Now()
		if all || !slices.Equal(groups, told) || now.Sub(at) >= membersEvery-membersPoll/2 {
			m.tell(now, groups)
			told, at = groups, now
		}
		if m.follows.Load() {
			timer.Reset(membersEvery)
		} else {
			timer.Reset(membersPoll)
		}
	}
}

func (m *groups) tell(now time.Time, groups []netip.Addr) {
	recs := make([]wire.Record, 0, len(groups)+1)
	for _, g := range groups {
		recs = append(recs, wire.Membership(now.UnixNano(), g))
	}
	recs = append(recs, wire.Memberships(now.UnixNano(), len(groups)))
	m.a.hub.Publish(recs...)
	m.sent.Add(uint64(len(recs)))
}

// count returns the number of records sent.
func (m *groups) count() uint64 {
	if m == nil {
		return 0
	}
	return m.sent.Load()
}
