package decode

import "encoding/binary"

// Packet types of batman-adv (batadv_packet.h in the kernel source) that contain an
// Ethernet frame, by their first byte, in compatibility version 15, which all releases
// since 2014 use.
const (
	batmanVersion = 15

	batmanBroadcast   = 0x01
	batmanMulticast   = 0x05
	batmanUnicast     = 0x40
	batmanUnicastPart = 0x41
	batmanUnicast4    = 0x42

	batmanUnicastLen   = 10
	batmanPartLen      = 20
	batmanUnicast4Len  = 18
	batmanBroadcastLen = 14
	batmanMulticastLen = 6
)

// batman removes a batman-adv header. The parts of a split packet do not say which of
// them is the first one, which has the inner headers: it is the one whose IP packet is
// as long as all parts together. wire is the length of b on the wire.
func batman(b []byte, wire int) (n, next int) {
	if len(b) < 3 {
		return 0, 0
	}
	if b[1] != batmanVersion {
		return len(b), batmanOther
	}
	switch b[0] {
	case batmanBroadcast:
		n = batmanBroadcastLen
	case batmanUnicast:
		n = batmanUnicastLen
	case batmanUnicast4:
		n = batmanUnicast4Len
	case batmanMulticast:
		if len(b) >= batmanMulticastLen {
			n = batmanMulticastLen + int(binary.BigEndian.Uint16(b[4:]))
		}
	case batmanUnicastPart:
		if len(b) < batmanPartLen {
			return 0, 0
		}
		n = batmanPartLen
		total := int(binary.BigEndian.Uint16(b[18:]))
		if !isBatmanWhole(b[n:], total) {
			return n, batmanPart
		}
		return n, etherBATMAN
	default:
		return len(b), batmanOther
	}
	if n == 0 || len(b) < n {
		return 0, 0
	}
	return n, etherBridged
}

// isBatmanWhole reports whether b begins with a batman-adv packet of total bytes that
// contains an IP packet.
func isBatmanWhole(b []byte, total int) bool {
	if len(b) == 0 || b[0] == batmanUnicastPart {
		return false
	}
	n, next := batman(b, total)
	return next == etherBridged && isFrame(b, total, n)
}
