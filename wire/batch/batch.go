// Package batch defines the unit in which records travel and are kept beyond one
// collector: a numbered run of one agent's records, in a self-contained encoding that
// lets readers detect duplicates. It neither sends nor stores batches.
//
// # Bytes
//
// All numbers are unsigned and big-endian:
//
//	bytes  meaning
//	4      "PCB" and the version, 1
//	4      CRC-32C (Castagnoli) of everything after it
//	8      boot
//	8      first
//	4      number of records
//	8      dropped
//	8      number of packets that the records stand for
//	8      sum of the IP lengths of these packets
//	1      level: 0, 1 or 2
//	1      length of the agent's name, 1 to 255
//	...    the name, UTF-8
//	...    an S2 block that holds IPFIX messages (RFC 7011), one after the
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

// Level is the degree to which records have been aggregated.
type Level uint8

const (
	// Packets has a record for each packet in the agent's feed, each drop, and each
	// second observation of a packet. Group memberships are in batches of every level.
	Packets Level = iota
	// Flows has a record for each flow and second, and for the drops of a flow by
	// reason.
	Flows
	// Top has the heaviest flows of ten seconds and the sums of all others. It has no
	// drops.
	Top
	levels
)

func (l Level) String() string {
	if l < levels {
		return [...]string{"packets", "flows", "top"}[l]
	}
	return "level " + strconv.Itoa(int(l))
}

// Batch is a run of consecutive records of one agent.
type Batch struct {
	// Agent is the name of the agent: 1 to 255 bytes of UTF-8. The name in a decoded
	// batch has no control characters, see [wire.Printable].
	Agent string
	// Boot identifies the stream: a random number, drawn when the program that numbers
	// the records starts numbering. If that program is the agent, several collectors
	// may build batches of the same records.
	Boot uint64
	// First is the number of the first record. Numbers count up from 0; no two records
	// with the same Boot have the same number.
	First uint64
	// Dropped is the number of the agent's records since Boot that were dropped before
	// this batch. They are in no batch.
	Dropped uint64
	Level   Level
	// Records are packets, aggregates of packets, and memberships, but not host
	// statistics.
	Records []wire.Record
}

// Next returns the number after that of the last record.
func (b *Batch) Next() uint64 { return b.First + uint64(len(b.Records)) }

// ID returns an identifier that only batches of the same records share. It is suitable
// as a Nats-Msg-Id.
func (b *Batch) ID() string { return id(b.Agent, b.Boot, b.First, b.Next()) }

func id(agent string, boot, first, next uint64) string {
	return agent + "/" + strconv.FormatUint(boot, 16) + "/" + strconv.FormatUint(first, 10) + "-" + strconv.FormatUint(next, 10)
}

// Header is what precedes the records in an encoded batch.
type Header struct {
	Agent                string
	Boot, First, Dropped uint64
	Count                uint32 // of records
	Level                Level
	Packets, Bytes       uint64
}

// Next returns the number after that of the last record.
func (h *Header) Next() uint64 { return h.First + uint64(h.Count) }

// ID returns the identifier of the batch, see [Batch.ID].
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
	offName    = 53 // after its length
	headerSize = 54
)

const (
	// MaxSize is the maximum size of an encoded batch: the default message limit of a
	// NATS server.
	MaxSize = 1 << 20
	// MaxRecords is the maximum number of records in a batch. The longest records then
	// fill MaxSize.
	MaxRecords = 10_000
	// maxPlain bounds the size of a decompressed S2 block: MaxRecords and the headers
	// of the messages.
	maxPlain = MaxRecords*ipfix.SizeEvent6 + 1<<16
)

// ErrMalformed means that the data is not a batch, or is damaged.
var ErrMalformed = errors.New("not a batch of records")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encoder encodes batches. It reuses its buffers, so it must not be used by several
// goroutines at once. The zero value is ready to use.
type Encoder struct {
	cells []byte
	ends  []uint32
	plain []byte
}

// Append appends the encoding of b to dst. It fails if the agent's name is empty or too
// long, if there are no records or more than MaxRecords, or if IPFIX cannot represent
// one of them.
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

// appendBlock appends plain to dst as an S2 block.
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

// encode encodes the records as IPFIX messages into e.plain.
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

// ReadHeader decodes the header of data, an encoded batch, and verifies the checksum of
// the whole batch. Its error is ErrMalformed.
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
	h.Agent = wire.Printable(h.Agent) // because it will be displayed
	return h, data[n:], nil
}

// Decoder decodes batches. It reuses its buffers, so it must not be used by several
// goroutines at once. The zero value is ready to use.
type Decoder struct{ plain []byte }

// Decode decodes data, which must be exactly one batch, into b. It overwrites b.Records
// in place. If it fails, with ErrMalformed, the contents of b are unspecified.
func (d *Decoder) Decode(data []byte, b *Batch) error {
	h, block, err := split(data)
	if err != nil {
		return err
	}
	if err := d.decompress(block); err != nil {
		return err
	}
	if b.Agent != h.Agent { // otherwise reuse the string
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

// matches checks the records against the sums in the header.
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
