package path

import "slices"

// PacketRow is one packet and where it was seen, with tags for Parquet files.
type PacketRow struct {
	Time     int64      `parquet:"time,timestamp(nanosecond)"` // of the first observation
	Digest   uint64     `parquet:"digest"`
	Src      string     `parquet:"src,dict"`
	Dst      string     `parquet:"dst,dict"`
	SrcPort  uint16     `parquet:"src_port,dict"`
	DstPort  uint16     `parquet:"dst_port,dict"`
	Proto    uint8      `parquet:"proto,dict"`
	MGENFlow *uint32    `parquet:"mgen_flow,optional,dict"`
	MGENSeq  *uint32    `parquet:"mgen_seq,optional"`
	Length   uint32     `parquet:"bytes,dict"`
	Outcome  string     `parquet:"outcome,dict"` // an Outcome; or "" of a multicast, which has many ends
	At       string     `parquet:"at,dict"`      // where it ended, an agent
	AtStage  string     `parquet:"at_stage,dict"`
	Towards  string     `parquet:"towards,dict"`
	ToStage  string     `parquet:"towards_stage,dict"`
	Reason   string     `parquet:"reason,dict"`
	Seen     []SightRow `parquet:"seen,list"` // in the order of its way
}

// SightRow is one observation of a packet.
type SightRow struct {
	Agent  string `parquet:"agent,dict"`
	Stage  string `parquet:"stage,dict"`
	Time   int64  `parquet:"time,timestamp(nanosecond)"`
	TTL    uint8  `parquet:"ttl,dict"`
	Length uint32 `parquet:"bytes,dict"`
	Reason string `parquet:"reason,dict"`
}

// PacketKey is what of a PacketRow tells which packet it is, to read that alone.
type PacketKey struct {
	Time   int64  `parquet:"time,timestamp(nanosecond)"`
	Digest uint64 `parquet:"digest"`
}

// Span is the time of a row, for [history.OpenTable].
func (r *PacketRow) Span() (from, to int64) {
	from, to = r.Time, r.Time
	for i := range r.Seen {
		from, to = min(from, r.Seen[i].Time), max(to, r.Seen[i].Time)
	}
	return from, to
}

// keptPackets are rows of packets that nobody has taken yet.
type keptPackets struct {
	on    bool
	rows  []PacketRow
	shed  uint64 // that were not taken in time
	ended *Ended // how the packet at hand has ended, if it has not arrived
}

// maxPackets are kept until somebody takes them: about 64 MiB.
const maxPackets = 1 << 17

// KeepPackets has the engine make a row of each packet, for TakePackets.
func (e *Engine) KeepPackets() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept.on = true
}

// TakePackets are the rows since the last call, and how many were given up since the start because they were not
// taken in time.
func (e *Engine) TakePackets() (rows []PacketRow, shed uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rows, e.kept.rows = e.kept.rows, nil
	return rows, e.kept.shed
}

// keepEnded notes that a packet did not arrive.
func (e *Engine) keepEnded(w Ended) {
	e.ended.addEnded(w)
	if e.kept.on {
		kept := w // w itself would be allocated also if nothing is kept
		e.kept.ended = &kept
	}
}

// keepPacket makes a row of a packet. The outcome is how it ended unless that was noted.
func (e *Engine) keepPacket(p *packet, list []seen, outcome Outcome) {
	k := &e.kept
	ended := k.ended
	k.ended = nil
	if !k.on {
		return
	}
	if len(k.rows) >= maxPackets {
		k.shed++
		return
	}
	t := p.flow.tuple()
	r := PacketRow{
		Time: list[0].time, Digest: p.digest, Src: t.Src.String(), Dst: t.Dst.String(), SrcPort: t.SrcPort, DstPort: t.DstPort, Proto: t.Proto,
		MGENFlow: t.MGEN, Length: list[0].length, Outcome: string(outcome), Seen: make([]SightRow, len(list)),
	}
	if t.MGEN != nil {
		seq := p.seq
		r.MGENSeq = &seq
	}
	for i := range list {
		o := &list[i]
		r.Seen[i] = SightRow{e.agents[o.place.agent()].label, o.place.stage().String(), o.time, o.ttl, o.length, o.reason.String()}
		r.Time = min(r.Time, o.time)
	}
	if ended != nil {
		r.Outcome, r.At, r.AtStage, r.Reason = string(ended.Outcome), ended.At.Agent, ended.At.Stage, ended.Reason
		r.Towards, r.ToStage = ended.Towards.Agent, ended.Towards.Stage
	}
	k.rows = append(k.rows, r)
}

func (r *PacketRow) tuple() Tuple {
	return tupleOf(r.Src, r.Dst, r.SrcPort, r.DstPort, r.Proto, r.MGENFlow)
}

func atOf(agent, stage string) At {
	if agent == "" {
		return At{}
	}
	return At{Node: NodeOf(agent), Agent: agent, Stage: stage}
}

// Ended is how the packet ended; false if it arrived, or is a multicast's that no kernel dropped.
func (r *PacketRow) Ended() (Ended, bool) {
	switch o := Outcome(r.Outcome); o {
	case Dropped, Lost, Unheard, Unobserved:
		return Ended{
			Time: r.endTime(), Digest: r.Digest, Flow: r.tuple(), Seq: r.MGENSeq, Outcome: o, At: atOf(r.At, r.AtStage),
			Towards: atOf(r.Towards, r.ToStage), Reason: r.Reason,
		}, true
	}
	return Ended{}, false
}

// endTime is when the packet was seen where it ended.
func (r *PacketRow) endTime() int64 {
	for _, s := range slices.Backward(r.Seen) {
		if s.Agent == r.At && s.Stage == r.AtStage {
			return s.Time
		}
	}
	return r.Time
}

// Packet is what the API tells of it.
func (r *PacketRow) Packet() Packet {
	p := Packet{Digest: r.Digest, Flow: r.tuple()}
	for _, s := range r.Seen {
		p.Seen = append(p.Seen, Sight{At: atOf(s.Agent, s.Stage), Time: s.Time, TTL: s.TTL, Length: s.Length, Reason: s.Reason})
	}
	p.Outcome = Outcome(r.Outcome)
	if w, ok := r.Ended(); ok {
		p.Ended = &w
	}
	return p
}

// Wants reports whether a row is of a flow that q asks for.
func (q *Query) Wants(r *PacketRow) bool {
	t := r.tuple()
	return q.has(&t)
}
