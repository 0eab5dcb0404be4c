package screen_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/screen"
	"github.com/pcapper/pcapper/internal/test/screentest"
)

func TestTerminal(t *testing.T) {
	tty := screentest.New(t, 90, 20)
	term, err := screen.Open(tty.TTY)
	if err != nil {
		t.Fatal(err)
	}
	if w, h := term.Size(); w != 90 || h != 20 || tty.Echoes(t) {
		t.Errorf("size %d x %d, echo %v", w, h, tty.Echoes(t))
	}
	if err := term.Draw([]byte("one\ntwo")); err != nil {
		t.Fatal(err)
	}
	// The terminal makes \r\n of \n (onlcr), and leaves our own \r alone.
	const frame = "\x1b[?2026h\x1b[Hone\x1b[K\r\r\ntwo\x1b[K\x1b[J\x1b[?2026l"
	tty.Expect(t, 0, frame)
	tty.Resize(t, 40, 10)
	if w, h := term.Size(); w != 40 || h != 10 {
		t.Errorf("size %d x %d", w, h)
	}
	for range 2 {
		if err := term.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := term.Draw([]byte("three")); err != nil {
		t.Error(err)
	}
	const enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J", "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
	if out := tty.Expect(t, 0, leave); out != enter+frame+leave || !tty.Echoes(t) {
		t.Errorf("echo %v, output %q", tty.Echoes(t), out)
	}
	if err := term.Resume(); err != nil || tty.Echoes(t) {
		t.Errorf("Resume: %v, echo %v", err, tty.Echoes(t))
	}
	term.Close()
	tty.Expect(t, len(enter+frame+leave), enter+leave)
}

// TestTerminalStuck: a terminal that takes nothing holds nobody up.
func TestTerminalStuck(t *testing.T) {
	tty := screentest.New(t, 90, 20)
	term, err := screen.Open(tty.TTY)
	if err != nil {
		t.Fatal(err)
	}
	tty.Stop(t)
	start := time.Now()
	if err := term.Draw([]byte(strings.Repeat("x", 1<<20))); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Draw took %v", d)
	}
}

func TestOpenFile(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := screen.Open(file); err == nil || !strings.HasPrefix(err.Error(), "cannot set up the terminal: ") {
		t.Errorf("a file is opened as a terminal: %v", err)
	}
}

func TestCanDraw(t *testing.T) {
	tty := screentest.New(t, 90, 20)
	for name, want := range map[string]bool{"xterm": true, "dumb": false, "": false} {
		if t.Setenv("TERM", name); screen.CanDraw(tty.TTY) != want {
			t.Errorf("TERM=%q: CanDraw is not %v", name, want)
		}
	}
	t.Setenv("TERM", "xterm")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if screen.CanDraw(null) {
		t.Error("the null device is no terminal")
	}
}
