// Package option contains the command-line parsing that both programs share.
package option

import (
	"errors"
	"flag"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// undefined is the prefix of the flag package's error for an unknown flag; the name
// follows.
const undefined = "flag provided but not defined: -"

// Explain rewords err, which flags.Parse returned, for users. For an unknown flag it
// suggests the most similar one, if there is one. Other errors, such as flag.ErrHelp,
// are returned as they are, but without passwords.
func Explain(flags *flag.FlagSet, err error) error {
	if err == nil {
		return nil
	}
	name, ok := strings.CutPrefix(err.Error(), undefined)
	if !ok {
		return withoutSecrets(err)
	}
	if meant := Nearest(flags, name); meant != "" {
		return fmt.Errorf("unknown flag -%s: did you mean -%s?", name, meant)
	}
	return fmt.Errorf("unknown flag -%s", name)
}

// withoutSecrets returns err without the password of a URL quoted in it: invalid value
// "nats://ann:sesame@a" for flag -export: ...
func withoutSecrets(err error) error {
	const invalid = "invalid value "
	rest, ok := strings.CutPrefix(err.Error(), invalid)
	if !ok {
		return err
	}
	quoted, bad := strconv.QuotedPrefix(rest)
	value, _ := strconv.Unquote(quoted)
	if bad != nil || !strings.Contains(value, "://") {
		return err
	}
	return errors.New(invalid + strconv.Quote(Redact(value)) + rest[len(quoted):])
}

// Nearest returns what a user most likely meant by the flag "-name", which is not in
// flags: the name of a flag, without its dash, or "" if none is similar. For a value
// written without a space ("-p7074") it returns both ("p 7074").
func Nearest(flags *flag.FlagSet, name string) string {
	if meant := longForm(flags, name); meant != "" {
		return meant
	}
	best, distance := "", limit(name)+1
	flags.VisitAll(func(f *flag.Flag) {
		known := f.Name
		if len(known) == 1 && len(name) > 1 { // one letter is similar to any other
			known = longName(f)
		}
		d := edits(strings.ToLower(name), strings.ToLower(known))
		if d > 0 && (known == "" || len(name) == 1) {
			return
		}
		if d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		best = beginning(flags, name)
	}
	if best == "" {
		best = glued(flags, name)
	}
	return best
}

// limit returns the maximum edit distance of a suggestion.
func limit(name string) int { return (len(name) + 2) / 4 }

// longForm returns the one-letter flag whose value has this name in its usage: -i for
// "interface".
func longForm(flags *flag.FlagSet, name string) (found string) {
	flags.VisitAll(func(f *flag.Flag) {
		if len(f.Name) == 1 && longName(f) == strings.ToLower(name) && found == "" {
			found = f.Name
		}
	})
	return found
}

// longName returns the name of a flag's value in its usage, or "".
func longName(f *flag.Flag) string {
	if f.Usage == "" {
		return ""
	}
	value, _ := flag.UnquoteUsage(f)
	return value
}

// beginning returns the only flag that begins with name, or "".
func beginning(flags *flag.FlagSet, name string) string {
	var all []string
	flags.VisitAll(func(f *flag.Flag) {
		if len(name) > 1 && strings.HasPrefix(f.Name, strings.ToLower(name)) {
			all = append(all, f.Name)
		}
	})
	if len(all) != 1 {
		return ""
	}
	return all[0]
}

// glued separates a one-letter flag from a value that contains a digit or punctuation.
func glued(flags *flag.FlagSet, name string) string {
	if len(name) < 2 || !strings.ContainsAny(name[1:], "0123456789./:_-") {
		return ""
	}
	f := flags.Lookup(name[:1])
	if f == nil || isBool(f) {
		return ""
	}
	return name[:1] + " " + name[1:]
}

func isBool(f *flag.Flag) bool {
	b, ok := f.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// edits returns the number of letters to insert, delete, replace, or swap with a
// neighbor to turn a into b (optimal string alignment distance).
func edits(a, b string) int {
	var before []int // the row before last
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			replace := last[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[j] = slices.Min([]int{replace, last[j] + 1, row[j-1] + 1})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
