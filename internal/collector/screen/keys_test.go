package screen

import (
	"slices"
	"testing"
)

func TestKeys(t *testing.T) {
	for text, want := range map[string][]Key{
		"q":                     {'q'},
		"Q +":                   {'q', ' ', '+'},
		"\x1b[A\x1b[B\x1bOC":    {KeyUp, KeyDown, KeyRight},
		"\x1b[5~x\x1b[6~":       {KeyPageUp, 'x', KeyPageDown},
		"\x1b[1;5Cn":            {'n'}, // with Ctrl: not known
		"\x1b":                  nil,
		"\x1b[":                 nil,
		"\x1b[12":               nil,
		"\x1bx":                 {'x'},
		"\x1b[200~a\x1b[201~":   {'a'},
		"\x1b\x1b[D":            {KeyLeft},
		"\x1b[H\x1b[F\x1b[4~\n": {KeyHome, KeyEnd, KeyEnd, '\n'},
		"\xff":                  {0xff},
		"\x1b[\xff":             nil,
	} {
		if got := keys([]byte(text)); !slices.Equal(got, want) {
			t.Errorf("%q: keys %x, want %x", text, got, want)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte("\x1b[1;5Cn\x1bOA"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := keys(b); len(got) > len(b) {
			t.Errorf("%q: %d keys", b, len(got))
		}
	})
}
