package rollup

import (
	"cmp"
	"slices"
)

// Overview returns all traffic in w. Queries are computed each time; callers that
// answer many equal requests should cache the result.
func (s *Snapshot) Overview(w Window) *Overview {
	w = s.Fit(w)
	o := &Overview{Window: w, Series: make([]Counts, w.Points())}
	rows := make(map[uint32]*FlowSeries)
	cells := make(map[cellKey]Counts)
	s.timeline.each(w, func(f *frame) {
		at := w.point(f)
		o.Total = o.Total.Plus(f.total)
		o.Series[at] = o.Series[at].Plus(f.total)
		f.eachRow(func(k rowKey, c Counts) {
			r := rows[k.row]
			if r == nil {
				r = newFlowSeries(int(k.row), w)
				rows[k.row] = r
			}
			r.addCounts(at, k.level, c)
		})
		f.eachCell(func(k cellKey, c Counts) { cells[k] = cells[k].Plus(c) })
	})
	for _, r := range rows {
		o.Flows = append(o.Flows, *r)
	}
	slices.SortFunc(o.Flows, func(a, b FlowSeries) int { return cmp.Compare(a.Row, b.Row) })
	o.Hosts = hostCounts(cells)
	for i := range o.Hosts {
		o.Relayed = o.Relayed.Plus(o.Hosts[i].Relayed)
		o.Seen = o.Seen.Plus(o.Hosts[i].Seen())
	}
	return o
}

func newFlowSeries(row int, w Window) *FlowSeries {
	n := w.Points()
	return &FlowSeries{Row: row, PrimarySeries: make([]Counts, n), SecondarySeries: make([]Counts, n)}
}

func (r *FlowSeries) addCounts(at int, level uint8, c Counts) {
	if level == 0 {
		r.Primary = r.Primary.Plus(c)
		r.PrimarySeries[at] = r.PrimarySeries[at].Plus(c)
		return
	}
	r.Secondary = r.Secondary.Plus(c)
	r.SecondarySeries[at] = r.SecondarySeries[at].Plus(c)
}

// hostCounts sorts cells by host and row.
func hostCounts(cells map[cellKey]Counts) []HostCounts {
	var hosts []HostCounts
	for _, k := range sortedCells(cells) {
		n := len(hosts)
		if n == 0 || hosts[n-1].Host != int(k.host) {
			hosts = append(hosts, HostCounts{Host: int(k.host)})
			n++
		}
		hosts[n-1].addCell(k, cells[k])
	}
	return hosts
}

func (h *HostCounts) addCell(k cellKey, c Counts) {
	if k.row == allRows {
		*h.side(Side(k.which)) = c
		return
	}
	n := len(h.Flows)
	if n == 0 || h.Flows[n-1].Row != int(k.row) {
		h.Flows = append(h.Flows, FlowCounts{Row: int(k.row)})
		n++
	}
	if k.which == 0 {
		h.Flows[n-1].Primary = c
	} else {
		h.Flows[n-1].Secondary = c
	}
}

func (h *HostCounts) side(s Side) *Counts {
	return [...]*Counts{Sent: &h.Sent, Relayed: &h.Relayed, Received: &h.Received}[s]
}

func sortedCells(cells map[cellKey]Counts) []cellKey {
	keys := make([]cellKey, 0, len(cells))
	for k := range cells {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareCells)
	return keys
}

// sumCells returns a snapshot's totals since the start.
func sumCells(cells map[cellKey]Counts) []CellCounts {
	list := make([]CellCounts, 0, len(cells))
	for _, k := range sortedCells(cells) {
		if k.row != allRows {
			list = append(list, CellCounts{int(k.host), int(k.row), k.which, cells[k]})
		}
	}
	return list
}

// Cells returns all flows of all hosts in w over time, as seen.
func (s *Snapshot) Cells(w Window) *Cells {
	w = s.Fit(w)
	return &Cells{Window: w, Cells: s.cells(w)}
}

func (s *Snapshot) cells(w Window) []CellSeries {
	series := make(map[cellKey]*CellSeries)
	s.timeline.each(w, func(f *frame) {
		at := w.point(f)
		f.eachCell(func(k cellKey, c Counts) {
			if k.row == allRows {
				return
			}
			x := series[k]
			if x == nil {
				x = &CellSeries{CellCounts: CellCounts{int(k.host), int(k.row), k.which, Counts{}}, Series: make([]Counts, w.Points())}
				series[k] = x
			}
			x.Counts = x.Plus(c)
			x.Series[at] = x.Series[at].Plus(c)
		})
	})
	list := make([]CellSeries, 0, len(series))
	for _, x := range series {
		list = append(list, *x)
	}
	slices.SortFunc(list, func(a, b CellSeries) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Row, b.Row), cmp.Compare(a.Level, b.Level))
	})
	return list
}

// Flow returns the traffic of one row (Config.Rows for traffic of no flow) in w.
func (s *Snapshot) Flow(row int, w Window) *FlowView {
	w = s.Fit(w)
	v := &FlowView{Window: w, Flow: *newFlowSeries(row, w)}
	cells := make(map[cellKey]Counts)
	s.timeline.each(w, func(f *frame) {
		at := w.point(f)
		f.eachRow(func(k rowKey, c Counts) {
			if k.row == uint32(row) {
				v.Flow.addCounts(at, k.level, c)
			}
		})
		f.eachCell(func(k cellKey, c Counts) {
			if k.row == uint32(row) {
				cells[k] = cells[k].Plus(c)
			}
		})
	})
	for _, h := range hostCounts(cells) {
		v.Hosts = append(v.Hosts, FlowHost{h.Host, h.Flows[0].Primary, h.Flows[0].Secondary})
	}
	return v
}

// HostViews returns all hosts with traffic in w, over time, ordered by host. Their
// window is Fit(w).
func (s *Snapshot) HostViews(w Window) []HostView {
	w = s.Fit(w)
	views := make(map[uint32]*HostView)
	cells := make(map[cellKey]Counts)
	s.timeline.each(w, func(f *frame) {
		at := w.point(f)
		f.eachCell(func(k cellKey, c Counts) {
			cells[k] = cells[k].Plus(c)
			if k.row != allRows {
				return
			}
			v := views[k.host]
			if v == nil {
				n := w.Points()
				v = &HostView{Window: w, SentSeries: make([]Counts, n), RelayedSeries: make([]Counts, n), ReceivedSeries: make([]Counts, n)}
				views[k.host] = v
			}
			p := [...][]Counts{Sent: v.SentSeries, Relayed: v.RelayedSeries, Received: v.ReceivedSeries}[k.which]
			p[at] = p[at].Plus(c)
		})
	})
	var list []HostView
	for _, h := range hostCounts(cells) {
		v := views[uint32(h.Host)]
		v.HostCounts = h
		list = append(list, *v)
	}
	return list
}
