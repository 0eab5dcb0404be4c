package rollup

import (
	"net/netip"
	"time"
)

// Snapshot is everything known at one moment. It never changes.
type Snapshot struct {
	// Seq counts snapshots, from 1.
	Seq uint64
	// Now is the store's time, nanoseconds since the UNIX epoch.
	Now int64
	// Complete is the newest second (since the epoch) that is over and that
	// punctual agents have reported whole: bars that show "now" show the
	// window {Complete, Complete+1, 1}.
	Complete int64
	// Oldest is the first second of which anything is kept; 0 if nothing is.
	Oldest int64
	// Since is the first second that this run may have counted; what is older is
	// from the archive. 0 before there was anything.
	Since int64
	// Runs are when the history was being written, in order, the newest one up to
	// Complete. Between them there is nothing to know. Nil: it was written
	// from Oldest on.
	Runs []Run
	// Archive is the state of the archive; nil if there is none.
	Archive *ArchiveStatus
	// Changed are the seconds that got packets since the snapshot before, in no
	// order, perhaps some twice. The newest may still be incomplete.
	Changed []int64
	// Sum is what grapher lines of all records since the start add up to, ordered
	// by host, row and level.
	Sum []CellCounts
	// Hosts has one entry per Config.Hosts.
	Hosts []HostStatus
	// Records that were added since the start, without host statistics, and
	// those among them that were Late or from the Future, all hosts together.
	Records, Late, Future uint64
	// Unplaced records, which are among the late ones, were not counted: they came so late after a stall
	// that their second is unknown.
	Unplaced uint64
	// Memory is what history takes of memory, in bytes, and Budget the most it may.
	Memory, Budget int64
	// Forgotten counts, since the start, pairs, conversations and MGEN flows
	// of single seconds that were put into Other because there were too many.
	Forgotten uint64

	timeline *timeline
}

// HostStatus is what is known of an agent's records as such.
type HostStatus struct {
	Records uint64 // since the start, without host statistics
	// Late and Future count records that were outside the open seconds; they
	// are in Records too.
	Late, Future uint64
	// LateNow and FutureNow: at least one in the last 10 s.
	LateNow, FutureNow bool
	// Newest is the newest packet's time, nanoseconds since the epoch; 0 if
	// there was none.
	Newest int64
	// Age is how old the freshest of the last 10 seconds' packets was when it was
	// added: the way it took plus the difference of the clocks. Negative: the
	// host's clock is ahead of ours by at least that much. More than about a
	// second: it is behind, or something on the way is overloaded.
	// Valid iff HasAge: never with ByNewest.
	Age    time.Duration
	HasAge bool
	// CPU is the host's load in percent of all processors, Memory bytes in
	// use, as the agent last reported them. Each is valid iff its flag is set: a
	// report is forgotten after 5 s.
	CPU       float64
	Memory    uint64
	HasCPU    bool
	HasMemory bool
	// Directions: the agent says on which side packets were seen; otherwise
	// sides are worked out (see the package comment).
	Directions bool
}

// Overview is the traffic of a window.
type Overview struct {
	Window Window
	// Total is each packet once, Relayed what relays sent again, Seen every
	// record.
	Total, Relayed, Seen Counts
	Series               []Counts // Total, per step
	// Flows has one entry per row that had traffic, ordered by row.
	Flows []FlowSeries
	Hosts []HostCounts // that had traffic, ordered by host
}

// CellCounts is a flow at a host and a level, as seen.
type CellCounts struct {
	Host, Row int
	Level     uint8 // 0 primary, 1 secondary
	Counts
}

// Cells are all flows of all hosts over time, as seen by each: what grapher
// lines add up to.
type Cells struct {
	Window Window
	Cells  []CellSeries // ordered by host, row and level
}

// CellSeries is a CellCounts over time.
type CellSeries struct {
	CellCounts
	Series []Counts
}

// FlowSeries is one flow over time, each packet once. Primary is what grapher
// lines call level 0, Secondary level 1: packets that relays sent again, and
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

// Seen is all that the agent reported.
func (h *HostCounts) Seen() Counts { return h.Sent.Plus(h.Relayed).Plus(h.Received) }

// FlowCounts is a flow at one host, as seen by its agent: exactly what grapher
// lines add up to.
type FlowCounts struct {
	Row                int
	Primary, Secondary Counts
}

// FlowView is one flow: bars per host, over a strip chart.
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
	// Sent is what the sender's own agent saw, Received what the destination's
	// agent saw, or, if that is nobody's address, of several receivers the one who saw most,
	// Relayed what all relays sent.
	Sent, Relayed, Received Counts
	// Loss: valid iff both ends were watched at the same time and Dst is not a
	// multicast group. It is of that time alone.
	Loss Loss
}

// Loss is what went missing between two observers.
type Loss struct {
	Valid bool
	// Expected packets and how many of them were Lost. By counts, packets on
	// their way at the window's ends make it wrong by a few either way; it is
	// not below 0 nor above Expected.
	Expected, Lost uint64
	// BySequence: worked out from sequence numbers at the receiver instead.
	BySequence bool
}

// Fraction lost, 0 to 1.
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
	// Watched: its own agent saw it.
	Watched   bool
	Receivers []GroupReceiver // ordered by host
}

// GroupReceiver is an agent that saw packets of a group arrive, or a member that saw none although it
// reports what it receives.
type GroupReceiver struct {
	Host     int
	Role     Role
	Received Counts
	// Fraction, 0 to 1, of the packets that were sent while both agents were
	// watching; valid iff Compared: there were some.
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

// Talker is a conversation in one direction: a 5-tuple, and its primary flow,
// which MGEN flow IDs may divide it into.
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
	// Other is more MGEN traffic, seen, of flows too many to be kept.
	Other Counts
}

// MGENFlow is one MGEN flow: an ID from one source port to one destination.
// The same ID from another source is another flow.
type MGENFlow struct {
	ID uint32
	Tuple
	SrcHost int // the agent whose address Src is, or -1
	// Sent is what the sender's own agent saw. Watched: it saw something.
	Sent    MGENCounts
	Watched bool
	Relayed Counts
	// Receivers are those that have received some, ordered by role and host; and the
	// destination's host, or members, whose agents report what they receive, but none of this.
	Receivers []MGENReceiver
}

// MGENCounts are packets and the messages that begin in them.
type MGENCounts struct {
	Counts
	// Messages is 0 with feeds that do not tell (the 28-byte feed).
	Messages uint64
}

// MGENReceiver is a flow at one receiver. What comes after Received is from
// sequence numbers and transmit times: valid iff Received.Messages > 0.
type MGENReceiver struct {
	Host     int
	Role     Role
	Received MGENCounts
	// Loss is by sequence if the feed tells. It is by counts, if the sender is
	// watched, where the feed does not tell, where more than may be on its way
	// is missing before the first or after the last message of the window, and
	// where the sender has skipped numbers.
	Loss Loss
	// Duplicates are messages that had come before; Reordered those that came
	// after one with a higher number (RFC 4737, 3: "type-P-reordered").
	Duplicates, Reordered uint64
	// Restarts is how often the numbers began anew.
	Restarts uint64
	// Delay of messages from their transmit time (sender's clock) to the
	// receiver's capture time, duplicates left out. Valid iff Delayed > 0.
	Delayed                       uint64
	MinDelay, MeanDelay, MaxDelay time.Duration
	// Jitter is RFC 3550's interarrival jitter (6.4.1) at the end of the window's
	// last second with messages.
	Jitter time.Duration
	// NegativeDelays counts delays below 0: the clocks of the two hosts differ by
	// at least -MinDelay, and no delay of this flow can be trusted.
	NegativeDelays uint64
}

// Arrived is how many different messages came, or packets if the feed does not tell.
func (r *MGENReceiver) Arrived() uint64 {
	if r.Received.Messages == 0 {
		return r.Received.Packets
	}
	return r.Received.Messages - min(r.Duplicates, r.Received.Messages)
}

// Delivery is what became of what was sent: Sent = Arrived + Lost + Unobserved.
type Delivery struct {
	Sent, Arrived, Lost, Unobserved uint64
	// Unseen of Sent were not seen by the sender's agent; others prove that they were sent.
	Unseen uint64
}

// Delivery to one of f's receivers.
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
	SentHost  int      // whose agent saw Sent; -1: nobody's
	Receivers []MGENReceiverSeries
}

// MGENReceiverSeries is one receiver's part, ordered by host. Delays are in
// nanoseconds and valid where Delayed is not 0.
type MGENReceiverSeries struct {
	Host     int
	Received []Counts
	// Expected is by how much the highest sequence number grew, Lost that
	// minus what came. A message that comes late makes up for an earlier loss,
	// so single points of Lost may be negative; sums are right.
	Expected                              []uint64
	Lost                                  []int64
	Duplicates, Reordered                 []uint64
	Delayed                               []uint64
	MinDelay, MeanDelay, MaxDelay, Jitter []int64
	NegativeDelays                        []uint64
}
