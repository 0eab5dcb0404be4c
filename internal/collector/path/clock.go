package path

// pair of nodes, the lesser one first.
type pair struct{ a, b int32 }

// clock is what packets in both directions between neighbours tell of their clocks.
type clock struct {
	span         int64 // number of the minute
	ab, ba       edge  // of this one
	oldAB, oldBA edge  // of the one before
}

// edge is the least difference between two time stamps, if there was any.
type edge struct {
	least int64
	any   bool
}

func (e *edge) add(d int64) {
	if !e.any || d < e.least {
		e.least, e.any = d, true
	}
}

// clocks estimates offsets between the clocks of neighbours.
type clocks struct{ of map[pair]*clock }

// maxClocks bounds the pairs of nodes that are remembered.
const maxClocks = 1 << 14

// see takes the difference between a packet's reception at node to and its sending at node
// from, at a time.
func (c *clocks) see(from, to int32, at, d int64) {
	k, forward := pair{from, to}, true
	if from > to {
		k, forward = pair{to, from}, false
	}
	p := c.of[k]
	if p == nil {
		if len(c.of) >= maxClocks {
			return
		}
		p = &clock{span: at / recentSpan}
		c.of[k] = p
	}
	if span := at / recentSpan; span > p.span {
		p.oldAB, p.oldBA = p.ab, p.ba
		if span > p.span+1 {
			p.oldAB, p.oldBA = edge{}, edge{}
		}
		p.ab, p.ba, p.span = edge{}, edge{}, span
	}
	if forward {
		p.ab.add(d)
	} else {
		p.ba.add(d)
	}
}

// offset is how far to's clock is ahead of from's, and by how much that may be wrong: with
// the least delays d of both ways, (d_ab - d_ba) / 2 and (d_ab + d_ba) / 2. known is false if
// packets went one way only.
func (c *clocks) offset(from, to int32) (offset, uncertainty int64, known bool) {
	k, sign := pair{from, to}, int64(1)
	if from > to {
		k, sign = pair{to, from}, -1
	}
	p := c.of[k]
	if p == nil {
		return 0, 0, false
	}
	ab, ba := p.ab, p.ba
	if !ab.any || !ba.any {
		ab, ba = merge(ab, p.oldAB), merge(ba, p.oldBA)
	}
	if !ab.any || !ba.any {
		return 0, 0, false
	}
	u := (ab.least + ba.least) / 2
	return sign * (ab.least - ba.least) / 2, max(u, -u), true
}

func merge(a, b edge) edge {
	if b.any {
		a.add(b.least)
	}
	return a
}
