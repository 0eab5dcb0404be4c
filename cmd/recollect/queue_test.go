package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pcapper/pcapper/internal/collector/path"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

// traced keeps the newest line of each flow, by its port.
type traced struct {
	mu    sync.Mutex
	rest  []byte
	flows map[uint16]path.Flow
}

func (l *traced) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		var f path.Flow
		if err := json.Unmarshal(line, &f); err != nil {
			return 0, err
		}
		l.flows[f.DstPort], l.rest = f, rest
	}
}

func (l *traced) flow(port uint16) path.Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flows[port]
}

// queueLab is a host whose queue delays and drops what it sends, one that receives it, and one for the
// collector.
func queueLab(t *testing.T) *lab {
	programs, err := withPage()
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, dir: t.TempDir(), bin: programs}
	l.hosts = nettest.Bridge(t, 3)
	l.run(l.hosts[0], "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "1mbit", "burst", "2kb", "limit", "5000")
	return l
}

var queued = regexp.MustCompile(`(?s)qdisc tbf.*?Sent \d+ bytes (\d+) pkt \(dropped (\d+),`)

// TestQueue: with -point both, a queue is a hop, whose loss is what tc counts, and whose delay is that
// of a full queue.
func TestQueue(t *testing.T) {
	t.Parallel()
	nettest.NeedTCX(t)
	for _, many := range []bool{false, true} {
		t.Run(map[bool]string{false: "one", true: "many"}[many], func(t *testing.T) {
			l := queueLab(t)
			at := l.hosts[2]
			from := "10.9.0.1"
			args := []string{"trace", "-dst", l.hosts[1].Interface.IPv4.String(), "-format", "json", "-every", "1s", "-window", "3s"}
			if many {
				prefix := fmt.Sprintf("pcapper-%d-queue-", os.Getpid())
				agent := []string{"-listen", "127.0.0.1", "-p", "0", "-ipfix-port", "7300", "-m", "none", "-f", os.DevNull, "-ports", "collector.conf", "-point", "both"}
				for _, h := range l.hosts[:2] {
					h.Named(t, prefix+h.Name)
					agent = append(agent, "-netns", prefix+h.Name)
				}
				l.start(at, filepath.Join(l.bin, "pcapper"), agent...)
				l.await("a table of ports", func() bool {
					text, _ := os.ReadFile(filepath.Join(l.dir, "collector.conf"))
					return bytes.Count(text, []byte("ipfix://")) == 2
				})
				from = prefix + "n1-eth0"
				args = append(args, "-c", "collector.conf")
			} else {
				for i, h := range l.hosts[:2] {
					// The feeds have a cable of their own.
					nettest.Cable(t, h, "feed", at, h.Name)
					addr := fmt.Sprintf("10.9.%d.1", i)
					l.run(h, "ip", "addr", "add", addr+"/24", "dev", "feed")
					l.run(at, "ip", "addr", "add", fmt.Sprintf("10.9.%d.2/24", i), "dev", h.Name)
					l.start(h, filepath.Join(l.bin, "pcapper"), "-i", "eth0", "-m", "none", "-ipfix-port", "4739", "-point", "both", "-f", os.DevNull)
					args = append(args, addr)
				}
			}
			for _, port := range []string{":5000", ":5001"} {
				l.discard(1, port)
			}
			lines := &traced{flows: map[uint16]path.Flow{}}
			cmd := at.Command(t.Context(), filepath.Join(l.bin, "recollect"), args...)
			cmd.Dir, cmd.Stdout = l.dir, lines
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			hops := func(f *path.Flow) (queue, wire *path.Hop) {
				for i := range f.Hops {
					switch h := &f.Hops[i]; {
					case h.To == nil:
					case h.From.Agent == from && h.From.Stage == "queue" && h.To.Agent == from && h.To.Stage == "out":
						queue = h
					case h.From.Agent == from && h.From.Stage == "out" && h.To.Stage == "in":
						wire = h
					}
				}
				return queue, wire
			}
			to := l.hosts[1].Interface.IPv4.String()
			l.await("both agents", func() bool { // slowly enough for the queue
				l.talk(0, to+":5001", 1)
				time.Sleep(50 * time.Millisecond)
				f := lines.flow(5001)
				queue, wire := hops(&f)
				return queue != nil && wire != nil
			})
			const n = 400
			c, err := l.hosts[0].Dial("udp4", to+":5000")
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			for i := range n { // in bursts, of which the queue holds half, however late we are
				if _, err := c.Write(fmt.Appendf(nil, "%0500d", i)); err != nil {
					t.Fatal(err)
				}
				if i%20 == 19 {
					time.Sleep(40 * time.Millisecond)
				}
			}
			l.await("all packets", func() bool { return lines.flow(5000).Packets == n })
			f := lines.flow(5000)
			queue, wire := hops(&f)
			if queue == nil || wire == nil {
				t.Fatalf("no queue, or no wire: %+v", f)
			}
			out, err := l.hosts[0].Command(t.Context(), "tc", "-s", "qdisc", "show", "dev", "eth0").CombinedOutput()
			m := queued.FindSubmatch(out)
			if err != nil || m == nil {
				t.Fatalf("%v: %s", err, out)
			}
			passed, _ := strconv.ParseUint(string(m[1]), 10, 64)
			dropped, _ := strconv.ParseUint(string(m[2]), 10, 64)
			if queue.Lost != dropped || dropped < n/10 {
				t.Errorf("the queue lost %d, tc says %d", queue.Lost, dropped)
			}
			reasons := uint64(0)
			for reason, count := range queue.Drops {
				if !strings.HasPrefix(reason, "QDISC_") {
					t.Errorf("%d dropped because of %s", count, reason)
				}
				reasons += count
			}
			if reasons != dropped {
				t.Errorf("the kernel tells of %d drops, tc says %d", reasons, dropped)
			}
			if queue.Packets > passed || queue.Packets+queue.Lost != f.Packets {
				t.Errorf("the queue passed %d of %d, tc says %d", queue.Packets, f.Packets, passed)
			}
			if wire.Packets != queue.Packets || wire.Lost != 0 || f.Lost != dropped || f.Arrived != queue.Packets {
				t.Errorf("on the wire %d and %d lost, %d arrived, %d lost; want %d, 0, %[1]d, %d", wire.Packets, wire.Lost, f.Arrived, f.Lost, queue.Packets, dropped)
			}
			// 5,000 bytes at 1 Mbit/s are 40 ms.
			if d := queue.Delay; d == nil || d.Clock != "same" || d.P95 < int64(20*time.Millisecond) || d.P50 > int64(60*time.Millisecond) {
				t.Errorf("delay of the queue: %+v", d)
			}
			if d := wire.Delay; d == nil || d.P50 > int64(20*time.Millisecond) {
				t.Errorf("delay of the wire: %+v", d)
			}
		})
	}
}
