package mgen

import "bytes"

// Verdict is the result of passing a segment to a Stream.
type Verdict uint8

const (
	// None: not MGEN's, or unknown. The Stream holds nothing worth keeping.
	None Verdict = iota
	// Unknown: the stream is MGEN's, but the flow of this segment is unknown; later
	// segments may reveal it. Keep the Stream.
	Unknown
	// Continues: the segment continues a message; only Flow is valid.
	Continues
	// Starts: a header was found; all of Header is valid.
	Starts
)

// Segment is one TCP segment with data.
type Segment struct {
	Seq  uint32    // of the first byte of data
	Len  int       // number of bytes of data on the wire
	Data []byte    // the captured beginning of the data, at most Len bytes
	Dst  *[16]byte // the packet's destination, as in wire.Record
	Port uint16    // and its port
}

// Stream follows the messages in one direction of a TCP connection. Its zero value
// knows nothing and waits for a segment that begins with a header, which suits a
// connection that was open before the capture.
//
// Each header gives the position of the next one, so lost and late segments do not
// matter unless they contain a header. A header that cannot be read, because it was
// lost or lies beyond the captured bytes, leaves three ways to resynchronize: a segment
// that begins with a header; the guess that sizes repeat, which counts for nothing
// until a header is found at the guessed position; and, if an earlier header named the
// packet's destination, a search for that destination.
//
// In the meantime, segments are assigned to the connection's latest flow, because mgen
// opens a connection for its own messages only. There are two exceptions: a connection
// that has carried two flows, and one whose only evidence is a single header that named
// another destination.
//
// If several headers begin in a segment, the first is reported. A header that is split
// across segments is reported with the segment that completes it.
type Stream struct {
	next      uint32       // sequence number of the next header, valid unless lost
	size      uint32       // of the last message, in bytes; 0 before the first
	flow      uint32       // of the last message, valid iff headers > 0
	part      [fixed4]byte // beginning of the header at next
	have      uint8        // valid bytes in part
	headers   uint8        // seen so far, at most 255
	certainty certainty
	sure      bool // a header named the packet's destination
	mixed     bool // there has been more than one flow
}

// certainty is how reliable next is.
type certainty uint8

const (
	lost certainty = iota
	guessed
	known
)

// farAway is a distance in sequence numbers, larger than any window in use, at which a
// segment must belong to another connection with the same addresses.
const farAway = 1 << 26

// Open returns the Stream after a SYN with the initial sequence number isn: its first
// byte of data begins a header, or the connection is not MGEN's.
func Open(isn uint32) Stream { return Stream{next: isn + 1, certainty: known} }

// MayStart reports false if data cannot begin with a header. It is a cheap check before
// creating a Stream for an unknown connection.
func MayStart(data []byte) bool {
	return len(data) >= fixed2 && data[3]&^flagsKnown == 0 &&
		(data[2] == version2 || data[2] == version4)
}

// Flow returns the connection's latest flow, for a message whose header was not seen.
// It reports false if there is too little evidence.
func (s *Stream) Flow() (uint32, bool) {
	return s.flow, !s.mixed && (s.sure || s.headers > 1)
}

// Segment processes a segment, in any order, and sets the fields of h that the verdict
// declares valid.
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

// expect looks for a header wherever it may be, and last where the guess puts it.
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

// inside handles a segment that ends before the next header: either the rest of the
// message before it, or an older segment that was retransmitted.
func (s *Stream) inside(h *Header, seg *Segment, ahead int) Verdict {
	if s.headers == 0 {
		return s.last(h)
	}
	last := ahead - int(s.size) // position of the last header relative to the segment's start
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

// walk goes from header to header through a segment, beginning with the one at pos.
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

// start parses the header at the beginning of b, if there is one.
func start(h *Header, b []byte, seg *Segment) bool {
	return accept(h, b, seg) && intact(b, int(h.Size))
}

// accept is start for data that never contains a whole message.
func accept(h *Header, b []byte, seg *Segment) bool {
	return MayStart(b) && parse(h, b, seg.Dst, seg.Port) == Accepted && h.Size >= minTCP
}

// unread handles the header at pos, of which only b was captured. If b is all that the
// segment contains of it, the rest is expected in later segments. If b is shorter than
// what the segment contains, the next header is guessed. Otherwise it is not a header.
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

// need returns the number of bytes required to accept the header that b begins.
func need(b []byte) int {
	if len(b) > 2 && b[2] == version4 {
		return fixed4
	}
	return fixed2
}

// complete appends a segment's data from offset off to a header that began earlier.
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

// restart looks for a header at the beginning of a segment, where most are, or anywhere
// in it if the header names the destination, as earlier ones did. If there is none, the
// Stream stays as it is.
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

// search returns the position of the first header in a segment that names the packet's
// destination, which is too long to match by chance, or -1.
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

// destination appends the packet's destination in the format of a header: port, type,
// length, address.
func destination(b []byte, seg *Segment) []byte {
	b = append(b, byte(seg.Port>>8), byte(seg.Port))
	if isIPv4(seg.Dst) {
		return append(append(b, typeIPv4, 4), seg.Dst[12:]...)
	}
	return append(append(b, typeIPv6, 16), seg.Dst[:]...)
}

// note records a header that begins at the sequence number at.
func (s *Stream) note(h *Header, at uint32) {
	s.mixed = s.mixed || s.headers > 0 && h.Flow != s.flow
	s.sure = s.sure || h.Sure
	s.flow, s.size = h.Flow, uint32(h.Size)
	s.next, s.certainty, s.have = at+s.size, known, 0
	if s.headers < 255 {
		s.headers++
	}
}

// guess gives up on the header at next, which was missed, and expects the first one at
// or after seq at the position where it would be if sizes repeat.
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

// last returns the verdict on a segment whose message is unknown.
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
