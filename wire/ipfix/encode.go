package ipfix

import (
	"encoding/binary"
	"math"

	"github.com/pcapper/pcapper/wire"
)

// DefaultPEN is the private enterprise number that RFC 5612 reserves for documentation.
const DefaultPEN = 32473

// Template IDs.
const (
	TemplateIPv4       = 256
	TemplateIPv6       = 257
	TemplateStatistics = 258
	TemplateHost       = 259
	TemplateNames      = 260
	TemplateEvent4     = 261
	TemplateEvent6     = 262
)

// Sizes of data records, in bytes. All are different, so a record's size identifies its
// template.
const (
	SizeIPv4   = 74
	SizeIPv6   = 98
	SizeHost   = 25
	SizeEvent4 = SizeIPv4 + eventSize
	SizeEvent6 = SizeIPv6 + eventSize
)

// Offsets of the fields after the addresses, which both packet templates share,
// relative to the first of them.
const (
	tailSrcPort   = 0
	tailProto     = 4
	tailVersion   = 5
	tailDirection = 6
	tailOctets    = 7
	tailPackets   = 11
	tailStart     = 15
	tailEnd       = 23
	tailTime      = 31
	tailFlow      = 39
	tailSeq       = 43
	tailMGENTime  = 47
	tailFlags     = 55
	tailTTL       = 57
	tailDigest    = 58
	tailSize      = 66
)

// Offsets of the fields that an event has after the tail.
const (
	eventStatus = 0
	eventReason = 1
	eventSize   = 1 + wire.ReasonSize
)

// statusDropped is the forwardingStatus (RFC 7270, section 4.12) of a packet dropped
// for an unknown reason. The registry's codes for reasons are less specific than the
// kernel's names, which dropReason carries.
const statusDropped = 2 << 6

// flagBits are the flags that packetFlags carries. The others follow from the template.
const flagBits = wire.MGEN | wire.MGENHeader | wire.Fragment | wire.LaterFragment | wire.Truncated |
	wire.Super | wire.Outgoing | wire.Incoming | wire.Relayed | wire.MarkRelayed | wire.BeforeQueue | wire.NotTraffic

// Append appends r to dst as a data record that counts as many packets as r stands for.
// It reports false, and appends nothing, if r's time is before 1970, or if r is a host
// statistic that the elements cannot represent. It does not allocate if dst has 256
// bytes to spare.
func Append(dst []byte, r *wire.Record) ([]byte, bool) {
	if r.Time < 0 {
		return dst, false
	}
	if r.Flags&wire.HostStat != 0 {
		return appendHost(dst, r)
	}
	return appendPackets(dst, r, max(r.Packets, 1), r.Time), true
}

// AppendFlow appends a data record of n packets of one flow to dst. r.Time is the time
// of the first packet, end that of the last (nanoseconds since 1970), and r.Length the
// sum of all lengths. It reports false, and appends nothing, for the records that
// [Append] refuses.
func AppendFlow(dst []byte, r *wire.Record, n uint32, end int64) ([]byte, bool) {
	if r.Time < 0 || end < r.Time || n == 0 || r.Flags&wire.HostStat != 0 {
		return dst, false
	}
	return appendPackets(dst, r, n, end), true
}

func appendPackets(dst []byte, r *wire.Record, n uint32, end int64) []byte {
	var b []byte
	var version byte
	event := 0
	if r.Flags&wire.NotTraffic != 0 {
		event = eventSize
	}
	if r.Flags&wire.IPv6 == 0 {
		version = 4
		dst, b = room(dst, SizeIPv4+event)
		copy(b[0:4], r.Src[12:])
		copy(b[4:8], r.Dst[12:])
		b = b[8:]
	} else {
		version = 6
		dst, b = room(dst, SizeIPv6+event)
		copy(b[0:16], r.Src[:])
		copy(b[16:32], r.Dst[:])
		b = b[32:]
	}
	if event != 0 {
		putEvent(b[tailSize:], r)
	}
	b = b[:tailSize:tailSize]
	binary.BigEndian.PutUint32(b[tailSrcPort:], uint32(r.SrcPort)<<16|uint32(r.DstPort))
	b[tailProto] = r.Proto
	b[tailVersion] = version
	b[tailDirection] = 0
	if r.Flags&wire.Outgoing != 0 {
		b[tailDirection] = 1
	}
	flags := r.Flags & flagBits
	if n > 1 {
		flags |= wire.Super
	}
	start := uint64(r.Time) / nsPerMsec
	last := start
	if end != r.Time {
		last = uint64(end) / nsPerMsec
	}
	binary.BigEndian.PutUint32(b[tailOctets:], r.Length)
	binary.BigEndian.PutUint32(b[tailPackets:], n)
	binary.BigEndian.PutUint64(b[tailStart:], start)
	binary.BigEndian.PutUint64(b[tailEnd:], last)
	binary.BigEndian.PutUint64(b[tailTime:], toNTP(uint64(r.Time)))
	binary.BigEndian.PutUint32(b[tailFlow:], r.Flow())
	var seq uint32
	var sent int64
	if flags&wire.MGENHeader != 0 {
		seq, sent = r.MGENSeq, r.MGENTime
	}
	binary.BigEndian.PutUint32(b[tailSeq:], seq)
	binary.BigEndian.PutUint64(b[tailMGENTime:], uint64(sent))
	binary.BigEndian.PutUint16(b[tailFlags:], uint16(flags))
	b[tailTTL] = r.TTL
	binary.BigEndian.PutUint64(b[tailDigest:], r.Digest)
	return dst
}

func putEvent(b []byte, r *wire.Record) {
	clear(b)
	if r.Flags&wire.Dropped != 0 {
		b[eventStatus] = statusDropped
		copy(b[eventReason:eventSize], r.Reason.String())
	}
}

func appendHost(dst []byte, r *wire.Record) ([]byte, bool) {
	stat := r.Stat()
	if stat == wire.Memory && r.Length > math.MaxUint16 {
		return dst, false
	}
	dst, b := room(dst, SizeHost)
	binary.BigEndian.PutUint32(b[0:], 0) // the scope, filled in by Writer
	binary.BigEndian.PutUint64(b[4:], uint64(r.Time)/nsPerMsec)
	binary.BigEndian.PutUint64(b[12:], toNTP(uint64(r.Time)))
	b[20] = byte(stat)
	binary.BigEndian.PutUint32(b[21:], r.Length)
	return dst, true
}

// room extends dst by n bytes and also returns the new bytes alone.
func room(dst []byte, n int) (all, b []byte) {
	at := len(dst)
	if cap(dst)-at >= n {
		dst = dst[:at+n]
	} else {
		dst = append(dst, make([]byte, n)...)
	}
	return dst, dst[at : at+n : at+n]
}

const (
	nsPerSec  = 1_000_000_000
	nsPerMsec = 1_000_000
	nsPerUsec = 1_000
	// ntpEpoch is 1970 in seconds since 1900, the epoch of NTP timestamps.
	ntpEpoch = 2_208_988_800
)

// toNTP converts t (nanoseconds since 1970) to the NTP format (RFC 7011, section
// 6.1.10). It rounds up so that fromNTP, which rounds down, returns t again.
func toNTP(t uint64) uint64 {
	sec := t / nsPerSec
	frac := ((t-sec*nsPerSec)<<32 + nsPerSec - 1) / nsPerSec
	return (sec+ntpEpoch)<<32 | frac
}

// fromNTP converts a time in NTP format, which wraps every 136 years, to the time
// nearest to around (seconds since 1970).
func fromNTP(v uint64, around int64) (ns int64, ok bool) {
	off := int32(uint32(v>>32) - ntpEpoch - uint32(around))
	sec := around + int64(off)
	if sec < 0 || sec > math.MaxInt64/nsPerSec {
		return 0, false
	}
	ns = sec*nsPerSec + int64((v&math.MaxUint32)*nsPerSec>>32)
	return max(ns, 0), ns >= 0 // the first second before 1970 reaches 0
}
