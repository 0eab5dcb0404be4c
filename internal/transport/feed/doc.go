// Package feed carries records over TCP: Server is the agent's side, Client
// the collector's. The bytes on the wire are package wire's.
//
// The server must suit the C collector, which reads exactly 28 bytes at a time
// and gives up when it gets less. So a collector that announces nothing is
// sent whole records only, and only as far as the receiver's window has room,
// since a window probe would cut one. As a rule a TCP segment holds 51 records
// (MaxSegment), so that the kernel cuts between two, however much is sent at
// once. Where segments have another size, each message is a number of whole
// records that fits one, and is marked with MSG_EOR so that the kernel never
// joins it with the next (tcp(7), sendmsg(2)).
package feed
