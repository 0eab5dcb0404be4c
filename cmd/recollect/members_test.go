package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// join has a socket of a host join a group on its interface until it is closed.
func join(t *testing.T, h *nettest.Host, group string) *os.File {
	t.Helper()
	var fd int
	var err error
	h.Do(func() {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		var i *net.Interface
		if i, err = net.InterfaceByName(h.Interface.Name); err != nil {
			return
		}
		err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: netip.MustParseAddr(group).As4(), Ifindex: int32(i.Index)})
	})
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "member")
	t.Cleanup(func() { f.Close() })
	return f
}

// TestMembers: of 20 hosts that all hear three groups, those are members whose sockets have joined, from
// when to when they have; the one that receives nothing has a row, and is a problem.
func TestMembers(t *testing.T) {
	t.Parallel()
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: t.TempDir(), bin: programs}
	const hosts = 20
	l.hosts = nettest.Bridge(t, hosts+1)
	collector := l.hosts[hosts]
	groups := []string{"239.98.0.1", "239.98.0.2", "239.98.0.3"}
	// Group 3 does not reach n20.
	l.run(collector.Switch, "nft", "add table bridge f; add chain bridge f out { type filter hook forward priority 0; }; "+
		"add rule bridge f out oifname to-n20 ip daddr 239.98.0.3 counter drop")
	// n1, n2 and n3 send to one group each; members by group, by their number.
	members := [][]int{{4, 5, 6, 7, 8}, {8, 9, 10, 11}, {1, 12, 20}}
	leaving := map[int]*os.File{}
	for g, list := range members {
		for _, n := range list {
			f := join(t, l.hosts[n-1], groups[g])
			if g == 0 {
				leaving[n] = f
			}
		}
	}
	prefix := fmt.Sprintf("pcapper-%d-", os.Getpid())
	args := []string{"-listen", "127.0.0.1", "-p", "0", "-ipfix-port", "7300", "-m", "none", "-f", os.DevNull, "-ports", "collector.conf"}
	for i, h := range l.hosts[:hosts] {
		h.Named(t, fmt.Sprintf("%sn%d", prefix, i+1))
		args = append(args, "-netns", fmt.Sprintf("%sn%d", prefix, i+1))
		l.run(h, "ip", "route", "add", "224.0.0.0/4", "dev", h.Interface.Name)
	}
	l.start(collector, filepath.Join(l.bin, "pcapper"), args...)
	l.await("a table of 20 ports", func() bool {
		text, _ := os.ReadFile(filepath.Join(l.dir, "collector.conf"))
		return strings.Count(string(text), "ipfix://") == hosts
	})
	l.start(collector, filepath.Join(l.bin, "recollect"), "-http", "127.0.0.1:7080", "-c", "collector.conf")
	url := "http://127.0.0.1:7080/api/v1/"
	ask := func(what string, to any) bool {
		out, err := collector.Command(t.Context(), "curl", "-sf", url+what).Output()
		return err == nil && json.Unmarshal(out, to) == nil
	}
	send := func(n int) {
		var all sync.WaitGroup
		for g, group := range groups {
			all.Go(func() { l.talk(g, group+":5000", n) })
		}
		all.Wait()
	}
	var last path.Report
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last report: %+v", last)
		}
	})
	// tree is what is known of a group, once that many packets are.
	tree := func(group string, packets uint64) (f path.Flow, byNumber map[int]path.Role) {
		t.Helper()
		l.await(fmt.Sprintf("%d packets to %s", packets, group), func() bool {
			last = path.Report{}
			if !ask("tree?group="+group, &last) || len(last.Flows) == 0 {
				return false
			}
			f = last.Flows[0]
			return f.Packets >= packets
		})
		byNumber = map[int]path.Role{}
		for _, r := range f.Nodes {
			var n int
			if _, err := fmt.Sscanf(r.Node, prefix+"n%d-eth0", &n); err != nil {
				t.Errorf("a node %q", r.Node)
			}
			byNumber[n] = r
		}
		return f, byNumber
	}
	l.await("all agents", func() bool { // a packet that all report
		l.talk(0, "239.98.0.9:5000", 1)
		var r path.Report
		return ask("tree?group=239.98.0.9", &r) && len(r.Flows) == 1 && len(r.Flows[0].Nodes) == hosts
	})
	const first, second = 200, 100
	send(first)
	leaving[4].Close()
	join(t, l.hosts[12], groups[0]) // n13
	l.await("n13 as a member", func() bool {
		_, roles := tree(groups[0], first)
		return roles[13].Role == "member"
	})
	send(second)
	for g, group := range groups {
		f, roles := tree(group, first+second)
		if f.Packets != first+second || len(roles) != hosts {
			t.Errorf("%s: %d packets, %d nodes; want %d and %d", group, f.Packets, len(roles), first+second, hosts)
		}
		for n := 1; n <= hosts; n++ {
			r := roles[n]
			want := path.Role{Node: r.Node, Role: "overhearer", Received: first + second, Share: 1}
			switch {
			case n == g+1:
				want = path.Role{Node: r.Node, Role: "source", Share: 1}
			case n == 20 && g == 2:
				want = path.Role{Node: r.Node, Role: "member", Expected: first + second}
			case n == 4 && g == 0:
				// It left once all was sent; what was told later than that counts no more.
				want = path.Role{Node: r.Node, Role: "member", Received: r.Expected, Expected: r.Expected, Share: 1}
				if r.Expected < first/4 || r.Expected > first {
					t.Errorf("%s, n4: %d packets expected, want up to %d", group, r.Expected, first)
				}
			case n == 13 && g == 0:
				want = path.Role{Node: r.Node, Role: "member", Received: second, Expected: second, Share: 1}
			case slices.Contains(members[g], n):
				want.Role, want.Expected = "member", first+second
			}
			if (r.Delay != nil) != (want.Role == "member" && want.Received > 0) {
				t.Errorf("%s, n%d: %s, received %d and has the delay %+v", group, n, r.Role, r.Received, r.Delay)
			}
			if r.Delay = nil; r != want {
				t.Errorf("%s, n%d: got %+v, want %+v", group, n, r, want)
			}
		}
	}
	var problems struct {
		Problems []struct{ Kind, Text string }
	}
	l.await("a problem", func() bool { return ask("problems", &problems) && len(problems.Problems) > 0 })
	for _, p := range problems.Problems {
		if p.Kind == "silent" && !strings.Contains(p.Text, "n20-eth0 joined 239.98.0.3 and receives nothing") {
			t.Errorf("a problem that there is not: %q", p.Text)
		}
	}
	if !strings.Contains(fmt.Sprint(problems.Problems), "n20-eth0 joined 239.98.0.3 and receives nothing") {
		t.Errorf("the silent member is no problem: %+v", problems.Problems)
	}
}
