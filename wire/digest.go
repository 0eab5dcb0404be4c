package wire

import (
	"encoding/binary"
	"math/bits"
)

// DigestSize is the number of bytes from which a digest is computed.
const DigestSize = 24

// DigestPayload is the number of bytes after a UDP header that go into a digest. If a
// capture keeps fewer bytes of a packet, its digest cannot be computed.
const DigestPayload = 16

// Digest returns the XXH3_64bits hash (xxHash 0.8, default secret, seed 0) of the 24
// bytes that describe a packet. It is never 0, which means that the digest is unknown:
// a hash of 0 is returned as 1.
//
// The digest of a packet is the same wherever the packet is observed, so two agents
// that report the same digest have seen the same packet. It therefore leaves out
// everything that may change in transit: TTL or hop limit, DSCP and ECN, checksums, IP
// options, the flow label, the don't-fragment bit, link-layer addresses, and VLAN tags;
// also IP addresses and ports, which NAT changes. It is computed from these bytes, with
// numbers in network byte order:
//
//	bytes   meaning
//	 0      IP version: 4 or 6
//	 1      protocol; in IPv6 the one after the extension headers. In a fragment
//	        that of the IPv4 or the fragment header
//	 2- 3   IPv4: identification; IPv6: 0
//	 4- 7   length of the IP packet, header included (IPv6: payload length + 40)
//	 8-23   by protocol:
//
//	UDP, UDP-Lite   the first 16 bytes after the header
//	TCP             sequence number (4), acknowledgement number (4), TSval (4), data
//	                offset in the upper half of a byte (1), flags & 7, which are FIN,
//	                SYN, and RST (1), 0 (2). TSval is 0 unless the options begin with
//	                1 1 8 10, that is, a timestamp after two NOPs
//	ICMP, ICMPv6    type (1), code (1), 0 (4), the header's last two bytes (2), the first 8
//	                bytes after the header. Bytes 4-5, the identifier of an echo, are
//	                left out because NAT changes it
//	SCTP            verification tag (4), the first 12 bytes after the header
//	DCCP            bytes 8-23 of the header
//	others          the first 16 bytes after the IP header
//	fragments       of any protocol, the first one included: IPv4: 0, IPv6:
//	                identification of the fragment header (4), fragment offset in
//	                units of 8 bytes << 3 | 1 if more fragments follow (2), 0 (2), bytes 8-15
//	                of the fragment's payload (8)
//
// Bytes past the end of the packet are 0. In packets to a link-local multicast address
// (224.0.0.0/24, or ff02::/16 regardless of the flags), bytes 20-23 are XORed with the
// last four bytes of the source address in reverse order: no router forwards these
// packets, and neighbors send identical reports and greetings that would otherwise have
// the same digest. An IPv6 atomic fragment (RFC 6946) is not treated as a fragment.
// Each segment of a super-packet has the digest of the packet that it will become: its
// own length and sequence number, the identification plus the segment's index from 0,
// and FIN only in the last segment.
func Digest(b *[DigestSize]byte) uint64 {
	return DigestWords(binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]))
}

// Constants of XXH3 for inputs of 17 to 32 bytes: the first four words of its secret,
// and two primes.
const (
	secret0    = 0xbe4ba423396cfeb8
	secret1    = 0x1cad21f72c81017c
	secret2    = 0xdb979083e96dd4de
	secret3    = 0x1f67b3b7a4a44072
	primeMX    = 0x165667919e3779f9
	lengthTerm = DigestSize * 0x9e3779b185ebca87 & (1<<64 - 1) // prime 1
)

// DigestWords is [Digest] for bytes that have been read as little-endian words.
func DigestWords(a, b, c uint64) uint64 {
	hi1, lo1 := bits.Mul64(a^secret0, b^secret1)
	hi2, lo2 := bits.Mul64(b^secret2, c^secret3)
	h := lengthTerm + (hi1 ^ lo1) + (hi2 ^ lo2)
	h = (h ^ h>>37) * primeMX
	return max(h^h>>32, 1)
}
