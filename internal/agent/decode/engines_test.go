package decode

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/pcapper/pcapper/internal/agent/capture"
	"github.com/pcapper/pcapper/internal/agent/packet"
	"github.com/pcapper/pcapper/internal/test/nettest"
	"github.com/pcapper/pcapper/wire"
)

// The engines keep different parts of a frame, and the eBPF engine decides in
// the kernel which. Decoded, every frame of testdata must give the same records
// whatever engine took it, at the sender's side and at the receiver's. So must what the kernel
// has parsed, but for digests.
func TestEnginesAgree(t *testing.T) {
	nettest.NeedTCX(t)
	a, b := nettest.Pair(t)
	const most = 65000
	for _, h := range []*nettest.Host{a, b} {
		link, err := h.Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Netlink().LinkSetMTU(link, most); err != nil {
			t.Fatal(err)
		}
	}
	var sent [][]byte
	untold := 0
	for _, name := range captures(t) {
		for _, f := range frames(t, name) {
			// A packet socket sends no less than a header and what comes after it.
			if f.Link != packet.Ethernet || len(f.Data) < ethernetLen+1 || len(f.Data) > most {
				untold++
				continue
			}
			sent = append(sent, f.Data)
		}
	}
	t.Logf("%d frames, %d others that no Ethernet carries", len(sent), untold)
	if len(sent) < 1000 {
		t.Fatal("too few frames to tell anything")
	}
	type engine struct {
		name  string
		parse bool
		open  func(capture.Config) (capture.Source, error)
	}
	openTap := func(c capture.Config) (capture.Source, error) { return capture.OpenTap(c) }
	engines := []engine{
		{"ring", false, func(c capture.Config) (capture.Source, error) { return capture.OpenRing(c) }},
		{"ebpf", false, openTap},
		{"ebpf, parsing", true, openTap},
	}
	for _, qdisc := range []string{"noqueue", "pfifo"} {
		t.Run(qdisc, func(t *testing.T) {
			if qdisc != "noqueue" {
				link, err := a.Netlink().LinkByName("eth0")
				if err != nil {
					t.Fatal(err)
				}
				if err := a.Netlink().QdiscReplace(&netlink.GenericQdisc{
					QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
					QdiscType:  qdisc,
				}); err != nil {
					t.Fatal(err)
				}
			}
			for side, h := range map[string]*nettest.Host{"sender": a, "receiver": b} {
				records := make([][]wire.Record, len(engines))
				counters := make([]Counters, len(engines))
				var sources []capture.Source
				for _, e := range engines {
					var s capture.Source
					var err error
					h.Do(func() {
						s, err = e.open(capture.Config{Interface: "eth0", Ethernet: true, RingBytes: 64 << 20, Inside: true, Parse: e.parse})
					})
					if err != nil {
						t.Fatal(err)
					}
					defer s.Close()
					if err := s.Attach(); err != nil {
						t.Fatal(err)
					}
					sources = append(sources, s)
				}
				g, err := a.Generator(sent...)
				if err != nil {
					t.Fatal(err)
				}
				if n, _, err := g.Send(context.Background(), len(sent), 0); n != len(sent) || err != nil {
					t.Fatalf("sent %d of %d: %v", n, len(sent), err)
				}
				g.Close()
				nettest.Eventually(10*time.Second, func() bool { return sources[0].Stats().Received >= uint64(len(sent)) })
				for i, s := range sources {
					s.Drain()
					parsed := 0
					records[i], counters[i], parsed = decodeAll(t, s, engines[i].parse)
					if st := s.Stats(); st.Dropped != 0 {
						t.Fatalf("%s: %+v", engines[i].name, st)
					}
					if engines[i].parse != (parsed > 0) {
						t.Errorf("%s, %s: the kernel parsed %d frames", side, engines[i].name, parsed)
					}
				}
				if len(records[0]) < len(sent)/2 {
					t.Errorf("%s: only %d records of %d frames", side, len(records[0]), len(sent))
				}
				for i := 1; i < len(engines); i++ {
					agree(t, side+", "+engines[0].name+" and "+engines[i].name, records[0], records[i], engines[i].parse)
					if counters[0] != counters[i] {
						t.Errorf("%s: counters\n%+v by %s\n%+v by %s", side, counters[0], engines[0].name, counters[i], engines[i].name)
					}
				}
			}
		})
	}
}

// agree compares the records of two engines, of which the second may lack digests.
func agree(t *testing.T, what string, want, got []wire.Record, noDigest bool) {
	t.Helper()
	if len(want) != len(got) {
		t.Errorf("%s: %d records, want %d", what, len(got), len(want))
	}
	bad := 0
	for i := range min(len(want), len(got)) {
		x, y := want[i], got[i]
		x.Time, y.Time = 0, 0
		if noDigest {
			x.Digest = 0
		}
		if x == y {
			continue
		}
		if t.Errorf("%s: record %d:\n%+v, want\n%+v", what, i, y, x); bad == 5 {
			t.FailNow()
		}
		bad++
	}
}

func decodeAll(t *testing.T, s capture.Source, noDigest bool) (all []wire.Record, c Counters, parsed int) {
	t.Helper()
	d := New(Config{BMF: true, Inner: true, NoDigest: noDigest})
	var recs [64]wire.Record
	var f packet.Frame
	for {
		b, err := s.Next()
		if errors.Is(err, io.EOF) {
			return all, d.Counters(), parsed
		}
		if err != nil {
			t.Fatal(err)
		}
		for {
			if p, offset := b.Parsed(len(recs)); len(p) > 0 {
				d.DecodeParsed(p, offset, recs[:])
				all = append(all, recs[:len(p)]...)
				parsed += len(p)
				continue
			}
			if !b.Next(&f) {
				break
			}
			all = append(all, recs[:d.Decode(&f, recs[:])]...)
			for d.Pending() {
				all = append(all, recs[:d.Drain(recs[:])]...)
			}
		}
		b.Release()
	}
}
