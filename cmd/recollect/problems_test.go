package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/collector/web"
	"github.com/pcapper/pcapper/wire"
)

// TestPathJudge: a hop that loses half of its packets, and a member that receives nothing, are told
// while that is so, and not any more a short time after.
func TestPathJudge(t *testing.T) {
	t.Parallel()
	e := path.New(path.Config{})
	j := &pathJudge{engine: e, rules: web.DefaultRules()}
	now, digest := time.Unix(1_700_000_000, 0), uint64(1)
	for _, label := range []string{"n1", "n2", "n3"} {
		e.Watch(e.Agent(label), now.UnixNano(), true)
	}
	reason := wire.Reason(0)
	see := func(agent string, flags wire.Flags, dst string) {
		r := wire.Record{
			Time: now.UnixNano(), Src: netip.MustParseAddr("10.0.0.1").As16(), Dst: netip.MustParseAddr(dst).As16(),
			SrcPort: 1000, DstPort: 2000, Proto: wire.ProtoUDP, Length: 100, TTL: 64, Digest: digest, Flags: flags, Reason: reason,
		}
		e.AddOne(now.UnixNano(), e.Agent(agent), &r)
	}
	// send sends 10 packets a second, of which n2 receives every nth.
	send := func(seconds, nth int) {
		for range 10 * seconds {
			now = now.Add(100 * time.Millisecond)
			digest++
			see("n1", wire.Outgoing, "10.0.0.2")
			if digest%uint64(nth) == 0 {
				see("n2", wire.Incoming, "10.0.0.2")
			}
			e.Tick(now.UnixNano())
			if digest%50 == 0 {
				j.judge(now)
			}
		}
	}
	send(60, 1)
	if list := j.judge(now); len(list) != 0 {
		t.Errorf("nothing is wrong, but: %+v", list)
	}
	send(70, 2)
	list := j.judge(now)
	if len(list) != 1 || list[0].Kind != "loss" || !strings.Contains(list[0].Text, "n1 → n2 loses ") || list[0].Monitoring {
		t.Fatalf("half is lost: %+v", list)
	}
	var share int
	if _, after, ok := strings.Cut(list[0].Text, "loses "); ok {
		for _, c := range after {
			if c < '0' || c > '9' {
				break
			}
			share = 10*share + int(c-'0')
		}
	}
	if share < 45 || share > 55 {
		t.Errorf("half is lost, but the sentence is %q", list[0].Text)
	}
	send(120, 1)
	if list := j.judge(now); len(list) != 0 {
		t.Errorf("nothing is lost any more, but: %+v", list)
	}

	// n3 is a member and receives nothing.
	group := netip.MustParseAddr("239.98.0.3")
	for _, label := range []string{"n2", "n3"} {
		e.Join(now.UnixNano(), e.Agent(label), group.As16(), true)
	}
	for range 100 {
		now = now.Add(100 * time.Millisecond)
		digest++
		see("n1", wire.Outgoing, group.String())
		see("n2", wire.Incoming, group.String())
		e.Tick(now.UnixNano())
	}
	if list := j.judge(now); len(list) == 0 || list[0].Kind != "silent" || !strings.HasPrefix(list[0].Text, "n3 joined 239.98.0.3 and receives nothing") {
		t.Errorf("a member receives nothing: %+v", list)
	}
	// All packets to an address end in a queue: nobody is known who should have seen them.
	for range 100 {
		now = now.Add(100 * time.Millisecond)
		digest++
		see("n3", wire.Outgoing|wire.BeforeQueue, "10.0.0.9")
		reason = wire.ReasonNamed("QDISC_DROP")
		see("n3", wire.Outgoing|wire.Dropped, "10.0.0.9")
		reason = 0
		e.Tick(now.UnixNano())
	}
	found := false
	for _, p := range j.judge(now) {
		found = found || p.Kind == "loss" && strings.HasPrefix(p.Text, "n3 loses 100 %") && strings.HasSuffix(p.Text, ": queue full at n3")
	}
	if !found {
		t.Errorf("a queue drops everything: %+v", j.judge(now))
	}
}
