package rollup

import (
	"net/netip"
	"time"
)

// Snapshot is everything known at one moment. It is immutable.
type Snapshot struct {
	// Seq counts snapshots, from 1.
	Seq uint64
	// Now is the store's time, nanoseconds since the UNIX epoch.
	Now int64
	// Complete is the newest second (since the epoch) that is over and completely
	// reported by punctual agents: displays of "now" use the window {Complete,
	// Complete+1, 1}.
	Complete int64
	// Oldest is the first second for which anything is kept; 0 if there is none.
	Oldest int64
	// Since is the first second that this run may have counted; earlier seconds are
	// from the archive. 0 if there are none yet.
	Since int64
	// Runs are the times when the history was being written, in order; the newest one
	// extends to Complete. Nothing is known between them. Nil means that it was written
	// from Oldest on.
	Runs []Run
	// Archive is the state of the archive; nil if there is none.
	Archive *ArchiveStatus
	// Changed are the seconds that got packets since the previous snapshot, unordered
	// and possibly with duplicates. The newest may still be incomplete.
	Changed []int64
	// Sum is the total of the grapher lines of all records since the start, ordered by
	// host, row, and level.
	Sum []CellCounts
	// Hosts has one entry per Config.Hosts.
	Hosts []HostStatus
	// Records is the number of records added since the start, without host statistics;
	// Late and Future of them were outside the open seconds. For all hosts together.
	Records, Late, Future uint64
	// Unplaced records, which are among the late ones, were not counted, because they
	// arrived so late after a stall that their second is unknown.
	Unplaced uint64
	// Memory is the memory taken by history, in bytes, and Budget its limit.
	Memory, Budget int64
	// Forgotten is the number of pairs, conversations, and MGEN flows of single seconds
	// since the start that were merged into Other because there were too many.
	Forgotten uint64

	timeline *timeline
}

// HostStatus describes an agent's records.
type HostStatus struct {
	Records uint64 // since the start, without host statistics
	// Late and Future count records that were outside the open seconds; they are
	// included in Records.
	Late, Future uint64
	// LateNow and FutureNow mean that there was at least one in the last 10 s.
	LateNow, FutureNow bool
	// Newest is the newest packet's time, in nanoseconds since the epoch; 0 if there
	// was none.
	Newest int64
	// Age is the minimum age, on arrival, of the last 10 seconds' packets: the transit
	// time plus the difference between the clocks. If it is negative, the host's clock
	// is ahead of ours by at least that much. If it exceeds about a second, the host's
	// clock is behind, or something in between is overloaded. Valid iff HasAge; never
	// with ByNewest.
	Age    time.Duration
	HasAge bool
	// CPU is the host's load in percent of all processors, Memory the bytes in use, as
	// last reported by the agent. Each is valid iff its flag is set: a report expires
	// after 5 s.
	CPU       float64
	Memory    uint64
	HasCPU    bool
	HasMemory bool
	// Directions means that the agent reports on which side packets were seen;
	// otherwise sides are inferred (see the package comment).
	Directions bool
}

// Overview is the traffic of a window.
type Overview struct {
	Window Window
	// Total counts each packet once, Relayed what relays sent again, and Seen every
	// record.
	Total, Relayed, Seen Counts
	Series               []Counts // Total, per step
	// Flows has one entry per row that had traffic, ordered by row.
	Flows []FlowSeries
	Hosts []HostCounts // that had traffic, ordered by host
}

// CellCounts is a flow at a host and a level, as seen by its agent.
type CellCounts struct {
	Host, Row int
	Level     uint8 // 0 primary, 1 secondary
	Counts
}

// Cells are all flows of all hosts over time, as seen by each: the totals of grapher
// lines.
type Cells struct {
	Window Window
	Cells  []CellSeries // ordered by host, row and level
}

// CellSeries is a CellCounts over time.
type CellSeries struct {
	CellCounts
	Series []Counts
}

// FlowSeries is one flow over time, each packet counted once. Primary corresponds to
// level 0 of grapher lines, Secondary to level 1: packets that relays sent again, and
// packets whose first flow is another one.
type FlowSeries struct {
	Row                            int
	Primary, Secondary             Counts
	PrimarySeries, SecondarySeries []Counts
}

// HostCounts is what one host's agent saw.
type HostCounts struct {
	Host                    int
	Sent, Relayed, Received Counts
	// Flows are the host's flows that had traffic, ordered by row.
	Flows []FlowCounts
}

// Seen returns everything that the agent reported.
func (h *HostCounts) Seen() Counts { return h.Sent.Plus(h.Relayed).Plus(h.Received) }

// FlowCounts is a flow at one host, as seen by its agent: exactly the total of grapher
// lines.
type FlowCounts struct {
	Row                int
	Primary, Secondary Counts
}

// FlowView is one flow: per host, and over time.
type FlowView struct {
	Window Window
	Flow   FlowSeries
	Hosts  []FlowHost // that had traffic of it, ordered by host
}

// FlowHost is a flow at one host, as seen.
type FlowHost struct {
	Host               int
	Primary, Secondary Counts
}

// HostView is one host over time.
type HostView struct {
	Window Window
	HostCounts
	SentSeries, RelayedSeries, ReceivedSeries []Counts
}

// Matrix is who sends to whom.
type Matrix struct {
	Window Window
	// Cells are the heaviest, heaviest first; Other is the rest of Total.
	Cells        []Cell
	Other, Total Counts // once
}

// Cell is the traffic from a source to a destination address.
type Cell struct {
	Src, Dst netip.Addr
	// SrcHost and DstHost are the agents whose address it is, or -1.
	SrcHost, DstHost int
	Once             Counts
	// Sent is what the sender's own agent saw, and Relayed what all relays sent.
	// Received is what the destination's agent saw or, if no agent has that address,
	// the receiver that saw most.
	Sent, Relayed, Received Counts
	// Loss is valid iff both ends were watched at the same time and Dst is not a
	// multicast group. It covers that time only.
	Loss Loss
}

// Loss is what was lost between two observers.
type Loss struct {
	Valid bool
	// Lost is the number of Expected packets that were lost. Determined by counts, it
	// may be off by a few packets that were in transit at the ends of the window; it is
	// between 0 and Expected.
	Expected, Lost uint64
	// BySequence means that it was determined by sequence numbers at the receiver
	// instead.
	BySequence bool
}

// Fraction returns the share lost, 0 to 1.
func (l Loss) Fraction() float64 {
	if l.Expected == 0 {
		return 0
	}
	return float64(l.Lost) / float64(l.Expected)
}

// Group is a multicast destination, or 255.255.255.255.
type Group struct {
	Addr    netip.Addr
	Once    Counts
	Senders []GroupSender // heaviest first
}

// GroupSender is one source of a group.
type GroupSender struct {
	Src  netip.Addr
	Host int    // the agent whose address it is, or -1
	Once Counts // what it sent, or the best receiver's count if it is not watched
	// Watched means that its own agent saw it.
	Watched   bool
	Receivers []GroupReceiver // ordered by host
}

// GroupReceiver is an agent that saw packets of a group arrive, or a member that saw
// none although it reports what it receives.
type GroupReceiver struct {
	Host     int
	Role     Role
	Received Counts
	// Fraction is the share, 0 to 1, of the packets that were sent while both agents
	// were watching; valid iff Compared, that is, there were some.
	Fraction float64
	Compared bool
}

// Groups are the multicast groups with traffic in a window, heaviest first.
type Groups struct {
	Window Window
	Groups []Group
}

// Talkers are the heaviest conversations of a window.
type Talkers struct {
	Window       Window
	Talkers      []Talker // heaviest first
	Other, Total Counts   // once
}

// Talker is a conversation in one direction: a 5-tuple and its primary flow. MGEN flow
// IDs may split a 5-tuple into several.
type Talker struct {
	Tuple
	Once                    Counts
	Sent, Relayed, Received Counts // as in Cell
	Row                     int
}

// MGEN is all MGEN flows of a window.
type MGEN struct {
	Window Window
	Flows  []MGENFlow // ordered by ID, then by tuple
	// Other is further MGEN traffic, as seen, of flows that there was no room for.
	Other Counts
}

// MGENFlow is one MGEN flow: an ID from one source and port to one destination. The
// same ID from another source is another flow.
type MGENFlow struct {
	ID uint32
	Tuple
	SrcHost int // the agent whose address Src is, or -1
	// Sent is what the sender's own agent saw. Watched means that it saw something.
	Sent    MGENCounts
	Watched bool
	Relayed Counts
	// Receivers are those that have received some of it, ordered by role and host,
	// followed by the destination's host, or members, whose agents report what they
	// receive but have received none of it.
	Receivers []MGENReceiver
}

// MGENCounts are packets and the messages that begin in them.
type MGENCounts struct {
	Counts
	// Messages is 0 with feeds that do not report them (the 28-byte feed).
	Messages uint64
}

// MGENReceiver is a flow at one receiver. The fields after Received are derived from
// sequence numbers and transmit times: valid iff Received.Messages > 0.
type MGENReceiver struct {
	Host     int
	Role     Role
	Received MGENCounts
	// Loss is determined by sequence numbers if the feed has them. It is determined by
	// counts, if the sender is watched, where the feed does not have them, where more
	// is missing before the first or after the last message of the window than may be
	// in transit, and where the sender has skipped numbers.
	Loss Loss
	// Duplicates are messages that had come before; Reordered those that came
	// after one with a higher number (RFC 4737, 3: "type-P-reordered").
	Duplicates, Reordered uint64
	// Restarts is how often the numbers restarted.
	Restarts uint64
	// Delays of messages from their transmit time (sender's clock) to the receiver's
	// capture time, without duplicates. Valid iff Delayed > 0.
	Delayed                       uint64
	MinDelay, MeanDelay, MaxDelay time.Duration
	// Jitter is RFC 3550's interarrival jitter (section 6.4.1) at the end of the
	// window's last second with messages.
	Jitter time.Duration
	// NegativeDelays is the number of negative delays: the clocks of the two hosts
	// differ by at least -MinDelay, and no delay of this flow can be trusted.
	NegativeDelays uint64
}

// Arrived returns the number of distinct messages that arrived, or of packets if the
// feed does not report messages.
func (r *MGENReceiver) Arrived() uint64 {
	if r.Received.Messages == 0 {
		return r.Received.Packets
	}
	return r.Received.Messages - min(r.Duplicates, r.Received.Messages)
}

// Delivery is the outcome of what was sent: Sent = Arrived + Lost + Unobserved.
type Delivery struct {
	Sent, Arrived, Lost, Unobserved uint64
	// Unseen of Sent were not seen by the sender's agent, but by others.
	Unseen uint64
}

// Delivery returns the outcome for one of f's receivers.
func (f *MGENFlow) Delivery(r *MGENReceiver) Delivery {
	d := Delivery{Arrived: r.Arrived()}
	if r.Loss.Valid {
		d.Lost = r.Loss.Lost
	}
	sent := f.Sent.Packets
	if f.Sent.Messages > 0 && (r.Received.Messages > 0 || r.Received.Packets == 0) {
		sent = f.Sent.Messages
	}
	if !f.Watched {
		sent = 0
	}
	d.Sent = max(sent, d.Arrived+d.Lost)
	d.Unobserved = d.Sent - d.Arrived - d.Lost
	d.Unseen = d.Sent - sent
	return d
}

// MGENSeries is one flow at one receiver (or its sender) over time. All slices
// have Window.Points entries.
type MGENSeries struct {
	Window    Window
	Sent      []Counts // at the sender; zeros if it is not watched
	SentHost  int      // the agent that saw Sent; -1 if none
	Receivers []MGENReceiverSeries
}

// MGENReceiverSeries is one receiver's part, ordered by host. Delays are in
// nanoseconds and valid where Delayed is not 0.
type MGENReceiverSeries struct {
	Host     int
	Received []Counts
	// Expected is the increase of the highest sequence number, and Lost that minus what
	// arrived. A message that arrives late makes up for an earlier loss, so single
	// points of Lost may be negative; sums are correct.
	Expected                              []uint64
	Lost                                  []int64
	Duplicates, Reordered                 []uint64
	Delayed                               []uint64
	MinDelay, MeanDelay, MaxDelay, Jitter []int64
	NegativeDelays                        []uint64
}
