//go:build !libpcap

package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// TestExportRepairs: of two receivers of two groups each loses a twentieth of
// the datagrams. Sequence numbers account for the records in them exactly; and
// where the agent repairs, each record arrives, once. Wireshark finds nothing
// wrong with what goes to groups, by packet and by second.
func TestExportRepairs(t *testing.T) {
	t.Parallel()
	const n = 4_000
	h := nettest.Bridge(t, 4)
	a, receivers, observer := h[0], h[1:3], h[3]
	lossy := observe(t, observer, "239.192.70.73:4739")
	repaired := observe(t, observer, "239.192.70.74:4740")
	flows := observe(t, observer, "239.192.70.75:4742")
	var counting, repairing []*collectorProcess
	for i, r := range receivers {
		loseSome(t, r, i) // the very first are templates and statistics
		conf := fmt.Sprintf("a:from://%s\n", a.Interface.IPv4)
		counting = append(counting, startCollector(t, r, conf, "-listen", "ipfix+udp://239.192.70.73:4739?iface=eth0"))
		repairing = append(repairing, startCollector(t, r, conf, "-listen", "ipfix+udp://239.192.70.74:4740?iface=eth0"))
	}
	p := start(t, a, "-export", "ipfix+udp://239.192.70.73:4739?iface=eth0&per=packet&rate=100M",
		"-export", "ipfix+udp://239.192.70.74:4740?iface=eth0&per=packet&repair=4741&rate=100M",
		"-export", "ipfix+udp://239.192.70.75:4742?iface=eth0")
	p.await("capturing from now on", 1)
	p.logs()
	frames, _ := mixture(a, h[1], n)
	send(t, a, n, 10_000, frames...)
	p.awaitExport(n, 3)
	for _, c := range repairing {
		c.awaitLines(n)
	}
	summary := strings.Join(p.stop(), "\n")
	if !strings.Contains(summary, "messages repeated") {
		t.Errorf("nothing was repeated:\n%s", summary)
	}
	lines := p.grapherLines("a")
	sent := lossy.await(t, n)
	for i, r := range receivers {
		missing := sent.missing(lost(t, r))
		if missing < n/40 || missing > n/8 {
			t.Errorf("%s loses %d records of %d: that is no twentieth", r.Name, missing, n)
		}
		counting[i].awaitMissing(fmt.Sprintf("missing: %d records lost in transit", missing))
		if got, want := len(counting[i].stop()), n-sent.without(lost(t, r)); got != want {
			t.Errorf("%s has %d lines without repairs, want %d", r.Name, got, want)
		}
		if out := repairing[i].stop(); !slices.Equal(slices.Sorted(slices.Values(out)), lines) {
			t.Errorf("%s has %d lines, or others than the log's %d packets", r.Name, len(out), len(lines))
		}
		if said := repairing[i].said.String(); !strings.Contains(said, fmt.Sprintf("a (%s): %d records, 1 connection\n", a.Interface.IPv4, n)) {
			t.Errorf("%s: something is missing after all:\n%s", r.Name, said)
		}
	}
	for _, o := range []*observed{sent, repaired.await(t, n), flows.await(t, n)} {
		dissect(t, o.messages, n)
	}
}

// loseSome makes a host lose every twentieth datagram of each group, and
// remember which: by sequence number and length.
func loseSome(t *testing.T, h *nettest.Host, which int) {
	t.Helper()
	nft := h.Command(t.Context(), "nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(`table ip loss {
	set lost { typeof @th,128,32 . udp length; flags dynamic; size 65535; }
	chain in { type filter hook input priority 0;
		ip daddr 239.192.70.73 udp dport 4739 numgen inc mod 20 == %[1]d add @lost { @th,128,32 . udp length } drop
		ip daddr 239.192.70.74 udp dport 4740 numgen inc mod 20 == %[1]d drop
	}
}`, which))
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}

// datagram is what tells the datagrams of one export apart.
type datagram struct{ sequence, length uint32 }

// lost are the datagrams of the first group that a host has lost.
func lost(t *testing.T, h *nettest.Host) map[datagram]bool {
	t.Helper()
	out, err := h.Command(t.Context(), "nft", "-j", "list", "set", "ip", "loss", "lost").Output()
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Nftables []struct {
			Set struct {
				Elem []struct{ Concat [2]uint32 }
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatal(err)
	}
	lost := map[datagram]bool{}
	for _, part := range list.Nftables {
		for _, e := range part.Set.Elem {
			lost[datagram{e.Concat[0], e.Concat[1] - 8}] = true
		}
	}
	return lost
}

// observed is what is sent to a group, seen by somebody who loses nothing.
type observed struct {
	mu       sync.Mutex
	messages [][]byte
	records  []int // of packets, in each
	packets  int   // that they stand for
	decoder  ipfix.Decoder
}

// observe joins a group on a host until the test ends.
func observe(t *testing.T, h *nettest.Host, group string) *observed {
	t.Helper()
	var conn *net.UDPConn
	var err error
	h.Do(func() {
		var out *net.Interface
		if out, err = net.InterfaceByName("eth0"); err == nil {
			conn, err = net.ListenMulticastUDP("udp4", out, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group)))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadBuffer(4 << 20)
	o := &observed{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, ipfix.MaxMessage)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			o.take(t, slices.Clone(buf[:n]))
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return o
}

func (o *observed) take(t *testing.T, m []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	recs, err := o.decoder.Decode(m, nil)
	if err != nil {
		t.Errorf("%x: %v", m, err)
	}
	for i := range recs {
		o.packets += int(recs[i].Count())
	}
	o.messages, o.records = append(o.messages, m), append(o.records, len(recs))
}

// await waits until records of so many packets have come, and all messages of
// the export's end.
func (o *observed) await(t *testing.T, n int) *observed {
	t.Helper()
	nettest.Eventually(10*time.Second, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.packets >= n
	})
	time.Sleep(100 * time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.decoder.Counts(); o.packets != n || c.Lost+c.Late+c.Other+c.Unknown != 0 {
		t.Errorf("records of %d packets were sent, want %d; %+v", o.packets, n, c)
	}
	return o
}

// without is how many records of packets were in these datagrams.
func (o *observed) without(lost map[datagram]bool) (n int) {
	for i, m := range o.messages {
		if lost[datagram{binary.BigEndian.Uint32(m[8:]), uint32(len(m))}] {
			n += o.records[i]
		}
	}
	return n
}

// missing is how many data records are known to be missing to who has lost
// these datagrams: those between others that have come, in each domain.
func (o *observed) missing(lost map[datagram]bool) (n int) {
	type domain struct {
		begun bool   // a message has come
		gap   bool   // the last one has not
		first uint32 // that is missing
	}
	domains := map[uint32]*domain{}
	for _, m := range o.messages {
		sequence, id := binary.BigEndian.Uint32(m[8:]), binary.BigEndian.Uint32(m[12:])
		d := domains[id]
		if d == nil {
			d = &domain{}
			domains[id] = d
		}
		if lost[datagram{sequence, uint32(len(m))}] {
			if d.begun && !d.gap {
				d.gap, d.first = true, sequence
			}
			continue
		}
		if d.gap {
			n += int(sequence - d.first)
		}
		d.begun, d.gap = true, false
	}
	return n
}

// awaitMissing waits until the summary says so.
func (c *collectorProcess) awaitMissing(text string) {
	c.t.Helper()
	if !nettest.Eventually(5*time.Second, func() bool {
		before := len(c.said.String())
		c.summarize()
		return strings.Contains(c.said.String()[before:], text+"\n")
	}) {
		c.t.Errorf("recollect does not say %q", text)
	}
}

// grapherLines is what recollect prints of the packets in the agent's log under
// this label, in no flow, sorted.
func (a *agentProcess) grapherLines(label string) (lines []string) {
	a.t.Helper()
	for _, r := range a.logLines("pcapper.conf") {
		lines = append(lines, string(wire.AppendGrapherLine(nil, &wire.GrapherLine{
			Time: r.Time, Host: label, ID: wire.Unmatched, Value: r.GrapherValue(),
		})))
	}
	slices.Sort(lines)
	return lines
}
