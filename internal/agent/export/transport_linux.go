package export

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/wire/ipfix"
)

// dialTimeout bounds connecting, including name lookup and TLS handshake.
const dialTimeout = 5 * time.Second

// open opens the target.
func (e *Exporter) open(ctx context.Context) (transport, error) {
	t := &e.cfg.Target
	switch t.Kind {
	case File:
		return openFile(t.Path)
	case UDP:
		return e.openUDP(ctx)
	}
	return e.dial(ctx)
}

// stream is a TCP or TLS connection.
type stream struct {
	net.Conn
	raw    *counted
	known  uint64      // number of bytes known to have arrived
	closed atomic.Bool // the receiver has closed it
}

// counted counts the bytes written.
type counted struct {
	*net.TCPConn
	written atomic.Uint64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	c.written.Add(uint64(n))
	return n, err
}

func (*stream) limit() int           { return streamMessage }
func (*stream) batch() int           { return 1 }
func (*stream) lossy() bool          { return false }
func (s *stream) expire(t time.Time) { s.raw.SetWriteDeadline(t) }

func (s *stream) send(b []byte, _ int) error {
	_, err := s.Write(b)
	if err != nil && s.closed.Load() {
		return errClosed
	}
	return err
}

var errClosed = errors.New("the receiver has closed the connection")

// past is a deadline that makes writes fail immediately.
var past = time.Unix(1, 0)

// dial connects. A collector never sends anything; reading only serves to detect that
// it has closed the connection.
func (e *Exporter) dial(ctx context.Context) (transport, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4,
	}}
	dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		if peer, err := netip.ParseAddrPort(address); err == nil {
			e.cfg.Peer(peer) // before the first packet
		}
		return nil
	}
	conn, err := dialer.DialContext(ctx, "tcp", e.cfg.Target.address())
	if err != nil {
		return nil, err
	}
	s := &stream{raw: &counted{TCPConn: conn.(*net.TCPConn)}}
	s.Conn = s.raw
	setUserTimeout(s.raw.TCPConn)
	if e.cfg.TLS != nil {
		if err := e.secure(ctx, s); err != nil {
			conn.Close()
			return nil, err
		}
	}
	go func() {
		// Reading ends with the connection, and then ends it: writes fail from then on.
		// The number of bytes that have arrived is still available.
		io.Copy(io.Discard, s.Conn)
		s.closed.Store(true)
		s.raw.SetWriteDeadline(past)
	}()
	return s, nil
}

func (e *Exporter) secure(ctx context.Context, s *stream) error {
	cfg, err := e.cfg.TLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	session := tls.Client(s.raw, cfg)
	if err := session.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	s.Conn = session
	return nil
}

// userTimeout is how long the kernel retransmits unacknowledged data.
const userTimeout = 25 * time.Second

func setUserTimeout(c *net.TCPConn) {
	if raw, err := c.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		})
	}
}

// file is an IPFIX file.
type file struct {
	*os.File
	size int64 // of whole messages
}

func openFile(path string) (transport, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f, info.Size()}, nil
}

func (*file) limit() int       { return streamMessage }
func (*file) batch() int       { return 1 }
func (*file) lossy() bool      { return false }
func (*file) expire(time.Time) {}

// send leaves no partial message behind if the disk is full.
func (f *file) send(b []byte, _ int) error {
	n, err := f.File.Write(b)
	if err == nil {
		f.size += int64(n)
	} else if n > 0 {
		err = errors.Join(err, f.Truncate(f.size))
	}
	return err
}

// datagrams is a UDP socket.
type datagrams struct {
	*net.UDPConn
	payload int
	pace    pacer
	single  bool   // the path to the receiver does not support batches
	refused bool   // a datagram was rejected: nobody listens
	control []byte // control message with the length of each datagram
}

func (u *datagrams) limit() int         { return u.payload }
func (*datagrams) lossy() bool          { return true }
func (u *datagrams) expire(t time.Time) { u.SetWriteDeadline(t) }
func (u *datagrams) localPort() uint16 {
	return u.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// maxSegments bounds the number of datagrams per call: the kernel accepts 64 (udp(7)),
// and a burst should fit in receivers' buffers, 200 KiB by default.
const maxSegments = 48

// batch returns the number of messages that may be sent at once at the configured rate.
func (u *datagrams) batch() int {
	if u.single {
		return 1
	}
	return max(1, min(maxSegments, int(u.pace.rate/8*int64(burst)/int64(time.Second))/(u.payload+headers)))
}

// send waits until the messages may be sent. The kernel splits them into datagrams
// (UDP_SEGMENT), which takes a fraction of the time of one call per datagram. If the
// kernel cannot, it is not tried again.
func (u *datagrams) send(b []byte, length int) error {
	u.pace.wait(len(b) + (len(b)+length-1)/length*headers)
	if len(b) == length {
		return u.one(b)
	}
	err := u.segments(b, length)
	if !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return err
	}
	u.single = true
	var failed error
	for ; len(b) > 0; b = b[min(length, len(b)):] {
		if err := u.one(b[:min(length, len(b))]); err != nil {
			failed = err
		}
	}
	return failed
}

// segments sends datagrams of equal length in one call.
func (u *datagrams) segments(b []byte, length int) error {
	if u.control == nil {
		u.control = make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&u.control[0]))
		h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
	}
	binary.NativeEndian.PutUint16(u.control[unix.CmsgLen(0):], uint16(length))
	return u.again(func() error {
		_, _, err := u.WriteMsgUDP(b, u.control, nil)
		return err
	})
}

// one sends one datagram.
func (u *datagrams) one(b []byte) error {
	err := u.again(func() error {
		_, err := u.Write(b)
		return err
	})
	if errors.Is(err, syscall.EMSGSIZE) && u.payload > ipfix.MaxDatagram {
		u.payload = ipfix.MaxDatagram // the path's MTU is smaller than configured
	}
	return err
}

// again retries once after an error that the socket kept from an earlier datagram,
// namely that nobody listens: in that case this one was not sent.
func (u *datagrams) again(send func() error) error {
	err := send()
	if errors.Is(err, syscall.ECONNREFUSED) {
		u.refused = true
		err = send()
	}
	return err
}

// pathGone reports whether datagrams can no longer be sent because the interface, the
// route, or the address of the socket is gone. Using their replacements takes a new
// socket; until then, records should wait.
func pathGone(err error) bool {
	for _, gone := range []syscall.Errno{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.ENODEV, syscall.ENXIO, syscall.EADDRNOTAVAIL, syscall.EINVAL,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

func (e *Exporter) openUDP(ctx context.Context) (transport, error) {
	t := &e.cfg.Target
	out, err := t.out()
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	dialer.ControlContext = func(_ context.Context, network, address string, raw syscall.RawConn) (err error) {
		if peer, err := netip.ParseAddrPort(address); err == nil {
			e.cfg.Peer(peer)
		}
		if cerr := raw.Control(func(fd uintptr) { err = t.setOptions(int(fd), network == "udp6", out) }); cerr != nil {
			return cerr
		}
		return err
	}
	conn, err := dialer.DialContext(ctx, "udp", t.address())
	if err != nil {
		return nil, err
	}
	return &datagrams{UDPConn: conn.(*net.UDPConn), payload: t.Payload, pace: pacer{rate: t.Rate}}, nil
}

// setOptions configures the socket: the outgoing interface and hop limit of multicast,
// and that the kernel may fragment where the MTU of an IPv4 link is smaller than
// expected.
func (t *Target) setOptions(fd int, v6 bool, out *net.Interface) error {
	type option struct{ level, name, value int }
	var options []option
	add := func(o ...option) { options = append(options, o...) }
	index := 0
	if out != nil {
		index = out.Index
	}
	hops := t.TTL
	multicast := t.Multicast()
	if multicast && hops == 0 {
		hops = 1
	}
	switch {
	case v6 && multicast:
		add(option{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, hops}, option{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index})
	case v6 && hops > 0:
		add(option{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hops})
	case multicast:
		add(option{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, hops})
	case hops > 0:
		add(option{unix.IPPROTO_IP, unix.IP_TTL, hops})
	}
	if !v6 {
		add(option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT})
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if !v6 && multicast && index != 0 {
		return os.NewSyscallError("setsockopt", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)}))
	}
	return nil
}

// pacer spaces datagrams out, so that a burst of packets on the watched interface does
// not become a burst at receivers, whose buffers are small.
type pacer struct {
	rate int64     // bits per second
	next time.Time // when everything sent so far would be through at that rate
}

// burst is how far ahead of the rate sending may be: a few datagrams at low rates, more
// where the clock is too coarse.
const burst = time.Millisecond

func (p *pacer) wait(bytes int) {
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	if ahead := p.next.Sub(now); ahead > burst {
		time.Sleep(ahead)
	}
	p.next = p.next.Add(time.Duration(int64(bytes) * 8 * int64(time.Second) / p.rate))
}
