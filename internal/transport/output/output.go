// Package output lists where a program can send records: the kinds of URLs that -export
// takes. Each kind registers itself, in a file of its own, with what the help says of it.
package output

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pcapper/pcapper/internal/host/option"
)

// Kind is one kind of output. T is what its program makes of a URL.
type Kind[T any] struct {
	Schemes []string // of its URLs
	Form    string   // how the help writes such a URL: file:PATH
	Help    string   // a line about it
	Params  option.Params
	// New reads a URL. Errors do not repeat it, as it may have a password.
	New func(url string) (T, error)
	// Elsewhere is where there is such an output, if New is nil: this program, or this
	// build of it, has none.
	Elsewhere string
}

// Registry has a program's kinds of outputs. Kinds are registered by init functions; a kind
// with New takes the place of one with the same schemes that has only Elsewhere.
type Registry[T any] struct{ kinds []Kind[T] }

// Register adds a kind. It panics if there is one with a scheme of it already.
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

// New reads a URL of any kind.
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

// All returns the kinds by their schemes, first those that this program has.
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

// wrap writes text in lines.
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
