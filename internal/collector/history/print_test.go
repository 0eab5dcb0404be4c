package history

import (
	"strings"
	"testing"
)

// A name in a file is printed without what a terminal obeys, in a column of its own.
func TestPrintedNames(t *testing.T) {
	for format, want := range map[string]string{
		"csv":  "\"a?[2J,\"\"b\"\"?\"",
		"json": "\"a?[2J,\\\"b\\\"?\"",
	} {
		p := newPrinter(&strings.Builder{}, format)
		if got := string(p.text(nil, "a\x1b[2J,\"b\"\n")); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}
