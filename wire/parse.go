package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// ParseLine parses one log line, with or without its newline (LF or CRLF), into r. It
// accepts exactly what AppendLine and the C agent write: no white space, signs, or
// leading zeros. On failure it returns an error that names the wrong field and leaves r
// unchanged. Parsing an IPv4 line does not allocate.
//
// A line holds less than a record: nanoseconds are cut off, and, as in DecodeBinary, a
// nonzero flow ID is taken to be MGEN's. IPv6 addresses are accepted in all of their
// forms (RFC 4291, section 2.2).
func ParseLine(line []byte, r *Record) error {
	if n := len(line) - 1; n >= 0 && line[n] == '\n' {
		line = line[:n]
		if n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
	}
	p := lineParser{rest: line}
	rec := Record{}
	rec.Time = p.time()
	v6 := p.addr(&rec.Src, "source address")
	rec.SrcPort = uint16(p.uint(math.MaxUint16, "source port"))
	if p.addr(&rec.Dst, "destination address") != v6 && p.err == nil {
		p.err = errVersions
	}
	rec.DstPort = uint16(p.uint(math.MaxUint16, "destination port"))
	rec.Length = p.uint(math.MaxUint32, "length")
	rec.FlowID = p.uint(math.MaxUint32, "flow id")
	rec.Proto = uint8(p.uint(math.MaxUint8, "protocol"))
	if p.err == nil && !p.done {
		p.err = errFields
	}
	if p.err != nil {
		return lineError(line, p.err)
	}
	if v6 {
		rec.Flags |= IPv6
	}
	if rec.FlowID != 0 {
		rec.Flags |= MGEN
	}
	if rec.Proto == ProtoHostStat && !v6 && rec.isHostStat() {
		rec.Flags = rec.Flags&^MGEN | HostStat
	}
	*r = rec
	return nil
}

var (
	errFields   = errors.New("more than eight fields")
	errVersions = errors.New("addresses of two IP versions")
)

// lineError returns an error that quotes the line, or the beginning of a long one.
func lineError(line []byte, err error) error {
	more := ""
	if len(line) > MaxLine {
		line, more = line[:MaxLine], "..."
	}
	return fmt.Errorf("wire: log line %q%s: %w", line, more, err)
}

// LineTime returns the time of a log line without parsing the rest, for finding a
// position in a log. It reports false if line does not begin with a time.
func LineTime(line []byte) (t int64, ok bool) {
	p := lineParser{rest: line}
	t = p.time()
	return t, p.err == nil && !p.done
}

// lineParser parses fields from the front of a line until one is wrong.
type lineParser struct {
	rest []byte
	done bool // the last field had no colon after it
	err  error
}

// uint parses a number up to limit and the colon after it.
func (p *lineParser) uint(limit uint64, name string) uint32 {
	if p.err != nil {
		return 0
	}
	b, v, i := p.rest, uint64(0), 0
	for i < len(b) && i < 11 { // one digit more than 32 bits can have
		d := b[i] - '0'
		if d > 9 {
			break
		}
		v = v*10 + uint64(d)
		i++
	}
	if i == 0 || v > limit || i > 1 && b[0] == '0' || !p.next(i) {
		p.wrong(b, name, "a number from 0 to %d", limit)
		return 0
	}
	return uint32(v)
}

// next advances past a field of n bytes and its colon. It reports false if something
// else follows the field, or if the line has already ended.
func (p *lineParser) next(n int) bool {
	switch {
	case p.done:
		return false
	case n == len(p.rest):
		p.rest, p.done = nil, true
		return true
	case p.rest[n] != ':':
		return false
	}
	p.rest = p.rest[n+1:]
	return true
}

// addr parses a dotted quad, or an IPv6 address in brackets.
func (p *lineParser) addr(a *[16]byte, name string) (v6 bool) {
	if p.err != nil {
		return false
	}
	b := p.rest
	if len(b) > 0 && b[0] == '[' {
		p.addr6(a, name)
		return true
	}
	quad, n := quad(b)
	if n == 0 || !p.next(n) {
		p.wrong(b, name, wantAddr)
		return false
	}
	*a = mapped(quad)
	return false
}

// quad parses the dotted quad at the beginning of b; n is its length, or 0 if there is
// none.
func quad(b []byte) (quad [4]byte, n int) {
	v, digits, dots := 0, 0, 0
	for ; n < len(b); n++ {
		d := b[n] - '0'
		if d <= 9 && digits < 3 && (digits == 0 || v > 0) { // no leading zeros
			v = v*10 + int(d)
			digits++
		} else if b[n] == '.' && digits > 0 && v <= 255 && dots < 3 {
			quad[dots] = byte(v)
			dots++
			v, digits = 0, 0
		} else {
			break
		}
	}
	if dots != 3 || digits == 0 || v > 255 {
		return quad, 0
	}
	quad[3] = byte(v)
	return quad, n
}

const wantAddr = "a dotted quad or an IPv6 address in brackets"

func (p *lineParser) addr6(a *[16]byte, name string) {
	b := p.rest
	end := bytes.IndexByte(b[:min(len(b), maxAddr6)], ']')
	if end < 0 {
		p.err = fmt.Errorf("%s: no closing bracket", name)
		return
	}
	addr, err := netip.ParseAddr(string(b[1:end]))
	if err != nil || addr.Is4() || addr.Zone() != "" || !p.next(end+1) {
		p.wrong(b, name, wantAddr)
		return
	}
	*a = addr.As16()
}

// maxAddr6 bounds the search for a closing bracket: the longest form of an address has
// 45 characters.
const maxAddr6 = 1 + 45 + 1

// maxTime is the highest second that fits in 64 bits of nanoseconds.
const maxTime = math.MaxInt64 / nsPerSec

// time parses seconds with exactly six decimals, and the colon after them.
func (p *lineParser) time() int64 {
	b, i := p.rest, 0
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		i = 1
	}
	first, sec := i, int64(0)
	for i < len(b) && i < first+10 {
		d := b[i] - '0'
		if d > 9 {
			break
		}
		sec = sec*10 + int64(d)
		i++
	}
	if i == first || i > first+1 && b[first] == '0' || len(b) < i+7 || b[i] != '.' {
		return p.wrongTime(b)
	}
	usec := int64(0)
	for _, c := range b[i+1 : i+7] {
		d := c - '0'
		if d > 9 {
			return p.wrongTime(b)
		}
		usec = usec*10 + int64(d)
	}
	if sec > maxTime || sec == maxTime && usec > math.MaxInt64%nsPerSec/nsPerUsec || !p.next(i+7) {
		return p.wrongTime(b)
	}
	t := sec*nsPerSec + usec*nsPerUsec
	if neg {
		t = -t
	}
	return t
}

func (p *lineParser) wrongTime(b []byte) int64 {
	p.wrong(b, "time", "seconds with six decimals")
	return 0
}

// wrong records what is wrong with the field at the beginning of b.
func (p *lineParser) wrong(b []byte, name, want string, args ...any) {
	if p.done {
		p.err = fmt.Errorf("no %s", name)
		return
	}
	from := 0
	if len(b) > 0 && b[0] == '[' {
		from = max(0, bytes.IndexByte(b, ']'))
	}
	if i := bytes.IndexByte(b[from:], ':'); i >= 0 {
		b = b[:from+i]
	}
	more := ""
	if len(b) > 60 {
		b, more = b[:60], "..."
	}
	p.err = fmt.Errorf("%s %q%s: want "+want, append([]any{name, b, more}, args...)...)
}
