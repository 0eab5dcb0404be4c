package wire

import "net/netip"

// Flags say which fields of a Record are valid and what is known about its
// packet beside them.
type Flags uint16

const (
	// IPv6: the addresses are IPv6 addresses. Without it they are IPv4.
	IPv6 Flags = 1 << iota
	// MGEN: the packet belongs to an MGEN message; FlowID is valid (also 0).
	MGEN
	// MGENHeader: an MGEN header begins in this packet; MGENSeq and MGENTime
	// are valid.
	MGENHeader
	// Fragment: the packet is a fragment of an IP datagram.
	Fragment
	// LaterFragment: it is not the first fragment; its ports and flow ID, if
	// any, are those of its datagram.
	LaterFragment
	// Truncated: headers were cut off, by the sender or the snapshot length;
	// fields that could not be read are zero.
	Truncated
	// Super: the packet stands for several on the wire that could not be told
	// apart (a capture file of a host with offloads).
	Super
	// Outgoing: the observed host sent the packet.
	Outgoing
	// Incoming: the observed host's interface received the packet.
	Incoming
	// Relayed: the observed host sent it on behalf of another: source MAC
	// mine, source IP none of mine.
	Relayed
	// MarkRelayed: the flags byte of the 28-byte record shall say Relayed.
	MarkRelayed
	// HostStat: not a packet but a host statistic, see Stat.
	HostStat
	// BeforeQueue: an outgoing packet was seen before it entered the interface's
	// queueing discipline. Outgoing without it is behind the queue, or there is none.
	BeforeQueue
	// Dropped: the kernel dropped the packet; Reason says why. Outgoing or Incoming
	// say on which side of the interface it was at that time, where that is known.
	Dropped
	// Uncounted: another record of the same agent counts this packet as traffic, as
	// when it was seen both before and after the queue.
	Uncounted
	// Member: not a packet but a multicast group that the observed interface is a
	// member of, see [Membership].
	Member
)

// NotTraffic are the flags of records that tell something else than that a packet
// passed, such as that it was dropped, and must not be added to an interface's
// traffic. The 28-byte record and the log line cannot carry them.
const NotTraffic = Dropped | Uncounted | Member

// Protocol numbers (IANA) that the project names.
const (
	ProtoICMP     = 1
	ProtoIGMP     = 2
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoDCCP     = 33
	ProtoICMPv6   = 58
	ProtoHostStat = 61 // "any host internal protocol"
	ProtoSCTP     = 132
	ProtoUDPLite  = 136
)

// Record is one packet, or several of one flow that somebody has summed up. It
// holds no pointers, so that a million of them cost the garbage collector nothing.
type Record struct {
	// Time of capture, nanoseconds since the UNIX epoch, UTC.
	Time int64
	// MGENTime is when the sender made the message, microseconds since the
	// UNIX epoch by the sender's clock. Valid iff Flags has MGENHeader.
	MGENTime int64
	// Src and Dst are the outermost IP header's addresses in network byte
	// order; an IPv4 address is in its IPv4-mapped form (RFC 4291, 2.5.5.2).
	Src, Dst [16]byte
	// SrcPort and DstPort in host byte order; 0 for protocols without ports.
	SrcPort, DstPort uint16
	// Length is the IP packet's total length in bytes, header included; the sum
	// of several packets' lengths.
	Length uint32
	// FlowID is the MGEN flow. Valid iff Flags has MGEN (or HostStat, see Stat).
	FlowID uint32
	// MGENSeq is the message's sequence number. Valid iff Flags has MGENHeader.
	MGENSeq uint32
	// Packets is how many packets the record stands for; 0 means 1. Only IPFIX
	// can say more: time is then the first packet's, and so are MGEN's fields.
	Packets uint32
	// Flags see there.
	Flags Flags
	// Proto is the IP protocol number, after any IPv6 extension headers.
	Proto uint8
	// TTL is the IPv4 time to live or the IPv6 hop limit; 0 if unknown.
	TTL uint8
	// Digest recognizes the same packet elsewhere; 0 if unknown. See [Digest].
	Digest uint64
	// Reason is why the packet was dropped. Valid iff Flags has Dropped.
	Reason Reason
}

// IsTraffic reports whether the record counts as traffic of its interface: it is
// not a host statistic, a drop, a second observation of the same packet, or a
// membership.
func (r *Record) IsTraffic() bool { return r.Flags&(HostStat|NotTraffic) == 0 }

// SetSrc4 and SetDst4 store an IPv4 address given in network byte order.
func (r *Record) SetSrc4(a [4]byte) { r.Src = mapped(a) }

// SetDst4 is SetSrc4 for the destination.
func (r *Record) SetDst4(a [4]byte) { r.Dst = mapped(a) }

func mapped(a [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// SrcAddr is the source address for printing and comparing; not for hot paths.
func (r *Record) SrcAddr() netip.Addr { return r.addr(&r.Src) }

// DstAddr is the destination address.
func (r *Record) DstAddr() netip.Addr { return r.addr(&r.Dst) }

func (r *Record) addr(a *[16]byte) netip.Addr {
	if r.Flags&IPv6 != 0 {
		return netip.AddrFrom16(*a)
	}
	return netip.AddrFrom4([4]byte(a[12:]))
}

// Count is how many packets the record stands for, at least 1.
func (r *Record) Count() uint64 { return uint64(max(r.Packets, 1)) }

// Flow is the flow ID as the encodings carry it: 0 unless the packet is MGEN's
// or the record a host statistic.
func (r *Record) Flow() uint32 {
	if r.Flags&(MGEN|HostStat) == 0 {
		return 0
	}
	return r.FlowID
}
