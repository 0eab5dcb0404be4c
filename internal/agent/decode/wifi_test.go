package decode

import (
	"encoding/binary"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

var (
	wifiA = []byte{2, 0, 0, 0, 0, 0x0a}
	wifiB = []byte{2, 0, 0, 0, 0, 0x0b}
	wifiC = []byte{2, 0, 0, 0, 0, 0x0c}
	snap4 = []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 0}
)

// wifiFrame is an 802.11 frame with the given first two bytes and addresses.
func wifiFrame(control, flags byte, rest ...[]byte) []byte {
	return join([]byte{control, flags, 0, 0}, wifiA, wifiB, wifiC, []byte{0, 0}, join(rest...))
}

func radiotap(fields []byte, present uint32, b []byte) []byte {
	h := []byte{0, 0, 0, 0}
	h = binary.LittleEndian.AppendUint32(h, present)
	h = append(h, fields...)
	binary.LittleEndian.PutUint16(h[2:], uint16(len(h)))
	return append(h, b...)
}

// wifiSeeds are 802.11 frames for tests that damage frames.
func wifiSeeds() []packet.Frame {
	data := join(snap4, ip4(17, 1, 0, udp(7, 9, message(60, 1, 1))))
	sub := join(wifiA, wifiB, []byte{0, byte(len(data))}, data)
	var seeds []packet.Frame
	for _, b := range [][]byte{
		wifiFrame(0x88, 0x03, wifiA, []byte{0, 1, 0, 0, 0, 0, 0, 0}, data),
		wifiFrame(0x88, 0x01, []byte{0x80, 0}, sub, sub),
		wifiFrame(0x08, 0x02, data),
	} {
		for i, b := range [][]byte{b, radiotap([]byte{0x20}, 2, b)} {
			f := frame(b)
			f.Link = packet.IEEE80211 + packet.LinkType(i)
			seeds = append(seeds, f)
		}
	}
	return seeds
}

// TestWiFi: which 802.11 frames have a packet, and who sent it.
func TestWiFi(t *testing.T) {
	p4 := ip4(17, 1, 0, udp(7, 9, noise(4)))
	data := join(snap4, p4)
	qos := func(first, second byte) []byte { return []byte{first, second} }
	mesh := func(flags byte, n int) []byte { return append([]byte{flags}, make([]byte, n-1)...) }
	flags := func(f byte) []byte { return append(make([]byte, 8), f) } // behind a time
	plain := wifiFrame(0x08, 0x01, data)
	tests := []struct {
		name   string
		b      []byte
		tap    bool
		source []byte                 // of the record
		count  func(*Counters) uint64 // nil: one record
	}{
		{"ad hoc", wifiFrame(0x08, 0, data), false, wifiB, nil},
		{"to the access point", plain, false, wifiB, nil},
		{"from the access point", wifiFrame(0x08, 0x02, data), false, wifiC, nil},
		{"four addresses", wifiFrame(0x08, 0x03, wifiA, data), false, wifiA, nil},
		{"qos", wifiFrame(0x88, 0x01, qos(0, 0), data), false, wifiB, nil},
		{"qos, four addresses", wifiFrame(0x88, 0x03, wifiA, qos(5, 0), data), false, wifiA, nil},
		{"qos with ht control", wifiFrame(0x88, 0x81, qos(0, 0), []byte{1, 2, 3, 4}, data), false, wifiB, nil},
		{"qos of a long queue", wifiFrame(0x88, 0x01, qos(0, 0xff), data), false, wifiB, nil},
		{"with order, not qos", wifiFrame(0x08, 0x81, data), false, wifiB, nil},
		{"retry, power, more data", wifiFrame(0x08, 0x39, data), false, wifiB, nil},
		{"mesh", wifiFrame(0x88, 0x03, wifiA, qos(0, 1), mesh(0, 6), data), false, wifiA, nil},
		{"mesh, proxied", wifiFrame(0x88, 0x03, wifiA, qos(0, 1), mesh(2, 18), data), false, wifiA, nil},
		{"vlan", wifiFrame(0x08, 0, []byte{0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0, 0, 5, 8, 0}, p4), false, wifiB, nil},
		{"batman-adv", wifiFrame(0x08, 0, []byte{0xaa, 0xaa, 3, 0, 0, 0, 0x43, 5, 0x40, 15, 50}, make([]byte, 7), ether(etherIPv4, p4)), false, wifiB, nil},
		{"first fragment", wifiFrame(0x08, 0x04, data), false, wifiB, nil},
		{"radiotap", radiotap(nil, 0, plain), true, wifiB, nil},
		{"radiotap with time and flags", radiotap(flags(0x10), 3, plain), true, wifiB, nil},
		{"radiotap of two words", radiotap([]byte{0, 0, 0, 0, 0x10}, 1<<31|2, plain), true, wifiB, nil},
		{"radiotap, padded", radiotap([]byte{0x20}, 2, wifiFrame(0x88, 0x01, qos(0, 0), []byte{0, 0}, data)), true, wifiB, nil},

		{"beacon", wifiFrame(0x80, 0, make([]byte, 40)), false, nil, func(c *Counters) uint64 { return c.WiFi }},
		{"acknowledgement", []byte{0xd4, 0, 0, 0, 2, 0, 0, 0, 0, 1}, false, nil, func(c *Counters) uint64 { return c.WiFi }},
		{"null", wifiFrame(0x48, 0x11), false, nil, func(c *Counters) uint64 { return c.WiFi }},
		{"encrypted", wifiFrame(0x08, 0x41, make([]byte, 8), data), false, nil, func(c *Counters) uint64 { return c.WiFiEncrypted }},
		{"damaged", radiotap([]byte{0x50}, 2, plain), true, nil, func(c *Counters) uint64 { return c.WiFiDamaged }},
		{"arp", wifiFrame(0x08, 0, []byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 6}, make([]byte, 28)), false, nil, func(c *Counters) uint64 { return c.ARP }},
		{"spanning tree", wifiFrame(0x08, 0x02, []byte{0x42, 0x42, 3}, make([]byte, 35)), false, nil, func(c *Counters) uint64 { return c.LLC }},
		{"nothing", nil, false, nil, func(c *Counters) uint64 { return c.ShortLink }},
		{"cut", wifiFrame(0x08, 0)[:23], false, nil, func(c *Counters) uint64 { return c.ShortLink }},
		{"cut before llc", wifiFrame(0x08, 0, snap4[:7]), false, nil, func(c *Counters) uint64 { return c.ShortLink }},
		{"no radiotap", plain, true, nil, func(c *Counters) uint64 { return c.ShortLink }},
		{"radiotap cut", radiotap(nil, 0, nil)[:7], true, nil, func(c *Counters) uint64 { return c.ShortLink }},
	}
	later := wifiFrame(0x08, 0, data)
	later[22] = 1
	tests = append(tests, struct {
		name   string
		b      []byte
		tap    bool
		source []byte
		count  func(*Counters) uint64
	}{"later fragment", later, false, nil, func(c *Counters) uint64 { return c.WiFiFragments }})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := frame(tt.b)
			f.Link, f.Direction = packet.IEEE80211, packet.Unknown
			if tt.tap {
				f.Link = packet.Radiotap
			}
			d := New(Config{})
			d.SetLocal(Local{MAC: tt.source})
			r, ok := one(t, d, f)
			c := d.Counters()
			checkBalance(t, d)
			if tt.count != nil {
				if ok || tt.count(&c) != 1 {
					t.Errorf("record %v, %+v", ok, c)
				}
				return
			}
			if !ok || r.SrcPort != 7 || r.Length != 32 || r.Flags&wire.Outgoing == 0 {
				t.Errorf("%v %s, flags %b", ok, fields(&r), r.Flags)
			}
		})
	}
}

// TestWiFiAggregate: an A-MSDU gives a record for each packet in it.
func TestWiFiAggregate(t *testing.T) {
	sub := func(n int, payload []byte) []byte {
		b := join(wifiA, wifiB, binary.BigEndian.AppendUint16(nil, uint16(len(payload))), payload)
		return append(b, make([]byte, n-len(b))...)
	}
	packet4 := func(port uint16, n int) []byte { return join(snap4, ip4(17, 1, 0, udp(port, 9, noise(n)))) }
	arp := join([]byte{0xaa, 0xaa, 3, 0, 0, 0, 8, 6}, make([]byte, 28))
	b := wifiFrame(0x88, 0x01, []byte{0x80, 0},
		sub(56, packet4(1, 5)), sub(52, arp), sub(60, packet4(2, 10)), sub(50, packet4(3, 0)), []byte{1, 2, 3, 4})
	for _, room := range []int{0, 1, 2, 8, 16} {
		f := frame(b)
		f.Link = packet.IEEE80211
		if room == 16 { // what a frame says of offloading is not said of the packets in it
			f.GSOType, f.GSOSize = packet.GSOUDPL4, 2
		}
		d := New(Config{})
		recs := all(t, d, f, room)
		if len(recs) != 3 {
			t.Fatalf("room for %d: got %d records, want 3", room, len(recs))
		}
		for i, r := range recs {
			if r.SrcPort != uint16(i+1) || int(r.Length) != 28+[]int{5, 10, 0}[i] {
				t.Errorf("room for %d: record %d is %s", room, i, fields(&r))
			}
		}
		if c := d.Counters(); c.ARP != 1 || c.SuperPackets != 1 || c.Segments != 4 {
			t.Errorf("%+v", c)
		}
		checkBalance(t, d)
	}
}
