package bus

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

// A disk that stays full is told of once, however many files cannot be written;
// another cause is news.
func TestWriterSaysOnce(t *testing.T) {
	var said []string
	w := &Writer{conn: &Conn{say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }}}
	for i := range 50 {
		w.fail(fmt.Errorf("history: %w", &fs.PathError{Op: "write", Path: fmt.Sprintf("tmp/%d", i), Err: syscall.ENOSPC}))
	}
	w.fail(&fs.PathError{Op: "open", Path: "tmp/50", Err: syscall.EROFS})
	w.fail(errors.New("read-only file system"))
	if len(said) != 2 || !strings.Contains(said[0], "tmp/0") || !strings.Contains(said[1], "read-only") {
		t.Errorf("said %d times: %q", len(said), said)
	}
}
