package feed

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"github.com/pcapper/pcapper/wire"
	"golang.org/x/sys/unix"
)

const (
	// maxMessage bounds a message to a collector that wants whole records. On
	// an Ethernet the segment size does; on loopback segments are 64 KiB, as
	// much as a receiver's whole window, and would wait for it to be empty.
	maxMessage = 4096 / wire.Size * wire.Size
	// maxMessages are given to the kernel in one call.
	maxMessages = 64
	// notSent is how much unsent data a connection may leave with the kernel:
	// what waits in the hub instead is shared by all collectors, and counted.
	notSent = 256 << 10
	// windowPoll is how often a window that is too small is looked at again,
	// windowForce how long before a record is sent into it anyway: only data
	// makes the kernel probe a receiver whose window update was lost.
	windowPoll  = 2 * time.Millisecond
	windowForce = time.Second
)

// send sends what the collector's reader gives until its stream ends, the
// connection fails or the collector has left.
func (c *collector[R]) send(left context.Context, format int32) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	w := writer{whole: format == records}
	defer func() {
		if len(w.carry) > 0 {
			c.reader.Disown(1) // it was sent in part, and that is the end
		}
	}()
	raw.Control(func(fd uintptr) {
		// Without it (kernel < 3.12) only memory is at stake.
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSent)
	})
	if format == messages {
		return c.failure(left, c.export(left, raw))
	}
	encoding := c.server.cfg.Binary
	if format == text {
		encoding = c.server.cfg.Text
	}
	send := func() error { return c.sendAvailable(raw, &w, encoding) }
	var d *delegate[R]
	if c.session != nil {
		send = func() error { return c.sendSecure(raw, encoding) }
	} else {
		d = newDelegate(c, raw, &w, encoding)
	}
	for {
		if d != nil && !w.starved {
			if err := d.rest(left); err != nil {
				return err
			}
		}
		begin, sent := time.Now(), c.sent
		if len(w.carry) == 0 {
			if err := c.reader.Wait(left); err != nil {
				if errors.Is(err, io.EOF) {
					return errEnd
				}
				return context.Cause(left)
			}
		}
		if err := send(); err != nil {
			return c.failure(left, err)
		}
		if w.starved {
			rest(left, windowPoll)
		}
		if c.sent-sent < manyRecords {
			rest(left, c.server.space()-time.Since(begin))
		}
	}
}

// failure is why sending failed: because the collector has left, if it has.
func (c *collector[R]) failure(left context.Context, err error) error {
	if left.Err() != nil {
		return context.Cause(left)
	}
	return leaving(err)
}

// sendAvailable sends until there is nothing to read. While the connection
// takes no more, nothing is held: the reader may be overtaken.
func (c *collector[R]) sendAvailable(raw syscall.RawConn, w *writer, encoding int) error {
	var failed error
	err := raw.Write(func(fd uintptr) bool {
		failed = c.drain(int(fd), w, encoding)
		return failed != unix.EAGAIN
	})
	if failed != nil && failed != unix.EAGAIN {
		return os.NewSyscallError("send", failed)
	}
	return err
}

// drain sends until there is nothing to read, the receiver is starved, or the
// kernel takes no more (EAGAIN).
func (c *collector[R]) drain(fd int, w *writer, encoding int) error {
	for {
		buf, ends := c.reader.Encoded(encoding)
		if len(ends) == 0 && len(w.carry) == 0 {
			return nil
		}
		n, err := w.write(fd, buf, ends)
		if len(ends) > 0 {
			c.reader.Advance(n)
			c.sent += n
		}
		if err != nil || w.starved {
			return err
		}
	}
}

// writer puts encoded items on a connection.
type writer struct {
	whole    bool      // items must not be split over segments
	carry    []byte    // the rest of an item that the kernel took in part
	starved  bool      // the receiver's window has no room for one item
	since    time.Time // when that began
	told     bool      // the kernel tells the receiver's window
	messages [maxMessages]message
	vectors  [maxMessages]unix.Iovec
}

// message is struct mmsghdr (sendmmsg(2)).
type message struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// write gives the kernel what it takes of buf and tells how many items that
// was. An item that was taken in part counts; its rest goes first next time.
func (w *writer) write(fd int, buf []byte, ends []uint32) (items int, err error) {
	w.starved = false
	if len(w.carry) > 0 {
		n, err := unix.SendmsgN(fd, w.carry, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|unix.MSG_EOR)
		if err != nil {
			return 0, err
		}
		if w.carry = w.carry[n:]; len(w.carry) > 0 {
			return 0, unix.EAGAIN
		}
	}
	if len(ends) == 0 {
		return 0, nil
	}
	sent := len(buf)
	if len(buf) > 0 {
		if w.whole {
			sent, err = w.sendWhole(fd, buf)
		} else {
			sent, err = unix.SendmsgN(fd, buf, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		}
		sent = max(sent, 0)
	}
	return w.items(buf, ends, sent), err
}

// items is how many items the first sent bytes are, counting a part as one and
// keeping the rest of it.
func (w *writer) items(buf []byte, ends []uint32, sent int) int {
	if sent == len(buf) {
		return len(ends) - 1
	}
	at, exact := slices.BinarySearch(ends, ends[0]+uint32(sent))
	if !exact {
		w.carry = append(w.carry[:0], buf[sent:ends[at]-ends[0]]...)
	}
	// Behind items that encode to nothing the same offset stands repeatedly;
	// the first of them is found, which leaves those for the next time.
	return at
}

// sendWhole sends records so that none is ever split over two segments.
func (w *writer) sendWhole(fd int, buf []byte) (sent int, err error) {
	size, room, err := w.segment(fd)
	if err != nil {
		return 0, err
	}
	if room < wire.Size {
		if w.since.IsZero() {
			w.since = time.Now()
		}
		if time.Since(w.since) < windowForce {
			w.starved = true
			return 0, nil
		}
		room = wire.Size
	}
	w.since = time.Time{}
	size = max(min(size, maxMessage, room)/wire.Size, 1) * wire.Size
	return w.sendMessages(fd, buf[:min(len(buf), room/wire.Size*wire.Size)], size)
}

// segment gives the connection's segment size, and how many bytes may be
// queued so that all of them fit the receiver's window.
func (w *writer) segment(fd int) (size, room int, err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, 0, err
	}
	queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0, 0, err
	}
	// No connection begins with a closed window, so a kernel that never says
	// anything else does not tell (before 5.4).
	w.told = w.told || info.Snd_wnd != 0
	if !w.told {
		return int(info.Snd_mss), math.MaxInt32, nil
	}
	return int(info.Snd_mss), int(info.Snd_wnd) - queued, nil
}

// sendMessages sends buf as messages of at most size bytes, many in one call.
func (w *writer) sendMessages(fd int, buf []byte, size int) (sent int, err error) {
	for sent < len(buf) {
		n := 0
		for at := sent; at < len(buf) && n < maxMessages; n++ {
			part := buf[at:min(at+size, len(buf))]
			w.vectors[n].Base = &part[0]
			w.vectors[n].SetLen(len(part))
			w.messages[n].hdr.Iov = &w.vectors[n]
			w.messages[n].hdr.SetIovlen(1)
			at += len(part)
		}
		taken, err := w.sendmmsg(fd, n)
		short := taken < n
		for i := range taken {
			sent += int(w.messages[i].len)
			short = short || int(w.messages[i].len) < int(w.vectors[i].Len)
		}
		if err != nil {
			return sent, err
		}
		if short {
			return sent, unix.EAGAIN
		}
	}
	return sent, nil
}

func (w *writer) sendmmsg(fd, n int) (int, error) {
	for {
		taken, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&w.messages[0])),
			uintptr(n), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|unix.MSG_EOR, 0, 0)
		switch errno {
		case 0:
			return int(taken), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// rest waits, unless the collector leaves.
func rest(left context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-left.Done():
	case <-t.C:
	}
}
