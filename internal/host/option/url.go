package option

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// URL is where something is, as users write it everywhere:
//
//	SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/PATH][?KEY=VALUE[&...]]
//
// Whatever would mean something else is written as %XX.
type URL struct {
	Scheme  string
	Servers []Server // at least one
	Path    string   // without the slash in front
	Query   string   // see Params
}

// Server is one of a URL's. Each may have its own user, or repeat the scheme.
type Server struct {
	User *url.Userinfo // nil: none is given
	Host string        // a name or an address, without brackets
	Port uint16        // 0: none is given
}

// CutURL splits a URL at its scheme's colon, which is not in rest, and its question mark.
func CutURL(text string) (scheme, rest, query string) {
	text, query, _ = strings.Cut(text, "?")
	scheme, rest, _ = strings.Cut(text, ":")
	return scheme, rest, query
}

// ParseURL reads a URL. Errors do not show users and passwords.
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
	if err != nil { // which would show it
		return nil, fmt.Errorf("not a user or password: want %%XX for what means something else in a URL")
	}
	if !given {
		return url.User(name), nil
	}
	return url.UserPassword(name, password), nil
}

// Address is for dialling: HOST:PORT, with this port if none is given.
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
