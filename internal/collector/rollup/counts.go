package rollup

import (
	"math"
	"net/netip"
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

// Blank is a time when a host's agent was not watching, or not all of the time:
// seconds From to To, without To. What happened on the host then is unknown,
// which is not the same as nothing.
type Blank struct {
	Run
	// Partial: the agent was watching, but some of its records were lost. What
	// is left is shown, but not compared with what other agents saw.
	Partial bool
}

// forever is the end of a Blank that is not over.
const forever = math.MaxInt64

// Run is a time when the history was being written: seconds from From to To,
// without To.
type Run struct{ From, To int64 }

// Row is a flow as the configuration names it.
type Row struct {
	Name   string `json:"name"`   // by which it is known again
	Detail string `json:"detail"` // what it looks for, for people
	// Former: the configuration does not have it any more.
	Former bool `json:"-"`
}

// Tuple names a conversation. Ports are 0 for protocols without ports.
type Tuple struct {
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	Proto            uint8
}
