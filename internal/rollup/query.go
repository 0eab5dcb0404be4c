package rollup

// Last is the window of the newest complete seconds.
func (s *Snapshot) Last(seconds int64) Window {
	return Window{From: s.Complete + 1 - seconds, To: s.Complete + 1}
}

// Overview is all traffic in w.
func (s *Snapshot) Overview(w Window) *Overview { return &Overview{Window: s.fit(w)} }

// Flow is the traffic of one row (Config.Rows for that of no flow) in w.
func (s *Snapshot) Flow(row int, w Window) *FlowView { return &FlowView{Window: s.fit(w)} }

// HostViews are all hosts with traffic in w, over time, ordered by host.
func (s *Snapshot) HostViews(w Window) []HostView { return nil }

// Matrix is who sent to whom in w: the heaviest cells, at most so many.
func (s *Snapshot) Matrix(w Window, most int) *Matrix { return &Matrix{Window: s.fit(w)} }

// Groups are the multicast groups in w.
func (s *Snapshot) Groups(w Window) *Groups { return &Groups{Window: s.fit(w)} }

// Talkers are the heaviest conversations in w, at most so many.
func (s *Snapshot) Talkers(w Window, most int) *Talkers { return &Talkers{Window: s.fit(w)} }

// MGEN is all MGEN flows in w.
func (s *Snapshot) MGEN(w Window) *MGEN { return &MGEN{Window: s.fit(w)} }

// MGENSeries is one MGEN flow, named by its ID and tuple, in w over time.
func (s *Snapshot) MGENSeries(id uint32, t Tuple, w Window) *MGENSeries {
	return &MGENSeries{Window: s.fit(w)}
}

func (s *Snapshot) fit(w Window) Window { return w }

type history struct{}
