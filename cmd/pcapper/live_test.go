package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nobody has this address, which is for benchmarks (RFC 2544).
var nobody = netip.MustParseAddr("198.18.0.9")

// variety makes frames that differ in every field of a record: UDP and TCP,
// IP options, MGEN, all kinds of lengths. wants are their records without
// times. Their destination is nobody's, so that nobody answers.
func variety(from, to *nettest.Host, n int) (frames [][]byte, wants []wire.Record) {
	for i := range n {
		f := nettest.Between(from, to, uint16(1000+i), uint16(20000+7*i), make([]byte, i%1400))
		f.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}), f.Src.Port())
		f.Dst = netip.AddrPortFrom(nobody, f.Dst.Port())
		want := wire.Record{
			SrcPort: f.Src.Port(), DstPort: f.Dst.Port(), Proto: wire.ProtoUDP,
			Length: uint32(28 + i%1400),
		}
		switch i % 4 {
		case 1:
			f.Proto = wire.ProtoTCP
			want.Proto = wire.ProtoTCP
			want.Length += 12
		case 2:
			f.Options = []byte{1, 1, 1, 1, 1, 0}
			want.Length += 8
		case 3:
			m := nettest.MGEN{Flow: uint32(i) * 4_000_037, Seq: uint32(i), Time: time.Now(), Dst: f.Dst, Size: 40 + i%1000}
			f.Payload = m.Payload()
			want.FlowID, want.Flags = m.Flow, wire.MGEN
			want.Length = uint32(28 + len(f.Payload))
		}
		want.SetSrc4(f.Src.Addr().As4())
		want.SetDst4(f.Dst.Addr().As4())
		frames = append(frames, f.Ethernet())
		wants = append(wants, want)
	}
	return frames, wants
}

func compare(t *testing.T, who string, got, wants []wire.Record, begin, end time.Time) {
	t.Helper()
	last := begin.Truncate(time.Microsecond).UnixNano()
	for i, r := range got {
		if r.Time < last || r.Time > end.UnixNano() {
			t.Fatalf("%s: record %d is of %d, sent between %d and %d, after one of %d", who, i, r.Time,
				begin.UnixNano(), end.UnixNano(), last)
		}
		last = r.Time
		r.Time = 0
		if want := wants[i%len(wants)]; r != want {
			t.Fatalf("%s: record %d is\n%+v, want\n%+v", who, i, r, want)
		}
	}
}

// TestEveryPacketToEveryone: each of three collectors and the log get every
// packet, with every field as it was sent.
func TestEveryPacketToEveryone(t *testing.T) {
	const n = 60_000
	a, b := nettest.Pair(t)
	p := start(t, a, "-i", "eth0", "-f", "packets.log")
	silent, bulk, text := p.dial(a, ""), p.dial(a, "bulk\n"), p.dial(b, "text\n")
	frames, wants := variety(a, b, 3000)
	begin, end := send(t, a, n, 20_000, frames...)
	compare(t, "the silent collector", collect(t, silent, n), wants, begin, end)
	compare(t, "the bulk collector", collect(t, bulk, n), wants, begin, end)
	compare(t, "the text collector", collectLines(t, text, n), wants, begin, end)
	summary := strings.Join(p.stop(), "\n")
	compare(t, "the log", p.logLines("packets.log"), wants, begin, end)
	for _, want := range []string{
		"60,000 packets captured", " 0 dropped by the kernel", " 0 dropped by slow readers",
		"(records): 60,000 delivered, 0 lost", "(bulk): 60,000 delivered, 0 lost",
		"(text): 60,000 delivered, 0 lost", `log "packets.log": 60,000 lines written, 0 lost, 0 in flight`,
	} {
		if !strings.Contains(summary, want) {
			t.Errorf("the summary does not say %q:\n%s", want, summary)
		}
	}
}

// TestModes: each mode sees its share of own, received, spoofed, forwarded and
// others' frames, all told apart by their destination port.
func TestModes(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	other := nettest.MAC{2, 0, 0, 0, 0, 0x0c}
	frame := func(srcMAC nettest.MAC, src netip.Addr, port uint16, proto uint8) []byte {
		f := nettest.Between(a, b, 4000, port, []byte("payload"))
		f.SrcMAC, f.Proto = srcMAC, proto
		f.Src, f.Dst = netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(nobody, port)
		return f.Ethernet()
	}
	elsewhere := netip.MustParseAddr("10.99.0.9")
	const own, ownTCP, relayed, received, spoofed, foreign = 1, 2, 3, 4, 5, 6
	sentByA := [][]byte{
		frame(a.Interface.MAC, a.Interface.IPv4, own, wire.ProtoUDP),
		frame(a.Interface.MAC, a.Interface.IPv4, ownTCP, wire.ProtoTCP),
		frame(a.Interface.MAC, elsewhere, relayed, wire.ProtoUDP),
	}
	sentByB := [][]byte{
		frame(b.Interface.MAC, b.Interface.IPv4, received, wire.ProtoUDP),
		frame(b.Interface.MAC, a.Interface.IPv4, spoofed, wire.ProtoUDP),
		frame(other, elsewhere, foreign, wire.ProtoTCP),
	}
	const each = 100
	for i, tt := range []struct {
		mode string
		want []uint16
	}{
		{"src", []uint16{own, ownTCP, relayed}},
		{"dst", []uint16{received, spoofed, foreign}},
		{"spoof", []uint16{spoofed}},
		{"none", []uint16{own, ownTCP, relayed, received, spoofed, foreign}},
		{"udp and ether src not %m", []uint16{received, spoofed}},
		{"src host %i and not ether src %m or tcp dst port 6", []uint16{spoofed, foreign}},
		{"ether src %m and not src %i", []uint16{relayed}},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			p := start(t, a, "-m", tt.mode, "-p", strconv.Itoa(7100+i))
			c := p.dial(a, "")
			send(t, a, each*len(sentByA), 20_000, sentByA...)
			send(t, b, each*len(sentByB), 20_000, sentByB...)
			count := map[uint16]int{}
			for _, r := range collect(t, c, each*len(tt.want)) {
				count[r.DstPort]++
			}
			for _, port := range tt.want {
				if count[port] != each {
					t.Errorf("%d packets of kind %d, want %d; all: %v", count[port], port, each, count)
				}
			}
		})
	}
}

// TestOwnFeedIsLeftOut: a collector on the watched network gets the packets of
// others, not those that carry them to it.
func TestOwnFeedIsLeftOut(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a, "-m", "none")
	near, far := p.dial(a, ""), p.dial(b, "")
	frames, wants := variety(a, b, 100)
	for range 5 { // with time for the feed's own packets to come back
		begin, end := send(t, a, 100, 10_000, frames...)
		compare(t, "far", collect(t, far, 100), wants, begin, end)
		compare(t, "near", collect(t, near, 100), wants, begin, end)
	}
	if summary := strings.Join(p.stop(), "\n"); !strings.Contains(summary, "of our own feed left out") {
		t.Errorf("what was left out is not counted:\n%s", summary)
	}
	p = start(t, a, "-m", "none", "-include-self")
	far = p.dial(b, "")
	send(t, a, 100, 10_000, frames...)
	own := 0
	for _, r := range collectSome(t, far, 102) {
		if r.SrcPort == 7073 || r.DstPort == 7073 {
			own++
		}
	}
	if own == 0 {
		t.Error("-include-self shows no packet of the feed")
	}
}

// collectSome reads n records; there may be more.
func collectSome(t *testing.T, conn net.Conn, n int) []wire.Record {
	t.Helper()
	recs, err := readRecords(conn, n)
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

// TestNobodyAttached: no capture, no log; both begin and end with collectors.
func TestNobodyAttached(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"ebpf", "ring"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "ebpf" {
				nettest.NeedTCX(t)
			}
			testNobodyAttached(t, engine)
		})
	}
}

func testNobodyAttached(t *testing.T, engine string) {
	a, b := nettest.Pair(t)
	p := start(t, a, "-engine", engine)
	frames, wants := variety(a, b, 50)
	send(t, a, 50, 0, frames...)
	if capturing(t, a) {
		t.Error("it captures although nobody is attached")
	}
	if _, err := os.Stat(filepath.Join(p.dir, "pcapper.conf")); err == nil {
		t.Error("it wrote a log although nobody is attached")
	}
	c := p.dial(a, "")
	if !capturing(t, a) {
		t.Error("it does not capture although somebody is attached")
	}
	begin, end := send(t, a, 50, 10_000, frames...)
	compare(t, "the collector", collect(t, c, 50), wants, begin, end)
	c.Close()
	p.await("detached", 1)
	if !nettest.Eventually(5*time.Second, func() bool { return !capturing(t, a) }) {
		t.Error("it goes on capturing although nobody is attached any more")
	}
	send(t, a, 50, 10_000, frames...)
	again := p.dial(a, "") // the stream begins anew
	begin2, end2 := send(t, a, 50, 10_000, frames...)
	compare(t, "the next collector", collect(t, again, 50), wants, begin2, end2)
	p.stop()
	if got := p.logLines("pcapper.conf"); len(got) != 100 {
		t.Errorf("%d lines in the log, want 100", len(got))
	}
}

// capturing reports whether a packet socket takes packets in the host's
// namespace, R being the sixth column of /proc/net/packet, or a tcx program
// does on eth0.
func capturing(t *testing.T, h *nettest.Host) bool {
	t.Helper()
	return hasTCX(t, h) || hasPacketSocket(t, h)
}

func hasTCX(t *testing.T, h *nettest.Host) bool {
	t.Helper()
	nic, err := h.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if !nettest.Kernel(6, 6) {
		return false
	}
	n := 0
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		var programs *link.QueryResult
		h.Do(func() { programs, err = link.QueryPrograms(link.QueryOptions{Target: nic.Attrs().Index, Attach: at}) })
		if err != nil {
			t.Fatal(err)
		}
		n += len(programs.Programs)
	}
	return n > 0
}

func hasPacketSocket(t *testing.T, h *nettest.Host) bool {
	t.Helper()
	var data []byte
	var err error
	h.Do(func() { data, err = os.ReadFile("/proc/thread-self/net/packet") })
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n")[1:] {
		if f := strings.Fields(line); len(f) > 5 && f[5] == "1" {
			return true
		}
	}
	return false
}

// TestFirstRecordIsQuick: 20 ms from the packet to the collector.
func TestFirstRecordIsQuick(t *testing.T) {
	a, b := nettest.Pair(t)
	p := start(t, a)
	c := p.dial(a, "")
	frame := nettest.Between(a, b, 1, 2, nil)
	var late []time.Duration
	for range 50 {
		send(t, a, 1, 0, frame.Ethernet())
		r := collectSome(t, c, 1)[0]
		late = append(late, time.Since(time.Unix(0, r.Time)))
	}
	slices.Sort(late)
	limit := 20 * time.Millisecond
	if os.Getenv("PCAPPER_VM") != "" {
		limit *= 10 // every instruction is emulated
	}
	if median := late[len(late)/2]; median > limit {
		t.Errorf("a record takes %v (median); all: %v", median, late)
	}
}

// TestStalledCollector: one that never reads, at 100,000 packets a second,
// costs the others nothing, and its own losses are counted exactly.
func TestStalledCollector(t *testing.T) {
	const n = 1_000_000
	a, b := nettest.Pair(t)
	p := start(t, a, "-f", "/dev/null")
	stalled := p.dial(a, "bulk\n")
	good := []net.Conn{p.dial(a, "bulk\n"), p.dial(a, "bulk\n")}
	frames, wants := variety(a, b, 1000)
	done := make(chan []wire.Record, 2)
	for _, c := range good {
		go func() {
			recs, err := readRecords(c, n)
			if err != nil {
				t.Error(err)
			}
			done <- recs
		}()
	}
	rate := 100_000.0
	if len(raceFlags) > 0 {
		rate /= 2 // the race detector makes all of this ten times slower
	}
	begin, end := send(t, a, n, rate, frames...)
	for range good {
		recs := <-done
		compare(t, "a good collector", recs, wants, begin, end)
		if len(recs) != n {
			t.Errorf("a good collector got %d records", len(recs))
		}
	}
	if kb := peakRSS(t, p.cmd.Process.Pid); kb > 128<<10 && len(raceFlags) == 0 {
		t.Errorf("peak memory %d kB", kb)
	}
	read := make(chan int)
	p.signal(syscall.SIGINT)
	go func() {
		data := 0
		buf := make([]byte, 1<<20)
		for {
			k, err := stalled.Read(buf)
			data += k
			if err != nil {
				read <- data / wire.Size
				return
			}
		}
	}()
	got := <-read
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	_, line, _ := strings.Cut(p.said(), "summary: ")
	_, line, _ = strings.Cut(line, "collector "+stalled.LocalAddr().String()+" (bulk): ")
	var delivered, lost int
	fmt.Sscanf(strings.ReplaceAll(line, ",", ""), "%d delivered %d lost", &delivered, &lost)
	if delivered+lost != n || delivered != got || lost == 0 {
		t.Errorf("the stalled collector got %d records of %d; the summary says %d delivered, %d lost", got, n, delivered, lost)
	}
}

func peakRSS(t *testing.T, pid int) (kB int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(data), "VmHWM:")
	fmt.Sscan(line, &kB)
	return kB
}

func TestInterfaceDownUpAndRemoved(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a)
	c := p.dial(a, "")
	frames, wants := variety(a, b, 20)
	begin, end := send(t, a, 20, 1000, frames...)
	compare(t, "before", collect(t, c, 20), wants, begin, end)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	p.await("eth0 is down", 1)
	if err := a.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	p.await("eth0 is up again", 1)
	begin, end = send(t, a, 20, 1000, frames...)
	compare(t, "after", collect(t, c, 20), wants, begin, end)
	link, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Netlink().LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 5 || !strings.Contains(p.said(), `interface "eth0" was removed`) {
		t.Errorf("exit code %d, said:\n%s", code, p.said())
	}
}

// TestCollectorComesWhileDown: it gets what passes once the interface is up.
func TestCollectorComesWhileDown(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	p.await("eth0 is down", 1)
	c := p.dial(a, "")
	if err := a.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	p.await("eth0 is up again", 1)
	frames, wants := variety(a, b, 20)
	begin, end := send(t, a, 20, 1000, frames...)
	compare(t, "the collector", collect(t, c, 20), wants, begin, end)
}

// TestAddressesAreFollowed: the filter knows a new MAC and new IP addresses.
func TestAddressesAreFollowed(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	src := start(t, a, "-m", "src", "-p", "7401")
	spoof := start(t, a, "-m", "spoof", "-p", "7402")
	link, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	mac := nettest.MAC{2, 0, 0, 0, 0, 0x66}
	if err := a.Netlink().LinkSetHardwareAddr(link, mac[:]); err != nil {
		t.Fatal(err)
	}
	src.await("filter is now: ether src "+mac.String(), 1)
	spoof.await("filter is now: ", 1)
	addr, _ := netlink.ParseAddr("10.88.0.1/24")
	if err := a.Netlink().AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	spoof.await("one of 5 own addresses", 1)
	own := nettest.Between(a, b, 1, 2, nil)
	own.SrcMAC, own.Dst = mac, netip.AddrPortFrom(nobody, 2)
	echo := own
	echo.SrcMAC, echo.Src = b.Interface.MAC, netip.MustParseAddrPort("10.88.0.1:3")
	fromA, fromB := src.dial(a, ""), spoof.dial(a, "")
	send(t, a, 10, 1000, own.Ethernet())
	send(t, b, 10, 1000, echo.Ethernet())
	for _, r := range collect(t, fromA, 10) {
		if r.SrcPort != 1 {
			t.Errorf("src: %+v", r)
		}
	}
	for _, r := range collect(t, fromB, 10) {
		if r.SrcPort != 3 {
			t.Errorf("spoof: %+v", r)
		}
	}
}

func TestAgentWaitsForItsInterface(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	p := launch(t, a)
	p.await("eth0 is down: waiting up to 60 s", 1)
	if err := a.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	p.await("open to anyone", 1)
	c := p.dial(a, "")
	frames, wants := variety(a, b, 20)
	begin, end := send(t, a, 20, 1000, frames...)
	compare(t, "the collector", collect(t, c, 20), wants, begin, end)
}

// TestTwoAgentsOnOnePort: the second is told who has the port, and what to
// write instead.
func TestTwoAgentsOnOnePort(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	first := start(t, a, "-i", "lo", "-i", "eth0", "-f", "/dev/null")
	who := fmt.Sprintf("cannot listen on port 7073: listen tcp :7073: bind: address already in use: pcapper (process %d), which watches eth0, has it\n",
		first.cmd.Process.Pid)
	for args, hint := range map[string]string{
		"-i lo -engine ring":   "hint: -p 7074 takes another port; or one agent for both: -i eth0,lo\n",
		"-i eth0 -engine ring": "hint: any number of collectors can connect to that one; or -p 7074 takes another port\n",
	} {
		p := launch(t, a, strings.Fields(args)...)
		if code := p.wait(); code != 2 || !strings.Contains(p.said(), who) || !strings.Contains(p.said(), hint) {
			t.Errorf("%s: exit code %d, want 2, %q and %q:\n%s", args, code, who, hint, p.said())
		}
	}
}

// TestCheckTriesTheLog: -check opens the log, and leaves none behind.
func TestCheckTriesTheLog(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	dir := t.TempDir()
	old := filepath.Join(dir, "old.log")
	if err := os.WriteFile(old, []byte("old\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		log        string
		code       int
		says, hint string
	}{
		{"/nonexistent/x", 18, "-f: cannot write the log: open /nonexistent/x: no such file or directory", "mkdir -p /nonexistent; or"},
		{dir, 18, "is a directory", "-f " + dir + "/pcapper.conf"},
		{filepath.Join(dir, "new.log"), 0, "all is well", ""},
		{old, 0, "all is well", ""},
		{"/dev/null", 0, "all is well", ""},
		{"", 0, "all is well", ""},
	} {
		p := launch(t, a, "-check", "-engine", "ring", "-f", tt.log)
		if code := p.wait(); code != tt.code || !strings.Contains(p.said(), tt.says) || !strings.Contains(p.said(), tt.hint) {
			t.Errorf("-f %q: exit code %d, want %d, %q and %q:\n%s", tt.log, code, tt.code, tt.says, tt.hint, p.said())
		}
	}
	left, err := filepath.Glob(dir + "/*")
	if text := read(t, old); err != nil || len(left) != 1 || text != "old\n" {
		t.Errorf("left behind: %q, and in the old log %q", left, text)
	}
}

// TestInterruptedWait: neither the agent nor its check speaks of contexts.
func TestInterruptedWait(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]struct {
		code int
		said string
	}{
		"-check": {1, "pcapper: eth0 is down: waiting up to 60 s\npcapper: interrupted before everything was tried\n"},
		"-v":     {0, "pcapper: eth0 is down: waiting up to 60 s\n"},
	} {
		p := launch(t, a, args)
		p.await("waiting up to", 1)
		p.signal(syscall.SIGINT)
		if code := p.wait(); code != want.code || p.said() != want.said {
			t.Errorf("%s: exit code %d, said %q, want %d and %q", args, code, p.said(), want.code, want.said)
		}
	}
}

// TestAgentWithoutAddresses: bridge ports, mirror ports and taps have no IP
// address, and are watched at once in modes that need none.
func TestAgentWithoutAddresses(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	frames, wants := variety(a, b, 20)
	link, err := a.Netlink().LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := a.Netlink().AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if err := a.Netlink().AddrDel(link, &addr); err != nil {
			t.Fatal(err)
		}
	}
	for i, mode := range []string{"src", "none", "ether src %m and ip or ip6 or arp"} {
		begun := time.Now()
		p := start(t, a, "-m", mode, "-p", strconv.Itoa(7300+i))
		if took := time.Since(begun); took > 15*time.Second || strings.Contains(p.said(), "waiting") {
			t.Errorf("-m %q: started after %v:\n%s", mode, took, p.said())
		}
		c := p.dial(a, "")
		begin, end := send(t, a, 20, 1000, frames...)
		compare(t, mode, collect(t, c, 20), wants, begin, end)
		p.stop()
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	ln, err := a.Listen("tcp", ":7200")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tt := range []struct {
		args string
		code int
		says []string
	}{
		{"-i eth7", 4, []string{`cannot capture on "eth7": no such interface`, "hint: this host has lo, ", "eth0"}},
		{"-p 7200", 2, []string{"cannot listen on port 7200", fmt.Sprintf("(process %d) has it", os.Getpid()), "hint: -p 7201 takes another port"}},
		{"-metrics :7200", 2, []string{`-metrics: cannot listen on ":7200"`, fmt.Sprintf("(process %d) has it", os.Getpid()), "hint: -metrics :7201 takes another port"}},
		{"-m ((", 6, []string{`filter "(("`}},
		{"-m nonsense", 6, []string{`filter "nonsense"`}},
		{"-r eth8", 22, []string{`-r: cannot take a MAC address`, "eth8"}},
		{"-r lo", 22, []string{`-r "lo": that interface has no MAC address`}},
		{"-engine ebpf9", 12, []string{"no engine"}},
		{"-m %i -i lo", 6, nil},
	} {
		p := launch(t, a, strings.Fields(tt.args)...)
		if code := p.wait(); code != tt.code {
			t.Errorf("%s: exit code %d, want %d:\n%s", tt.args, code, tt.code, p.said())
		}
		for _, want := range tt.says {
			if !strings.Contains(p.said(), want) {
				t.Errorf("%s: said %q, want %q", tt.args, p.said(), want)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	p := launch(t, a, "-check", "-m", "dst")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	engine := "engine: ebpf: tcx: the queueing discipline is noqueue"
	if !nettest.Kernel(6, 6) {
		engine = "engine: ring (AF_PACKET TPACKET_V3): needs CAP_NET_RAW only"
	}
	for _, want := range []string{
		engine, "filter on eth0: not ether src 02:00:00:00:00:0a", "listening on", "open to anyone",
		"MAC 02:00:00:00:00:0a, addresses 10.77.0.1/24 fd77::1/64", "all is well",
	} {
		if !strings.Contains(p.said(), want) {
			t.Errorf("does not say %q:\n%s", want, p.said())
		}
	}
	if _, err := os.Stat(filepath.Join(p.dir, "pcapper.conf")); err == nil {
		t.Error("-check wrote a log")
	}
}

// TestEngineFallsBack: without what eBPF needs, auto takes the ring and names
// what it lacks; -engine ebpf does not give in.
func TestEngineFallsBack(t *testing.T) {
	t.Parallel()
	nettest.NeedTCX(t)
	a, _ := nettest.Pair(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(bin) // which nobody could not
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	dir := spoolDir(t)
	check := func(args ...string) (string, int) {
		cmd := a.Command(context.Background(), "/proc/self/fd/3", append(args, "-check", "-m", "none")...)
		cmd.ExtraFiles = []*os.File{file}
		cmd.Dir = dir // the clone may be where nobody may not go
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential:  &syscall.Credential{Uid: 65534, Gid: 65534},
			AmbientCaps: []uintptr{unix.CAP_NET_RAW},
		}
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	out, code := check()
	for _, want := range []string{"engine: ring", "ebpf would be faster, but", "not permitted", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", "all is well"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("auto: exit code %d, does not say %q:\n%s", code, want, out)
		}
	}
	out, code = check("-engine", "ebpf")
	for _, want := range []string{"cannot capture on \"eth0\"", "hint: eBPF needs CAP_BPF"} {
		if code != 4 || !strings.Contains(out, want) {
			t.Errorf("ebpf: exit code %d, does not say %q:\n%s", code, want, out)
		}
	}
}

func TestListInterfaces(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.Command(t.Context(), bin, "-D").Output()
	if err != nil || !strings.Contains(string(out), "lo ") || !strings.Contains(string(out), "10.77.0.1/24 fd77::1/64") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestHostStatistics(t *testing.T) {
	t.Parallel()
	a, _ := nettest.Pair(t)
	p := start(t, a, "-stats")
	recs := collectSome(t, p.dial(a, ""), 12)
	var between []time.Duration
	for i, r := range recs {
		want := []wire.Stat{wire.CPU, wire.Memory}[i%2]
		if r.Stat() != want || want == wire.CPU && r.Length > 100 || want == wire.Memory && r.Length == 0 {
			t.Errorf("record %d: %+v", i, r)
		}
		if i >= 2 && i%2 == 0 {
			between = append(between, time.Duration(r.Time-recs[i-2].Time))
		}
	}
	slices.Sort(between) // a busy machine may delay one or the other
	if d := between[len(between)/2]; d < 900*time.Millisecond || d > 1100*time.Millisecond {
		t.Errorf("%v between statistics (median), want a second; all: %v", d, between)
	}
}

// TestLoopback: each packet once, in every mode.
func TestLoopback(t *testing.T) {
	t.Parallel()
	for i, mode := range []string{"src", "dst", "none", "udp port 5005"} {
		t.Run(mode, func(t *testing.T) {
			a, _ := nettest.Pair(t)
			p := start(t, a, "-i", "lo", "-m", mode, "-p", strconv.Itoa(7300+i))
			c := p.dial(a, "")
			to, err := a.ListenPacket("udp", "127.0.0.1:5005")
			if err != nil {
				t.Fatal(err)
			}
			defer to.Close()
			from, err := a.Dial("udp", "127.0.0.1:5005")
			if err != nil {
				t.Fatal(err)
			}
			defer from.Close()
			for range 30 {
				from.Write(make([]byte, 72))
			}
			for _, r := range collect(t, c, 30) {
				if r.DstPort != 5005 || r.Length != 100 {
					t.Errorf("%+v", r)
				}
			}
		})
	}
}

// TestFullDisk: a log on a full file system costs lines, counted, and nothing
// else.
func TestFullDisk(t *testing.T) {
	a, b := nettest.Pair(t)
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	log := filepath.Join(disk, "log")
	p := start(t, a, "-f", log)
	c := p.dial(a, "")
	frames, wants := variety(a, b, 1000)
	begin, end := send(t, a, 20_000, 20_000, frames...)
	compare(t, "the collector", collect(t, c, 20_000), wants, begin, end)
	p.await("no space left on device", 1)
	summary := strings.Join(p.stop(), "\n")
	_, line, _ := strings.Cut(summary, fmt.Sprintf("log %q: ", log))
	var written, lost int
	fmt.Sscanf(strings.ReplaceAll(line, ",", ""), "%d lines written %d lost", &written, &lost)
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(data), "\n"); written+lost != 20_000 || written != lines || lost == 0 || !strings.HasSuffix(string(data), "\n") {
		t.Errorf("%d lines in the file; the summary says %d written, %d lost", lines, written, lost)
	}
	if n := strings.Count(p.said(), "no space left"); n != 1 {
		t.Errorf("it said %d times that the disk is full", n)
	}
}

func TestLogRotation(t *testing.T) {
	a, b := nettest.Pair(t)
	p := start(t, a, "-f", "log")
	c := p.dial(a, "bulk\n")
	frames, wants := variety(a, b, 1000)
	begin := time.Now()
	for i := range 4 { // while packets come
		var rotated sync.WaitGroup
		rotated.Go(func() {
			time.Sleep(300 * time.Millisecond)
			p.rotate(filepath.Join(p.dir, "log"), filepath.Join(p.dir, fmt.Sprint("log", i)))
		})
		send(t, a, 15_000, 30_000, frames...)
		rotated.Wait()
		p.await("reopening the log", i+1)
	}
	end := time.Now()
	collect(t, c, 60_000)
	p.stop()
	var all []wire.Record
	for _, name := range []string{"log0", "log1", "log2", "log3", "log"} {
		if _, err := os.Stat(filepath.Join(p.dir, name)); err == nil || name != "log" { // nothing may have come after the last
			all = append(all, p.logLines(name)...)
		}
	}
	if len(all) != 60_000 {
		t.Errorf("%d lines in the rotated logs", len(all))
	}
	compare(t, "the logs", all, wants, begin, end)
}

// TestSummaryWhileRunning: SIGUSR1 accounts for everything at that moment.
func TestSummaryWhileRunning(t *testing.T) {
	a, b := nettest.Pair(t)
	p := start(t, a)
	p.dial(a, "bulk\n")
	c := p.dial(a, "text\n")
	frames, _ := variety(a, b, 1000)
	go readLines(c, 50_000)
	const rounds, each = 10, 5000
	for range rounds {
		send(t, a, each, 20_000, frames...) // the agent may have the race detector, and little of a processor
		p.signal(syscall.SIGUSR1)
	}
	// A last one when all has been captured. A summary ends with the log.
	if !nettest.Eventually(20*time.Second, func() bool {
		before := strings.Count(p.said(), "pcapper: log \"")
		p.signal(syscall.SIGUSR1)
		nettest.Eventually(time.Second, func() bool { return strings.Count(p.said(), "pcapper: log \"") > before })
		all := captured(p.said())
		return len(all) > 0 && all[len(all)-1] == rounds*each
	}) {
		t.Fatalf("captured %v, want %d in the end:\n%s", captured(p.said()), rounds*each, p.said())
	}
	said := p.said()
	all := captured(said)
	for i, part := range capturedLine.Split(said, -1)[1:] {
		part = strings.ReplaceAll(part, ",", "")
		// A line is written after the summary's first, and before the next summary's.
		captured, atMost := all[i], all[min(i+1, len(all)-1)]
		for _, line := range strings.Split(part, "\n")[1:] {
			_, counts, ok := strings.Cut(line, "): ")
			if !ok {
				continue
			}
			var delivered, lost, flight int
			fmt.Sscanf(counts, "%d delivered %d lost %d in flight", &delivered, &lost, &flight)
			if sum := delivered + lost + flight; sum < captured || sum > atMost || lost != 0 {
				t.Errorf("a line has %d packets, want %d to %d, and none lost: %s", sum, captured, atMost, line)
			}
		}
	}
}

// capturedLine begins a summary.
var capturedLine = regexp.MustCompile(`summary: ([0-9,]+) packets captured in `)

// captured is how many packets each summary begins with.
func captured(said string) (list []int) {
	for _, m := range capturedLine.FindAllStringSubmatch(said, -1) {
		n, _ := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
		list = append(list, n)
	}
	return list
}

// TestMoreThanAThousandCollectors at once get every record.
func TestMoreThanAThousandCollectors(t *testing.T) {
	const collectors = 1100
	a, b := nettest.Pair(t)
	p := start(t, a)
	conns := make([]net.Conn, collectors)
	for i := range conns {
		var err error
		if conns[i], err = a.Dial("tcp", "127.0.0.1:7073"); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
	}
	p.await(": attached", collectors)
	frames, wants := variety(a, b, 100)
	begin, end := send(t, a, 100, 10_000, frames...)
	for i, c := range conns {
		compare(t, fmt.Sprint("collector ", i), collectSome(t, c, 100), wants, begin, end)
	}
}

// TestRealMGEN: messages of the real generator, by unicast and multicast, have
// their flow IDs.
func TestRealMGEN(t *testing.T) {
	t.Parallel()
	a, b := nettest.Pair(t)
	p := start(t, a)
	c := p.dial(a, "")
	ctx, cancel := context.WithCancel(t.Context())
	mgen := a.Command(ctx, "mgen", "output", "/dev/null",
		"event", "on 77 udp src 4001 dst "+b.Interface.IPv4.String()+"/5001 periodic [100 200] count 50",
		"event", "on 88 udp src 4002 dst 239.1.2.3/5002 periodic [100 28] count 30 interface eth0")
	mgen6 := a.Command(ctx, "mgen", "ipv6", "output", "/dev/null",
		"event", "on 99 udp src 4003 dst "+b.Interface.IPv6.String()+"/5003 periodic [100 100] count 20")
	if err := errors.Join(mgen.Start(), mgen6.Start()); err != nil {
		t.Fatal(err)
	}
	defer mgen.Wait()
	defer mgen6.Wait()
	defer cancel() // mgen does not end by itself
	count := map[uint32]int{}
	for _, r := range collectSome(t, c, 80) {
		want := wire.Record{Time: r.Time, Src: r.Src, Dst: r.Dst, Proto: wire.ProtoUDP, Flags: wire.MGEN, FlowID: r.FlowID,
			SrcPort: 4001, DstPort: 5001, Length: 228}
		if r.FlowID == 88 {
			want.SrcPort, want.DstPort, want.Length = 4002, 5002, 56
		}
		if r != want {
			t.Fatalf("%+v, want %+v", r, want)
		}
		count[r.FlowID]++
	}
	if count[77] != 50 || count[88] != 30 {
		t.Errorf("flows %v", count)
	}
	// What 28 bytes cannot say is in the log, and counted.
	var six int
	nettest.Eventually(10*time.Second, func() bool {
		six = 0
		if _, err := os.Stat(filepath.Join(p.dir, "pcapper.conf")); err != nil {
			return false
		}
		for _, r := range p.logLines("pcapper.conf") {
			if r.FlowID == 99 && r.DstAddr() == b.Interface.IPv6 && r.DstPort == 5003 && r.Length == 148 {
				six++
			}
		}
		return six == 20
	})
	if six != 20 {
		t.Errorf("%d IPv6 messages in the log, want 20", six)
	}
	if summary := strings.Join(p.stop(), "\n"); !strings.Contains(summary, "20 not expressible in 28 bytes") {
		t.Errorf("IPv6 packets are not counted:\n%s", summary)
	}
}
