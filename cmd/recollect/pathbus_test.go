package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/bustest"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

// ipfixConfig is config, of agents that send IPFIX.
func (f *fleet) ipfixConfig(t *testing.T) string {
	t.Helper()
	name := f.config(t)
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`(?m)^(a\d+):`).ReplaceAll(text, []byte("$1:ipfix://"))
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// multicast has a0 send a packet to a group, and the others receive it, but those that miss it.
func (f *fleet) multicast(t *testing.T, writers map[net.Conn]*ipfix.Writer, number int, misses func(agent int) bool) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for i := range f.attached {
		r := wire.Record{Time: now.UnixNano() + int64(i), SrcPort: 6000, DstPort: 5000, Length: 100, Proto: wire.ProtoUDP, TTL: 1, Digest: uint64(number)<<32 | 7, Flags: wire.Incoming}
		r.SetSrc4([4]byte{10, 0, 0, 1})
		r.SetDst4([4]byte{239, 1, 1, 1})
		switch {
		case i == 0:
			r.Flags = wire.Outgoing
		case misses(i):
			continue
		}
		for _, conn := range f.at(i) {
			w := writers[conn]
			if w == nil {
				w = &ipfix.Writer{}
				writers[conn] = w
			}
			cells, _ := ipfix.Append(nil, &r)
			stream, _ := w.Message(w.Templates(nil, now), now, ipfix.MaxMessage, cells, []uint32{0, uint32(len(cells))})
			if _, err := conn.Write(stream); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestPathsOfSharedAgents: collectors that have divided the agents each join what all of them saw, and so does a
// trace that dials none.
func TestPathsOfSharedAgents(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t, "")
	f := startFleet(t, 6)
	conf := f.ipfixConfig(t)
	args := []string{"-c", conf, "-lines", "-bus", server.URL(), "-http", "127.0.0.1:0"}
	first := startRecollect(t, nil, args...)
	until(t, "the first collector", f.all)
	var second *process
	until(t, "a second collector that has some agents, but not all", func() bool {
		second = startRecollect(t, nil, args...)
		until(t, "both", func() bool {
			return strings.Contains(second.said(), "page at") && second.metric(t, "recollect_bus_members") == 2 && f.all()
		})
		time.Sleep(2 * time.Second) // to take what is its own
		n := strings.Count(second.said(), ": connected")
		if n > 0 && n < 6 {
			return true
		}
		second.kill()
		return false
	})
	until(t, "each agent's collector", f.all)
	lines, err := os.Create(filepath.Join(t.TempDir(), "lines"))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	trace := startRecollect(t, lines, "trace", "-bus", server.URL(), "-group", "239.1.1.1", "-format", "json", "-every", "500ms")
	until(t, "all to read", func() bool { return readers(t, server.URL()) == 3*4 })
	writers := map[net.Conn]*ipfix.Writer{}
	const n = 80
	missed := 0
	for i := range n {
		lost := i > 25 && i < 46 && i%2 == 0 // nothing is concluded from silence at the beginning and the end
		if lost {
			missed++
		}
		f.multicast(t, writers, i+1, func(agent int) bool { return agent == 5 && lost })
		time.Sleep(50 * time.Millisecond)
	}
	check := func(what string, flow path.Flow) bool {
		if flow.Packets != n {
			return false
		}
		for _, h := range flow.Hops {
			want := uint64(0)
			if h.To.Agent == "a5" {
				want = uint64(missed)
			}
			if h.From.Agent != "a0" || h.Packets != n-want || h.Lost+h.Unobserved != want || h.Lost == 0 && want > 0 { // a pause of ours may hide some
				t.Errorf("%s: hop from %s to %s: %d packets, %d lost, %d not observed; want %d and %d lost", what, h.From.Agent, h.To.Agent, h.Packets, h.Lost, h.Unobserved, n-want, want)
			}
		}
		if len(flow.Hops) != 5 {
			t.Errorf("%s: %d hops, want 5", what, len(flow.Hops))
		}
		return true
	}
	for _, p := range []*process{first, second} {
		until(t, "all packets, whoever has their agents", func() bool {
			var r path.Report
			err := json.Unmarshal([]byte(fetch(t, strings.TrimSuffix(p.page(t), "/")+"/api/v1/tree?group=239.1.1.1")), &r)
			return err == nil && len(r.Flows) == 1 && check(fmt.Sprint("collector ", p.Process.Pid), r.Flows[0])
		})
	}
	until(t, "all packets in the trace", func() bool {
		text, _ := os.ReadFile(lines.Name())
		list := strings.Split(strings.TrimSpace(string(text)), "\n")
		var flow path.Flow
		return json.Unmarshal([]byte(list[len(list)-1]), &flow) == nil && check("trace", flow)
	})
	for _, p := range []*process{first, second} {
		p.end(t)
	}
	trace.Process.Signal(os.Interrupt)
	if err := trace.Wait(); err != nil {
		t.Errorf("trace: %v", err)
	}
}
