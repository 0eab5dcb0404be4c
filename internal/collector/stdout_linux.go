package collector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// errStdoutClosed means that nobody reads our output any more. It is a way to end a
// collector, not a failure.
var errStdoutClosed = errors.New("stdout was closed by its reader")

// openAgain opens f a second time so that writes to it can have a deadline. The flag
// O_NONBLOCK of f itself may be shared with other processes, which would not expect it
// (fcntl(2)); a new description of the same pipe or terminal has its own flag. A file
// that cannot be opened again (a socket, another user's pipe) or never blocks for long
// (a regular file) is only duplicated. The caller closes the result; f stays open.
func openAgain(f *os.File) (*os.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot use stdout: %w", cause(err))
	}
	if info.Mode()&(os.ModeNamedPipe|os.ModeCharDevice) != 0 {
		name := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		again, err := os.OpenFile(name, os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if errors.Is(err, syscall.ENXIO) {
			return nil, errStdoutClosed // fifo(7): no reader
		}
		if err == nil {
			return again, nil
		}
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot use stdout: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// isPipe reports whether another program reads what is written to f: a pipe, or a
// socket.
func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// watchTerminals remembers which of the standard files are terminals. The result
// reports whether one of them has hung up.
func watchTerminals() (hungUp func() bool) {
	var fds []unix.PollFd
	for fd := range int32(3) {
		if term.IsTerminal(int(fd)) {
			fds = append(fds, unix.PollFd{Fd: fd})
		}
	}
	return func() bool {
		n, err := unix.Poll(fds, 0)
		return err == nil && n > 0
	}
}

// watchClosed returns errStdoutClosed as soon as nobody can read f any more, so that
// the collector ends even if there is nothing to write. It returns nil when ctx is
// done.
func watchClosed(ctx context.Context, f *os.File) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot watch stdout: %w", err)
	}
	defer read.Close()
	defer write.Close()
	defer context.AfterFunc(ctx, func() { write.Close() })()
	for ctx.Err() == nil {
		// No events requested: errors and hang-ups are always reported (poll(2)).
		fds := []unix.PollFd{{Fd: int32(f.Fd())}, {Fd: int32(read.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch stdout: %w", err)
		}
		if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
			return errStdoutClosed
		}
	}
	return nil
}
