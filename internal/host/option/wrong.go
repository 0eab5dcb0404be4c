package option

import (
	"fmt"
	"strings"
)

// Wrong returns the error about a quoted piece of a user's input: what is wrong with
// it, and what is expected.
func Wrong(piece, problem, want string) error {
	const most = 60 // bytes of a piece, so that an error about 1 MB of input stays readable
	if len(piece) > most {
		piece = strings.ToValidUTF8(piece[:most], "") + "..."
	}
	return fmt.Errorf("%q: %s: want %s", piece, problem, want)
}

// OrList joins words for a sentence: a, b or c.
func OrList(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
