package mgen

import (
	"math/rand/v2"
	"testing"
)

// sent is a TCP stream of messages as a test makes it.
type sent struct {
	data []byte
	msgs []placed
}

type placed struct {
	at int // offset of the header
	m  message
}

// isn is chosen so that streams wrap around.
const isn uint32 = 1<<32 - 3000

func (s *sent) add(m message) {
	m.seq = uint32(len(s.msgs))
	s.msgs = append(s.msgs, placed{len(s.data), m})
	s.data = append(s.data, m.bytes()...)
}

// segment is the bytes from..to, of which snap were captured.
func (s *sent) segment(from, to, snap int) *Segment {
	return &Segment{
		Seq: isn + 1 + uint32(from), Len: to - from, Data: s.data[from:min(to, from+snap)],
		Dst: &dst4, Port: 5001,
	}
}

// owner is the message that byte i belongs to.
func (s *sent) owner(i int) placed {
	for j := len(s.msgs) - 1; ; j-- {
		if s.msgs[j].at <= i {
			return s.msgs[j]
		}
	}
}

// fixed is how many bytes the header needs before it can be accepted.
func (p placed) fixed() int {
	if p.m.version == 4 {
		return fixed4
	}
	return fixed2
}

// take gives a segment to a stream.
func take(st *Stream, seg *Segment) (h Header, v Verdict) {
	v = st.Segment(&h, seg)
	return h, v
}

// want is what a stream that saw all bytes in order must say of from..to: the
// first header that is completed in it, else the message it continues.
func (s *sent) want(from, to int) (Header, Verdict) {
	for _, p := range s.msgs {
		if end := p.at + p.fixed(); from < end && end <= to {
			return Header{
				Time: int64(p.m.sec)*1e6 + int64(p.m.usec), Flow: p.m.flow, Seq: p.m.seq,
				Size: uint16(p.m.size),
			}, Starts
		}
	}
	p := s.owner(from)
	if p.at+p.fixed() <= from {
		return Header{Flow: p.m.flow}, Continues
	}
	return Header{}, None // within a header: see check
}

// check compares with want. A segment that lies within a header tells no flow
// of its own.
func (s *sent) check(t *testing.T, from, to int, h Header, v Verdict) {
	t.Helper()
	want, wantV := s.want(from, to)
	h.Sure = false
	if wantV == None {
		if v == Starts {
			t.Fatalf("bytes %d..%d are within a header: got %+v", from, to, h)
		}
		return
	}
	if v != wantV || h != want {
		t.Fatalf("bytes %d..%d: got %+v, %v, want %+v, %v", from, to, h, v, want, wantV)
	}
}

// randomStream has messages of all sizes and both versions, of one or more
// flows.
func randomStream(rng *rand.Rand, n, flows int) *sent {
	var s sent
	for range n {
		m := v4(minTCP + rng.IntN(3000))
		m.flow = uint32(rng.IntN(flows))
		if rng.IntN(4) == 0 {
			m.version = 4
		}
		if rng.IntN(3) == 0 {
			m.flags |= flagChecksum
		}
		s.add(m)
	}
	return &s
}

// cuts splits a stream into segments of 1 to longest bytes.
func cuts(rng *rand.Rand, n, longest int) (segs [][2]int) {
	for from := 0; from < n; {
		to := min(from+1+rng.IntN(longest), n)
		segs = append(segs, [2]int{from, to})
		from = to
	}
	return segs
}

// TestStreamInOrder: with every byte captured, whatever the segments, every
// header is found and every segment has its flow, also when flows mix.
func TestStreamInOrder(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for _, longest := range []int{1, 5, 24, 30, 100, 1448, 65000} {
		for seed := range uint64(8) {
			rng := rand.New(rand.NewPCG(seed, uint64(longest)))
			s := randomStream(rng, 40, 3)
			st := Open(isn)
			for _, c := range cuts(rng, len(s.data), longest) {
				h, v := take(&st, s.segment(c[0], c[1], 1<<20))
				s.check(t, c[0], c[1], h, v)
				if v == None {
					t.Fatalf("bytes %d..%d: given up", c[0], c[1])
				}
			}
		}
	}
}

// TestStreamResends: what comes twice changes nothing.
func TestStreamResends(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	s := randomStream(rng, 200, 3)
	st := Open(isn)
	segs := cuts(rng, len(s.data), 1448)
	for i, c := range segs {
		h, v := take(&st, s.segment(c[0], c[1], 1<<20))
		s.check(t, c[0], c[1], h, v)
		if i > 2 && rng.IntN(3) == 0 {
			old := segs[i-rng.IntN(3)]
			h, v := take(&st, s.segment(old[0], old[1], 1<<20))
			if v == Starts || v == Continues {
				s.checkFlow(t, old, h)
			}
		}
	}
}

// checkFlow checks that a segment's flow is one of those it has bytes of.
func (s *sent) checkFlow(t *testing.T, c [2]int, h Header) {
	t.Helper()
	for _, p := range s.msgs {
		if p.at < c[1] && p.at+p.m.size > c[0] && p.m.flow == h.Flow {
			return
		}
	}
	t.Fatalf("bytes %v have nothing of flow %d", c, h.Flow)
}

// TestStreamLossy: segments are lost, late, doubled and cut by the snapshot
// length. A connection of one flow has that flow on every segment once a
// header was seen; of two flows no segment has the wrong one once both were.
func TestStreamLossy(t *testing.T) {
	for _, snap := range []int{190, 1 << 20} {
		for flows := 1; flows <= 2; flows++ {
			for seed := range uint64(20) {
				testLossy(t, rand.New(rand.NewPCG(seed, uint64(snap+flows))), snap, flows)
			}
		}
	}
}

func testLossy(t *testing.T, rng *rand.Rand, snap, flows int) {
	s := randomStream(rng, 300, flows)
	st := Open(isn)
	segs := append([][2]int{{0, 500}}, cuts(rng, len(s.data), 2000)...)
	for i := 1; i < len(segs)-3; i++ {
		switch rng.IntN(10) {
		case 0:
			j := i + 1 + rng.IntN(2)
			segs[i], segs[j] = segs[j], segs[i]
		case 1:
			segs[i] = segs[i+1]
		}
	}
	seen := map[uint32]bool{}
	found := 0
	for _, c := range segs {
		h, v := take(&st, s.segment(c[0], c[1], snap))
		if v == Starts {
			found++
			seen[h.Flow] = true
		}
		switch {
		case v == None && len(seen) > 0:
			t.Fatalf("bytes %v: given up after %d headers", c, found)
		case (v == Starts || v == Continues) && len(seen) == flows:
			s.checkFlow(t, c, h)
		case v == Unknown && flows == 1 && len(seen) > 0:
			t.Fatalf("bytes %v: no flow after %d headers", c, found)
		}
	}
	// A header is in the captured part of one segment in five, or in almost all.
	if least := len(s.msgs) / 10; found < least {
		t.Errorf("snapshot length %d: only %d headers of %d found", snap, found, len(s.msgs))
	}
}

// TestStreamNever: what is not MGEN's gets no flow, whatever is lost of it.
func TestStreamNever(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		b := make([]byte, 20000)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		s := sent{data: b}
		st := Open(isn)
		for i, c := range cuts(rng, len(b), 1448) {
			if rng.IntN(5) == 0 {
				continue
			}
			h, v := take(&st, s.segment(c[0], c[1], 190))
			if v == Starts || v == Continues || v == Unknown && i > 0 && st.have == 0 {
				t.Fatalf("bytes %v: %+v, %v", c, h, v)
			}
		}
	}
}

// TestStreamGuess: sizes repeat and only the beginning of each super-packet is
// captured, so the headers are found again where the sizes put them.
func TestStreamGuess(t *testing.T) {
	var s sent
	for range 400 {
		s.add(v4(1000))
	}
	st := Open(isn)
	found, segs := 0, 0
	for from := 0; from+9050 < len(s.data); from += 9050 {
		h, v := take(&st, s.segment(from, from+9050, 190))
		segs++
		if v != Starts && v != Continues || h.Flow != 1001 {
			t.Fatalf("bytes %d on: %+v, %v", from, h, v)
		}
		if v == Starts {
			found++
			if off := int(h.Seq)*1000 - from; off < 0 || off > 190 {
				t.Fatalf("bytes %d on: header %d is not there", from, h.Seq)
			}
		}
	}
	if want := segs * 150 / 1000; found < want {
		t.Errorf("%d headers in %d segments, want %d", found, segs, want)
	}
}

// TestStreamStory walks through single cases.
func TestStreamStory(t *testing.T) {
	var s sent
	for _, size := range []int{100, 5000, 100, 300} {
		s.add(v4(size))
	}
	elsewhere := sent{}
	elsewhere.add(with(v4(500), func(m *message) { m.addr = []byte{1, 2, 3, 4} }))
	elsewhere.data = append(elsewhere.data, make([]byte, 500)...)

	tests := []struct {
		name string
		st   Stream
		s    *sent
		segs [][3]int // from, to, captured
		want []Verdict
	}{
		{"joined in the middle of a message", Stream{}, &s,
			[][3]int{{200, 1200, 1000}, {5100, 5200, 100}}, []Verdict{None, Starts}},
		{"first segment lost", Open(isn), &s,
			[][3]int{{1500, 2500, 1000}, {5100, 5200, 100}}, []Verdict{None, Starts}},
		{"a gap inside a message does not matter", Open(isn), &s,
			[][3]int{{0, 1000, 1000}, {4000, 5150, 1150}}, []Verdict{Starts, Starts}},
		{"header over three segments", Open(isn), &s,
			[][3]int{{0, 10, 10}, {10, 20, 10}, {20, 90, 70}, {90, 100, 10}}, []Verdict{Unknown, Unknown, Starts, Continues}},
		{"its beginning is sent again with more", Open(isn), &s,
			[][3]int{{0, 10, 10}, {0, 90, 90}}, []Verdict{Unknown, Starts}},
		{"its middle is sent again", Open(isn), &s,
			[][3]int{{0, 10, 10}, {5, 10, 5}, {5, 90, 85}}, []Verdict{Unknown, Unknown, Starts}},
		{"its rest is lost", Open(isn), &s,
			[][3]int{{0, 10, 10}, {60, 100, 40}, {100, 200, 100}}, []Verdict{Unknown, None, Starts}},
		{"captured bytes end within a header", Open(isn), &s,
			[][3]int{{0, 200, 110}, {200, 5100, 190}, {5100, 5300, 190}}, []Verdict{Starts, Continues, Starts}},
		{"a single header for another host is no evidence once lost", Stream{}, &elsewhere,
			[][3]int{{0, 400, 400}, {400, 500, 100}, {500, 900, 400}}, []Verdict{Starts, Continues, None}},
		{"keep-alive", Open(isn), &s,
			[][3]int{{0, 1000, 1000}, {999, 1000, 1}}, []Verdict{Starts, Continues}},
		{"first header sent again", Open(isn), &s,
			[][3]int{{0, 1000, 1000}, {0, 1000, 1000}, {50, 150, 100}}, []Verdict{Starts, Starts, Starts}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := tt.st
			for i, c := range tt.segs {
				if _, v := take(&st, tt.s.segment(c[0], c[1], c[2])); v != tt.want[i] {
					t.Fatalf("bytes %v: %v, want %v", c, v, tt.want[i])
				}
			}
		})
	}
}

// TestStreamReused: the same ports, far away in sequence: nothing is left of
// the old connection.
func TestStreamReused(t *testing.T) {
	var s sent
	s.add(v4(1000))
	st := Open(isn)
	if _, v := take(&st, s.segment(0, 500, 500)); v != Starts {
		t.Fatal(v)
	}
	next := isn // a variable, so that it may wrap
	seg := Segment{Seq: next + 2*farAway, Len: 100, Data: make([]byte, 100), Dst: &dst4, Port: 5001}
	if h, v := take(&st, &seg); v != None {
		t.Fatalf("%+v, %v", h, v)
	}
}

// FuzzStream feeds arbitrary segments: it must not panic, nor read beyond what
// was captured, nor report a header that is not there.
func FuzzStream(f *testing.F) {
	var s sent
	for _, size := range []int{76, 300, 76} {
		s.add(v4(size))
	}
	f.Add(s.data, []byte{40, 40, 0, 60, 30, 0, 90, 90, 1})
	f.Fuzz(func(t *testing.T, data, plan []byte) {
		st := Open(0)
		at := uint32(1)
		for ; len(plan) >= 3; plan = plan[3:] {
			n := min(int(plan[0])+1, len(data))
			if n == 0 {
				return
			}
			captured := min(int(plan[1]), n)
			seg := Segment{Seq: at + uint32(plan[2]), Len: n, Data: data[:captured:captured], Dst: &dst4, Port: 5001}
			h, v := take(&st, &seg)
			if v == Starts && h.Size < minTCP {
				t.Fatalf("%+v", h)
			}
			if int(st.have) > len(st.part) || st.certainty != lost && st.headers > 0 && st.size < minTCP {
				t.Fatalf("%+v", st)
			}
			data = data[n:]
			at += uint32(n)
		}
	})
}

func BenchmarkStream(b *testing.B) {
	var s sent
	for range 50 {
		s.add(v4(5000))
	}
	segs := cuts(rand.New(rand.NewPCG(1, 1)), len(s.data), 1448)
	var h Header
	for b.Loop() {
		st := Open(isn)
		for _, c := range segs {
			st.Segment(&h, s.segment(c[0], c[1], 1448))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(segs)), "ns/segment")
}
