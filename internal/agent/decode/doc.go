// Package decode turns captured frames into records: one for each IP packet
// on the wire, none for anything else, and a counter for everything that gave
// none.
//
// A record describes the outermost IP header: its addresses, its total length,
// the protocol after any IPv6 extension headers, and the ports of TCP, UDP,
// SCTP, DCCP and UDP-Lite. VLAN tags, MPLS labels, PPPoE and LLC/SNAP are
// looked through on the way. A field that lies beyond the captured bytes, or
// beyond the packet's own length, is zero and the record marked truncated.
//
// What a single packet cannot tell comes from bounded tables whose memory is
// fixed by New: the ports and flow of later fragments, and the MGEN messages
// of TCP connections.
//
// The decoder does not reassemble, does not check IP or transport checksums,
// and does not look into tunnels (but see Config.BMF and Config.Inner).
package decode
