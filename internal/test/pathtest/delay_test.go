package pathtest

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// delayLine passes frames between two interfaces of a host, each a fixed time after it came, and measures how
// long it really held each.
type delayLine struct {
	hold time.Duration
	fds  [2]int
	all  sync.WaitGroup

	mu   sync.Mutex
	held []time.Duration // frames of size from the first interface
	size int
}

func (l *lab) delayLine(host string, interfaces [2]string, hold time.Duration, size int) *delayLine {
	l.t.Helper()
	d := &delayLine{hold: hold, size: size}
	for i, name := range interfaces {
		var err error
		l.host(host).Do(func() { d.fds[i], err = openFrames(name) })
		if err != nil {
			l.t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	for i := range 2 {
		d.all.Go(func() { d.pass(l.t, stop, i) })
	}
	l.t.Cleanup(func() {
		close(stop)
		d.all.Wait()
		unix.Close(d.fds[0])
		unix.Close(d.fds[1])
	})
	return d
}

// openFrames opens a packet socket for what an interface receives; it stamps frames, and gives up waiting ten times a second.
func openFrames(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	return fd, errors.Join(
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index}),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
	)
}

// pass sends frames of one interface out of the other. All wait equally long, so that none overtakes another.
func (d *delayLine) pass(t *testing.T, stop <-chan struct{}, from int) {
	buf, control := make([]byte, 1<<16), make([]byte, 256)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, c, _, _, err := unix.Recvmsg(d.fds[from], buf, control, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Error(err)
			return
		}
		came, err := stampOf(control[:c])
		if err != nil {
			t.Error(err)
			return
		}
		time.Sleep(d.hold - time.Since(came))
		if err := unix.Send(d.fds[1-from], buf[:n], 0); err != nil {
			t.Error(err)
			return
		}
		if held := time.Since(came); from == 0 && n == d.size {
			d.mu.Lock()
			d.held = append(d.held, held)
			d.mu.Unlock()
		}
	}
}

// stampOf is when the kernel received a frame.
func stampOf(control []byte) (time.Time, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return time.Time{}, err
	}
	for _, m := range messages {
		if m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			sec, nsec := int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))
			return time.Unix(sec, nsec), nil
		}
	}
	return time.Time{}, errors.New("a frame without a time stamp")
}

func (d *delayLine) median() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := slices.Sorted(slices.Values(d.held))
	if len(list) == 0 {
		return 0
	}
	return list[len(list)/2]
}

// TestDelayLine: a link holds packets for a known time: its delay is that within a millisecond, and if the clock at its
// end is ahead or behind, that is estimated within the stated uncertainty.
func TestDelayLine(t *testing.T) {
	l := newLab(t)
	nettest.Cable(t, l.host("s"), "eth0", l.host("x"), "s")
	nettest.Cable(t, l.host("d"), "eth0", l.host("x"), "d")
	l.run("s", "ip addr add 10.9.0.1/24 dev eth0; ethtool -K eth0 tx off") // the line passes on what has checksums
	l.run("d", "ip addr add 10.9.0.2/24 dev eth0; ethtool -K eth0 tx off")
	const hold = 20 * time.Millisecond
	line := l.delayLine("x", [2]string{"s", "d"}, hold, 14+20+8+100)
	l.watch("s", "d")
	l.echo("d", ":5000")
	const n = 60
	for range n {
		l.send("s", "10.9.0.2:5000", 1, 100)
		time.Sleep(5 * time.Millisecond)
	}
	l.settle()
	for _, skew := range []time.Duration{0, 80 * time.Millisecond, -80 * time.Millisecond} {
		l.skew = map[string]time.Duration{"d": skew}
		e := l.join()
		there, back := flow(t, e, "10.9.0.2", 5000), flow(t, e, "10.9.0.1", 6000)
		for _, f := range []path.Flow{there, back} {
			h := f.Hops[0]
			if len(f.Hops) != 1 || h.Packets != n || h.Lost != 0 {
				t.Fatalf("hops %+v, want one of %d packets", f.Hops, n)
			}
			want, offset, off := line.median(), skew, time.Millisecond
			if f.Dst == back.Dst {
				offset, want, off = -skew, hold, 20*time.Millisecond // the way back is not measured by the line
			}
			d := h.Delay
			if skew != 0 { // the estimate takes half of the round trip for each way
				off += time.Duration(d.Uncertainty)
			}
			if got := time.Duration(d.P50); got < want-off || got > want+off {
				t.Errorf("clock ahead by %v, to %v: delay %v, want %v ± %v", skew, f.Dst, got, want, off)
			}
			if state := map[bool]string{true: "common", false: "estimated"}[skew == 0]; d.Clock != state {
				t.Errorf("clock ahead by %v: it is %q, want %q", skew, d.Clock, state)
			}
			if wrong := time.Duration(d.Offset) - offset; max(wrong, -wrong) > time.Duration(d.Uncertainty) || time.Duration(d.Uncertainty) > 2*hold {
				t.Errorf("clock ahead by %v, to %v: estimated as %v ± %v", skew, f.Dst, time.Duration(d.Offset), time.Duration(d.Uncertainty))
			}
		}
	}
}

// TestDuplicates: packets that a router's kernel sends twice are duplicates of its hop, and arrive once.
func TestDuplicates(t *testing.T) {
	l := newLab(t)
	l.chain(1)
	l.run("r1", `nft 'add table ip f; add chain ip f pre { type filter hook prerouting priority 0; }; `+
		`add rule ip f pre udp dport 5000 numgen inc mod 10 == 0 counter dup to 10.9.1.2 device "d"'`)
	l.sink("d", ":5000")
	const n = 500
	l.send("s", "10.9.1.2:5000", n, 100)
	e := l.join()
	f := flow(t, e, "10.9.1.2", 5000)
	copies := l.counters("r1")[0]
	if copies != n/10 || f.Packets != n || f.Arrived != n || f.Lost != 0 || f.Loops != 0 {
		t.Errorf("%d copies; %d packets, %d arrived, %d lost, %d loops", copies, f.Packets, f.Arrived, f.Lost, f.Loops)
	}
	for _, h := range f.Hops {
		switch name := h.From.Agent + " > " + h.To.Agent; name {
		case "r1/s > r1/d":
			if h.Packets != n || h.Duplicates != copies {
				t.Errorf("%s: %d packets, %d duplicates; want %d and %d", name, h.Packets, h.Duplicates, n, copies)
			}
		case "r1/d > d/r1":
			if h.Packets+h.Duplicates != n+copies || h.Lost != 0 {
				t.Errorf("%s: %+v; want %d", name, h.Counts, n+copies)
			}
		}
	}
	if c := e.Report(queryAll, 0).Counters; c.Ambiguous != 0 || len(f.Paths) != 1 || strings.Join(f.Paths[0].Nodes, " ") != "s r1 d" {
		t.Errorf("%+v, %+v", c, f.Paths)
	}
}
