//go:build !libpcap

package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// TestDrops: packets that the kernel drops arrive by IPFIX, with reason and digest, beside the
// records of the same packets as traffic; the 28-byte feed and the log have the traffic alone.
func TestDrops(t *testing.T) {
	nettest.NeedTCX(t)
	for _, many := range []bool{false, true} {
		t.Run(map[bool]string{false: "one", true: "many"}[many], func(t *testing.T) { testDrops(t, many) })
	}
}

func testDrops(t *testing.T, many bool) {
	a, b := nettest.Pair(t)
	const n = 100
	for _, line := range []string{
		"nft add table inet t", "nft add chain inet t in { type filter hook input priority 0 ; }",
		"nft add rule inet t in udp dport 5001 drop",
	} {
		args := strings.Fields(line)
		if out, err := b.Command(context.Background(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
	args := []string{"-drops", "-m", "udp", "-ipfix-port", "4739", "-metrics", "127.0.0.1:9173"}
	if many {
		args = append(args, "-i", b.Interface.Name+",none*")
	}
	p := launch(t, b, args...)
	p.await("drops: on", 1)
	p.await("listening on", 1)
	if !many {
		p.await("metrics on", 1)
	}
	c := p.dialIPFIX(a)
	feed := p.dial(a, "bulk\n")
	sender, err := a.Dial("udp", net.JoinHostPort(b.Interface.IPv4.String(), "5001"))
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	for i := range n {
		if _, err := fmt.Fprintf(sender, "packet %d, and enough for a digest", i); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]int{} // by digest: 1 is traffic, 2 dropped
	dropped := 0
	for _, r := range c.read(t, 2*n) {
		switch {
		case r.DstPort != 5001 || r.Flags&wire.Incoming == 0 && r.IsTraffic():
			t.Errorf("%+v", r)
		case r.IsTraffic():
			seen[r.Digest] |= 1
		default:
			dropped++
			seen[r.Digest] |= 2
			if r.Flags&wire.Dropped == 0 || r.Reason.String() != "NETFILTER_DROP" || r.SrcAddr() != a.Interface.IPv4 || r.TTL != 64 || r.Length < 50 {
				t.Errorf("dropped: %+v, %v", r, r.Reason)
			}
		}
	}
	if dropped != n || len(seen) != n {
		t.Errorf("%d drops, %d digests, want %d", dropped, len(seen), n)
	}
	for digest, what := range seen {
		if digest == 0 || what != 3 {
			t.Errorf("digest %x: seen as %b", digest, what)
		}
	}
	if recs, err := readRecords(feed, n); err != nil || len(recs) != n {
		t.Errorf("28-byte feed: %d records: %v", len(recs), err)
	}
	if !many {
		m := p.scrape("127.0.0.1:9173")
		if got := m[`pcapper_stack_dropped_packets_total{reason="NETFILTER_DROP"}`]; got != n {
			t.Errorf("metrics: %v drops", got)
		}
		if got := m["pcapper_packets_total"]; got != n {
			t.Errorf("metrics: %v packets", got)
		}
	}
	said := strings.Join(p.stop(), "\n")
	if !many && !strings.Contains(said, "summary: packets dropped in the network stack: 100 NETFILTER_DROP") {
		t.Errorf("no summary of drops: %s", said)
	}
	if !strings.Contains(said, "100 packets captured") {
		t.Errorf("drops counted as packets: %s", said)
	}
	if !many {
		if !strings.Contains(said, "100 lines written, 0 lost, 0 in flight") {
			t.Errorf("drops counted as lines: %s", said)
		}
		if lines := p.logLines("pcapper.conf"); len(lines) != n {
			t.Errorf("log: %d lines", len(lines))
		}
	}
}

// TestDropsCheck: -check says whether dropped packets will be reported.
func TestDropsCheck(t *testing.T) {
	t.Parallel()
	nettest.NeedTCX(t)
	a, _ := nettest.Pair(t)
	for _, flag := range []string{"-drops", "-drops=false"} {
		p := launch(t, a, flag, "-check")
		p.wait()
		want := map[string]string{"-drops": "drops: on", "-drops=false": "drops: off: as asked"}[flag]
		if !strings.Contains(p.said(), want) {
			t.Errorf("%s: no %q: %s", flag, want, p.said())
		}
	}
}
