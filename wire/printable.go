package wire

import (
	"strings"
	"unicode"
)

// Printable returns s, never longer, with a question mark for each character that a
// terminal might obey or that changes how others are shown: control characters
// (Unicode category Cc, which has ESC and CSI), format characters (Cf) such as those
// that change the direction of writing, line and paragraph separators, and bytes that
// are not UTF-8. Names that come from other machines pass through it before anybody
// prints them.
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
