package path

// pair is a pair of nodes, the smaller number first.
type pair struct{ a, b int32 }

// clock holds what packets in both directions between two neighbors reveal about their
// clocks.
type clock struct {
	span         int64 // number of the current minute
	ab, ba       edge  // of the current minute
	oldAB, oldBA edge  // of the previous minute
}

// edge is the minimum difference between two timestamps, if there was any.
type edge struct {
	least int64
	any   bool
}

func (e *edge) addDifference(d int64) {
	if !e.any || d < e.least {
		e.least, e.any = d, true
	}
}

// clocks estimates the offsets between the clocks of neighbors.
type clocks struct{ of map[pair]*clock }

// maxClocks bounds the number of pairs of nodes that are remembered.
const maxClocks = 1 << 14

// addHop adds the difference d between a packet's reception at node to and its sending at
// node from, at time at.
func (c *clocks) addHop(from, to int32, at, d int64) {
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
		p.ab.addDifference(d)
	} else {
		p.ba.addDifference(d)
	}
}

// offset returns how far to's clock is ahead of from's, and the uncertainty of that.
// With the minimum delays d of both directions, they are (d_ab - d_ba) / 2 and (d_ab +
// d_ba) / 2. known is false if packets were seen in one direction only.
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
		a.addDifference(b.least)
	}
	return a
}
