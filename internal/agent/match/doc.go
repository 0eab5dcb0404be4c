// Package match turns what -m asks for into a filter: a classic BPF program
// for an AF_PACKET socket, so that the kernel throws away what nobody wants
// before it costs anything, and the same test in Go, for frames that come from
// elsewhere.
//
// The modes src, dst, spoof and none are compiled here. Any other mode is a
// pcap filter expression (pcap-filter(7)), which is compiled by libpcap in a
// build with the tag libpcap, and otherwise by an installed tcpdump: there is
// one language of expressions, and no second reading of it.
//
// A filter is for one kind of frames. On interfaces with Ethernet headers it
// expects a SOCK_RAW socket; on others a SOCK_DGRAM socket, whose data begin
// with the network header. The kernel takes the outer VLAN tag out of frames
// that are received, and filters run afterwards; frames in user space have
// that tag in packet.Frame.VLAN.
//
// The package opens no socket and attaches nothing.
package match
