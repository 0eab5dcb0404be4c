// Package decode turns captured frames into records: one for each IP packet on the
// wire. Frames without an IP packet yield no record, and are counted by reason.
//
// A record describes the outermost IP header: its addresses, its total length, the
// protocol after any IPv6 extension headers, and the ports of TCP, UDP, SCTP, DCCP, and
// UDP-Lite. VLAN tags, MPLS labels, PPPoE, and LLC/SNAP headers are skipped. A field
// that lies beyond the captured bytes, or beyond the packet's own length, is zero, and
// the record is marked truncated.
//
// Information that is not in the packet itself comes from bounded tables, allocated by
// New: the ports and flow of later fragments, and the MGEN messages of TCP connections.
//
// The decoder does not reassemble, does not verify IP or transport checksums, and does
// not look inside tunnels (but see Config.BMF and Config.Inner).
package decode
