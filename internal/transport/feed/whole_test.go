package feed

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/wire"
	"golang.org/x/sys/unix"
)

// A collector that asks the kernel for 28 bytes at a time, as the C program
// does, gets whole records each time, whatever the network is like, whether
// segments are a multiple of a record's size or not.
func TestRecordsStayWhole(t *testing.T) {
	for _, test := range []struct {
		name     string
		set      func(server, reader *nettest.Host) error
		loopback bool
		buffer   int           // the reader's receive buffer; 0: the system's
		pause    time.Duration // of the reader, after every 5,000 records
		segments int           // expected size; 0: any
		v6       bool
	}{
		{name: "loopback", loopback: true, segments: 1428},
		{name: "loopback, small buffer", loopback: true, buffer: 4096},
		{name: "loopback, slow reader", loopback: true, buffer: 64 << 10, pause: 3 * time.Millisecond},
		{name: "cable", segments: 1428},
		{name: "cable, IPv6", v6: true, segments: 1428},
		{name: "cable, small buffer", buffer: 4096},
		{name: "cable, slow reader", buffer: 32 << 10, pause: 3 * time.Millisecond},
		{name: "offloads", set: func(s, r *nettest.Host) error { return errors.Join(s.SetOffloads(true), r.SetOffloads(true)) }, segments: 1428},
		{name: "offloads, slow reader", set: func(s, r *nettest.Host) error { return errors.Join(s.SetOffloads(true), r.SetOffloads(true)) }, buffer: 64 << 10, pause: 3 * time.Millisecond},
		{name: "no time stamps", set: func(s, _ *nettest.Host) error { return s.Sysctl("ipv4/tcp_timestamps", "0") }, segments: 1440},
		{name: "no window scaling", set: func(s, _ *nettest.Host) error { return s.Sysctl("ipv4/tcp_window_scaling", "0") }, pause: time.Millisecond},
		{name: "MTU 1400", set: setMTU(1400), segments: 1348},
		{name: "MTU 9000", set: setMTU(9000), segments: 1428},
		{name: "small send buffer", set: func(s, _ *nettest.Host) error { return s.Sysctl("ipv4/tcp_wmem", "4096 8192 8192") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, reader := nettest.Pair(t)
			if test.set != nil {
				if err := test.set(server, reader); err != nil {
					t.Fatal(err)
				}
			}
			addr := server.Interface.IPv4
			if test.v6 {
				addr = server.Interface.IPv6
			}
			if test.loopback {
				reader, addr = server, netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			b := newTestServer(t, 256, Limits{})
			ln, err := server.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
			if err != nil {
				t.Fatal(err)
			}
			b.run(Listener{TCPListener: ln.(*net.TCPListener)})
			fd := dial28(t, reader, ln.Addr().(*net.TCPAddr), test.buffer)
			defer unix.Close(fd)
			b.awaitMessage("attached (records)")

			const n = 60_000
			go publishSlowly(b.hub, n)
			for i := range n {
				var buf [wire.Size]byte
				got, err := unix.Read(fd, buf[:])
				for err == unix.EINTR {
					got, err = unix.Read(fd, buf[:])
				}
				if err != nil || got != wire.Size {
					t.Fatalf("record %d: %d bytes, %v", i, got, err)
				}
				var r wire.Record
				if err := wire.DecodeBinary(buf[:], &r); err != nil || r.SrcPort != uint16(i) {
					t.Fatalf("record %d: %+v, %v", i, r, err)
				}
				if test.pause > 0 && i%5000 == 0 {
					time.Sleep(test.pause)
				}
			}
			if mss := segmentSize(t, b); test.segments != 0 && mss != test.segments {
				t.Errorf("segments of %d bytes, want %d: the test does not test what it is for", mss, test.segments)
			}
		})
	}
}

// publishSlowly leaves time for a reader with a small window to follow: what it
// loses would be no fault, but is not what is tested here.
func publishSlowly(h *hub.Hub[wire.Record], n int) {
	for i := range n {
		h.Publish(wire.Record{Time: time.Now().UnixNano(), SrcPort: uint16(i), Proto: wire.ProtoUDP, Length: 100})
		if i%500 == 0 {
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// dial28 connects a socket that blocks, with a receive buffer of a size.
func dial28(t *testing.T, h *nettest.Host, to *net.TCPAddr, buffer int) (fd int) {
	t.Helper()
	var err error
	h.Do(func() {
		family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: to.Port, Addr: to.AddrPort().Addr().As16()})
		if a := to.AddrPort().Addr().Unmap(); a.Is4() {
			family, addr = unix.AF_INET, &unix.SockaddrInet4{Port: to.Port, Addr: a.As4()}
		}
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		if buffer > 0 {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
		}
		err = errors.Join(err, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}), unix.Connect(fd, addr))
	})
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// segmentSize is that of the only collector's connection.
func segmentSize(t *testing.T, b *bench) (mss int) {
	t.Helper()
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	for c := range b.server.attached {
		raw, err := c.conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				t.Fatal(err)
			}
			mss = int(info.Snd_mss)
		})
	}
	return mss
}

func setMTU(mtu int) func(a, b *nettest.Host) error {
	return func(a, b *nettest.Host) error {
		for _, h := range []*nettest.Host{a, b} {
			link, err := h.Netlink().LinkByName(h.Interface.Name)
			if err != nil {
				return err
			}
			if err := h.Netlink().LinkSetMTU(link, mtu); err != nil {
				return err
			}
		}
		return nil
	}
}
