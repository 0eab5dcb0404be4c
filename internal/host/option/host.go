package option

import (
	"net/netip"
	"strconv"
	"strings"
)

// ParseHost parses the host before a port: an IPv4 address, a host name, or an IPv6
// address in brackets, possibly with a zone. Addresses are returned without brackets.
//
// A name whose last label is a number in the sense of inet_aton(3) must be an address
// (RFC 1123, section 2.1): no name server is queried for 10.0.0.300.
func ParseHost(text string) (string, error) {
	const want = "a dotted quad, a host name, or an IPv6 address in brackets"
	if inner, ok := strings.CutPrefix(text, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		if !ok || err != nil || !a.Is6() || strings.ContainsFunc(a.Zone(), notInZone) {
			return "", Wrong(text, "not an IPv6 address", "one like [2001:db8::1]")
		}
		return a.String(), nil
	}
	switch {
	case text == "":
		return "", Wrong(text, "no host", want)
	case strings.Contains(text, ":"):
		return "", Wrong(text, "more than one colon in the host", want)
	}
	if last := text[strings.LastIndexByte(text, '.')+1:]; IsDigits(last) || isHex(last) {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return "", Wrong(text, "not a dotted quad", "four numbers from 0 to 255, without leading zeros")
		}
		return a.String(), nil
	}
	if !isHostName(text) {
		return "", Wrong(text, "not a host name", want)
	}
	return text, nil
}

// ParsePort parses a port number, 1 to 65535.
func ParsePort(text string) (uint16, error) {
	v, err := strconv.ParseUint(text, 10, 16)
	if err != nil || v == 0 || !IsDigits(text) {
		return 0, Wrong(text, "not a port", "a number from 1 to 65535")
	}
	return uint16(v), nil
}

// ParseHostPort parses HOST:PORT, or just HOST if usual, the default port, is not 0.
func ParseHostPort(text string, usual uint16) (host string, port uint16, err error) {
	i := strings.LastIndexByte(text, ':')
	switch {
	case i > strings.LastIndexByte(text, ']'):
		if host, err = ParseHost(strings.TrimSpace(text[:i])); err == nil {
			port, err = ParsePort(strings.TrimSpace(text[i+1:]))
		}
	case usual == 0:
		err = Wrong(text, "no port", "host:port")
	default:
		host, err = ParseHost(strings.TrimSpace(text))
		port = usual
	}
	if err != nil {
		return "", 0, err
	}
	return host, port, nil
}

func notInZone(r rune) bool { return r <= ' ' || r > '~' || r == ']' || r == '#' }

// isHex reports whether s is a hexadecimal number such as 0x7f, or the beginning of one.
func isHex(s string) bool {
	return len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') && strings.Trim(s[2:], "0123456789abcdefABCDEF") == ""
}

// IsDigits reports whether s is one or more of the digits 0 to 9.
func IsDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// isHostName accepts what RFC 1123 allows, and underscores, which are in use.
func isHostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		ends := part == "" || part[0] == '-' || part[len(part)-1] == '-'
		if ends || len(part) > 63 || strings.ContainsFunc(part, notInName) {
			return false
		}
	}
	return true
}

func notInName(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && !('0' <= r && r <= '9') && r != '-' && r != '_'
}
