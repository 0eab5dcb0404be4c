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
	// maxMessage bounds a message to a collector that requires whole records. On
	// Ethernet the segment size is smaller; on loopback, segments are 64 KiB, as large
	// as a receiver's whole window, and would have to wait for it to be empty.
	maxMessage = 4096 / wire.Size * wire.Size
	// maxMessages is the maximum number of messages per call.
	maxMessages = 64
	// notSent is how much unsent data of a connection the kernel may hold. What waits
	// in the hub instead is shared by all collectors, and counted.
	notSent = 256 << 10
	// windowPoll is the interval at which a window that is too small is checked again,
	// windowForce the time after which a record is sent anyway: only pending data makes
	// the kernel probe a receiver whose window update was lost.
	windowPoll  = 2 * time.Millisecond
	windowForce = time.Second
	// askEvery is how long a connection's segment size is assumed to stay the same.
	askEvery = 100 * time.Millisecond
)

// MaxSegment is the TCP_MAXSEG of a port for collectors that require whole records:
// without the 12 bytes of timestamps, it is 51 records. It also fits in the MTU of an
// Ethernet with IPv6.
const MaxSegment = 51*wire.Size + 12

// send sends the items of the collector's reader until its stream ends, the connection
// fails, or the collector has left.
func (c *collector[R]) send(left context.Context, format int32) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var w writer
	defer func() {
		if len(w.carry) > w.mark {
			c.disown(1) // it was sent in part, at the end of the connection
		}
	}()
	raw.Control(func(fd uintptr) {
		// Without it (kernel < 3.12), only more memory is used.
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
		begin, sent := time.Now(), c.sent.Load()
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
		if c.sent.Load()-sent < manyRecords {
			rest(left, c.server.space()-time.Since(begin))
		}
	}
}

// failure returns why sending failed; if the collector has left, the reason for that.
func (c *collector[R]) failure(left context.Context, err error) error {
	if left.Err() != nil {
		return context.Cause(left)
	}
	return leaving(err)
}

// sendAvailable sends until there is nothing to read. While the connection accepts no
// more, nothing is held, so the reader may be overtaken.
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

// drain sends until there is nothing to read, the receiver is starved, or the kernel
// accepts no more (EAGAIN).
func (c *collector[R]) drain(fd int, w *writer, encoding int) error {
	w.whole = c.format.Load() == records
	for {
		buf, ends := c.reader.Encoded(encoding)
		if len(ends) == 0 && len(w.carry) == 0 {
			return nil
		}
		if len(ends) > 0 && c.unmarked() {
			w.carry, w.mark = c.appendMark(w.carry), w.mark+wire.Size
		}
		n, err := w.write(fd, buf, ends)
		if len(ends) > 0 {
			c.reader.Advance(n)
			c.sent.Add(int64(n))
			c.next += uint64(n)
		}
		if err != nil || w.starved {
			return err
		}
	}
}

// unmarked reports whether the collector must be sent the number of the next record: it
// has requested numbers, and the record is the first or does not follow the last one
// sent.
func (c *collector[R]) unmarked() bool {
	return c.numbers.Load() && c.reader.Position() != c.next
}

func (c *collector[R]) appendMark(dst []byte) []byte {
	c.next = c.reader.Position()
	return wire.AppendMark(dst, c.server.cfg.Boot, c.reader.Number())
}

// writer writes encoded items to a connection.
type writer struct {
	whole   bool      // items must not be split across segments
	carry   []byte    // the rest of an item that the kernel accepted in part, and a mark
	mark    int       // number of bytes at the end of carry that belong to a mark
	starved bool      // the receiver's window is too small for sending to be worthwhile
	since   time.Time // when that began
	told    bool      // the kernel reports the receiver's window
	widest  int       // the largest window so far
	// The results of the last ask: the segment size, and the position in the stream up
	// to which the receiver's window extends, which never moves back.
	size     int
	edge     uint64
	asked    time.Time
	total    uint64 // bytes accepted by the kernel
	messages [maxMessages]message
	vectors  [maxMessages]unix.Iovec
}

// message is struct mmsghdr (sendmmsg(2)).
type message struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// write passes as much of buf to the kernel as it accepts, and returns the number of
// items. An item accepted in part counts; its rest is sent first next time.
func (w *writer) write(fd int, buf []byte, ends []uint32) (items int, err error) {
	w.starved = false
	if len(w.carry) > 0 {
		n, err := send(fd, w.carry, unix.MSG_EOR)
		if err != nil {
			return 0, err
		}
		w.total += uint64(n)
		if w.carry = w.carry[n:]; len(w.carry) > 0 {
			return 0, unix.EAGAIN
		}
		w.mark = 0
	}
	if len(ends) == 0 {
		return 0, nil
	}
	sent := len(buf)
	if len(buf) > 0 {
		if w.whole {
			sent, err = w.sendWhole(fd, buf)
		} else {
			sent, err = send(fd, buf, 0)
			sent = max(sent, 0)
		}
	}
	return w.items(buf, ends, sent), err
}

// items returns the number of items in the first sent bytes. An item sent in part
// counts as one, and its rest is kept.
func (w *writer) items(buf []byte, ends []uint32, sent int) int {
	if sent == len(buf) {
		return len(ends) - 1
	}
	at, exact := slices.BinarySearch(ends, ends[0]+uint32(sent))
	if !exact {
		w.carry = append(w.carry[:0], buf[sent:ends[at]-ends[0]]...)
	}
	// After items with an empty encoding, the same offset is repeated; the search finds
	// the first of them, which leaves those for the next time.
	return at
}

// sendWhole sends records so that none is ever split across two segments. If the
// segment size is a multiple of a record's, as with MaxSegment, the kernel always
// splits between two records, whatever is sent at once. Otherwise, messages are marked
// so that the kernel does not join them.
func (w *writer) sendWhole(fd int, buf []byte) (sent int, err error) {
	if w.total+uint64(len(buf)) > w.edge || w.size%wire.Size != 0 || time.Since(w.asked) > askEvery {
		if err := w.ask(fd); err != nil {
			return 0, err
		}
	}
	room := int(min(w.edge-min(w.total, w.edge), math.MaxInt32)) / wire.Size * wire.Size
	if room < len(buf) && room < w.worthwhile() {
		if w.since.IsZero() {
			w.since = time.Now()
		}
		if time.Since(w.since) < windowForce {
			w.starved = true
			return 0, nil
		}
		room = max(room, wire.Size)
	}
	w.since = time.Time{}
	buf = buf[:min(len(buf), room)]
	if w.size%wire.Size == 0 {
		sent, err = send(fd, buf, 0)
		sent = max(sent, 0)
	} else {
		sent, err = w.sendMessages(fd, buf, max(min(w.size, maxMessage, room)/wire.Size, 1)*wire.Size)
	}
	w.total += uint64(sent)
	return sent, err
}

// worthwhile returns how much room a window must have to continue: any or, after it was
// full, a quarter of its maximum.
func (w *writer) worthwhile() int {
	if w.since.IsZero() {
		return wire.Size
	}
	return max(w.widest/4, wire.Size)
}

// ask determines the connection's segment size, and how much can be sent so that all of
// it fits in the receiver's window.
func (w *writer) ask(fd int) error {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return err
	}
	queued, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return err
	}
	w.size, w.asked = max(int(info.Snd_mss), 1), time.Now()
	// No connection begins with a closed window, so a kernel that always reports 0 does
	// not support it (before 5.4).
	if w.told = w.told || info.Snd_wnd != 0; !w.told {
		w.edge = math.MaxUint64
		return nil
	}
	w.widest = max(w.widest, int(info.Snd_wnd))
	w.edge = w.total - min(w.total, uint64(queued)) + uint64(info.Snd_wnd)
	return nil
}

// sendMessages sends buf as messages of at most size bytes, many per call.
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

// send is a non-blocking send(2). It bypasses the runtime, which would take the
// processor away from a thread that returns in a moment.
func send(fd int, b []byte, flags int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
			uintptr(unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|flags), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
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
