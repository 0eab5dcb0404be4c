// Package screen is the collector's live view on a terminal: its appearance (View) and
// its output (Terminal). It counts nothing and knows nothing about agents; it is told
// once a second what to display.
package screen

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Control sequences, ECMA-48 and xterm's private modes.
const (
	enter     = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J" // alternate screen, no cursor, no wrapping
	leave     = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
	syncBegin = "\x1b[?2026h" // terminals that support it display the frame at once, others ignore it
	syncEnd   = "\x1b[?2026l"
	home      = "\x1b[H"
	eraseLine = "\x1b[K"
	eraseRest = "\x1b[J"
)

// writeTime is how long a frame may take; the next one follows in any case.
const writeTime = 100 * time.Millisecond

// Terminal is a terminal that displays full-screen frames, from Open to Close.
type Terminal struct {
	mu    sync.Mutex
	f     *os.File
	saved *unix.Termios // settings before Open
	open  bool
}

// CanDraw reports whether f is a terminal that supports control sequences.
func CanDraw(f *os.File) bool {
	name := os.Getenv("TERM")
	return name != "" && name != "dumb" && term.IsTerminal(int(f.Fd()))
}

// Open takes over the terminal f: alternate screen, no cursor, no echo of typed keys. f
// should be non-blocking, so that a terminal that accepts no output (a stuck remote
// shell) blocks nobody.
func Open(f *os.File) (*Terminal, error) {
	t := &Terminal{f: f}
	if err := t.Resume(); err != nil {
		return nil, err
	}
	return t, nil
}

// Resume takes over the terminal again after Close.
func (t *Terminal) Resume() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open {
		return nil
	}
	err := t.control(func(fd int) error {
		old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err != nil {
			return err
		}
		quiet := *old
		quiet.Lflag &^= unix.ECHO | unix.ICANON // keys arrive immediately, see ReadKeys
		quiet.Cc[unix.VMIN], quiet.Cc[unix.VTIME] = 1, 0
		quiet.Iflag &^= unix.IXON // Ctrl-S would stop the terminal, and prevent Close from restoring it
		t.saved = old
		return unix.IoctlSetTermios(fd, unix.TCSETS, &quiet)
	})
	if err != nil {
		return fmt.Errorf("cannot set up the terminal: %w", err)
	}
	t.open = true
	return t.write([]byte(enter))
}

// Close restores the terminal. It may be called twice, and concurrently.
func (t *Terminal) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open {
		return nil
	}
	t.open = false
	err := t.write([]byte(leave))
	// TCSETSF discards what was typed in the meantime, because it was not meant for the
	// shell.
	restore := func(fd int) error { return unix.IoctlSetTermios(fd, unix.TCSETSF, t.saved) }
	if ctlErr := t.control(restore); err == nil {
		err = ctlErr
	}
	return err
}

// Size returns the terminal's size in character cells; 80 x 24 if it is unknown.
func (t *Terminal) Size() (width, height int) {
	width, height = 80, 24
	_ = t.control(func(fd int) error {
		ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err == nil && ws.Col > 0 && ws.Row > 0 {
			width, height = int(ws.Col), int(ws.Row)
		}
		return err
	})
	return width, height
}

// Draw displays a frame, whose lines are separated by newlines. Drawing on a closed
// terminal does nothing and is not an error.
func (t *Terminal) Draw(frame []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open {
		return nil
	}
	out := make([]byte, 0, len(frame)+256)
	out = append(out, syncBegin+home...)
	for i, line := range bytes.Split(frame, []byte("\n")) {
		if i > 0 {
			out = append(out, "\r\n"...)
		}
		out = append(out, line...)
		out = append(out, eraseLine...)
	}
	return t.write(append(out, eraseRest+syncEnd...))
}

// write gives up after writeTime, which is not an error.
func (t *Terminal) write(b []byte) error {
	_ = t.f.SetWriteDeadline(time.Now().Add(writeTime)) // some terminals do not support it
	_, err := t.f.Write(b)
	if os.IsTimeout(err) {
		return nil
	}
	return err
}

// control calls f with the terminal's descriptor, without making it blocking.
func (t *Terminal) control(f func(fd int) error) error {
	conn, err := t.f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := conn.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}
