package ipfix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"github.com/pcapper/pcapper/wire"
)

// ErrMalformed means that the data is not an IPFIX message. A stream cannot be decoded
// beyond it (RFC 7011, section 9.1).
var ErrMalformed = errors.New("not an IPFIX message")

// Decoder decodes the messages of one transport session: one connection, one source
// address and port of datagrams, or one file. It remembers a bounded number of the
// session's templates. It must not be used by several goroutines at once.
type Decoder struct {
	// PEN is the enterprise number of PCapper's own elements; 0 means DefaultPEN. If
	// templates with PCapper's layout arrive with another number, the decoder adopts
	// that number and stores it here.
	PEN uint32
	// MaxTemplateBytes bounds the memory for templates, in bytes; 0 means that only
	// their number is bounded. A message with a template beyond the bound is malformed.
	MaxTemplateBytes int

	templateBytes int
	counts        Counts
	names         map[uint32]Names
	domains       map[uint32]*domain
	cached        *domain // the domain used last
	id            uint32  // of cached
}

// Counts are the counters of a decoder.
type Counts struct {
	Messages uint64 // well-formed ones
	Packets  uint64 // data records returned as wire.Records
	Other    uint64 // data records that describe neither a packet nor a host
	Unknown  uint64 // sets skipped because their template has not arrived
	Lost     uint64 // data records missing according to the sequence numbers
	Late     uint64 // data records that arrived after later ones
	Twice    uint64 // duplicate data records, discarded
}

// domain is the state of an observation domain.
type domain struct {
	templates map[uint16]*template
	begun     bool   // next is valid
	next      uint32 // the sequence number expected next
	late      int    // late messages in a row
	missing   []Gap  // oldest first, at most maxGaps
	said      Statistics
}

// Gap is a run of data records that have not arrived: Count of them, starting at
// sequence number First. They may still arrive.
type Gap struct{ Domain, First, Count uint32 }

// maxGaps is the number of gaps remembered per domain; the oldest are forgotten first.
const maxGaps = 1024

// Missing returns the known gaps, oldest first within each domain.
func (d *Decoder) Missing() (list []Gap) {
	for _, o := range d.domains {
		list = append(list, o.missing...)
	}
	return list
}

// Counts returns the counters.
func (d *Decoder) Counts() Counts { return d.counts }

// TemplateBytes returns an estimate of the memory that templates occupy.
func (d *Decoder) TemplateBytes() int { return d.templateBytes }

// Statistics returns the exporter's latest statistics, combined over all domains.
func (d *Decoder) Statistics() (s Statistics) {
	for _, o := range d.domains {
		s.Messages += o.said.Messages
		s.Records += o.said.Records
		s.NotSent += o.said.NotSent
		s.Ignored += o.said.Ignored
		s.RepairPort = max(s.RepairPort, o.said.RepairPort)
	}
	return s
}

// Domain returns the observation domain of msg, which must have at least HeaderSize
// bytes. Statistics and names of other domains may arrive in messages of domain 0.
func Domain(msg []byte) uint32 { return binary.BigEndian.Uint32(msg[12:]) }

// Names returns the node and interface that the exporter last reported for an
// observation domain; each is at most 255 bytes long, and "" if it was not reported.
// They come from the network: do not trust them or assume that they are printable.
// Domain 0, whose messages concern the exporter as a whole, has the names of the only
// domain that has any.
func (d *Decoder) Names(domain uint32) Names {
	names, ok := d.names[domain]
	if !ok && domain == processDomain && len(d.names) == 1 {
		for _, names = range d.names {
		}
	}
	return names
}

// name records what a domain observes. The number of domains with names is bounded by
// maxDomains.
func (d *Decoder) name(domain uint32, v *values) {
	if _, known := d.names[domain]; !known && len(d.names) >= maxDomains {
		return
	}
	if d.names == nil {
		d.names = map[uint32]Names{}
	}
	d.names[domain] = Names{Node: text(v.node), Interface: text(v.iface)}
}

// text returns a string element without control characters and without the zeros that
// pad one of fixed length.
func text(b []byte) string {
	b = bytes.TrimRight(b, "\x00")
	return wire.Printable(string(b[:min(len(b), 255)]))
}

// Length returns the length of the message that starts at b, or 0 if b is too short to
// tell. Its error is ErrMalformed.
func Length(b []byte) (int, error) {
	if len(b) >= 2 && binary.BigEndian.Uint16(b) != version {
		return 0, fmt.Errorf("%w: version %d instead of %d", ErrMalformed, binary.BigEndian.Uint16(b), version)
	}
	if len(b) < 4 {
		return 0, nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < HeaderSize {
		return 0, fmt.Errorf("%w: a length of %d", ErrMalformed, n)
	}
	return n, nil
}

// Decode decodes msg, which must be one message, and appends the packets and host
// statistics in it to dst. A flow of several packets becomes one record with their
// number, the flag Super, and the sum of their lengths. On an error (ErrMalformed), the
// records before it have been appended.
//
// Duplicate messages are discarded if the exporter has a RepairPort. Without one
// nothing is discarded, because the sequence numbers of other exporters may count
// something else.
func (d *Decoder) Decode(msg []byte, dst []wire.Record) ([]wire.Record, error) {
	n, err := Length(msg)
	if err == nil && (n == 0 || n != len(msg)) {
		err = fmt.Errorf("%w: %d bytes that say they are %d", ErrMalformed, len(msg), n)
	}
	if err != nil {
		return dst, err
	}
	m := message{
		d: d, exported: int64(binary.BigEndian.Uint32(msg[4:])),
		first: binary.BigEndian.Uint32(msg[8:]), id: binary.BigEndian.Uint32(msg[12:]), counted: true,
	}
	if m.domain, err = d.domain(m.id); err != nil {
		return dst, err
	}
	had := len(dst)
	for b := msg[HeaderSize:]; len(b) > 0; {
		if len(b) < setHeaderSize {
			return dst, fmt.Errorf("%w: %d bytes behind the last set", ErrMalformed, len(b))
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < setHeaderSize || size > len(b) {
			return dst, fmt.Errorf("%w: a set of %d bytes in %d", ErrMalformed, size, len(b))
		}
		if dst, err = m.set(binary.BigEndian.Uint16(b), b[setHeaderSize:size], dst); err != nil {
			return dst, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		b = b[size:]
	}
	d.counts.Messages++
	if m.account() {
		d.counts.Twice += uint64(m.count)
		d.counts.Packets -= uint64(len(dst) - had)
		dst = dst[:had]
	}
	return dst, nil
}

// Knows reports whether Decode should be called for msg now: because the templates that
// its data needs have arrived, because it contains templates itself, or because it is
// malformed, which Decode will report.
func (d *Decoder) Knows(msg []byte) bool {
	if len(msg) < HeaderSize {
		return true
	}
	o := d.domains[binary.BigEndian.Uint32(msg[12:])]
	known := true
	for id := range sets(msg) {
		if id == setTemplates || id == setOptions {
			return true
		}
		known = known && o != nil && o.templates[id] != nil
	}
	return known
}

// Teach learns the templates in msg and ignores everything else. Messages that arrived
// before msg can then be decoded before msg itself is passed to Decode.
func (d *Decoder) Teach(msg []byte) {
	if len(msg) < HeaderSize {
		return
	}
	for id, b := range sets(msg) {
		if id != setTemplates && id != setOptions {
			continue
		}
		o, err := d.domain(binary.BigEndian.Uint32(msg[12:]))
		if err != nil {
			return
		}
		m := message{d: d, domain: o}
		_ = m.templates(b, id == setOptions) // Decode will report the error
	}
}

// sets iterates over the complete sets of a message.
func sets(msg []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for b := msg[HeaderSize:]; len(b) >= setHeaderSize; {
			size := int(binary.BigEndian.Uint16(b[2:]))
			if size < setHeaderSize || size > len(b) || !yield(binary.BigEndian.Uint16(b), b[setHeaderSize:size]) {
				return
			}
			b = b[size:]
		}
	}
}

func (d *Decoder) pen() uint32 {
	if d.PEN == 0 {
		return DefaultPEN
	}
	return d.PEN
}

func (d *Decoder) domain(id uint32) (*domain, error) {
	if d.cached != nil && d.id == id {
		return d.cached, nil
	}
	o := d.domains[id]
	if o == nil {
		if len(d.domains) >= maxDomains {
			return nil, fmt.Errorf("%w: more than %d observation domains", ErrMalformed, maxDomains)
		}
		if d.domains == nil {
			d.domains = map[uint32]*domain{}
		}
		o = &domain{templates: map[uint16]*template{}}
		d.domains[id] = o
	}
	d.cached, d.id = o, id
	return o, nil
}

// message is a message that is being decoded.
type message struct {
	d        *Decoder
	domain   *domain
	id       uint32
	exported int64  // seconds since 1970
	first    uint32 // sequence number of its first data record
	count    uint32 // data records
	counted  bool   // count is exact: no set had an unknown template
	taught   bool   // it contained templates
}

// begins reports whether the exporter has restarted its sequence numbers in this
// domain.
func (m *message) begins() bool { return m.taught && m.first == 0 }

// account compares the message's sequence number with the expected one, and reports
// whether the message is a duplicate.
func (m *message) account() (twice bool) {
	o := m.domain
	if m.begins() || !m.counted {
		// The exporter has restarted, or the number of records it has sent is unknown.
		o.begun, o.missing = false, nil
	}
	if !m.counted {
		return false
	}
	if o.begun {
		switch gap := int32(m.first - o.next); {
		case gap > 0:
			m.d.counts.Lost += uint64(gap)
			if len(o.missing) == maxGaps {
				o.missing = append(o.missing[:0], o.missing[1:]...)
			}
			o.missing = append(o.missing, Gap{m.id, o.next, uint32(gap)})
		case gap < -restartRecords, gap < 0 && o.late >= restartMessages:
			// Too far back to be late: the exporter has restarted.
			o.missing = nil
		case gap < 0:
			return m.late()
		}
	}
	o.begun, o.next, o.late = true, m.first+m.count, 0
	return false
}

// late accounts for a message that arrives after later ones. Either it fills a gap or
// it is a duplicate.
func (m *message) late() (twice bool) {
	o := m.domain
	if m.count == 0 {
		return false
	}
	filled := o.fill(m.first, m.count)
	m.d.counts.Late += uint64(filled)
	m.d.counts.Lost -= min(uint64(filled), m.d.counts.Lost)
	switch {
	case filled > 0:
		o.late = 0
	case m.d.Statistics().RepairPort != 0:
		return true
	default:
		o.late++
	}
	return false
}

// fill removes count records, starting at first, from the gaps, and returns how many of
// them were missing.
func (o *domain) fill(first, count uint32) (filled uint32) {
	for i := 0; i < len(o.missing); i++ {
		g := o.missing[i]
		// Both ends of the overlap, relative to the beginning of the gap.
		from, to := max(int64(int32(first-g.First)), 0), min(int64(int32(first-g.First))+int64(count), int64(g.Count))
		if from >= to {
			continue
		}
		filled += uint32(to - from)
		var rest []Gap
		if from > 0 {
			rest = append(rest, Gap{g.Domain, g.First, uint32(from)})
		}
		if to < int64(g.Count) {
			rest = append(rest, Gap{g.Domain, g.First + uint32(to), g.Count - uint32(to)})
		}
		o.missing = slices.Replace(o.missing, i, i+1, rest...)
		i += len(rest) - 1
	}
	return filled
}

// A message may be up to restartRecords late, and up to restartMessages may be late in
// a row, before the decoder concludes that the exporter has restarted.
const (
	restartRecords  = 1 << 16
	restartMessages = 16
)

// set decodes the contents of a set.
func (m *message) set(id uint16, b []byte, dst []wire.Record) ([]wire.Record, error) {
	switch {
	case id == setTemplates, id == setOptions:
		return dst, m.templates(b, id == setOptions)
	case id < TemplateIPv4:
		return dst, fmt.Errorf("a set with the reserved ID %d", id)
	}
	t := m.domain.templates[id]
	if t == nil {
		m.d.counts.Unknown++
		m.counted = false
		return dst, nil
	}
	if t.kind != foreign {
		return m.own(t, b, dst), nil
	}
	for len(b) >= t.size {
		r, rest, err := t.read(b, m.exported)
		if err != nil {
			return dst, fmt.Errorf("a record of template %d: %w", id, err)
		}
		b = rest
		m.count++
		dst = m.take(t, &r, dst)
	}
	return dst, nil
}

func (m *message) templates(b []byte, options bool) error {
	m.taught = true
	for len(b) >= 4 { // anything shorter is padding
		id, t, rest, err := m.d.readTemplate(b, options)
		if err != nil {
			return err
		}
		b = rest
		switch known := m.domain.templates; {
		case id == 0 && t == nil:
			return nil // padding
		case t == nil && (id == setTemplates || id == setOptions):
			for k, v := range known {
				if v.options == (id == setOptions) {
					m.d.withdraw(known, k)
				}
			}
		case id < TemplateIPv4:
			return fmt.Errorf("a template with the reserved ID %d", id)
		case t == nil:
			m.d.withdraw(known, id)
		case known[id] == nil && len(known) >= maxTemplates:
			return fmt.Errorf("more than %d templates", maxTemplates)
		default:
			m.d.withdraw(known, id)
			if limit := m.d.MaxTemplateBytes; limit > 0 && m.d.templateBytes+t.bytes() > limit {
				return fmt.Errorf("templates of more than %d bytes", limit)
			}
			known[id] = t
			m.d.templateBytes += t.bytes()
		}
	}
	return nil
}

// withdraw forgets the template with this ID, if any.
func (d *Decoder) withdraw(known map[uint16]*template, id uint16) {
	if t := known[id]; t != nil {
		d.templateBytes -= t.bytes()
		delete(known, id)
	}
}

// own decodes records in the layout that Append writes.
func (m *message) own(t *template, b []byte, dst []wire.Record) []wire.Record {
	n := len(b) / t.size
	m.count += uint32(n)
	m.d.counts.Packets += uint64(n)
	at := len(dst)
	dst = grow(dst, n)
	for i := range n {
		readOwn(b[i*t.size:(i+1)*t.size], t.kind, &dst[at+i])
	}
	return dst
}

func grow(dst []wire.Record, n int) []wire.Record {
	if cap(dst)-len(dst) >= n {
		return dst[:len(dst)+n]
	}
	return append(dst, make([]wire.Record, n)...)
}

func readOwn(b []byte, k kind, r *wire.Record) {
	*r = wire.Record{}
	if k == ownIPv4 || k == ownEvent4 {
		r.SetSrc4([4]byte(b[0:4]))
		r.SetDst4([4]byte(b[4:8]))
		b = b[8:]
	} else {
		r.Flags = wire.IPv6
		r.Src, r.Dst = [16]byte(b[0:16]), [16]byte(b[16:32])
		b = b[32:]
	}
	carried := flagBits &^ wire.NotTraffic
	if k == ownEvent4 || k == ownEvent6 {
		carried = flagBits
		readEvent(b[tailSize:], r)
	}
	b = b[:tailSize:tailSize]
	r.SrcPort = binary.BigEndian.Uint16(b[tailSrcPort:])
	r.DstPort = binary.BigEndian.Uint16(b[tailSrcPort+2:])
	r.Proto = b[tailProto]
	r.Length = binary.BigEndian.Uint32(b[tailOctets:])
	r.FlowID = binary.BigEndian.Uint32(b[tailFlow:])
	r.Flags |= wire.Flags(binary.BigEndian.Uint16(b[tailFlags:])) & carried
	if (k == ownEvent4 || k == ownEvent6) && r.Flags&wire.NotTraffic == 0 {
		r.Flags |= wire.Uncounted // events are not traffic, whatever their flags say
	}
	r.TTL = b[tailTTL]
	r.Digest = binary.BigEndian.Uint64(b[tailDigest:])
	if r.Flags&wire.MGENHeader != 0 {
		r.MGENSeq = binary.BigEndian.Uint32(b[tailSeq:])
		r.MGENTime = int64(binary.BigEndian.Uint64(b[tailMGENTime:]))
	}
	if n := binary.BigEndian.Uint32(b[tailPackets:]); n > 1 {
		r.Packets = n
		r.Flags |= wire.Super
	}
	start := binary.BigEndian.Uint64(b[tailStart:])
	around := min(start/1000, math.MaxInt64/nsPerSec)
	r.Time, _ = fromNTP(binary.BigEndian.Uint64(b[tailTime:]), int64(around))
}

// readEvent decodes the fields of an event after the tail.
func readEvent(b []byte, r *wire.Record) {
	if isDropped(uint64(b[eventStatus])) {
		r.Flags |= wire.Dropped
		r.Reason = wire.ReasonNamed(bytes.TrimRight(b[eventReason:eventSize], "\x00"))
	}
}

// isDropped reports whether a forwardingStatus says that the packet was dropped.
func isDropped(status uint64) bool { return status&0xc0 == statusDropped }

// values are the fields of a record, indexed by meaning.
type values struct {
	number   [meanings]uint64
	src, dst []byte
	node     []byte
	iface    []byte
	reason   []byte
	exported int64
}

// read decodes one record field by field and returns the bytes after it.
func (t *template) read(b []byte, exported int64) (v values, rest []byte, err error) {
	v.exported = exported
	for _, p := range t.parts {
		n := int(p.length)
		if n == variable {
			if n, b, err = variableLength(b); err != nil {
				return v, nil, err
			}
		}
		if n > len(b) {
			return v, nil, fmt.Errorf("it is cut off")
		}
		if p.meaning != unknown {
			v.set(p.meaning, b[:n])
		}
		b = b[n:]
	}
	return v, b, nil
}

// variableLength decodes the length that precedes a field (RFC 7011, section 7).
func variableLength(b []byte) (n int, rest []byte, err error) {
	if len(b) < 1 {
		return 0, nil, fmt.Errorf("it is cut off")
	}
	if b[0] < 255 {
		return int(b[0]), b[1:], nil
	}
	if len(b) < 3 {
		return 0, nil, fmt.Errorf("it is cut off")
	}
	return int(binary.BigEndian.Uint16(b[1:])), b[3:], nil
}

func (v *values) set(m meaning, b []byte) {
	switch m {
	case srcAddr4, srcAddr6:
		v.src = b
		return
	case dstAddr4, dstAddr6:
		v.dst = b
		return
	case nodeName:
		v.node = b
		return
	case ifaceName:
		v.iface = b
		return
	case reason:
		v.reason = b
		return
	}
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	v.number[m] = n
}

// time returns the packet's time from the most precise element that is present.
func (v *values) time(t *template) int64 {
	around := v.exported
	switch {
	case t.has[millis]:
		around = int64(min(v.number[millis]/1000, math.MaxInt64/nsPerSec-1))
	case t.has[seconds]:
		around = int64(min(v.number[seconds], math.MaxInt64/nsPerSec-1))
	}
	if t.has[ntpTime] {
		if ns, ok := fromNTP(v.number[ntpTime], around); ok {
			return ns
		}
	}
	switch {
	case t.has[millis]:
		return int64(min(v.number[millis], math.MaxInt64/nsPerMsec)) * nsPerMsec
	case t.has[delta]:
		return max(around*nsPerSec-int64(v.number[delta])*nsPerUsec, 0)
	}
	return around * nsPerSec
}

// take converts the fields of a record to a wire.Record, or stores the statistics or
// names that they contain.
func (m *message) take(t *template, v *values, dst []wire.Record) []wire.Record {
	switch {
	case t.packet():
		m.d.counts.Packets++
		return append(dst, v.packet(t))
	case t.has[host] && t.has[value]:
		if r, ok := v.host(t); ok {
			m.d.counts.Packets++
			return append(dst, r)
		}
	case t.options && t.has[observed] && (t.has[nodeName] || t.has[ifaceName]):
		m.d.name(uint32(v.number[observed]), v)
		return dst
	case t.options && (t.has[notSent] || t.has[ignored] || t.has[records]):
		if v.number[messages] < m.domain.said.Messages && !m.begins() {
			return dst // late: newer statistics have already arrived
		}
		m.domain.said = Statistics{
			Messages: v.number[messages], Records: v.number[records],
			NotSent: v.number[notSent], Ignored: v.number[ignored],
			RepairPort: uint16(v.number[repair]),
		}
		return dst
	}
	m.d.counts.Other++
	return dst
}

func (v *values) packet(t *template) wire.Record {
	r := wire.Record{
		Time:    v.time(t),
		SrcPort: uint16(v.number[srcPort]), DstPort: uint16(v.number[dstPort]),
		Proto: uint8(v.number[protocol]),
	}
	if len(v.src) == 16 && len(v.dst) == 16 {
		r.Src, r.Dst, r.Flags = [16]byte(v.src), [16]byte(v.dst), wire.IPv6
	} else if len(v.src) == 4 && len(v.dst) == 4 {
		r.SetSrc4([4]byte(v.src))
		r.SetDst4([4]byte(v.dst))
	}
	length := v.number[octets]
	if !t.has[octets] {
		length = v.number[ipLength]
	}
	r.Length = uint32(min(length, math.MaxUint32))
	if n := v.number[packets]; n > 1 {
		r.Packets = uint32(min(n, math.MaxUint32))
		r.Flags |= wire.Super
	}
	if t.has[flags] {
		carried := flagBits &^ wire.Dropped
		if !t.has[event] {
			carried &^= wire.Member
		}
		r.Flags |= wire.Flags(v.number[flags]) & carried
	} else {
		r.Flags |= v.direction(t)
		if v.number[flowID] != 0 {
			r.Flags |= wire.MGEN
		}
	}
	r.FlowID = uint32(v.number[flowID])
	r.TTL, r.Digest = uint8(v.number[ttl]), v.number[digest]
	v.event(t, &r)
	if r.Flags&wire.MGENHeader != 0 {
		r.MGENSeq, r.MGENTime = uint32(v.number[mgenSeq]), int64(v.number[mgenTime])
	}
	return r
}

// event sets the flags of records that are not traffic: PCapper's own events, and
// records of other exporters whose status says dropped or that count dropped packets
// only.
func (v *values) event(t *template, r *wire.Record) {
	n := max(v.number[dropped], v.number[event])
	switch {
	case isDropped(v.number[status]), v.number[dropped] > 0 && v.number[packets] == 0:
		r.Flags |= wire.Dropped
		r.Reason = wire.ReasonNamed(bytes.TrimRight(v.reason, "\x00"))
	case t.has[event]:
		if r.Flags&wire.Member == 0 {
			r.Flags |= wire.Uncounted
		}
	default:
		return
	}
	if n > 1 {
		r.Packets = uint32(min(n, math.MaxUint32))
		r.Flags |= wire.Super
	}
}

func (v *values) direction(t *template) wire.Flags {
	switch {
	case !t.has[direction]:
		return 0
	case v.number[direction] == 1:
		return wire.Outgoing
	}
	return wire.Incoming
}

func (v *values) host(t *template) (wire.Record, bool) {
	n := v.number[value]
	switch wire.Stat(v.number[host]) {
	case wire.CPU:
		return wire.CPUStat(v.time(t), uint32(n)), n <= math.MaxUint32
	case wire.Memory:
		return wire.MemoryStat(v.time(t), n<<8), n <= math.MaxUint16
	}
	return wire.Record{}, false
}
