package rollup

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pcapper/pcapper/internal/transport/flow"
	"github.com/pcapper/pcapper/wire"
)

// sums gives what an agent that exports one-second flows makes of records, in
// order of time.
func sums(list []wire.Record) (out []wire.Record) {
	table := flow.New(1<<16, func(f *flow.Flow) { out = append(out, f.Record) })
	for i := range list {
		table.FlushBefore(list[i].Time - 50e6) // some are late
		table.Add(&list[i])
	}
	table.Flush()
	return out
}

// TestSumsCountAsTheirPackets: all traffic is the same, whether agents report
// packets or sums of them.
func TestSumsCountAsTheirPackets(t *testing.T) {
	s := newScene(t, rand.Uint64())
	cfg := testConfig(4)
	ref := newReference(cfg)
	byHost := make([][]wire.Record, len(cfg.Hosts))
	for i := range 8000 {
		for _, x := range s.packet(base*1e9+int64(i)*5e6, len(cfg.Hosts)) {
			if x.Time < (base+50)*1e9 { // none from the future
				byHost[x.host] = append(byHost[x.host], x.Record)
			}
		}
	}
	var list []arrival
	records := 0
	for host, packets := range byHost {
		slices.SortFunc(packets, func(a, b wire.Record) int { return cmp.Compare(a.Time, b.Time) })
		for i := range packets {
			ref.add(base*1e9, host, &packets[i])
		}
		for _, r := range sums(packets) {
			list = append(list, arrival{r.Time/1e9*1e9 + 1200e6, host, r})
		}
		records += len(packets)
	}
	for i := range ref.records { // nothing is late or from the future
		ref.records[i].sec = ref.records[i].Time / 1e9
	}
	if len(list) > records/2 {
		t.Fatalf("%d sums of %d records are no test", len(list), records)
	}
	slices.SortStableFunc(list, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	store := New(cfg)
	for i := range list {
		store.Add(list[i].at, list[i].host, &list[i].Record)
	}
	store.Tick((base + 60) * 1e9)
	snap := store.Snapshot()
	for _, w := range []Window{{base - 5, base + 55, 1}, {base + 3, base + 17, 1}, {base - 20, base + 80, 10}} {
		compareTraffic(t, snap, ref, w)
	}
	compareSum(t, snap, ref)
	for i, h := range snap.Hosts {
		if h.Late != 0 || h.Future != 0 {
			t.Errorf("host %d: %+v", i, h)
		}
	}
}

// TestSumsOfMessages: what sequence numbers say of losses is true if seconds are
// summed up, for slow flows, too, of which some records are sums and some are not.
func TestSumsOfMessages(t *testing.T) {
	for _, c := range []struct {
		name        string
		gap         int64 // between messages, ns
		lose, twice int   // one of so many; 0: none
	}{
		{"all arrives", 10e6, 0, 0},
		{"one a second, now and then two", 970e6, 0, 0},
		{"losses", 10e6, 20, 0},
		{"slow, with losses", 700e6, 10, 0},
		{"duplicates", 10e6, 0, 10},
		{"both", 10e6, 20, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			var sent, received []wire.Record
			var lost, doubled uint64
			const n = 2000
			for i := range int64(n) {
				r := wire.Record{
					Time: base*1e9 + i*c.gap, Src: hostAddr(1), Dst: hostAddr(2), SrcPort: 4500, DstPort: 5001, Proto: wire.ProtoUDP, Length: 100,
					Flags: wire.MGEN | wire.MGENHeader | wire.Outgoing, FlowID: 3, MGENSeq: uint32(i), MGENTime: base*1e6 + i*c.gap/1000,
				}
				sent = append(sent, r)
				r.Flags = r.Flags&^wire.Outgoing | wire.Incoming
				r.Time += 1e6
				edge := i == 0 || i > n-200 // what the last seconds lose nobody can tell by numbers
				if c.lose > 0 && !edge && rnd.IntN(c.lose) == 0 {
					lost++
					continue
				}
				received = append(received, r)
				if c.twice > 0 && !edge && rnd.IntN(c.twice) == 0 {
					received = append(received, r)
					doubled++
				}
			}
			store := New(testConfig(3))
			var list []arrival
			for host, packets := range map[int][]wire.Record{1: sent, 2: received} {
				for _, r := range sums(packets) {
					list = append(list, arrival{r.Time/1e9*1e9 + 1200e6, host, r})
				}
			}
			slices.SortStableFunc(list, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
			end := int64(0)
			for i := range list {
				store.Add(list[i].at, list[i].host, &list[i].Record)
				end = list[i].at
			}
			store.Tick(end + 20e9)
			m := store.Snapshot().MGEN(Window{base - 10, end/1e9 + 20, 10})
			if len(m.Flows) != 1 || len(m.Flows[0].Receivers) != 1 {
				t.Fatalf("%+v", m.Flows)
			}
			f, r := m.Flows[0], m.Flows[0].Receivers[0]
			if f.Sent.Packets != n || f.Sent.Messages != n || r.Received.Packets != n-lost+doubled || r.Received.Messages != r.Received.Packets {
				t.Errorf("%d sent, %+v; received %+v, want %d", n, f.Sent, r.Received, n-lost+doubled)
			}
			// In one second a loss and a duplicate make up for each other.
			if net := lost - doubled; !r.Loss.BySequence || r.Loss.Expected != n || r.Loss.Lost-r.Duplicates != net || r.Duplicates > doubled || r.Restarts != 0 || r.Reordered != 0 {
				t.Errorf("%+v, want %d lost, %d doubled", r, lost, doubled)
			}
		})
	}
}

// TestSumsOfFragments: if nobody knows how many messages there were, losses are
// told by packets.
func TestSumsOfFragments(t *testing.T) {
	store := New(testConfig(3))
	for sec := range int64(10) {
		for host, n := range map[int]uint32{1: 20, 2: 18} {
			r := wire.Record{
				Time: (base + sec) * 1e9, Src: hostAddr(1), Dst: hostAddr(2), SrcPort: 4500, DstPort: 5001, Proto: wire.ProtoUDP, Length: 100 * n, Packets: n,
				Flags: wire.MGEN | wire.MGENHeader | wire.Fragment | wire.Super, FlowID: 3, MGENSeq: uint32(sec * 10), MGENTime: (base + sec) * 1e6,
			}
			r.Flags |= []wire.Flags{1: wire.Outgoing, 2: wire.Incoming}[host]
			store.Add((base+sec)*1e9+1200e6, host, &r)
		}
	}
	store.Tick((base + 30) * 1e9)
	m := store.Snapshot().MGEN(Window{base - 10, base + 30, 10})
	r := m.Flows[0].Receivers[0]
	if r.Loss != (Loss{Valid: true, Expected: 200, Lost: 20}) || r.Received.Messages != 0 {
		t.Errorf("%+v", r)
	}
}
