package capture

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// headers is the length of Ethernet, IP and TCP or UDP headers of a frame.
func headers(t *testing.T, data []byte) int {
	t.Helper()
	ip, at := data[14]>>4, 14
	proto := data[14+9]
	if ip == 6 {
		proto = data[14+6]
		at += 40
	} else {
		at += int(data[14]&0xf) * 4
	}
	if proto == unix.IPPROTO_UDP {
		return at + 8
	}
	return at + int(data[at+12]>>4)*4
}

// tcpHeader is where the TCP header of a frame begins, IP having no options.
func tcpHeader(data []byte) int {
	if data[14]>>4 == 6 {
		return 14 + 40
	}
	return 14 + 20
}

// A TCP sender with offloads: its super-packets tell what they stand for, and
// together they have the bytes that were sent, in the segments of the wire.
func TestTCPSuperPackets(t *testing.T) { everyEngine(t, testTCPSuperPackets) }

func testTCPSuperPackets(t *testing.T, e liveEngine) {
	a, b := nettest.Pair(t)
	enableOffloads(t, a, b)
	for _, test := range []struct {
		name    string
		to      netip.Addr
		gso     uint8
		segment uint16 // MTU less IP and TCP headers, the latter with time stamps
	}{
		{"IPv4", b.Interface.IPv4, packet.GSOTCPv4, 1500 - 20 - 32},
		{"IPv6", b.Interface.IPv6, packet.GSOTCPv6, 1500 - 40 - 32},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, err := b.Listen("tcp", netip.AddrPortFrom(test.to, 0).String())
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			port := server.Addr().(*net.TCPAddr).Port
			r := e.open(t, a, Config{Ethernet: true, Filter: assemble(t, tcpTo(port)...)})
			if ring, ok := r.(*Ring); ok && !ring.Offloads() {
				t.Skip("this kernel tells nothing of super-packets (needs Linux 4.6)")
			}
			const n = 1 << 20
			transfer(t, a, server, n)
			r.Drain()
			var super, payload int
			var first uint32
			seen := make([]bool, n) // TCP may send a part of it twice
			for _, f := range rest(t, r) {
				if f.Direction != packet.Outgoing {
					continue
				}
				hdr := headers(t, f.Data)
				size := f.WireLen - hdr
				seq := binary.BigEndian.Uint32(f.Data[tcpHeader(f.Data)+4:])
				if size > 0 && payload == 0 {
					first = seq
				}
				for i := range size {
					if at := int(seq - first + uint32(i)); at >= n {
						t.Fatalf("byte %d of %d", at, n)
					} else if !seen[at] {
						seen[at] = true
						payload++
					}
				}
				if f.GSOType == packet.GSONone {
					continue
				}
				super++
				if f.GSOType != test.gso || f.GSOSize != test.segment || f.WireLen <= 1514 {
					t.Errorf("super-packet of %d bytes: GSO type %d, size %d, want %d, %d",
						f.WireLen, f.GSOType, f.GSOSize, test.gso, test.segment)
				}
			}
			if super == 0 || payload != n {
				t.Errorf("%d super-packets, %d bytes of payload, want %d", super, payload, n)
			}
		})
	}
}

func enableOffloads(t *testing.T, hosts ...*nettest.Host) {
	t.Helper()
	for _, h := range hosts {
		if err := h.SetOffloads(true); err != nil {
			t.Fatal(err)
		}
	}
}

// tcpTo lets frames with data or without pass that go to a TCP port: the port
// is 2 bytes behind IPv4's 20 or IPv6's 40.
func tcpTo(port int) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: uint32(skfNetOff), Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x60, SkipTrue: 3},
		bpf.LoadAbsolute{Off: uint32(skfNetOff + 22), Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 3},
		bpf.RetConstant{Val: 0},
		bpf.LoadAbsolute{Off: uint32(skfNetOff + 42), Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(port), SkipTrue: 1},
		bpf.RetConstant{Val: 0x40000},
		bpf.RetConstant{Val: 0},
	}
}

// transfer sends n bytes to the server and returns when all are there.
func transfer(t *testing.T, from *nettest.Host, server net.Listener, n int64) {
	t.Helper()
	received := make(chan int64)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			t.Error(err)
			received <- 0
			return
		}
		got, err := io.Copy(io.Discard, conn)
		// Closing waits until the other side has acknowledged it: no packet of
		// this connection comes later.
		if err := errors.Join(err, conn.(*net.TCPConn).SetLinger(5), conn.Close()); err != nil {
			t.Error(err)
		}
		received <- got
	}()
	conn, err := from.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write(make([]byte, n))
	conn.Close()
	if got := <-received; got != n || err != nil {
		t.Fatalf("transferred %d of %d bytes: %v", got, n, err)
	}
}

// UDP_SEGMENT: one write of a program, many datagrams on the wire.
func TestUDPSuperPackets(t *testing.T) { everyEngine(t, testUDPSuperPackets) }

func testUDPSuperPackets(t *testing.T, e liveEngine) {
	a, b := nettest.Pair(t)
	enableOffloads(t, a, b)
	server, err := b.ListenPacket("udp", "10.77.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.Dial("udp", "10.77.0.2:5001")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	r := e.open(t, a, Config{Ethernet: true, Filter: assemble(t, ours...)})
	control(t, client, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, 1000) })
	if _, err := client.Write(make([]byte, 10300)); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 2000)
	for i := range 11 {
		want := 1000
		if i == 10 {
			want = 300
		}
		if n, _, err := server.ReadFrom(buf); n != want || err != nil {
			t.Fatalf("datagram %d has %d bytes, %v, want %d", i, n, err, want)
		}
	}
	r.Drain()
	frames := rest(t, r)
	if s := r.Stats(); s.Dropped != 0 {
		// Before Linux 6.2 the offload header has no word for it.
		if len(frames) != 0 || s != (Stats{Received: 1, Dropped: 1}) {
			t.Errorf("%d frames, stats %+v, want none, and one dropped", len(frames), s)
		}
		return
	}
	if len(frames) != 1 {
		t.Fatalf("%d frames, want 1", len(frames))
	}
	if f := frames[0]; f.GSOType != packet.GSOUDPL4 || f.GSOSize != 1000 || f.WireLen != 14+20+8+10300 {
		t.Errorf("super-packet %+v", f)
	}
}

func control(t *testing.T, c any, f func(fd int) error) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
}

// tun is a device of that name, and the file through which its other side is
// played; with extra flags of TUNSETIFF (linux/if_tun.h).
func tun(t *testing.T, h *nettest.Host, name string, flags uint16) *os.File {
	t.Helper()
	var file *os.File
	h.Do(func() {
		const path = "/dev/net/tun"
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			// A module that nobody has asked for yet.
			if err := exec.Command("modprobe", "tun").Run(); err != nil {
				t.Logf("modprobe tun: %v", err)
			}
			fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
		if err != nil {
			t.Skipf("no tun devices (CONFIG_TUN): %s: %v", path, err)
		}
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			t.Fatal(err)
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			unix.Close(fd)
			t.Fatal(err)
		}
		file = os.NewFile(uintptr(fd), name)
	})
	t.Cleanup(func() { file.Close() })
	if err := h.Sysctl("ipv6/conf/"+name+"/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	if err := h.Up(name); err != nil {
		t.Fatal(err)
	}
	return file
}

// What the offload header has no words for, the kernel drops, and counts: here
// the obsolete UDP fragmentation offload, from a virtual machine as it were.
func TestUntellableSuperPacket(t *testing.T) {
	a, b := nettest.Pair(t)
	file := tun(t, a, "tun0", unix.IFF_VNET_HDR)
	const big = 4000
	f := nettest.Between(b, a, 4001, 5001, make([]byte, big))
	hdr := make([]byte, vnetHdrLen)
	hdr[vnetGSOType] = packet.GSOUDP
	binary.NativeEndian.PutUint16(hdr[vnetGSOSize:], 1480)
	binary.NativeEndian.PutUint16(hdr[2:], 28) // hdr_len
	hdr[0] = 1                                 // VIRTIO_NET_HDR_F_NEEDS_CSUM, which GSO demands
	binary.NativeEndian.PutUint16(hdr[6:], 20) // csum_start
	binary.NativeEndian.PutUint16(hdr[8:], 6)  // csum_offset
	r := open(t, a, Config{Interface: "tun0", Filter: assemble(t, ours...)})
	if !r.Offloads() {
		t.Skip("this kernel tells nothing of super-packets (needs Linux 4.6)")
	}
	if _, err := file.Write(append(hdr, f.IP()...)); err != nil {
		t.Skipf("this kernel's tun takes no UFO: %v", err)
	}
	hdr = make([]byte, vnetHdrLen)
	small := nettest.Between(b, a, 4001, 5001, []byte("after it"))
	if _, err := file.Write(append(hdr, small.IP()...)); err != nil {
		t.Fatal(err)
	}
	if !nettest.Eventually(patience, func() bool { return r.Stats().Received == 2 }) {
		t.Errorf("stats %+v, want 2 received", r.Stats())
	}
	r.Drain()
	frames := rest(t, r)
	if s := r.Stats(); len(frames) != 1 || s != (Stats{Received: 2, Dropped: 1}) {
		t.Errorf("%d frames, stats %+v, want one, and one dropped", len(frames), s)
	}
}
