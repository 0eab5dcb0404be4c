package decode

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/mgen"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/wire"
)

// piece is one fragment of a datagram as a test sends it.
type piece struct {
	id       uint32
	from, to int  // bytes of the datagram
	last     bool // no more fragments
	after    int64
	want     string // "sport>dport flow", "unknown", "none"
}

// fragment4 and fragment6 cut a datagram of a protocol.
func fragment4(proto byte, datagram []byte, p piece) packet.Frame {
	frag := uint16(p.from / 8)
	if !p.last {
		frag |= moreBit
	}
	return frame(ether(etherIPv4, ip4(proto, uint16(p.id), frag, datagram[p.from:p.to])))
}

func fragment6(proto byte, datagram []byte, p piece) packet.Frame {
	h := []byte{proto, 0, 0, 0, 0, 0, 0, 0}
	frag := uint16(p.from)
	if !p.last {
		frag |= 1
	}
	binary.BigEndian.PutUint16(h[2:], frag)
	binary.BigEndian.PutUint32(h[4:], p.id)
	return frame(ether(etherIPv6, ip6(extFragment, join(h, datagram[p.from:p.to]))))
}

const ms = 1e6

func TestFragments(t *testing.T) {
	datagram := udp(4001, 5001, message(3000, 1401, 1))
	first := piece{id: 1, to: 1480, want: "4001>5001 1401"}
	middle := piece{id: 1, from: 1480, to: 2960, want: "4001>5001 1401"}
	last := piece{id: 1, from: 2960, to: 3008, last: true, want: "4001>5001 1401"}
	unknown := func(p piece) piece { p.want = "unknown"; return p }
	after := func(p piece, ns int64) piece { p.after = ns; return p }
	other := func(p piece) piece { p.id = 2; return p }
	tests := []struct {
		name   string
		pieces []piece
	}{
		{"in order", []piece{first, middle, last}},
		{"last before middle", []piece{first, last, middle}},
		{"before the first", []piece{unknown(middle), unknown(last), first, middle}},
		{"doubled", []piece{first, first, middle, middle, last, last, middle}},
		{"first lost", []piece{unknown(middle), unknown(last)}},
		{"another datagram", []piece{first, unknown(other(middle)), middle}},
		{"two at once", []piece{first, other(first), other(middle), middle, last, other(last)}},
		{"late", []piece{first, after(middle, 29_000*ms), after(last, 900*ms)}},
		{"number used again after the whole datagram, first lost",
			[]piece{first, middle, last, after(middle, 100*ms), unknown(after(last, 300*ms))}},
		{"number used again, everything there",
			[]piece{first, middle, last, after(first, 1000*ms), middle, last}},
		{"clock steps back", []piece{first, after(middle, -5000*ms), last}},
	}
	for _, tt := range tests {
		for name, build := range map[string]func(byte, []byte, piece) packet.Frame{"ipv4": fragment4, "ipv6": fragment6} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				playFragments(t, New(Config{}), build, datagram, tt.pieces)
			})
		}
	}
	t.Run("expired/ipv4", func(t *testing.T) {
		d := New(Config{})
		playFragments(t, d, fragment4, datagram, []piece{first, unknown(after(middle, 31_000*ms)), unknown(last)})
		if c := d.Counters(); c.FragmentsExpired != 1 || c.FragmentsUnknown != 2 {
			t.Errorf("%d expired, %d unknown", c.FragmentsExpired, c.FragmentsUnknown)
		}
	})
	t.Run("expired/ipv6", func(t *testing.T) {
		playFragments(t, New(Config{}), fragment6, datagram,
			[]piece{first, after(middle, 59_000*ms), unknown(after(last, 2_000*ms))})
	})
}

func playFragments(t *testing.T, d *Decoder, build func(byte, []byte, piece) packet.Frame, datagram []byte, pieces []piece) {
	t.Helper()
	now := int64(1795415000e9)
	for i, p := range pieces {
		f := build(wire.ProtoUDP, datagram, p)
		now += p.after
		f.Time = now
		var dst [1]wire.Record
		if d.Decode(&f, dst[:]) != 1 {
			t.Fatalf("piece %d: no record", i)
		}
		r := &dst[0]
		if want := len(f.Data) - 14; int(r.Length) != want || r.Time != now || r.Proto != wire.ProtoUDP {
			t.Errorf("piece %d: %s, want length %d", i, fields(r), want)
		}
		want := wire.Record{Flags: wire.Fragment}
		if p.from > 0 {
			want.Flags |= wire.LaterFragment
		}
		if p.want != "unknown" {
			want.SrcPort, want.DstPort, want.FlowID = 4001, 5001, 1401
			want.Flags |= wire.MGEN
		}
		flags := r.Flags & (wire.Fragment | wire.LaterFragment | wire.MGEN)
		if r.SrcPort != want.SrcPort || r.DstPort != want.DstPort || r.FlowID != want.FlowID || flags != want.Flags {
			t.Errorf("piece %d: %s, flags %b, want %s", i, fields(r), r.Flags, p.want)
		}
		if header := r.Flags&wire.MGENHeader != 0; header != (p.from == 0) {
			t.Errorf("piece %d: header is %v", i, header)
		}
	}
}

// TestFragmentKeys: what differs in any field of the key is another datagram.
func TestFragmentKeys(t *testing.T) {
	datagram := udp(4001, 5001, noise(3000))
	first, later := piece{id: 9, to: 1480}, piece{id: 9, from: 1480, to: 2960}
	d := New(Config{})
	var dst [1]wire.Record
	ports := func(f packet.Frame) bool {
		if d.Decode(&f, dst[:]) != 1 {
			t.Fatal("no record")
		}
		return dst[0].SrcPort == 4001 && dst[0].DstPort == 5001
	}
	change := func(f packet.Frame, at int) packet.Frame {
		f.Data[at] ^= 1
		return f
	}
	ports(fragment4(17, datagram, first))
	for name, at := range map[string]int{"identification": 14 + 5, "source": 14 + 15, "destination": 14 + 19, "protocol": 14 + 9} {
		if ports(change(fragment4(17, datagram, later), at)) {
			t.Errorf("ipv4: another %s, the same datagram", name)
		}
	}
	if !ports(fragment4(17, datagram, later)) {
		t.Error("ipv4: the same key is another datagram")
	}
	ports(fragment6(17, datagram, first))
	for name, at := range map[string]int{"identification": 14 + 44, "source": 14 + 23, "destination": 14 + 39} {
		if ports(change(fragment6(17, datagram, later), at)) {
			t.Errorf("ipv6: another %s, the same datagram", name)
		}
	}
	// RFC 8200, 4.5: only the first fragment's next header counts.
	if !ports(fragment6(60, datagram, later)) || dst[0].Proto != 17 {
		t.Errorf("ipv6: protocol %d", dst[0].Proto)
	}
}

// TestFragmentEviction: the table forgets what was not asked for longest, and
// says how often.
func TestFragmentEviction(t *testing.T) {
	datagram := udp(4001, 5001, noise(3000))
	d := New(Config{FragmentEntries: 4})
	var dst [1]wire.Record
	known := func(id uint32) bool {
		f := fragment4(17, datagram, piece{id: id, from: 1480, to: 2960})
		d.Decode(&f, dst[:])
		return dst[0].SrcPort != 0
	}
	for id := range uint32(4) {
		f := fragment4(17, datagram, piece{id: id, to: 1480})
		d.Decode(&f, dst[:])
	}
	known(0) // makes 1 the oldest
	f := fragment4(17, datagram, piece{id: 4, to: 1480})
	d.Decode(&f, dst[:])
	if known(1) || !known(0) || !known(2) || !known(3) || !known(4) {
		t.Error("not the oldest was forgotten")
	}
	if c := d.Counters(); c.FragmentsEvicted != 1 || c.FragmentsUnknown != 1 {
		t.Errorf("%d evicted, %d unknown", c.FragmentsEvicted, c.FragmentsUnknown)
	}
}

// TestFragmentChain: in IPv6 the upper-layer header comes after whatever
// extension headers stand behind the fragment header; later fragments take its
// protocol. An atomic fragment is a whole packet.
func TestFragmentChain(t *testing.T) {
	options := []byte{17, 0, 1, 4, 0, 0, 0, 0}
	datagram := join(options, udp(4001, 5001, noise(3000)))
	d := New(Config{})
	for _, p := range []piece{{id: 1, to: 1480}, {id: 1, from: 1480, to: 3016, last: true}} {
		f := fragment6(60, datagram, p)
		var dst [1]wire.Record
		d.Decode(&f, dst[:])
		if r := &dst[0]; r.Proto != 17 || r.SrcPort != 4001 || r.DstPort != 5001 {
			t.Errorf("from %d: %s", p.from, fields(r))
		}
	}
	f := fragment6(60, datagram, piece{id: 2, to: 1480, last: true})
	var dst [1]wire.Record
	d.Decode(&f, dst[:])
	if r := &dst[0]; r.Proto != 17 || r.SrcPort != 4001 || r.Flags&wire.Fragment != 0 {
		t.Errorf("atomic: %s, flags %b", fields(r), r.Flags)
	}
}

// TestFirstOnly: one record a datagram, as long as all of it where UDP says.
func TestFirstOnly(t *testing.T) {
	datagram := udp(4001, 5001, message(3000, 1401, 1))
	tests := []struct {
		name  string
		build func(byte, []byte, piece) packet.Frame
		proto byte
		want  uint32
	}{
		{"udp ipv4", fragment4, 17, 20 + 3008},
		{"udp ipv6", fragment6, 17, 40 + 3008},
		{"icmp ipv4", fragment4, 1, 1500},
		{"icmp ipv6", fragment6, 58, 40 + 8 + 1480},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := New(Config{Fragments: FirstOnly})
			var dst [4]wire.Record
			n := 0
			for _, p := range []piece{{id: 1, to: 1480}, {id: 1, from: 1480, to: 2960}, {id: 1, from: 2960, to: 3008, last: true}} {
				f := tt.build(tt.proto, datagram, p)
				n += d.Decode(&f, dst[n:])
			}
			if n != 1 || dst[0].Length != tt.want {
				t.Errorf("%d records, the first of %d bytes, want %d", n, dst[0].Length, tt.want)
			}
			if c := d.Counters(); c.FragmentsLeftOut != 2 {
				t.Errorf("%d left out", c.FragmentsLeftOut)
			}
			checkBalance(t, d)
		})
	}
}

// TestUnwantedFragments: a datagram's fragments share the fate of its first one,
// and one without its first is judged by itself.
func TestUnwantedFragments(t *testing.T) {
	wanted, other := udp(4001, 5001, noise(3000)), udp(7, 9, noise(3000))
	pieces := []piece{{to: 1480}, {from: 1480, to: 2960}, {from: 2960, to: 3008, last: true}}
	for name, cut := range map[string]func(byte, []byte, piece) packet.Frame{"IPv4": fragment4, "IPv6": fragment6} {
		d := New(Config{})
		alone := 0
		d.SetWanted(func(f *packet.Frame) bool {
			if bytes.Contains(f.Data, wanted[:8]) {
				return true
			}
			if !bytes.Contains(f.Data, other[:8]) {
				alone++
			}
			return false
		})
		play := func(datagram []byte, id uint32, order ...int) (got int) {
			for _, n := range order {
				p := pieces[n]
				p.id = id
				f := cut(wire.ProtoUDP, datagram, p)
				f.Time = int64(id)
				var dst [1]wire.Record
				got += d.Decode(&f, dst[:])
			}
			return got
		}
		for _, tt := range []struct {
			datagram           []byte
			order              []int
			want, unseen, less int // records, fragments judged alone, fragments left out
		}{
			{wanted, []int{0, 1, 2}, 3, 0, 0},
			{other, []int{0, 1, 2}, 0, 0, 3},
			{wanted, []int{2, 0, 1}, 2, 1, 1},
			{other, []int{1, 2, 0}, 0, 2, 3},
			{other, []int{0, 0, 1}, 0, 0, 3},
		} {
			alone = 0
			before := d.Counters().FragmentsUnwanted
			id := uint32(before) + 100
			got := play(tt.datagram, id, tt.order...)
			less := int(d.Counters().FragmentsUnwanted - before)
			if got != tt.want || alone != tt.unseen || less != tt.less {
				t.Errorf("%s, order %v: %d records, %d judged alone, %d left out; want %d, %d, %d", name, tt.order,
					got, alone, less, tt.want, tt.unseen, tt.less)
			}
			checkBalance(t, d)
		}
		if c := d.Counters(); c.MGEN[mgen.Accepted] != 0 || c.FragmentsUnknown != 0 {
			t.Errorf("%s: what is left out is counted elsewhere, too: %+v", name, c)
		}
		d.SetWanted(nil)
		if got := play(other, 1<<15, 0, 1, 2); got != 3 {
			t.Errorf("%s: without a test %d records, want 3", name, got)
		}
		d = New(Config{Fragments: FirstOnly})
		d.SetWanted(func(f *packet.Frame) bool { return bytes.Contains(f.Data, wanted[:8]) })
		if got := play(wanted, 1, 0, 1, 2) + 10*play(other, 2, 0, 1, 2); got != 1 {
			t.Errorf("%s: with FirstOnly %d", name, got)
		}
		checkBalance(t, d)
	}
	// An atomic fragment is a whole packet (RFC 6946).
	d := New(Config{})
	d.SetWanted(func(*packet.Frame) bool { return false })
	f := fragment6(wire.ProtoUDP, other, piece{to: 100, last: true})
	if n := d.Decode(&f, make([]wire.Record, 1)); n != 0 || d.Counters().FragmentsUnwanted != 1 {
		t.Errorf("atomic fragment: %d records, %+v", n, d.Counters())
	}
}
