package collector

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/pcapper/pcapper/wire"
)

// Item is what the collector's hub carries: a record, whose it is, and which
// flows it belongs to.
type Item struct {
	wire.Record
	// Host is the index of the agent's line in File.Hosts.
	Host uint32
	// Again: somebody goes back in a replay and sees it once more; it has been
	// counted.
	Again bool
	// number counts the items of a host that are not Again, and no host statistics, from
	// 0, modulo 2^32: a reader that lost some can tell whose they were.
	number uint32
	// match says which lines of File.Flows the record belongs to; only the
	// classifier of that generation can read it.
	match      match
	generation uint16
	// played is when a log's record was played, nanoseconds since the epoch.
	// Valid iff logs are played.
	played int64
}

// match names the two sets of flow lines that a record belongs to: those that
// look at its ports, and those that look at its MGEN flow ID. Set 0 is empty.
type match struct{ ports, mgen uint32 }

// classifier finds the flow lines of a record. What it knows it knows from
// the start, so any number of goroutines may use it.
type classifier struct {
	generation uint16 // another one for each change of the configuration's flows
	flows      []Flow
	names      []string // of flows' numbers, as printed
	// sets of indexes of flow lines, each in file order. Set 0 is the empty one.
	sets [][]uint32
	// ports has the set of each destination port.
	ports [1 << 16]uint32
	// services has the set of each port that is one on either side; nil if no flow
	// is of that kind.
	services *[1 << 16]uint32
	// MGEN flow IDs from starts[i] on, up to the next start, have the set ids[i].
	starts []uint32
	ids    []uint32
}

// maxSetMembers bounds the memory of a classifier (16 MiB). Only thousands of
// lines that overlap each other reach it.
const maxSetMembers = 4 << 20

func newClassifier(flows []Flow) (*classifier, error) {
	c := &classifier{sets: [][]uint32{nil}, flows: flows}
	for _, f := range flows {
		c.names = append(c.names, strconv.FormatUint(uint64(f.ID), 10))
	}
	sets := setTable{of: map[string]uint32{"": 0}, sets: &c.sets}
	if err := sets.fill(&c.ports, flows, Port); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(flows, func(f Flow) bool { return f.Kind == Service }) {
		c.services = new([1 << 16]uint32)
		if err := sets.fill(c.services, flows, Service); err != nil {
			return nil, err
		}
	}
	var err error
	c.starts, c.ids, err = sets.partition(flows, MGEN)
	return c, err
}

// fill gives each port the set of the flows of a kind that have it.
func (t *setTable) fill(ports *[1 << 16]uint32, flows []Flow, kind FlowKind) error {
	starts, ids, err := t.partition(flows, kind)
	for i, start := range starts[:len(ids)] {
		end := uint32(len(ports))
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		for port := start; port < end; port++ {
			ports[port] = ids[i]
		}
	}
	return err
}

// setTable numbers sets so that equal ones are stored once.
type setTable struct {
	of      map[string]uint32
	sets    *[][]uint32
	members int
	key     []byte
}

// partition cuts the numbers of a kind where the set of flow lines changes.
// The first start is 0.
func (t *setTable) partition(flows []Flow, kind FlowKind) (starts, ids []uint32, err error) {
	starts = []uint32{0}
	var waiting, active []uint32 // lines that begin later, by First; lines of the set at start
	for i, f := range flows {
		if f.Kind != kind || f.First > f.Last {
			continue
		}
		waiting = append(waiting, uint32(i))
		starts = append(starts, f.First)
		if f.Last < kind.limit() {
			starts = append(starts, f.Last+1)
		}
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	slices.SortFunc(waiting, func(a, b uint32) int { return cmp.Compare(flows[a].First, flows[b].First) })
	for _, start := range starts {
		active = slices.DeleteFunc(active, func(i uint32) bool { return flows[i].Last < start })
		for len(waiting) > 0 && flows[waiting[0]].First == start {
			at, _ := slices.BinarySearch(active, waiting[0])
			active = slices.Insert(active, at, waiting[0])
			waiting = waiting[1:]
		}
		ids = append(ids, t.id(active))
		if t.members > maxSetMembers {
			return nil, nil, fmt.Errorf("%d flow lines overlap too often: want ranges with less in common", len(flows))
		}
	}
	return starts, ids, nil
}

func (t *setTable) id(set []uint32) uint32 {
	t.key = t.key[:0]
	for _, i := range set {
		t.key = binary.NativeEndian.AppendUint32(t.key, i)
	}
	id, ok := t.of[string(t.key)]
	if !ok {
		id = uint32(len(*t.sets))
		*t.sets = append(*t.sets, slices.Clone(set))
		t.of[string(t.key)] = id
		t.members += len(set)
	}
	return id
}

// match finds the flow lines of r. It does not allocate.
func (c *classifier) match(r *wire.Record) match {
	if r.Flags&wire.HostStat != 0 {
		return match{}
	}
	var m match
	if r.Proto == wire.ProtoTCP || r.Proto == wire.ProtoUDP {
		m.ports = c.ports[r.DstPort]
		if m.ports == 0 && c.services != nil {
			m.ports = c.service(r)
		}
	}
	if r.Flags&wire.MGEN != 0 {
		i, found := slices.BinarySearch(c.starts, r.FlowID)
		if !found {
			i-- // starts[0] is 0, so there is one before
		}
		m.mgen = c.ids[i]
	}
	return m
}

// service is the set of the service that r is of. Where both ports are services, the
// lower one is it: a client that has port 8080 by chance asks a server on 443.
func (c *classifier) service(r *wire.Record) uint32 {
	low, high := min(r.SrcPort, r.DstPort), max(r.SrcPort, r.DstPort)
	if set := c.services[low]; set != 0 {
		return set
	}
	return c.services[high]
}

// of gives the lines of an item, which may have been classified before the flows
// were what they are now.
func (c *classifier) of(item *Item, scratch []uint32) []uint32 {
	if item.generation != c.generation {
		return c.lines(c.match(&item.Record), scratch)
	}
	return c.lines(item.match, scratch)
}

// lines returns the indexes of m's flow lines in file order. The result is
// either the classifier's own, not to be changed, or in scratch, whose
// capacity is used if it is enough.
func (c *classifier) lines(m match, scratch []uint32) []uint32 {
	ports, mgen := c.sets[m.ports], c.sets[m.mgen]
	if len(mgen) == 0 {
		return ports
	}
	if len(ports) == 0 {
		return mgen
	}
	scratch = scratch[:0]
	for len(ports) > 0 && len(mgen) > 0 {
		if ports[0] < mgen[0] {
			scratch, ports = append(scratch, ports[0]), ports[1:]
		} else {
			scratch, mgen = append(scratch, mgen[0]), mgen[1:]
		}
	}
	return append(append(scratch, ports...), mgen...)
}

// FlowNames finds the numbers of a record's flows, as text, in the file's order and
// each once; wire.Unmatched if it has none. The result's slices are for one
// goroutine, and valid until it is called again.
func FlowNames(file *File) (func(r *wire.Record) []string, error) {
	c, err := newClassifier(file.Flows)
	if err != nil {
		return nil, err
	}
	rows, rowOf := rowsOf(file.Flows)
	var scratch []uint32
	var names []string
	return func(r *wire.Record) []string {
		names = names[:0]
		for _, line := range c.lines(c.match(r), scratch) {
			if name := rows[rowOf[line]].Name; !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		if len(names) == 0 {
			names = append(names, wire.Unmatched)
		}
		return names
	}, nil
}
