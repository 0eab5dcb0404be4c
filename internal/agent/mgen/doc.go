// Package mgen recognizes messages of the Multi-Generator (MGEN) in the payload of UDP
// datagrams and TCP streams, and extracts flow ID, sequence number, and transmit time.
// It looks at payload bytes only: it keeps no tables, does not allocate, and knows
// nothing about frames or IP headers.
//
// # The message
//
// All numbers are big-endian. Every release of the Naval Research Laboratory from 5.02
// to 5.1.1 writes version 2; version 4 is from a fork with 64-bit seconds.
//
//	version 2  version 4
//	      0          0   u16 message size: UDP length - 8
//	      2          2   u8 version
//	      3          3   u8 flags
//	      4          4   u32 flow ID
//	      8          8   u32 sequence number
//	     12         12   seconds, u32 (version 4: u64)
//	     16         20   u32 microseconds
//	     20         24   u16 destination port
//	     22         26   u8 address type: 1 IPv4, 2 IPv6
//	     23         27   u8 address length: 4, 16
//	     24         28   destination address
//
// If the checksum flag is set, the last four bytes of the message are the CRC-32 (IEEE)
// of everything before them.
//
// # Acceptance
//
// A message is accepted based on its version, size, flags, microseconds, and address
// type, for which the first 24 bytes (28 in version 4) suffice; random bytes pass with
// a probability below 2^-35. If its address and port equal those of the packet, the
// message is certain; if they differ, the packet went through a NAT or a relay, and is
// still accepted. If the whole message was captured and has a checksum, the checksum
// decides.
package mgen
