package mgen

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// message describes an MGEN message for the tests to build.
type message struct {
	version, flags byte
	flow, seq      uint32
	sec            uint64
	usec           uint32
	port           uint16
	addr           []byte
	size           int
}

// v4 is a message of version 2 to 10.77.0.2:5001.
func v4(size int) message {
	return message{
		version: 2, flags: 8, flow: 1001, seq: 7, sec: 1795415000, usec: 250000,
		port: 5001, addr: []byte{10, 77, 0, 2}, size: size,
	}
}

// bytes builds the message, with a good CRC if its flag is set.
func (m message) bytes() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(m.size))
	b = append(b, m.version, m.flags)
	b = binary.BigEndian.AppendUint32(b, m.flow)
	b = binary.BigEndian.AppendUint32(b, m.seq)
	if m.version == 4 {
		b = binary.BigEndian.AppendUint64(b, m.sec)
	} else {
		b = binary.BigEndian.AppendUint32(b, uint32(m.sec))
	}
	b = binary.BigEndian.AppendUint32(b, m.usec)
	b = binary.BigEndian.AppendUint16(b, m.port)
	b = append(b, byte(len(m.addr)/12+1), byte(len(m.addr)))
	b = append(b, m.addr...)
	b = append(b, make([]byte, max(m.size-len(b), 0))...)
	if m.flags&flagChecksum != 0 {
		binary.BigEndian.PutUint32(b[m.size-4:], crc32.ChecksumIEEE(b[:m.size-4]))
	}
	return b
}

var (
	dst4 = [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 77, 14: 0, 15: 2}
	dst6 = [16]byte{0: 0xfd, 1: 0x77, 15: 2}
)

func with(m message, f func(*message)) message {
	f(&m)
	return m
}

func TestUDPAccepts(t *testing.T) {
	tests := []struct {
		name string
		m    message
		dst  [16]byte
		sure bool
	}{
		{"usual", v4(200), dst4, true},
		{"smallest", v4(28), dst4, true},
		{"largest", v4(8192), dst4, true},
		{"flow 0", with(v4(100), func(m *message) { m.flow = 0 }), dst4, true},
		{"last flow", with(v4(100), func(m *message) { m.flow = 1<<32 - 1 }), dst4, true},
		{"all known flags", with(v4(100), func(m *message) { m.flags = 0x1f }), dst4, true},
		{"checksum", with(v4(64), func(m *message) { m.flags = flagChecksum }), dst4, true},
		{"last microsecond", with(v4(64), func(m *message) { m.usec = 999_999 }), dst4, true},
		{"ipv6", with(v4(40), func(m *message) { m.addr = dst6[:] }), dst6, true},
		{"version 4", with(v4(32), func(m *message) { m.version = 4 }), dst4, true},
		{"version 4, ipv6", with(v4(44), func(m *message) { m.version = 4; m.addr = dst6[:] }), dst6, true},
		{"other port", with(v4(64), func(m *message) { m.port++ }), dst4, false},
		{"other address", with(v4(64), func(m *message) { m.addr = []byte{192, 0, 2, 7} }), dst4, false},
		{"other address, ipv6", with(v4(64), func(m *message) { m.addr = dst6[:] }), [16]byte{0: 0xfd}, false},
		{"ipv4 in ipv6", with(v4(64), func(m *message) { m.addr = []byte{0, 0, 0, 0} }), [16]byte{0: 0xfd}, false},
		{"ipv6 in ipv4", with(v4(64), func(m *message) { m.addr = dst6[:] }), dst4, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := tt.m.bytes()
			var h Header
			reason := UDP(&h, b, len(b), &tt.dst, 5001)
			want := Header{
				Time: int64(tt.m.sec)*1e6 + int64(tt.m.usec), Flow: tt.m.flow, Seq: tt.m.seq,
				Size: uint16(tt.m.size), Sure: tt.sure,
			}
			if reason != Accepted || h != want {
				t.Errorf("got %+v, %v, want %+v", h, reason, want)
			}
		})
	}
}

func TestUDPRejects(t *testing.T) {
	bad := func(f func(b []byte) []byte) []byte { return f(v4(200).bytes()) }
	tests := []struct {
		name string
		b    []byte
		size int // 0: len(b)
		want Reason
	}{
		{"nothing", nil, 0, Short},
		{"27 bytes", v4(28).bytes()[:27], 0, Short},
		{"version 1", bad(func(b []byte) []byte { b[2] = 1; return b }), 0, BadVersion},
		{"version 3", bad(func(b []byte) []byte { b[2] = 3; return b }), 0, BadVersion},
		{"size one less", bad(func(b []byte) []byte { b[1]--; return b }), 0, BadSize},
		{"payload longer", bad(func(b []byte) []byte { return append(b, 0) }), 0, BadSize},
		{"unknown flag", bad(func(b []byte) []byte { b[3] = 0x20; return b }), 0, BadFlags},
		{"a million microseconds", with(v4(200), func(m *message) { m.usec = 1e6 }).bytes(), 0, BadTime},
		{"seconds beyond all years", with(v4(200), func(m *message) { m.version = 4; m.sec = 1 << 44 }).bytes(), 0, BadTime},
		{"type 3", bad(func(b []byte) []byte { b[22] = 3; return b }), 0, BadAddress},
		{"ipv4 of 16 bytes", bad(func(b []byte) []byte { b[23] = 16; return b }), 0, BadAddress},
		{"no room for ipv6", with(v4(39), func(m *message) { m.addr = dst6[:] }).bytes()[:39], 0, BadSize},
		{"no room in version 4", with(v4(31), func(m *message) { m.version = 4 }).bytes()[:31], 0, BadSize},
		{"wrong checksum", with(v4(64), func(m *message) { m.flags = flagChecksum; m.size = 64 }).flip(63), 0, BadChecksum},
		{"changed under the checksum", with(v4(64), func(m *message) { m.flags = flagChecksum }).flip(50), 0, BadChecksum},
		{"cut, and wrong version", []byte{0, 200, 1}, 200, BadVersion},
		{"cut, and wrong size", []byte{0, 200}, 201, BadSize},
		{"cut, and wrong flags", []byte{0, 200, 2, 0x80}, 200, BadFlags},
		{"cut at 23", v4(200).bytes()[:23], 200, Cut},
		{"cut at 1", v4(200).bytes()[:1], 200, Cut},
		{"cut at 0", nil, 200, Cut},
		{"version 4 cut at 27", with(v4(200), func(m *message) { m.version = 4 }).bytes()[:27], 200, Cut},
		{"version 4 cut, wrong flags", with(v4(200), func(m *message) { m.version, m.flags = 4, 0x40 }).bytes()[:27], 200, BadFlags},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			size := tt.size
			if size == 0 {
				size = len(tt.b)
			}
			if reason := UDP(new(Header), tt.b, size, &dst4, 5001); reason != tt.want {
				t.Errorf("got %v, want %v", reason, tt.want)
			}
		})
	}
}

// flip is the message with one bit of byte i turned over.
func (m message) flip(i int) []byte {
	b := m.bytes()
	b[i] ^= 1
	return b
}

// TestUDPCut checks that a message is accepted from its fixed part on, with
// the same header however little was captured, and that a checksum counts
// only where it can be checked.
func TestUDPCut(t *testing.T) {
	bad := with(v4(200), func(m *message) { m.flags = flagChecksum }).flip(199)
	for n := range bad {
		var h Header
		reason := UDP(&h, bad[:n], 200, &dst4, 5001)
		switch {
		case n < fixed2:
			if reason != Cut {
				t.Fatalf("%d bytes: %v", n, reason)
			}
		case reason != Accepted || h.Flow != 1001 || h.Seq != 7 || h.Size != 200 || h.Sure != (n >= 28):
			t.Fatalf("%d bytes: %+v, %v", n, h, reason)
		}
	}
}

func TestReasonNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range Reasons {
		if seen[r.String()] || r.String() == "" {
			t.Errorf("reason %d has no name of its own: %q", r, r)
		}
		seen[r.String()] = true
	}
	if got := Reasons.String(); got != "unknown" {
		t.Errorf("no reason is called %q", got)
	}
}

func TestAllocations(t *testing.T) {
	b := v4(200).bytes()
	var s Stream
	var h Header
	seg := Segment{Len: len(b), Data: b, Dst: &dst4, Port: 5001}
	if n := testing.AllocsPerRun(1000, func() {
		UDP(&h, b, len(b), &dst4, 5001)
		s.Segment(&h, &seg)
		seg.Seq += uint32(seg.Len)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzUDP checks that more captured bytes never change what fewer said, and
// that what is accepted obeys the rules.
func FuzzUDP(f *testing.F) {
	for _, m := range []message{v4(28), v4(200), with(v4(64), func(m *message) { m.version, m.flags = 4, 4 })} {
		f.Add(m.bytes(), m.size, uint8(24))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int, cut uint8) {
		if size < 0 || size > 0xffff {
			return
		}
		var h Header
		reason := UDP(&h, b, size, &dst4, 5001)
		if reason == Accepted {
			if int(h.Size) != size || size < minUDP || len(b) < fixed2 || h.Time < 0 || (b[2] != 2 && b[2] != 4) {
				t.Fatalf("accepted %+v", h)
			}
		}
		var less Header
		short := UDP(&less, b[:min(int(cut), len(b))], size, &dst4, 5001)
		less.Sure = h.Sure
		// With several things wrong fewer bytes may show another of them first.
		if short != Cut && reason != BadChecksum && ((short == Accepted) != (reason == Accepted) || less != h) {
			t.Fatalf("cut at %d: %+v, %v; whole: %+v, %v", cut, less, short, h, reason)
		}
	})
}

func BenchmarkUDP(b *testing.B) {
	m := v4(200).bytes()
	var h Header
	for b.Loop() {
		UDP(&h, m, len(m), &dst4, 5001)
	}
}
