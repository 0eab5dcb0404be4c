//go:build libpcap && cgo

package capture

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
)

func openPcap(t *testing.T, h *nettest.Host, cfg Config) *Pcap {
	t.Helper()
	if cfg.Interface == "" {
		cfg.Interface = h.Interface.Name
	}
	var p *Pcap
	var err error
	h.Do(func() { p, err = OpenPcap(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attachPcap(t *testing.T, h *nettest.Host, cfg Config) *Pcap {
	t.Helper()
	p := openPcap(t, h, cfg)
	if err := p.Attach(); err != nil {
		t.Fatal(err)
	}
	return p
}

// The same frames as from the ring, but for the directions.
func TestPcapEveryFrame(t *testing.T) {
	a, b := nettest.Pair(t)
	const n, snaplen = 5000, 100
	cfg := Config{Ethernet: true, Filter: assemble(t, ours...), Snaplen: snaplen}
	p, r := attachPcap(t, a, cfg), open(t, a, cfg)
	sent := numbered(a, b, n)
	send(t, a, n, sent...)
	fromRing := seen(t, r, n)
	for i, f := range seen(t, p, n) {
		want := fromRing[i]
		if !bytes.Equal(f.Data, want.Data) || f.WireLen != want.WireLen || f.Link != want.Link {
			t.Fatalf("frame %d: %d bytes of %d: % x, want\n% x", i, len(f.Data), f.WireLen, f.Data, want.Data)
		}
		if late := f.Time - want.Time; late < -1e6 || late > 1e6 {
			t.Fatalf("frame %d is %d ns from the ring's", i, late)
		}
	}
	if got, want := p.Stats(), (Stats{Received: n}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestPcapTun(t *testing.T) {
	a, b := nettest.Pair(t)
	file := tun(t, a, "tun0", 0)
	p := attachPcap(t, a, Config{Interface: "tun0", Snaplen: 30})
	f := nettest.Between(b, a, 4001, 5001, []byte("into the host"))
	if _, err := file.Write(f.IP()); err != nil {
		t.Fatal(err)
	}
	for _, got := range seen(t, p, 1) {
		if got.Link != packet.Network || got.Protocol != unix.ETH_P_IP || got.WireLen != len(f.IP()) {
			t.Errorf("frame %+v", got)
		}
		if !bytes.HasPrefix(f.IP(), got.Data) || len(got.Data) < 30 {
			t.Errorf("data % x", got.Data)
		}
	}
}

func TestPcapAttachStarts(t *testing.T) {
	a, b := nettest.Pair(t)
	p := openPcap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...)})
	early, late := udp(a, b, []byte("early")), udp(a, b, []byte("late"))
	send(t, a, 10, early.Ethernet())
	if err := p.Attach(); err != nil {
		t.Fatal(err)
	}
	send(t, a, 2, late.Ethernet())
	for _, f := range seen(t, p, 2) {
		if string(f.Data[42:]) != "late" {
			t.Errorf("frame %q", f.Data[42:])
		}
	}
}

func TestPcapSetFilter(t *testing.T) {
	a, b := nettest.Pair(t)
	p := attachPcap(t, a, Config{Ethernet: true, Filter: rejectAll})
	f := udp(a, b, make([]byte, 100))
	send(t, a, 5, f.Ethernet())
	if err := p.SetFilter([]bpf.RawInstruction{{Op: opJump, K: 7}}); !errors.Is(err, ErrFilter) {
		t.Errorf("a program that is none: %v", err)
	}
	if err := p.SetFilter(assemble(t, ours...)); err != nil {
		t.Fatal(err)
	}
	send(t, a, 7, f.Ethernet())
	seen(t, p, 7)
}

func TestPcapDrainLosesNothing(t *testing.T) {
	a, b := nettest.Pair(t)
	f := udp(a, b, make([]byte, 18))
	for _, n := range []int{0, 1, 7, 860, 5000} {
		p := attachPcap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...)})
		if n > 0 {
			send(t, a, n, f.Ethernet())
		}
		p.Drain()
		if got := len(rest(t, p)); got != n {
			t.Errorf("%d frames after Drain, want %d (%+v)", got, n, p.Stats())
		}
		p.Close()
	}
}

func TestPcapInterfaceDownAndUp(t *testing.T) {
	a, b := nettest.Pair(t)
	p := attachPcap(t, a, Config{Ethernet: true, Filter: assemble(t, ours...)})
	reader := block(p)
	if err := a.Down("eth0"); err != nil {
		t.Fatal(err)
	}
	if !nettest.Eventually(patience, func() bool { return p.Stats().Outages == 1 }) {
		t.Fatalf("stats %+v after going down", p.Stats())
	}
	reader.staysAsleep(t)
	if err := a.Up("eth0"); err != nil {
		t.Fatal(err)
	}
	f := udp(a, b, nil)
	sends := func() bool {
		g, err := a.Generator(f.Ethernet())
		if err != nil {
			return false
		}
		defer g.Close()
		sent, _, err := g.Send(t.Context(), 1, 0)
		return sent == 1 && err == nil
	}
	if !nettest.Eventually(patience, sends) {
		t.Fatal("the interface does not come up")
	}
	got := <-reader.next
	if got.err != nil {
		t.Fatal(got.err)
	}
	p.Drain()
	if n := got.frames + len(rest(t, p)); n != 1 {
		t.Errorf("%d frames after the interface came up, want 1", n)
	}
}

func TestPcapErrors(t *testing.T) {
	a, _ := nettest.Pair(t)
	for _, test := range []struct {
		name  string
		cfg   Config
		cause error
		text  string
	}{
		{"no interface", Config{Interface: "eth7", Ethernet: true}, unix.ENODEV, `"eth7"`},
		{"filter", Config{Interface: "eth0", Ethernet: true, Filter: []bpf.RawInstruction{{Op: opJump, K: 7}}}, ErrFilter, "filter rejected"},
		{"link type", Config{Interface: "eth0"}, nil, "EN10MB"},
		{"nothing given", Config{}, nil, "no interface"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var p *Pcap
			var err error
			a.Do(func() { p, err = OpenPcap(test.cfg) })
			if err == nil {
				p.Close()
				t.Fatal("no error")
			}
			if test.cause != nil && !errors.Is(err, test.cause) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want %q by %v", err, test.text, test.cause)
			}
		})
	}
}

func TestPcapAfterClose(t *testing.T) {
	a, _ := nettest.Pair(t)
	p := attachPcap(t, a, Config{Ethernet: true})
	p.Drain()
	if got := rest(t, p); len(got) != 0 {
		t.Errorf("%d frames of nobody", len(got))
	}
	if _, err := p.Next(); err != io.EOF {
		t.Errorf("Next after the end gives %v", err)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := p.Next(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next: %v", err)
	}
	if err := p.SetFilter(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("SetFilter: %v", err)
	}
}
