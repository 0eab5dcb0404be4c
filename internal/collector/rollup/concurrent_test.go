package rollup

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pcapper/pcapper/wire"
)

// TestReadersWhileWriting: whatever a snapshot says it says forever, and many
// who ask get the same, while the store goes on.
func TestReadersWhileWriting(t *testing.T) {
	defer goleak.VerifyNone(t)
	s := New(testConfig(4))
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var asked atomic.Uint64
	for range 8 {
		readers.Go(func() {
			seq := uint64(0)
			for {
				snap, err := s.Next(ctx, seq)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					return
				}
				if snap.Seq <= seq {
					t.Errorf("snapshot %d after %d", snap.Seq, seq)
				}
				seq = snap.Seq
				checkConsistent(t, snap)
				asked.Add(1)
			}
		})
	}
	sc := newScene(t, 11)
	now := base * 1e9
	first := (*Snapshot)(nil)
	for range 60 {
		for range 200 {
			for _, x := range sc.packet(now, 4) {
				s.Add(now, x.host, &x.Record)
			}
			now += 5e6
		}
		s.Tick(now)
		if first == nil {
			first = s.Snapshot()
		}
	}
	for deadline := time.Now().Add(30 * time.Second); asked.Load() < 20 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
		s.Tick(now)
	}
	cancel()
	readers.Wait()
	if asked.Load() < 20 {
		t.Errorf("only %d snapshots were looked at", asked.Load())
	}
	if o := first.Overview(Window{base - 10, base + 1000, 10}); o.Seen.Packets != first.Records {
		t.Errorf("the first snapshot has changed: %d packets, %d records", o.Seen.Packets, first.Records)
	}
}

func checkConsistent(t *testing.T, snap *Snapshot) {
	w := Window{base - 10, base + 1000, 10}
	o := snap.Overview(w)
	var flows, hosts, sums Counts
	for _, f := range o.Flows {
		flows = flows.Plus(f.Primary)
	}
	for _, h := range o.Hosts {
		hosts = hosts.Plus(h.Seen())
	}
	for _, c := range snap.Sum {
		if c.Level == 0 {
			sums = sums.Plus(c.Counts)
		}
	}
	if flows != o.Total || hosts != o.Seen || o.Seen.Packets != snap.Records || sums.Packets+o.Relayed.Packets != snap.Records {
		t.Errorf("snapshot %d: flows %v, total %v, hosts %v, seen %v, sums %v, %d records", snap.Seq, flows, o.Total, hosts, o.Seen, sums, snap.Records)
	}
	if m, k := snap.Matrix(w, 100), snap.Talkers(w, 100); m.Total != o.Total || k.Total != o.Total {
		t.Errorf("snapshot %d: matrix %v, talkers %v, total %v", snap.Seq, m.Total, k.Total, o.Total)
	}
	snap.MGEN(w)
	snap.Groups(w)
	snap.Cells(w)
}

// FuzzStore: whatever records come, in whatever order, the numbers are the
// reference's.
func FuzzStore(f *testing.F) {
	rng := rand.New(rand.NewPCG(12, 13))
	for range 5 {
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 1200)] // the reference takes long for more
		cfg := testConfig(3)
		store, ref := New(cfg), newReference(cfg)
		now := base * 1e9
		store.Tick(now)
		ref.now = base
		for ; len(b) >= 12; b = b[12:] {
			now += int64(b[0]) * 40e6
			r, host := fuzzRecord(b, now)
			store.Add(now, host, &r)
			ref.add(now, host, &r)
			if b[0]&7 == 0 {
				store.Tick(now)
			}
		}
		store.Tick(now)
		compareTraffic(t, store.Snapshot(), ref, Window{base - 100, base + 10_000, 10})
		compareTraffic(t, store.Snapshot(), ref, Window{ref.now - 10, ref.now + 5, 1})
		compareSum(t, store.Snapshot(), ref)
	})
}

// fuzzRecord makes a record of few hosts and flows, so that some have something
// in common, and any numbers and times.
func fuzzRecord(b []byte, now int64) (r wire.Record, host int) {
	r = wire.Record{
		Time: now + int64(int8(b[1]))*100e6, Src: hostAddr(int(b[2] & 3)), Dst: hostAddr(int(b[2] >> 2 & 3)),
		SrcPort: uint16(b[3] & 3), DstPort: 5000 + uint16(b[3]>>2&7), Length: uint32(b[4]) * 6, Proto: wire.ProtoUDP,
	}
	if b[2]>>4&3 == 0 {
		r.Dst = group
	}
	switch b[5] & 3 {
	case 0:
		r.Flags |= wire.Outgoing
	case 1:
		r.Flags |= wire.Outgoing | wire.Relayed
	default:
		r.Flags |= wire.Incoming
	}
	if b[5]&4 != 0 {
		r.Flags |= wire.MGEN | wire.MGENHeader
		r.FlowID, r.MGENSeq = uint32(b[6]&15), binary.LittleEndian.Uint32(b[7:])
		r.MGENTime = int64(binary.LittleEndian.Uint16(b[10:])) << (b[6] >> 4 * 3)
	}
	return r, int(b[5] >> 3 % 3)
}
