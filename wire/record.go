package wire

import "net/netip"

// Flags state which fields of a Record are valid, and what else is known about its
// packet.
type Flags uint16

const (
	// IPv6 means that the addresses are IPv6 addresses. Without it they are IPv4.
	IPv6 Flags = 1 << iota
	// MGEN means that the packet belongs to an MGEN message and FlowID is valid, even
	// if 0.
	MGEN
	// MGENHeader means that an MGEN header begins in this packet; MGENSeq and MGENTime
	// are valid.
	MGENHeader
	// Fragment means that the packet is a fragment of an IP datagram.
	Fragment
	// LaterFragment means that it is not the datagram's first fragment; its ports and
	// flow ID, if any, are those of the datagram.
	LaterFragment
	// Truncated means that headers were cut off, by the sender or by the snapshot
	// length; fields that could not be read are zero.
	Truncated
	// Super means that the record stands for several packets on the wire that could not
	// be separated, as in a capture file from a host with offloads.
	Super
	// Outgoing means that the observed host sent the packet.
	Outgoing
	// Incoming means that the observed host's interface received the packet.
	Incoming
	// Relayed means that the observed host forwarded the packet: the source MAC address
	// is the host's, the source IP address is not.
	Relayed
	// MarkRelayed means that the flags byte of the 28-byte record should show Relayed.
	MarkRelayed
	// HostStat means that the record is a host statistic, not a packet; see Stat.
	HostStat
	// BeforeQueue means that an outgoing packet was observed before it entered the
	// interface's queueing discipline. An outgoing packet without this flag was
	// observed after the queue, or there is no queue.
	BeforeQueue
	// Dropped means that the kernel dropped the packet; Reason says why. Outgoing or
	// Incoming give the side of the interface where it was dropped, if known.
	Dropped
	// Uncounted means that another record of the same agent counts this packet as
	// traffic, for example because it was observed both before and after the queue.
	Uncounted
	// Member means that the record is not a packet but a multicast group that the
	// observed interface has joined; see [Membership].
	Member
)

// NotTraffic are the flags of records that report something other than a passing
// packet, such as a drop. Such records must not be added to an interface's traffic, and
// the 28-byte record and the log line cannot carry them.
const NotTraffic = Dropped | Uncounted | Member

// Protocol numbers (IANA) used by name.
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

// Record describes one packet, or several packets of one flow that have been
// aggregated. It contains no pointers, so a million of them add nothing to garbage
// collection.
type Record struct {
	// Time of capture, nanoseconds since the UNIX epoch, UTC.
	Time int64
	// MGENTime is the time at which the sender created the message, in microseconds
	// since the UNIX epoch by the sender's clock. Valid iff Flags has MGENHeader.
	MGENTime int64
	// Src and Dst are the addresses of the outermost IP header in network byte order.
	// An IPv4 address is in its IPv4-mapped form (RFC 4291, section 2.5.5.2).
	Src, Dst [16]byte
	// SrcPort and DstPort are in host byte order, and 0 for protocols without ports.
	SrcPort, DstPort uint16
	// Length is the total length of the IP packet in bytes, including the header, or
	// the sum of the lengths of several packets.
	Length uint32
	// FlowID is the MGEN flow. Valid iff Flags has MGEN (or HostStat, see Stat).
	FlowID uint32
	// MGENSeq is the message's sequence number. Valid iff Flags has MGENHeader.
	MGENSeq uint32
	// Packets is the number of packets that the record stands for; 0 means 1. Only
	// IPFIX can carry more than 1; Time and the MGEN fields are then those of the first
	// packet.
	Packets uint32
	// Flags state which fields are valid.
	Flags Flags
	// Proto is the IP protocol number; in IPv6, the one after all extension headers.
	Proto uint8
	// TTL is the IPv4 time to live or the IPv6 hop limit; 0 if unknown.
	TTL uint8
	// Digest identifies the same packet at other observation points; 0 if unknown. See
	// [Digest].
	Digest uint64
	// Reason is why the packet was dropped. Valid iff Flags has Dropped.
	Reason Reason
}

// IsTraffic reports whether the record counts as traffic of its interface. Host
// statistics, drops, second observations of a packet, and memberships do not.
func (r *Record) IsTraffic() bool { return r.Flags&(HostStat|NotTraffic) == 0 }

// SetSrc4 sets the source to an IPv4 address in network byte order.
func (r *Record) SetSrc4(a [4]byte) { r.Src = mapped(a) }

// SetDst4 sets the destination to an IPv4 address in network byte order.
func (r *Record) SetDst4(a [4]byte) { r.Dst = mapped(a) }

func mapped(a [4]byte) [16]byte {
	return [16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]}
}

// SrcAddr returns the source address for printing and comparing. It is too slow for hot
// paths.
func (r *Record) SrcAddr() netip.Addr { return r.addr(&r.Src) }

// DstAddr returns the destination address, like SrcAddr.
func (r *Record) DstAddr() netip.Addr { return r.addr(&r.Dst) }

func (r *Record) addr(a *[16]byte) netip.Addr {
	if r.Flags&IPv6 != 0 {
		return netip.AddrFrom16(*a)
	}
	return netip.AddrFrom4([4]byte(a[12:]))
}

// Count returns the number of packets that the record stands for, at least 1.
func (r *Record) Count() uint64 { return uint64(max(r.Packets, 1)) }

// Flow returns the flow ID as encodings carry it: 0 unless the packet is MGEN's or the
// record is a host statistic.
func (r *Record) Flow() uint32 {
	if r.Flags&(MGEN|HostStat) == 0 {
		return 0
	}
	return r.FlowID
}
