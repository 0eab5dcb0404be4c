// Package screentest gives tests a terminal: a pseudo-terminal whose other
// side the test reads as a terminal emulator would.
package screentest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo-terminal.
type Terminal struct {
	// TTY is what a program takes for its terminal.
	TTY *os.File

	master *os.File
	mu     sync.Mutex
	output strings.Builder
	more   chan struct{} // gets a value when output has grown
}

// New opens a terminal of so many columns and rows and reads what is written
// to it until the test ends.
func New(t testing.TB, columns, rows int) *Terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &Terminal{master: master, more: make(chan struct{}, 1)}
	number := 0
	p.control(t, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	name := fmt.Sprintf("/dev/pts/%d", number)
	if p.TTY, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	p.Resize(t, columns, rows)
	done := make(chan struct{})
	go p.read(done)
	t.Cleanup(func() {
		p.TTY.Close()
		master.Close()
		<-done
	})
	return p
}

func (p *Terminal) control(t testing.TB, f func(fd int) error) {
	t.Helper()
	conn, err := p.master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if ctlErr := conn.Control(func(fd uintptr) { err = f(int(fd)) }); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}

// Resize sets the terminal's size. The test sends SIGWINCH itself: the kernel
// does so only for a controlling terminal.
func (p *Terminal) Resize(t testing.TB, columns, rows int) {
	t.Helper()
	size := &unix.Winsize{Col: uint16(columns), Row: uint16(rows)}
	p.control(t, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) })
}

// HangUp ends the terminal, as when its window is closed.
func (p *Terminal) HangUp() {
	p.TTY.Close()
	p.master.Close()
}

// Echoes reports whether the terminal shows what is typed.
func (p *Terminal) Echoes(t testing.TB) bool {
	t.Helper()
	echo := false
	p.control(t, func(fd int) error {
		settings, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		echo = err == nil && settings.Lflag&unix.ECHO != 0
		return err
	})
	return echo
}

func (p *Terminal) read(done chan<- struct{}) {
	defer close(done)
	buf := make([]byte, 4096)
	for {
		n, err := p.master.Read(buf)
		p.mu.Lock()
		p.output.Write(buf[:n])
		p.mu.Unlock()
		select {
		case p.more <- struct{}{}:
		default:
		}
		if err != nil {
			return // EIO once the TTY is closed
		}
	}
}

// Output is everything written to the terminal so far.
func (p *Terminal) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Expect waits until text is in what was written after the first skip bytes,
// and returns everything written so far.
func (p *Terminal) Expect(t testing.TB, skip int, text string) string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		if out := p.Output(); strings.Contains(out[min(skip, len(out)):], text) {
			return out
		}
		select {
		case <-p.more:
		case <-timeout:
			out := p.Output()
			t.Fatalf("no %q in the terminal's output, which ends with:\n%q", text, out[max(0, len(out)-2000):])
		}
	}
}

// Stop makes the terminal take nothing any more, like one whose connection is
// stuck.
func (p *Terminal) Stop(t testing.TB) {
	t.Helper()
	conn, err := p.TTY.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	stop := func(fd uintptr) { err = unix.IoctlSetInt(int(fd), unix.TCXONC, unix.TCOOFF) }
	if ctlErr := conn.Control(stop); ctlErr != nil || err != nil {
		t.Fatal(ctlErr, err)
	}
}

// Type sends keys to the terminal. Control keys act as signals on the program
// whose controlling terminal it is.
func (p *Terminal) Type(t testing.TB, keys string) {
	t.Helper()
	if _, err := p.master.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}
