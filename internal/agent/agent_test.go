package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/export"
	"github.com/pcapper/pcapper/internal/agent/iface"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
)

func record(proto uint8, src, dst string) *wire.Record {
	from, to := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	r := &wire.Record{
		Src: from.Addr().As16(), Dst: to.Addr().As16(), SrcPort: from.Port(), DstPort: to.Port(), Proto: proto,
	}
	if from.Addr().Is6() {
		r.Flags |= wire.IPv6
	}
	return r
}

func TestSelf(t *testing.T) {
	s := newSelf([]uint16{7073}, []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")})
	for _, tt := range []struct {
		r    *wire.Record
		want bool
	}{
		{record(wire.ProtoTCP, "10.0.0.1:7073", "10.0.0.9:40000"), true},
		{record(wire.ProtoTCP, "10.0.0.9:40000", "10.0.0.1:7073"), true},
		{record(wire.ProtoTCP, "[fd00::1]:7073", "[fd00::9]:40000"), true},
		{record(wire.ProtoTCP, "127.0.0.1:40000", "127.0.0.1:7073"), true},
		{record(wire.ProtoTCP, "[::1]:7073", "[::1]:40000"), true},
		{record(wire.ProtoTCP, "10.0.0.9:7073", "10.0.0.8:40000"), false}, // another agent's
		{record(wire.ProtoTCP, "10.0.0.1:40000", "10.0.0.9:7073"), false}, // a collector here, an agent there
		{record(wire.ProtoUDP, "10.0.0.1:7073", "10.0.0.9:40000"), false},
		{record(wire.ProtoTCP, "10.0.0.1:7074", "10.0.0.9:40000"), false},
	} {
		if got := s.sent(tt.r); got != tt.want {
			t.Errorf("%s: %v", wire.AppendLine(nil, tt.r), got)
		}
	}
	s.set(nil)
	if s.sent(record(wire.ProtoTCP, "10.0.0.1:7073", "10.0.0.9:40000")) {
		t.Error("an address that is gone still counts as ours")
	}
}

func TestCompactClosesGaps(t *testing.T) {
	recs := make([]wire.Record, 8)
	for i := range recs {
		recs[i].Length = uint32(i)
	}
	n := compact(recs, func(r *wire.Record) bool { return r.Length%3 == 0 })
	var got []uint32
	for _, r := range recs[:n] {
		got = append(got, r.Length)
	}
	if fmt.Sprint(got) != "[1 2 4 5 7]" {
		t.Errorf("kept %v", got)
	}
}

// The feed's packets are left out wherever they stand, and nothing else.
func TestSelfLeavesOut(t *testing.T) {
	s := newSelf([]uint16{7073}, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	feed := record(wire.ProtoTCP, "10.0.0.1:7073", "10.0.0.9:40000")
	other := record(wire.ProtoTCP, "10.0.0.1:80", "10.0.0.9:40000")
	for pattern := range 1 << 5 {
		var recs []wire.Record
		want := 0
		for i := range 5 {
			r := feed
			if pattern>>i&1 == 0 {
				r, want = other, want+1
			}
			recs = append(recs, *r)
		}
		n := s.leaveOut(recs)
		for i := range recs[:n] {
			if s.sent(&recs[i]) {
				t.Errorf("pattern %05b: the feed's packet is still there", pattern)
			}
		}
		if n != want {
			t.Errorf("pattern %05b: %d remain, want %d", pattern, n, want)
		}
	}
}

// What goes to an export is left out, whoever sends it, and a TCP collector's
// answers.
func TestSelfLeavesOutExports(t *testing.T) {
	s := newSelf(nil, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
	s.peer(netip.MustParseAddrPort("239.1.1.1:4739"))
	s.peer(netip.MustParseAddrPort("[::ffff:10.0.0.9]:4740"))
	for _, tt := range []struct {
		r    *wire.Record
		want bool
	}{
		{record(wire.ProtoUDP, "10.0.0.1:5000", "239.1.1.1:4739"), true},
		{record(wire.ProtoUDP, "10.0.0.2:5000", "239.1.1.1:4739"), true},
		{record(wire.ProtoUDP, "10.0.0.1:5000", "239.1.1.1:4738"), false},
		{record(wire.ProtoUDP, "10.0.0.1:5000", "239.1.1.2:4739"), false},
		{record(wire.ProtoTCP, "10.0.0.1:5000", "10.0.0.9:4740"), true},
		{record(wire.ProtoTCP, "10.0.0.9:4740", "10.0.0.1:5000"), true},
		{record(wire.ProtoUDP, "10.0.0.9:4740", "10.0.0.1:5000"), false},
		{record(wire.ProtoICMP, "10.0.0.1:5000", "239.1.1.1:4739"), false},
	} {
		if kept := s.leaveOut([]wire.Record{*tt.r}); (kept == 0) != tt.want {
			t.Errorf("%v:%d > %v:%d, protocol %d: left out is %v", tt.r.SrcAddr(), tt.r.SrcPort, tt.r.DstAddr(), tt.r.DstPort, tt.r.Proto, kept == 0)
		}
	}
}

func TestWhatAnInterfaceWaitsFor(t *testing.T) {
	with := func(addrs ...string) iface.Interface {
		i := iface.Interface{Name: "eth0", Up: true}
		for _, a := range addrs {
			i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
		}
		return i
	}
	down := with("10.0.0.1/8")
	down.Up = false
	for _, tt := range []struct {
		mode string
		i    iface.Interface
		want string
	}{
		{"src", with("10.0.0.1/8"), ""},
		{"src", with("fd00::1/64"), ""},
		{"spoof", with("fd00::1/64"), ""},
		{"src", down, "is down"},
		{"src", with(), ""},
		{"none", with(), ""},
		{"udp port 5001", with(), ""},
		{"ip[8] = %%i", with(), ""},
		{"src", with("fe80::1/64"), ""},
		{"spoof", with(), "has no IP address, which -m spoof needs"},
		{" spoof", with("fe80::1/64"), "has a link-local address only"},
		{"src host %i", with(), `has no IPv4 address, which %i in -m "src host %i" needs`},
		{"src host %i", with("fd00::1/64"), `has no IPv4 address, which %i in -m "src host %i" needs`},
		{"src host %i", with("fd00::1/64", "10.0.0.1/8"), ""},
	} {
		cfg := Config{Mode: tt.mode}
		if got := cfg.missing(tt.i); got != tt.want {
			t.Errorf("-m %q, %v: %q, want %q", tt.mode, tt.i.Addrs, got, tt.want)
		}
	}
}

func TestSpoofInsideBMF(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Mode: "spoof"}, "spoof"}, {Config{Mode: "spoof", BMF: true}, "dst"}, {Config{Mode: "src", BMF: true}, "src"},
	} {
		if got := tt.cfg.kernelMode(); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.cfg, got, tt.want)
		}
	}
}

func TestCounted(t *testing.T) {
	s := hub.Status{Published: 1_234_577, Delivered: 1_234_567, Lost: 3, Skipped: 2, Pending: 5}
	if got := counted(s); got != "1,234,567 delivered, 3 lost, 2 not expressible in 28 bytes, 5 in flight" {
		t.Error(got)
	}
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 1<<64 - 1: "18,446,744,073,709,551,615"} {
		if got := number(n); got != want {
			t.Errorf("%d: %q", n, got)
		}
	}
}

func TestFragmentsOption(t *testing.T) {
	if c := (&Config{Fragments: "first"}).decoder(); c.Fragments != decode.FirstOnly {
		t.Error("-fragments first is ignored")
	}
	if c := (&Config{}).decoder(); c.Fragments != decode.EveryFragment {
		t.Error("every fragment is not the default")
	}
}

// TestDecoderDigests: digests are computed for whoever carries them.
func TestDecoderDigests(t *testing.T) {
	for _, test := range []struct {
		name string
		cfg  Config
		want bool
	}{
		{"28-byte feed", Config{Port: 7073, Log: "x"}, false},
		{"-ipfix-port", Config{IPFIXPort: 4739}, true},
		{"-ipfix-tls-port", Config{IPFIXTLSPort: 4740}, true},
		{"-export", Config{Exports: make([]export.Target, 1)}, true},
	} {
		if got := !test.cfg.decoder().NoDigest; got != test.want {
			t.Errorf("%s: digests %v, want %v", test.name, got, test.want)
		}
	}
}
