package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// varied are records of so many flows, in which everything changes that does in
// traffic.
func varied(flows int, v6 bool) []Record {
	rng := rand.New(rand.NewPCG(1, 2))
	pattern := make([]Record, flows)
	for i := range pattern {
		r := &pattern[i]
		r.SrcPort, r.DstPort = uint16(rng.Uint32()), uint16(rng.Uint32())
		r.Proto = []uint8{ProtoUDP, ProtoTCP, ProtoICMP}[rng.IntN(3)]
		var src, dst [4]byte
		binary.BigEndian.PutUint32(src[:], 0x0a000000|rng.Uint32N(200))
		binary.BigEndian.PutUint32(dst[:], rng.Uint32())
		r.SetSrc4(src)
		r.SetDst4(dst)
		if v6 {
			r.Flags |= IPv6
			r.Src = [16]byte{0: 0x20, 1: 0x01, 2: 0xd, 3: 0xb8, 15: byte(rng.IntN(100))}
			r.Dst = [16]byte{0: 0xfe, 1: 0x80, 8: byte(rng.IntN(100)), 11: 0xff, 12: 0xfe, 15: 7}
		}
	}
	recs := make([]Record, 4096) // a power of two
	now := int64(1_560_390_672_895_279_000)
	for i := range recs {
		now += rng.Int64N(1_000_000)
		recs[i] = pattern[rng.IntN(flows)]
		recs[i].Time, recs[i].Length = now, 20+rng.Uint32N(1480)
		if rng.IntN(4) == 0 {
			recs[i].Flags |= MGEN
			recs[i].FlowID = rng.Uint32N(5000)
		}
	}
	return recs
}

func TestLinesAreAppendLines(t *testing.T) {
	var l Lines
	recs := append(varied(100_000, false), varied(100_000, true)...)
	recs = append(recs, Record{Time: -1}, Record{Time: math.MaxInt64}, Record{}, Record{Time: 1, Flags: IPv6})
	for _, length := range []uint32{0, 99, math.MaxUint32} {
		recs = append(recs, Record{Length: length, FlowID: math.MaxUint32, Flags: MGEN, Proto: 255, SrcPort: 65535})
	}
	for i, shift := range rand.New(rand.NewPCG(3, 4)).Perm(len(recs)) {
		r := recs[shift]
		if i%7 == 0 {
			r.Time = int64(i) * 1e9 // the second changes to and fro
		}
		for range 1 + i%3 { // packets come in trains
			got, want := string(l.Append([]byte("before"), &r)), string(AppendLine([]byte("before"), &r))
			if got != want {
				t.Fatalf("%q, want %q", got, want)
			}
			r.Length, r.Time = r.Length/3, r.Time+1000
		}
		r.Flags ^= IPv6 // the same bytes are another flow
		if got, want := string(l.Append(nil, &r)), string(AppendLine(nil, &r)); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
}

// Every pattern of zero groups, and digits of all lengths, as net/netip has them.
func TestIPv6Text(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	check := func(a [16]byte) {
		t.Helper()
		var room [lineRoom]byte
		got, want := string(room[:putAddr6(&room, 0, &a)]), netip.AddrFrom16(a).String()
		if got != want {
			t.Fatalf("% x is %q, want %q", a, got, want)
		}
	}
	for zeros := range 256 {
		for range 20 {
			var a [16]byte
			for i := range 8 {
				if zeros>>i&1 == 0 {
					binary.BigEndian.PutUint16(a[2*i:], uint16(1+rng.Uint32N(0xffff)>>(4*rng.UintN(4))))
				}
			}
			check(a)
		}
	}
	check([16]byte{10: 0xff, 11: 0xff, 12: 1, 13: 2, 14: 3, 15: 4})
	check([16]byte{12: 1, 13: 2, 14: 3, 15: 4})
	check([16]byte{9: 1, 10: 0xff, 11: 0xff, 15: 4})
}

func TestLinesDoNotAllocate(t *testing.T) {
	var l Lines
	recs := append(varied(10, false), varied(1000, true)...)
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(10, func() {
		for i := range recs {
			buf = l.Append(buf[:0], &recs[i])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkLines(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		for _, flows := range []int{1, 1000, 100_000} {
			name := fmt.Sprintf("IPv4/%d", flows)
			if v6 {
				name = fmt.Sprintf("IPv6/%d", flows)
			}
			recs := varied(flows, v6)
			b.Run(name, func(b *testing.B) {
				var l Lines
				buf := make([]byte, 0, len(recs)*MaxLine+LineRoom)
				for i := 0; b.Loop(); i = (i + 1) & (len(recs) - 1) {
					if i == 0 {
						buf = buf[:0]
					}
					buf = l.Append(buf, &recs[i])
				}
			})
		}
	}
}
