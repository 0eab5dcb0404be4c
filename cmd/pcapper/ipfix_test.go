package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// messageReader takes IPFIX messages off a connection.
type messageReader struct {
	conn net.Conn
	d    ipfix.Decoder
	all  [][]byte // the messages so far
	buf  []byte
}

// read returns the first n records at least.
func (m *messageReader) read(t *testing.T, n int) (recs []wire.Record) {
	t.Helper()
	for len(recs) < n {
		recs = append(recs, m.next(t)...)
	}
	return recs
}

func (m *messageReader) next(t *testing.T) []wire.Record {
	t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		size, err := ipfix.Length(m.buf)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 && size <= len(m.buf) {
			msg := bytes.Clone(m.buf[:size])
			m.buf = m.buf[size:]
			m.all = append(m.all, msg)
			recs, err := m.d.Decode(msg, nil)
			if err != nil {
				t.Fatal(err)
			}
			return recs
		}
		chunk := make([]byte, 64<<10)
		k, err := m.conn.Read(chunk)
		if err != nil {
			t.Fatal(err)
		}
		m.buf = append(m.buf, chunk[:k]...)
	}
}

// dialIPFIX attaches a collector of IPFIX.
func (a *agentProcess) dialIPFIX(from *nettest.Host) *messageReader {
	a.t.Helper()
	attached := strings.Count(a.said(), ": attached")
	conn, err := from.Dial("tcp", net.JoinHostPort(a.host.Interface.IPv4.String(), "4739"))
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { conn.Close() })
	a.await(": attached (ipfix)", attached+1)
	return &messageReader{conn: conn}
}

// startMGEN starts the real generator; the test's end ends it.
func startMGEN(t *testing.T, h *nettest.Host, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m := h.Command(ctx, "mgen", append([]string{"output", "/dev/null"}, args...)...)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); m.Wait() })
}

// TestIPFIX: what 28 bytes cannot say arrives by IPFIX: IPv6, and MGEN's
// sequence numbers and times, the sender's and the receiver's. The feed's own
// packets are not reported, and Wireshark understands every message.
func TestIPFIX(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	// The receiver's agent, over the cable that it watches.
	p := start(t, b, "-m", "none", "-ipfix-port", "4739")
	c := p.dialIPFIX(a)
	begin := time.Now()
	startMGEN(t, a, "event", "on 77 udp src 4001 dst "+b.Interface.IPv4.String()+"/5001 periodic [200 200] count 50")
	startMGEN(t, a, "ipv6", "event", "on 99 udp src 4003 dst "+b.Interface.IPv6.String()+"/5003 periodic [100 100] count 20")
	count := map[uint32]uint32{}
	for _, r := range c.read(t, 70) {
		if r.Proto == 1 || r.Proto == 58 { // nobody listens
			continue
		}
		sent, now := time.UnixMicro(r.MGENTime), time.Now()
		if r.Flags&^wire.IPv6 != wire.MGEN|wire.MGENHeader|wire.Incoming || r.MGENSeq != count[r.FlowID] ||
			sent.Before(begin.Truncate(time.Microsecond)) || time.Unix(0, r.Time).Before(sent) || now.Before(time.Unix(0, r.Time)) {
			t.Fatalf("message %d of flow %d is %+v", count[r.FlowID], r.FlowID, r)
		}
		want := map[uint32]netip.AddrPort{77: netip.AddrPortFrom(b.Interface.IPv4, 5001), 99: netip.AddrPortFrom(b.Interface.IPv6, 5003)}[r.FlowID]
		if got := netip.AddrPortFrom(r.DstAddr(), r.DstPort); got != want {
			t.Fatalf("flow %d goes to %v, want %v", r.FlowID, got, want)
		}
		count[r.FlowID]++
	}
	for !nettest.Eventually(time.Millisecond, func() bool { return count[77] == 50 && count[99] == 20 }) {
		for _, r := range c.next(t) {
			if r.Flags&wire.MGENHeader != 0 && r.MGENSeq == count[r.FlowID] {
				count[r.FlowID]++
			}
		}
	}
	if n := c.d.Counts(); n.Lost+n.Other+n.Unknown != 0 {
		t.Errorf("%+v", n)
	}
	for _, r := range c.read(t, 0) {
		t.Errorf("one more: %+v", r)
	}
	dissect(t, c.all, int(c.d.Counts().Packets))
}

// dissect lets Wireshark take messages apart, which must find nothing wrong
// with them, and records of n packets.
func dissect(t *testing.T, messages [][]byte, n int) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ipfix.pcap")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	w.WriteFileHeader(65536, layers.LinkTypeIPv4)
	ports := netip.MustParseAddr("192.0.2.1")
	for _, m := range messages {
		frame := nettest.Frame{Src: netip.AddrPortFrom(ports, 4739), Dst: netip.AddrPortFrom(ports, 4739), Payload: m}
		ip := frame.IP()
		w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: len(ip), Length: len(ip)}, ip)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", name, "-d", "udp.port==4739,cflow", "-V").Output()
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	for _, bad := range []string{"Malformed", "Expert Info", "Sequence number mismatch", "No template found"} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Fatalf("tshark says:\n%s", text[max(0, i-1500):min(len(text), i+300)])
		}
	}
	got := 0
	for line := range strings.Lines(text) {
		if count, ok := strings.CutPrefix(strings.TrimSpace(line), "Packets: "); ok {
			packets, err := strconv.Atoi(count)
			if err != nil {
				t.Fatal(err)
			}
			got += packets
		}
	}
	if got != n {
		t.Errorf("tshark sees %d packets, want %d:\n%s", got, n, text[:min(len(text), 6000)])
	}
}

// TestRecollectIPFIX: collector.conf may name agents by what they speak; both
// kinds give the same lines.
func TestRecollectIPFIX(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-ipfix-port", "4739")
	dir := t.TempDir()
	conf := filepath.Join(dir, "collector.conf")
	text := fmt.Sprintf("1=M7\np:%[1]s:7073\ni:ipfix://%[1]s:4739\nj:ipfix://[%[2]s]:4739\n", a.Interface.IPv4, a.Interface.IPv6)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := recollect(t)
	var out, said bytes.Buffer
	r := b.Command(t.Context(), bin, "-c", conf)
	r.Stdout, r.Stderr = &out, &said
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	p.await(": attached", 3)
	m := nettest.MGEN{Flow: 7, Seq: 1, Time: time.Now(), Dst: netip.AddrPortFrom(nobody, 2000), Size: 100}
	frame := nettest.Between(a, b, 1000, 2000, m.Payload())
	frame.Dst = m.Dst
	send(t, a, 1000, 20000, frame.Ethernet())
	p.stop()
	r.Process.Signal(syscall.SIGINT)
	r.Wait()
	byHost := map[string][]string{}
	for line := range strings.Lines(out.String()) {
		f := strings.Split(line, ":")
		f[1], byHost[f[1]] = "", append(byHost[f[1]], strings.Join(append(f[:1:1], f[2:]...), ":"))
	}
	for _, host := range []string{"p", "i", "j"} {
		if got := strings.Join(byHost[host], ""); got != strings.Join(byHost["p"], "") || len(byHost[host]) != 1000 {
			t.Errorf("%s has %d lines, or other ones than p; recollect said:\n%s", host, len(byHost[host]), said.String())
		}
	}
	if want := ":1:" + strconv.Itoa(128*8) + ":0\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no line with %q", want)
	}
}
