// Package ipfix is the record of package wire as IPFIX (RFC 7011) carries it,
// for PCapper's own collector and everyone else's: an encoder, a builder of
// messages, and a decoder that copes with other exporters' templates. It uses
// the standard library only.
//
// # Records
//
// Templates 256 (IPv4) and 257 (IPv6) describe one packet, or several packets
// of one flow:
//
//	element                          bytes
//	sourceIPv4Address (8) or sourceIPv6Address (27)              4 or 16
//	destinationIPv4Address (12) or destinationIPv6Address (28)   4 or 16
//	sourceTransportPort (7)              2
//	destinationTransportPort (11)        2
//	protocolIdentifier (4)               1
//	ipVersion (60)                       1
//	flowDirection (61)                   1   1 if the observed host sent it
//	octetDeltaCount (1)                  4   IP total length
//	packetDeltaCount (2)                 4   1, or more for a flow
//	flowStartMilliseconds (152)          8
//	flowEndMilliseconds (153)            8
//	observationTimeNanoseconds (325)     8   of the packet, a flow's first one
//	mgenFlowId (enterprise 1)            4   0 if the packet is not MGEN's
//	mgenSequence (enterprise 2)          4   valid with flag mgenHeader
//	mgenTransmitTime (enterprise 3)      8   likewise; microseconds since 1970
//	packetFlags (enterprise 4)           2   see below
//	ipTTL (192)                          1   time to live or hop limit; 0 if unknown
//	digestHashValue (326)                8   [wire.Digest]; 0 if unknown
//
// nfdump, nfacctd and goflow2 count nothing without elements 1, 2, 152 and 153.
//
// The elements of our own have the enterprise number [DefaultPEN], which is
// set aside for documentation (RFC 5612), unless the user has one. They are
// all unsigned but mgenTransmitTime, which is signed64, and dropReason, a string.
//
// packetFlags has these bits, as [wire.Flags] explains them: 0x0002 mgen, 0x0004 mgenHeader,
// 0x0008 fragment, 0x0010 laterFragment, 0x0020 truncated, 0x0040 super (the
// record stands for several packets), 0x0080 outgoing, 0x0100 incoming, 0x0200
// relayed, 0x0400 markRelayed, 0x1000 beforeQueue, 0x2000 dropped, 0x4000
// uncounted, 0x8000 member. The last three are in events only.
//
// # Events
//
// Templates 261 (IPv4) and 262 (IPv6) describe what happened to a packet that is
// traffic of no interface at that point, or is counted elsewhere: a drop, or a second
// observation, which with beforeQueue is one before the queueing discipline. The fields are those of 256 and 257 but for
//
//	ipTotalLength (224)                  4   instead of octetDeltaCount
//	eventPackets (enterprise 9)          4   instead of packetDeltaCount
//
// so that no collector adds them to the traffic, and two more at the end:
//
//	forwardingStatus (89)                1   128 if dropped (RFC 7270, section 4.12), or 0
//	dropReason (enterprise 8)           32   the kernel's name without SKB_DROP_REASON_, padded with 0
//
// # Memberships
//
// Events with the flag member are no packets: they tell the multicast groups that the
// observed interface has joined, those left out that the kernel joins by itself. The
// destination address is the group, and the source address unspecified. A list of them, whose
// times are the same, ends with one whose destination is 0.0.0.0 and whose ipTotalLength is how
// many came before it: the interface is a member of no other group. A list is sent to a
// new collector, when a group is joined or left, and every ten seconds.
//
// # Options
//
// Options template 258, scope exportingProcessId (144), 4 bytes, which is the
// observation domain of the process's data: what became
// of packets and records since the agent's start, 8 bytes each:
// exportedMessageTotalCount (41) and exportedFlowRecordTotalCount (42) to this
// collector, notSentFlowTotalCount (166) to this collector since it was too
// slow, ignoredPacketTotalCount (164) by the kernel since the agent was; and
// repairPort (enterprise 7), 2 bytes: the TCP port where those who have missed
// datagrams may ask again, or 0. Template and record are in messages of
// observation domain 0, as RFC 7011, section 3.1, wants it of what concerns the
// whole process. Some collectors, nfcapd among them, count packets' records
// only and would take these for lost ones in the domain of the data; that is
// what they do to host statistics.
//
// Options template 259, scope observationDomainId (149), 4 bytes: a host
// statistic (see package wire): observationTimeMilliseconds (323), 8 bytes,
// observationTimeNanoseconds (325), hostStatistic (enterprise 5), 1 byte, 'C'
// for CPU or 'M' for memory, and hostValue (enterprise 6), 4 bytes.
//
// Options template 260, scope observationDomainId (149), 4 bytes, from agents that
// watch many interfaces: observationDomainName (300), which is the node, such as a
// network namespace, and interfaceName (82), both of variable length. They are in
// a message with statistics.
//
// # Sequence numbers
//
// As RFC 7011, section 3.1, wants it, a message says how many data records,
// options data included, its observation domain has sent before it in the same
// transport session. A collector sees from them what was lost in transit.
package ipfix
