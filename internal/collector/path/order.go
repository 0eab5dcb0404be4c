package path

import (
	"cmp"
	"slices"
)

// seen is an observation and its predecessor.
type seen struct {
	observation
	node   int32
	parent int32 // index, or -1
	// children that are not drops
	children int32
	again    bool // the parent has already led to this place
	lost     bool // followed by a drop
}

// gather collects a packet's observations in e.scratch, ordered, with their parents.
func (e *Engine) gather(p *packet) []seen {
	list := e.scratch[:0]
	for o := p.first; o >= 0; o = e.observations[o].next {
		ob := e.observations[o]
		list = append(list, seen{observation: ob, node: e.agents[ob.place.agent()].node, parent: -1})
	}
	e.scratch = list
	slices.SortFunc(list, func(a, b seen) int {
		return cmp.Or(cmp.Compare(b.ttl, a.ttl), cmp.Compare(a.time, b.time))
	})
	for i := range list {
		list[i].parent = e.parent(list, i)
	}
	for i := range list {
		if up := list[i].parent; up >= 0 && list[i].place.stage() != dropped {
			list[up].children++
			list[i].again = again(list, i)
		} else if up >= 0 {
			list[up].lost = true
		}
	}
	return list
}

// again reports whether an earlier observation has the same parent and place.
func again(list []seen, i int) bool {
	for k := range i {
		if list[k].parent == list[i].parent && list[k].place == list[i].place && list[k].ttl == list[i].ttl {
			return true
		}
	}
	return false
}

// parent returns the index of the observation that immediately precedes list[i], or -1.
func (e *Engine) parent(list []seen, i int) int32 {
	o := &list[i]
	switch o.place.stage() {
	case in:
		if k := e.sender(list, i); k >= 0 {
			return k
		}
		return upstream(list, i)
	case out:
		if k := latest(list, i, func(c *seen) bool { return c.place == o.place&^3|place(queue) && c.ttl == o.ttl }); k >= 0 {
			return k
		}
	case dropped:
		for _, s := range []stage{out, queue} {
			if k := latest(list, i, func(c *seen) bool { return c.place == o.place&^3|place(s) && c.ttl == o.ttl }); k >= 0 {
				return k
			}
		}
		if k := latest(list, i, func(c *seen) bool { return c.node == o.node && c.place.stage() == in && inside(c.ttl, o.ttl) }); k >= 0 {
			return k
		}
		return e.sender(list, i)
	}
	return latest(list, i, func(c *seen) bool { return c.node == o.node && c.place.stage() == in && inside(c.ttl, o.ttl) })
}

// inside reports whether a node that received a packet with one TTL may send it with
// the other.
func inside(received, sent uint8) bool { return received == sent || received == sent+1 }

// latest returns the last fitting observation of a node that is not after list[i]. A
// drop may have a timestamp just before the observation it follows.
func latest(list []seen, i int, fits func(*seen) bool) int32 {
	best := int32(-1)
	for k := range list {
		c := &list[k]
		if k == i || c.time > list[i].time && list[i].place.stage() != dropped || !fits(c) {
			continue
		}
		if best < 0 || c.time > list[best].time {
			best = int32(k)
		}
	}
	return best
}

// sender returns the transmission that was received in list[i]: by another node, with
// the same TTL, nearest in time as far as clocks are known. Transmissions that have not
// yet led to this place are preferred.
func (e *Engine) sender(list []seen, i int) int32 {
	o := &list[i]
	best, least, bestUsed := int32(-1), int64(0), false
	for k := range list {
		c := &list[k]
		if c.node == o.node || c.ttl != o.ttl || !leaves(list, k) {
			continue
		}
		offset, _, _ := e.clocks.offset(c.node, o.node)
		d := o.time - c.time - offset
		if d < 0 {
			d = -4 * d // possible, because timestamps are inexact, but less likely
		}
		used := slices.ContainsFunc(list[:i], func(x seen) bool { return x.parent == int32(k) && x.place == o.place })
		if best < 0 || !used && bestUsed || used == bestUsed && d < least {
			best, least, bestUsed = int32(k), d, used
		}
	}
	return best
}

// leaves reports whether list[k] is the last observation of a transmission by its
// interface.
func leaves(list []seen, k int) bool {
	c := &list[k]
	switch c.place.stage() {
	case out:
		return true
	case queue:
		return !slices.ContainsFunc(list, func(x seen) bool { return x.place == c.place&^3|place(out) && x.ttl == c.ttl })
	}
	return false
}

// upstream returns, if no transmission was observed, the last observation closer to the
// sender.
func upstream(list []seen, i int) int32 {
	o := &list[i]
	best := int32(-1)
	for k := range list {
		c := &list[k]
		if c.node == o.node || c.ttl <= o.ttl || c.place.stage() == dropped {
			continue
		}
		if best < 0 || c.ttl <= list[best].ttl {
			best = int32(k)
		}
	}
	return best
}

// ambiguous reports whether several packets look alike: one was sent, or first seen,
// twice.
func ambiguous(list []seen) bool {
	for i := range list {
		for k := range i {
			if list[i].parent < 0 && list[k].parent < 0 && list[i].place == list[k].place && list[i].ttl == list[k].ttl && list[i].place.stage() != dropped {
				return true
			}
		}
	}
	return false
}

// chain returns the nodes from the first to list[i], without consecutive repetitions.
func chain(list []seen, i int32, nodes []int32) []int32 {
	nodes = nodes[:0]
	for steps := 0; i >= 0 && steps <= len(list); steps++ {
		if n := len(nodes); n == 0 || nodes[n-1] != list[i].node {
			nodes = append(nodes, list[i].node)
		}
		i = list[i].parent
	}
	slices.Reverse(nodes)
	return nodes
}
