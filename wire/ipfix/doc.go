// Package ipfix encodes the records of package wire as IPFIX (RFC 7011), for PCapper's
// own collector and for any other. It has an encoder of records, a builder of messages,
// and a decoder that also understands the templates of other exporters. It depends on
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
//	observationTimeNanoseconds (325)     8   of the packet, or a flow's first packet
//	mgenFlowId (enterprise 1)            4   0 if the packet is not MGEN's
//	mgenSequence (enterprise 2)          4   valid with flag mgenHeader
//	mgenTransmitTime (enterprise 3)      8   likewise; microseconds since 1970
//	packetFlags (enterprise 4)           2   see below
//	ipTTL (192)                          1   time to live or hop limit; 0 if unknown
//	digestHashValue (326)                8   [wire.Digest]; 0 if unknown
//
// Collectors such as nfdump, nfacctd, and goflow2 count nothing without elements 1, 2,
// 152, and 153.
//
// PCapper's own elements have the enterprise number [DefaultPEN], which is reserved for
// documentation (RFC 5612), unless the user configures another. All of them are
// unsigned, except mgenTransmitTime (signed64) and dropReason (string).
//
// packetFlags has these bits, with the meanings in [wire.Flags]: 0x0002 mgen, 0x0004
// mgenHeader, 0x0008 fragment, 0x0010 laterFragment, 0x0020 truncated, 0x0040 super
// (the record stands for several packets), 0x0080 outgoing, 0x0100 incoming, 0x0200
// relayed, 0x0400 markRelayed, 0x1000 beforeQueue, 0x2000 dropped, 0x4000 uncounted,
// 0x8000 member. The last three occur only in events.
//
// # Events
//
// Templates 261 (IPv4) and 262 (IPv6) describe observations of packets that must not be
// counted as traffic at that point: a drop, or a second observation of a packet that is
// counted elsewhere (with beforeQueue, one before the queueing discipline). The fields
// are those of 256 and 257, except that two elements are replaced so that no collector
// adds the event to the traffic:
//
//	ipTotalLength (224)                  4   instead of octetDeltaCount
//	eventPackets (enterprise 9)          4   instead of packetDeltaCount
//
// and two are added at the end:
//
//	forwardingStatus (89)                1   128 if dropped (RFC 7270, section 4.12), or 0
//	dropReason (enterprise 8)           32   the kernel's name without SKB_DROP_REASON_, padded with 0
//
// # Memberships
//
// Events with the flag member are not packets: they list the multicast groups that the
// observed interface has joined, except the groups that the kernel joins by itself. The
// destination address is the group, and the source address is unspecified. All events
// of a list have the same time. The list ends with an event whose destination is
// 0.0.0.0 and whose ipTotalLength is the number of groups before it: the interface is a
// member of no other group. A list is sent to each new collector, whenever a group is
// joined or left, and every ten seconds.
//
// # Options
//
// Options template 258 has the scope exportingProcessId (144), 4 bytes, whose value is
// the observation domain of the process's data. It reports what has become of packets
// and records since the agent started, 8 bytes each: exportedMessageTotalCount (41) and
// exportedFlowRecordTotalCount (42) to this collector, notSentFlowTotalCount (166), the
// records that this collector was too slow to receive, and ignoredPacketTotalCount
// (164), the packets that the agent was too slow to receive from the kernel. The last
// field is repairPort (enterprise 7), 2 bytes: the TCP port where collectors can
// request datagrams that they missed, or 0. Template and record are in messages of
// observation domain 0, as RFC 7011, section 3.1, requires of information about the
// whole process. This also keeps them out of the sequence numbers of the data's domain:
// some collectors, nfcapd among them, count only packet records and would report these
// as lost. They do so with host statistics.
//
// Options template 259 has the scope observationDomainId (149), 4 bytes. It carries a
// host statistic (see package wire): observationTimeMilliseconds (323), 8 bytes;
// observationTimeNanoseconds (325), 8 bytes; hostStatistic (enterprise 5), 1 byte, 'C'
// for CPU or 'M' for memory; and hostValue (enterprise 6), 4 bytes.
//
// Options template 260 has the scope observationDomainId (149), 4 bytes. Agents that
// watch many interfaces send it in messages with statistics: observationDomainName
// (300), which is the node, such as a network namespace, and interfaceName (82), both
// of variable length.
//
// # Sequence numbers
//
// As RFC 7011, section 3.1, requires, the header of a message has the number of data
// records, including those of options, that its observation domain has sent before it
// in the same transport session. Collectors use it to detect losses in transit.
package ipfix
