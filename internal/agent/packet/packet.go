// Package packet defines what a capture passes to a decoder: a frame captured from an
// interface or read from a file, with what the kernel reported about it. Apart from
// wire, it is the only package that the agent's parts share.
package packet

// LinkType is the kind of header that Frame.Data begins with.
type LinkType uint8

const (
	// Ethernet: an Ethernet II or 802.3 header (also on loopback interfaces).
	Ethernet LinkType = iota
	// Network: no link header; the network header comes first, and Frame.Protocol gives
	// its type (cooked sockets: tun, wireguard, ppp).
	Network
	// RawIP: neither a link header nor a protocol; the version nibble distinguishes
	// IPv4 from IPv6 (capture files, LINKTYPE_RAW).
	RawIP
	// IEEE80211: an IEEE 802.11 MAC header.
	IEEE80211
	// Radiotap: a radiotap header (radiotap.org), then an IEEE 802.11 frame.
	Radiotap

	// LinkTypes is the number of link types.
	LinkTypes = iota
)

// Direction of a frame relative to the observed interface.
type Direction uint8

const (
	// Unknown: capture files do not record it.
	Unknown Direction = iota
	// Incoming: the interface received it.
	Incoming
	// Outgoing: this host sent it.
	Outgoing
)

// GSO kinds, from struct virtio_net_hdr (linux/virtio_net.h) with the ECN bit
// removed.
const (
	GSONone  uint8 = 0
	GSOTCPv4 uint8 = 1
	GSOUDP   uint8 = 3 // UDP fragmentation offload, obsolete
	GSOTCPv6 uint8 = 4
	GSOUDPL4 uint8 = 5 // UDP_SEGMENT
)

// VLAN is a tag that the kernel or the card removed from the frame.
type VLAN struct {
	TCI     uint16 // priority, DEI and VLAN identifier, host byte order
	TPID    uint16 // 0x8100 or 0x88a8, host byte order
	Present bool   // whether there was a tag; the other fields are valid iff set
}

// Frame is a captured frame. The code that fills it owns Data, which is valid only
// until the next frame is requested.
type Frame struct {
	// Data holds the captured bytes, at most the snapshot length, beginning with the
	// header that Link names.
	Data []byte
	// Time of capture in nanoseconds since the UNIX epoch, UTC.
	Time int64
	// WireLen is the length of the whole frame in bytes, from the same header as Data;
	// at least len(Data).
	WireLen int
	// Link is the kind of header that Data begins with.
	Link LinkType
	// Direction of the frame.
	Direction Direction
	// BeforeQueue means that an outgoing frame was observed before it entered the
	// interface's queueing discipline. Twice means that if that passes it on, it is
	// observed again after it.
	BeforeQueue, Twice bool
	// Protocol is the EtherType in host byte order, valid iff Link is Network.
	Protocol uint16
	// VLAN is the outermost tag if it was removed from Data.
	VLAN VLAN
	// GSOType is one of the GSO constants. Unless it is GSONone, the frame is a
	// super-packet that stands for several frames on the wire.
	GSOType uint8
	// GSOSize is the number of payload bytes in each segment except the last. Valid iff
	// GSOType is not GSONone.
	GSOSize uint16
}

// Parsed is a whole UDP datagram over IPv4 without options, on Ethernet, of which
// the capture has kept nothing but this. It certainly is not an MGEN message. Its layout is
// that of struct parsed in capture/bpf/tap.c.
type Parsed struct {
	Time   int64   // of the capture, ns, by a clock of the capture's own
	Source [6]byte // MAC address
	TTL    uint8
	Flags  uint8
	Addrs  [8]byte // source and destination, as in the packet
	Ports  [4]byte // likewise
	Length uint16  // total length of the IP packet in bytes
	Reason uint8   // mgen.Reason: why it is not an MGEN message
	_      uint8
}

// ParsedOutgoing is set in Parsed.Flags if the host sent the frame; otherwise the interface
// received it.
const ParsedOutgoing = 1
