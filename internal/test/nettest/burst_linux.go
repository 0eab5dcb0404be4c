package nettest

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// burst makes UDP super-packets that the kernel cuts into frames: it does so
// before the interface's taps if the interface has no offloads, as all do here.
// A frame costs less than half of what it costs alone.
type burst struct {
	frame Frame
	size  int // payload bytes of each segment
}

// maxBurst is UDP_MAX_SEGMENTS, the most frames of a super-packet, before 6.9.
const maxBurst = 64

// cutHere makes the segments one by one from now on, for a kernel before 6.2
// that does not cut UDP which comes with an offload header.
func (g *Generator) cutHere() {
	frames := make([][]byte, g.per)
	whole := g.burst.frame
	for i := range frames {
		one := burst{frame: whole, size: g.burst.size}
		one.frame.Payload = whole.Payload[i*one.size:]
		one.frame.ID = whole.ID + uint16(i)
		frames[i] = one.bytes(1)
	}
	g.per, g.next = 1, 0
	g.prepare(frames)
}

// NewBurst returns a generator like NewGenerator, of frames that are all f but
// each with the next size bytes of its payload, at most 64 of them, and with an
// IPv4 identification that counts up. f must be UDP over IPv4 without tags.
//
// It is fast from Linux 6.2 on, and works before. It is for taps on the sender's
// side: should the device refuse frames (it does not as long as the receiver
// keeps up), those in the middle of a super-packet are lost without a word.
func NewBurst(ifname string, f Frame, size int) (*Generator, error) {
	n := len(f.Payload) / max(size, 1)
	if n < 1 || n > maxBurst || n*size != len(f.Payload) || f.v6() || len(f.Tags) > 0 || f.proto() != protoUDP {
		return nil, fmt.Errorf("burst of %d bytes in segments of %d: want up to %d whole segments, IPv4, UDP, no tag",
			len(f.Payload), size, maxBurst)
	}
	fd, err := sendSocket(ifname)
	if err != nil {
		return nil, fmt.Errorf("burst on %q: %w", ifname, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("burst on %q: offload header: %w", ifname, err)
	}
	g := &Generator{fd: fd, per: n, burst: &burst{frame: f, size: size}}
	g.prepare([][]byte{g.burst.bytes(n)})
	return g, nil
}

// Burst makes one that sends on the host's eth0.
func (h *Host) Burst(f Frame, size int) (g *Generator, err error) {
	h.Do(func() { g, err = NewBurst(h.Interface.Name, f, size) })
	return g, err
}

// message is one super-packet of the first n segments.
func (b *burst) message(n int) []mmsghdr {
	data := b.bytes(n)
	iov := unix.Iovec{Base: &data[0]}
	iov.SetLen(len(data))
	msg := mmsghdr{hdr: unix.Msghdr{Iov: &iov}}
	msg.hdr.SetIovlen(1)
	return []mmsghdr{msg}
}

// struct virtio_net_hdr (linux/virtio_net.h), host byte order.
const (
	vnetLen       = 10
	vnetNeedsCsum = 1
	vnetUDP       = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
)

// bytes is a super-packet of the first n segments with its offload header. The
// UDP checksum is that of the pseudo-header alone; the kernel does the rest for
// each segment.
func (b *burst) bytes(n int) []byte {
	f := b.frame
	f.Payload = f.Payload[:n*b.size]
	frame := f.Ethernet()
	udpAt := len(frame) - len(f.Payload) - udpHdr
	pseudo := append(f.Src.Addr().Unmap().AsSlice(), f.Dst.Addr().Unmap().AsSlice()...)
	pseudo = append(pseudo, 0, protoUDP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(udpHdr+len(f.Payload)))
	binary.BigEndian.PutUint16(frame[udpAt+6:], ^Checksum(pseudo))

	hdr := make([]byte, vnetLen, vnetLen+len(frame))
	put := binary.NativeEndian.PutUint16
	hdr[0] = vnetNeedsCsum
	if n > 1 {
		hdr[1] = vnetUDP
		put(hdr[2:], uint16(udpAt+udpHdr)) // length of all headers
		put(hdr[4:], uint16(b.size))
	}
	put(hdr[6:], uint16(udpAt)) // where the checksum begins
	put(hdr[8:], 6)             // and where it is put, from there
	return append(hdr, frame...)
}
