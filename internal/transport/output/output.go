// Package output is a registry of the destinations to which a program can send records:
// the kinds of URLs that -export accepts. Each kind registers itself, in a file of its
// own, with its help text.
package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Kind is one kind of output. T is what its program parses a URL into.
type Kind[T any] struct {
	Schemes []string // of its URLs
	Form    string   // such a URL in the help: file:PATH
	Help    string   // one line of help
	Params  option.Params
	// New parses a URL. Its errors do not repeat the URL, because it may contain a
	// password.
	New func(url string) (T, error)
	// Elsewhere is set if New is nil, and says where such an output is available: this
	// program, or this build of it, does not have it.
	Elsewhere string
}

// Registry holds a program's kinds of outputs. Kinds are registered by init functions;
// a kind with New replaces one with the same schemes that only has Elsewhere.
type Registry[T any] struct{ kinds []Kind[T] }

// Register adds a kind. It panics if one of its schemes is already registered.
func (r *Registry[T]) Register(k Kind[T]) {
	for _, scheme := range k.Schemes {
		i := r.index(scheme)
		switch {
		case i < 0:
		case r.kinds[i].New == nil:
			r.kinds = slices.Delete(r.kinds, i, i+1)
		case k.New == nil:
			return
		default:
			panic("two outputs have the scheme " + scheme)
		}
	}
	r.kinds = append(r.kinds, k)
}

func (r *Registry[T]) index(scheme string) int {
	return slices.IndexFunc(r.kinds, func(k Kind[T]) bool { return slices.Contains(k.Schemes, scheme) })
}

// New parses a URL of any kind.
func (r *Registry[T]) New(url string) (out T, err error) {
	scheme, _, _ := option.CutURL(url)
	i := r.index(scheme)
	switch {
	case i < 0:
		return out, r.unknown(scheme)
	case r.kinds[i].New == nil:
		return out, fmt.Errorf("%s: is not in this program: %s", scheme, r.kinds[i].Elsewhere)
	}
	return r.kinds[i].New(url)
}

func (r *Registry[T]) unknown(scheme string) error {
	var schemes, forms []string
	for _, k := range r.All() {
		schemes = append(schemes, k.Schemes...)
		if k.New != nil {
			forms = append(forms, k.Form)
		}
	}
	if meant := option.NearestWord(scheme, schemes); meant != "" {
		return fmt.Errorf("unknown kind of export: did you mean %s:?", meant)
	}
	return fmt.Errorf("unknown kind of export: want %s", option.OrList(forms))
}

// All returns the kinds sorted by scheme, those that this program has first.
func (r *Registry[T]) All() []Kind[T] {
	return slices.SortedStableFunc(slices.Values(r.kinds), func(a, b Kind[T]) int {
		if (a.New == nil) != (b.New == nil) {
			if a.New == nil {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Schemes[0], b.Schemes[0])
	})
}

// Help describes all kinds with their parameters, in lines of at most this width.
func (r *Registry[T]) Help(indent string, width int) string {
	var b strings.Builder
	for _, k := range r.All() {
		fmt.Fprintf(&b, "%s%s\n", indent, k.Form)
		text := k.Help
		if k.New == nil {
			text += " (" + k.Elsewhere + ")"
		}
		for i, p := range k.Params {
			if i == 0 {
				text += "; after a ?, joined by &:"
			}
			text += " " + p.Key + "=" + p.Value
		}
		wrap(&b, indent+"    ", text, width)
	}
	return b.String()
}

// wrap writes text as wrapped lines.
func wrap(b *strings.Builder, indent, text string, width int) {
	line := indent
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == indent:
		case len(line)+1+len(word) > width:
			b.WriteString(line + "\n")
			line = indent
		default:
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
}
