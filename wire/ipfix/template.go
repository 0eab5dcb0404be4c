package ipfix

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unsafe"
)

// kind is the way in which a template's records are decoded.
type kind uint8

const (
	foreign kind = iota // decoded field by field
	ownIPv4             // in the layout that Append writes
	ownIPv6
	ownEvent4
	ownEvent6
)

// meaning is the purpose of a field, if known.
type meaning uint8

const (
	unknown meaning = iota
	srcAddr4
	dstAddr4
	srcAddr6
	dstAddr6
	srcPort
	dstPort
	protocol
	direction
	octets
	ipLength
	packets
	seconds // times by their unit, of the packet or the beginning of the flow
	millis
	ntpTime
	delta
	flowID
	mgenSeq
	mgenTime
	flags
	host
	value
	messages
	records
	notSent
	ignored
	repair
	observed // the domain that an option describes
	nodeName
	ifaceName
	ttl
	digest
	status
	reason
	dropped  // packets
	event    // packets that are not traffic
	meanings // the number of meanings
)

// elementMeaning maps IANA's element numbers to meanings.
var elementMeaning = map[uint16]meaning{
	8: srcAddr4, 12: dstAddr4, 27: srcAddr6, 28: dstAddr6,
	7: srcPort, 180: srcPort, 182: srcPort, 11: dstPort, 181: dstPort, 183: dstPort,
	4: protocol, 61: direction, 1: octets, 85: octets, 224: ipLength, 2: packets, 86: packets,
	150: seconds, 322: seconds, 152: millis, 323: millis, 154: ntpTime, 156: ntpTime, 324: ntpTime, 325: ntpTime, 158: delta,
	41: messages, 42: records, 166: notSent, 164: ignored,
	149: observed, 300: nodeName, 82: ifaceName,
	192: ttl, 326: digest, 89: status, 133: dropped,
}

var privateMeaning = map[uint16]meaning{
	mgenFlowID: flowID, mgenSequence: mgenSeq, mgenTransmitTime: mgenTime, packetFlags: flags,
	hostStatistic: host, hostValue: value, repairPort: repair, dropReason: reason, eventPackets: event,
}

// meaningSize is the only length in bytes at which a field of some meanings can be
// used; fields of the others may have 1 to 8 bytes (RFC 7011, section 6.2).
var meaningSize = [meanings]uint16{
	srcAddr4: 4, dstAddr4: 4, srcAddr6: 16, dstAddr6: 16, ntpTime: 8, mgenTime: 8, flags: 2, host: 1, repair: 2,
	ttl: 1, digest: 8,
}

// variable is the length of a field whose length is in each record.
const variable = 65535

// part is a field of a template.
type part struct {
	length  uint16
	meaning meaning
}

// template is a template as the decoder stores it.
type template struct {
	kind    kind
	options bool
	parts   []part
	size    int // minimum size of a record
	fixed   bool
	has     [meanings]bool
}

// bytes estimates the memory of a template, including its map entry.
func (t *template) bytes() int {
	return int(unsafe.Sizeof(*t)) + len(t.parts)*int(unsafe.Sizeof(part{})) + 48
}

// These limits bound what a decoder stores for one exporter, whatever it sends.
const (
	maxDomains   = 64
	maxTemplates = 1024 // per domain
	maxParts     = 512  // per template
)

// readTemplate decodes one template record and returns the rest of b. A template
// without fields is a withdrawal, for which t is nil.
func (d *Decoder) readTemplate(b []byte, options bool) (id uint16, t *template, rest []byte, err error) {
	whole := b
	id, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
	b = b[4:]
	if n == 0 {
		return id, nil, b, nil
	}
	t = &template{options: options, fixed: true}
	if options {
		if len(b) < 2 {
			return 0, nil, nil, fmt.Errorf("options template %d is cut off", id)
		}
		b = b[2:]
	}
	if n > maxParts {
		return 0, nil, nil, fmt.Errorf("template %d has %d fields: want at most %d", id, n, maxParts)
	}
	t.parts = make([]part, 0, n)
	var fields []field
	var pens []uint32
	for range n {
		var f field
		var pen uint32
		if f, pen, b, err = d.readField(b); err != nil {
			return 0, nil, nil, fmt.Errorf("template %d: %w", id, err)
		}
		fields, pens = append(fields, f), append(pens, pen)
		t.add(f, pen != 0 && !f.private)
	}
	if pen, ok := otherPEN(fields, pens); ok && !options && d.PEN == 0 {
		d.PEN = pen
		return d.readTemplate(whole, false)
	}
	if t.size == 0 {
		return 0, nil, nil, fmt.Errorf("template %d has records of 0 bytes", id)
	}
	switch {
	case options:
	case same(fields, fieldsIPv4):
		t.kind = ownIPv4
	case same(fields, fieldsIPv6):
		t.kind = ownIPv6
	case same(fields, fieldsEvent4):
		t.kind = ownEvent4
	case same(fields, fieldsEvent6):
		t.kind = ownEvent6
	}
	return id, t, b, nil
}

// otherPEN recognizes PCapper's templates when its own elements have another enterprise
// number than expected.
func otherPEN(fields []field, pens []uint32) (pen uint32, ok bool) {
	for i := range fields {
		if fields[i].private || pens[i] == 0 {
			continue
		}
		if pen != 0 && pens[i] != pen {
			return 0, false
		}
		pen = pens[i]
	}
	if pen == 0 {
		return 0, false
	}
	as := slices.Clone(fields)
	for i := range as {
		if pens[i] == pen {
			as[i].element, as[i].private = as[i].element&^enterpriseBit, true
		}
	}
	return pen, same(as, fieldsIPv4) || same(as, fieldsIPv6) || same(as, fieldsEvent4) || same(as, fieldsEvent6)
}

// readField decodes a field specifier; pen is its enterprise number, or 0. Elements of
// other enterprises have no meaning.
func (d *Decoder) readField(b []byte) (f field, pen uint32, rest []byte, err error) {
	if len(b) < 4 {
		return f, 0, nil, fmt.Errorf("it is cut off")
	}
	f = field{element: binary.BigEndian.Uint16(b), length: binary.BigEndian.Uint16(b[2:])}
	b = b[4:]
	if f.element&enterpriseBit != 0 {
		if len(b) < 4 {
			return f, 0, nil, fmt.Errorf("it is cut off")
		}
		pen = binary.BigEndian.Uint32(b)
		f.element &^= enterpriseBit
		f.private = pen == d.pen()
		if !f.private {
			f.element |= enterpriseBit // so that it cannot be mistaken for a standard element
		}
		b = b[4:]
	}
	return f, pen, b, nil
}

func (t *template) add(f field, strange bool) {
	p := part{length: f.length}
	switch {
	case strange:
	case f.private:
		p.meaning = privateMeaning[f.element]
	default:
		p.meaning = elementMeaning[f.element]
	}
	if !usable(p) {
		p.meaning = unknown
	}
	t.has[p.meaning] = true
	if f.length == variable {
		t.fixed = false
		t.size++ // the byte with its length
	} else {
		t.size += int(f.length)
	}
	t.parts = append(t.parts, p)
}

func usable(p part) bool {
	if p.meaning == nodeName || p.meaning == ifaceName || p.meaning == reason {
		return true // text
	}
	if want := meaningSize[p.meaning]; want != 0 {
		return p.length == want
	}
	return p.length >= 1 && p.length <= 8
}

// same reports whether fields are those of one of our templates.
func same(a, b []field) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// packet reports whether records of the template describe packets.
func (t *template) packet() bool {
	return !t.options && (t.has[srcAddr4] && t.has[dstAddr4] || t.has[srcAddr6] && t.has[dstAddr6])
}
