package pathtest

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
)

var queryAll path.Query

// TestChain: in a row of five routers, of which two drop, each hop's loss is what the rules'
// counters say.
func TestChain(t *testing.T) {
	l := newLab(t)
	l.chain(5)
	for router, percent := range map[string]int{"r2": 7, "r4": 3} {
		l.run(router, `nft 'add table inet f; add chain inet f forwarded { type filter hook forward priority 0; }; `+
			`add rule inet f forwarded meta nfproto ipv4 udp dport 5000 numgen random mod 100 < %d counter drop; `+
			`add rule inet f forwarded meta nfproto ipv6 udp dport 5001 numgen random mod 100 < %[1]d counter drop'`, percent)
	}
	l.sink("d", ":5000")
	l.sink("d", ":5001")
	const n = 3000
	l.send("s", "10.9.5.2:5000", n, 100)
	l.send("s", "[fd09:5::2]:5001", n, 100)
	e := l.join()
	two, four := l.counters("r2"), l.counters("r4")
	for i, to := range []string{"10.9.5.2", "fd09:5::2"} {
		f := flow(t, e, to, uint16(5000+i))
		if f.Packets != n || f.Arrived != n-two[i]-four[i] || f.Lost != two[i]+four[i] || two[i] < 100 || four[i] < 30 {
			t.Errorf("%s: %d packets, %d arrived, %d lost; the rules dropped %d and %d", to, f.Packets, f.Arrived, f.Lost, two[i], four[i])
		}
		if a, b := lost(t, &f, "r2/r1 in", "r2/r3 out"), lost(t, &f, "r4/r3 in", "r4/r5 out"); a != two[i] || b != four[i] {
			t.Errorf("%s: lost in r2 %d, in r4 %d; the rules dropped %d and %d", to, a, b, two[i], four[i])
		}
		if len(f.Paths) != 1 || strings.Join(f.Paths[0].Nodes, " ") != "s r1 r2 r3 r4 r5 d" || f.MinHops != 5 || f.MaxHops != 5 || f.Loops != 0 {
			t.Errorf("%s: %+v, %d to %d hops, %d loops", to, f.Paths, f.MinHops, f.MaxHops, f.Loops)
		}
	}
	if r := e.Report(queryAll, 0); r.Ambiguous != 0 {
		t.Errorf("%d ambiguous", r.Ambiguous)
	}
}

// TestTranslated: NAT changes addresses and ports, not what packets are recognized by; fragments are
// followed each.
func TestTranslated(t *testing.T) {
	l := newLab(t)
	l.chain(2)
	l.run("r1", `nft 'add table ip n; add chain ip n post { type nat hook postrouting priority 100; }; add rule ip n post oifname "r2" udp dport 5000 snat to 10.9.1.1:7000'`)
	l.sink("d", ":5000")
	l.sink("d", ":5002")
	l.send("s", "10.9.2.2:5000", 500, 40)
	l.send("s", "10.9.2.2:5002", 100, 4000) // 3 fragments each
	l.send("s", "[fd09:2::2]:5002", 100, 4000)
	e := l.join()
	if f := flow(t, e, "10.9.2.2", 5000); f.Packets != 500 || f.Arrived != 500 || f.Lost != 0 || f.Src.String() != "10.9.0.1" || f.SrcPort != 6000 {
		t.Errorf("behind NAT: %+v", f)
	}
	for _, to := range []string{"10.9.2.2", "fd09:2::2"} {
		if f := flow(t, e, to, 5002); f.Packets != 300 || f.Arrived != 300 || f.Lost != 0 {
			t.Errorf("fragments to %s: %d, %d arrived, %d lost", to, f.Packets, f.Arrived, f.Lost)
		}
	}
}

// TestSegments: a TCP connection's packets are recognized though some interfaces see
// super-packets and others what is cut of them.
func TestSegments(t *testing.T) {
	for name, off := range map[string]string{
		"offloads":      "",
		"cut by router": "r1 r2",
		"cut by sender": "s r1",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.chain(2)
			if host, dev, ok := strings.Cut(off, " "); ok {
				l.run(host, "ethtool -K %s tso off gso off", dev)
			}
			l.run("d", "ethtool -K r2 gro on")
			ln, err := l.host("d").Listen("tcp4", "10.9.2.2:8000")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			const size = 4 << 20
			done := make(chan int64, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					done <- -1
					return
				}
				n, _ := io.Copy(io.Discard, c)
				c.Close()
				done <- n
			}()
			c, err := l.host("s").Dial("tcp4", "10.9.2.2:8000")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			c.Close()
			if n := <-done; n != size {
				t.Fatalf("%d bytes arrived", n)
			}
			e := l.join()
			f := flow(t, e, "10.9.2.2", 8000)
			if f.Packets < size/1500 || f.Arrived != f.Packets || f.Lost != 0 || f.Unheard != 0 {
				t.Errorf("%d packets, %d arrived, %d lost, %d unheard", f.Packets, f.Arrived, f.Lost, f.Unheard)
			}
			if r := e.Report(queryAll, 0); r.Ambiguous > r.Packets/100 {
				t.Errorf("%d of %d packets are ambiguous", r.Ambiguous, r.Packets)
			}
		})
	}
}

// TestRouteChange: a second way is taken from a known time on; then packets go round in circles until
// their TTL ends.
func TestRouteChange(t *testing.T) {
	l := newLab(t)
	l.net(0, "s", "r")
	l.net(1, "r", "x")
	l.net(2, "r", "y")
	l.net(3, "x", "d")
	l.net(4, "y", "d")
	l.forward("r", "x", "y")
	l.run("d", "ip addr add 10.9.9.9/32 dev lo; ip route add default via 10.9.3.1")
	l.run("s", "ip route add default via 10.9.0.2")
	l.run("x", "ip route add 10.9.9.9 via 10.9.3.2; ip route add default via 10.9.1.1")
	l.run("y", "ip route add 10.9.9.9 via 10.9.4.2; ip route add default via 10.9.2.1")
	l.run("r", "ip route add 10.9.9.9 via 10.9.1.2")
	l.watch("s", "r", "x", "y", "d")
	l.sink("d", ":5000")
	l.send("s", "10.9.9.9:5000", 300, 100)
	time.Sleep(100 * time.Millisecond)
	changed := time.Now()
	l.run("r", "ip route replace 10.9.9.9 via 10.9.2.2")
	l.send("s", "10.9.9.9:5000", 200, 101)
	time.Sleep(100 * time.Millisecond)
	l.run("y", "ip route replace 10.9.9.9 via 10.9.2.1")
	l.send("s", "10.9.9.9:5000", 5, 102)
	f := flow(t, l.join(), "10.9.9.9", 5000)
	if len(f.Paths) != 2 || fmt.Sprint(f.Paths[0].Nodes, f.Paths[0].Packets, f.Paths[1].Nodes, f.Paths[1].Packets) != "[s r x d] 300 [s r y d] 200" {
		t.Errorf("paths %+v", f.Paths)
	}
	if f.Changed != 1 || f.Changes[0].Time < changed.UnixNano() || f.Changes[0].Time > changed.Add(time.Second).UnixNano() {
		t.Errorf("%d changes: %+v; the route changed at %v", f.Changed, f.Changes, changed)
	}
	if f.Loops != 5 || f.Arrived != 500 || f.Lost != 5 {
		t.Errorf("%d packets in a loop, %d arrived", f.Loops, f.Arrived)
	}
}

// TestBridge: a bridge between two hosts is a hop, whose TTL is the same on both sides.
func TestBridge(t *testing.T) {
	l := newLab(t)
	l.net(0, "s", "b")
	l.net(1, "b", "d")
	l.run("b", "ip addr flush dev s; ip addr flush dev d; ip link add br0 type bridge; ip link set dev s master br0; ip link set dev d master br0; ip link set br0 up")
	l.run("d", "ip addr add 10.9.0.2/24 dev b")
	time.Sleep(time.Second)
	l.watch("s", "d")
	l.watchOnly("b", "s", "d")
	l.sink("d", ":5000")
	l.send("s", "10.9.0.2:5000", 500, 100)
	f := flow(t, l.join(), "10.9.0.2", 5000)
	if f.Packets != 500 || f.Arrived != 500 || f.MaxHops != 0 || len(f.Paths) != 1 || strings.Join(f.Paths[0].Nodes, " ") != "s b d" {
		t.Errorf("%+v", f)
	}
}
