package nettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBatch is the frames in one sendmmsg(2): enough to make the system call's
// own cost small, few enough for the pace to be even.
const sendBatch = 64

// Generator sends frames as fast as one processor can: the same ones again and
// again, through the interface's queue and all its taps, as a program's own
// packets go. (PACKET_QDISC_BYPASS would be faster and seen by no tap.)
//
// A generator is made in the namespace where it sends: see [NewGenerator],
// [NewBurst], [Host.Generator] and [Host.Burst]. It belongs to one goroutine.
type Generator struct {
	// Refused counts frames that the device did not take (ENOBUFS) and that
	// were therefore sent again. A tap on the sender's side has seen those too:
	// there sent + Refused frames pass; the receiver gets those sent.
	Refused uint64

	fd    int
	per   int       // frames on the wire for each message
	msgs  []mmsghdr // a whole number of rounds through the frames; never none
	next  int
	keep  []unix.Iovec
	burst *burst // nil for messages that are frames
}

// mmsghdr is struct mmsghdr (sendmmsg(2)).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

// NewGenerator returns a sender of frames, in turn, on an interface of the
// calling thread's namespace. The frames begin at the link header, if the
// interface has one, and must not be changed afterwards.
func NewGenerator(ifname string, frames [][]byte) (*Generator, error) {
	if len(frames) == 0 {
		return nil, errors.New("generator: no frames")
	}
	fd, err := sendSocket(ifname)
	if err != nil {
		return nil, fmt.Errorf("generator on %q: %w", ifname, err)
	}
	g := &Generator{fd: fd, per: 1}
	g.prepare(frames)
	return g, nil
}

// sendSocket is bound to the interface, but to no protocol: the socket receives
// nothing, and the kernel reads the EtherType from each frame.
func sendSocket(ifname string) (int, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifi.Index}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("bind: %w", err)
	}
	return fd, nil
}

// Generator makes one that sends on the host's eth0.
func (h *Host) Generator(frames ...[]byte) (g *Generator, err error) {
	h.Do(func() { g, err = NewGenerator(h.Interface.Name, frames) })
	return g, err
}

// prepare makes the messages once. There are as many rounds through the frames
// as give at least a batch.
func (g *Generator) prepare(frames [][]byte) {
	rounds := (sendBatch + len(frames) - 1) / len(frames)
	n := rounds * len(frames)
	g.keep = make([]unix.Iovec, n)
	g.msgs = make([]mmsghdr, n)
	for i := range g.msgs {
		frame := frames[i%len(frames)]
		g.keep[i].Base = unsafe.SliceData(frame)
		g.keep[i].SetLen(len(frame))
		g.msgs[i].hdr.Iov = &g.keep[i]
		g.msgs[i].hdr.SetIovlen(1)
	}
}

// Close closes the socket.
func (g *Generator) Close() error { return unix.Close(g.fd) }

// Send sends n frames, rate per second or, if that is 0, as fast as it goes.
// sent frames have left when it returns, also with an error: less than n only
// then, or when ctx is done. The next Send goes on with the next frame, or, of
// a burst, with its first.
func (g *Generator) Send(ctx context.Context, n int, rate float64) (sent int, elapsed time.Duration, err error) {
	begin := time.Now()
	if g.burst != nil {
		g.next = 0 // a burst begins with its first segment
	}
	for sent < n && err == nil && ctx.Err() == nil {
		batch := min(n-sent, sendBatch*g.per)
		if rate > 0 {
			due := min(int(time.Since(begin).Seconds()*rate)+1, n) - sent
			if due <= 0 {
				nap(time.Duration(float64(time.Second) / rate * float64(-due+1)))
				continue
			}
			batch = min(batch, due)
		}
		var k int
		k, err = g.sendSome(batch)
		sent += k
	}
	return sent, time.Since(begin), err
}

// nap waits: asleep if that is precise enough, else by giving way.
func nap(d time.Duration) {
	if d > 100*time.Microsecond {
		time.Sleep(min(d, time.Millisecond))
		return
	}
	runtime.Gosched()
}

// sendSome sends at least one and at most n frames with one system call.
func (g *Generator) sendSome(n int) (int, error) {
	if n < g.per {
		return g.push(g.burst.message(n), n)
	}
	k := min(n/g.per, len(g.msgs)-g.next)
	sent, err := g.push(g.msgs[g.next:g.next+k], g.per)
	g.next = (g.next + sent/g.per) % len(g.msgs)
	return sent, err
}

// push sends messages of so many frames each.
func (g *Generator) push(msgs []mmsghdr, frames int) (int, error) {
	sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd),
		uintptr(unsafe.Pointer(&msgs[0])), uintptr(len(msgs)), 0, 0, 0)
	switch errno {
	case 0:
		return int(sent) * frames, nil
	case unix.EINTR, unix.EAGAIN:
		return 0, nil
	case unix.ENOBUFS:
		g.Refused += uint64(frames)
		runtime.Gosched()
		return 0, nil
	case unix.EINVAL:
		if frames > 1 {
			g.cutHere()
			return 0, nil
		}
	}
	return 0, fmt.Errorf("generator: sendmmsg: %w", errno)
}
