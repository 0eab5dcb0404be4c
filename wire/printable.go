package wire

import (
	"strings"
	"unicode"
)

// Printable returns s with each character that a terminal might interpret, or that
// changes how others are displayed, replaced by a question mark: control characters
// (Unicode category Cc, which includes ESC and CSI), format characters (Cf) such as
// those that change the writing direction, line and paragraph separators, and bytes
// that are not UTF-8. The result is never longer than s. Names received from other
// machines must pass through Printable before they are displayed.
func Printable(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '?'
		}
		return r
	}, s)
}

func unprintable(r rune) bool {
	return r == unicode.ReplacementChar || r >= 0x7f && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) || r < ' '
}
