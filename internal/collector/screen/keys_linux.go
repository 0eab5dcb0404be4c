package screen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Key is a typed key: a character in lower case, or one of these.
type Key rune

// Keys that are not characters; the numbers are from Unicode's private use area.
const (
	KeyUp Key = 0xe000 + iota
	KeyDown
	KeyLeft
	KeyRight
	KeyPageUp
	KeyPageDown
	KeyHome
	KeyEnd
)

// sequences are what terminals send for keys that are not characters, in normal and in
// application mode (xterm, ctlseqs).
var sequences = map[string]Key{
	"[A": KeyUp, "[B": KeyDown, "[C": KeyRight, "[D": KeyLeft, "[H": KeyHome, "[F": KeyEnd,
	"OA": KeyUp, "OB": KeyDown, "OC": KeyRight, "OD": KeyLeft, "OH": KeyHome, "OF": KeyEnd,
	"[1~": KeyHome, "[4~": KeyEnd, "[5~": KeyPageUp, "[6~": KeyPageDown, "[7~": KeyHome, "[8~": KeyEnd,
}

// backgroundPause is the interval at which a program in the background checks whether
// it may read again.
const backgroundPause = time.Second

// ReadKeys calls typed for each key until ctx is done or the terminal is gone. The
// caller must ignore SIGTTIN, so that reading in the background fails instead of
// stopping the program.
func (t *Terminal) ReadKeys(ctx context.Context, typed func(Key)) error {
	var in *os.File
	err := t.control(func(fd int) (err error) {
		// A separate description of the same terminal, because t.f, including its
		// deadlines, is for writing.
		const flags = os.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
		in, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
		if errors.Is(err, os.ErrPermission) { // it belongs to another user, as with su(1)
			in, err = os.OpenFile("/dev/tty", flags, 0)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot read keys: %w", err)
	}
	defer in.Close()
	defer context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 256)
	for ctx.Err() == nil {
		n, err := in.Read(buf)
		for _, k := range keys(buf[:n]) {
			typed(k)
		}
		switch {
		case err == nil || os.IsTimeout(err):
		case errors.Is(err, unix.EIO) && t.background():
			select {
			case <-time.After(backgroundPause):
			case <-ctx.Done():
			}
		case errors.Is(err, unix.EIO), err == io.EOF:
			return nil // the terminal is gone; drawing will report it
		default:
			return fmt.Errorf("cannot read keys: %w", err)
		}
	}
	return nil
}

// background reports whether another job of the shell has the terminal.
func (t *Terminal) background() bool {
	group := 0
	err := t.control(func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return err == nil && group != unix.Getpgrp()
}

// keys returns the keys encoded in b. Unknown sequences are ignored.
func keys(b []byte) (keys []Key) {
	for len(b) > 0 {
		if b[0] != 0x1b {
			c := b[0]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			keys, b = append(keys, Key(c)), b[1:]
			continue
		}
		b = b[1:]
		n := sequence(b)
		if k, ok := sequences[string(b[:n])]; ok {
			keys = append(keys, k)
		}
		b = b[n:]
	}
	return keys
}

// sequence returns the length of the control sequence (ECMA-48, section 5.4) in b, from
// which the initial escape has been removed.
func sequence(b []byte) int {
	if len(b) == 0 || b[0] != '[' && b[0] != 'O' {
		return 0
	}
	end := bytes.IndexFunc(b[1:], func(r rune) bool { return r >= 0x40 })
	if end < 0 {
		return len(b)
	}
	return end + 2
}
