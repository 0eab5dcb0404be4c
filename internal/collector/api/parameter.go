package api

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Kind is the kind of a parameter's value.
type Kind int

// Kinds of parameters.
const (
	Text    Kind = iota
	Integer      // from Min to Max
	Address      // an IP address without a zone
	Word         // one of Words
)

// Parameter is a parameter of an endpoint.
type Parameter struct {
	Name     string
	Meaning  string // one sentence
	Kind     Kind
	Min, Max int64
	Words    []string
	Pattern  string // of a Text, a regular expression; "" matches any
	Want     string // what a value must be, for errors; "" derives it from the other fields
	Default  any    // an int64 for an Integer, a string for others; nil if none
	Required bool
	Repeated bool // may be given several times
	InPath   bool // part of the path
}

// Values are the parameters of a request. They have been checked against their
// Parameter.
type Values struct {
	given url.Values
	known []Parameter
}

// Has reports whether a parameter was given.
func (v Values) Has(name string) bool { return v.given.Has(name) }

// Text returns a parameter's value, its default, or "".
func (v Values) Text(name string) string {
	if v.Has(name) {
		return v.given.Get(name)
	}
	i := slices.IndexFunc(v.known, func(p Parameter) bool { return p.Name == name })
	if i < 0 {
		panic("api: no parameter " + name)
	}
	if v.known[i].Default == nil {
		return ""
	}
	return fmt.Sprint(v.known[i].Default)
}

// All returns the values of a parameter that may be repeated.
func (v Values) All(name string) []string { return v.given[name] }

// Int returns a parameter's number, its default, or 0.
func (v Values) Int(name string) int64 {
	n, _ := strconv.ParseInt(v.Text(name), 10, 64) // already checked; "" is 0
	return n
}

// Addr returns a parameter's address, or an invalid one.
func (v Values) Addr(name string) netip.Addr {
	a, _ := netip.ParseAddr(v.Text(name)) // already checked
	return a.Unmap()
}

// values returns the parameters of a request, or an error that names what is wrong.
func (e *Endpoint) values(r *http.Request) (Values, error) {
	given, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Values{}, fmt.Errorf("the parameters cannot be read: %w", err)
	}
	return e.check(given, r.PathValue)
}

// check rejects parameters that the endpoint does not have, that are given twice, or
// that have an invalid value, because a misspelled one would silently change the
// response. Parameters in the path are added to given.
func (e *Endpoint) check(given url.Values, inPath func(name string) string) (Values, error) {
	var names []string
	for _, p := range e.Parameters {
		if !p.InPath {
			names = append(names, p.Name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch i := slices.IndexFunc(e.Parameters, func(p Parameter) bool { return p.Name == name && !p.InPath }); {
		case i < 0:
			return Values{}, unknown(name, names)
		case len(given[name]) > 1 && !e.Parameters[i].Repeated:
			return Values{}, fmt.Errorf("parameter %q is given %d times", name, len(given[name]))
		}
	}
	for i := range e.Parameters {
		p := &e.Parameters[i]
		if p.InPath {
			given.Set(p.Name, inPath(p.Name))
		}
		if err := p.check(given[p.Name]); err != nil {
			return Values{}, err
		}
	}
	return Values{given, e.Parameters}, nil
}

func unknown(name string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("parameter %.40q: this address takes none", name)
	}
	text := fmt.Sprintf("parameter %.40q: this address takes only %s", name, strings.Join(names, ", "))
	if near := option.NearestWord(name, names); near != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	return errors.New(text)
}

func (p *Parameter) check(values []string) error {
	if len(values) == 0 && p.Required {
		return fmt.Errorf("parameter %q is missing: want %s", p.Name, p.want())
	}
	for _, text := range values {
		if !p.valid(text) {
			return fmt.Errorf("%s=%.40q: want %s", p.Name, text, p.want())
		}
	}
	return nil
}

func (p *Parameter) valid(text string) bool {
	switch p.Kind {
	case Integer:
		n, err := strconv.ParseInt(text, 10, 64)
		return err == nil && n >= p.Min && n <= p.Max
	case Address:
		a, err := netip.ParseAddr(text)
		return err == nil && a.Zone() == ""
	case Word:
		return slices.Contains(p.Words, text)
	}
	matches, err := regexp.MatchString(p.Pattern, text)
	return err == nil && matches
}

func (p *Parameter) want() string {
	if p.Want != "" {
		return p.Want
	}
	switch p.Kind {
	case Integer:
		return fmt.Sprintf("a number from %d to %d", p.Min, p.Max)
	case Address:
		return "an IP address"
	case Word:
		return option.OrList(p.Words)
	}
	return p.Meaning
}
