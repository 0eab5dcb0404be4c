package ipfix

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/pcapper/pcapper/wire"
)

// Sizes of messages, in bytes.
const (
	// HeaderSize is the size of a message header.
	HeaderSize = 16
	// MaxMessage is the maximum size of a message.
	MaxMessage = 65535
	// MaxDatagram is the maximum size of a message that fits into one unfragmented
	// datagram on every IPv6 path: 1,280 bytes (RFC 8200, section 5) minus the IPv6 and
	// UDP headers.
	MaxDatagram   = 1280 - 40 - 8
	version       = 10
	setHeaderSize = 4
	setTemplates  = 2
	setOptions    = 3
)

// field is a field specifier of a template (RFC 7011, section 3.2).
type field struct {
	element uint16 // without the enterprise bit
	length  uint16
	private bool // one of PCapper's own elements
}

// Numbers of PCapper's own elements.
const (
	mgenFlowID = 1 + iota
	mgenSequence
	mgenTransmitTime
	packetFlags
	hostStatistic
	hostValue
	repairPort
	dropReason
	eventPackets
)

// tailFields are the fields after the addresses in both packet templates.
var tailFields = []field{
	{7, 2, false}, {11, 2, false}, {4, 1, false}, {60, 1, false}, {61, 1, false}, {1, 4, false}, {2, 4, false},
	{152, 8, false}, {153, 8, false}, {325, 8, false},
	{mgenFlowID, 4, true}, {mgenSequence, 4, true}, {mgenTransmitTime, 8, true}, {packetFlags, 2, true},
	{192, 1, false}, {326, 8, false},
}

// eventFields are the fields after the addresses in events: the same layout as
// tailFields, but without any element that a collector would add to the traffic.
var eventFields = append(
	swap(swap(tailFields, field{1, 4, false}, field{224, 4, false}), field{2, 4, false}, field{eventPackets, 4, true}),
	field{89, 1, false}, field{dropReason, wire.ReasonSize, true})

// swap returns a copy of fields with one field replaced.
func swap(fields []field, from, to field) []field {
	fields = slices.Clone(fields)
	fields[slices.Index(fields, from)] = to
	return fields
}

var (
	addresses4       = []field{{8, 4, false}, {12, 4, false}}
	addresses6       = []field{{27, 16, false}, {28, 16, false}}
	fieldsIPv4       = slices.Concat(addresses4, tailFields)
	fieldsIPv6       = slices.Concat(addresses6, tailFields)
	fieldsEvent4     = slices.Concat(addresses4, eventFields)
	fieldsEvent6     = slices.Concat(addresses6, eventFields)
	fieldsStatistics = []field{{144, 4, false}, {41, 8, false}, {42, 8, false}, {166, 8, false}, {164, 8, false}, {repairPort, 2, true}}
	fieldsNames      = []field{{149, 4, false}, {300, variable, false}, {82, variable, false}}
	fieldsHost       = []field{{149, 4, false}, {323, 8, false}, {325, 8, false}, {hostStatistic, 1, true}, {hostValue, 4, true}}
)

// Statistics are an exporter's counters since its start.
type Statistics struct {
	Messages uint64 // sent in this transport session
	Records  uint64 // data records sent in it
	NotSent  uint64 // records not sent because the collector, or the path to it, was too slow
	Ignored  uint64 // packets not captured because the exporter was too slow
	// RepairPort is the exporter's TCP port for repairs, or 0; see Writer.
	RepairPort uint16
}

// Names identify what an observation domain observes. Each is truncated to 255 bytes.
type Names struct {
	Node      string // the host, or a node of an emulation; "" is the exporter itself
	Interface string
}

// Writer builds the messages of one transport session.
type Writer struct {
	// Domain is the observation domain ID.
	Domain uint32
	// PEN is the enterprise number of PCapper's own elements; 0 means DefaultPEN.
	PEN uint32
	// RepairPort is the TCP port where receivers of datagrams can request those that
	// they missed, or 0 if there is none.
	RepairPort uint16
	// Names are those of the observation point; if both are "", none are sent.
	Names Names

	sequence  uint32 // data records in messages so far
	about     uint32 // the same for processDomain, unless it is Domain
	described bool   // the template of statistics has been sent
	records   uint64
	messages  uint64
}

// processDomain is the domain of messages that concern no particular observation
// domain; RFC 7011, section 3.1, names statistics of the exporting process as an
// example. Keeping them out of the data's domain means that collectors which count only
// packet records see no gaps.
const processDomain = 0

// Sequence returns the sequence number of the next message of data records.
func (w *Writer) Sequence() uint32 { return w.sequence }

// Templates appends a message with the templates of data records. It must precede all
// data. On a transport that loses messages it must be repeated regularly, each time
// followed by Statistics, which has templates of its own.
func (w *Writer) Templates(dst []byte, now time.Time) []byte {
	w.described = false
	dst, at := begin(dst, now, w.Domain, w.sequence)
	dst, set := beginSet(dst, setTemplates)
	dst = w.template(dst, TemplateIPv4, 0, fieldsIPv4)
	dst = w.template(dst, TemplateIPv6, 0, fieldsIPv6)
	dst = w.template(dst, TemplateEvent4, 0, fieldsEvent4)
	dst = w.template(dst, TemplateEvent6, 0, fieldsEvent6)
	endSet(dst, set)
	dst, set = beginSet(dst, setOptions)
	dst = w.template(dst, TemplateHost, 1, fieldsHost)
	endSet(dst, set)
	return w.end(dst, at, &w.sequence, 0)
}

// Statistics appends a message with s, and with its template and Names if they have not
// been sent since Templates. The fields Messages, Records, and RepairPort of s are
// ignored, because the Writer knows them.
func (w *Writer) Statistics(dst []byte, now time.Time, s Statistics) []byte {
	sequence := &w.about
	if w.Domain == processDomain {
		sequence = &w.sequence
	}
	messages, records := w.messages, w.records
	dst, at := begin(dst, now, processDomain, *sequence)
	set, count := 0, uint32(1)
	if !w.described {
		w.described = true
		dst, set = beginSet(dst, setOptions)
		dst = w.template(dst, TemplateStatistics, 1, fieldsStatistics)
		endSet(dst, set)
		if w.Names != (Names{}) {
			dst = w.names(dst)
			count++
		}
	}
	dst, set = beginSet(dst, TemplateStatistics)
	dst = binary.BigEndian.AppendUint32(dst, w.Domain) // one process has one domain
	for _, v := range []uint64{messages, records, s.NotSent, s.Ignored} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	dst = binary.BigEndian.AppendUint16(dst, w.RepairPort)
	endSet(dst, set)
	return w.end(dst, at, sequence, count)
}

// names appends the sets that name what the domain observes.
func (w *Writer) names(dst []byte) []byte {
	dst, set := beginSet(dst, setOptions)
	dst = w.template(dst, TemplateNames, 1, fieldsNames)
	endSet(dst, set)
	dst, set = beginSet(dst, TemplateNames)
	dst = binary.BigEndian.AppendUint32(dst, w.Domain)
	for _, s := range []string{w.Names.Node, w.Names.Interface} {
		s = s[:min(len(s), 255)]
		if dst = append(dst, byte(len(s))); len(s) == 255 { // RFC 7011, section 7
			dst = append(dst, 0, 255)
		}
		dst = append(dst, s...)
	}
	endSet(dst, set)
	return dst
}

// Message appends a message of at most max bytes (at least MaxDatagram) with as many of
// the records in buf as fit. The records are those of Append; record i is
// buf[ends[i]-ends[0]:ends[i+1]-ends[0]], and empty ones are skipped. It returns the
// number of records consumed. If all of them are empty, it appends no message.
func (w *Writer) Message(dst []byte, now time.Time, max int, buf []byte, ends []uint32) (msg []byte, n int) {
	if len(ends) < 2 {
		return dst, 0
	}
	before := len(dst)
	dst, at := begin(dst, now, w.Domain, w.sequence)
	limit := at + min(max, MaxMessage)
	records, setSize, set := uint32(0), 0, 0
	base := ends[0]
	for ; n < len(ends)-1; n++ {
		size := int(ends[n+1] - ends[n])
		if size == 0 {
			continue
		}
		need := size
		if size != setSize {
			need += setHeaderSize
		}
		if len(dst)+need > limit {
			break
		}
		if size != setSize {
			if setSize != 0 {
				endSet(dst, set)
			}
			dst, set = beginSet(dst, templateOf(size))
			setSize = size
		}
		dst = append(dst, buf[ends[n]-base:ends[n+1]-base]...)
		if size == SizeHost {
			binary.BigEndian.PutUint32(dst[len(dst)-SizeHost:], w.Domain)
		}
		records++
	}
	if records == 0 {
		return dst[:before], n
	}
	endSet(dst, set)
	return w.end(dst, at, &w.sequence, records), n
}

// templateOf returns the template of a data record of this size.
func templateOf(size int) uint16 {
	switch size {
	case SizeIPv4:
		return TemplateIPv4
	case SizeIPv6:
		return TemplateIPv6
	case SizeEvent4:
		return TemplateEvent4
	case SizeEvent6:
		return TemplateEvent6
	}
	return TemplateHost
}

func begin(dst []byte, now time.Time, domain, sequence uint32) (msg []byte, at int) {
	at = len(dst)
	dst = binary.BigEndian.AppendUint16(dst, version)
	dst = append(dst, 0, 0) // the length, filled in by end
	dst = binary.BigEndian.AppendUint32(dst, uint32(now.Unix()))
	dst = binary.BigEndian.AppendUint32(dst, sequence)
	return binary.BigEndian.AppendUint32(dst, domain), at
}

func (w *Writer) end(dst []byte, at int, sequence *uint32, records uint32) []byte {
	binary.BigEndian.PutUint16(dst[at+2:], uint16(len(dst)-at))
	*sequence += records
	w.records += uint64(records)
	w.messages++
	return dst
}

func beginSet(dst []byte, id uint16) (msg []byte, at int) {
	at = len(dst)
	dst = binary.BigEndian.AppendUint16(dst, id)
	return append(dst, 0, 0), at
}

func endSet(dst []byte, at int) {
	binary.BigEndian.PutUint16(dst[at+2:], uint16(len(dst)-at))
}

func (w *Writer) pen() uint32 {
	if w.PEN == 0 {
		return DefaultPEN
	}
	return w.PEN
}

// template appends a template record, or an options template record if scopes > 0.
func (w *Writer) template(dst []byte, id uint16, scopes int, fields []field) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(fields)))
	if scopes > 0 {
		dst = binary.BigEndian.AppendUint16(dst, uint16(scopes))
	}
	for _, f := range fields {
		element := f.element
		if f.private {
			element |= enterpriseBit
		}
		dst = binary.BigEndian.AppendUint16(dst, element)
		dst = binary.BigEndian.AppendUint16(dst, f.length)
		if f.private {
			dst = binary.BigEndian.AppendUint32(dst, w.pen())
		}
	}
	return dst
}

const enterpriseBit = 0x8000
