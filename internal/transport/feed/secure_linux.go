package feed

import (
	"context"
	"errors"
	"net"
	"sort"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxPlain is the maximum payload of a TLS record (RFC 8446, section 5.1).
	maxPlain = 16 << 10
	// buryEvery is the interval at which connections are checked for unacknowledged
	// data, deadAfter the maximum time that it may be unacknowledged.
	buryEvery = 5 * time.Second
	deadAfter = 25 * time.Second
	// deadProbes is the minimum number of consecutive unanswered retransmissions. A
	// collector that is merely stalled answers each.
	deadProbes = 3
)

// plainBuffers hold what is being encrypted: one per collector that is being written
// to.
var plainBuffers = sync.Pool{New: func() any { return new([maxPlain]byte) }}

// sendSecure sends until there is nothing to read. It waits for room in the connection
// before it takes anything from the reader, so a stalled collector holds nothing, and
// its reader may be overtaken.
func (c *collector[R]) sendSecure(raw syscall.RawConn, encoding int) error {
	for {
		if err := raw.Write(func(fd uintptr) bool { return writable(int(fd)) }); err != nil {
			return err
		}
		buf, ends := c.reader.Encoded(encoding)
		if len(ends) == 0 {
			return nil
		}
		plain := plainBuffers.Get().(*[maxPlain]byte)
		mark := 0
		if c.unmarked() {
			mark = len(c.appendMark(plain[:0]))
		}
		items := upTo(ends, uint32(maxPlain-mark))
		size := mark + copy(plain[mark:], buf[:ends[items]-ends[0]])
		whole := expressed(ends[:items+1])
		c.reader.Advance(items)
		c.sent.Add(int64(items))
		c.next += uint64(items)
		var err error
		if size > 0 {
			_, err = c.session.Write(plain[:size])
		}
		plainBuffers.Put(plain)
		if err != nil {
			c.disown(whole) // a partial TLS record cannot be decrypted
			return err
		}
	}
}

// upTo returns the number of items that together are no longer than size, but at least
// one.
func upTo(ends []uint32, size uint32) int {
	n := sort.Search(len(ends)-1, func(i int) bool { return ends[i+1]-ends[0] > size })
	return max(n, 1)
}

// expressed returns the number of items that are not empty.
func expressed(ends []uint32) (n int) {
	for i := 1; i < len(ends); i++ {
		if ends[i] != ends[i-1] {
			n++
		}
	}
	return n
}

// writable asks the kernel whether there is room to send. If not, the kernel will
// notify the runtime's poller once there is (poll(2) arms that).
func writable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p[:], 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

// hasRoom is writable for a connection.
func hasRoom(conn *net.TCPConn) (room bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	return raw.Control(func(fd uintptr) { room = writable(int(fd)) }) == nil && room
}

// bury closes, until ctx is done, the connections of collectors whose host no longer
// responds. The kernel alone would keep their unacknowledged data for a quarter of an
// hour.
func (s *Server[R]) bury(ctx context.Context) {
	tick := time.NewTicker(buryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		for c := range s.attached {
			if info, err := tcpInfo(c.conn); err == nil && unanswered(info) {
				c.dead.Store(true)
				refuse(c.conn)
			}
		}
		s.mu.Unlock()
	}
}

func unanswered(i *unix.TCPInfo) bool {
	return time.Duration(i.Last_ack_recv)*time.Millisecond >= deadAfter && int(i.Retransmits)+int(i.Probes) >= deadProbes
}

// connected reports whether the kernel still considers the connection open.
func connected(conn *net.TCPConn) (bool, error) {
	info, err := tcpInfo(conn)
	if err != nil {
		return false, err
	}
	return info.State != unix.BPF_TCP_CLOSE, nil
}

func tcpInfo(conn *net.TCPConn) (info *unix.TCPInfo, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return info, errors.Join(err, controlErr)
}
