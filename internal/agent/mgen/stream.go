package mgen

import "bytes"

// Verdict is what a Stream says of one segment.
type Verdict uint8

const (
	// None: not MGEN's, or not to be known. A Stream that says so has nothing
	// worth keeping.
	None Verdict = iota
	// Unknown: the stream is MGEN's, but the flow cannot be told; later
	// segments may tell more. Keep the Stream.
	Unknown
	// Continues: the segment carries the rest of a message; Flow alone is valid.
	Continues
	// Starts: a header was found; all of Header is valid.
	Starts
)

// Segment is one TCP segment with data.
type Segment struct {
	Seq  uint32    // of the first byte of data
	Len  int       // bytes of data on the wire
	Data []byte    // the captured beginning of them, at most Len
	Dst  *[16]byte // the packet's destination, as in wire.Record
	Port uint16    // and its port
}

// Stream follows the messages in one direction of a TCP connection. Its zero
// value knows nothing and waits for a segment that begins with a header, so it
// serves a connection that was open before the capture.
//
// A header says where the next one begins, so neither lost nor late segments
// matter as long as no header is in them. A header that cannot be read (it was
// lost, or it lies beyond the captured bytes) leaves three ways back: a segment
// that begins with a header; the guess that sizes repeat, which counts for
// nothing until a header is found where it should be; and, if an earlier
// header named the packet's destination, a search for that name.
//
// Meanwhile segments belong to the flow that the connection has had so far:
// mgen opens a connection for its messages alone. A connection that was seen
// to carry two flows gives none, though, and so does one whose only evidence
// is a single header that named another destination.
//
// If more than one header begins in a segment the first is reported. One that
// is split over segments is reported with the segment that completes it.
type Stream struct {
	next      uint32       // sequence number of the next header, valid unless lost
	size      uint32       // of the last message, bytes; 0 before the first
	flow      uint32       // of the last message, valid iff headers > 0
	part      [fixed4]byte // beginning of the header at next
	have      uint8        // valid bytes in part
	headers   uint8        // seen so far, at most 255
	certainty certainty
	sure      bool // a header named the packet's destination
	mixed     bool // there was more than one flow
}

// certainty is how well next is known.
type certainty uint8

const (
	lost certainty = iota
	guessed
	known
)

// farAway is a distance in sequence numbers, more than any window in use, at
// which a segment must belong to another connection of the same addresses.
const farAway = 1 << 26

// Open is the Stream after a SYN with the initial sequence number isn: its
// first byte of data begins a header, or it is not MGEN's.
func Open(isn uint32) Stream { return Stream{next: isn + 1, certainty: known} }

// MayStart tells cheaply that data does not begin with a header: worth asking
// before a connection that nothing is known of is given a Stream.
func MayStart(data []byte) bool {
	return len(data) >= fixed2 && data[3]&^flagsKnown == 0 &&
		(data[2] == version2 || data[2] == version4)
}

// Flow is the flow that the connection had last, for a message whose header
// was not seen; false if that would be a guess without ground.
func (s *Stream) Flow() (uint32, bool) {
	return s.flow, !s.mixed && (s.sure || s.headers > 1)
}

// Segment takes the next segment as captured, in whatever order, and fills of
// h what the verdict says is valid.
func (s *Stream) Segment(h *Header, seg *Segment) Verdict {
	ahead := int(int32(s.next - seg.Seq)) // bytes from the segment's start to the next header
	switch {
	case s.certainty == lost:
		return s.restart(h, seg)
	case ahead > farAway || ahead < -farAway:
		*s = Stream{}
		return s.restart(h, seg)
	case s.certainty == guessed && s.have == 0:
		return s.expect(h, seg)
	case ahead >= seg.Len:
		return s.inside(h, seg, ahead)
	case ahead >= 0:
		s.have = 0
		return s.walk(h, seg, ahead)
	case s.have > 0 && ahead+int(s.have) >= 0:
		return s.complete(h, seg, ahead+int(s.have))
	}
	s.guess(seg.Seq) // the header was missed
	return s.expect(h, seg)
}

// expect looks for a header wherever it may be, last of all where the guess
// puts it.
func (s *Stream) expect(h *Header, seg *Segment) Verdict {
	if v := s.restart(h, seg); v == Starts || s.certainty == lost {
		return v
	}
	if int32(s.next-seg.Seq) < 0 {
		s.guess(seg.Seq)
	}
	if ahead := int(int32(s.next - seg.Seq)); ahead < seg.Len {
		return s.walk(h, seg, ahead)
	}
	return s.last(h)
}

// inside judges a segment that ends before the next header: more of the
// message before it, or something older that was sent again.
func (s *Stream) inside(h *Header, seg *Segment, ahead int) Verdict {
	if s.headers == 0 {
		return s.last(h)
	}
	last := ahead - int(s.size) // where the last header was, from the segment's start
	switch {
	case last < 0:
		h.Flow = s.flow
		return Continues
	case start(h, seg.Data, seg):
		return Starts
	case last < len(seg.Data) && start(h, seg.Data[last:], seg):
		return Starts
	}
	return s.last(h)
}

// walk goes from header to header through a segment, from the one at pos.
func (s *Stream) walk(h *Header, seg *Segment, pos int) Verdict {
	v := None
	if s.certainty == known && s.headers > 0 && 0 < pos && pos <= int(s.size) {
		h.Flow, v = s.flow, Continues
	}
	for pos < seg.Len {
		var next Header
		b := seg.Data[min(pos, len(seg.Data)):]
		if !start(&next, b, seg) {
			s.unread(seg, pos, b)
			break
		}
		s.note(&next, seg.Seq+uint32(pos))
		if v != Starts {
			*h, v = next, Starts
		}
		pos += int(next.Size)
	}
	switch {
	case v != Starts && s.certainty == lost:
		return s.restart(h, seg)
	case v != None:
		return v
	}
	return s.last(h)
}

// start reads the header at the beginning of b, if there is one.
func start(h *Header, b []byte, seg *Segment) bool {
	return accept(h, b, seg) && intact(b, int(h.Size))
}

// accept is start for bytes that are never a whole message.
func accept(h *Header, b []byte, seg *Segment) bool {
	return MayStart(b) && parse(h, b, seg.Dst, seg.Port) == Accepted && h.Size >= minTCP
}

// unread deals with the header at pos, of which b was captured: if b is all
// that the segment has of it the rest is awaited, if b stops short of what the
// segment has the next header is guessed, else it is none.
func (s *Stream) unread(seg *Segment, pos int, b []byte) {
	s.next = seg.Seq + uint32(pos)
	switch {
	case len(b) >= need(b):
		s.lose()
	case len(seg.Data) == seg.Len:
		s.have = uint8(copy(s.part[:], b))
	default:
		s.guess(seg.Seq + uint32(seg.Len))
	}
}

// need is how many bytes it takes to accept the header that b begins.
func need(b []byte) int {
	if len(b) > 2 && b[2] == version4 {
		return fixed4
	}
	return fixed2
}

// complete adds a segment's data, from offset off on, to a header whose
// beginning came before.
func (s *Stream) complete(h *Header, seg *Segment, off int) Verdict {
	if off >= seg.Len {
		return s.last(h) // nothing new in it
	}
	s.have += uint8(copy(s.part[s.have:], seg.Data[min(off, len(seg.Data)):]))
	b := s.part[:s.have]
	if len(b) < need(b) {
		if len(seg.Data) < seg.Len {
			s.guess(seg.Seq + uint32(seg.Len))
		}
		return s.last(h)
	}
	s.have = 0
	if !accept(h, b, seg) {
		s.lose()
		return s.restart(h, seg)
	}
	s.note(h, s.next)
	if pos := int(int32(s.next - seg.Seq)); pos < seg.Len {
		var next Header
		s.walk(&next, seg, pos)
	}
	return Starts
}

// restart looks for a header at the beginning of a segment, where most are,
// or anywhere in it if it names the destination as others did before. Without
// any the Stream stays as it is.
func (s *Stream) restart(h *Header, seg *Segment) Verdict {
	pos := 0
	if !start(h, seg.Data, seg) {
		if pos = s.search(seg); pos < 0 {
			return s.last(h)
		}
	}
	s.lose()
	return s.walk(h, seg, pos)
}

// search finds the first header in a segment that names the packet's
// destination, which takes too many bytes to be chance, or returns -1.
func (s *Stream) search(seg *Segment) int {
	if s.certainty == known || !s.sure {
		return -1
	}
	var buf [20]byte
	name := destination(buf[:0], seg)
	for from := 0; ; from++ {
		i := bytes.Index(seg.Data[from:], name)
		if i < 0 {
			return -1
		}
		from += i
		for _, fixed := range [...]int{fixed2, fixed4} {
			pos := from - (fixed - 4) // the name begins 4 bytes before the fixed part ends
			if pos < 0 {
				continue
			}
			var h Header
			if start(&h, seg.Data[pos:], seg) && h.Sure {
				return pos
			}
		}
	}
}

// destination appends the packet's destination as a header names it: port,
// type, length, address.
func destination(b []byte, seg *Segment) []byte {
	b = append(b, byte(seg.Port>>8), byte(seg.Port))
	if isIPv4(seg.Dst) {
		return append(append(b, typeIPv4, 4), seg.Dst[12:]...)
	}
	return append(append(b, typeIPv6, 16), seg.Dst[:]...)
}

// note remembers a header that begins at the sequence number at.
func (s *Stream) note(h *Header, at uint32) {
	s.mixed = s.mixed || s.headers > 0 && h.Flow != s.flow
	s.sure = s.sure || h.Sure
	s.flow, s.size = h.Flow, uint32(h.Size)
	s.next, s.certainty, s.have = at+s.size, known, 0
	if s.headers < 255 {
		s.headers++
	}
}

// guess gives up the header at next, which was missed, and expects the first
// one at or after seq where it would be if sizes repeat.
func (s *Stream) guess(seq uint32) {
	s.have = 0
	if _, ok := s.Flow(); !ok || s.size == 0 {
		s.lose()
		return
	}
	missed := seq - s.next + s.size - 1
	s.next += missed - missed%s.size
	s.certainty = guessed
}

func (s *Stream) lose() { s.certainty, s.have = lost, 0 }

// last is the verdict on a segment whose message is not known.
func (s *Stream) last(h *Header) Verdict {
	flow, ok := s.Flow()
	switch {
	case ok:
		h.Flow = flow
		return Continues
	case s.mixed, s.certainty != lost:
		return Unknown
	}
	return None
}
