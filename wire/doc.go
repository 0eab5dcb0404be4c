// Package wire defines the record of one packet and the encodings in which PCapper's
// programs exchange it with each other and with other programs. It depends on the
// standard library only and may be imported by any program that talks to an agent, a
// collector, or a grapher.
//
// # The 28-byte record
//
// An agent sends records back to back on a TCP connection, with no greeting and no
// framing. The collector dials and does not have to send anything. All numbers are
// unsigned and big-endian.
//
//	offset bytes field
//	     0     4 seconds of the capture time since the UNIX epoch
//	     4     4 microseconds
//	     8     4 IPv4 source address
//	    12     4 IPv4 destination address
//	    16     2 source port
//	    18     2 destination port
//	    20     2 IPv4 total length, bytes
//	    22     4 MGEN flow ID, 0 if the packet is not MGEN's
//	    26     1 IP protocol number
//	    27     1 flags: 0, or 1 if the packet was relayed and the agent marks it
//
// Records that do not fit in 28 bytes (IPv6 addresses, lengths above 65,535, times
// before 1970 or after 2106) are not sent in this format, and neither are records that
// are not traffic, such as drops: see [AppendBinary].
//
// # Host statistics
//
// Once a second an agent may report on its host in the same format, as protocol 61.
// CPU: both addresses are the bytes 1 0 0 0, both ports are 1, the flow ID is
// 0xFFFFFFFF, and the length is the busy time per CPU during the last second, in ticks
// of 1/100 s. Memory: both addresses are 2 0 0 0, both ports are 2, the flow ID is
// 0xFFFFFFFE, and the length is the memory in use in kB, shifted right by 8 bits.
//
// # The log line
//
//	time:src-addr:src-port:dest-addr:dest-port:length:flowid:proto
//
// in base 10, with exactly six decimals in the time, IPv6 addresses in brackets, and a
// newline at the end. See [AppendLine], [Lines] for formatting many lines, and
// [ParseLine].
//
// # The grapher line
//
//	time:host:id:value:level
//
// is what a collector sends to a grapher about one packet of one flow. The id is a
// flow's number, X for a packet that belongs to no flow, or C or M for host statistics;
// the value is in bits; the level is 0 (primary) or 1 (secondary). See
// [AppendGrapherLine].
//
// # Announcement
//
// Within its first 100 ms a collector may announce, in one line, what it wants:
// "text\n" requests log lines, "bulk\n" requests 28-byte records regardless of TCP
// segment boundaries. A collector that announces nothing receives 28-byte records in
// segments that contain whole records only. "bulk\n" may also be sent later.
//
// # Marks
//
// The line "numbers\n" after "bulk\n" requests marks: 28 bytes in the stream of records
// that give the number of the next record. The first mark precedes the first record;
// further marks follow wherever the stream resumes after records that the collector was
// too slow to receive:
//
//	offset bytes field
//	     0     4 "PCN" and the version, 1
//	     4     4 all bits set, which no record has as its microseconds
//	     8     8 boot: a random number other than 0, drawn when the agent was started
//	    16     8 number of the next record
//	    24     4 CRC-32C (Castagnoli) of everything in front of it
//
// Numbers start at 0 and count the records that fit in 28 bytes, except host
// statistics. All collectors of an agent receive the same numbers. See [AppendMark].
package wire
