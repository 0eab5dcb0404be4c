package capture

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

// slot is a frame in a block that a test makes.
type slot struct {
	data    []byte
	wireLen int
	link    int // bytes of data before the network header
	sec     uint32
	nsec    uint32
	status  uint32
	tci     uint32
	tpid    uint16
	proto   uint16
	pktType byte
	gso     byte
	gsoSize uint16
	hole    bool // room made for a frame that was then dropped
}

// Where a kernel would put the frame and how it rounds slots up.
const (
	testStart = 96
	slotAlign = 8
)

// makeBlock lays slots out as the kernel does, without a block's header.
func makeBlock(ring *Ring, slots ...slot) Block {
	var data []byte
	for i, s := range slots {
		b := make([]byte, (testStart+len(s.data)+slotAlign-1)/slotAlign*slotAlign)
		put16, put32 := binary.NativeEndian.PutUint16, binary.NativeEndian.PutUint32
		if i < len(slots)-1 {
			put32(b[tpNext:], uint32(len(b)))
		}
		put32(b[tpSec:], s.sec)
		put32(b[tpNsec:], s.nsec)
		put32(b[tpSnaplen:], uint32(len(s.data)))
		put32(b[tpLen:], uint32(max(s.wireLen, len(s.data))))
		if !s.hole {
			s.status |= unix.TP_STATUS_USER
		}
		put32(b[tpStatus:], s.status)
		put16(b[tpMac:], testStart)
		put16(b[tpNet:], uint16(testStart+s.link))
		put32(b[tpVLANTCI:], s.tci)
		put16(b[tpVLANTPID:], s.tpid)
		binary.BigEndian.PutUint16(b[sllProtocol:], s.proto)
		b[sllPktType] = s.pktType
		b[testStart-vnetHdrLen+vnetGSOType] = s.gso
		put16(b[testStart-vnetHdrLen+vnetGSOSize:], s.gsoSize)
		copy(b[testStart:], s.data)
		data = append(data, b...)
	}
	return Block{ring: ring, data: data, left: uint32(len(slots))}
}

func TestBlockFields(t *testing.T) {
	ethernet, cooked := &Ring{vnet: true, cfg: Config{Ethernet: true}}, &Ring{vnet: true}
	data := []byte("linknetwork")
	for _, test := range []struct {
		name string
		ring *Ring
		slot slot
		want packet.Frame
	}{
		{
			"ethernet", ethernet,
			slot{data: data, wireLen: 70, link: 4, sec: 1560390672, nsec: 999999999, proto: 0x800},
			packet.Frame{
				Data: data, WireLen: 70, Time: 1560390672999999999, Protocol: 0x800,
				Link: packet.Ethernet, Direction: packet.Incoming,
			},
		},
		{
			"outgoing, cooked by leaving out the link header", cooked,
			slot{data: data, wireLen: 70, link: 4, pktType: unix.PACKET_OUTGOING, proto: 0x86dd},
			packet.Frame{
				Data: data[4:], WireLen: 66, Protocol: 0x86dd,
				Link: packet.Network, Direction: packet.Outgoing,
			},
		},
		{
			"cut within the link header", cooked,
			slot{data: data[:3], wireLen: 70, link: 4},
			packet.Frame{Data: data[:3], WireLen: 70, Link: packet.Network, Direction: packet.Incoming},
		},
		{
			"to another host, tag", ethernet,
			slot{
				data: data, status: unix.TP_STATUS_VLAN_VALID | unix.TP_STATUS_VLAN_TPID_VALID,
				tci: 0x2005, tpid: 0x88a8, pktType: unix.PACKET_OTHERHOST,
			},
			packet.Frame{
				Data: data, WireLen: len(data), Direction: packet.Incoming,
				VLAN: packet.VLAN{TCI: 0x2005, TPID: 0x88a8, Present: true},
			},
		},
		{
			"tag of an old kernel", ethernet,
			slot{data: data, status: unix.TP_STATUS_VLAN_VALID, tci: 0, tpid: 0},
			packet.Frame{
				Data: data, WireLen: len(data), Direction: packet.Incoming,
				VLAN: packet.VLAN{TPID: 0x8100, Present: true},
			},
		},
		{
			"no tag, remains of one", ethernet,
			slot{data: data, status: unix.TP_STATUS_VLAN_TPID_VALID, tci: 5, tpid: 0x8100},
			packet.Frame{Data: data, WireLen: len(data), Direction: packet.Incoming},
		},
		{
			"super-packet with ECN", ethernet,
			slot{data: data, wireLen: 65226, gso: 0x80 | packet.GSOTCPv4, gsoSize: 1448},
			packet.Frame{
				Data: data, WireLen: 65226, Direction: packet.Incoming,
				GSOType: packet.GSOTCPv4, GSOSize: 1448,
			},
		},
		{
			"ECN alone", ethernet,
			slot{data: data, gso: 0x80, gsoSize: 7},
			packet.Frame{Data: data, WireLen: len(data), Direction: packet.Incoming},
		},
		{
			"no offload header", &Ring{cfg: Config{Ethernet: true}},
			slot{data: data, gso: packet.GSOTCPv4, gsoSize: 1448},
			packet.Frame{Data: data, WireLen: len(data), Direction: packet.Incoming},
		},
		{
			"nothing kept", ethernet,
			slot{wireLen: 60},
			packet.Frame{WireLen: 60, Direction: packet.Incoming},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := makeBlock(test.ring, test.slot)
			// What the frame before left behind must not shine through.
			got := packet.Frame{
				GSOType: 9, GSOSize: 9, Protocol: 9, Link: packet.RawIP,
				VLAN: packet.VLAN{TCI: 9, TPID: 9, Present: true},
			}
			if !b.Next(&got) {
				t.Fatal("no frame")
			}
			if string(got.Data) != string(test.want.Data) {
				t.Errorf("data %q, want %q", got.Data, test.want.Data)
			}
			if cap(got.Data) != len(got.Data) {
				t.Error("an append to Data would write into the ring")
			}
			got.Data, test.want.Data = nil, nil
			if !sameFrame(&got, &test.want) {
				t.Errorf("frame\n%+v, want\n%+v", got, test.want)
			}
			if b.Next(&got) || b.Len() != 0 {
				t.Error("a second frame")
			}
		})
	}
}

// sameFrame compares all but Data.
func sameFrame(a, b *packet.Frame) bool {
	return a.Time == b.Time && a.WireLen == b.WireLen && a.Link == b.Link && a.Direction == b.Direction &&
		a.Protocol == b.Protocol && a.VLAN == b.VLAN && a.GSOType == b.GSOType && a.GSOSize == b.GSOSize
}

func TestBlockOrder(t *testing.T) {
	b := makeBlock(&Ring{}, slot{data: []byte("one")}, slot{data: []byte("second")}, slot{data: []byte("3")})
	for i, want := range []string{"one", "second", "3"} {
		var f packet.Frame
		if b.Len() != 3-i || !b.Next(&f) || string(f.Data) != want {
			t.Errorf("frame %d is %q, want %q", i, f.Data, want)
		}
	}
}

func TestBlockHoles(t *testing.T) {
	r := &Ring{}
	hole := slot{data: []byte("of an older frame"), hole: true}
	b := makeBlock(r, hole, slot{data: []byte("one")}, hole, hole, slot{data: []byte("two")}, hole)
	var f packet.Frame
	for _, want := range []string{"one", "two"} {
		if !b.Next(&f) || string(f.Data) != want {
			t.Errorf("frame %q, want %q", f.Data, want)
		}
	}
	if b.Next(&f) || r.lost.Load() != 0 {
		t.Errorf("a frame %q, %d lost; want neither", f.Data, r.lost.Load())
	}
}

// Lengths and offsets that make no sense end the block, and what is lost by
// that is counted.
func TestBlockNonsense(t *testing.T) {
	put16, put32 := binary.NativeEndian.PutUint16, binary.NativeEndian.PutUint32
	for name, spoil := range map[string]func(b *Block){
		"frame before its header": func(b *Block) { put16(b.data[tpMac:], slotHdrLen-1) },
		"frame begins behind":     func(b *Block) { put16(b.data[tpMac:], 0xffff) },
		"frame ends behind":       func(b *Block) { put32(b.data[tpSnaplen:], uint32(len(b.data))) },
		"length wraps":            func(b *Block) { put32(b.data[tpSnaplen:], 0xffffffff) },
		"first behind":            func(b *Block) { b.next = uint32(len(b.data)) },
		"first at the very end":   func(b *Block) { b.next = 0xffffffff },
		"block of nothing":        func(b *Block) { b.data = nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := &Ring{vnet: true}
			b := makeBlock(r, slot{data: []byte("one")}, slot{data: []byte("two")})
			spoil(&b)
			var f packet.Frame
			if first, second := b.Next(&f), b.Next(&f); first || second {
				t.Errorf("frame %+v", f)
			}
			if got := r.lost.Load(); got != 2 {
				t.Errorf("%d frames counted as lost, want 2", got)
			}
		})
	}
}

// Whatever the bytes: no panic, no byte from outside of the block, no frame
// given twice or given and counted as lost.
func FuzzBlock(f *testing.F) {
	good := makeBlock(&Ring{}, slot{data: []byte("one")}, slot{data: []byte("two"), link: 2})
	f.Add(good.data, uint32(0), uint16(2), true, false)
	f.Add(good.data, uint32(8), uint16(2), false, true)
	f.Add([]byte{}, uint32(0xfffffff0), uint16(1), true, true)
	f.Fuzz(func(t *testing.T, data []byte, first uint32, frames uint16, vnet, ethernet bool) {
		r := &Ring{vnet: vnet, cfg: Config{Ethernet: ethernet}}
		b := Block{ring: r, data: data[:len(data):len(data)], next: first, left: uint32(frames)}
		var given uint64
		for frame := new(packet.Frame); b.Next(frame); given++ {
			if frame.WireLen < len(frame.Data) {
				t.Fatalf("%d bytes captured of %d", len(frame.Data), frame.WireLen)
			}
			if frame.VLAN.Present != (frame.VLAN != packet.VLAN{}) {
				t.Fatalf("tag %+v", frame.VLAN)
			}
		}
		if got := given + r.lost.Load(); got > uint64(frames) || b.Len() != 0 {
			t.Fatalf("%d frames given and lost, %d left, of %d", got, b.Len(), frames)
		}
	})
}

func TestBlockAllocatesNothing(t *testing.T) {
	slots := make([]slot, 100)
	for i := range slots {
		slots[i] = slot{data: make([]byte, 60), link: 14}
	}
	full := makeBlock(&Ring{vnet: true}, slots...)
	var f packet.Frame
	allocs := testing.AllocsPerRun(100, func() {
		for b := full; b.Next(&f); {
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkBlock(b *testing.B) {
	slots := make([]slot, 850)
	for i := range slots {
		slots[i] = slot{data: make([]byte, 60), link: 14}
	}
	full := makeBlock(&Ring{vnet: true, cfg: Config{Ethernet: true}}, slots...)
	var f packet.Frame
	for n := 0; n < b.N; {
		for block := full; block.Next(&f); {
			n++
		}
	}
}

// TestBlockBytes: a small ring has as many blocks as a large one, so its reader may be as
// late, as far as pages and frames allow.
func TestBlockBytes(t *testing.T) {
	for name, c := range map[string]struct{ ring, snaplen, page, want int }{
		"default":             {DefaultRingBytes, DefaultSnaplen, 4096, blockSize},
		"large":               {1 << 30, DefaultSnaplen, 4096, blockSize},
		"of many interfaces":  {1 << 20, DefaultSnaplen, 4096, 8 << 10},
		"least":               {1, DefaultSnaplen, 4096, 4 << 10},
		"large pages":         {1 << 20, DefaultSnaplen, 64 << 10, 64 << 10},
		"whole frames":        {1 << 20, 9000, 4096, blockSize},
		"frames of 1,500":     {1 << 20, 1500, 4096, 16 << 10},
		"more than a block's": {1 << 20, maxSnaplen, 4096, blockSize},
	} {
		t.Run(name, func(t *testing.T) {
			if got := blockBytes(c.ring, c.snaplen, c.page); got != c.want {
				t.Errorf("blockBytes(%d, %d, %d) = %d, want %d", c.ring, c.snaplen, c.page, got, c.want)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no interface":      {},
		"negative index":    {Index: -1},
		"negative snaplen":  {Interface: "lo", Snaplen: -1},
		"snaplen too large": {Interface: "lo", Snaplen: maxSnaplen + 1},
		"negative ring":     {Interface: "lo", RingBytes: -1},
		"ring too large":    {Interface: "lo", RingBytes: maxRingBytes + 1},
	} {
		if _, err := cfg.withDefaults(); err == nil {
			t.Errorf("%s: %+v was accepted", name, cfg)
		}
	}
	got, err := Config{Interface: "lo"}.withDefaults()
	if err != nil || got.Snaplen != 256 || got.RingBytes != 16<<20 {
		t.Errorf("defaults %+v, %v", got, err)
	}
}
