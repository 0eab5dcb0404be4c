package collector

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
	"github.com/pcapper/pcapper/wire"
)

// NameFile is the contents of a file of host names. A nil NameFile has no names.
type NameFile struct {
	Addrs  map[netip.Addr]string // names of addresses
	Labels map[string]string     // names of agents, by label
}

// ReadNames reads the file called name. Each line has an address or an agent's label,
// white space, and a name; the rest is ignored, so /etc/hosts is such a file, see
// hosts(5). The error for invalid lines is a *ConfigError that lists all of them.
func ReadNames(name string) (*NameFile, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, cause(err))
	}
	return ParseNames(name, data)
}

// ParseNames parses data, the contents of the file called name.
func ParseNames(name string, data []byte) (*NameFile, error) {
	f := &NameFile{Addrs: make(map[netip.Addr]string), Labels: make(map[string]string)}
	errs := ConfigError{Name: name}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if err := f.parseLine(string(text)); err != nil {
			errs.add(fmt.Sprintf("%s:%d: %v", name, line, err))
		}
	}
	if errs.Total > 0 {
		return nil, &errs
	}
	return f, nil
}

func (f *NameFile) parseLine(text string) error {
	text, _, _ = strings.Cut(text, "#")
	fields := strings.Fields(text)
	switch len(fields) {
	case 0:
		return nil
	case 1:
		return wrong(fields[0], "no name", "an address or an agent's label, and a name behind it")
	}
	who, name := fields[0], wire.Printable(fields[1])
	if a, err := netip.ParseAddr(who); err == nil {
		a = a.WithZone("").Unmap()
		if _, ok := f.Addrs[a]; !ok { // the first wins, as in hosts(5)
			f.Addrs[a] = name
		}
		return nil
	}
	if option.IsDigits(strings.ReplaceAll(who, ".", "")) && strings.Contains(who, ".") {
		return wrong(who, "not a dotted quad", "four numbers from 0 to 255, without leading zeros")
	}
	if err := checkLabel(who); err != nil {
		return err
	}
	if _, ok := f.Labels[who]; !ok {
		f.Labels[who] = name
	}
	return nil
}

// Addr returns the name of an address, or "".
func (f *NameFile) Addr(a netip.Addr) string {
	if f == nil {
		return ""
	}
	return f.Addrs[a]
}

// Label returns the name of the agent with this label, or "".
func (f *NameFile) Label(label string) string {
	if f == nil {
		return ""
	}
	return f.Labels[label]
}
