package history

import (
	"fmt"
	"io/fs"
	"strings"
	"syscall"
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

// A disk that stays full is told of once, whichever files cannot be written.
func TestStoreSaysOnce(t *testing.T) {
	said := 0
	s := &Store{cfg: Config{Logf: func(string, ...any) { said++ }}}
	for i := range 50 {
		s.note(&fs.PathError{Op: "open", Path: fmt.Sprintf("tmp/%d", i), Err: syscall.ENOSPC})
	}
	if said != 1 {
		t.Errorf("said %d times", said)
	}
	s.note(nil)
	s.note(syscall.ENOSPC)
	if said != 2 {
		t.Errorf("said %d times after it had worked again", said)
	}
}
