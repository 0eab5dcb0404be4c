package export

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/internal/transport/hub"
	"github.com/pcapper/pcapper/internal/transport/spool"
	"github.com/pcapper/pcapper/wire"
	"github.com/pcapper/pcapper/wire/ipfix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParse(t *testing.T) {
	for text, want := range map[string]Target{
		"ipfix+udp://10.0.0.9:9995":          {Kind: UDP, Host: "10.0.0.9", Port: 9995},
		"ipfix+udp://nms.example":            {Kind: UDP, Host: "nms.example", Port: 4739},
		"ipfix+tcp://[2001:db8::1]":          {Kind: TCP, Host: "2001:db8::1", Port: 4739},
		"ipfix+tls://10.0.0.9?ca=a":          {Kind: TLS, Host: "10.0.0.9", Port: 4740, CA: "a"},
		"file:dir/x.ipfix?per=1s":            {Kind: File, Path: "dir/x.ipfix", PerSecond: true},
		"file:///var/x.ipfix":                {Kind: File, Path: "/var/x.ipfix"},
		"ipfix+udp://239.192.70.73":          {Kind: UDP, Host: "239.192.70.73", Port: 4739, PerSecond: true},
		"ipfix+udp://[ff18::5%eth1]":         {Kind: UDP, Host: "ff18::5", Port: 4739, Interface: "eth1", PerSecond: true},
		"ipfix+udp://[ff02::5]:9?iface=eth1": {Kind: UDP, Host: "ff02::5", Port: 9, Interface: "eth1", PerSecond: true},
		"ipfix+udp://[fe80::5%eth1]":         {Kind: UDP, Host: "fe80::5%eth1", Port: 4739},
		"ipfix+udp://239.192.70.73:1?iface=eth1&ttl=4&per=packet&rate=2M&mtu=1500&repair=4741": {
			Kind: UDP, Host: "239.192.70.73", Port: 1, Interface: "eth1", TTL: 4, Rate: 2_000_000, Payload: 1452, Repair: 4741,
		},
	} {
		want.URL = text
		if want.Rate == 0 {
			want.Rate = defaultRate
		}
		if want.Payload == 0 {
			want.Payload = ipfix.MaxDatagram
		}
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, says := range map[string]string{
		"udp://10.0.0.9:4739":                "unknown kind of export",
		"10.0.0.9:4739":                      "unknown kind of export",
		"file:":                              "no path",
		"ipfix+udp://10.0.0.9:0":             "want a number from 1 to 65535",
		"ipfix+udp://":                       "no host",
		"ipfix+udp://10.0.0.9?per=2s":        "want packet or 1s",
		"ipfix+udp://10.0.0.9?mtu=576":       "mtu=576: want a number from 1280 to 65535",
		"ipfix+udp://10.0.0.9?ttl=0":         "from 1 to 255",
		"ipfix+udp://10.0.0.9?rate=1":        "rate=1: want bits per second",
		"ipfix+udp://10.0.0.9?rate=x":        "rate=x: want bits per second",
		"ipfix+udp://10.0.0.9?iface=eth0":    "belong to multicast",
		"ipfix+tcp://10.0.0.9?ttl=3":         `unknown parameter "ttl": want per`,
		"ipfix+udp://10.0.0.9?ca=x":          `unknown parameter "ca": want per, iface, ttl, mtu, rate or repair`,
		"ipfix+udp://10.0.0.9?ttl=3&ttl=4":   "want one value",
		"ipfix+udp://10.0.0.9?per=%x":        "want key=value pairs",
		"ipfix+udp://a b":                    "not a host name",
		"ipfix+udp://fd00::1:4739":           "in brackets",
		"ipfix+udp://fd00::1":                "in brackets",
		"ipfix+udp://[fd00::1":               "not an IPv6 address",
		"ipfix+udp://[10.0.0.1]":             "not an IPv6 address",
		"ipfix+udp://[host]:1":               "not an IPv6 address",
		"ipfix+udp://u@host":                 "want no more than a host and a port",
		"ipfix+udp://host/x":                 "want no more than a host and a port",
		"ipfix+udp://a,b":                    "-export for each",
		"ipfix+udp://10.0.0.300":             "not a dotted quad",
		"ipfix+udp://10.0.0.9?tll=3":         `unknown parameter "tll": did you mean ttl?`,
		"ipfix+udp://0.0.0.0":                "want the collector's address",
		"ipfix+tcp://[::]:4739":              "want the collector's address",
		"ipfix+tcp://239.1.1.1":              "want ipfix+udp://",
		"ipfix+udp://[ff02::1]":              "want iface=NAME",
		"ipfix+udp://[fe80::1]":              "want [fe80::1%NAME]",
		"ipfix+udp://239.192.70.73?repair=0": "from 1 to 65535",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}

// bench is an exporter on a real hub.
type bench struct {
	t    *testing.T
	hub  *hub.Hub[wire.Record]
	x    *Exporter
	q    *spool.Queue // nil unless there is one
	done chan error
	stop context.CancelFunc

	mu    sync.Mutex
	said  []string
	peers []netip.AddrPort
}

func begin(t *testing.T, url string) *bench {
	t.Helper()
	return beginWith(t, url, nil)
}

// beginWith is begin with a spool, or nil.
func beginWith(t *testing.T, url string, q *spool.Queue) *bench {
	t.Helper()
	target, err := Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, done: make(chan error, 1)}
	b.hub = hub.New(hub.Config[wire.Record]{Chunk: 1024, Chunks: 16, Encodings: []hub.Encoding[wire.Record]{hub.Each(ipfix.Append)}})
	r := b.hub.NewReader()
	config := Config{
		Target: target, Domain: 3, Reader: r,
		Lost: func() uint64 { return r.Status().Lost }, Ignored: func() uint64 { return 0 },
		Peer: func(p netip.AddrPort) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.peers = append(b.peers, p)
		},
		Allow: func(netip.Addr) bool { return true },
		Say: func(format string, args ...any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.said = append(b.said, fmt.Sprintf(format, args...))
		},
	}
	if q != nil {
		config.Lost = func() uint64 { return r.Status().Lost + q.Status().Dropped.Weight }
	}
	b.x = New(config)
	if q != nil {
		b.x.SetSpool(q)
		b.q = q
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() { b.done <- b.x.Run(ctx) }()
	t.Cleanup(func() { b.hub.Close(); cancel() })
	return b
}

// end ends the stream and waits for the exporter.
func (b *bench) end() {
	b.t.Helper()
	b.stop()
	b.hub.Close()
	select {
	case <-b.done:
	case <-time.After(20 * time.Second):
		b.t.Fatal("the exporter does not end")
	}
}

func (b *bench) await(what string, ok func() bool) {
	b.t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.t.Fatalf("waited in vain for %s; counts %+v, messages %q", what, b.x.Counts(), b.said)
}

func (b *bench) awaitMessage(part string) {
	b.t.Helper()
	b.await(part, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return strings.Contains(strings.Join(b.said, "\n"), part)
	})
}

func (b *bench) publish(from, to int) {
	for i := from; i < to; i++ {
		b.hub.Publish(record(i))
	}
}

func record(i int) wire.Record {
	r := wire.Record{
		Time: 1_700_000_000_000_000_000 + int64(i)*1000, SrcPort: uint16(i % 10), DstPort: 9, Length: uint32(100 + i%7), Proto: wire.ProtoUDP,
		Flags: wire.Outgoing,
	}
	r.SetSrc4([4]byte{10, 0, 0, 1})
	r.SetDst4([4]byte{10, 0, 0, 2})
	return r
}

// messages takes a stream's messages apart.
func messages(t *testing.T, d *ipfix.Decoder, b []byte) (recs []wire.Record) {
	t.Helper()
	for len(b) > 0 {
		n, err := ipfix.Length(b)
		if err != nil || n == 0 || n > len(b) {
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		}
		if recs, err = d.Decode(b[:n], recs); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	return recs
}

func wantRecords(t *testing.T, got []wire.Record, from, to int) {
	t.Helper()
	if len(got) != to-from {
		t.Fatalf("%d records, want %d", len(got), to-from)
	}
	for i := range got {
		if got[i] != record(from+i) {
			t.Fatalf("record %d is %+v", from+i, got[i])
		}
	}
}

// TestFile: each packet is in the file; a second run appends.
func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.ipfix")
	for range 2 {
		b := begin(t, "file:"+name)
		b.awaitMessage("open")
		b.publish(0, 5000)
		b.await("5000 records", func() bool { return b.x.Counts().Records == 5000 })
		b.end()
	}
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var d ipfix.Decoder
	got := messages(t, &d, data)
	wantRecords(t, got[:5000], 0, 5000)
	wantRecords(t, got[5000:], 0, 5000)
	if c := d.Counts(); c.Lost+c.Late != 0 {
		t.Errorf("%+v", c)
	}
}

// TestFlows: packets of a second become records of their flows.
func TestFlows(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.ipfix")
	b := begin(t, "file:"+name+"?per=1s")
	b.awaitMessage("open")
	now := time.Now().UnixNano()
	for i := range 5000 {
		r := record(i)
		r.Time = now + int64(i)*1000
		b.hub.Publish(r)
	}
	b.end()
	data, _ := os.ReadFile(name)
	bytes, want := uint32(0), uint32(0)
	got := messages(t, &ipfix.Decoder{}, data)
	for _, r := range got {
		bytes += r.Length
	}
	for i := range 5000 {
		want += record(i).Length
	}
	// 10 flows; a second or two may end meanwhile.
	if c := b.x.Counts(); len(got) < 10 || len(got) > 100 || bytes != want || int(c.Records) != len(got) || c.Packets != 5000 {
		t.Errorf("%d records of %d bytes, want 10 of %d; %+v", len(got), bytes, want, c)
	}
}

// TestCollectorGoesAndReturns: meanwhile records wait, as many as the hub
// keeps; what is lost is counted, and said to the collector that returns.
func TestCollectorGoesAndReturns(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	b := begin(t, "ipfix+tcp://"+addr)
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b.publish(0, 100)
	b.await("100 records", func() bool { return b.x.Counts().Records == 100 })
	ln.Close()
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
	b.hub.Publish(record(100)) // goes into the broken connection
	b.awaitMessage("trying again")
	const n = 50_000 // more than the hub keeps
	b.publish(101, n)
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if conn, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		b.await("records", func() bool { return b.x.Counts().Records > 10_000 })
		b.hub.Close()
	}()
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	data, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	var d ipfix.Decoder
	got := messages(t, &d, data)
	wantRecords(t, got, n-len(got), n)
	// Record 100 may have been taken by the kernel before it knew.
	if s := d.Statistics(); int(s.NotSent)+len(got) != n-100 && int(s.NotSent)+len(got) != n-101 {
		t.Errorf("%d not sent, %d received", s.NotSent, len(got))
	}
}

// TestNobodyListens: a datagram that comes back does not keep the next one from
// being sent, and is told of; a receiver that begins late finds templates.
func TestNobodyListens(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := pc.LocalAddr().String()
	pc.Close()
	b := begin(t, "ipfix+udp://"+addr)
	b.awaitMessage("open")
	for i := range 10 {
		b.publish(i, i+1)
		b.await("a record", func() bool { return b.x.Counts().Records == uint64(i+1) })
	}
	b.awaitMessage("nobody listens there")
	if state := b.x.State(); state != "open, but nobody listens there" {
		t.Errorf("state %q", state)
	}
	if pc, err = net.ListenPacket("udp", addr); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	b.publish(10, 11)
	b.end() // sends final counts
	buf := make([]byte, 2000)
	var got bytes.Buffer
	for got.Len() == 0 {
		pc.SetReadDeadline(time.Now().Add(10 * time.Second))
		k, _, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		got.Write(buf[:k])
	}
	if b.peers[0].String() != addr {
		t.Errorf("sends to %v, want %s", b.peers, addr)
	}
}

// TestSomebodyListens: once nothing comes back any more that is told, too.
func TestSomebodyListens(t *testing.T) {
	var said []string
	x := New(Config{Target: Target{URL: "U"}, Say: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }})
	s, d := session{e: x}, &datagrams{}
	for _, refused := range []bool{false, true, true, false, false} {
		d.refused = refused
		s.listen(d)
	}
	want := []string{"export U: nobody listens there; sending all the same", "export U: somebody listens now"}
	if !slices.Equal(said, want) || x.State() != "open" {
		t.Errorf("said %q, state %q", said, x.State())
	}
}

// TestPacing: sending keeps to the rate.
func TestPacing(t *testing.T) {
	p := pacer{rate: 8_000_000} // a byte a microsecond
	begin := time.Now()
	for range 100 {
		p.wait(1000)
	}
	if took := time.Since(begin); took < 90*time.Millisecond {
		t.Errorf("100 kB at 1 MB/s took %v", took)
	}
}

// TestRepairs: what was sent is sent again on request, as long as it is there.
func TestRepairs(t *testing.T) {
	r := newRepairs(nil)
	w := ipfix.Writer{Domain: 3}
	r.begin(5555)
	const n = 100_000 // of about 1,200 bytes: far more than is kept
	per := 0          // records of a message: as many of 18 as fit
	for range n {
		var cells []byte
		ends := []uint32{0}
		for i := range 18 {
			rec := record(i)
			cells, _ = ipfix.Append(cells, &rec)
			ends = append(ends, uint32(len(cells)))
		}
		var m []byte
		m, per = w.Message(nil, time.Now(), ipfix.MaxDatagram, cells, ends)
		r.keep(m)
	}
	if r.bytes > repairBuffer || len(r.messages) > repairMessages {
		t.Errorf("%d bytes in %d messages are kept", r.bytes, len(r.messages))
	}
	next := w.Sequence()
	if got := r.find(5555, 3, next-uint32(2*per), uint32(2*per)); len(got) != 2 {
		t.Errorf("%d messages, want two", len(got))
	}
	if r.find(5556, 3, next-uint32(2*per), uint32(2*per)) != nil || r.find(5555, 0, next-uint32(2*per), uint32(2*per)) != nil || r.find(5555, 3, 0, uint32(2*per)) != nil {
		t.Error("messages of another session or domain, or from long ago")
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() { defer theirs.Close(); r.serve(theirs) }()
	go fmt.Fprintf(ours, "repair 5555 3 %d %d\nnonsense\n", next-uint32(per), per)
	data, _ := io.ReadAll(ours)
	var d ipfix.Decoder
	d.Decode(w.Templates(nil, time.Now()), nil)
	if got := messages(t, &d, data); len(got) != per || r.served.Load() != 1 {
		t.Errorf("%d records, %d messages, want %d and one", len(got), r.served.Load(), per)
	}
}

// TestBatches: however many messages go out in a call, each is a datagram of
// its own; and where the kernel refuses to cut, they are sent one by one.
func TestBatches(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	conn, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u := &datagrams{UDPConn: conn.(*net.UDPConn), payload: ipfix.MaxDatagram, pace: pacer{rate: defaultRate}}
	for _, tt := range []struct {
		bytes, length int
		single        bool
	}{
		{1000, 1000, false}, {2500, 1000, false}, {48 * 1200, 1200, false}, {200, 1, true}, {2500, 1000, true},
	} {
		sent := make([]byte, tt.bytes)
		for i := range sent {
			sent[i] = byte(i)
		}
		if err := u.send(sent, tt.length); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for rest := sent; len(rest) > 0; {
			want := rest[:min(tt.length, len(rest))]
			pc.SetReadDeadline(time.Now().Add(10 * time.Second))
			k, _, err := pc.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:k], want) {
				t.Fatalf("%+v: %d bytes, want %d; %v", tt, k, len(want), err)
			}
			rest = rest[len(want):]
		}
		if u.single != tt.single || (u.batch() == 1) != tt.single {
			t.Errorf("%+v: single %v, batches of %d", tt, u.single, u.batch())
		}
	}
}
