package pcapfile

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/agent/packet"
)

var update = flag.Bool("update", false, "write the golden files anew, with tshark")

// TestTools reads the captures that testdata/generate.sh made with the real
// tools, and compares with what tshark says of them.
func TestTools(t *testing.T) {
	names, err := filepath.Glob("testdata/*.pcap*")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d captures in testdata, error %v", len(names), err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".golden") {
			continue
		}
		t.Run(filepath.Base(name), func(t *testing.T) {
			if *update {
				writeGolden(t, name)
			}
			compareGolden(t, name, readGolden(t, name+".golden"))
		})
	}
}

// golden is what tshark says of one packet.
type golden struct {
	time      int64
	wire, cap int
	encap     int // Wireshark's own number for a link type
	protocols string
	direction string // of a packet's flags, empty if it has none
	pktType   string // of a cooked header
	data      []byte // with its link header
}

func readGolden(t *testing.T, name string) (all []golden) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v (hint: go test -run Tools -update)", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		g, err := parseGolden(strings.Split(lines.Text(), "\t"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		all = append(all, g)
	}
	return all
}

func parseGolden(f []string) (g golden, err error) {
	if len(f) != 8 {
		return g, fmt.Errorf("%d fields", len(f))
	}
	var errs [5]error
	g.time, errs[0] = strconv.ParseInt(strings.Replace(f[0], ".", "", 1), 10, 64)
	g.wire, errs[1] = strconv.Atoi(f[1])
	g.cap, errs[2] = strconv.Atoi(f[2])
	g.encap, errs[3] = strconv.Atoi(f[3])
	g.protocols, g.direction, g.pktType = f[4], f[5], f[6]
	g.data, errs[4] = hex.DecodeString(f[7])
	return g, errors.Join(errs[:]...)
}

func compareGolden(t *testing.T, name string, want []golden) {
	t.Helper()
	r, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range want {
		var f packet.Frame
		if err := r.Next(&f); err != nil {
			t.Fatalf("packet %d of %d: %v", i+1, len(want), err)
		}
		if err := want[i].check(&f, strings.Contains(name, "modified")); err != nil {
			t.Errorf("packet %d: %v", i+1, err)
		}
	}
	if err := r.Next(new(packet.Frame)); err != io.EOF || r.Skipped() != 0 {
		t.Errorf("after the last packet: error %v, %d skipped", err, r.Skipped())
	}
}

// encaps are Wireshark's link types (wiretap/wtap.h).
var encaps = map[int]struct {
	link   packet.LinkType
	header int
}{
	1:   {packet.Ethernet, 0},
	4:   {packet.Network, -1}, // PPP: two or four bytes, or one
	7:   {packet.RawIP, 0},
	15:  {packet.Network, 4}, // NULL
	25:  {packet.Network, 16},
	129: {packet.Network, 0}, // IPv4
	174: {packet.Network, 4}, // LOOP
	210: {packet.Network, 20},
}

func (g *golden) check(f *packet.Frame, modified bool) error {
	e, ok := encaps[g.encap]
	if !ok {
		return fmt.Errorf("encapsulation %d (%s) is not in the test's table", g.encap, g.protocols)
	}
	if e.header < 0 {
		e.header = len(g.data) - len(f.Data)
	}
	direction := g.wantDirection()
	if modified {
		direction = f.Direction // which tshark does not show
	}
	switch {
	case g.cap != len(g.data):
		return fmt.Errorf("golden file: %d bytes captured, %d shown", g.cap, len(g.data))
	case f.Time != g.time:
		return fmt.Errorf("time %d, want %d", f.Time, g.time)
	case f.WireLen != g.wire-e.header:
		return fmt.Errorf("%d bytes on the wire, want %d", f.WireLen, g.wire-e.header)
	case !bytes.Equal(f.Data, g.data[e.header:]):
		return fmt.Errorf("data % x\nwant % x", f.Data, g.data[e.header:])
	case f.Link != e.link:
		return fmt.Errorf("link %d, want %d", f.Link, e.link)
	case f.Link == packet.Network && f.Protocol != g.wantProtocol():
		return fmt.Errorf("protocol %#04x, want %#04x (%s)", f.Protocol, g.wantProtocol(), g.protocols)
	case f.Direction != direction:
		return fmt.Errorf("direction %d, want %d", f.Direction, direction)
	}
	return nil
}

// wantProtocol is the EtherType of the outermost network header tshark saw.
func (g *golden) wantProtocol() uint16 {
	for p := range strings.SplitSeq(g.protocols, ":") {
		switch p {
		case "ip":
			return etherIPv4
		case "ipv6":
			return etherIPv6
		case "arp":
			return 0x0806
		}
	}
	return 0
}

func (g *golden) wantDirection() packet.Direction {
	switch {
	case g.direction == "0x00000001" || g.direction == "1":
		return packet.Incoming
	case g.direction == "0x00000002" || g.direction == "2":
		return packet.Outgoing
	case g.pktType == "4":
		return packet.Outgoing
	case g.pktType != "":
		return packet.Incoming
	}
	return packet.Unknown
}

// frameRaw finds the bytes of each packet in tshark's JSON.
var frameRaw = regexp.MustCompile(`"frame_raw": \[\s*"([0-9a-f]*)"`)

func writeGolden(t *testing.T, name string) {
	t.Helper()
	fields := tshark(t, name, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "frame.cap_len",
		"-e", "frame.encap_type", "-e", "frame.protocols", "-e", "frame.packet_flags_direction", "-e", "sll.pkttype")
	raw := frameRaw.FindAllSubmatch(tshark(t, name, "-T", "json", "-x"), -1)
	lines := bytes.Split(bytes.TrimSuffix(fields, []byte("\n")), []byte("\n"))
	if len(raw) != len(lines) {
		t.Fatalf("tshark shows %d packets and the bytes of %d", len(lines), len(raw))
	}
	var out bytes.Buffer
	for i, line := range lines {
		fmt.Fprintf(&out, "%s\t%s\n", line, raw[i][1])
	}
	if err := os.WriteFile(name+".golden", out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tshark(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tshark", append([]string{"-n", "-r", name}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	return out
}
