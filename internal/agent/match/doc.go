// Package match compiles the argument of -m to a filter: a classic BPF program for an
// AF_PACKET socket, so that the kernel discards unwanted frames before they cost
// anything, and the same test in Go, for frames from elsewhere.
//
// The modes src, dst, spoof, and none are compiled here. Any other mode is a pcap
// filter expression (pcap-filter(7)), which is compiled by libpcap in builds with the
// tag libpcap, and by an installed tcpdump otherwise. The package does not parse
// expressions itself, so there is only one definition of the language.
//
// A filter applies to one kind of frames. On interfaces with Ethernet headers it
// expects a SOCK_RAW socket; on others a SOCK_DGRAM socket, whose data begins with the
// network header. The kernel removes the outer VLAN tag from received frames before it
// runs the filter; frames in user space have that tag in packet.Frame.VLAN.
package match
