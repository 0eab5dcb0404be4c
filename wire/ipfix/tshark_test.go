package ipfix

import (
	"encoding/binary"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/wire"
)

// TestWiresharkKnowsEveryRecord: tshark dissects records and templates of every kind that there is, and
// has nothing to remark about any.
func TestWiresharkKnowsEveryRecord(t *testing.T) {
	recs := everyKind()
	w := Writer{Domain: 7, RepairPort: 4741, Names: Names{Node: "1.n1", Interface: "eth0"}}
	messages := encode(t, &w, MaxDatagram, recs)
	for _, r := range []wire.Record{packet4(nil), packet6(nil)} {
		buf, ok := AppendFlow(nil, &r, 1000, r.Time+1_000_000_000)
		if !ok {
			t.Fatalf("flow %+v is refused", r)
		}
		m, n := w.Message(nil, now, MaxDatagram, buf, []uint32{0, uint32(len(buf))})
		if n != 1 {
			t.Fatalf("%d flows in a message, want 1", n)
		}
		messages = append(messages, m)
	}
	messages = append(messages, w.Statistics(nil, now, Statistics{NotSent: 5, Records: uint64(len(recs))}))

	// A capture file of raw IPv4 (LINKTYPE_IPV4), with the messages in UDP datagrams.
	file := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	for _, v := range []uint32{2 | 4<<16, 0, 0, 65535, 228} {
		file = binary.LittleEndian.AppendUint32(file, v)
	}
	for _, m := range messages {
		n := uint32(28 + len(m))
		for _, v := range []uint32{uint32(now.Unix()), 0, n, n} {
			file = binary.LittleEndian.AppendUint32(file, v)
		}
		header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, wire.ProtoUDP, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 4739 >> 8, 4739 & 255, 4739 >> 8, 4739 & 255, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(header[2:], uint16(n))
		binary.BigEndian.PutUint16(header[24:], uint16(n-20))
		file = append(append(file, header...), m...)
	}
	name := filepath.Join(t.TempDir(), "all.pcap")
	if err := os.WriteFile(name, file, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("tshark", "-r", name, "-d", "udp.port==4739,cflow", "-V").CombinedOutput()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, out)
	}
	text := string(out)
	for _, bad := range []string{"Malformed", "Expert Info", "Sequence number mismatch", "No template found", "Unknown("} {
		if i := strings.Index(text, bad); i >= 0 {
			t.Errorf("tshark says %q:\n%s", bad, text[max(0, i-1500):min(len(text), i+300)])
		}
	}
	// What it found, by template; a record begins with its number in brackets.
	want := map[string]int{"256": 1, "257": 1} // the flows
	for i := range recs {
		want[kindOf(&recs[i])]++
	}
	for _, option := range []string{"258", "260"} {
		want[option] = 1
	}
	got, set := map[string]int{}, ""
	sets, records := regexp.MustCompile(`FlowSet Id: \(Data\) \((\d+)\)`), regexp.MustCompile(`^\s+Flow \d+$`)
	for line := range strings.Lines(text) {
		if m := sets.FindStringSubmatch(line); m != nil {
			set = m[1]
		} else if records.MatchString(strings.TrimRight(line, "\n")) {
			got[set]++
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("tshark sees records of templates %v, want %v", got, want)
	}
	if n := strings.Count(text, "Packets: 1000\n"); n != 2 {
		t.Errorf("tshark sees %d flows of 1000 packets, want 2", n)
	}
}

// kindOf is the template of a record, as doc.go has it.
func kindOf(r *wire.Record) string {
	v6 := r.Flags&wire.IPv6 != 0
	switch {
	case r.Flags&wire.HostStat != 0:
		return "259"
	case r.Flags&wire.NotTraffic != 0 && v6:
		return "262"
	case r.Flags&wire.NotTraffic != 0:
		return "261"
	case v6:
		return "257"
	}
	return "256"
}
