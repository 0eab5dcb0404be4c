package option

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// URL is a location in the syntax that all options share:
//
//	SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PATH][?KEY=VALUE[&...]]
//
// Characters that have a meaning in the syntax are written as %XX.
type URL struct {
	Scheme  string
	Servers []Server // at least one
	Path    string   // without the leading slash
	Query   string   // see Params
}

// Server is one of a URL's servers. Each may have its own user, or repeat the scheme.
type Server struct {
	User *url.Userinfo // nil if none is given
	Host string        // a name or an address, without brackets
	Port uint16        // 0 if none is given
}

// CutURL splits a URL at the colon after its scheme, which is not part of rest, and at
// its question mark.
func CutURL(text string) (scheme, rest, query string) {
	text, query, _ = strings.Cut(text, "?")
	scheme, rest, _ = strings.Cut(text, ":")
	return scheme, rest, query
}

// ParseURL parses a URL. Its errors contain no users or passwords.
func ParseURL(text string) (*URL, error) {
	u := &URL{}
	var rest string
	u.Scheme, rest, u.Query = CutURL(text)
	rest, ok := strings.CutPrefix(rest, "//")
	if !ok {
		return nil, fmt.Errorf("not a URL: want SCHEME://HOST")
	}
	rest, path, _ := strings.Cut(rest, "/")
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, fmt.Errorf("%q: not a path: want %%XX for what means something else in a URL", path)
	}
	for part := range strings.SplitSeq(rest, ",") {
		s, err := parseServer(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		u.Servers = append(u.Servers, s)
	}
	return u, nil
}

func parseServer(text string) (s Server, err error) {
	address := text
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		if s.User, err = parseUser(text[:at]); err != nil {
			return s, err
		}
		address = text[at+1:]
	}
	if strings.LastIndexByte(address, ':') <= strings.LastIndexByte(address, ']') {
		s.Host, err = ParseHost(address)
		return s, err
	}
	s.Host, s.Port, err = ParseHostPort(address, 0)
	return s, err
}

func parseUser(text string) (*url.Userinfo, error) {
	name, password, given := strings.Cut(text, ":")
	name, err := url.PathUnescape(name)
	if err == nil {
		password, err = url.PathUnescape(password)
	}
	if err != nil { // which would contain the URL
		return nil, fmt.Errorf("not a user or password: want %%XX for what means something else in a URL")
	}
	if !given {
		return url.User(name), nil
	}
	return url.UserPassword(name, password), nil
}

// Address returns the address to connect to, HOST:PORT, with usual as the default port.
func (s Server) Address(usual uint16) string {
	return net.JoinHostPort(s.Host, strconv.Itoa(int(cmp.Or(s.Port, usual))))
}

// Redact returns a URL without users, passwords, and tokens.
func Redact(text string) string {
	text, query, asked := strings.Cut(text, "?")
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		scheme, rest = "", text
	}
	parts := strings.Split(rest, ",")
	for i, part := range parts {
		parts[i] = part[strings.LastIndexByte(part, '@')+1:]
	}
	text = strings.Join(parts, ",")
	if ok {
		text = scheme + "://" + text
	}
	if asked {
		text += "?" + query
	}
	return text
}
