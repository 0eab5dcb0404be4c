package decode

import (
	"encoding/binary"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// BMF, the Basic Multicast Forwarding plug-in of olsrd, sends IPv4 packets between its
// own ports, after a header of four constant bytes and a CRC-32 that is the same at
// every hop.
const (
	bmfPort = 50698
	bmfLen  = 8
)

var bmfHeader = [4]byte{0x01, 0x06, 0x00, 0x00}

// bmf returns the IPv4 packet inside p if p is BMF's. The inner packet must fill the
// datagram exactly.
func bmf(p *ipPacket, r *wire.Record) (ipPacket, bool) {
	if r.Proto != wire.ProtoUDP || p.inner || p.frame.GSOType != packet.GSONone || len(p.data)-p.l4 < udpLen+bmfLen+ipv4Len {
		return ipPacket{}, false
	}
	b := p.data[p.l4:]
	if binary.BigEndian.Uint32(b) != bmfPort<<16|bmfPort || [4]byte(b[udpLen:]) != bmfHeader {
		return ipPacket{}, false
	}
	q := ipPacket{
		frame: p.frame,
		data:  b[udpLen+bmfLen:],
		wire:  p.total - p.l4 - udpLen - bmfLen,
		inner: true,
	}
	ihl := int(q.data[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(q.data[2:]))
	return q, q.data[0]>>4 == 4 && ihl >= ipv4Len && total >= ihl && total == q.wire
}
