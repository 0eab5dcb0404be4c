package collector

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/pcapper/pcapper/wire"
)

// Item is an item of the collector's hub: a record, its agent, and the flows it belongs
// to.
type Item struct {
	wire.Record
	// Host is the index of the agent's line in File.Hosts.
	Host uint32
	// Again means that a replay has been rewound and the record has been counted
	// before.
	Again bool
	// number counts the items of a host that are neither Again nor host statistics,
	// from 0, modulo 2^32, so that a reader that has lost some can tell whose they were.
	number uint32
	// match identifies the lines of File.Flows that the record belongs to; only the
	// classifier of that generation can interpret it.
	match      match
	generation uint16
	// played is the time at which a log's record was played, in nanoseconds since the
	// epoch. Valid iff logs are replayed.
	played int64
}

// match identifies the two sets of flow lines that a record belongs to: those that test
// its ports, and those that test its MGEN flow ID. Set 0 is empty.
type match struct{ ports, mgen uint32 }

// classifier finds the flow lines of a record. It is immutable, and therefore safe for
// concurrent use.
type classifier struct {
	generation uint16 // differs after each change of the configuration's flows
	flows      []Flow
	names      []string // the flows' numbers, as printed
	// sets holds sets of indexes of flow lines, each in file order. Set 0 is empty.
	sets [][]uint32
	// ports maps each destination port to a set.
	ports [1 << 16]uint32
	// services maps each port that is a service on either side to a set; nil if there
	// are no such flows.
	services *[1 << 16]uint32
	// MGEN flow IDs from starts[i] up to the next start have the set ids[i].
	starts []uint32
	ids    []uint32
}

// maxSetMembers bounds the memory of a classifier (16 MiB). Only thousands of
// overlapping lines reach it.
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

// fill maps each port to the set of flows of a kind that include it.
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

// setTable numbers sets so that equal ones are stored only once.
type setTable struct {
	of      map[string]uint32
	sets    *[][]uint32
	members int
	key     []byte
}

// partition splits the numbers of a kind at the points where the set of flow lines
// changes. The first start is 0.
func (t *setTable) partition(flows []Flow, kind FlowKind) (starts, ids []uint32, err error) {
	starts = []uint32{0}
	var waiting, active []uint32 // lines that begin later, by First; lines that include start
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

// service returns the set of the service that r belongs to. If both ports are services,
// it is the lower one: a client that happens to use port 8080 talks to a server on 443.
func (c *classifier) service(r *wire.Record) uint32 {
	low, high := min(r.SrcPort, r.DstPort), max(r.SrcPort, r.DstPort)
	if set := c.services[low]; set != 0 {
		return set
	}
	return c.services[high]
}

// of returns the lines of an item, which may have been classified before the flows were
// changed.
func (c *classifier) of(item *Item, scratch []uint32) []uint32 {
	if item.generation != c.generation {
		return c.lines(c.match(&item.Record), scratch)
	}
	return c.lines(item.match, scratch)
}

// lines returns the indexes of m's flow lines in file order. The result either belongs
// to the classifier and must not be modified, or is stored in scratch if that has
// sufficient capacity.
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

// FlowNames returns a function that returns the numbers of a record's flows as text, in
// file order and without duplicates, or wire.Unmatched if it has none. The function
// must not be used by several goroutines at once, and its result is valid until the
// next call.
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
