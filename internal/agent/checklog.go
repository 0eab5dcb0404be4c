package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pcapper/pcapper/internal/host/fault"
)

// check tries everything that happens when the first collector connects.
func (a *agent) check() error {
	if err := a.checkLog(); err != nil {
		return err
	}
	src, err := a.capture.attach()
	if err != nil {
		return err
	}
	src.Drain()
	for _, x := range a.exports {
		if err := x.target.Ready(); err != nil {
			return notReady(&x.target, err)
		}
	}
	return nil
}

// checkLog opens the log as it will be opened for the first line, and leaves no new
// file behind. It does not open a named pipe, because that would block until there is a
// reader.
func (a *agent) checkLog() error {
	if a.log == nil {
		return nil
	}
	path := a.cfg.Log
	info, err := os.Stat(path)
	if err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil
	}
	missing := errors.Is(err, fs.ErrNotExist)
	flags := os.O_WRONLY | os.O_APPEND
	if missing {
		flags |= os.O_CREATE
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return fault.WithCode(ExitNoLogFile, fault.WithHint(fmt.Errorf("-f: cannot write the log: %w", err), logHint(path, err)))
	}
	f.Close()
	if missing {
		os.Remove(path)
	}
	return nil
}

// logHint returns what to do about a log that cannot be opened.
func logHint(path string, err error) string {
	switch {
	case errors.Is(err, syscall.EISDIR):
		return "name a file in it, such as -f " + filepath.Join(path, DefaultLog)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("make the directory: mkdir -p %s; or -f takes another file, and /dev/null none", logDir(path))
	case errors.Is(err, fs.ErrPermission):
		return "-user takes a user who may write there, -f another file, and /dev/null none"
	}
	return "-f takes another file, and /dev/null none"
}
