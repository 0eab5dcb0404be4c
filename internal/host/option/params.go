package option

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Param is a parameter of a URL, or of an option such as -detail.
type Param struct {
	Key   string
	Value string // name of the value in the help: FILE, 1-255, packet|1s
	Help  string
	set   func(value string) error
}

// Params are the parameters that a URL may have.
type Params []Param

// Func returns a parameter that is parsed by set, whose errors say what is expected.
func Func(key, value, help string, set func(value string) error) Param {
	return Param{key, value, help, set}
}

// Text returns a parameter that accepts any text.
func Text(key, value, help string, p *string) Param {
	return Func(key, value, help, func(text string) error { *p = text; return nil })
}

// OneOf returns a parameter that accepts one of some words.
func OneOf(key, help string, p *string, words ...string) Param {
	return Func(key, strings.Join(words, "|"), help, func(text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("want %s", OrList(words))
		}
		*p = text
		return nil
	})
}

// Switch returns a parameter that accepts two words, the second of which sets p to
// true.
func Switch(key, help string, p *bool, off, on string) Param {
	var word string
	one := OneOf(key, help, &word, off, on)
	set := one.set
	one.set = func(text string) error {
		err := set(text)
		*p = word == on
		return err
	}
	return one
}

// Number returns a parameter that accepts whole numbers from low to high.
func Number[T ~int | ~int64 | ~uint16 | ~uint32](key, help string, p *T, low, high T) Param {
	return Func(key, "NUMBER", help, func(text string) error {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil || n < uint64(low) || n > uint64(high) {
			return fmt.Errorf("want a number from %d to %d", low, high)
		}
		*p = T(n)
		return nil
	})
}

// Size returns a parameter that accepts a number of bytes.
func Size(key, help string, p *int64, least int64) Param {
	return Func(key, "SIZE", help, func(text string) error {
		n, err := ParseSize(text)
		if err == nil && n < least {
			err = fmt.Errorf("want at least %d bytes", least)
		}
		*p = n
		return err
	})
}

// Memory returns a Size parameter whose default unit is MiB.
func Memory(key, help string, p *int64, least int64) Param {
	size := Size(key, help, p, least)
	return Func(key, "MIB", help, func(text string) error {
		if IsDigits(text) {
			text += "MiB"
		}
		if size.set(text) != nil {
			return fmt.Errorf("want MiB, or a size such as 100MB, at least %d MiB", least>>20)
		}
		return nil
	})
}

// Duration returns a parameter that accepts times from least to most.
func Duration(key, help string, p *time.Duration, least, most time.Duration) Param {
	return Func(key, "TIME", help, func(text string) error {
		d, err := ParseDuration(text)
		if err == nil && (d < least || d > most) {
			err = fmt.Errorf("want a time from %s to %s, such as 30s", short(least), short(most))
		}
		*p = d
		return err
	})
}

// short formats a time without trailing zeros: 24h for 24h0m0s.
func short(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// Secret returns a parameter that names a file with a password.
func Secret(key, help string, p *string) Param {
	return Func(key, "FILE", help, func(text string) (err error) {
		*p, err = ReadSecret(text)
		return err
	})
}

// Parse parses the part of a URL after its question mark: KEY=VALUE pairs joined by &,
// each key at most once, with %XX for characters that have a meaning in URLs.
func (p Params) Parse(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("not parameters: want key=value pairs joined by &, and %XX for what means something else in a URL")
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		v := values[key]
		switch {
		case p.find(key) == nil:
			return p.unknown(key)
		case len(v) > 1:
			return fmt.Errorf("parameter %q: given %d times: want one value", key, len(v))
		case v[0] == "":
			return fmt.Errorf("parameter %q: empty: want one value", key)
		}
		if err := p.Set(key, v[0]); err != nil {
			return err
		}
	}
	return nil
}

// Set sets one parameter. Its errors name the parameter.
func (p Params) Set(key, value string) error {
	one := p.find(key)
	if one == nil {
		return p.unknown(key)
	}
	if err := one.set(value); err != nil {
		return fmt.Errorf("%s=%s: %w", key, value, err)
	}
	return nil
}

func (p Params) find(key string) *Param {
	i := slices.IndexFunc(p, func(one Param) bool { return one.Key == key })
	if i < 0 {
		return nil
	}
	return &p[i]
}

func (p Params) unknown(key string) error {
	if len(p) == 0 {
		return fmt.Errorf("unknown parameter %q: want none", key)
	}
	var keys []string
	for _, one := range p {
		keys = append(keys, one.Key)
	}
	if meant := NearestWord(key, keys); meant != "" {
		return fmt.Errorf("unknown parameter %q: did you mean %s?", key, meant)
	}
	return fmt.Errorf("unknown parameter %q: want %s", key, OrList(keys))
}

// NearestWord returns the word that text most likely stands for, or "" if none is
// similar.
func NearestWord(text string, words []string) (best string) {
	distance := limit(text) + 1
	for _, word := range words {
		if d := edits(strings.ToLower(text), strings.ToLower(word)); d < distance {
			best, distance = word, d
		}
	}
	return best
}
