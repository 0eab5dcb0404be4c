package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"golang.org/x/sys/unix"
)

// TestLibpcapEngine: the same packets by libpcap, where the build has it, and
// a clear word where it has not.
func TestLibpcapEngine(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	if len(tagFlags) == 0 {
		p := launch(t, a, "-engine", "libpcap")
		if code := p.wait(); code != 4 || !strings.Contains(p.said(), "libpcap") || !strings.Contains(p.said(), "hint: ") {
			t.Errorf("exit code %d, said %q", code, p.said())
		}
		return
	}
	const n = 5000
	p := start(t, a, "-engine", "libpcap")
	p.await("engine: libpcap", 1)
	c := p.dial(a, "")
	frames, wants := variety(a, b, 1000)
	begin, end := send(t, a, n, 5000, frames...)
	compare(t, "the collector", collect(t, c, n), wants, begin, end)
	if summary := strings.Join(p.stop(), "\n"); !strings.Contains(summary, "5,000 packets captured") {
		t.Error(summary)
	}
}

// TestRelayedAreMarked in the last byte of a record, on request only.
func TestRelayedAreMarked(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	own := nettest.Between(a, b, 1, 2, nil)
	own.Dst = netip.AddrPortFrom(nobody, 2)
	relayed := own
	relayed.Src = netip.MustParseAddrPort("10.99.0.9:3")
	for i, mark := range []bool{false, true} {
		args := []string{"-p", fmt.Sprint(7500 + i)}
		if mark {
			args = append(args, "-mark-relayed")
		}
		p := start(t, a, args...)
		c := p.dial(a, "")
		send(t, a, 20, 1000, own.Ethernet(), relayed.Ethernet())
		buf := make([]byte, 20*wire.Size)
		if _, err := io.ReadFull(c, buf); err != nil {
			t.Fatal(err)
		}
		for ; len(buf) > 0; buf = buf[wire.Size:] {
			want := byte(0)
			if mark && binary.BigEndian.Uint16(buf[16:]) == 3 {
				want = 1
			}
			if buf[27] != want {
				t.Fatalf("-mark-relayed %v: record % x", mark, buf[:wire.Size])
			}
		}
		if summary := strings.Join(p.stop(), "\n"); !strings.Contains(summary, "10 relayed") {
			t.Errorf("relayed packets are not counted:\n%s", summary)
		}
	}
}

// TestSuperPacketsAreCut: a real TCP connection with offloads gives as many
// records, of as many bytes, as its receiver's kernel counted segments.
func TestSuperPacketsAreCut(t *testing.T) {
	t.Parallel()
	const n = 20 << 20
	a, b := nettest.Pair(t)
	for _, h := range []*nettest.Host{a, b} {
		if err := h.SetOffloads(true); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []netip.Addr{b.Interface.IPv4, b.Interface.IPv6} {
		t.Run(to.String(), func(t *testing.T) {
			p := start(t, a, "-f", "log", "-m", "src", "-p", "7600")
			go io.Copy(io.Discard, p.dial(a, "bulk\n"))
			info, again, err := transfer(t, a, b, to, n)
			if err != nil {
				t.Fatal(err)
			}
			p.stop()
			var segments, bytes, longest uint64
			for _, r := range p.logLines("log") {
				if r.DstPort == 5201 {
					segments++
					longest = max(longest, uint64(r.Length))
					if header := uint64(20 + 32); r.DstAddr().Is4() && uint64(r.Length) >= header {
						bytes += uint64(r.Length) - header
					} else if header += 20; uint64(r.Length) >= header {
						bytes += uint64(r.Length) - header
					}
				}
			}
			bytes -= 8 // the SYN's header has 40 bytes
			if want := uint64(info.Segs_in) + 1; segments != want || longest != 1500 {
				t.Errorf("%d records, the longest of %d bytes; the receiver counts %d segments and the SYN", segments, longest, info.Segs_in)
			}
			if bytes != n+again || info.Bytes_received != n+1 { // the FIN counts as one
				t.Errorf("%d bytes in records, %d received, want %d and %d sent twice", bytes, info.Bytes_received, n, again)
			}
			if !strings.Contains(p.said(), "super-packets cut") {
				t.Errorf("there was no super-packet:\n%s", p.said())
			}
		})
	}
}

// transfer sends n bytes from a to b by TCP. It gives what b's kernel counted,
// and how many bytes a's kernel sent again, as it may when b is slow to answer.
func transfer(t *testing.T, a, b *nettest.Host, to netip.Addr, n int64) (received *unix.TCPInfo, again uint64, err error) {
	t.Helper()
	addr := netip.AddrPortFrom(to, 5201).String()
	ln, err := b.Listen("tcp", addr)
	if err != nil {
		return nil, 0, err
	}
	defer ln.Close()
	from, err := a.Dial("tcp", addr)
	if err != nil {
		return nil, 0, err
	}
	defer from.Close()
	go func() {
		io.Copy(from, io.LimitReader(zeros{}, n))
		from.(*net.TCPConn).CloseWrite()
	}()
	conn, err := ln.Accept()
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return nil, 0, err
	}
	sent, err := tcpInfo(from)
	if err != nil {
		return nil, 0, err
	}
	received, err = tcpInfo(conn)
	return received, sent.Bytes_retrans, err
}

func tcpInfo(conn net.Conn) (info *unix.TCPInfo, err error) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	return info, err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestRealMGENFragmentsAndTCP: the real generator's fragmented datagrams and
// its TCP messages have their flow IDs on every packet with data.
func TestRealMGENFragmentsAndTCP(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-f", "log")
	c := p.dial(a, "bulk\n")
	go io.Copy(io.Discard, c)
	ctx, cancel := context.WithCancel(t.Context())
	sink := b.Command(ctx, "mgen", "output", "/dev/null", "event", "listen udp 5001", "event", "listen tcp 5002")
	if err := sink.Start(); err != nil {
		t.Fatal(err)
	}
	if !nettest.Eventually(10*time.Second, func() bool { return listening(t, b, 5002) }) {
		t.Fatal("mgen does not listen")
	}
	to := b.Interface.IPv4.String()
	source := a.Command(ctx, "mgen", "output", "/dev/null",
		"event", "on 91 udp src 4001 dst "+to+"/5001 periodic [50 4000] count 20",
		"event", "on 92 tcp src 4002 dst "+to+"/5002 periodic [20 5000] count 10")
	if err := source.Start(); err != nil {
		t.Fatal(err)
	}
	defer sink.Wait()
	defer source.Wait()
	defer cancel()
	count := func() (fragments, datagrams, messageBytes int, wrong []wire.Record) {
		for _, r := range p.logLines("log") {
			switch {
			case r.FlowID == 91:
				fragments++
				datagrams += int(r.Length) - 20
			case r.FlowID == 92:
				messageBytes += int(r.Length) - 52
			case r.Proto == wire.ProtoUDP || r.Proto == wire.ProtoTCP && r.DstPort == 5002 && r.Length > 60:
				wrong = append(wrong, r)
			}
		}
		return fragments, datagrams, messageBytes, wrong
	}
	nettest.Eventually(20*time.Second, func() bool {
		if _, err := os.Stat(filepath.Join(p.dir, "log")); err != nil {
			return false
		}
		fragments, _, bytes, _ := count()
		return fragments >= 60 && bytes >= 50_000
	})
	fragments, datagrams, bytes, wrong := count()
	if fragments != 60 || datagrams != 20*4008 || bytes != 50_000 || len(wrong) > 0 {
		t.Errorf("%d fragments of %d bytes, want 60 of %d; %d bytes of messages by TCP, want 50000; without flow: %+v",
			fragments, datagrams, 20*4008, bytes, wrong)
	}
}

// listening reports whether a TCP socket of a host listens on a port: state 0A in
// /proc/net/tcp.
func listening(t *testing.T, h *nettest.Host, port int) bool {
	t.Helper()
	var data []byte
	var err error
	h.Do(func() { data, err = os.ReadFile("/proc/thread-self/net/tcp") })
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(data), fmt.Sprintf(":%04X 00000000:0000 0A", port))
}

// TestRecollectOverAgent: our collector prints the lines of our agent, also of
// one that was killed and started again.
func TestRecollectOverAgent(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	dir := t.TempDir()
	bin := recollect(t)
	conf := filepath.Join(dir, "collector.conf")
	os.WriteFile(conf, []byte("1=2000\n2=M1000\n3=2000-2999\nn1:127.0.0.1:7073\n"), 0o644)
	out, err := os.Create(filepath.Join(dir, "lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	collector := a.Command(t.Context(), bin, "-c", conf)
	collector.Stdout = out
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	defer collector.Wait()
	defer collector.Process.Signal(syscall.SIGTERM)
	first := nettest.Between(a, b, 1, 2000, nil)
	first.Dst = netip.AddrPortFrom(nobody, 2000)
	second := first
	second.Dst = netip.AddrPortFrom(nobody, 2500)
	m := nettest.MGEN{Flow: 1000, Time: time.Now(), Dst: second.Dst, Size: 100}
	second.Payload = m.Payload()
	other := first
	other.Dst = netip.AddrPortFrom(nobody, 9)
	wants := []string{"n1:1:224:0", "n1:3:224:1", "n1:2:1024:0", "n1:3:1024:1", "n1:X:224:0"}
	for round := range 3 {
		p := start(t, a)
		p.await(": attached (bulk)", 1)
		send(t, a, 300, 5000, first.Ethernet(), second.Ethernet(), other.Ethernet())
		if !nettest.Eventually(10*time.Second, func() bool { return countLines(t, out.Name()) >= 500*(round+1) }) {
			t.Fatalf("round %d: %d lines, want %d", round, countLines(t, out.Name()), 500*(round+1))
		}
		p.signal(syscall.SIGKILL)
		<-p.exited
	}
	data, _ := os.ReadFile(out.Name())
	lines := withoutTime(strings.Split(strings.TrimSpace(string(data)), "\n"))
	for i, line := range lines {
		if line != wants[i%len(wants)] {
			t.Fatalf("line %d is %s, want %s", i, line, wants[i%len(wants)])
		}
	}
	if len(lines) != 1500 || slices.Contains(lines, "") {
		t.Errorf("%d lines", len(lines))
	}
}

func countLines(t *testing.T, name string) int {
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(data), "\n")
}
