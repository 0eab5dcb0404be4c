package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

var tbfCounters = regexp.MustCompile(`(?s)qdisc tbf.*?Sent \d+ bytes (\d+) pkt \(dropped (\d+),`)

// TestPoint: packets that a queue drops are reported by an agent that watches before it, and not by one that
// watches after it, each once and as traffic.
func TestPoint(t *testing.T) {
	nettest.NeedTCX(t)
	for _, point := range []string{"before", "after"} {
		t.Run(point, func(t *testing.T) {
			a, b := nettest.Pair(t)
			tc := func(line string) string {
				out, err := a.Command(context.Background(), "tc", strings.Fields(line)...).CombinedOutput()
				if err != nil {
					t.Fatalf("tc %s: %v: %s", line, err, out)
				}
				return string(out)
			}
			tc("qdisc add dev eth0 root tbf rate 4mbit burst 2kb limit 5000")
			p := launch(t, a, "-i", "eth0", "-point", point, "-m", "udp", "-drops=false", "-ipfix-port", "4739")
			p.await("listening on", 1)
			c := p.dialIPFIX(a)
			sink, err := b.ListenPacket("udp4", ":5001") // else there are answers
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			sender, err := a.Dial("udp", net.JoinHostPort(b.Interface.IPv4.String(), "5001"))
			if err != nil {
				t.Fatal(err)
			}
			defer sender.Close()
			const n = 60
			for i := range n {
				if _, err := fmt.Fprintf(sender, "%0500d", i); err != nil {
					t.Fatal(err)
				}
			}
			want := n
			var passed, dropped int
			if !nettest.Eventually(20*time.Second, func() bool { // the queue is empty
				m := tbfCounters.FindStringSubmatch(tc("-s qdisc show dev eth0"))
				passed, _ = strconv.Atoi(m[1])
				dropped, _ = strconv.Atoi(m[2])
				return passed+dropped >= n
			}) || dropped < n/10 {
				t.Fatalf("the queue passed %d and dropped %d of %d", passed, dropped, n)
			}
			if point == "after" {
				want -= dropped
			}
			seen := map[uint64]bool{}
			for _, r := range c.read(t, want) {
				if r.DstPort != 5001 || r.Flags&(wire.Outgoing|wire.Uncounted) != wire.Outgoing || !r.IsTraffic() {
					t.Errorf("%+v", r)
				}
				seen[r.Digest] = true
			}
			if len(seen) != want || seen[0] {
				t.Errorf("%d packets, want %d", len(seen), want)
			}
			if said := strings.Join(p.stop(), "\n"); !strings.Contains(said, fmt.Sprintf("%d packets captured", want)) {
				t.Errorf("want %d packets captured: %s", want, said)
			}
		})
	}
}
