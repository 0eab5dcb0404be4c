package feed

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// delegate lets the goroutine that publishes records send them to a collector directly,
// as long as the connection accepts them, so that no goroutine has to be woken. When it
// does not, the collector's own goroutine takes over again.
type delegate[R ItemReader] struct {
	c        *collector[R]
	raw      syscall.RawConn
	w        *writer
	encoding int
	back     chan struct{} // signals that it is the goroutine's turn
	failed   bool          // the last attempt failed
	attempt  func(fd uintptr) bool
	serve    func() bool
	over     func()
}

func newDelegate[R ItemReader](c *collector[R], raw syscall.RawConn, w *writer, encoding int) *delegate[R] {
	d := &delegate[R]{c: c, raw: raw, w: w, encoding: encoding, back: make(chan struct{}, 1)}
	d.attempt = func(fd uintptr) bool {
		d.failed = d.c.drain(int(fd), d.w, d.encoding) != nil
		return true // this goroutine must not wait
	}
	d.serve = func() bool { return d.raw.Write(d.attempt) == nil && !d.failed && !d.w.starved }
	d.over = func() { d.back <- struct{}{} }
	return d
}

// rest returns when it is the goroutine's turn to send. The error is why the collector
// left.
func (d *delegate[R]) rest(left context.Context) error {
	s := d.c.server
	if s.prompt.Add(1) > maxPrompt || len(d.w.carry) > 0 || !d.c.reader.Attend(d.serve, d.over) {
		s.prompt.Add(-1)
		return nil
	}
	defer s.prompt.Add(-1)
	select {
	case <-d.back:
		return nil
	case <-left.Done():
		d.c.reader.Dismiss()
		select { // over may have been called before
		case <-d.back:
		default:
		}
		return context.Cause(left)
	}
}

// LimitSegments gives future connections on a port a segment size that is a multiple of
// a record's. Without it, sending whole records costs more.
func LimitSegments(ln *net.TCPListener) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, MaxSegment)
	})
}
