package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/test/nettest"
)

const (
	srcPort = 4001
	dstPort = 5001
)

// nobody is where frames are sent: the receiving stack drops them at once, and
// answers nothing.
var nobody = nettest.MAC{2, 0, 0, 0, 0, 0xcc}

// sender makes traffic past the watched interface of a scene. It belongs to one
// goroutine.
type sender interface {
	// host is in whose namespace push must be called.
	host() *nettest.Host
	// push sends about n packets and tells how many. Few calls are best: at
	// most batch at once.
	push(n int) (int, error)
	batch() int
	// count is all that has passed the interface since the sender was made.
	count() (tally, error)
	close() error
}

// tally counts packets as they are on a wire, and as the kernel hands them on,
// several as one if there are offloads.
type tally struct{ packets, frames uint64 }

func (t tally) minus(o tally) tally { return tally{t.packets - o.packets, t.frames - o.frames} }
func (t tally) plus(o tally) tally  { return tally{t.packets + o.packets, t.frames + o.frames} }

// share is a part of a mix of frame lengths, which count the four bytes of
// checksum that a wire has and a veth has not.
type share struct{ length, parts int }

var (
	small = []share{{64, 1}}
	large = []share{{1400, 1}}
	imix  = []share{{64, 7}, {594, 4}, {1518, 1}} // the "simple IMIX"
)

const (
	noFCS = 4 // bytes
	// Runs of a program in one system call. Between two of XDP the kernel
	// waits for some 30 ms.
	cloneAtOnce, shootAtOnce = 20_000, 500_000
)

// injecting sends with a program that the kernel runs.
type injecting struct {
	at     *nettest.Host
	inject *injector
	frames [][]byte
	mix    []share
	parts  int
	atOnce int
	// arrived counts what a receiver's interface took; nil if all that the
	// program has sent has passed.
	arrived func() (uint64, error)
}

// newCloning sends from the scene's host.
func newCloning(s *scene, mix []share, flows int) (sender, error) {
	return newInjecting(s.host, s.host, s.peer, mix, cloneAtOnce, func(ifindex int) (*injector, error) { return newCloner(ifindex, flows) })
}

// newShooting sends to the scene's host. What its interface has no room for is
// not counted as sent.
func newShooting(s *scene, mix []share, flows int) (sender, error) {
	i, err := newInjecting(s.peer, s.peer, s.host, mix, shootAtOnce, func(ifindex int) (*injector, error) { return newShooter(ifindex, flows) })
	if err != nil {
		return nil, err
	}
	i.arrived = func() (uint64, error) {
		c, err := s.host.Counters(s.host.Interface.Name)
		return c.RxPackets, err
	}
	return i, nil
}

func newInjecting(at, from, to *nettest.Host, mix []share, atOnce int, load func(ifindex int) (*injector, error)) (*injecting, error) {
	i := &injecting{at: at, mix: mix, atOnce: atOnce}
	for _, m := range mix {
		f := nettest.Between(from, to, srcPort, dstPort, make([]byte, m.length-noFCS-headers))
		f.DstMAC = nobody
		frame := f.Ethernet()
		frame[checksum], frame[checksum+1] = 0, 0
		i.frames = append(i.frames, frame)
		i.parts += m.parts
	}
	index, err := indexOf(at)
	if err != nil {
		return nil, err
	}
	at.Do(func() { i.inject, err = load(index) })
	return i, err
}

func (i *injecting) host() *nettest.Host { return i.at }
func (i *injecting) batch() int          { return i.atOnce }
func (i *injecting) close() error        { return i.inject.close() }

func (i *injecting) push(n int) (int, error) {
	sent := 0
	for k, m := range i.mix {
		part := n * m.parts / i.parts
		if k == 0 {
			part = max(part, 1)
		}
		if part == 0 {
			continue
		}
		if err := i.inject.run(i.frames[k], part); err != nil {
			return sent, err
		}
		sent += part
	}
	return sent, nil
}

func (i *injecting) count() (tally, error) {
	n, err := i.inject.sent()
	if err == nil && i.arrived != nil {
		n, err = i.arrived()
	}
	return tally{n, n}, err
}

// packetSocket is an ordinary program's way to send frames: sendmmsg(2).
type packetSocket struct {
	at  *nettest.Host
	gen *nettest.Generator
	n   uint64
}

func newPacketSocket(s *scene, length, flows int) (sender, error) {
	frames := make([][]byte, flows)
	for i := range frames {
		f := nettest.Between(s.host, s.peer, uint16(firstPort+i%portsPerFlow), uint16(dstPort+i/portsPerFlow), make([]byte, length-noFCS-headers))
		f.DstMAC = nobody
		frames[i] = f.Ethernet()
	}
	gen, err := s.host.Generator(frames...)
	return &packetSocket{at: s.host, gen: gen}, err
}

func (p *packetSocket) host() *nettest.Host { return p.at }
func (p *packetSocket) batch() int          { return 4096 }
func (p *packetSocket) close() error        { return p.gen.Close() }

func (p *packetSocket) push(n int) (int, error) {
	sent, _, err := p.gen.Send(context.Background(), n, 0)
	p.n += uint64(sent)
	return sent, err
}

func (p *packetSocket) count() (tally, error) {
	n := p.n + p.gen.Refused
	return tally{n, n}, nil
}

const (
	segment  = 1400
	segments = 44 // of 1,400 bytes: as many as an IPv4 packet has room for
)

// segmenting is a UDP socket that leaves it to the kernel to cut what it sends
// (UDP_SEGMENT, udp(7)).
type segmenting struct {
	at     *nettest.Host
	conn   *net.UDPConn
	fd     int
	data   []byte
	frames uint64
}

func newSegmenting(s *scene) (sender, error) {
	u := &segmenting{at: s.host, data: make([]byte, segment*segments)}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, 0, 99}), dstPort)
	index, err := indexOf(s.host)
	if err != nil {
		return nil, err
	}
	if err := s.host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: index, State: unix.NUD_PERMANENT, IP: to.Addr().AsSlice(), HardwareAddr: nobody[:],
	}); err != nil {
		return nil, fmt.Errorf("UDP sender: %w", err)
	}
	conn, err := s.host.Dial("udp", to.String())
	if err != nil {
		return nil, fmt.Errorf("UDP sender: %w", err)
	}
	u.conn = conn.(*net.UDPConn)
	if u.fd, err = descriptor(u.conn); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(u.fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, segment); err != nil {
		return nil, fmt.Errorf("UDP_SEGMENT (needs Linux 4.18): %w", err)
	}
	return u, nil
}

func (u *segmenting) host() *nettest.Host { return u.at }
func (u *segmenting) batch() int          { return 64 * segments }
func (u *segmenting) close() error        { return errors.Join(unix.Close(u.fd), u.conn.Close()) }

func (u *segmenting) push(n int) (sent int, err error) {
	for ; sent < n; sent += segments {
		if _, err := unix.Write(u.fd, u.data); err != nil && err != unix.EINTR {
			return sent, fmt.Errorf("UDP sender: %w", err)
		}
		u.frames++
	}
	return sent, nil
}

func (u *segmenting) count() (tally, error) { return tally{u.frames * segments, u.frames}, nil }

// streaming is a TCP connection to the peer, which reads on the same processor.
type streaming struct {
	at   *nettest.Host
	conn *net.TCPConn
	fd   int
	data []byte
	sink chan error
}

func newStreaming(s *scene) (sender, error) {
	l, err := s.peer.Listen("tcp", netip.AddrPortFrom(s.peer.Interface.IPv4, dstPort).String())
	if err != nil {
		return nil, fmt.Errorf("TCP sender: %w", err)
	}
	defer l.Close()
	conn, err := s.host.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("TCP sender: %w", err)
	}
	t := &streaming{at: s.host, conn: conn.(*net.TCPConn), data: make([]byte, 256<<10), sink: make(chan error, 1)}
	if t.fd, err = descriptor(t.conn); err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, fmt.Errorf("TCP sender: %w", err)
	}
	go func() { t.sink <- swallow(far.(*net.TCPConn), senderCPU) }()
	return t, nil
}

func (t *streaming) host() *nettest.Host { return t.at }
func (t *streaming) batch() int          { return 1000 }

func (t *streaming) close() error {
	return errors.Join(unix.Close(t.fd), t.conn.Close(), <-t.sink)
}

// push takes a packet for 1,448 bytes, as it is with time stamps and an MTU of
// 1,500.
func (t *streaming) push(n int) (int, error) {
	const mss = 1448
	for left := n * mss; left > 0; {
		k, err := unix.Write(t.fd, t.data[:min(left, len(t.data))])
		if err != nil && err != unix.EINTR {
			return 0, fmt.Errorf("TCP sender: %w", err)
		}
		left -= max(k, 0)
	}
	return n, nil
}

// count waits until all that was written has been acknowledged. The kernel
// counts segments for us, the interface super-packets.
func (t *streaming) count() (tally, error) {
	drained := nettest.Eventually(time.Second, func() bool {
		queued, err := unix.IoctlGetInt(t.fd, unix.SIOCOUTQ)
		return err == nil && queued == 0
	})
	info, err := unix.GetsockoptTCPInfo(t.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return tally{}, fmt.Errorf("TCP sender: %w", err)
	}
	if !drained {
		return tally{}, errors.New("TCP sender: the receiver does not acknowledge")
	}
	c, err := t.at.Counters(t.at.Interface.Name)
	return tally{uint64(info.Segs_out), c.TxPackets}, err
}

// descriptor is another one for the same socket, which blocks.
func descriptor(c syscall.Conn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, dupErr := -1, error(nil)
	if err := raw.Control(func(s uintptr) { fd, dupErr = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	if dupErr == nil {
		dupErr = unix.SetNonblock(fd, false)
	}
	return fd, dupErr
}

// swallow throws away what a connection gives, to its end, on a processor of
// its choice. The bytes are not even copied.
func swallow(conn *net.TCPConn, cpu int) (err error) {
	defer conn.Close()
	fd, err := descriptor(conn)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	onCPU(cpu, func(pinned error) {
		if err = pinned; err == nil {
			err = receive(fd, make([]byte, 1<<20), func() int { return unix.MSG_TRUNC }, func(int) {})
		}
	})
	return err
}

// receive reads a TCP socket to its end and tells after each system call how
// many bytes it read. With the flag MSG_TRUNC buf is not touched (tcp(7)).
func receive(fd int, buf []byte, flags func() int, got func(n int)) error {
	for {
		n, _, err := unix.Recvfrom(fd, buf, flags())
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET, err == nil && n == 0:
			return nil
		case err != nil:
			return os.NewSyscallError("recv", err)
		}
		got(n)
	}
}
