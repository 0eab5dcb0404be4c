//go:build !libpcap

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	collector "github.com/pcapper/pcapper/internal/collector"
	"github.com/pcapper/pcapper/internal/collector/rollup"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/internal/transport/feed"
)

// The network that TestQuality breaks in known ways, in the switch between
// sender and receivers: every tenth packet of flow 7 is lost on its way to n2,
// every second one of the multicast flow 9 on its way to n4.
const losses = `
table bridge quality {
	chain forward {
		type filter hook forward priority 0;
		oifname "to-n2" udp dport 5001 numgen inc mod 10 0 drop
		oifname "to-n4" udp dport 5003 numgen inc mod 2 0 drop
	}
}`

// received is what mgen's own log says of a flow at a receiver.
type received struct {
	messages map[int]int // by sequence number
	delay    time.Duration
	n        int
}

func (r *received) mean() time.Duration { return r.delay / time.Duration(r.n) }

var mgenLine = regexp.MustCompile(`^(\S+) RECV .*flow>(\d+) seq>(\d+) .* sent>(\S+) `)

// readMGEN reads a log of mgen(1).
func readMGEN(t *testing.T, name string) map[int]*received {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	flows := make(map[int]*received)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		m := mgenLine.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		at, err := time.Parse("15:04:05.000000", m[1])
		sent, err2 := time.Parse("15:04:05.000000", m[4])
		if err != nil || err2 != nil {
			t.Fatalf("%s: %q: %v, %v", name, lines.Text(), err, err2)
		}
		delay := at.Sub(sent)
		if delay < -12*time.Hour { // the log has no date
			delay += 24 * time.Hour
		}
		flow, _ := strconv.Atoi(m[2])
		seq, _ := strconv.Atoi(m[3])
		r := flows[flow]
		if r == nil {
			r = &received{messages: make(map[int]int)}
			flows[flow] = r
		}
		r.messages[seq]++
		r.n++
		r.delay += delay
	}
	return flows
}

// relay makes a listener of the test's own network lead to an address in a
// host's, so that a collector in this process can dial agents there.
func relay(t *testing.T, from *nettest.Host, to string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := from.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			go func() { io.Copy(far, near); far.Close() }()
			go func() { io.Copy(near, far); near.Close() }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// startView starts a collector in this process and gives its view.
func startView(t *testing.T, conf string) *collector.View {
	t.Helper()
	file := collector.Parse("collector.conf", []byte(conf))
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	views, done := make(chan *collector.View, 1), make(chan error, 1)
	go func() {
		done <- collector.Run(ctx, collector.Config{
			File: file, Stdout: null, Stderr: null, Lines: true, Unconfined: true, // this process is the test
			View: func(ctx context.Context, v *collector.View) error {
				views <- v
				<-ctx.Done()
				return nil
			},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		null.Close()
	})
	return <-views
}

// TestQuality: what the collector says of flows of the real mgen, whose packets
// are lost and delayed in known ways between agents, is what mgen itself logs.
func TestQuality(t *testing.T) {
	hosts := nettest.Bridge(t, 4)
	n1, n2, n3, n4 := hosts[0], hosts[1], hosts[2], hosts[3]
	nft := n1.Switch.Command(t.Context(), "nft", "-f", "-")
	nft.Stdin = strings.NewReader(losses)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	slow, err := n1.Switch.Netlink().LinkByName("to-n3")
	if err != nil {
		t.Fatal(err)
	}
	// 1,042 bytes of a frame take 10 ms, and wait for those before them.
	queue := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: slow.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		Rate:       104_200, Limit: 1_000_000, Buffer: 2_000_000,
	}
	if err := n1.Switch.Netlink().QdiscReplace(queue); err != nil {
		t.Fatal(err)
	}
	conf := "1=M7\n2=M8\n3=M9\n"
	for i, h := range hosts {
		mode := "dst"
		if h == n1 {
			mode = "src"
		}
		start(t, h, "-m", mode, "-ipfix-port", "4739")
		conf += fmt.Sprintf("%s:ipfix://127.0.0.1:%d\n", h.Name, relay(t, n4, fmt.Sprintf("%v:4739", hosts[i].Interface.IPv4)))
	}
	v := startView(t, conf)
	attached := func() bool {
		return !slices.ContainsFunc(v.Agents(), func(a collector.AgentStatus) bool { return a.Phase != feed.Connected })
	}
	if !nettest.Eventually(20*time.Second, attached) {
		t.Fatalf("agents %+v", v.Agents())
	}
	logs := t.TempDir()
	listen := func(h *nettest.Host, events ...string) string {
		name := filepath.Join(logs, h.Name)
		args := []string{"flush", "output", name}
		for _, e := range events {
			args = append(args, "event", e)
		}
		startUrgent(t, h, "mgen", args...)
		if !nettest.Eventually(10*time.Second, func() bool {
			b, _ := os.ReadFile(name)
			return strings.Count(string(b), "LISTEN")+strings.Count(string(b), "JOIN") >= len(events)
		}) {
			t.Fatalf("mgen on %s does not listen", h.Name)
		}
		return name
	}
	log2 := listen(n2, "listen udp 5001,5003", "join 239.1.2.3 interface eth0")
	log3 := listen(n3, "listen udp 5002")
	log4 := listen(n4, "listen udp 5003", "join 239.1.2.3 interface eth0")
	// 300 messages in a second and a half, which the queue takes three for: the
	// last waits for as long.
	const sent7, sent8, sent9 = 1000, 300, 600
	startMGEN(t, n1, "interface", "eth0",
		"event", fmt.Sprintf("on 7 udp src 4001 dst %v/5001 periodic [250 200] count %d", n2.Interface.IPv4, sent7),
		"event", fmt.Sprintf("on 8 udp src 4002 dst %v/5002 periodic [200 1000] count %d", n3.Interface.IPv4, sent8),
		"event", fmt.Sprintf("on 9 udp src 4003 dst 239.1.2.3/5003 periodic [150 300] count %d", sent9))
	sendShuffled(t, n1, n2)
	// All has been sent when the last message of each flow has come, or would have.
	var snap *rollup.Snapshot
	complete := func() bool {
		snap = v.Store().Snapshot()
		flows := snap.MGEN(snap.Span()).Flows
		ok := len(flows) == 4 && len(flows[3].Receivers) == 1
		for i, want := range []uint64{sent7, sent8, sent9} {
			ok = ok && flows[i].Sent.Messages == want
		}
		return ok && len(readMGEN(t, log3)) > 0 && readMGEN(t, log3)[8].n == sent8 && flows[1].Receivers[0].Received.Messages == sent8
	}
	if !nettest.Eventually(40*time.Second, complete) {
		t.Fatalf("MGEN %+v", snap.MGEN(snap.Span()))
	}
	m2, m3, m4 := readMGEN(t, log2), readMGEN(t, log3), readMGEN(t, log4)
	var m *rollup.MGEN
	// What is at the receivers comes with a later snapshot.
	if !nettest.Eventually(20*time.Second, func() bool {
		snap = v.Store().Snapshot()
		m = snap.MGEN(snap.Span())
		at := func(flow, host int) int { return int(receiverAt(m.Flows[flow], host).Received.Messages) }
		return at(0, 1) >= m2[7].n && at(1, 2) >= m3[8].n && at(2, 1) >= m2[9].n && at(2, 3) >= m4[9].n && at(3, 1) >= 108
	}) {
		t.Errorf("not all is in a snapshot: %+v", m)
	}
	f7, f8, f9 := m.Flows[0], m.Flows[1], m.Flows[2]
	checkLoss(t, "flow 7 at n2", f7, 1, sent7, m2[7])
	checkLoss(t, "flow 8 at n3", f8, 2, sent8, m3[8])
	checkLoss(t, "flow 9 at n2", f9, 1, sent9, m2[9])
	checkLoss(t, "flow 9 at n4", f9, 3, sent9, m4[9])
	if got := receiverAt(f7, 1).Loss.Fraction(); math.Abs(got-0.1) > 0.001 {
		t.Errorf("flow 7: loss %v, want 0.1", got)
	}
	// The queue, to which mgen and the agent are as near as a wake-up is fast:
	// mgen's own stamps are some milliseconds late on a busy machine.
	const late = 5 * time.Millisecond
	r8 := receiverAt(f8, 2)
	if d, want := r8.MeanDelay, m3[8].mean(); math.Abs(float64(d-want)) > 0.01*float64(want)+float64(late) || want < 600*time.Millisecond {
		t.Errorf("flow 8: mean delay %v, mgen has %v", d, want)
	}
	if r8.MaxDelay < 1200*time.Millisecond || r8.MaxDelay > 3*time.Second || r8.NegativeDelays != 0 {
		t.Errorf("flow 8: %+v", r8)
	}
	if r := receiverAt(m.Flows[3], 1); r.Duplicates != 10 || r.Reordered != 5 || r.Restarts != 0 || r.NegativeDelays != 0 ||
		r.Loss != (rollup.Loss{Valid: true, BySequence: true, Expected: 100, Lost: 2}) || r.Received.Messages != 108 {
		t.Errorf("shuffled flow: %+v", r)
	}
	groups := snap.Groups(snap.Span()).Groups
	var group *rollup.Group
	for i := range groups {
		if groups[i].Addr == netip.MustParseAddr("239.1.2.3") {
			group = &groups[i]
		}
	}
	if group == nil || len(group.Senders) != 1 || group.Senders[0].Host != 0 || group.Once.Packets != sent9 {
		t.Fatalf("groups %+v", groups)
	}
	fractions := map[int]float64{}
	for _, r := range group.Senders[0].Receivers {
		fractions[r.Host] = r.Fraction
	}
	if fractions[1] != 1 || math.Abs(fractions[3]-0.5) > 0.005 {
		t.Errorf("fractions of the group %v", fractions)
	}
}

// startUrgent starts a program before which no other gets the processor: mgen
// looks at its clock when it reads a message, not when that arrives.
func startUrgent(t *testing.T, h *nettest.Host, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	urgent := append([]string{"chrt", "--fifo", "50"}, append([]string{name}, args...)...)
	if h.Command(ctx, "chrt", "--fifo", "50", "true").Run() != nil {
		urgent = urgent[3:] // a container may not; the machine had better be idle
	}
	c := h.Command(ctx, urgent[0], urgent[1:]...)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); c.Wait() })
}

// sendShuffled sends flow 10: numbers 0 to 99 without 50 and 70, 10 to 19 twice,
// and 80 to 84 after 89.
func sendShuffled(t *testing.T, from, to *nettest.Host) {
	t.Helper()
	var order []uint32
	for seq := range uint32(100) {
		switch {
		case seq == 50 || seq == 70 || seq >= 80 && seq < 85:
			continue
		case seq >= 10 && seq < 20:
			order = append(order, seq)
		}
		order = append(order, seq)
		if seq == 89 {
			order = append(order, 80, 81, 82, 83, 84)
		}
	}
	start := time.Now()
	var frames [][]byte
	for _, seq := range order {
		m := nettest.MGEN{
			Flow: 10, Seq: seq, Time: start.Add(time.Duration(seq) * time.Microsecond),
			Dst: netip.AddrPortFrom(to.Interface.IPv4, 5009), Size: 100,
		}
		f := nettest.Between(from, to, 4009, 5009, m.Payload())
		frames = append(frames, f.Ethernet())
	}
	time.Sleep(time.Millisecond) // none is sent before its time
	send(t, from, len(frames), 2000, frames...)
}

func receiverAt(f rollup.MGENFlow, host int) rollup.MGENReceiver {
	for _, r := range f.Receivers {
		if r.Host == host {
			return r
		}
	}
	return rollup.MGENReceiver{Host: -1}
}

// checkLoss compares a flow at a receiver with mgen's own log.
func checkLoss(t *testing.T, what string, f rollup.MGENFlow, host int, sent uint64, log *received) {
	t.Helper()
	r := receiverAt(f, host)
	if r.Host < 0 || log == nil {
		t.Errorf("%s: not received: %+v", what, f)
		return
	}
	if f.Sent.Messages != sent || f.SrcHost != 0 || !f.Watched {
		t.Errorf("%s: sent %+v from %d, want %d", what, f.Sent, f.SrcHost, sent)
	}
	if r.Received.Messages != uint64(log.n) || !r.Loss.BySequence || r.Duplicates != 0 || r.Reordered != 0 || r.Restarts != 0 {
		t.Errorf("%s: %+v, mgen has %d", what, r, log.n)
	}
	first, last := slices.Min(sortedKeys(log.messages)), slices.Max(sortedKeys(log.messages))
	if want := uint64(last - first + 1 - len(log.messages)); r.Loss.Lost != want {
		t.Errorf("%s: %d lost, of mgen's log %d are missing", what, r.Loss.Lost, want)
	}
}

func sortedKeys(m map[int]int) (keys []int) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}
