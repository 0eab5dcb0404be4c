package collector

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"unicode"
)

// This file parses lines of a collector.conf as the C program does: numbers with
// atoi(3), addresses with inet_aton(3), and fields with strtok(3). It does not have
// that program's limits: 31 characters per line, 3 per label, 64 flows.

// readAsC adds what the C program makes of an invalid line, and returns a description
// of that; "" if the C program skips the line.
func (p *parser) readAsC(text string) string {
	if strings.Contains(text, "://") {
		return "" // our own syntax, but invalid
	}
	if number, rest, ok := strings.Cut(text, "="); ok {
		flow, ok := flowAsC(number, rest)
		if !ok {
			return ""
		}
		flow.Line = p.line
		p.appendFlow(flow)
		if flow.First > flow.Last {
			return fmt.Sprintf("read as %v, which matches nothing", flow)
		}
		return fmt.Sprintf("read as %v", flow)
	}
	host, ok := hostAsC(text)
	if !ok {
		return ""
	}
	host.Line = p.line
	if p.appendHost(host) != nil {
		return ""
	}
	return fmt.Sprintf("read as %v", host)
}

// flowAsC parses number=rest. The C program has 16 bits for a flow's number and a port,
// and ignores flow number 0.
func flowAsC(number, rest string) (f Flow, ok bool) {
	if span, mgen := strings.CutPrefix(rest, "M"); mgen {
		f.Kind, rest = MGEN, span
	}
	f.ID = uint32(uint16(atol(number)))
	f.First = uint32(atol(rest))
	f.Last = f.First
	if _, end, isRange := strings.Cut(rest, "-"); isRange {
		f.Last = uint32(atol(end))
	}
	if f.ID == 0 || f.First == 0 || f.Last == 0 {
		return f, false
	}
	if f.Kind == Port {
		// Port 0 never matches there.
		f.First, f.Last = max(1, f.First&math.MaxUint16), f.Last&math.MaxUint16
	}
	if f.Last == 0 {
		f.First, f.Last = 2, 1
	}
	return f, true
}

// hostAsC parses label:address:port, where the port ends at the first character that is
// not a digit. The label may have blanks, but no characters that affect a terminal.
func hostAsC(text string) (h Host, ok bool) {
	label, rest, _ := strings.Cut(strings.TrimLeft(text, ":"), ":")
	address, port, _ := strings.Cut(strings.TrimLeft(rest, ":"), ":")
	h.Label, h.Port = strings.TrimSpace(label), uint16(atol(port))
	a, ok := inetAton(address)
	h.Name = a.String()
	return h, ok && h.Port != 0 && h.Label != "" && !strings.ContainsFunc(label, notPrinted)
}

func notPrinted(r rune) bool {
	return r != ' ' && !unicode.IsGraphic(r) || r == unicode.ReplacementChar
}

// atol returns the number that text begins with, after white space and a sign, or 0 if
// there is none; numbers out of range are clamped.
func atol(text string) int64 {
	text = strings.TrimLeft(text, " \t\v\f\r\n")
	negative := strings.HasPrefix(text, "-")
	if negative || strings.HasPrefix(text, "+") {
		text = text[1:]
	}
	n := int64(0)
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			break
		}
		digit := int64(c - '0')
		if n > (math.MaxInt64-digit)/10 {
			n = math.MaxInt64
			if negative {
				return math.MinInt64
			}
			return n
		}
		n = 10*n + digit
	}
	if negative {
		return -n
	}
	return n
}

// inetAton parses an IPv4 address of one to four numbers, each decimal, octal (010), or
// hexadecimal (0xa), of which the last fills the remaining bits. Anything may follow
// after white space.
func inetAton(text string) (netip.Addr, bool) {
	if i := strings.IndexAny(text, " \t\v\f\r\n"); i >= 0 {
		text = text[:i]
	}
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	sum := uint64(0)
	for i, part := range parts {
		n, ok := strtoul(part)
		bits := 8
		if i == len(parts)-1 {
			bits = 8 * (5 - len(parts))
		}
		if !ok || n >= 1<<bits {
			return netip.Addr{}, false
		}
		sum = sum<<bits | n
	}
	return netip.AddrFrom4([4]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)}), true
}

// strtoul parses a whole number of at most 32 bits in the base that its prefix
// indicates, as in C.
func strtoul(text string) (n uint64, ok bool) {
	base := uint64(10)
	if strings.HasPrefix(text, "0x") || strings.HasPrefix(text, "0X") {
		base, text = 16, text[2:]
	} else if strings.HasPrefix(text, "0") {
		base = 8
	}
	for _, c := range []byte(text) {
		digit := uint64(strings.IndexByte("0123456789abcdef", c|0x20))
		if c <= '9' {
			digit = uint64(c) - '0'
		}
		if digit >= base || n > math.MaxUint32 {
			return 0, false
		}
		n = n*base + digit
	}
	return n, text != ""
}
