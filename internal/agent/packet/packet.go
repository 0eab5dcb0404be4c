// Package packet holds what a capture hands to a decoder: one frame as it was
// taken from an interface or a file, with what the kernel said about it. It
// is the only thing, beside wire, that internal packages share.
package packet

// LinkType says what Frame.Data begins with.
type LinkType uint8

const (
	// Ethernet: an Ethernet II or 802.3 header (also loopback interfaces).
	Ethernet LinkType = iota
	// Network: no link header; the network header comes first and
	// Frame.Protocol says which (cooked sockets: tun, wireguard, ppp).
	Network
	// RawIP: no link header and no protocol either; the version nibble tells
	// IPv4 from IPv6 (capture files, LINKTYPE_RAW).
	RawIP
	// IEEE80211: an IEEE 802.11 MAC header.
	IEEE80211
	// Radiotap: a radiotap header (radiotap.org), then an IEEE 802.11 frame.
	Radiotap

	// LinkTypes is how many there are.
	LinkTypes = iota
)

// Direction of a frame as the observation point knows it.
type Direction uint8

const (
	// Unknown: capture files do not tell.
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

// VLAN is a tag that the kernel or the card took out of the frame.
type VLAN struct {
	TCI     uint16 // priority, DEI and VLAN identifier, host byte order
	TPID    uint16 // 0x8100 or 0x88a8, host byte order
	Present bool   // whether there was a tag at all; the others are valid iff set
}

// Frame is one captured frame. The code that fills it owns Data: it is valid only
// until the next frame is asked for.
type Frame struct {
	// Data is what was captured, at most the snapshot length, beginning with
	// the header that Link names.
	Data []byte
	// Time of the capture in nanoseconds since the UNIX epoch, UTC.
	Time int64
	// WireLen is the length of the whole frame in bytes, counted from the
	// same header as Data; at least len(Data).
	WireLen int
	// Link is what Data begins with.
	Link LinkType
	// Direction of the frame.
	Direction Direction
	// BeforeQueue: an outgoing frame was seen before it entered the interface's queueing
	// discipline. Twice: if that lets it through, it is seen again behind it.
	BeforeQueue, Twice bool
	// Protocol is the EtherType in host byte order, valid iff Link is Network.
	Protocol uint16
	// VLAN is the outermost tag if it was taken out of Data.
	VLAN VLAN
	// GSOType is one of the GSO constants; unless it is GSONone the frame is a
	// super-packet that stands for several frames on the wire.
	GSOType uint8
	// GSOSize is the number of payload bytes in each segment but the last,
	// valid iff GSOType is not GSONone.
	GSOSize uint16
}
