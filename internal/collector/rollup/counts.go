package rollup

import (
	"math"
	"net/netip"
)

// Host is an agent: one line of the collector's configuration.
type Host struct {
	Label string
	// Addr is the address at which the agent is contacted, if that is an IP address; it
	// is one of the host's own. It may be invalid.
	Addr netip.Addr
	// Address is the same in the configuration's spelling, which distinguishes hosts
	// with the same label. It may be empty.
	Address string
	// Former means that the configuration no longer lists it; see Archive.Hosts.
	Former bool
}

// Side is how an observer was involved with a packet.
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
	Bytes   uint64 // of whole IP packets, including headers
}

// Bits returns the bits from which rates are computed: 8 x bytes.
func (c Counts) Bits() uint64 { return 8 * c.Bytes }

// Plus returns the sum.
func (c Counts) Plus(d Counts) Counts { return Counts{c.Packets + d.Packets, c.Bytes + d.Bytes} }

// Window is the time range [From, To), in seconds since the UNIX epoch. Step is the
// number of seconds per point of a series; 0 lets the query choose, so that there are
// at most 600 points.
//
// A result contains the window that it actually covers: the ends are moved outwards to
// whole steps, and Step is no finer than what is still kept for From. Rates are counts
// divided by Seconds, or by Step for a point.
type Window struct{ From, To, Step int64 }

// Points returns the length of each series in a result with this window.
func (w Window) Points() int {
	if w.Step <= 0 || w.To <= w.From {
		return 0
	}
	return int((w.To - w.From + w.Step - 1) / w.Step)
}

// Seconds returns the window's length.
func (w Window) Seconds() int64 { return max(w.To-w.From, 0) }

// Blank is a time range, seconds [From, To), in which a host's agent was not watching,
// or not all of the time. What happened on the host then is unknown, which is not the
// same as nothing.
type Blank struct {
	Run
	// Partial means that the agent was watching, but some of its records were lost. The
	// remaining records are displayed, but not compared with those of other agents.
	Partial bool
}

// forever is the end of a Blank that is not over.
const forever = math.MaxInt64

// Run is a time range in which the history was being written: seconds [From, To).
type Run struct{ From, To int64 }

// Row is a flow of the configuration.
type Row struct {
	Name   string `json:"name"`   // identifies the flow
	Detail string `json:"detail"` // definition of the flow, for display
	// Former means that the configuration no longer has it.
	Former bool `json:"-"`
}

// Tuple identifies a conversation. Ports are 0 for protocols without ports.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
}
