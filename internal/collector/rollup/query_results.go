package rollup

import (
	"net/netip"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Clock says what "now" is for a Store.
type Clock uint8

const (
	// ByWall: the time that Tick is given. For live agents.
	ByWall Clock = iota
	// ByNewest: the newest packet's time. For replayed logs.
	ByNewest
)

// Host is an agent: one line of the collector's configuration.
type Host struct {
	Label string
	// Addr is where the agent is dialled, if that is an address: it is one of
	// the host's own. It may be invalid.
	Addr netip.Addr
	// Address is the same as the configuration has it, which tells hosts with one
	// label apart. It may be empty.
	Address string
	// Former: the configuration does not have it any more; see Archive.Hosts.
	Former bool
}

// Config of a Store.
type Config struct {
	// Hosts are the agents; a record's host is an index into them.
	Hosts []Host
	// Rows is how many flows there are. Row numbers 0 to Rows-1 are flows;
	// row Rows is the traffic of no flow.
	Rows int
	// Classify appends to rows the flows that a packet belongs to, the primary
	// one first, and none if it belongs to no flow. Add calls it once per
	// conversation, not per packet: it may look at addresses, ports, protocol
	// and MGEN flow ID only.
	Classify func(rows []int, r *wire.Record) []int
	Clock    Clock
	// Late is for how long a second waits for its packets; 0 is 5 s. It is
	// rounded up to whole seconds, and 60 s at most.
	Late time.Duration
	// Future is how far ahead of now a packet may be; 0 is 2 s. Rounded and
	// bounded like Late.
	Future time.Duration
	// Budget bounds the history's memory in bytes; 0 is DefaultBudget. The
	// oldest seconds, or spans, go first; Snapshot.Span says how far it reaches.
	Budget int64
	// Archive keeps the history on disk. It may be nil. With one, Hosts and Rows
	// must be what it says, and a quarter of Budget is used: the rest of what it
	// stands for is read from disk.
	Archive *Archive
}

// DefaultBudget is the most memory that history takes unless the
// configuration says otherwise. What else a store needs is about 80 MiB at most,
// and some 600 bytes for each flow of a host that has traffic.
const DefaultBudget = 192 << 20

// Side is where an observer saw a packet.
type Side uint8

const (
	// Sent by the observer as its own.
	Sent Side = iota
	// Relayed by the observer for another host.
	Relayed
	// Received by the observer.
	Received
)

func (s Side) String() string { return [...]string{"sent", "relayed", "received"}[s] }

// Counts of packets.
type Counts struct {
	Packets uint64
	Bytes   uint64 // of whole IP packets, header included
}

// Bits are what rates are made of: bits = 8 x bytes.
func (c Counts) Bits() uint64 { return 8 * c.Bytes }

// Plus is the sum.
func (c Counts) Plus(d Counts) Counts { return Counts{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// Window is the time from From to To, without To, in seconds since the UNIX
// epoch. Step is how many seconds one point of a series stands for; 0 lets
// the query choose, so that there are at most 600 points.
//
// A result holds the window that it really covers: ends moved outwards to
// whole steps, Step no finer than what is still kept for From. Rates are counts
// divided by Seconds, or by Step for a point.
type Window struct{ From, To, Step int64 }

// Points is the length of each series in a result with this window.
func (w Window) Points() int {
	if w.Step <= 0 || w.To <= w.From {
		return 0
	}
	return int((w.To - w.From + w.Step - 1) / w.Step)
}

// Seconds is the window's length.
func (w Window) Seconds() int64 { return max(w.To-w.From, 0) }

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

	history *history
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
	// agent saw, or of several receivers the one who saw most, Relayed what all
	// relays sent.
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

// GroupReceiver is an agent that saw packets of a group arrive.
type GroupReceiver struct {
	Host     int
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

// Tuple names a conversation. Ports are 0 for protocols without ports.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
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
	// Receivers are those that have received some, ordered by host; or the
	// destination's host, if its agent reports what it receives, but none of this.
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
	Received MGENCounts
	// Loss is by sequence if the feed tells. It is by counts, if the sender is
	// watched, where the feed does not tell, and where more than may be on its way
	// is missing before the first or after the last message of the window.
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
