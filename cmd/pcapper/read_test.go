package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

const captures = "../../internal/agent/decode/testdata/"

// capturesWithTruth are all captures whose every frame is known.
func capturesWithTruth(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(captures + "*/*.pcap*")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	return files
}

// open opens a file that may be compressed.
func open(t *testing.T, name string) io.Reader {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return bytes.NewReader(data)
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// truth returns the lines that a capture's truth file asks for, by frame number
// from 1; frames without record have none.
func truth(t *testing.T, capture string) []string {
	t.Helper()
	rows, err := csv.NewReader(open(t, strings.Replace(capture, ".pcap", ".truth.csv", 1))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	lines := make([]string, len(rows))
	for i, row := range rows[1:] {
		get := func(name string) string { return row[column[name]] }
		if get("src") == "" {
			continue
		}
		lines[i+1] = strings.Join([]string{get("time"), bracket(get("src")), get("sport"), bracket(get("dst")), get("dport"),
			get("iplen"), get("mgen"), get("proto")}, ":")
	}
	return lines
}

func bracket(addr string) string {
	if strings.Contains(addr, ":") {
		return "[" + addr + "]"
	}
	return addr
}

// differing lists frames for which the truth files say something else than we
// do, and why ours is right.
var differing = map[string]map[int]string{
	"crafted-malformed": {
		77: "total length 0 is less than the header: no packet (only TCP super-packets have 0)",
		78: "total length 1 is less than the header: no packet",
		79: "total length 19 is less than the header: no packet",
		80: "total length 20 has no room for ports: what follows is padding",
		88: "payload length 0 has no room for ports: what follows is padding",
		89: "payload length 1 has no room for ports: what follows is padding",
	},
}

// run runs the program to its end.
func runProgram(t *testing.T, stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// TestReadGivesTheTruth: the lines of -read equal the truth files' columns.
func TestReadGivesTheTruth(t *testing.T) {
	t.Parallel()
	for _, capture := range capturesWithTruth(t) {
		name, _, _ := strings.Cut(filepath.Base(capture), ".pcap")
		t.Run(name, func(t *testing.T) {
			out, said, code := runProgram(t, nil, "-read", capture)
			if code != 0 {
				t.Errorf("exit code %d, said %q", code, said)
			}
			var want []string
			skip := map[string]bool{} // times: the lines of these frames are ours
			lines := truth(t, capture)
			// A super-packet gives one line here, as a file does not tell how it was cut.
			if got, want := withoutRecord(t, said), len(lines)-1-strings.Count(out, "\n"); got != want {
				t.Errorf("%d frames are said to give no record, want %d: %s", got, want, said)
			}
			for frame, line := range lines {
				if reason := differing[name][frame]; reason != "" {
					stamp, _, _ := strings.Cut(line, ":")
					skip[stamp] = true
				} else if line != "" {
					want = append(want, line)
				}
			}
			var got []string
			for _, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
				if stamp, _, _ := strings.Cut(line, ":"); !skip[stamp] {
					got = append(got, line)
				}
			}
			diff(t, got, want)
		})
	}
}

// withoutRecord adds up the frames that -read says gave no record.
func withoutRecord(t *testing.T, said string) (sum int) {
	t.Helper()
	for line := range strings.Lines(said) {
		m := regexp.MustCompile(`^pcapper: .*: ([0-9,]+) frames? gave no record: [a-z, ]+\n$`).FindStringSubmatch(line)
		if m == nil {
			t.Errorf("said %q", line)
			continue
		}
		n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
		if err != nil {
			t.Error(err)
		}
		sum += n
	}
	return sum
}

func diff(t *testing.T, got, want []string) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("line %d is %s\nwant %s", i+1, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
}

// withoutTime cuts the first field off each line.
func withoutTime(lines []string) (cut []string) {
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, ":")
		cut = append(cut, rest)
	}
	return cut
}

// TestLiveEqualsRead: the same frames give the same records from a capture
// file and from a live interface.
func TestLiveEqualsRead(t *testing.T) {
	a, b := nettest.Pair(t)
	jumbo(t, a, b)
	p := start(t, a, "-m", "dst", "-f", "/dev/null")
	sent := 0
	for _, capture := range capturesWithTruth(t) {
		frames := sendable(t, capture)
		if len(frames) == 0 {
			continue // of another link layer, or longer than the MTU can be
		}
		sent++
		t.Run(filepath.Base(capture), func(t *testing.T) {
			var file bytes.Buffer
			w := pcapgo.NewWriter(&file)
			w.WriteFileHeader(65535+14, 1)
			for _, f := range frames {
				w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(f), Length: len(f)}, f)
			}
			out, _, code := runProgram(t, &file, "-read", "-")
			if code != 0 {
				t.Fatalf("exit code %d", code)
			}
			want := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
			c := p.dial(a, "text\n")
			defer c.Close()
			send(t, b, len(frames), 10_000, frames...)
			c.SetReadDeadline(time.Now().Add(10 * time.Second))
			var got []string
			for scan := bufio.NewScanner(c); len(got) < len(want) && scan.Scan(); {
				got = append(got, scan.Text())
			}
			if filepath.Base(capture) == "crafted-malformed.pcap" {
				got, want = withoutChain(got), withoutChain(want)
			}
			diff(t, withoutTime(got), withoutTime(want))
		})
	}
	if sent < 30 {
		t.Errorf("only %d captures could be sent, want 30 at least", sent)
	}
}

// withoutChain leaves out the packet with 61 extension headers, 488 bytes of
// them: a live capture takes 256 bytes of a frame.
func withoutChain(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, ":537:") })
}

// jumbo lets the pair carry the largest frames, and gives a another MAC
// address, so that it answers none of them.
func jumbo(t *testing.T, a, b *nettest.Host) {
	t.Helper()
	for _, h := range []*nettest.Host{a, b} {
		link, err := h.Netlink().LinkByName("eth0")
		if err == nil {
			err = h.Netlink().LinkSetMTU(link, 65535)
		}
		if err == nil && h == a {
			err = h.Netlink().LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 0x77})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// sendable are a capture's frames that a network card would take: complete,
// with an Ethernet header, and not too long.
func sendable(t *testing.T, capture string) (frames [][]byte) {
	t.Helper()
	r, err := pcapgo.NewReader(open(t, capture))
	if err != nil {
		t.Fatal(err)
	}
	if r.LinkType() != layers.LinkTypeEthernet {
		return nil
	}
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(data) >= 15 && len(data) <= 65535+14 && ci.Length == ci.CaptureLength {
			frames = append(frames, slices.Clone(data))
		}
	}
}

func TestReadDamagedFile(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(captures + "mgen/udp4.pcap")
	if err != nil {
		t.Fatal(err)
	}
	want, _, _ := runProgram(t, nil, "-read", captures+"mgen/udp4.pcap")
	out, said, code := runProgram(t, bytes.NewReader(whole[:len(whole)-10]), "-read", "-")
	if code != 8 || !strings.HasPrefix(want, out) || strings.Count(out, "\n") != strings.Count(want, "\n")-1 {
		t.Errorf("exit code %d, %d lines of %d", code, strings.Count(out, "\n"), strings.Count(want, "\n"))
	}
	if !strings.Contains(said, "standard input") || !strings.Contains(said, "damaged at byte 55510, packet 164") {
		t.Errorf("said %q", said)
	}
	for args, says := range map[string][2]string{
		"-read " + t.TempDir(): {"as a capture file: it is a directory", "hint: name one of the files in it"},
		"-read /dev/null":      {`cannot read "/dev/null" as a capture file: it is empty`, "hint: "},
	} {
		if _, said, code := runProgram(t, nil, strings.Fields(args)...); code != 4 || !strings.Contains(said, says[0]) || !strings.Contains(said, says[1]) {
			t.Errorf("%s: exit code %d, said %q", args, code, said)
		}
	}
	for _, args := range []string{"-read /nonexistent", "-read /dev/null", "-read live_test.go"} {
		out, said, code := runProgram(t, nil, strings.Fields(args)...)
		if code == 0 || out != "" || !strings.HasPrefix(said, "pcapper: ") {
			t.Errorf("%s: exit code %d, %q", args, code, said)
		}
	}
}

// TestReadIsNotSilent: a file that gives no line, or not as many as it has
// frames, says why.
func TestReadIsNotSilent(t *testing.T) {
	t.Parallel()
	pcap := func(link layers.LinkType, frames ...[]byte) *bytes.Buffer {
		var file bytes.Buffer
		w := pcapgo.NewWriter(&file)
		w.WriteFileHeader(65535, link)
		for _, f := range frames {
			w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(f), Length: len(f)}, f)
		}
		return &file
	}
	arp := append(make([]byte, 12), append([]byte{8, 6}, make([]byte, 28)...)...)
	odd := append(make([]byte, 12), append([]byte{0x12, 0x34}, make([]byte, 46)...)...)
	zeros := pcap(layers.LinkTypeEthernet)
	zeros.Write(make([]byte, 32)) // two record headers
	for _, tt := range []struct {
		name string
		file *bytes.Buffer
		args string
		says string
	}{
		{"nothing", pcap(layers.LinkTypeEthernet), "", "pcapper: standard input: no packets in it\n"},
		{"two reasons", pcap(layers.LinkTypeEthernet, arp, odd, arp), "", "pcapper: standard input: 2 frames gave no record: arp\npcapper: standard input: 1 frame gave no record: other ethertype\n"},
		{"empty packets", zeros, "", "pcapper: standard input: 2 frames gave no record: short link header\n"},
		{"unknown link type", pcap(147, arp), "", "pcapper: standard input: 1 frame of link types [147], which are not understood, gave no record\n"},
		{"cut link header", pcap(layers.LinkTypeLinuxSLL, arp[:10]), "", "pcapper: standard input: 1 frame gave no record: short link header\n"},
		{"no match", pcap(layers.LinkTypeEthernet, arp, odd), "-m udp", "pcapper: standard input: -m \"udp\" matches none of 2 frames\n"},
		{"one match", pcap(layers.LinkTypeEthernet, arp, odd), "-m arp", "pcapper: standard input: 1 frame gave no record: arp\n"},
	} {
		out, said, code := runProgram(t, tt.file, append([]string{"-read", "-"}, strings.Fields(tt.args)...)...)
		if out != "" || code != 0 || said != tt.says {
			t.Errorf("%s: exit code %d, printed %q, said\n%swant\n%s", tt.name, code, out, said, tt.says)
		}
	}
}

func TestReadWithModes(t *testing.T) {
	t.Parallel()
	const relays = captures + "relay/smf.n2.pcap"
	n1, n2 := "02:00:00:00:00:01", "02:00:00:00:00:02"
	for _, tt := range []struct {
		args string
		want int // MGEN packets of the flow
	}{
		{"-m src -mac " + n2, 20},                                       // all relayed
		{"-m spoof -mac " + n2 + " -ip 10.50.0.2", 0},                   //
		{"-m spoof -mac " + n1 + " -ip 10.50.0.1", 40},                  // n2's and n3's echoes
		{"-m dst -mac " + n2, 40},                                       // n1's, and n3's echoes
		{"-m none", 60},                                                 //
		{"-m udp", 60},                                                  //
		{"-m ether_src_%m -mac " + n1, 20},                              //
		{"-m not_src_host_%i -mac " + n1 + " -ip 10.50.0.1,fd00::1", 0}, //
	} {
		args := append([]string{"-read", relays}, strings.Fields(tt.args)...)
		args[3] = strings.ReplaceAll(args[3], "_", " ")
		out, said, code := runProgram(t, nil, args...)
		n := 0
		for _, line := range strings.Split(out, "\n") {
			if f := strings.Split(line, ":"); len(f) == 8 && f[6] != "0" {
				n++
			}
		}
		if code != 0 || n != tt.want {
			t.Errorf("%s: %d packets, want %d (exit code %d, %s)", tt.args, n, tt.want, code, said)
		}
	}
	if _, said, code := runProgram(t, nil, "-read", relays, "-m", "src"); code != 22 || !strings.Contains(said, "MAC") {
		t.Errorf("-m src without -mac: exit code %d, said %q", code, said)
	}
}

// TestReadBMF: n1 sent 20 packets, which the others carried on inside BMF.
func TestReadBMF(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args string
		want int
	}{
		{"-m spoof -mac 02:00:00:00:00:01 -ip 10.50.0.1", 0},       // outside they are the forwarder's
		{"-m spoof -mac 02:00:00:00:00:01 -ip 10.50.0.1 -bmf", 20}, // inside they are n1's echoes
		{"-m src -mac 02:00:00:00:00:02 -ip 10.50.0.2 -bmf", 20},   // what n2 carried on
		{"-m none", 0},
	} {
		out, said, code := runProgram(t, nil, append([]string{"-read", captures + "relay/bmf.n1.pcap.gz"}, strings.Fields(tt.args)...)...)
		if n := strings.Count(out, ":10.50.0.1:4001:225.1.2.3:5001:228:9002:17\n"); code != 0 || n != tt.want {
			t.Errorf("%s: %d packets, want %d (exit code %d, %s)", tt.args, n, tt.want, code, said)
		}
	}
}

// TestReadInner: with -inner no packet of a VXLAN link is the tunnel's own, and
// spoof goes by the address inside.
func TestReadInner(t *testing.T) {
	t.Parallel()
	read := func(args ...string) (outer, inner int) {
		out, said, code := runProgram(t, nil, append([]string{"-read", captures + "edge/vxlan.pcap"}, args...)...)
		if code != 0 {
			t.Errorf("%v: exit code %d, %s", args, code, said)
		}
		for line := range strings.Lines(out) {
			if strings.Contains(line, ":4789:") {
				outer++
			} else {
				inner++
			}
		}
		return outer, inner
	}
	outer, _ := read("-m", "none")
	left, inner := read("-m", "none", "-inner")
	if outer == 0 || inner == 0 || left+inner < outer || left > outer/2 {
		t.Errorf("%d packets of the tunnel; with -inner %d, and %d inside", outer, left, inner)
	}
}

func TestFragmentsFirst(t *testing.T) {
	t.Parallel()
	out, _, _ := runProgram(t, nil, "-read", captures+"mgen/udp4-frag.pcap", "-fragments", "first")
	count := map[string]int{}
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Split(line, ":"); len(f) == 8 && f[6] != "0" {
			count[fmt.Sprint(f[6], " of ", f[5])]++
		}
	}
	want := map[string]int{"1401 of 8220": 10, "1402 of 1501": 10, "1403 of 4028": 10}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("flows %v, want %v", count, want)
	}
}
