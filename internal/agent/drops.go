package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/netns"
	"github.com/pcapper/pcapper/internal/host/fault"
	"github.com/pcapper/pcapper/wire"
)

// dropTable is the number of fragmented datagrams and TCP streams that a decoder of
// dropped packets remembers.
const dropTable = 64

// dropTracer is the kernel side of -drops, shared by all agents of the program.
type dropTracer struct {
	*capture.Drops // nil if there are no events
	why            string
}

// openDropTracer sets up -drops. If the kernel or missing privileges prevent it, the
// agent works without.
func openDropTracer(wanted bool) dropTracer {
	if !wanted {
		return dropTracer{why: "off: as asked with -drops=false"}
	}
	d, err := capture.OpenDrops()
	if err != nil {
		why := fmt.Sprintf("off: %v", err)
		if hint := fault.Hint(err); strings.Contains(hint, "CAP_") {
			why += " (it needs CAP_BPF and CAP_PERFMON)"
		}
		return dropTracer{why: why}
	}
	t := dropTracer{Drops: d, why: "on: packets that the kernel drops are reported with its reason to collectors of IPFIX"}
	if !d.Sockets() {
		t.why += "; losses at sockets are not noticed before Linux 6.11"
	}
	return t
}

func (t dropTracer) close() {
	if t.Drops != nil {
		t.Close()
	}
}

// drops reports the dropped packets of one interface.
type drops struct {
	a       *agent
	watch   *capture.DropWatch
	decoder *decode.Decoder // belongs to tell
	recs    [64]wire.Record

	mu      sync.Mutex
	reasons map[wire.Reason]uint64
	sum     uint64
	other   uint64 // drops that yielded no record
	ended   capture.DropStats
}

// watchDrops starts reporting dropped packets. It returns nil if there are no drop
// events.
func (a *agent) watchDrops() (*drops, error) {
	tracer := a.fleet.tracer
	if tracer.Drops == nil {
		return nil, nil
	}
	cfg := a.cfg.decoder()
	cfg.FragmentEntries, cfg.TCPEntries = dropTable, dropTable
	d := &drops{a: a, decoder: decode.New(cfg), reasons: map[wire.Reason]uint64{}}
	d.decoder.SetLocal(*a.watched.local())
	var inode uint64
	err := a.point.ns.Do(func() (err error) {
		inode, err = netns.CurrentInode()
		return err
	})
	if err != nil {
		return nil, err
	}
	d.watch, err = tracer.Watch(inode, a.watched.iface.Index, d.tell)
	return d, err
}

// tell publishes the records of a dropped packet.
func (d *drops) tell(drop *capture.Drop) {
	n := d.decoder.Decode(&drop.Frame, d.recs[:])
	if n == 0 {
		d.count(0, 0)
		return
	}
	reason := wire.ReasonNamed(drop.Reason)
	for ; n > 0; n = d.decoder.Drain(d.recs[:]) {
		recs := d.recs[:n]
		for i := range recs {
			recs[i].Flags |= wire.Dropped
			recs[i].Reason = reason
		}
		if keep := d.a.capture.keep; keep != nil {
			recs = recs[:keep(recs)]
		}
		d.a.hub.Publish(recs...)
		d.count(reason, len(recs))
		if !d.decoder.Pending() {
			return
		}
	}
}

func (d *drops) count(reason wire.Reason, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n == 0 {
		d.other++
		return
	}
	d.reasons[reason] += uint64(n)
	d.sum += uint64(n)
}

// dropCounts counts dropped packets by what became of them.
type dropCounts struct {
	reasons          map[string]uint64 // reported, by reason
	sum              uint64            // of reasons
	undecoded        uint64
	untold, harmless uint64 // see capture.DropStats
}

func (d *drops) counts() (c dropCounts) {
	if d == nil {
		return c
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.ended
	if d.watch != nil {
		s = d.watch.Stats()
	}
	c = dropCounts{reasons: map[string]uint64{}, sum: d.sum, undecoded: d.other, untold: s.Untold, harmless: s.Harmless}
	for r, n := range d.reasons {
		c.reasons[cmp.Or(r.String(), "unknown")] += n
	}
	return c
}

// stop stops reporting; no report follows after it returns.
func (d *drops) stop() {
	if d == nil {
		return
	}
	d.watch.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended, d.watch = d.watch.Stats(), nil
}

// String returns the line for the summary, or "" if nothing was dropped.
func (c dropCounts) String() string {
	var parts []string
	names := slices.SortedFunc(maps.Keys(c.reasons), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.reasons[b], c.reasons[a]), cmp.Compare(a, b))
	})
	for _, name := range names {
		parts = append(parts, number(c.reasons[name])+" "+name)
	}
	add := func(n uint64, what string) {
		if n > 0 {
			parts = append(parts, number(n)+" "+what)
		}
	}
	add(c.untold, "too many at once to be reported")
	add(c.undecoded, "without a record")
	if len(parts) == 0 {
		return ""
	}
	return "summary: packets dropped in the network stack: " + strings.Join(parts, ", ")
}
