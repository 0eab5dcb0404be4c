package nettest_test

import (
	"bytes"
	"encoding/hex"
	"hash/crc32"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

var (
	v4src = netip.MustParseAddrPort("10.0.0.1:4001")
	v4dst = netip.MustParseAddrPort("10.0.0.2:5001")
	v6src = netip.MustParseAddrPort("[2001:db8::1]:4001")
	v6dst = netip.MustParseAddrPort("[2001:db8::2]:5001")
)

// checksummed is a layer whose checksum covers the pseudo-header.
type checksummed interface {
	SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
}

// decode checks a frame with another decoder, checksums included.
func decode(t *testing.T, frame []byte) gopacket.Packet {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if e := p.ErrorLayer(); e != nil {
		t.Fatalf("decode: %v\n%s", e.Error(), hex.Dump(frame))
	}
	if l, ok := p.TransportLayer().(checksummed); ok {
		if err := l.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
	}
	err, mismatches := p.VerifyChecksums()
	if err != nil {
		t.Fatalf("checksums: %v", err)
	}
	if len(mismatches) > 0 {
		t.Errorf("wrong checksums: %v\n%s", mismatches, hex.Dump(frame))
	}
	return p
}

func TestFrameAgainstDecoder(t *testing.T) {
	odd := []byte("odd")
	for _, test := range []struct {
		name   string
		frame  nettest.Frame
		length int
		layers []gopacket.LayerType
	}{
		{
			"udp4", nettest.Frame{Src: v4src, Dst: v4dst, Payload: odd}, 14 + 20 + 8 + 3,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeUDP},
		},
		{
			"options", nettest.Frame{Src: v4src, Dst: v4dst, Options: []byte{1, 1, 1, 1, 1}, Payload: odd}, 14 + 28 + 8 + 3,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeUDP},
		},
		{
			"tcp4", nettest.Frame{Src: v4src, Dst: v4dst, Proto: 6, Seq: 7, Ack: 9, TCPFlags: 0x18, Payload: odd}, 14 + 20 + 20 + 3,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv4, layers.LayerTypeTCP},
		},
		{
			"udp6", nettest.Frame{Src: v6src, Dst: v6dst, TOS: 0xb8, Payload: odd}, 14 + 40 + 8 + 3,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv6, layers.LayerTypeUDP},
		},
		{
			"tcp6", nettest.Frame{Src: v6src, Dst: v6dst, Proto: 6}, 14 + 40 + 20,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv6, layers.LayerTypeTCP},
		},
		{
			"extension", nettest.Frame{
				Src: v6src, Dst: v6dst, Payload: odd,
				NextHeader: 60, Extension: []byte{17, 0, 1, 4, 0, 0, 0, 0},
			}, 14 + 40 + 8 + 8 + 3,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeIPv6, layers.LayerTypeIPv6Destination, layers.LayerTypeUDP},
		},
		{
			"qinq", nettest.Frame{Tags: []nettest.Tag{{TPID: 0x88a8, TCI: 5}, {TCI: 0x2007}}, Src: v4src, Dst: v4dst}, 14 + 8 + 28,
			[]gopacket.LayerType{layers.LayerTypeEthernet, layers.LayerTypeDot1Q, layers.LayerTypeDot1Q, layers.LayerTypeIPv4, layers.LayerTypeUDP},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.frame.SrcMAC, test.frame.DstMAC = nettest.MAC{2, 1}, nettest.MAC{2, 2}
			b := test.frame.Ethernet()
			if len(b) != test.length {
				t.Errorf("%d bytes, want %d", len(b), test.length)
			}
			p := decode(t, b)
			for i, want := range test.layers {
				if got := p.Layers()[i].LayerType(); got != want {
					t.Errorf("layer %d is %v, want %v", i, got, want)
				}
			}
			if app := p.ApplicationLayer(); len(test.frame.Payload) > 0 && !bytes.Equal(app.Payload(), odd) && !bytes.Equal(app.LayerContents(), odd) {
				t.Errorf("payload %q, want %q", app.LayerContents(), odd)
			}
		})
	}
}

func TestFrameFields(t *testing.T) {
	f := nettest.Frame{
		SrcMAC: nettest.MAC{2, 1}, DstMAC: nettest.MAC{2, 2},
		Src: v4src, Dst: v4dst, TTL: 3, ID: 0x1234, TOS: 0x10, Payload: []byte{1},
	}
	p := decode(t, f.Ethernet())
	ip := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	if ip.TTL != 3 || ip.Id != 0x1234 || ip.TOS != 0x10 || ip.SrcIP.String() != "10.0.0.1" || ip.DstIP.String() != "10.0.0.2" {
		t.Errorf("IPv4 header %+v", ip)
	}
	udp := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if udp.SrcPort != 4001 || udp.DstPort != 5001 || udp.Length != 9 {
		t.Errorf("UDP header %+v", udp)
	}
}

func TestPad(t *testing.T) {
	if got := nettest.Pad([]byte{1}, 3); !bytes.Equal(got, []byte{1, 0, 0}) {
		t.Errorf("padded to %v", got)
	}
	if got := nettest.Pad([]byte{1, 2, 3, 4}, 3); len(got) != 4 {
		t.Errorf("padding cut a frame to %v", got)
	}
}

func TestMGEN(t *testing.T) {
	m := nettest.MGEN{
		Flow: 1000, Seq: 7, Time: time.Unix(1560390672, 895279000),
		Dst: v4dst, Size: 64, Checksum: true,
	}
	b := m.Payload()
	const head = "0040" + "02" + "06" + "000003e8" + "00000007" + "5d01ac10" + "000da92f" + "1389" + "01" + "04" + "0a000002"
	if got := hex.EncodeToString(b[:28]); got != head {
		t.Errorf("header\n%s, want\n%s", got, head)
	}
	if len(b) != 64 {
		t.Errorf("%d bytes, want 64", len(b))
	}
	if got, want := hex.EncodeToString(b[60:]), crc32.ChecksumIEEE(b[:60]); got != hex.EncodeToString([]byte{byte(want >> 24), byte(want >> 16), byte(want >> 8), byte(want)}) {
		t.Errorf("checksum %s, want %08x", got, want)
	}
	if b := (&nettest.MGEN{Dst: v6dst}).Payload(); len(b) != 40 || b[22] != 2 || b[23] != 16 {
		t.Errorf("smallest IPv6 message: % x", b)
	}
	if b := (&nettest.MGEN{Dst: v4dst, Checksum: true}).Payload(); b[3]&4 != 0 {
		t.Error("a message of 28 bytes claims a checksum that it has no room for")
	}
}
