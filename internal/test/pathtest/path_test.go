package pathtest

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"github.com/pcapper/pcapper/internal/agent/decode"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
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
	l.sink("d", ":5002")
	l.echo("d", ":5000")
	l.send("s", "10.9.2.2:5000", 500, 40)
	l.send("s", "10.9.2.2:5002", 100, 4000) // 3 fragments each
	l.send("s", "[fd09:2::2]:5002", 100, 4000)
	e := l.join()
	if f := flow(t, e, "10.9.2.2", 5000); f.Packets != 500 || f.Arrived != 500 || f.Lost != 0 || f.Src.String() != "10.9.0.1" || f.SrcPort != 6000 {
		t.Errorf("behind NAT: %+v", f)
	}
	if f := flow(t, e, "10.9.1.1", 7000); f.Packets != 500 || f.Arrived != 500 || f.Lost != 0 || strings.Join(f.Paths[0].Nodes, " ") != "d r2 r1 s" {
		t.Errorf("answers: %+v", f)
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

// TestWays: of two ways at once, by flow, each has its packets; a queue that drops what is too
// much is the loss of its hop.
func TestWays(t *testing.T) {
	l := newLab(t)
	l.net(0, "s", "r")
	l.net(1, "r", "x")
	l.net(2, "r", "y")
	l.net(3, "x", "d")
	l.net(4, "y", "d")
	l.forward("r", "x", "y")
	l.run("d", "ip addr add 10.9.9.9/32 dev lo; ip route add default via 10.9.3.1")
	l.run("s", "ip route add default via 10.9.0.2")
	l.run("x", "ip route add 10.9.9.9 via 10.9.3.2; tc qdisc add dev d root tbf rate 2mbit burst 3000 limit 6000")
	l.run("y", "ip route add 10.9.9.9 via 10.9.4.2; ip route add default via 10.9.2.1")
	l.run("r", "echo 1 > /proc/sys/net/ipv4/fib_multipath_hash_policy; ip route add 10.9.9.9 nexthop via 10.9.1.2 nexthop via 10.9.2.2")
	l.watch("s", "r", "x", "y", "d")
	const flows, each = 16, 60
	for i := range flows {
		l.sink("d", fmt.Sprintf(":%d", 5000+i))
		l.send("s", fmt.Sprintf("10.9.9.9:%d", 5000+i), each, 1000)
	}
	e := l.join()
	ways := map[string]uint64{}
	var gone uint64
	for i := range flows {
		f := flow(t, e, "10.9.9.9", uint16(5000+i))
		for _, p := range f.Paths {
			ways[strings.Join(p.Nodes, " ")] += p.Packets
		}
		if len(f.Paths) != 1 || f.Packets != each || f.Arrived+f.Lost != each {
			t.Errorf("%+v", f)
		}
		gone += f.Lost
	}
	if len(ways) != 2 || ways["s r x d"] == 0 || ways["s r y d"] == 0 || ways["s r x d"]+ways["s r y d"]+gone != flows*each {
		t.Errorf("%v, %d lost", ways, gone)
	}
	m := regexp.MustCompile(`dropped (\d+)`).FindStringSubmatch(l.run("x", "tc -s qdisc show dev d"))
	if dropped, _ := strconv.ParseUint(m[1], 10, 64); dropped != gone || gone == 0 {
		t.Errorf("the queue dropped %s packets, %d are lost", m[1], gone)
	}
}

// TestTwentyHosts: three groups with chosen members on one LAN: members, overhearers, and one member
// that gets nothing.
func TestTwentyHosts(t *testing.T) {
	l := newLab(t)
	hosts := nettest.Bridge(t, 20)
	for _, h := range hosts {
		l.hosts[h.Name] = h
		l.run(h.Name, "ip route add 224.0.0.0/4 dev eth0")
	}
	members := map[string][]string{"239.98.0.1": {"n2", "n5", "n9"}, "239.98.0.2": {"n3", "n4"}, "239.98.0.3": {"n16"}}
	for group, list := range members {
		for _, m := range list {
			l.member(m, group)
		}
	}
	for _, h := range hosts {
		l.watch(h.Name)
	}
	l.hosts["switch"] = hosts[0].Switch
	l.run("switch", `nft 'add table bridge f; add chain bridge f forwarded { type filter hook forward priority 0; }; `+
		`add rule bridge f forwarded oifname "to-n16" ip daddr 239.98.0.3 counter drop; add rule bridge f forwarded oifname "to-n5" ip daddr 239.98.0.1 numgen inc mod 4 == 0 counter drop'`)
	for i, group := range []string{"239.98.0.1", "239.98.0.2", "239.98.0.3"} {
		l.send([]string{"n1", "n20", "n12"}[i], group+":5000", 200, 100)
	}
	e := l.join()
	for group, list := range members {
		f := flow(t, e, group, 5000)
		roles := map[string]path.Role{}
		for _, r := range f.Nodes {
			roles[r.Node] = r
		}
		if len(roles) != 20 || f.Packets != 200 {
			t.Errorf("%s: %d packets, %d nodes", group, f.Packets, len(roles))
		}
		for name, r := range roles {
			want := path.Role{Node: name, Role: "overhearer", Received: 200, Share: 1}
			switch {
			case r.Role == "source":
				continue
			case slices.Contains(list, name):
				want.Role, want.Expected = "member", 200
			}
			switch group + name {
			case "239.98.0.3n16":
				want.Received, want.Share = 0, 0
			case "239.98.0.1n5":
				want.Received, want.Share = 150, .75
			}
			// Members' delays differ; TestDelayLine is about what they are.
			if (r.Delay != nil) != (r.Role == "member" && r.Received > 0) {
				t.Errorf("%s: %s, %s, received %d and has the delay %+v", group, name, r.Role, r.Received, r.Delay)
			}
			if r.Delay = nil; r != want {
				t.Errorf("%s: %+v, want %+v", group, r, want)
			}
		}
	}
}

// TestRelays joins real captures of relays: SMF's, with a TTL one lower, and BMF's, with packets
// inside others.
func TestRelays(t *testing.T) {
	for name, nodes := range map[string][]string{"smf": {"n2", "n3"}, "bmf": {"n1", "n2", "n3"}} {
		e := path.New(path.Config{Window: time.Hour, Memory: 1 << 30})
		for _, n := range nodes {
			e.Watch(e.Agent(n), 1, true)
		}
		for _, n := range nodes {
			file := "../../agent/decode/testdata/relay/" + name + "." + n + ".pcap"
			e.Add(time.Now().UnixNano(), e.Agent(n), readFile(t, file, n[1]-'0')...)
		}
		e.Flush()
		r := e.Report(queryAll, 0)
		roles := map[string]path.Role{}
		for _, f := range r.Flows {
			for _, n := range f.Nodes {
				if f.Dst.String() == "225.1.2.3" {
					n.Share = 0
					roles[n.Node] = n
				}
			}
			if f.Loops > 0 && name == "bmf" {
				t.Errorf("%s: %d loops", name, f.Loops)
			}
		}
		t.Logf("%s: %+v: %+v", name, r.Counters, roles)
		// IGMP reports are repeated unchanged.
		if r.Packets == 0 || r.Ambiguous > 10 || r.NoDigest != 0 {
			t.Errorf("%s: %+v", name, r.Counters)
		}
		if want := (path.Role{Node: "n2", Role: "relay", Received: 20, Copies: 20, Relayed: 20}); name == "smf" && roles["n2"] != want {
			t.Errorf("%+v, want %+v", roles["n2"], want)
		}
		if want := (path.Role{Node: "n3", Role: "relay", Received: 20, Relayed: 20}); name == "smf" && roles["n3"] != want {
			t.Errorf("%+v, want %+v", roles["n3"], want)
		}
		if name == "bmf" && (roles["n1"].Role == "" || roles["n3"].Received == 0 || roles["n2"].Relayed == 0) {
			t.Errorf("%+v", roles)
		}
	}
}

// readFile decodes a capture file of node n, which may be compressed.
func readFile(t *testing.T, name string, n byte) (recs []wire.Record) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		b, err = os.ReadFile(name + ".gz")
	}
	if err != nil {
		t.Fatal(err)
	}
	var in io.Reader = bytes.NewReader(b)
	if z, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
		in = z
	}
	r, err := pcapgo.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	d := decode.New(decode.Config{BMF: true})
	d.SetLocal(decode.Local{MAC: net.HardwareAddr{2, 0, 0, 0, 0, n}, Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 50, 0, n})}})
	var out [64]wire.Record
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			return recs
		}
		if err != nil {
			t.Fatal(err)
		}
		f := packet.Frame{Data: data, Time: ci.Timestamp.UnixNano(), WireLen: ci.Length}
		recs = append(recs, out[:d.Decode(&f, out[:])]...)
	}
}
