// Package batch is what travels and is kept beyond one collector: a run of one
// agent's records, numbered so that a reader can detect duplicates, as bytes
// that explain themselves. It neither sends nor stores.
//
// # Bytes
//
// All numbers are unsigned and big-endian:
//
//	bytes  meaning
//	4      "PCB" and the version, 1
//	4      CRC-32C (Castagnoli) of everything behind it
//	8      boot
//	8      first
//	4      how many records
//	8      dropped
//	8      packets that the records stand for
//	8      bytes of these packets, as IP counts them
//	1      level: 0, 1 or 2
//	1      length of the agent's name, 1 to 255
//	...    the name, UTF-8
//	...    a block of S2, which holds IPFIX messages (RFC 7011), one behind the
//	       other: the templates of package ipfix, then the records
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"

	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// Level is how much has been summed up.
type Level uint8

const (
	// Packets: a record for each packet that the agent's feed has one for, each drop,
	// and each second observation. Memberships in groups are in batches of any level.
	Packets Level = iota
	// Flows: a record for each flow and second; drops of a flow by their reason.
	Flows
	// Top: the heaviest flows of ten seconds, and the rest in sums; no drops.
	Top
	levels
)

func (l Level) String() string {
	if l < levels {
		return [...]string{"packets", "flows", "top"}[l]
	}
	return "level " + strconv.Itoa(int(l))
}

// Batch is records of one agent that follow each other in its stream.
type Batch struct {
	// Agent is whose they are: 1 to 255 bytes of UTF-8. What is decoded has
	// no control characters, see wire.Printable.
	Agent string
	// Boot names the stream: a random number, drawn whenever whoever numbers the
	// records begins to. If that is the agent, several collectors may make batches of
	// the same records.
	Boot uint64
	// First is the first record's number. Numbers count up from 0; none is used
	// for two records of one Boot.
	First uint64
	// Dropped is how many of the agent's records were given up since Boot, before
	// this batch; no batch has them.
	Dropped uint64
	Level   Level
	// Records are packets, sums of packets, and memberships, but no host statistics.
	Records []wire.Record
}

// Next is the number of the record after the last.
func (b *Batch) Next() uint64 { return b.First + uint64(len(b.Records)) }

// ID is the same for batches of the same records only. It suits Nats-Msg-Id.
func (b *Batch) ID() string { return id(b.Agent, b.Boot, b.First, b.Next()) }

func id(agent string, boot, first, next uint64) string {
	return agent + "/" + strconv.FormatUint(boot, 16) + "/" + strconv.FormatUint(first, 10) + "-" + strconv.FormatUint(next, 10)
}

// Header is what a batch says of itself in front of its records.
type Header struct {
	Agent                string
	Boot, First, Dropped uint64
	Count                uint32 // records
	Level                Level
	Packets, Bytes       uint64
}

// Next is the number of the record after the last.
func (h *Header) Next() uint64 { return h.First + uint64(h.Count) }

// ID is the batch's.
func (h *Header) ID() string { return id(h.Agent, h.Boot, h.First, h.Next()) }

const (
	magic      = "PCB\x01"
	offSum     = 4
	offBoot    = 8
	offFirst   = 16
	offCount   = 24
	offDropped = 28
	offPackets = 36
	offBytes   = 44
	offLevel   = 52
	offName    = 53 // and its length
	headerSize = 54
)

const (
	// MaxSize is the longest that a batch's bytes may be: what a NATS server
	// takes unless it is told otherwise.
	MaxSize = 1 << 20
	// MaxRecords is the most records of a batch. The longest fill MaxSize.
	MaxRecords = 10_000
	// maxPlain bounds what is made of a block of S2: MaxRecords, and the
	// messages' headers.
	maxPlain = MaxRecords*ipfix.SizeEvent6 + 1<<16
)

// ErrMalformed: the bytes are no batch, or were damaged.
var ErrMalformed = errors.New("not a batch of records")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encoder makes bytes of batches. It keeps its memory, and is for one
// goroutine. The zero value is ready.
type Encoder struct {
	cells []byte
	ends  []uint32
	plain []byte
}

// Append appends b as bytes to dst. It fails if b has no name, too long a one,
// no records or more than MaxRecords, or one that IPFIX cannot carry.
func (e *Encoder) Append(dst []byte, b *Batch) ([]byte, error) {
	if err := b.check(); err != nil {
		return dst, err
	}
	packets, bytes, err := e.encode(b)
	if err != nil {
		return dst, err
	}
	at := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	h := dst[at:]
	copy(h, magic)
	binary.BigEndian.PutUint64(h[offBoot:], b.Boot)
	binary.BigEndian.PutUint64(h[offFirst:], b.First)
	binary.BigEndian.PutUint32(h[offCount:], uint32(len(b.Records)))
	binary.BigEndian.PutUint64(h[offDropped:], b.Dropped)
	binary.BigEndian.PutUint64(h[offPackets:], packets)
	binary.BigEndian.PutUint64(h[offBytes:], bytes)
	h[offLevel] = byte(b.Level)
	h[offName] = byte(len(b.Agent))
	dst = append(dst, b.Agent...)
	dst = appendBlock(dst, e.plain)
	binary.BigEndian.PutUint32(dst[at+offSum:], crc32.Checksum(dst[at+offBoot:], castagnoli))
	return dst, nil
}

// appendBlock appends plain as a block of S2.
func appendBlock(dst, plain []byte) []byte {
	at, room := len(dst), s2.MaxEncodedLen(len(plain))
	if cap(dst)-at < room {
		dst = append(dst, make([]byte, room)...)
	}
	return append(dst[:at], s2.Encode(dst[at:at+room], plain)...)
}

func (b *Batch) check() error {
	switch {
	case b.Agent == "" || len(b.Agent) > 255 || !utf8.ValidString(b.Agent):
		return fmt.Errorf("a batch of the agent %q: want a name of 1 to 255 bytes of UTF-8", b.Agent)
	case len(b.Records) == 0 || len(b.Records) > MaxRecords:
		return fmt.Errorf("a batch of %d records: want 1 to %d", len(b.Records), MaxRecords)
	case b.Level >= levels:
		return fmt.Errorf("a batch of %v: want 0 to %d", b.Level, levels-1)
	}
	return nil
}

// encode puts the messages into e.plain.
func (e *Encoder) encode(b *Batch) (packets, bytes uint64, err error) {
	e.cells, e.ends = e.cells[:0], append(e.ends[:0], 0)
	for i := range b.Records {
		r := &b.Records[i]
		before := len(e.cells)
		e.cells, _ = ipfix.Append(e.cells, r)
		if len(e.cells) == before || r.Flags&wire.HostStat != 0 {
			return 0, 0, fmt.Errorf("record %d of a batch is not a packet, or is from before 1970", i)
		}
		e.ends = append(e.ends, uint32(len(e.cells)))
		packets += r.Count()
		bytes += uint64(r.Length)
	}
	var w ipfix.Writer
	now := time.Unix(0, b.Records[0].Time)
	e.plain = w.Templates(e.plain[:0], now)
	for n := 0; n < len(b.Records); {
		var done int
		e.plain, done = w.Message(e.plain, now, ipfix.MaxMessage, e.cells[e.ends[n]:], e.ends[n:])
		n += done
	}
	return packets, bytes, nil
}

// ReadHeader reads what data, a batch's bytes, says in front of its records.
// It checks the sum. The error is ErrMalformed.
func ReadHeader(data []byte) (h Header, err error) {
	h, _, err = split(data)
	return h, err
}

func split(data []byte) (h Header, block []byte, err error) {
	if len(data) < headerSize || string(data[:4]) != magic {
		return h, nil, fmt.Errorf("%w: %d bytes that begin with %q", ErrMalformed, len(data), data[:min(4, len(data))])
	}
	if got := crc32.Checksum(data[offBoot:], castagnoli); got != binary.BigEndian.Uint32(data[offSum:]) {
		return h, nil, fmt.Errorf("%w: its check sum is %08x instead of %08x", ErrMalformed, got, binary.BigEndian.Uint32(data[offSum:]))
	}
	h = Header{
		Boot: binary.BigEndian.Uint64(data[offBoot:]), First: binary.BigEndian.Uint64(data[offFirst:]),
		Dropped: binary.BigEndian.Uint64(data[offDropped:]), Count: binary.BigEndian.Uint32(data[offCount:]),
		Level:   Level(data[offLevel]),
		Packets: binary.BigEndian.Uint64(data[offPackets:]), Bytes: binary.BigEndian.Uint64(data[offBytes:]),
	}
	n := headerSize + int(data[offName])
	if len(data) < n || n == headerSize || h.Level >= levels || h.Count == 0 || h.Count > MaxRecords || h.First > h.Next() {
		return h, nil, fmt.Errorf("%w: %d records of %v, a name of %d bytes", ErrMalformed, h.Count, h.Level, data[offName])
	}
	h.Agent = string(data[headerSize:n])
	if !utf8.ValidString(h.Agent) {
		return h, nil, fmt.Errorf("%w: the name %q is not UTF-8", ErrMalformed, h.Agent)
	}
	h.Agent = wire.Printable(h.Agent) // it will be shown
	return h, data[n:], nil
}

// Decoder makes batches of bytes. It keeps its memory, and is for one
// goroutine. The zero value is ready.
type Decoder struct{ plain []byte }

// Decode reads data, one batch, into b, whose Records it uses again. The error
// is ErrMalformed, and b of no use.
func (d *Decoder) Decode(data []byte, b *Batch) error {
	h, block, err := split(data)
	if err != nil {
		return err
	}
	if err := d.decompress(block); err != nil {
		return err
	}
	if b.Agent != h.Agent { // else keep the string
		b.Agent = strings.Clone(h.Agent)
	}
	b.Boot, b.First, b.Dropped, b.Level = h.Boot, h.First, h.Dropped, h.Level
	b.Records = b.Records[:0]
	var messages ipfix.Decoder
	for rest := d.plain; len(rest) > 0; {
		n, err := ipfix.Length(rest)
		if err != nil || n == 0 || n > len(rest) {
			return fmt.Errorf("%w: %d bytes of IPFIX that are no message", ErrMalformed, len(rest))
		}
		if b.Records, err = messages.Decode(rest[:n], b.Records); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		rest = rest[n:]
	}
	return b.matches(&h)
}

func (d *Decoder) decompress(block []byte) error {
	n, err := s2.DecodedLen(block)
	if err != nil || n > maxPlain {
		return fmt.Errorf("%w: a block of %d bytes", ErrMalformed, n)
	}
	if d.plain, err = s2.Decode(d.plain[:cap(d.plain)], block); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// matches checks that the records are those that the header speaks of.
func (b *Batch) matches(h *Header) error {
	var packets, bytes uint64
	for i := range b.Records {
		if b.Records[i].Flags&wire.HostStat != 0 {
			return fmt.Errorf("%w: record %d is a host statistic", ErrMalformed, i)
		}
		packets += b.Records[i].Count()
		bytes += uint64(b.Records[i].Length)
	}
	if len(b.Records) != int(h.Count) || packets != h.Packets || bytes != h.Bytes {
		return fmt.Errorf("%w: %d records of %d packets with %d bytes instead of %d, %d, %d",
			ErrMalformed, len(b.Records), packets, bytes, h.Count, h.Packets, h.Bytes)
	}
	return nil
}
