package wire

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"strconv"
)

// MaxLine is the most bytes that AppendLine appends.
const MaxLine = 20 + 1 + 6 + 1 + 2*(41+1+5+1) + 10 + 1 + 10 + 1 + 3 + 1

// AppendLine appends r's log line, newline included, to dst. Every record has
// a line: IPv6 addresses stand in brackets, lengths are whole, times before
// 1970 have a minus sign.
func AppendLine(dst []byte, r *Record) []byte {
	dst = appendTime(dst, r.Time)
	dst = append(dst, ':')
	v6 := r.Flags&IPv6 != 0
	dst = appendAddr(dst, &r.Src, v6)
	dst = append(dst, ':')
	dst = appendUint(dst, uint32(r.SrcPort))
	dst = append(dst, ':')
	dst = appendAddr(dst, &r.Dst, v6)
	dst = append(dst, ':')
	dst = appendUint(dst, uint32(r.DstPort))
	dst = append(dst, ':')
	dst = appendUint(dst, r.Length)
	dst = append(dst, ':')
	dst = appendUint(dst, r.Flow())
	dst = append(dst, ':')
	dst = appendUint(dst, uint32(r.Proto))
	return append(dst, '\n')
}

// appendTime appends t (nanoseconds since the epoch) as seconds with exactly
// six decimals, cut rather than rounded as time stamps are.
func appendTime(dst []byte, t int64) []byte {
	u := uint64(t)
	if t < 0 {
		dst = append(dst, '-')
		u = -u
	}
	sec := u / nsPerSec
	usec := uint32((u - sec*nsPerSec) / nsPerUsec)
	if sec <= math.MaxUint32 {
		dst = appendUint(dst, uint32(sec))
	} else {
		dst = strconv.AppendUint(dst, sec, 10)
	}
	hi, mid := usec/10_000, usec/100%100
	lo := usec % 100
	return append(dst, '.',
		digits[2*hi], digits[2*hi+1], digits[2*mid], digits[2*mid+1], digits[2*lo], digits[2*lo+1])
}

func appendAddr(dst []byte, a *[16]byte, v6 bool) []byte {
	if v6 {
		dst = append(dst, '[')
		dst = netip.AddrFrom16(*a).AppendTo(dst)
		return append(dst, ']')
	}
	dst = append(dst, octets[a[12]].text[:octets[a[12]].n]...)
	dst = append(dst, '.')
	dst = append(dst, octets[a[13]].text[:octets[a[13]].n]...)
	dst = append(dst, '.')
	dst = append(dst, octets[a[14]].text[:octets[a[14]].n]...)
	dst = append(dst, '.')
	return append(dst, octets[a[15]].text[:octets[a[15]].n]...)
}

// appendUint writes v in base 10, two digits at a time.
func appendUint(dst []byte, v uint32) []byte {
	var b [10]byte
	i := len(b)
	for v >= 100 {
		q := v / 100
		d := 2 * (v - 100*q)
		v = q
		i -= 2
		b[i+1] = digits[d+1]
		b[i] = digits[d]
	}
	if v >= 10 {
		i -= 2
		b[i+1] = digits[2*v+1]
		b[i] = digits[2*v]
	} else {
		i--
		b[i] = byte('0' + v)
	}
	return append(dst, b[i:]...)
}

// digits holds the numbers 00 to 99; octets the numbers 0 to 255 as text.
var (
	digits [200]byte
	octets [256]struct {
		text [3]byte
		n    uint8
	}
)

func init() {
	for i := range 100 {
		digits[2*i], digits[2*i+1] = byte('0'+i/10), byte('0'+i%10)
	}
	for i := range octets {
		octets[i].n = uint8(copy(octets[i].text[:], strconv.Itoa(i)))
	}
}

// ParseLine reads one log line (with or without its newline) into r. The error
// says which field is wrong. Like DecodeBinary it takes a flow ID other than 0
// for MGEN's.
func ParseLine(line []byte, r *Record) error {
	line = bytes.TrimRight(line, "\r\n")
	p := lineParser{rest: line}
	rec := Record{Time: p.time()}
	src, dst := p.addr("source address"), netip.Addr{}
	rec.SrcPort = uint16(p.uint("source port", 16))
	dst = p.addr("destination address")
	rec.DstPort = uint16(p.uint("destination port", 16))
	rec.Length = uint32(p.uint("length", 32))
	rec.FlowID = uint32(p.uint("flow id", 32))
	rec.Proto = uint8(p.uint("protocol", 8))
	p.end()
	if p.err == nil && src.Is4() != dst.Is4() {
		p.err = fmt.Errorf("addresses of two IP versions")
	}
	if p.err != nil {
		return fmt.Errorf("wire: log line %q: %w", line, p.err)
	}
	rec.Src, rec.Dst = src.As16(), dst.As16()
	if !src.Is4() {
		rec.Flags |= IPv6
	}
	if rec.FlowID != 0 {
		rec.Flags |= MGEN
	}
	if rec.isHostStat() {
		rec.Flags = rec.Flags&^MGEN | HostStat
	}
	*r = rec
	return nil
}

// lineParser takes fields off the front of a log line until one is wrong.
type lineParser struct {
	rest []byte
	done bool // the last field had no colon behind it
	err  error
}

func (p *lineParser) field(name string) []byte {
	if p.err != nil {
		return nil
	}
	if p.done {
		p.err = fmt.Errorf("no %s", name)
		return nil
	}
	from := 0
	if len(p.rest) > 0 && p.rest[0] == '[' {
		from = bytes.IndexByte(p.rest, ']')
		if from < 0 {
			p.err = fmt.Errorf("%s: no closing bracket", name)
			return nil
		}
	}
	i := bytes.IndexByte(p.rest[from:], ':')
	if i < 0 {
		p.done = true
		return p.rest
	}
	f := p.rest[:from+i]
	p.rest = p.rest[from+i+1:]
	return f
}

func (p *lineParser) uint(name string, bits int) uint64 {
	f := p.field(name)
	if p.err != nil {
		return 0
	}
	v, err := strconv.ParseUint(string(f), 10, bits)
	if err != nil || f[0] == '+' {
		p.err = fmt.Errorf("%s %q: want a number of %d bits", name, f, bits)
	}
	return v
}

func (p *lineParser) addr(name string) netip.Addr {
	f := p.field(name)
	if p.err != nil {
		return netip.Addr{}
	}
	text := string(f)
	bracketed := len(text) > 1 && text[0] == '[' && text[len(text)-1] == ']'
	if bracketed {
		text = text[1 : len(text)-1]
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || bracketed == a.Is4() {
		p.err = fmt.Errorf("%s %q: want a dotted quad or an IPv6 address in brackets", name, f)
		return netip.Addr{}
	}
	return a
}

func (p *lineParser) time() int64 {
	f := p.field("time")
	if p.err != nil {
		return 0
	}
	text := string(f)
	neg := len(text) > 0 && text[0] == '-'
	if neg {
		text = text[1:]
	}
	dot := len(text) - 7
	if dot < 1 || text[dot] != '.' {
		p.err = fmt.Errorf("time %q: want seconds with six decimals", f)
		return 0
	}
	sec, err := strconv.ParseUint(text[:dot], 10, 63)
	usec, err2 := strconv.ParseUint(text[dot+1:], 10, 32)
	if err != nil || err2 != nil || sec > math.MaxInt64/nsPerSec-1 {
		p.err = fmt.Errorf("time %q: want seconds with six decimals", f)
		return 0
	}
	t := int64(sec)*nsPerSec + int64(usec)*nsPerUsec
	if neg {
		t = -t
	}
	return t
}

func (p *lineParser) end() {
	if p.err == nil && !p.done {
		p.err = fmt.Errorf("more than eight fields")
	}
}
