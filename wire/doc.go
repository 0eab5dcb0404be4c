// Package wire is what PCapper's programs say to each other and to others:
// the record of one packet, and its encodings. It uses the standard library
// only and may be imported by any program that wants to speak to an agent, to
// a collector or to a grapher.
//
// # The 28-byte record
//
// An agent sends records back to back on a TCP connection, without greeting
// and without framing; the collector dials and need not send anything. All
// numbers are unsigned and big-endian.
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
// What 28 bytes cannot hold (IPv6 addresses, lengths over 65,535, times before
// 1970 or after 2106) is not encoded at all, nor is what is no traffic, such as drops:
// see [AppendBinary].
//
// # Host statistics
//
// Once a second an agent may report its host in the same format, protocol 61.
// CPU: both addresses are the bytes 1 0 0 0, both ports 1, flow ID 0xFFFFFFFF,
// the length is the busy time in ticks (1/100 s) per CPU in the last second.
// Memory: addresses 2 0 0 0, ports 2, flow ID 0xFFFFFFFE, the length is the
// memory in use in kB, shifted right by 8 bits.
//
// # The log line
//
//	time:src-addr:src-port:dest-addr:dest-port:length:flowid:proto
//
// in base 10, the time with exactly six decimals, IPv6 addresses in brackets,
// ended by a newline. See [AppendLine], [Lines] for many, and [ParseLine].
//
// # The grapher line
//
//	time:host:id:value:level
//
// is what a collector tells a grapher about one packet of one flow: the id is
// a flow's number, X for a packet of no flow, C or M for host statistics; the
// value is in bits; the level is 0 (primary) or 1 (secondary). See
// [AppendGrapherLine].
//
// # Announcement
//
// A collector may say in its first 100 ms what it wants, in one line:
// "text\n" asks for log lines, "bulk\n" for 28-byte records without regard to
// segment borders. One that says nothing gets 28-byte records in segments that
// hold whole records only. "bulk\n" may also come later.
//
// # Marks
//
// "numbers\n" as the line behind "bulk\n" asks for marks: 28 bytes among the records that
// tell the number of the next one. The first comes before the first record, others wherever
// the stream goes on behind records that the collector was too slow for:
//
//	offset bytes field
//	     0     4 "PCN" and the version, 1
//	     4     4 all bits set, which no record has as its microseconds
//	     8     8 boot: a random number other than 0, drawn when the agent was started
//	    16     8 number of the next record
//	    24     4 CRC-32C (Castagnoli) of everything in front of it
//
// Numbers count the records that 28 bytes can hold, without host statistics, from 0. All
// collectors of an agent get the same numbers. See [AppendMark].
package wire
