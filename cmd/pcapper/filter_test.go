package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// testDatagram is a UDP datagram from port 4000, as one packet or cut into three
// fragments, in frames with so many VLAN tags.
type testDatagram struct {
	port  uint16
	ipv6  bool
	tags  int
	whole bool
	id    uint16
}

// frames returns it as b sends it to a.
func (d testDatagram) frames(a, b *nettest.Host) (frames [][]byte) {
	const size = 48
	body := make([]byte, size)
	binary.BigEndian.PutUint16(body, 4000)
	binary.BigEndian.PutUint16(body[2:], d.port)
	binary.BigEndian.PutUint16(body[4:], size)
	step := 16
	if d.whole {
		step = size
	}
	for from := 0; from < size; from += step {
		frames = append(frames, slices.Concat(d.link(a, b), d.header(from, step, from+step < size), body[from:from+step]))
	}
	return frames
}

func (d testDatagram) link(a, b *nettest.Host) []byte {
	h := slices.Concat(a.Interface.MAC[:], b.Interface.MAC[:])
	for _, tag := range [][]byte{{0x88, 0xa8, 0, 7}, {0x81, 0, 0, 5}}[2-d.tags:] {
		h = append(h, tag...)
	}
	if d.ipv6 {
		return append(h, 0x86, 0xdd)
	}
	return append(h, 8, 0)
}

// header is the IP header of the fragment of n bytes at from.
func (d testDatagram) header(from, n int, more bool) []byte {
	if !d.ipv6 {
		h := []byte{0x45, 0, 0, byte(20 + n), 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
		binary.BigEndian.PutUint16(h[4:], d.id)
		h[7] = byte(from / 8)
		if more {
			h[6] = 0x20
		}
		return h
	}
	src, dst := net.ParseIP("2001:db8::1"), net.ParseIP("2001:db8::2")
	if d.whole {
		return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(n), 17, 64}, src, dst)
	}
	fragment := []byte{17, 0, 0, byte(from), 0, 0, byte(d.id >> 8), byte(d.id)}
	if more {
		fragment[3] |= 1
	}
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(8 + n), 44, 64}, src, dst, fragment)
}

// everyDatagram gives, for each IP version and number of tags, one packet and
// one datagram in three fragments to port 5001, the same to port 9, and a last
// fragment whose first comes after it.
func everyDatagram(a, b *nettest.Host) (frames [][]byte) {
	d := testDatagram{}
	for _, d.ipv6 = range []bool{false, true} {
		for d.tags = range 3 {
			for _, d.port = range []uint16{5001, 9} {
				d.whole = true
				frames = append(frames, d.frames(a, b)...)
				d.whole = false
				d.id++
				frames = append(frames, d.frames(a, b)...)
			}
			d.port = 5001
			d.id++
			late := d.frames(a, b)
			frames = append(frames, late[2], late[0], late[1])
		}
	}
	return frames
}

// filterCases are expressions, and how many packets of each IP version and
// number of tags match them.
var filterCases = []struct {
	mode string
	want int
}{
	{"udp port 5001", 1 + 3 + 2}, // the fragment before its first does not tell
	{"udp and not port 5001", 1 + 3 + 1},
	{"udp and not port 9", 1 + 3 + 3},
	{"portrange 5000-5002", 1 + 3 + 2},
	{"udp port 9 and src port 4000", 1 + 3},
	{"tcp port 5001", 0},
	{"host 192.0.2.1 or host 2001:db8::1", 4 + 4 + 3},
}

// readFrames returns the lines of -read.
func readFrames(t *testing.T, frames [][]byte, args ...string) []string {
	t.Helper()
	var file bytes.Buffer
	w := pcapgo.NewWriter(&file)
	w.WriteFileHeader(65535, 1)
	for i, f := range frames {
		w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1, int64(i)*1e6), CaptureLength: len(f), Length: len(f)}, f)
	}
	out, said, code := runProgram(t, &file, append([]string{"-read", "-"}, args...)...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
}

// TestFilterOfFragmentsAndTags: an expression with ports matches all fragments of
// a datagram, and frames with and without VLAN tags, in files and in every
// engine alike.
func TestFilterOfFragmentsAndTags(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	frames := everyDatagram(a, b)
	for _, tt := range filterCases {
		want := readFrames(t, frames, "-m", tt.mode)
		if len(want) != 6*tt.want {
			t.Errorf("-read -m %q: %d packets, want %d:\n%s", tt.mode, len(want), 6*tt.want, strings.Join(want, "\n"))
		}
	}
	engines := []string{"ebpf", "ring"}
	if tagFlags != nil {
		engines = append(engines, "libpcap")
	}
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			if engine == "ebpf" {
				nettest.NeedTCX(t)
			}
			for i, tt := range filterCases {
				if i > 1 && engine != "ring" {
					continue // each loads programs
				}
				testLiveFilter(t, a, b, engine, tt.mode, frames, readFrames(t, frames, "-m", tt.mode))
			}
		})
	}
}

func testLiveFilter(t *testing.T, a, b *nettest.Host, engine, mode string, frames [][]byte, want []string) {
	t.Helper()
	p := start(t, a, "-engine", engine, "-m", mode, "-f", "/dev/null")
	c := p.dial(a, "text\n")
	send(t, b, len(frames), 2000, frames...)
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var got []string
	scan := bufio.NewScanner(c)
	next := func() bool {
		more := scan.Scan()
		if more && !strings.Contains(scan.Text(), "fe80") { // the hosts' own
			got = append(got, scan.Text())
		}
		return more
	}
	for len(got) < len(want) && next() {
	}
	p.stop()
	for next() { // what the agent still had
	}
	t.Logf("%s, -m %q: %d packets", engine, mode, len(got))
	diff(t, withoutTime(got), withoutTime(want))
}
