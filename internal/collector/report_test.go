package collector

import (
	"strings"
	"testing"
)

// Names and words of other machines must not steer the terminal.
func TestPrinterKeepsControlCharacters(t *testing.T) {
	var b strings.Builder
	newPrinter(&b).printf("%s: new\n  %s", "evil\x1b[2J\x07", "\u009b31mred")
	if want := Prefix + "evil?[2J?: new\n  ?31mred\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
