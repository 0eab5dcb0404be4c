package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// traceLab is three hosts with agents, n1 to n3, on a bridge that drops some of what n1 sends to n2,
// and a fourth for the collector.
func traceLab(t *testing.T) *lab {
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: t.TempDir(), bin: programs}
	l.hosts = nettest.Bridge(t, 4)
	l.run(l.hosts[0].Switch, "nft", "add table bridge f; add chain bridge f forwarded { type filter hook forward priority 0; }; "+
		"add rule bridge f forwarded udp dport 5000 numgen inc mod 10 == 3 counter drop")
	for _, h := range l.hosts[:3] {
		l.run(h, "ip", "route", "add", "224.0.0.0/4", "dev", h.Interface.Name)
		agent := l.start(h, filepath.Join(l.bin, "pcapper"), "-i", h.Interface.Name, "-m", "none", "-ipfix-port", "4739", "-f", filepath.Join(l.dir, h.Name+".log"))
		l.await("the agent listens", func() bool {
			sockets, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp6", agent.Process.Pid))
			return bytes.Contains(sockets, fmt.Appendf(nil, ":%04X ", 4739))
		})
	}
	return l
}

// talk sends numbered datagrams.
func (l *lab) talk(from int, to string, n int) {
	l.t.Helper()
	c, err := l.hosts[from].ListenPacket("udp4", ":6000")
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	addr, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range n {
		if _, err := c.WriteTo(fmt.Appendf(nil, "%020d %s", i, to), addr); err != nil {
			l.t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// discard reads datagrams until the test ends, or the socket's buffer would be where packets end.
func (l *lab) discard(host int, addr string) {
	l.t.Helper()
	sink, err := l.hosts[host].ListenPacket("udp4", addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { sink.Close() })
	go func() {
		b := make([]byte, 2048)
		for _, _, err := sink.ReadFrom(b); err == nil; {
			_, _, err = sink.ReadFrom(b)
		}
	}()
}

// TestTrace: agents and a trace as users start them find exactly the packets that a bridge drops.
// It runs alone: a record that is later than the window is lost.
func TestTrace(t *testing.T) {
	l := traceLab(t)
	l.discard(1, ":5000")
	addr := func(i int) string { return l.hosts[i].Interface.IPv4.String() }
	trace := func(args ...string) (*nettest.Cmd, *bytes.Buffer) {
		out := &bytes.Buffer{}
		cmd := l.hosts[3].Command(t.Context(), filepath.Join(l.bin, "recollect"), append([]string{"trace", addr(0), addr(1), addr(2), "-window", "2s", "-for", "14s"}, args...)...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = l.dir, out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	text, textOut := trace("-dst", addr(1))
	lines, linesOut := trace("-format", "json", "-every", "13s")
	lost, lostOut := trace("-packets", "lost", "-dst", addr(1))
	began := time.Now()
	keeper := l.start(l.hosts[3], filepath.Join(l.bin, "recollect"), "ipfix://"+addr(0), "ipfix://"+addr(1), "ipfix://"+addr(2), "-lines", "-store", "kept", "-keep-digests", "1h", "-http", "127.0.0.1:7080")
	time.Sleep(4 * time.Second)
	const n = 1000
	l.talk(0, addr(1)+":5000", n)
	l.talk(0, "239.1.1.1:5001", 100)
	for _, cmd := range []*nettest.Cmd{text, lines, lost} {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s\n%s", err, textOut, linesOut)
		}
	}
	out, err := l.hosts[0].Switch.Command(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`counter packets (\d+)`).FindSubmatch(out)
	dropped, _ := strconv.Atoi(string(m[1]))
	if dropped != n/10 {
		t.Fatalf("the bridge dropped %d packets: %s", dropped, out)
	}
	if s := textOut.String(); !strings.Contains(s, fmt.Sprintf("%d packets, %d arrived, %d lost", n, n-dropped, dropped)) || !strings.Contains(s, "90.0 %") {
		t.Errorf("%s", s)
	}
	if s := lostOut.String(); strings.Count(s, ": lost behind ") != dropped {
		t.Errorf("%d lines, want %d:\n%s", strings.Count(s, ": lost behind "), dropped, s)
	}
	checkTrace(t, linesOut, addr(1), n, dropped)
	l.checkKept(keeper, began, addr(1), n, dropped)
}

// checkKept checks what a collector has kept of the flow, while it runs by its API, and then by trace.
func (l *lab) checkKept(keeper *nettest.Cmd, began time.Time, dst string, n, dropped int) {
	l.t.Helper()
	ask := func(what string, to any) bool {
		out, err := l.hosts[3].Command(l.t.Context(), "curl", "-s", "http://127.0.0.1:7080/api/v1/"+what).Output()
		return err == nil && json.Unmarshal(out, to) == nil
	}
	span := fmt.Sprintf("from=%d&to=%d&dst=%s", began.Unix(), time.Now().Unix()+1, dst)
	var lost struct{ Packets []path.Ended }
	var past path.Report
	l.await("all that is kept", func() bool {
		return ask("paths?"+span, &past) && len(past.Flows) == 1 && past.Flows[0].Packets == uint64(n) && ask("packets?"+span, &lost) && len(lost.Packets) == dropped
	})
	if f := past.Flows[0]; f.Lost != uint64(dropped) || f.Arrived != uint64(n-dropped) || past.From < began.UnixNano()-10e9 || past.Seconds < 10 {
		l.t.Errorf("paths?%s: %+v", span, past)
	}
	var now, was path.Packet
	if !ask(fmt.Sprintf("packet/%d", lost.Packets[0].Digest), &was) || was.Ended == nil || was.Ended.Towards.Node == "" || len(was.Seen) == 0 {
		l.t.Errorf("a packet that was lost: %+v", was)
	}
	var before struct{ Error string }
	if !ask(fmt.Sprintf("paths?from=%d&to=%d", began.Unix()-1000, began.Unix()-900), &now) || !ask("packet/12345", &before) || !strings.Contains(before.Error, "nor kept") {
		l.t.Errorf("%+v, %q", now, before.Error)
	}
	_ = keeper.Process.Signal(os.Interrupt)
	if err := keeper.Wait(); err != nil {
		l.t.Error(err)
	}
	trace := func(args ...string) string {
		cmd := l.hosts[3].Command(l.t.Context(), filepath.Join(l.bin, "recollect"), append([]string{"trace", "-store", "kept", "-from", fmt.Sprint(began.Unix()), "-dst", dst}, args...)...)
		cmd.Dir = l.dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			l.t.Errorf("%v: %s", err, out)
		}
		return string(out)
	}
	if s := trace(); !strings.Contains(s, fmt.Sprintf("%d packets, %d arrived, %d lost", n, n-dropped, dropped)) || !strings.Contains(s, "90.0 %") || !strings.HasPrefix(s, "from 20") {
		l.t.Errorf("%s", s)
	}
	if s := trace("-packets", "lost"); strings.Count(s, ": lost behind ") != dropped {
		l.t.Errorf("%d lines, want %d:\n%s", strings.Count(s, ": lost behind "), dropped, s)
	}
	checkTrace(l.t, bytes.NewBufferString(trace("-format", "json")+trace("-dst", "239.1.1.1", "-format", "json")), dst, n, dropped)
}

// checkTrace checks the last JSON lines of both flows.
func checkTrace(t *testing.T, out *bytes.Buffer, dst string, n, dropped int) {
	last := map[string]path.Flow{}
	for s := bufio.NewScanner(out); s.Scan(); {
		var f path.Flow
		if json.Unmarshal(s.Bytes(), &f) == nil && f.Dst.IsValid() {
			last[f.Dst.String()] = f
		}
	}
	if f := last[dst]; f.Packets != uint64(n) || f.Lost != uint64(dropped) || f.Arrived != uint64(n-dropped) {
		t.Errorf("%+v", f)
	}
	f := last["239.1.1.1"]
	got := uint64(0)
	for _, r := range f.Nodes {
		if r.Role == "overhearer" { // nothing has joined the group
			got += r.Received
		}
	}
	if f.Packets != 100 || got != 200 {
		t.Errorf("%+v", f)
	}
}

// TestTraceUsage: mistakes are named.
func TestTraceUsage(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, want string }{
		{"-flow x", "want the ID of an MGEN flow"},
		{"-src n1", "want an address"},
		{"-format xml", "want json or text"},
		{"-packets all", "want lost"},
		{"-top 0", "want more than 0"},
		{"-from -1h", "-from without -store"},
		{"-store h", "-store without -from"},
		{"-store h -from -1h -every 5s", "-every and -from"},
		{"-store h -from -1h n1", `"ipfix://n1" and -from`},
		{"-store h -from -1h -to -2h", "is not before"},
		{"-store h -from yesterday", "want a time"},
	} {
		if _, err := parseTrace(strings.Fields(tt.args)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
	for _, line := range strings.Split(traceUsage, "\n") {
		if len(line) > 80 {
			t.Errorf("too long: %q", line)
		}
	}
}
