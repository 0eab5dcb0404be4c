// Package feed carries records over TCP: Server is the agent's side, Client the
// collector's. Package wire defines the bytes.
//
// The server must accommodate the C collector, which reads exactly 28 bytes at a time
// and fails if it gets fewer. A collector that announces nothing is therefore sent
// whole records only, and only as far as the receiver's window has room, because a
// window probe would split one. Normally a TCP segment holds 51 records (MaxSegment),
// so that the kernel splits between records, however much is sent at once. If segments
// have another size, each message is a number of whole records that fits in one, and is
// marked with MSG_EOR so that the kernel never joins it with the next (tcp(7),
// sendmsg(2)).
package feed
